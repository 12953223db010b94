/** RabbitMQ and Redis are away, stand still, are full, or have an alarm: what clients hear meanwhile, and that nothing is lost. */
import { setTimeout as sleep } from 'node:timers/promises';
import { redisChild, withClient, type RedisChild } from '../../support/redis.js';
import { faultProxy } from '../../support/proxy.js';
import { ownRabbitmq, type OwnRabbitmq } from '../own-rabbitmq.js';
import type { Scenario } from '../processes.js';
import { acceptedAgain, more, slowAnswers, unless, until, type Trial } from '../trial.js';
import { underLoad } from './load.js';

async function withRabbitmq<T>(use: (broker: OwnRabbitmq) => Promise<T>): Promise<T> {
  const broker = await ownRabbitmq();
  try {
    await broker.start();
    return await use(broker);
  } finally {
    await broker.remove();
  }
}

async function withRedis<T>(use: (redis: RedisChild) => Promise<T>): Promise<T> {
  const redis = await redisChild();
  try {
    await redis.start();
    return await use(redis);
  } finally {
    await redis.remove();
  }
}

const refusals = ({ history }: Scenario, why: string, since: number) =>
  history.seen.filter((one) => one.what === 'refused' && one.at >= since && one.why.includes(why)).length;

/** RabbitMQ blocks whoever publishes, as with too little memory or disk. */
const alarm = (name: string, raise: readonly string[], clear: readonly string[]): Trial => ({
  name,
  sizes: ['normal', 'long'],
  run: (context) =>
    withRabbitmq((broker) =>
      underLoad(name, context, { rabbitmq: broker.url }, async ({ scenario }) => {
        await broker.ctl(...raise);
        const from = Date.now();
        await until(() => refusals(scenario, 'broker', from) > 20, 'who asks is refused');
        const blockedAt = Date.now();
        await until(() => refusals(scenario, 'broker', blockedAt) > 100, 'who asks is refused all the time');
        const to = Date.now();
        await broker.ctl(...clear);
        const backMs = await acceptedAgain(scenario, to, to);
        scenario.history.outage(name, from);
        context.say(`${name}: accepting again after ${backMs} ms`);
        return { violations: slowAnswers(scenario, blockedAt, to) };
      }),
    ),
});

/** A service dies, and stays away for a while. */
const away = (which: 'RabbitMQ' | 'Redis'): Trial => ({
  name: `${which} is away`,
  sizes: which === 'Redis' ? ['quick', 'normal', 'long'] : ['normal', 'long'],
  run: (context) =>
    (which === 'RabbitMQ' ? withRabbitmq<Awaited<ReturnType<typeof underLoad>>> : withRedis<Awaited<ReturnType<typeof underLoad>>>)(
      (service) =>
        underLoad(
          `${which} is away`,
          context,
          which === 'RabbitMQ' ? { rabbitmq: service.url } : { redis: service.url },
          async ({ scenario, load }) => {
            // RabbitMQ 3.10.8 loses its first stream for good when it is killed within a second of its making.
            await more(load.told, 200);
            const from = Date.now();
            await service.kill();
            const goneAt = Date.now();
            // Clients that held on come to their end, and ask anew: those are the ones to look at.
            const newcomers = scenario.clients.load(10, (n) => ({ flow: 'plain', token: `new-${n}`, key: `new-${n}` }));
            await until(() => refusals(scenario, '503', goneAt) > 50, 'who asks is refused');
            const to = Date.now();
            await service.start();
            const upAt = Date.now();
            const backMs = await acceptedAgain(scenario, from, upAt);
            scenario.history.outage(which, from);
            context.say(`${which} restarted: accepting again ${backMs} ms after its port was open`);
            await newcomers.stop();
            return {
              kills: 1,
              violations: [...slowAnswers(scenario, goneAt, to), ...unless(backMs < 10_000, `${which}: ${backMs} ms to the next accept`)],
            };
          },
        ),
    ),
});

/** A service keeps its connections and does nothing any more, for a while. */
const frozen = (which: 'RabbitMQ' | 'Redis'): Trial => ({
  name: `${which} stands still`,
  sizes: ['normal', 'long'],
  run: (context) =>
    (which === 'RabbitMQ' ? withRabbitmq<Awaited<ReturnType<typeof underLoad>>> : withRedis<Awaited<ReturnType<typeof underLoad>>>)(
      (service) =>
        underLoad(
          `${which} stands still`,
          context,
          which === 'RabbitMQ' ? { rabbitmq: service.url } : { redis: service.url },
          async ({ scenario }) => {
            const from = Date.now();
            service.freeze();
            const newcomers = scenario.clients.load(10, (n) => ({ flow: 'plain', token: `new-${n}`, key: `new-${n}` }));
            await sleep(12_000); // it is the fault that it takes so long
            const to = Date.now();
            service.thaw();
            const backMs = await acceptedAgain(scenario, from, to);
            scenario.history.outage(which, from);
            context.say(`${which} stood still for 12 s: accepting again after ${backMs} ms`);
            await newcomers.stop();
            const slow = slowAnswers(scenario, from, to).filter(
              ({ sentence }) => Number(/took (\d+) ms/.exec(sentence)?.[1] ?? Infinity) > 6_000,
            );
            return { violations: slow };
          },
        ),
    ),
});

const redisFull: Trial = {
  name: 'Redis is full',
  sizes: ['quick', 'normal', 'long'],
  run: (context) =>
    withRedis((redis) =>
      underLoad('Redis is full', context, { redis: redis.url }, async ({ scenario }) => {
        const from = Date.now();
        await withClient(redis.url, async (client) => {
          const used = Number(/used_memory:(\d+)/.exec(await client.info('memory'))?.[1]);
          // Full in the middle of what is going on, and for a while.
          for (const room of [200_000, 0]) {
            await client.config('SET', 'maxmemory', String(used + room));
            const since = Date.now();
            await until(() => refusals(scenario, 'store', since) > 30, 'who needs a record is refused');
          }
          await client.config('SET', 'maxmemory', '0');
        });
        scenario.history.outage('Redis full', from);
      }),
    ),
};

const redisFlushed: Trial = {
  name: 'Redis is flushed',
  sizes: ['quick', 'normal', 'long'],
  run: (context) =>
    withRedis((redis) =>
      underLoad('Redis is flushed', context, { redis: redis.url }, async ({ scenario, load }) => {
        for (let round = 0; round < (context.size === 'quick' ? 1 : 3); round++) {
          await more(load.told, 100);
          const from = Date.now();
          await withClient(redis.url, (client) => client.flushall());
          const backMs = await acceptedAgain(scenario, from, from);
          await more(load.told, 100);
          scenario.history.outage('Redis flushed', from);
          context.say(`Redis flushed: accepting again after ${backMs} ms`);
        }
      }),
    ),
};

const redisOlder: Trial = {
  name: 'Redis has an older copy of its data',
  sizes: ['normal', 'long'],
  run: (context) =>
    withRedis((redis) =>
      underLoad('Redis has an older copy of its data', context, { redis: redis.url }, async ({ scenario, load }) => {
        await redis.copyData();
        await more(load.told, 200);
        const from = Date.now();
        await redis.kill();
        await redis.restoreData();
        await redis.start();
        await more(load.told, 200);
        scenario.history.outage('Redis older', from);
        return { kills: 1 };
      }),
    ),
};

const redisFailedOver: Trial = {
  name: 'Redis is failed over to a stale replica',
  sizes: ['normal', 'long'],
  run: (context) =>
    withRedis((primary) =>
      withRedis(async (replica) => {
        const [way, replication] = await Promise.all([faultProxy(primary.url), faultProxy(primary.url)]);
        try {
          await withClient(replica.url, (client) => client.replicaof('127.0.0.1', Number(new URL(replication.url).port)));
          return await underLoad('Redis is failed over to a stale replica', context, { redis: way.url }, async ({ scenario, load }) => {
            const info = () => withClient(primary.url, (client) => client.info('replication'));
            let state = '';
            while (!state.includes('state=online')) state = await info(); // a fresh replica counts before it has anything
            await more(load.told, 100);
            replication.pause();
            await more(load.told, 100);
            const from = Date.now();
            await withClient(replica.url, (client) => client.replicaof('NO', 'ONE'));
            way.retarget(replica.url);
            way.cut();
            await primary.kill();
            await more(load.told, 200);
            scenario.history.outage('Redis failed over', from);
            return { kills: 1 };
          });
        } finally {
          await Promise.all([way.close(), replication.close()]);
        }
      }),
    ),
};

export const services: readonly Trial[] = [
  alarm('memory alarm', ['set_vm_memory_high_watermark', '0.00001'], ['set_vm_memory_high_watermark', '0.4']),
  // As the monitor of the disk does; that one looks only every 10 s.
  alarm(
    'disk alarm',
    ['eval', 'rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []}).'],
    ['eval', 'rabbit_alarm:clear_alarm({resource_limit, disk, node()}).'],
  ),
  away('RabbitMQ'),
  away('Redis'),
  frozen('RabbitMQ'),
  frozen('Redis'),
  redisFull,
  redisFlushed,
  redisOlder,
  redisFailedOver,
];
