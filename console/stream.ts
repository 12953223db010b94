/**
 * What the hub tells by itself, over one event stream per browser: a shared worker has the stream and tells all tabs (with
 * HTTP/1.1 a browser has six connections to a hub; the seventh tab would hang). A browser without shared workers has one per tab.
 */
import type { Counts, Summary } from './contract.js';

export type News =
  | { readonly is: 'task'; readonly task: Summary }
  | { readonly is: 'gone'; readonly id: string; readonly why: string }
  | { readonly is: 'counts'; readonly counts: Counts }
  | { readonly is: 'resync' }
  /** `down`: it is being tried again. */
  | { readonly is: 'up' | 'down' };

/** Between the worker and the tabs. */
export const channelName = 'answerback.tasks';
/** What a tab says to the worker: tell me how the stream is; open it anew (somebody else is signed in); close it (nobody is). */
export type Wish = 'hello' | 'anew' | 'close';

export interface Stream {
  wish(wish: Wish): void;
}

/** Reads the stream for as long as the page or worker lives. A refused stream is tried again, later each time. */
export function readStream(tell: (news: News) => void): Stream {
  let source: EventSource | undefined;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let waitMs = 1_000;
  let state: 'up' | 'down' = 'down';
  const become = (is: 'up' | 'down') => {
    state = is;
    tell({ is });
  };

  const open = () => {
    clearTimeout(retry);
    source?.close();
    const next = new EventSource('/tasks/events');
    source = next;
    next.onopen = () => {
      waitMs = 1_000;
      // What happened while nobody listened is not told. Who sees that we are up sees that it is looked for.
      tell({ is: 'resync' });
      become('up');
    };
    next.onerror = () => {
      become('down');
      if (next.readyState !== EventSource.CLOSED) return;
      retry = setTimeout(open, waitMs);
      waitMs = Math.min(30_000, waitMs * 2);
    };
    const on = (name: string, read: (data: never) => News) =>
      next.addEventListener(name, ({ data }: MessageEvent<string>) => tell(read(JSON.parse(data) as never)));
    on('task', (task: Summary) => ({ is: 'task', task }));
    on('gone', ({ id, why }: { id: string; why: string }) => ({ is: 'gone', id, why }));
    on('counts', (counts: Counts) => ({ is: 'counts', counts }));
    next.addEventListener('resync', () => tell({ is: 'resync' }));
  };
  const close = () => {
    clearTimeout(retry);
    source?.close();
    source = undefined;
    become('down');
  };
  open();
  return {
    wish(wish) {
      waitMs = 1_000;
      if (wish === 'close') close();
      else if (wish === 'anew' || source === undefined) open();
      else tell({ is: state });
    },
  };
}
