/**
 * Loaded into a hub or worker of a bench before its own code (`--import`): tells its parent over IPC how late its event loop
 * was since it was asked last, and what memory it has.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';

export interface Probed {
  readonly loopP50Ms: number;
  readonly loopP99Ms: number;
  readonly loopMaxMs: number;
  /** Share of the time that the event loop was busy. */
  readonly utilization: number;
  /** Processor time since its start. */
  readonly cpuMs: number;
  readonly rss: number;
  readonly heapUsed: number;
}

/** `collect`: after a garbage collection. */
export interface Probe {
  readonly probe: 'read' | 'collect';
}

const resolutionMs = 1;
const delay = monitorEventLoopDelay({ resolution: resolutionMs });
delay.enable();
let before = performance.eventLoopUtilization();

/** How much later than its timer was due. */
const late = (nanoseconds: number): number => Math.max(0, nanoseconds / 1e6 - resolutionMs);

process.on('message', ({ probe }: Partial<Probe>) => {
  if (probe === undefined) return;
  const said: Probed = {
    loopP50Ms: late(delay.percentile(50)),
    loopP99Ms: late(delay.percentile(99)),
    loopMaxMs: late(delay.max),
    utilization: performance.eventLoopUtilization(before).utilization,
    cpuMs: (process.cpuUsage().user + process.cpuUsage().system) / 1e3,
    ...(probe === 'collect' ? collected() : process.memoryUsage()),
  };
  process.send?.({ probed: said });
  // What the question itself took is nobody's delay.
  setImmediate(() => {
    delay.reset();
    before = performance.eventLoopUtilization();
  });
});
// A listener alone would keep the process.
process.channel?.unref();

function collected(): NodeJS.MemoryUsage {
  globalThis.gc?.();
  globalThis.gc?.();
  return process.memoryUsage();
}
