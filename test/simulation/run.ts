/** One process of `scripts/simulation.mjs`: every `step`-th seed from `from` until `until`, or one seed with its trace. */
import { parseArgs } from 'node:util';
import { simulate } from './simulation.js';

const number = { type: 'string' } as const;
const { values } = parseArgs({
  options: { from: number, until: number, step: number, seed: number, first: { type: 'boolean', default: false } },
});

if (values.seed !== undefined) {
  const verdict = await simulate(Number(values.seed), (line) => console.log(line));
  console.log(JSON.stringify(verdict, undefined, 2));
  process.exitCode = verdict.broken.length === 0 ? 0 : 1;
} else {
  const total = { seeds: 0, failed: 0, requests: 0, disturbances: 0, events: 0 };
  for (let seed = Number(values.from); seed < Number(values.until); seed += Number(values.step ?? 1)) {
    const { broken, requests, disturbances, events } = await simulate(seed);
    total.seeds++;
    total.requests += requests;
    total.disturbances += disturbances;
    total.events += events;
    if (broken.length === 0) continue;
    total.failed++;
    process.exitCode = 1;
    const shown = broken.slice(0, 10).map((sentence) => `\n  ${sentence}`);
    console.log(`seed ${seed}:${shown.join('')}\n  see it again: npm run test:simulation -- --seed ${seed}`);
    if (values.first) break;
  }
  console.log(JSON.stringify(total));
}
