/**
 * Two hubs, some workers, a RabbitMQ and a Redis of their own, any of which may be killed at any time and is started again; and a load on them
 * while that happens, in the order of the seed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { redisChild } from '../../support/redis.js';
import type { Load } from '../clients.js';
import { ownRabbitmq, type OwnRabbitmq } from '../own-rabbitmq.js';
import { inScenario, supervise, type Scenario, type ScenarioOptions, type Supervised } from '../processes.js';
import { acceptedAgain, until } from '../trial.js';

export interface Field {
  readonly scenario: Scenario;
  readonly hubs: readonly Supervised[];
  readonly workers: readonly Supervised[];
  readonly broker: OwnRabbitmq;
  readonly redis: Awaited<ReturnType<typeof redisChild>>;
}

export interface FieldOptions extends Pick<ScenarioOptions, 'about' | 'patienceMs'> {
  readonly workers?: number;
}

export async function inField<T>({ workers: count = 3, ...options }: FieldOptions, run: (field: Field) => Promise<T>): Promise<T> {
  const [redis, broker] = await Promise.all([redisChild(), ownRabbitmq()]);
  try {
    await Promise.all([redis.start(), broker.start()]);
    return await inScenario({ rabbitmq: broker.url, redis: redis.url, ...options }, async (scenario) => {
      const hubs = ['h1', 'h2'].map((name) => supervise(() => scenario.hub(name)));
      const workers = Array.from({ length: count }, (_, n) => supervise(() => scenario.worker(`w${n + 1}`)));
      const front = setInterval(() => (scenario.front = hubs.flatMap((hub) => hub.now() ?? [])), 20);
      try {
        await until(() => [...hubs, ...workers].every((each) => each.now() !== undefined), 'all processes run');
        return await run({ scenario, hubs, workers, broker, redis });
      } finally {
        clearInterval(front);
        await Promise.all([...hubs, ...workers].map((each) => each.stop()));
      }
    });
  } finally {
    await Promise.all([redis.remove(), broker.remove()]);
  }
}

/** How often each dies, of twenty. */
const victims = [...Array<'worker'>(9).fill('worker'), ...Array<'hub'>(8).fill('hub'), 'redis', 'redis', 'broker'] as const;

export interface Killing {
  readonly load: Load;
  readonly requests: number;
  readonly kills: number;
  readonly random: () => number;
  /** Nothing dies before so many stories are over. */
  readonly after: number;
  readonly say: (line: string) => void;
}

/** So many kills while a load of so many requests goes on; resolves after the last one. */
export async function killAtRandom(field: Field, { load, requests, kills, random, after, say }: Killing): Promise<void> {
  await until(() => load.told() >= after, `${after} stories are over`, 180_000);
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
  say(`${JSON.stringify(counts)}; back to next accept (ms): broker ${backMs.broker.join(' ')}; redis ${backMs.redis.join(' ')}`);
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
