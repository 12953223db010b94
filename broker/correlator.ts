/**
 * Reply to waiting requestor (EIP: Correlation Identifier): one look-up by id. Waits end by shared deadline buckets, since a
 * timer object per waiting request doubles its memory.
 */
import { deadlineBuckets, type Clock, type DeadlineBuckets, type Due } from './clock.js';
import type { Outcome } from './store.js';
import { IdTable, type Entry } from './under-way.js';

/** What whoever waits wants of an AbortSignal. Where there is one for each request, something cheaper will do: a signal costs as much as a publish. */
export interface Hangup {
  readonly aborted: boolean;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export interface Wait {
  /** The outcome, or undefined when it has not come within `ms`, or when `signal` aborts, or when the hub lets go. May be called again. */
  within(ms: number, signal?: Hangup): Promise<Outcome | undefined>;
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

/** What all waits of a correlator share. */
interface Among {
  /** Of requests that have a record: any number of requestors may wait for one. */
  readonly waits: IdTable<Waiting>;
  /** Of requests that have none. */
  readonly alones: IdTable<Waiting>;
  readonly buckets: DeadlineBuckets;
  gone: boolean;
}

/** A class, since there may be as many as there are held connections: with closures each took three times the memory. */
class Waiting implements Wait, Entry {
  readonly id: string;
  beside: this | undefined = undefined;
  caught: Outcome | undefined = undefined;
  readonly journal: boolean;
  readonly #alone: boolean;
  readonly #among: Among;
  #resolve: ((outcome: Outcome | undefined) => void) | undefined = undefined;
  #due: Due | undefined = undefined;
  #unlisten: (() => void) | undefined = undefined;

  constructor(requestId: string, alone: boolean, journal: boolean, among: Among) {
    this.id = requestId;
    this.#alone = alone;
    this.journal = journal;
    this.#among = among;
  }

  catch(outcome: Outcome): boolean {
    if (this.caught !== undefined) return false;
    this.caught = outcome;
    this.end();
    return true;
  }

  within(ms: number, signal?: Hangup): Promise<Outcome | undefined> {
    if (this.caught !== undefined || ms <= 0 || this.#among.gone || signal?.aborted) return Promise.resolve(this.caught);
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.#due = this.#among.buckets.add(ms, this);
      if (signal === undefined) return;
      const end = () => this.end();
      signal.addEventListener('abort', end, { once: true });
      this.#unlisten = () => signal.removeEventListener('abort', end);
    });
  }

  /** Ends the `within` under way. */
  end(): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    this.#resolve = undefined;
    if (this.#due !== undefined) this.#among.buckets.remove(this.#due);
    this.#due = undefined;
    this.#unlisten?.();
    this.#unlisten = undefined;
    resolve(this.caught);
  }

  close(): void {
    const { alones, waits } = this.#among;
    (this.#alone ? alones : waits).remove(this);
  }
}

interface Waker extends Entry {
  listener(): void;
}

export function openCorrelator(clock: Clock): Correlator {
  const among: Among = { waits: new IdTable(), alones: new IdTable(), buckets: deadlineBuckets(clock), gone: false };
  const { waits, alones } = among;
  const wakers = new IdTable<Waker>();

  return {
    expect(requestId, alone, journal = true) {
      const wait = new Waiting(requestId, alone, journal, among);
      (alone ? alones : waits).add(wait);
      return wait;
    },
    deliver(requestId, outcome) {
      const all = waits.allOf(requestId);
      for (const wait of all) wait.catch(outcome);
      return all.length > 0;
    },
    alone: (requestId) => alones.get(requestId),
    wake(requestId) {
      for (const { listener } of wakers.allOf(requestId)) listener();
    },
    onWake(requestId, listener) {
      const waker: Waker = { id: requestId, listener, beside: undefined };
      wakers.add(waker);
      return () => wakers.remove(waker);
    },
    letGo() {
      among.gone = true;
      for (const wait of [...alones.all(), ...waits.all()]) wait.end();
    },
    get gone() {
      return among.gone;
    },
    get size() {
      return alones.size + waits.size;
    },
  };
}
