/** The event stream as a tab sees it. */
import { useEffect, useSyncExternalStore } from 'react';
import { channelName, readStream, type News, type Wish } from './stream.js';

const listeners = new Set<(news: News) => void>();
let ask: ((wish: Wish) => void) | undefined;
/** Whether the stream is open, and since when it is as it is (ms). */
interface Known {
  readonly state: 'up' | 'down';
  readonly since: number;
}
let known: Known = { state: 'down', since: Date.now() };

const hear = (news: News): void => {
  if ((news.is === 'up' || news.is === 'down') && news.is !== known.state) known = { state: news.is, since: Date.now() };
  for (const listener of listeners) listener(news);
};

function begin(): (wish: Wish) => void {
  if (typeof SharedWorker === 'undefined') {
    const stream = readStream(hear);
    return (wish) => stream.wish(wish);
  }
  const channel = new BroadcastChannel(channelName);
  channel.addEventListener('message', ({ data }: MessageEvent<News | Wish>) => {
    if (typeof data !== 'string') hear(data);
  });
  new SharedWorker(new URL('./stream-worker.ts', import.meta.url), { type: 'module', name: channelName });
  return (wish) => channel.postMessage(wish);
}

/** Listens for the user who is signed in: from now on, or anew because it is another one. */
export function listen(wish: 'hello' | 'anew' = 'hello'): void {
  ask ??= begin();
  ask(wish);
}

/** Nobody is signed in: the stream is closed, in every tab. */
export function stopListening(): void {
  ask?.('close');
}

/** Calls `on` for everything the hub tells; give it a stable function. */
export function useNews(on: (news: News) => void): void {
  useEffect(() => {
    listeners.add(on);
    return () => void listeners.delete(on);
  }, [on]);
}

const watch = (tell: () => void): (() => void) => {
  listeners.add(tell);
  return () => void listeners.delete(tell);
};

export const useStream = (): Known => useSyncExternalStore(watch, () => known);
