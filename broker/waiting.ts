/**
 * Waiting for the outcome of a request that has a record: it may be settled by any hub. Subscribe, then read the record; a
 * wake-up is a hint, the record is the truth.
 */
import { amendableUntil } from './amendable.js';
import { theRequestor } from './ask.js';
import { pause, type Clock } from './clock.js';
import type { Correlator, Hangup, Wait } from './correlator.js';
import { Fault, isFault } from './fault.js';
import type { Answer, Status } from './gateway.js';
import { StoreError, type Outcome, type RequestRecord, type Store } from './store.js';
import { PublishError } from './transport.js';

/** How often a record is read again though nobody said that it changed. */
export const lookAgainMs = 2_000;

export interface Waiting {
  /** The outcome, when it comes within `ms`; sooner without one, when the requestor is asked something. `look` sees the record each time it is read without one. */
  recordedWithin(
    id: string,
    wait: Wait,
    ms: number,
    signal?: Hangup,
    look?: (record: RequestRecord) => Promise<void>,
  ): Promise<Outcome | undefined>;
  /** "Accepted, answer later", or the outcome if it has come after all. `known`: what to say when the store is away, as of then, if anything. */
  accepted(id: string, heldMs: number, replayed: boolean, known?: () => RequestRecord | undefined): Promise<Answer>;
}

export function openWaiting({
  store,
  correlator,
  clock,
}: {
  readonly store: Store;
  readonly correlator: Correlator;
  readonly clock: Clock;
}): Waiting {
  /** Waits for the outcome of a recorded request, wherever it is settled: by the reply here, by a wake-up, by looking again. */
  async function recordedWithin(
    id: string,
    wait: Wait,
    ms: number,
    signal?: Hangup,
    look?: (record: RequestRecord) => Promise<void>,
  ): Promise<Outcome | undefined> {
    // It hung up, or it is its turn.
    const ending = new AbortController();
    const over = ending.signal;
    const end = () => ending.abort();
    if (signal?.aborted === true) end();
    signal?.addEventListener('abort', end);
    const read = async () => {
      const record = await store.get(id);
      if (record?.waitingOn === theRequestor) end();
      if (record?.shown === true && record.outcome !== undefined) wait.catch(record.outcome);
      else if (record !== undefined) await look?.(record);
    };
    const hint = () => void read().catch(() => undefined);
    const unlisten = correlator.onWake(id, hint); // subscribe, then read
    try {
      if (look !== undefined) await reachable(read());
      for (const until = clock.now() + ms; ; hint()) {
        const outcome = await wait.within(Math.min(lookAgainMs, until - clock.now()), over);
        if (outcome !== undefined || clock.now() >= until || over.aborted || correlator.gone) return outcome;
      }
    } finally {
      unlisten();
      signal?.removeEventListener('abort', end);
    }
  }

  async function accepted(id: string, heldMs: number, replayed: boolean, known?: () => RequestRecord | undefined): Promise<Answer> {
    const record = await reachable(
      known === undefined ? store.get(id) : store.get(id).catch((error: unknown) => knownUnlessLost(id, known(), error)),
    );
    if (record?.shown === true && record.outcome !== undefined) return { kind: 'outcome', id, outcome: record.outcome, heldMs, replayed };
    if (record === undefined)
      throw new Fault('unavailable', `request ${id} is no longer known here`, { reason: 'unknown', retryAfterMs: 1_000 });
    return { kind: 'accepted', id, status: statusOf(record), heldMs, replayed };
  }

  return { recordedWithin, accepted };
}

/**
 * Looks at what is named so until `look` says that there is no more to see or `signal` aborts, or this hub lets go: each time somebody says that
 * it changed, and every `lookAgainMs`.
 */
export async function watchUntil(
  name: string,
  look: () => Promise<boolean>,
  { correlator, clock, signal }: { readonly correlator: Correlator; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<void> {
  let awake: () => void = () => undefined;
  let changed: boolean;
  const unlisten = correlator.onWake(name, () => ((changed = true), awake()));
  try {
    while (!signal.aborted && !correlator.gone) {
      changed = false;
      if (await look()) return;
      const nap = new AbortController();
      awake = () => nap.abort();
      if (!changed) await pause(clock, lookAgainMs, AbortSignal.any([signal, nap.signal]));
    }
  } finally {
    unlisten();
  }
}

/** Broker or store away is the requestor's business only as `unavailable`. Faults pass. */
export async function reachable<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (cause) {
    if (isFault(cause)) throw cause;
    if (cause instanceof StoreError && cause.reason === 'incomplete') throw rebuilding(cause);
    if (cause instanceof PublishError) throw unwritten(cause);
    throw new Fault('unavailable', 'Redis, where the state of requests is kept, is away', { cause, reason: 'store', retryAfterMs: 2_000 });
  }
}

/** There is an outcome, and nobody may be told of it yet. */
export const unwritten = (cause?: unknown): Fault =>
  new Fault('unavailable', 'RabbitMQ, where the outcome must be written down first, is away', {
    cause,
    reason: 'unknown',
    retryAfterMs: 2_000,
  });

/** A store that is away has the record still. One that was lost may not have it again at once: no promise yet. */
function knownUnlessLost(id: string, known: RequestRecord | undefined, error: unknown): RequestRecord {
  if (known !== undefined && !(error instanceof StoreError && error.reason === 'incomplete')) return known;
  throw new Fault(
    'unavailable',
    `request ${id} is under way, but the state of requests is being rebuilt: send it again with the same Idempotency-Key`,
    { cause: error, reason: 'unknown', requestId: id, retryAfterMs: 2_000 },
  );
}

/** What everybody hears while the state is rebuilt. */
export const rebuilding = (cause?: unknown): Fault =>
  new Fault('unavailable', 'the state of requests was lost in Redis and is being rebuilt from the journal: nothing is lost, ask again', {
    cause,
    reason: 'rebuilding',
    retryAfterMs: 2_000,
  });

/** What the requestor may know. An outcome that the journal does not have yet is not shown. */
export function statusOf(record: RequestRecord): Status {
  const {
    id,
    flow,
    state,
    key,
    conversation,
    step,
    attempt,
    waitingOn,
    progress,
    forward,
    acceptedAt,
    updatedAt,
    deadline,
    outcome,
    amended,
    shown,
  } = record;
  const callback = forward?.callback;
  const optional = {
    key,
    conversation,
    step,
    attempt,
    waitingOn,
    progress,
    callback,
    endedAt: shown ? outcome?.at : undefined,
    ...(shown && outcome?.amendable !== undefined ? { version: amended?.version ?? 1, amendableUntil: amendableUntil(record) } : {}),
  };
  return {
    id,
    flow,
    state,
    acceptedAt,
    updatedAt,
    deadline,
    ...(Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)) as Partial<Status>),
  };
}
