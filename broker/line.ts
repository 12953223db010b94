/**
 * Who waits on the line for a request that a person may have to decide on: any hub knows, so that the person sees that somebody waits right
 * now. A hint; nothing rests on it.
 */
import type { Clock } from './clock.js';
import type { Flow } from './flow.js';
import type { Step } from './step.js';
import type { Store } from './store.js';

export interface Line {
  /** Somebody waits for this long (ms), for a request of this flow. Call what it returns when they no longer do. */
  hold(flow: string, requestId: string, ms: number): () => void;
  /** Until when somebody waits, ms since 1970. */
  heldUntil(requestId: string): Promise<number | undefined>;
}

export function openLine({
  store,
  clock,
  flows,
  steps,
}: {
  readonly store: Pick<Store, 'park' | 'parked'>;
  readonly clock: Clock;
  readonly flows: readonly Flow[];
  readonly steps: ReadonlyMap<string, Step>;
}): Line {
  const withTasks = new Set(flows.filter((flow) => flow.steps.some((name) => steps.get(name)?.kind === 'task')).map(({ name }) => name));
  const nameOf = (requestId: string) => `line:${requestId}`;
  const note = (requestId: string, until: string, ms: number) =>
    void store.park(nameOf(requestId), Buffer.from(until), Math.max(1, ms)).catch(() => undefined);
  return {
    hold(flow, requestId, ms) {
      if (ms <= 0 || !withTasks.has(flow)) return () => undefined;
      const until = clock.now() + ms;
      note(requestId, String(until), ms);
      return () => {
        if (clock.now() < until) note(requestId, '', 1);
      };
    },
    async heldUntil(requestId) {
      const until = Number((await store.parked(nameOf(requestId)))?.toString() || NaN);
      return until > clock.now() ? until : undefined;
    },
  };
}
