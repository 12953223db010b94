/** The ways to RabbitMQ and Redis are slow, cut, half-open, or swallow everything, while everybody lives. */
import { setTimeout as sleep } from 'node:timers/promises';
import { rabbitmqUrl, redisUrl } from '../../support/hub.js';
import { faultProxy, type FaultProxy } from '../../support/proxy.js';
import { ownRabbitmq } from '../own-rabbitmq.js';
import { more, type Trial } from '../trial.js';
import { underLoad } from './load.js';

/** What happens on the way, in this order; each is followed by some answers. */
const troubles: Readonly<Record<string, (way: FaultProxy, random: () => number) => Promise<void> | void>> = {
  late: (way) => way.delay(20),
  'in time': (way) => way.delay(0),
  slow: (way) => way.slow(100_000),
  fast: (way) => way.slow(Infinity),
  cut: (way) => way.cut(),
  'half-open': (way) => way.forget(),
  'cut in the middle': (way, random) => way.cutAfter(Math.floor(random() * 5_000)),
  'black hole': async (way) => {
    way.pause();
    await sleep(7_000); // longer than a confirm may take
    way.resume();
  },
  refusing: async (way) => {
    way.refuse(true);
    way.cut();
    await sleep(2_000);
    way.refuse(false);
  },
};

const onTheWay = (which: 'RabbitMQ' | 'Redis'): Trial => ({
  name: `the way to ${which} is bad`,
  sizes: ['normal', 'long'],
  async run(context) {
    const way = await faultProxy(which === 'RabbitMQ' ? rabbitmqUrl() : redisUrl());
    try {
      return await underLoad(
        `the way to ${which} is bad`,
        context,
        which === 'RabbitMQ' ? { via: way.url } : { redis: way.url },
        async ({ scenario, load, random }) => {
          for (const [name, happen] of Object.entries(troubles)) {
            const from = Date.now();
            await happen(way, random);
            await more(load.told, 40, 120_000);
            scenario.history.outage(name, from);
          }
        },
      );
    } finally {
      await way.close();
    }
  },
});

/** RabbitMQ closes channels and connections by itself. */
const channels: Trial = {
  name: 'channels and connections are closed by the broker',
  sizes: ['normal', 'long'],
  async run(context) {
    const broker = await ownRabbitmq();
    try {
      await broker.start();
      return await underLoad(
        'channels and connections are closed by the broker',
        context,
        { rabbitmq: broker.url },
        async ({ scenario, load }) => {
          const from = Date.now();
          for (let round = 0; round < 3; round++) {
            await broker.ctl('eval', '[exit(Channel, kill) || Channel <- rabbit_channel:list_local()].');
            await more(load.told, 40);
            await broker.ctl('close_all_connections', 'by a test');
            await more(load.told, 40);
          }
          scenario.history.outage('closed', from);
        },
      );
    } finally {
      await broker.remove();
    }
  },
};

/** Work queues vanish with what is in them, and with their consumers: what was in them times out, nothing is told twice. */
const deleted: Trial = {
  name: 'work queues are deleted',
  sizes: ['quick', 'normal', 'long'],
  run: (context) =>
    underLoad(
      'work queues are deleted',
      context,
      {
        ask: () => (n) => ({
          flow: n % 3 === 0 ? 'scatter' : 'plain',
          token: `t${n}`,
          deadlineSeconds: 6,
          waitSeconds: n % 2 === 0 ? 10 : 0,
          ...(n % 5 === 0 ? { key: `k${n}` } : {}),
        }),
      },
      async ({ scenario: { transport, names }, workers, load }) => {
        for (const step of ['last', 'first', 'part', 'gather']) {
          // Nobody takes from it, so that there is something in it.
          for (const worker of workers) worker.freeze();
          await sleep(500);
          await transport.removeQueue(names.workQueue(step));
          for (const worker of workers) worker.thaw();
          await more(load.answered, 30);
        }
      },
    ),
};

export const network: readonly Trial[] = [onTheWay('RabbitMQ'), onTheWay('Redis'), channels, deleted];
