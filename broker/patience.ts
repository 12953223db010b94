/** A store that is away or is rebuilt, a broker that takes no note: what needs them waits, and costs nobody an attempt. */
import { pause, type Clock } from './clock.js';
import type { Emit } from './emit.js';
import { StoreError } from './store.js';
import { PublishError } from './transport.js';

/** How soon a store that was away is asked again. */
const againMs = 500;

/** Runs something until store and broker are there, or `stopping` aborts (then it rejects). What it runs may run twice. */
export type Patiently = <T>(run: () => Promise<T>) => Promise<T>;

export function patience({ clock, emit }: { readonly clock: Clock; readonly emit: Emit }, stopping: AbortSignal): Patiently {
  return function patiently<T>(run: () => Promise<T>): Promise<T> {
    return run().catch(async (error: unknown) => {
      if (!(error instanceof StoreError || error instanceof PublishError) || stopping.aborted) throw error;
      emit('step.waits', { why: error.message });
      await pause(clock, againMs, stopping);
      return patiently(run);
    });
  };
}
