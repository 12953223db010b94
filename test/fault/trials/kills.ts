/** Everything dies at random under mixed load: hubs, workers, RabbitMQ, Redis. The order is that of the seed. */
import { setTimeout as sleep } from 'node:timers/promises';
import { redisChild } from '../../support/redis.js';
import { dice, mixed } from '../mix.js';
import { ownRabbitmq, type OwnRabbitmq } from '../own-rabbitmq.js';
import { inScenario, supervise, type Scenario, type Supervised } from '../processes.js';
import { acceptedAgain, more, rowOf, until, type Row, type Size, type Trial, type TrialContext } from '../trial.js';

/** Requests and kills of a batch; after each, everything is judged and forgotten. */
const sizes: Readonly<Record<Size, { readonly requests: number; readonly kills: number; readonly batches: number }>> = {
  quick: { requests: 1_000, kills: 10, batches: 1 },
  normal: { requests: 20_000, kills: 200, batches: 1 },
  long: { requests: 20_000, kills: 20, batches: 50 },
};

/** How often each dies, of twenty. */
const victims = [...Array<'worker'>(9).fill('worker'), ...Array<'hub'>(8).fill('hub'), 'redis', 'redis', 'broker'] as const;

const clientsAtOnce = 40;

interface Field {
  readonly scenario: Scenario;
  readonly hubs: readonly Supervised[];
  readonly workers: readonly Supervised[];
  readonly broker: OwnRabbitmq;
  readonly redis: Awaited<ReturnType<typeof redisChild>>;
}

export const kills: Trial = {
  name: 'random kills',
  sizes: ['quick', 'normal', 'long'],
  async run(context) {
    const { seed, size, say } = context;
    const [redis, broker] = await Promise.all([redisChild(), ownRabbitmq()]);
    try {
      await Promise.all([redis.start(), broker.start()]);
      return await inScenario(
        { rabbitmq: broker.url, redis: redis.url, about: { seed, size, trial: 'random kills' } },
        async (scenario) => {
          const hubs = ['h1', 'h2'].map((name) => supervise(() => scenario.hub(name)));
          const workers = ['w1', 'w2', 'w3'].map((name) => supervise(() => scenario.worker(name)));
          const front = setInterval(() => (scenario.front = hubs.flatMap((hub) => hub.now() ?? [])), 20);
          try {
            await until(() => [...hubs, ...workers].every((each) => each.now() !== undefined), 'all processes run');
            await scenario.legacy();
            const rows: Row[] = [];
            const batches = Number(process.env['FAULT_BATCHES'] ?? sizes[size].batches);
            for (let batch = 0; batch < batches; batch++) {
              rows.push(await runBatch({ scenario, hubs, workers, broker, redis }, batch, context));
              say(`batch ${batch + 1}: ${JSON.stringify(rows.at(-1))}`);
            }
            return [sum(rows)];
          } finally {
            clearInterval(front);
            await Promise.all([...hubs, ...workers].map((each) => each.stop()));
          }
        },
      );
    } finally {
      await Promise.all([redis.remove(), broker.remove()]);
    }
  },
};

async function runBatch(field: Field, batch: number, { seed, size, say }: TrialContext): Promise<Row> {
  const { scenario } = field;
  const { requests, kills } = sizes[size];
  const random = dice(seed + batch);
  const ask = dice(seed + batch + 1_000_003);
  const load = scenario.clients.load(clientsAtOnce, mixed(ask, `b${batch}-`), requests);
  const requestors = batch === 0 ? await scenario.requestors() : undefined;
  const foreigners =
    requestors && Promise.all(Array.from({ length: 5 }, (_, n) => requestors.ask(n % 2 === 0 ? 'plain' : 'scatter', `b${batch}-amqp${n}`)));
  // RabbitMQ 3.10.8 loses its first stream for good when it is killed within a second of its making.
  if (batch === 0) await more(load.told, Math.min(400, requests / 2));
  const begin = load.told();
  const moments = Array.from({ length: kills }, () => begin + random() * (requests - begin) * 0.95).sort((a, b) => a - b);
  const counts: Record<string, number> = {};
  const backMs = { broker: [] as number[], redis: [] as number[] };
  for (const moment of moments) {
    await until(() => load.told() >= moment, `${moment} stories are over`, 180_000);
    const victim = victims[Math.floor(random() * victims.length)]!;
    const which = random();
    const forMs = random() * 1_000;
    counts[victim] = (counts[victim] ?? 0) + 1;
    if (victim === 'broker' || victim === 'redis') backMs[victim].push((await restart(field, victim, forMs, load.ended)) ?? 0);
    else await killOne(field, victim === 'hub' ? field.hubs : field.workers, which);
  }
  await load.ended;
  await foreigners;
  say(`${JSON.stringify(counts)}; back to next accept (ms): broker ${backMs.broker.join(' ')}; redis ${backMs.redis.join(' ')}`);
  const violations = await scenario.atRest({ withinMs: 70_000 });
  const row = rowOf('random kills', scenario, violations, { kills, say });
  if (violations.length === 0) scenario.forget();
  return row;
}

/** Kills a service, and starts it again. Resolves with how long the way back to the next accept took, from its port on. */
async function restart(
  { scenario, broker, redis }: Field,
  victim: 'broker' | 'redis',
  forMs: number,
  ended: Promise<unknown>,
): Promise<number | undefined> {
  const from = Date.now();
  const service = victim === 'broker' ? broker : redis;
  await service.kill();
  await sleep(forMs); // it is part of the fault how long it is away
  await service.start();
  const upAt = Date.now();
  // Near the end of a batch there may be nobody left to ask.
  const backMs = await Promise.race([acceptedAgain(scenario, from, upAt), ended.then(() => undefined)]);
  scenario.history.outage(victim, from);
  return backMs;
}

async function killOne({ scenario }: Field, of: readonly Supervised[], which: number): Promise<void> {
  const from = Date.now();
  const victim = of[Math.floor(which * of.length)]!;
  await until(() => victim.now() !== undefined, 'the victim lives', 60_000);
  const starts = victim.starts();
  await victim.now()?.kill();
  void until(() => victim.starts() > starts, 'it lives again', 120_000).then(
    () => scenario.history.outage('process', from),
    () => undefined,
  );
}

/** The batches as one row. */
function sum(rows: readonly Row[]): Row {
  const total = (of: (row: Row) => number) => rows.reduce((all, row) => all + of(row), 0);
  return {
    name: rows[0]!.name,
    requests: total((row) => row.requests),
    kills: total((row) => row.kills),
    lost: total((row) => row.lost),
    doubled: total((row) => row.doubled),
    foreign: total((row) => row.foreign),
    hung: total((row) => row.hung),
  };
}
