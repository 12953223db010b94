/**
 * `echo` answers at once, `stamped` with when it does so. `gated` answers when the file BENCH_GATE is there, all at once. `reporting` says 50 times
 * a second when it says so, until it is cancelled.
 */
import { existsSync, watchFile } from 'node:fs';
import { job, raw, worker } from 'answerback';

const gate = process.env['BENCH_GATE'] ?? '/nowhere';
const opened = new Promise<void>((resolve) =>
  watchFile(gate, { interval: 100, persistent: false }, () => {
    if (existsSync(gate)) resolve();
  }),
);

export const echo = worker<Buffer>({ name: 'echo', concurrency: 1_000, handle: (body) => raw(body, 'application/octet-stream') });

export const gated = worker<Buffer>({
  name: 'gated',
  concurrency: 20_000,
  timeoutMs: 600_000,
  async handle(body) {
    await opened;
    return raw(body, 'application/octet-stream');
  },
});

export const stamped = worker({ name: 'stamped', concurrency: 1_000, handle: () => Date.now() });

export const reporting = job({
  name: 'reporting',
  concurrency: 100,
  async handle(_body, _envelope, { signal, progress }) {
    const telling = setInterval(() => progress({ message: String(Date.now()) }), 20);
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    clearInterval(telling);
    throw signal.reason;
  },
});
