// `npm run test:simulation -- --seeds 100000 [--from N]`: simulated worlds, on every processor. `--seed N`: one, with all that happens
// in it, as often as you like. Ends with 1 when a world breaks the promise, and says how to see it again.

import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { project, requireNode } from './build.mjs';

requireNode();
const { values } = parseArgs({ options: { seeds: { type: 'string' }, from: { type: 'string' }, seed: { type: 'string' } } });
const built = join(project, '.hub', 'simulation', 'test', 'simulation', 'run.js');

await run('node_modules/typescript/bin/tsc', '-p', 'test/simulation/tsconfig.build.json');
if (values.seed !== undefined) process.exit(await start([built, '--seed', values.seed], (line) => console.log(line)));

const seeds = Number(values.seeds ?? 2_000);
const from = Number(values.from ?? 1);
const began = performance.now();
const total = { seeds: 0, failed: 0, requests: 0, disturbances: 0, events: 0 };
const processes = Math.max(1, Math.min(seeds, availableParallelism()));
const codes = await Promise.all(
  Array.from({ length: processes }, (_, n) =>
    start([built, '--from', `${from + n}`, '--step', `${processes}`, '--until', `${from + seeds}`], (line) => {
      if (!line.startsWith('{')) return console.log(line);
      const part = JSON.parse(line);
      for (const name of /** @type {(keyof typeof total)[]} */ (Object.keys(total))) total[name] += part[name];
    }),
  ),
);
const seconds = ((performance.now() - began) / 1_000).toFixed(1);
console.log(
  `${total.seeds} seeds from ${from}: ${total.requests} requests, ${total.disturbances} disturbances, ${total.events} events in ${seconds} s; ${total.failed} failed`,
);
process.exit(Math.max(...codes));

/** @param {string[]} args @param {(line: string) => void} [hear] each line of its output @returns {Promise<number>} its exit code */
function start(args, hear) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: project, stdio: ['ignore', 'pipe', 'inherit'] });
    let rest = '';
    child.stdout.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) hear?.(line);
    });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** @param {string[]} args */
async function run(...args) {
  const code = await start(args, (line) => console.error(line));
  if (code !== 0) process.exit(code);
}
