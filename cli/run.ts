/** Runs something until the process is told to stop: SIGINT, SIGTERM, or the death of the parent that watches over it. */
import { messageOf } from '../broker/fault.js';

/** Longer than any clean stop: after it something hangs, and the next start heals what is left. */
const stopWithinMs = 25_000;

/** `begin` gets a signal that aborts when the stop comes before it has ended. */
export async function runUntilStopped(begin: (signal: AbortSignal) => Promise<{ stop(): Promise<void> }>): Promise<void> {
  const stopping = new AbortController();
  const told = new Promise<void>((resolve) => {
    const stop = () => (stopping.abort(), resolve());
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
    // Started with an IPC channel: whoever started us died.
    if (process.send !== undefined) process.on('disconnect', stop);
  });
  const running = await begin(stopping.signal).catch((error: unknown) => {
    if (stopping.signal.aborted) process.exit(0); // what had begun has been ended by whoever began it
    throw error;
  });
  if (!stopping.signal.aborted) process.send?.('ready');
  await told;
  const timer = setTimeout(() => {
    process.stderr.write(`the stop took longer than ${stopWithinMs / 1_000} s: exit\n`);
    process.exit(1);
  }, stopWithinMs);
  await running.stop().catch((error: unknown) => process.stderr.write(`while stopping: ${messageOf(error)}\n`));
  clearTimeout(timer);
  process.exit(0);
}
