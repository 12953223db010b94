/**
 * Looks after what nobody else will do: a state that was lost, deadlines that pass, groups whose time has come, outcomes that a hub
 * settled and died before showing, dossiers whose time has come, requests that are pending for so long that the journal must be told of
 * them again. One hub at a time, under a lease; everything it does may be done twice.
 */
import { endsBy, pause, type Clock } from './clock.js';
import type { Dossiers } from './dossiers.js';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import { Fault, messageOf } from './fault.js';
import type { Journal } from './journal.js';
import type { Rebuild } from './rebuild.js';
import { outcomeOfFault, type Settler } from './settle.js';
import type { Store } from './store.js';
import type { Transport } from './transport.js';
import { recordHeader } from './wire.js';

const everyMs = 500;
/** Sooner when a group's time comes sooner, but no sooner than this. */
const soonestMs = 50;
const leaseMs = 3_000;
const owedMs = 4_000;
const atOnce = 200;
const carryEveryMs = 3_600_000;
/** A rebuild reads a day of the journal (`rebuild.ts`). */
const carryAfterMs = 20 * 3_600_000;

export interface Sweeper {
  /** Resolves after the first round that leaves the state complete, as far as is known: it, or another hub's, may have to rebuild it. */
  readonly complete: Promise<void>;
  close(): Promise<void>;
}

export function startSweeper({
  transport,
  store,
  settler,
  dossiers,
  journal,
  leftOut,
  rebuild,
  clock,
  emit,
  hub,
}: {
  readonly transport: Transport;
  readonly store: Store;
  readonly settler: Settler;
  /** Absent: nothing is ever parked. */
  readonly dossiers: Dossiers | undefined;
  readonly journal: Journal;
  /** Names of the flows that leave the journal out. */
  readonly leftOut: ReadonlySet<string>;
  readonly rebuild: Rebuild;
  readonly clock: Clock;
  readonly emit: Emit;
  readonly hub: string;
}): Sweeper {
  const stopping = new AbortController();
  let carriedAt = -Infinity;
  let nextBellMs = everyMs;

  const tell = (error: unknown) => void (stopping.signal.aborted || emit('sweeper.failed', { error: messageOf(error) }));

  /** None waits for another: what RabbitMQ does not confirm must not make a deadline late. */
  const underWay = new Map<() => Promise<void>, Promise<void>>();
  const start = (duty: () => Promise<void>) => {
    const running =
      underWay.get(duty) ??
      duty()
        .catch(tell)
        .finally(() => underWay.delete(duty));
    underWay.set(duty, running);
    return running;
  };
  const duties = [timeOut, ring, finish, lookAfter, carryForward];

  /** Resolves with how long the next round may wait (ms). */
  async function sweep(): Promise<number> {
    await rebuild.check(stopping.signal);
    if (!rebuild.isComplete() || !(await store.lease('sweeper', hub, leaseMs))) return everyMs;
    await store.mark();
    nextBellMs = everyMs;
    const areOver = await endsBy(clock, clock.now() + everyMs, Promise.all(duties.map(start)));
    return areOver ? Math.min(everyMs, Math.max(soonestMs, nextBellMs)) : soonestMs;
  }

  /** Ends the requests whose deadline has passed. */
  async function timeOut(): Promise<void> {
    const fault = new Fault('timeout', 'no answer before the deadline');
    for (let due = await store.due(atOnce); due.length > 0 && !stopping.signal.aborted;) {
      const at = await store.time();
      failpoint('sweep.before-timeout');
      await ended(due.map((id) => settler.settle(id, outcomeOfFault('timeout', fault, at), false)));
      failpoint('sweep.after-timeout');
      due = due.length < atOnce ? [] : await store.due(atOnce);
    }
  }

  /** Shows the outcomes that a hub settled and has not shown for a while. */
  async function finish(): Promise<void> {
    await ended(
      (await store.owed(owedMs, atOnce)).map(async (id) => {
        failpoint('sweep.before-finish');
        await settler.finish(id);
        failpoint('sweep.after-finish');
      }),
    );
  }

  async function lookAfter(): Promise<void> {
    await dossiers?.lookAfter(stopping.signal);
  }

  /** Has the groups whose time has come looked at by their aggregators, and notes when the next one's comes (ms from now). */
  async function ring(): Promise<void> {
    for (;;) {
      const { due, nextMs = everyMs } = await store.bells(atOnce);
      if (due.length === 0 || stopping.signal.aborted) return void (nextBellMs = nextMs);
      failpoint('sweep.before-ring');
      const rung: string[] = [];
      const rings = ended(
        due.map(async ([id, { to, properties }]) => {
          await transport.publish(to, { ...properties, body: Buffer.alloc(0) });
          rung.push(id);
        }),
      );
      await rings.catch(() => undefined);
      failpoint('sweep.after-ring');
      await store.rung(rung);
      // Those that failed are tried again in the next round.
      await rings;
    }
  }

  /** Writes what is pending for long to the journal again, so that a rebuild needs to read no further back. */
  async function carryForward(): Promise<void> {
    if (clock.now() - carriedAt < carryEveryMs) return;
    for (let cursor = '0'; cursor !== '' && !stopping.signal.aborted;) {
      const page = await store.uncarried(carryAfterMs, cursor, atOnce);
      await Promise.all(page.ids.map(carry));
      cursor = page.cursor;
    }
    carriedAt = clock.now();
  }

  async function carry(id: string): Promise<void> {
    const record = await store.get(id);
    if (record === undefined || record.outcome !== undefined) return;
    const at = clock.now();
    if (!leftOut.has(record.flow)) await journal.note('carried', id, {}, recordHeader({ ...record, carriedAt: at }));
    await store.carried(id, at);
  }

  const round = () =>
    // The store or the broker is away: the next round finds the same work.
    sweep().catch((error: unknown) => (tell(error), everyMs));
  let completed: () => void = () => undefined;
  const complete = new Promise<void>((resolve) => (completed = resolve));
  const over = (async () => {
    while (!stopping.signal.aborted) {
      const nextMs = await round();
      if (rebuild.isComplete()) completed();
      await pause(clock, nextMs, stopping.signal, 'round');
    }
    await Promise.all(underWay.values());
  })();
  return {
    complete,
    close() {
      stopping.abort();
      return over;
    },
  };
}

/** Resolves, or rejects with the first failure, when all have ended: none goes on beside the round that follows. */
async function ended(all: readonly Promise<unknown>[]): Promise<void> {
  for (const one of await Promise.allSettled(all)) if (one.status === 'rejected') throw one.reason;
}
