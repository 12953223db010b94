/**
 * `npm run bench`: runs the cases one after the other and writes what came out. `--quick` in less than a minute; `--json`
 * prints one object on stdout; `--only <case>` runs one (may be given again); `--rounds <n>`. The services' addresses are
 * in the environment (`scripts/bench.mjs`).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Bench, Case, Row } from './case.js';
import { cases } from './cases.js';
import { removeEverything } from './clean.js';
import { listenerOn, startProcess, type Process } from './processes.js';
import { circumstancesOf } from './circumstances.js';
import { jsonOf, sectionOf, withSections } from './results.js';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string' },
    profile: { type: 'string' },
  },
});

const began = performance.now();
/** A quick run begins no further round after this. */
const quickMs = 8_000;
const rounds = Number(options.rounds ?? (options.quick ? 2 : 5));
const [warmUpMs, measureMs] = options.quick ? [100, 400] : [300, 1_200];

const log = (line: string) => console.error(line);
const [rabbitmq, redis] = [required('HUB_RABBITMQ_URL'), required('HUB_REDIS_URL')];
const namespace = `bench${process.pid}`;
/** Cases may use further ones, which begin with it. */
const namespaces = new Set([namespace]);
const portOf = (url: string, standard: number) => Number(new URL(url).port || standard);

/** What bears our names is removed also when somebody has enough of waiting. */
const interrupted = new Promise<never>((_, reject) => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => reject(new Error(`ended by ${signal}`)));
});
interrupted.catch(() => undefined);

async function runCase(found: Case): Promise<readonly Row[]> {
  const started: Process[] = [];
  const bench: Bench = {
    rabbitmq,
    redis,
    namespace,
    quick: options.quick,
    rounds,
    warmUpMs,
    measureMs,
    log,
    isLate: () => options.quick && performance.now() - began > quickMs,
    brokerPid: listenerOn(portOf(rabbitmq, 5672)),
    redisPid: listenerOn(portOf(redis, 6379)),
    async start(end, settings = {}) {
      const profile = options.profile === undefined ? {} : { profile: options.profile };
      const process = await startProcess(end, { rabbitmq, redis, namespace, ...profile, ...settings });
      started.push(process);
      namespaces.add(String(settings['namespace'] ?? namespace));
      return process;
    },
  };
  try {
    log(`${found.name} ...`);
    return await Promise.race([found.run(bench), interrupted]);
  } finally {
    await Promise.all(started.map((process) => process.stop()));
  }
}

function required(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '') throw new Error(`${name} is not set: run the benchmarks with "npm run bench"`);
  return value;
}

const chosen = options.only.length === 0 ? cases : cases.filter(({ name }) => options.only.includes(name));
if (chosen.length === 0) throw new Error(`there is no benchmark of that name; there is ${cases.map(({ name }) => name).join(', ')}`);
const rows: Row[] = [];
try {
  for (const each of chosen) {
    const found = await runCase(each);
    rows.push(...found);
    if (!options.quick) await write(each, found);
  }
} finally {
  await removeEverything({ rabbitmq, redis, namespaces });
}
const bars = Object.assign({}, ...cases.map((each) => each.bars)) as Record<string, number>;
if (options.json) console.log(JSON.stringify(jsonOf(rows, bars)));

/** Each case has its section, so that one can be run again by itself. */
async function write(each: Case, found: readonly Row[]): Promise<void> {
  const settings = `${rounds} rounds of ${measureMs} ms after ${warmUpMs} ms for each run`;
  const section = sectionOf(each, found, await circumstancesOf({ rabbitmq, redis }, settings));
  // Both from dist/bench/: the files of the source.
  for (const [path, addNew] of [
    ['../../bench/results.md', true],
    ['../../docs/benchmarks.md', false],
  ] as const) {
    const file = new URL(path, import.meta.url);
    writeFileSync(file, withSections(readFileSync(file, 'utf8'), new Map([[each.name, section]]), addNew));
  }
}
