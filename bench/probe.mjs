// Loaded into a hub or worker of a bench before its own code (`--import`): tells its parent over IPC how late its event loop
// was since it was asked last, and what memory it has.
import { monitorEventLoopDelay } from 'node:perf_hooks';

const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
let before = performance.eventLoopUtilization();

process.on('message', (/** @type {{ probe?: 'read' | 'collect' }} */ { probe }) => {
  if (probe === undefined) return;
  if (probe === 'collect') globalThis.gc?.();
  const ms = (/** @type {number} */ nanoseconds) => Math.round(nanoseconds / 1e4) / 100;
  const { rss, heapUsed, external } = process.memoryUsage();
  process.send?.({
    probe: {
      loopP50Ms: ms(delay.percentile(50)),
      loopP99Ms: ms(delay.percentile(99)),
      loopMaxMs: ms(delay.max),
      utilization: performance.eventLoopUtilization(before).utilization,
      cpuMs: process.cpuUsage().user / 1e3 + process.cpuUsage().system / 1e3,
      rss,
      heapUsed,
      external,
    },
  });
  delay.reset();
  before = performance.eventLoopUtilization();
});
// A listener alone would keep the process alive.
process.channel?.unref?.();
