/** `npm run test:simulation -- --seeds 100000 [--from N]`: many simulated worlds; `--seed N`: one, with all that happens in it. */
import { parseArgs } from 'node:util';
import { simulate } from './simulation.js';

const { values } = parseArgs({ options: { seeds: { type: 'string' }, from: { type: 'string' }, seed: { type: 'string' } } });

async function one(seed: number): Promise<number> {
  const verdict = await simulate(seed, (line) => console.log(line));
  console.log(JSON.stringify(verdict, undefined, 2));
  return verdict.broken.length;
}

async function many(from: number, count: number): Promise<number> {
  const began = performance.now();
  let failed = 0;
  const total = { requests: 0, disturbances: 0, events: 0 };
  for (let seed = from; seed < from + count; seed++) {
    const verdict = await simulate(seed);
    total.requests += verdict.requests;
    total.disturbances += verdict.disturbances;
    total.events += verdict.events;
    if (verdict.broken.length === 0) continue;
    failed++;
    console.log(`seed ${seed}:\n  ${verdict.broken.join('\n  ')}\n  replay: npm run test:simulation -- --seed ${seed}`);
  }
  const seconds = (performance.now() - began) / 1_000;
  console.log(
    `${count} seeds from ${from}, ${total.requests} requests, ${total.disturbances} disturbances, ${total.events} events in ${seconds.toFixed(1)} s: ${failed} failed`,
  );
  return failed;
}

const failed =
  values.seed === undefined ? await many(Number(values.from ?? 1), Number(values.seeds ?? 2_000)) : await one(Number(values.seed));
process.exitCode = failed === 0 ? 0 : 1;
