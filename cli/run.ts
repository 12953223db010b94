/** Runs something until the process is told to stop: SIGINT, SIGTERM, or the death of the parent that watches over it. */
import { messageOf } from '../broker/fault.js';

/** Longer than any clean stop: after it something hangs, and the next start heals what is left. */
const stopWithinMs = 25_000;

export async function runUntilStopped(begin: () => Promise<{ stop(): Promise<void> }>): Promise<void> {
  let stopped = false;
  const told = new Promise<void>((resolve) => {
    const stop = () => ((stopped = true), resolve());
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
    // Started with an IPC channel: whoever started us died.
    if (process.send !== undefined) process.on('disconnect', stop);
  });
  const running = begin();
  running.catch(() => undefined);
  await Promise.race([running, told]);
  const { stop } = await running;
  process.send?.('ready');
  if (!stopped) await told;
  const timer = setTimeout(() => {
    process.stderr.write(`the stop took longer than ${stopWithinMs / 1_000} s: exit\n`);
    process.exit(1);
  }, stopWithinMs);
  await stop().catch((error: unknown) => process.stderr.write(`while stopping: ${messageOf(error)}\n`));
  clearTimeout(timer);
  process.exit(0);
}
