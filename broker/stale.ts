/**
 * What the journal was told, and the state knows nothing of: it was lost, or restored from an older copy, between the settling of an outcome and
 * its showing. Then the outcome is settled again; or, when there is another one by now, the journal hears that this one counts instead.
 */
import { pause, type Clock } from './clock.js';
import type { Journal } from './journal.js';
import type { Outcome, RequestRecord, Store } from './store.js';
import { PublishError } from './transport.js';

export interface Stale {
  /** Tells the journal of an outcome that is settled. Sees to it for as long as the hub lives, when nobody knows whether it was heard. */
  tell(requestId: string, outcome: Outcome, record: RequestRecord): Promise<void>;
  /** Tells it once more, since a later reply is in the journal before it; then looks whether it still counts. */
  retell(requestId: string, outcome: Outcome, record: RequestRecord): Promise<void>;
  /** Shows, by `show`, what the journal was told. Sees to it for as long as the hub lives, when that fails. */
  shown(requestId: string, outcome: Outcome, show: () => Promise<boolean>): Promise<boolean>;
  /**
   * The journal has this outcome, and the record may have none, or another one: it gets it, or the journal hears which one counts instead.
   * False: another one. Rejects, and sees to it for as long as the hub lives, when RabbitMQ or Redis is away.
   */
  seat(requestId: string, outcome: Outcome): Promise<boolean>;
  /** The journal is being told of an outcome of this request, or may have been, or may be yet: what is in it now need not come before that. */
  isTelling(requestId: string): boolean;
}

export interface StaleOptions {
  readonly store: Store;
  readonly journal: Journal;
  /** Names of the flows that leave the journal out. */
  readonly leftOut: ReadonlySet<string>;
  readonly clock: Clock;
  /** Aborts when the hub begins to stop. */
  readonly stopping: AbortSignal;
  /** Brings an outcome that is settled to its end. */
  readonly complete: (requestId: string, outcome: Outcome) => Promise<unknown>;
}

const againMs = 500;

export function openStale({ store, journal, leftOut, clock, stopping, complete }: StaleOptions): Stale {
  /** Requests whose outcome may or may not be in the journal. */
  const unsure = new Set<string>();
  /** Outcomes that the journal has not confirmed, by request. */
  const telling = new Map<string, number>();

  /** The journal has or may have an outcome of this kind, and another one counts. */
  async function correct(requestId: string, { kind }: Outcome): Promise<void> {
    const record = await store.get(requestId);
    if (record?.outcome !== undefined && !leftOut.has(record.flow)) await journal.outcome(requestId, record.outcome, record, kind);
  }

  async function makeSure(requestId: string, outcome: Outcome): Promise<void> {
    if (unsure.has(requestId)) return;
    unsure.add(requestId);
    for (let isSure = false; !isSure && !stopping.aborted;) {
      await pause(clock, againMs, stopping);
      try {
        const settled = await store.settle(requestId, outcome, false);
        if (settled === 'late') await correct(requestId, outcome);
        else await complete(requestId, outcome);
        isSure = true;
      } catch {
        // RabbitMQ or Redis is away, or was: again.
      }
    }
    unsure.delete(requestId);
  }

  const tell: Stale['tell'] = async (requestId, outcome, record) => {
    telling.set(requestId, (telling.get(requestId) ?? 0) + 1);
    try {
      await journal.outcome(requestId, outcome, record);
    } catch (error) {
      // As long as the record has it, whoever sweeps brings it to its end. But the state may be lost meanwhile.
      if (error instanceof PublishError && error.failure === 'unknown') void makeSure(requestId, outcome);
      throw error;
    } finally {
      const others = telling.get(requestId)! - 1;
      if (others === 0) telling.delete(requestId);
      else telling.set(requestId, others);
    }
  };

  /** When that fails the state may be lost, and be rebuilt from what the journal had before. */
  async function orMadeSure<T>(requestId: string, outcome: Outcome, doIt: () => Promise<T>): Promise<T> {
    try {
      return await doIt();
    } catch (error) {
      void makeSure(requestId, outcome);
      throw error;
    }
  }

  return {
    tell,
    isTelling: (requestId) => telling.has(requestId) || unsure.has(requestId),
    async retell(requestId, outcome, record) {
      await tell(requestId, outcome, record);
      await orMadeSure(requestId, outcome, async () => {
        if ((await store.settle(requestId, outcome, false)) === 'late') await correct(requestId, outcome);
      });
    },
    shown: orMadeSure,
    seat: (requestId, outcome) =>
      orMadeSure(requestId, outcome, async () => {
        for (;;) {
          const settled = await store.settle(requestId, outcome, false);
          if (settled === 'unknown') return true;
          if (settled === 'late') {
            await correct(requestId, outcome);
            return false;
          }
          // Or the state was lost once more.
          if (await store.show(requestId, outcome)) return true;
        }
      }),
  };
}
