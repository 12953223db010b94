/**
 * What happens to a request, told to all who watch it at this hub (EIP: Publish-Subscribe Channel). However many they are, what is new is read
 * once for all who have seen the same so far: a thousand watchers cost the store as much as the requests that they watch.
 */
import { mayBeAmended } from './amendable.js';
import type { Clock } from './clock.js';
import type { Correlator } from './correlator.js';
import type { RequestEvent, Store } from './store.js';
import { lookAgainMs } from './waiting.js';

export interface News {
  /**
   * Calls `listener` for each event after `sequence`, in order, each when the one before has been taken; a slow one delays nobody else.
   * Resolves after the outcome (with `toTheLast`: when no further version of it can come), when the request is gone, or when `signal` aborts;
   * rejects with what the store rejects with.
   */
  follow(
    id: string,
    sequence: number,
    listener: (event: RequestEvent) => unknown,
    signal: AbortSignal,
    toTheLast?: 'toTheLast',
  ): Promise<void>;
}

/** One look: `ended`, when the outcome is among what was seen; `over`, when no further version of it is to follow. */
interface Found {
  readonly ended: boolean;
  readonly over: boolean;
  readonly events: readonly RequestEvent[];
}

/** Those who watch one request. */
interface Feed {
  watchers: number;
  /** How often it may have changed since somebody watches. */
  turn: number;
  /** The looks of this turn, by what their askers had seen. */
  readonly looks: Map<number, Promise<Found>>;
  /** They wait for the next turn. */
  readonly waiting: Set<() => void>;
  /** Ends what tells of turns. */
  close(): void;
}

export interface NewsOptions {
  readonly store: Pick<Store, 'get' | 'events'>;
  readonly correlator: Pick<Correlator, 'onWake' | 'gone'>;
  readonly clock: Clock;
}

export function openNews({ store, correlator, clock }: NewsOptions): News {
  const feeds = new Map<string, Feed>();

  function enter(id: string): Feed {
    const known = feeds.get(id);
    if (known !== undefined) return (known.watchers++, known);
    let cancel: () => void = () => undefined;
    const next = () => {
      feed.turn++;
      feed.looks.clear();
      for (const resolve of feed.waiting) resolve();
      feed.waiting.clear();
      cancel();
      cancel = clock.after(lookAgainMs, next);
    };
    const unlisten = correlator.onWake(id, next);
    const feed: Feed = {
      watchers: 1,
      turn: 0,
      looks: new Map(),
      waiting: new Set(),
      close() {
        unlisten();
        cancel();
      },
    };
    cancel = clock.after(lookAgainMs, next);
    feeds.set(id, feed);
    return feed;
  }

  function leave(id: string, feed: Feed): void {
    if (--feed.watchers > 0) return;
    feeds.delete(id);
    feed.close();
  }

  /** The record first: what it does not show yet is among the events at the next look. */
  async function look(id: string, seen: number): Promise<Found> {
    const record = await store.get(id);
    const ended = record?.shown !== false;
    const over = ended && (record === undefined || !mayBeAmended(record, clock.now()));
    const events = await store.events(id, seen);
    return { ended: ended || events.some(({ name }) => name === 'outcome'), over, events };
  }

  return {
    async follow(id, sequence, listener, signal, toTheLast) {
      const feed = enter(id);
      let wake: () => void = () => undefined;
      const hangUp = () => wake();
      signal.addEventListener('abort', hangUp);
      try {
        for (let seen = sequence; !signal.aborted && !correlator.gone;) {
          const { turn } = feed;
          const found = feed.looks.get(seen) ?? look(id, seen);
          feed.looks.set(seen, found);
          const { ended, over, events } = await found;
          for (const event of events) await listener(event);
          seen = events.at(-1)?.sequence ?? seen;
          if (toTheLast === undefined ? ended : over) return;
          if (feed.turn === turn && !signal.aborted)
            await new Promise<void>((resolve) => {
              wake = () => (feed.waiting.delete(resolve), resolve());
              feed.waiting.add(resolve);
            });
        }
      } finally {
        signal.removeEventListener('abort', hangUp);
        leave(id, feed);
      }
    },
  };
}
