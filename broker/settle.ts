/**
 * The one way to an outcome: reply, fault, timeout and cancel all go through here. First wins, in the store's atomic
 * operation (or, for a request that has no record, in the memory of the hub that alone waits for it). Nobody sees an outcome before
 * the journal has it.
 */
import { mayBeAmended } from './amendable.js';
import { pause, type Clock } from './clock.js';
import type { Control } from './control.js';
import type { Correlator, Wait } from './correlator.js';
import type { Dossiers } from './dossiers.js';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import type { Forward } from './forward.js';
import type { Fault } from './fault.js';
import type { Journal } from './journal.js';
import { openStale, type Stale } from './stale.js';
import { isSameOutcome, type Outcome, type Settled, type Store } from './store.js';
import { faultMessage } from './wire.js';

export interface Settler extends Pick<Stale, 'seat'> {
  /**
   * `journalled`: the journal has this outcome already, since a moment ago, under the same confirm that brought it here. `isLeftOut`: it
   * says itself that its flow leaves the journal out; where it does not say, the wait or the record knows.
   */
  settle(requestId: string, outcome: Outcome, journalled: boolean, isLeftOut?: boolean): Promise<Settled>;
  /** Resolves when no outcome of a request without record is being written down here: it was caught by now. Takes as long as the journal is away. */
  idle(requestId: string): Promise<void>;
  /** Ends what a hub that died left half done: the outcome is journalled, shown, forwarded. */
  finish(requestId: string): Promise<void>;
}

export interface SettlerOptions {
  readonly store: Store;
  readonly journal: Journal;
  readonly correlator: Correlator;
  readonly control: Control;
  /** Absent: no step parks anything. */
  readonly dossiers: Dossiers | undefined;
  readonly forward: Forward;
  /** Names of the flows that leave the journal out. */
  readonly leftOut: ReadonlySet<string>;
  readonly clock: Clock;
  readonly emit: Emit;
  /** Aborts when the hub begins to stop. */
  readonly stopping: AbortSignal;
}

const writeAgainMs = 500;
const mostUnsettled = 10_000;

/** The outcome that a fault makes. */
export function outcomeOfFault(kind: Exclude<Outcome['kind'], 'reply'>, fault: Fault, at: number): Outcome {
  return { kind, ...faultMessage(fault), at };
}

/** Why what was still to be done for a request is not wanted any more. */
const endOf = {
  reply: 'the request was answered without it',
  fault: 'the request failed',
  timeout: 'the request ended at its deadline',
  cancelled: 'the request was cancelled',
} as const satisfies Record<Outcome['kind'], string>;

export function openSettler(options: SettlerOptions): Settler {
  const { store, journal, correlator, control, dossiers, forward, leftOut, clock, emit, stopping } = options;
  /** Requests without record whose outcome is being written to the journal. */
  const writing = new Map<string, Promise<unknown>>();
  const inOrder = ordered();
  const stale = openStale({ store, journal, leftOut, clock, stopping, complete: (id, outcome) => complete(id, outcome) });

  async function idle(requestId: string): Promise<void> {
    for (let other = writing.get(requestId); other !== undefined; other = writing.get(requestId)) await other;
  }

  async function settle(requestId: string, outcome: Outcome, journalled: boolean, isLeftOut = false): Promise<Settled> {
    // Not `await idle()`: between looking and beginning to write nobody else may come.
    for (let other = writing.get(requestId); other !== undefined; other = writing.get(requestId)) await other;
    const alone = correlator.alone(requestId);
    if (alone === undefined) return settleRecorded(requestId, outcome, journalled, isLeftOut);
    if (journalled || !alone.journal || alone.caught !== undefined) return settleAlone(alone, requestId, outcome);
    // One at a time: whoever has begun to write wins, so that the journal has one outcome.
    failpoint('settle.alone-before-journal');
    const written = writeDown(requestId, outcome)
      .then(
        // The hold may have ended meanwhile: then there is a record.
        () => (
          failpoint('settle.alone-after-journal'),
          correlator.alone(requestId) === alone ? settleAlone(alone, requestId, outcome) : settleRecorded(requestId, outcome, true)
        ),
      )
      .finally(() => writing.delete(requestId));
    writing.set(
      requestId,
      written.catch(() => undefined),
    );
    return written;
  }

  /** Until the journal has it, however long that takes (whoever waits for it has a limit): one that is not known to be there may be, and then no other may be there beside it. */
  async function writeDown(requestId: string, outcome: Outcome): Promise<void> {
    for (;;) {
      try {
        return await journal.outcome(requestId, outcome);
      } catch (error) {
        if (stopping.aborted) throw error;
        await pause(clock, writeAgainMs, stopping);
      }
    }
  }

  async function settleRecorded(requestId: string, outcome: Outcome, journalled: boolean, isLeftOut = false): Promise<Settled> {
    failpoint('settle.before-store');
    let settled = await inOrder(requestId, journalled, (overtakes) =>
      store.settle(requestId, outcome, (journalled && !overtakes && !stale.isTelling(requestId)) || isLeftOut),
    );
    failpoint('settle.after-store');
    if ((settled === 'won' || settled === 'same') && !(await complete(requestId, outcome))) settled = 'late';
    if (settled !== 'won' && !isLeftOut) await notCounted(requestId, outcome, settled);
    emit('request.settled', { requestId, kind: outcome.kind, settled });
    return settled;
  }

  /** No record: the waiting requestor on this hub is the only one who can ever know. */
  async function settleAlone(alone: Wait, requestId: string, outcome: Outcome): Promise<Settled> {
    const settled = alone.catch(outcome) ? 'won' : alone.caught !== undefined && isSameOutcome(alone.caught, outcome) ? 'same' : 'late';
    if (settled === 'late' && alone.journal) await late(requestId, outcome, settled);
    emit('request.settled', { requestId, kind: outcome.kind, settled });
    return settled;
  }

  /** The journal is told what did not count; and what did, since it has replies in the order in which they were sent, not settled. */
  async function notCounted(requestId: string, outcome: Outcome, settled: Settled): Promise<void> {
    const record = settled === 'unknown' ? undefined : await store.get(requestId);
    if (record !== undefined && leftOut.has(record.flow)) return;
    if (settled === 'same') return journal.note('duplicate', requestId, {}, { 'hub-outcome': outcome.kind }).catch(() => undefined);
    if (record?.outcome !== undefined) await stale.retell(requestId, record.outcome, record);
    failpoint('settle.before-late');
    await late(requestId, outcome, settled);
  }

  const late = (requestId: string, { kind }: Outcome, because: Settled) =>
    journal.note('late', requestId, {}, { 'hub-outcome': kind, 'hub-late-because': because });

  /** Journal, show, hand over, forward. Each may be done again. False: the state was lost meanwhile, and there is another outcome. */
  async function complete(requestId: string, outcome: Outcome): Promise<boolean> {
    const record = await store.get(requestId);
    if (record === undefined) return true;
    if (record.shown && record.outcome !== undefined && !isSameOutcome(record.outcome, outcome)) return false;
    if (!record.shown) {
      failpoint('settle.before-journal');
      if (!leftOut.has(record.flow)) await stale.tell(requestId, outcome, record);
      failpoint('settle.after-journal');
      const isShown = await stale.shown(requestId, outcome, async () => {
        // Nobody wants what was still to be done, unless late parts amend the reply.
        if (!mayBeAmended({ outcome }, clock.now())) await dossiers?.withdraw(requestId, endOf[outcome.kind]);
        return (await store.show(requestId, outcome)) || (await stale.seat(requestId, outcome));
      });
      if (!isShown) return false;
      failpoint('settle.after-show');
    }
    correlator.deliver(requestId, outcome);
    if (outcome.kind === 'cancelled' || outcome.kind === 'timeout') await control.drop(requestId);
    await forward.outcome(record, outcome);
    return true;
  }

  return {
    settle,
    seat: stale.seat,
    idle,
    async finish(requestId) {
      const record = await store.get(requestId);
      if (record?.outcome !== undefined) await complete(requestId, record.outcome);
    },
  };
}

/**
 * Tells whoever settles a reply whether it overtakes another one to the same request, which is being settled, or could not be and comes again: a
 * rebuild would find that one first.
 */
function ordered() {
  const settling = new Set<string>();
  const unsettled = new Set<string>();
  return async (requestId: string, isReply: boolean, settle: (overtakes: boolean) => Promise<Settled>): Promise<Settled> => {
    const isAlone = !settling.has(requestId);
    settling.add(requestId);
    try {
      const settled = await settle(!isAlone || unsettled.has(requestId));
      unsettled.delete(requestId);
      return settled;
    } catch (error) {
      if (isReply) unsettled.add(requestId);
      // One that waits too long comes to another hub: this one hears no more of it, and need not remember it for ever.
      if (unsettled.size > mostUnsettled) unsettled.delete(unsettled.values().next().value!);
      throw error;
    } finally {
      if (isAlone) settling.delete(requestId);
    }
  };
}
