/** The load: a closed loop of so many requestors, each of which asks again as soon as it has its answer. */
import { setTimeout as sleep } from 'node:timers/promises';
import { percentile } from './statistics.js';

export interface LoadSettings {
  readonly outstanding: number;
  /** Size of each body. */
  readonly bytes: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** It goes on, for five times as long at most, until it has so many answers. Default: one for each requestor. */
  readonly atLeast?: number;
  /** Which of the end's flows, or at which address, where it knows several. */
  readonly to?: string;
}

export interface LoadResult {
  /** Answered within the measured time. */
  readonly requests: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Answered in all, warm-up and end included: what the processor time is divided by. */
  readonly all: number;
}

/** How many times longer a measurement may take when too little comes. */
const patience = 5;

/** Rejects with the first request that is not answered as it should be. */
export async function closedLoop(
  request: (body: Buffer) => Promise<unknown>,
  { outstanding, bytes, warmUpMs, measureMs, atLeast = outstanding }: LoadSettings,
): Promise<LoadResult> {
  const body = Buffer.alloc(bytes, 'x');
  const tookMs: number[] = [];
  let running = true;
  let measuring = false;
  let all = 0;
  const requestor = async () => {
    while (running) {
      const began = performance.now();
      await request(body);
      all++;
      if (measuring) tookMs.push(performance.now() - began);
    }
  };
  const ended = Promise.all(Array.from({ length: outstanding }, requestor));
  const timed = async () => {
    await sleep(warmUpMs);
    measuring = true;
    const began = performance.now();
    const ms = () => performance.now() - began;
    await sleep(measureMs);
    // On a machine that does something else just now: fewer answers than requestors would say nothing.
    while (tookMs.length < atLeast && ms() < patience * measureMs) await sleep(measureMs / 4);
    measuring = false;
    return ms();
  };
  const ms = await Promise.race([timed(), ended.then(() => NaN)]);
  running = false;
  await ended;
  const sorted = Float64Array.from(tookMs).sort();
  return {
    requests: sorted.length,
    perSecond: (sorted.length / ms) * 1_000,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    all,
  };
}
