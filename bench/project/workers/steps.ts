/** `echo` answers at once. `gated` answers when the file BENCH_GATE is there, all at once. */
import { existsSync, watchFile } from 'node:fs';
import { raw, worker } from 'answerback';

const gate = process.env['BENCH_GATE'] ?? '/nowhere';
const opened = new Promise<void>((resolve) =>
  watchFile(gate, { interval: 100 }, () => {
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
