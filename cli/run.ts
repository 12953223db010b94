/** Runs something until the process is told to stop: SIGINT, SIGTERM, or the death of the parent that watches over it. */
import { setFlagsFromString } from 'node:v8';
import { messageOf } from '../broker/fault.js';

/** Longer than any clean stop: after it something hangs, and the next start heals what is left. */
const stopWithinMs = 25_000;

/**
 * V8 looks through all that lives when what has lived for a while has grown by a tenth: on a busy hub with many connections every five
 * seconds. Its helper threads then take the processor from the hub for 100 to 200 ms, if it has one only, and nobody is refused or answered
 * meanwhile. Here that may double first (less near the heap's limit). In the code, since `NODE_OPTIONS` does not take it.
 */
setFlagsFromString('--heap-growing-percent=100');

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
