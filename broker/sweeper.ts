/**
 * Looks after what nobody else will do: deadlines that pass, outcomes that a hub settled and died before showing. One hub
 * at a time, under a lease; everything it does may be done twice.
 */
import { pause, type Clock } from './clock.js';
import type { Emit } from './emit.js';
import { Fault, messageOf } from './fault.js';
import { outcomeOfFault, type Settler } from './settle.js';
import type { Store } from './store.js';

const everyMs = 500;
const leaseMs = 3_000;
const owedMs = 10_000;
const atOnce = 200;

export function startSweeper({
  store,
  settler,
  clock,
  emit,
  hub,
}: {
  readonly store: Store;
  readonly settler: Settler;
  readonly clock: Clock;
  readonly emit: Emit;
  readonly hub: string;
}): { close(): Promise<void> } {
  const stopping = new AbortController();

  async function sweep(): Promise<void> {
    if (!(await store.lease('sweeper', hub, leaseMs))) return;
    for (
      let due = await store.due(atOnce);
      due.length > 0 && !stopping.signal.aborted;
      due = due.length < atOnce ? [] : await store.due(atOnce)
    ) {
      const fault = new Fault('timeout', 'no answer before the deadline');
      const at = await store.time();
      await Promise.all(due.map((id) => settler.settle(id, outcomeOfFault('timeout', fault, at), false)));
    }
    for (const id of await store.owed(owedMs, atOnce)) await settler.finish(id);
  }

  const ended = (async () => {
    while (!stopping.signal.aborted) {
      // The store or the broker is away: the next round finds the same work.
      await sweep().catch((error: unknown) => emit('sweeper.failed', { error: messageOf(error) }));
      await pause(clock, everyMs, stopping.signal);
    }
  })();
  return {
    close() {
      stopping.abort();
      return ended;
    },
  };
}
