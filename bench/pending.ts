/**
 * Many pending requests: a hub and its Redis are killed and started again, then Redis is emptied; how long until requests are
 * taken again, and whether everyone is answered once. 100,000 of them; BENCH_PENDING says how many else (the bar: 1,000,000).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Case, Row } from './case.js';
import { removeQueues, startCommand } from './commands.js';
import type { Tally } from './foreign-requestor.js';
import { privateRedis } from './private-redis.js';

const bars = {
  restarted: 'pending: ready after hub and Redis were killed',
  emptied: 'pending: ready after Redis was emptied',
  wrong: 'pending: not answered once',
};

export const pending: Case = {
  name: 'pending',
  about: 'many pending requests over a restart of hub and Redis, and over a Redis that was emptied',
  bars: { [bars.restarted]: 30, [bars.emptied]: 180, [bars.wrong]: 0 },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const count = Number(process.env['BENCH_PENDING'] ?? (bench.quick ? 2_000 : 100_000));
    const redis = await privateRedis();
    redis.start();
    const client = new Redis(redis.url, { maxRetriesPerRequest: null });
    client.on('error', () => undefined); // it is killed, and comes back
    await client.ping();
    const namespace = bench.namespace;
    const env = { HUB_NAMESPACE: namespace, HUB_RABBITMQ_URL: bench.rabbitmq, HUB_REDIS_URL: redis.url, HUB_NAME: 'bench' };
    const recorded = async () => Number(await client.zcard(`${namespace}:deadlines`));
    const seconds = (began: number) => Math.round(performance.now() - began) / 1_000;
    const rows: Row[] = [];
    const row = (name: string, value: number, unit: string, more: NonNullable<Row['more']> = {}) => {
      rows.push({ name, value, unit, more });
      bench.log(`${name}: ${value} ${unit} ${JSON.stringify(more)}`);
    };
    let hub = await startCommand('hub', env);
    let worker: Awaited<ReturnType<typeof startCommand>> | undefined;
    try {
      const requestor = await bench.start('foreign.requestor');
      let began = performance.now();
      await requestor.tell('ask', { count });
      await until(async () => (await recorded()) === count, 1_800);
      row('pending: taken', Math.round(count / seconds(began)), 'req/s', { requests: count });

      await hub.kill();
      await redis.kill();
      began = performance.now();
      redis.start();
      // A hub that finds its Redis loading ends, and whoever watches over it starts it again.
      for (let tries = 0; ; tries++) {
        try {
          hub = await startCommand('hub', env);
          break;
        } catch (error) {
          if (tries > 60) throw error;
          await sleep(500);
        }
      }
      await until(() => isReady(hub.url), 300);
      row(bars.restarted, seconds(began), 's', { pending: await recorded(), 'hub started after ms': Math.round(hub.readyMs) });

      began = performance.now();
      await client.flushall();
      await until(async () => !(await isReady(hub.url)), 60);
      const noticed = seconds(began);
      await until(() => isReady(hub.url), 600);
      row(bars.emptied, seconds(began), 's', { 'noticed after s': noticed, pending: await recorded() });

      began = performance.now();
      worker = await startCommand('worker', env);
      let tally: Tally = { once: 0, more: 0, never: count, faults: 0 };
      await until(async () => (tally = await requestor.tell<Tally>('tally')).never === 0, 1_800);
      row('pending: answered', Math.round(count / seconds(began)), 'req/s');
      await sleep(2_000);
      tally = await requestor.tell<Tally>('tally');
      row(bars.wrong, tally.more + tally.never + tally.faults, 'requests', { ...tally });
      return rows;
    } finally {
      await hub.kill();
      await worker?.kill();
      client.disconnect();
      await redis.remove();
      await removeQueues(bench.rabbitmq, namespace);
    }
  },
};

async function isReady(url: string): Promise<boolean> {
  return (await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined))?.status === 200;
}

async function until(isSo: () => Promise<boolean>, withinSeconds: number): Promise<void> {
  for (const end = performance.now() + withinSeconds * 1_000; !(await isSo()); await sleep(50))
    if (performance.now() > end) throw new Error(`it did not come to that within ${withinSeconds} s`);
}
