/**
 * Reply to waiting requestor (EIP: Correlation Identifier): one Map look-up. Waits end by shared deadline buckets, since a
 * timer object per waiting request doubles its memory.
 */
import type { Clock } from './clock.js';
import type { Outcome } from './store.js';

export interface Wait {
  /** The outcome, or undefined when it has not come within `ms`, or when `signal` aborts, or when the hub lets go. May be called again. */
  within(ms: number, signal?: AbortSignal): Promise<Outcome | undefined>;
  /** What has come so far, also after `within` has given up. */
  readonly caught: Outcome | undefined;
  /** False when the request's flow leaves the journal out. */
  readonly journal: boolean;
  /** First outcome wins. */
  catch(outcome: Outcome): boolean;
  /** Stop waiting: what comes now is not for this requestor. Every wait must be closed. */
  close(): void;
}

export interface Correlator {
  /** From now on, outcomes of this request are caught. `alone`: there is no record, this hub's memory decides the outcome. */
  expect(requestId: string, alone: boolean, journal?: boolean): Wait;
  /** Hands an outcome to every requestor that waits here; tells whether there was one. */
  deliver(requestId: string, outcome: Outcome): boolean;
  /** The wait that alone decides the request's outcome, if there is one. */
  alone(requestId: string): Wait | undefined;
  /** A hint that something about the request changed: wakes waits so that they look again. */
  wake(requestId: string): void;
  onWake(requestId: string, listener: () => void): () => void;
  /** Every `within` under way and to come ends now (the hub stops). */
  letGo(): void;
  readonly gone: boolean;
  readonly size: number;
}

const bucketMs = 50;

/** Waits that end together: one timer for all that end within the same 50 ms. */
function deadlineBuckets(clock: Clock) {
  const buckets = new Map<number, { ends: Set<() => void>; cancel: () => void }>();
  return {
    add(ms: number, end: () => void): () => void {
      const at = Math.ceil((clock.now() + ms) / bucketMs) * bucketMs;
      let bucket = buckets.get(at);
      if (bucket === undefined) {
        const ends = new Set<() => void>();
        const cancel = clock.after(at - clock.now(), () => {
          buckets.delete(at);
          for (const each of ends) each();
        });
        buckets.set(at, (bucket = { ends, cancel }));
      }
      const { ends, cancel } = bucket;
      ends.add(end);
      return () => {
        ends.delete(end);
        if (ends.size > 0 || buckets.get(at)?.ends !== ends) return;
        buckets.delete(at);
        cancel();
      };
    },
  };
}

export function openCorrelator(clock: Clock): Correlator {
  const waits = new Map<string, Set<Wait>>();
  const alones = new Map<string, Wait>();
  const wakers = new Map<string, Set<() => void>>();
  const lettingGo = new Set<() => void>();
  const buckets = deadlineBuckets(clock);
  let gone = false;

  const waitFor = (requestId: string, alone: boolean, journal: boolean): Wait => {
    let caught: Outcome | undefined;
    let awake: (() => void) | undefined;
    const wait: Wait = {
      journal,
      get caught() {
        return caught;
      },
      catch(outcome) {
        if (caught !== undefined) return false;
        caught = outcome;
        awake?.();
        return true;
      },
      within(ms, signal) {
        if (caught !== undefined || ms <= 0 || gone || signal?.aborted) return Promise.resolve(caught);
        return new Promise((resolve) => {
          const end = () => {
            awake = undefined;
            leave();
            lettingGo.delete(end);
            signal?.removeEventListener('abort', end);
            resolve(caught);
          };
          const leave = buckets.add(ms, end);
          awake = end;
          lettingGo.add(end);
          signal?.addEventListener('abort', end, { once: true });
        });
      },
      close() {
        const among = waits.get(requestId);
        among?.delete(wait);
        if (among?.size === 0) waits.delete(requestId);
        if (alone) alones.delete(requestId);
      },
    };
    return wait;
  };

  return {
    expect(requestId, alone, journal = true) {
      const wait = waitFor(requestId, alone, journal);
      const among = waits.get(requestId);
      if (among === undefined) waits.set(requestId, new Set([wait]));
      else among.add(wait);
      if (alone) alones.set(requestId, wait);
      return wait;
    },
    deliver(requestId, outcome) {
      const among = waits.get(requestId);
      for (const wait of among ?? []) wait.catch(outcome);
      return among !== undefined;
    },
    alone: (requestId) => alones.get(requestId),
    wake(requestId) {
      for (const waker of wakers.get(requestId) ?? []) waker();
    },
    onWake(requestId, listener) {
      const among = wakers.get(requestId) ?? new Set();
      wakers.set(requestId, among.add(listener));
      return () => {
        among.delete(listener);
        if (among.size === 0) wakers.delete(requestId);
      };
    },
    letGo() {
      gone = true;
      for (const end of [...lettingGo]) end();
    },
    get gone() {
      return gone;
    },
    get size() {
      return waits.size;
    },
  };
}
