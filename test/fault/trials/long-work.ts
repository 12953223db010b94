/**
 * Everything dies at random while requests are under way that take long: jobs, tasks that people decide meanwhile, dates, groups of all of
 * these. The checker looks at what clients and people saw, and afterwards nothing may be left that waits for anything.
 */
import { eventually } from '../../support/eventually.js';
import { withClient } from '../../support/redis.js';
import type { Question } from '../clients.js';
import { dice, oneOf } from '../mix.js';
import { openPeople } from '../people.js';
import { rowOf, unless, type Size, type Trial } from '../trial.js';
import { inField, killAtRandom, type Field } from './field.js';

/** `--requests` and `--kills` say how many else. */
const sizes: Readonly<Record<Size, { readonly requests: number; readonly kills: number }>> = {
  quick: { requests: 100, kills: 5 },
  normal: { requests: 200, kills: 20 },
  long: { requests: 2_000, kills: 200 },
};

/** Most of the time they wait for one another. */
const clientsAtOnce = 100;
/** A request of all kinds takes a quarter of a minute when nothing dies. */
const withinMs = 120_000;

type Kind = Omit<Question, 'token' | 'key'> & { readonly keyed?: boolean };

/** How often each kind is asked, of a hundred. */
const kinds: readonly (readonly [number, Kind])[] = [
  [8, { flow: 'job.long' }],
  [8, { flow: 'job.long', keyed: true, waitSeconds: 0 }],
  [4, { flow: 'timed.long', keyed: true }],
  [4, { flow: 'timed.long', waitSeconds: 0 }],
  [8, { flow: 'decided' }],
  [12, { flow: 'decided', keyed: true, waitSeconds: 0 }],
  [8, { flow: 'decided.two', keyed: true }],
  [7, { flow: 'decided.two', waitSeconds: 0 }],
  [8, { flow: 'decided.most', keyed: true, waitSeconds: 0 }],
  [8, { flow: 'in-turn', keyed: true, waitSeconds: 0 }],
  [8, { flow: 'together', keyed: true, waitSeconds: 0 }],
  [6, { flow: 'together', keyed: true }],
  [3, { flow: 'together', waitSeconds: 0 }],
  [4, { flow: 'scatter', keyed: true }],
  [1, { flow: 'decided', cancel: true }],
  [1, { flow: 'job.long', cancel: true }],
  [1, { flow: 'timed.long', cancel: true }],
  [1, { flow: 'together', cancel: true }],
];
const hundred: readonly Kind[] = kinds.flatMap(([count, kind]) => Array.from({ length: count }, () => kind));

function mixed(random: () => number): (n: number) => Question {
  return (n) => {
    const { keyed = false, ...kind } = oneOf(random, hundred);
    return { ...kind, token: `l${n}`, ...(keyed ? { key: `k${n}` } : {}) };
  };
}

const names = ['ana', 'bo', 'cem', 'dia'];

const name = 'long work: random kills';

export const longWork: Trial = {
  name,
  sizes: ['normal', 'long'],
  run({ seed, size, say, requests = sizes[size].requests, kills = sizes[size].kills }) {
    return inField({ workers: 2, patienceMs: 300_000, about: { seed, size, trial: name, requests, kills } }, async (field) => {
      const { scenario } = field;
      const people = openPeople({
        history: scenario.history,
        hubs: () => scenario.front,
        names,
        random: dice(seed + 1),
      });
      try {
        const load = scenario.clients.load(clientsAtOnce, mixed(dice(seed + 2)), requests);
        await killAtRandom(field, { load, requests, kills, random: dice(seed), after: clientsAtOnce / 4, say });
        const told = await load.ended;
        say(`${name}: ${JSON.stringify(counted(told.map(({ kind }) => kind)))}`);
        // Also what nobody waits for any more, since its client has no key and was cut off.
        const left = await waiting(field, people);
        const violations = [...(await scenario.atRest({ withinMs })), ...unless(left === '', `at the end ${left}`)];
        return [rowOf(name, scenario, violations, { kills, say })];
      } finally {
        await people.close();
      }
    });
  },
};

/** How many are pending when Redis is emptied. `--requests` says how many else. */
const pending: Readonly<Record<Size, number>> = { quick: 300, normal: 1_000, long: 10_000 };
const flushedName = 'long work: Redis is flushed';
const rebuiltWithinMs = 60_000;

/** Tasks, groups and timers are pending when all of Redis goes: they come back from the journal, and all are answered. */
export const longWorkFlushed: Trial = {
  name: flushedName,
  sizes: ['normal', 'long'],
  run({ seed, size, say, requests = pending[size] }) {
    return inField({ workers: 2, patienceMs: 600_000, about: { seed, size, trial: flushedName, requests } }, async (field) => {
      const { scenario, redis } = field;
      const secondsSince = (since: number) => Math.round((Date.now() - since) / 100) / 10;
      const card = (list: string) => withClient(redis.url, (client) => client.zcard(`${scenario.namespace}:${list}`));
      // None is over before the last one is asked.
      const until = Date.now() + 30_000 + requests * 20;
      const flows = ['decided', 'together.until', 'timed.until'];
      const questions = Array.from({ length: requests }, (_, n): Question => ({
        flow: flows[n % 3]!,
        token: `p${n}`,
        key: `p${n}`,
        body: { until },
      }));
      const of = (...wanted: readonly string[]) => questions.filter(({ flow }) => wanted.includes(flow)).length;
      let began = Date.now();
      const comeBack = await inLanes(questions, 50, scenario.clients.begin);
      await become(
        async () => [await card('index:task:group:deciders'), await card('dossiers:wakeable')],
        [of('decided', 'together.until'), of('timed.until', 'together.until')],
      );
      say(`${flushedName}: ${requests} are pending after ${secondsSince(began)} s`);

      began = Date.now();
      await withClient(redis.url, (client) => client.flushall());
      const isReady = async () => (await Promise.all(scenario.front.map(ready))).some((each) => each);
      await become(isReady, false);
      await become(isReady, true);
      const tookMs = Date.now() - began;
      scenario.history.outage('Redis flushed', began);
      say(`${flushedName}: ${await card('deadlines')} are there again after ${tookMs / 1_000} s`);

      began = Date.now();
      const people = openPeople({ history: scenario.history, hubs: () => scenario.front, names, random: dice(seed + 1) });
      try {
        const told = await inLanes(comeBack, 100, (collect) => collect());
        say(`${flushedName}: all are answered after ${secondsSince(began)} s: ${JSON.stringify(counted(told.map(({ kind }) => kind)))}`);
        const left = await waiting(field, people);
        const violations = [
          ...(await scenario.atRest({ withinMs: 1_200_000 })),
          ...unless(left === '', `at the end ${left}`),
          ...unless(tookMs <= rebuiltWithinMs, `it took ${tookMs} ms until everything was there again`),
          ...unless(new Set(told.map(({ kind }) => kind)).size === 1, 'not everybody had a reply'),
        ];
        return [rowOf(flushedName, scenario, violations, { say })];
      } finally {
        await people.close();
      }
    });
  },
};

const ready = async ({ url }: { readonly url: string }): Promise<boolean> =>
  (await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined))?.status === 200;

/** Resolves when it is found to be so. */
const become = (find: () => Promise<unknown>, wanted: unknown): Promise<void> =>
  eventually(
    async () => {
      const found = JSON.stringify(await find());
      if (found !== JSON.stringify(wanted)) throw new Error(`it is ${found}, and should be ${JSON.stringify(wanted)}`);
    },
    { withinMs: 300_000 },
  );

/** Does something with each, with so many at once. */
async function inLanes<T, Done>(all: readonly T[], atOnce: number, run: (one: T) => Promise<Done>): Promise<readonly Done[]> {
  const done: Done[] = [];
  const left = all.entries();
  const lane = async () => {
    for (const [n, one] of left) done[n] = await run(one);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return done;
}

/** What still waits when everybody has had the time to end; nothing: ''. */
async function waiting({ scenario, redis }: Field, people: ReturnType<typeof openPeople>): Promise<string> {
  let left = '';
  await eventually(
    async () => {
      const tasks = await people.left();
      const wakeable = await withClient(redis.url, (client) => client.zcard(`${scenario.namespace}:dossiers:wakeable`));
      left =
        tasks === 0 && wakeable === 0 ? '' : `${tasks ?? 'who knows how many'} tasks wait for people, ${wakeable} dossiers for their time`;
      if (left !== '') throw new Error(left);
    },
    { withinMs },
  ).catch(() => undefined);
  return left;
}

function counted(all: readonly string[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const one of all) counts[one] = (counts[one] ?? 0) + 1;
  return counts;
}
