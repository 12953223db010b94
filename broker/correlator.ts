/**
 * Reply to waiting requestor (EIP: Correlation Identifier): one Map look-up. Waits end by shared deadline buckets, since a
 * timer object per waiting request doubles its memory.
 */
import { deadlineBuckets, type Clock } from './clock.js';
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

/** A wait, and how its `within` ends. */
interface Waiting extends Wait {
  end(): void;
}

export function openCorrelator(clock: Clock): Correlator {
  /** By requests that have a record: any number of requestors may wait for one. */
  const waits = new Map<string, Set<Waiting>>();
  const alones = new Map<string, Waiting>();
  const wakers = new Map<string, Set<() => void>>();
  const buckets = deadlineBuckets(clock);
  let gone = false;

  const waitFor = (requestId: string, alone: boolean, journal: boolean): Waiting => {
    let caught: Outcome | undefined;
    let awake: (() => void) | undefined;
    const wait: Waiting = {
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
      end: () => awake?.(),
      within(ms, signal) {
        if (caught !== undefined || ms <= 0 || gone || signal?.aborted) return Promise.resolve(caught);
        return new Promise((resolve) => {
          const end = () => {
            awake = undefined;
            leave();
            signal?.removeEventListener('abort', end);
            resolve(caught);
          };
          const leave = buckets.add(ms, end);
          awake = end;
          signal?.addEventListener('abort', end, { once: true });
        });
      },
      close() {
        if (alone) return void alones.delete(requestId);
        const among = waits.get(requestId);
        among?.delete(wait);
        if (among?.size === 0) waits.delete(requestId);
      },
    };
    return wait;
  };

  return {
    expect(requestId, alone, journal = true) {
      const wait = waitFor(requestId, alone, journal);
      if (alone) alones.set(requestId, wait);
      else waits.set(requestId, (waits.get(requestId) ?? new Set()).add(wait));
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
      for (const wait of [...alones.values(), ...[...waits.values()].flatMap((among) => [...among])]) wait.end();
    },
    get gone() {
      return gone;
    },
    get size() {
      return alones.size + waits.size;
    },
  };
}
