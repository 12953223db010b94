/**
 * Runs the trials (the quick ones two at a time), and reports one row for each. Exit code 1 when anything was lost, doubled, foreign or hung, or a
 * trial could not be carried out. Started by `scripts/fault.mjs`, which says how.
 */
import { parseArgs } from 'node:util';
import type { Row, Size, Trial } from './trial.js';
import { failpoints } from './trials/failpoints.js';
import { kills } from './trials/kills.js';
import { longWork, longWorkFlushed } from './trials/long-work.js';
import { messages } from './trials/messages.js';
import { network } from './trials/network.js';
import { processes } from './trials/processes.js';
import { services } from './trials/services.js';

/** The longest first. */
const trials: readonly Trial[] = [kills, longWork, longWorkFlushed, failpoints, ...messages, ...services, ...network, ...processes];

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean' },
    long: { type: 'boolean' },
    json: { type: 'boolean' },
    seed: { type: 'string' },
    requests: { type: 'string' },
    kills: { type: 'string' },
    only: { type: 'string', multiple: true },
  },
});
const size: Size = flags.quick === true ? 'quick' : flags.long === true ? 'long' : 'normal';
const counts = {
  ...(flags.requests === undefined ? {} : { requests: Number(flags.requests) }),
  ...(flags.kills === undefined ? {} : { kills: Number(flags.kills) }),
};
const seed = Number(flags.seed ?? Date.now() % 1_000_000);
const say = (line: string): void => void process.stderr.write(`${line}\n`);
/** Whose whole name is said is meant alone; else all that have the words in it. */
const isNamed = (words: string, name: string): boolean =>
  trials.some((trial) => trial.name === words) ? name === words : name.includes(words) || words.startsWith(name);
const isMeant = ({ name, sizes }: Trial): boolean =>
  flags.only === undefined ? sizes.includes(size) : flags.only.some((words) => isNamed(words, name));

const isBad = ({ lost, doubled, foreign, hung }: Row): boolean => lost + doubled + foreign + hung > 0;

const rows: Row[] = [];
const left = trials.filter(isMeant);

/** Takes one trial after the other, until none is left. */
async function lane(): Promise<void> {
  for (let trial = left.shift(); trial !== undefined; trial = left.shift()) {
    const began = performance.now();
    try {
      const of = await trial.run({ seed, size, say, ...counts });
      rows.push(...of);
      for (const row of of) say(`${isBad(row) ? '✖' : '✔'} ${JSON.stringify(row)}`);
    } catch (error) {
      say(`✖ ${trial.name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      rows.push({ name: trial.name, requests: 0, kills: 0, lost: 0, doubled: 0, foreign: 0, hung: 1 });
    }
    say(`${trial.name}: ${((performance.now() - began) / 1_000).toFixed(1)} s`);
  }
}

// Half of a trial is waiting for processes to come up: where little is asked of the machine, two share it.
await Promise.all(Array.from({ length: size === 'quick' ? 2 : 1 }, lane));
const bad = rows.filter(isBad);
if (bad.length > 0)
  say(
    `again: npm run test:fault -- ${size === 'normal' ? '' : `--${size} `}--seed ${seed}${Object.entries(counts)
      .map(([what, count]) => ` --${what} ${count}`)
      .join('')}${bad.map(({ name }) => ` --only "${name}"`).join('')}`,
  );
if (flags.json === true) await new Promise((told) => process.stdout.write(`${JSON.stringify({ scenarios: rows })}\n`, told));
// Not left to Node 20: after some 100,000 requests and 200 kills it took minutes to end by itself, at work on nothing of ours.
process.exit(rows.length === 0 || bad.length > 0 ? 1 : 0);
