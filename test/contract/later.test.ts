import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { testClock } from '../../broker/clock.js';
import { bullmqLater } from '../../broker/later-bullmq.js';
import { memoryLater } from '../../broker/later-memory.js';
import type { Later } from '../../broker/later.js';
import { eventually } from '../support/eventually.js';
import { freePort, lossyLink, randomNamespace, redisChild, redisUrl, removeKeys, withClient, type RedisChild } from '../support/redis.js';
import { appointment, laterContract, type Publish } from './later.js';

laterContract('in memory', async (publish) => {
  const later = memoryLater({ publish });
  return { later, close: () => later.close() };
});

laterContract('on BullMQ', async (publish) => {
  const url = redisUrl();
  const namespace = randomNamespace();
  const later = await bullmqLater({ url, namespace, publish });
  return {
    later,
    async close() {
      await later.close();
      await removeKeys(url, namespace);
    },
  };
});

describe('appointments in memory', () => {
  it('go by the clock that they are given, also beyond 24 days', async () => {
    const clock = testClock();
    const published: string[] = [];
    const later = memoryLater({ clock, publish: async (_to, { body }) => void published.push(body.toString()) });
    await later.start();
    await later.schedule({ ...appointment('in a month', 0), at: clock.now() + 30 * 86_400_000 });
    await clock.advance(30 * 86_400_000 - 1);
    expect(published).toEqual([]);
    await clock.advance(1);
    expect(published).toEqual(['in a month']);
  });
});

describe('appointments on BullMQ', () => {
  it('are kept by one of several hubs', async () => {
    const url = redisUrl();
    const namespace = randomNamespace();
    const published: string[] = [];
    const publish: Publish = async (_to, { body }) => void published.push(body.toString());
    const hubs = await Promise.all([1, 2, 3].map(() => bullmqLater({ url, namespace, publish })));
    await Promise.all(hubs.map((hub) => hub.start()));
    const ids = Array.from({ length: 100 }, (_, number) => `appointment ${number}`);
    await Promise.all(ids.flatMap((id) => hubs.map((hub) => hub.schedule(appointment(id, 200)))));
    await eventually(() => expect(published.length).toBeGreaterThanOrEqual(100));
    expect([...published].sort()).toEqual([...ids].sort());
    await Promise.all(hubs.map((hub) => hub.close()));
    await removeKeys(url, namespace);
  });

  it('leave nothing behind once they were kept', async () => {
    const url = redisUrl();
    const namespace = randomNamespace();
    let count = 0;
    const later = await bullmqLater({ url, namespace, publish: async () => void count++ });
    await later.start();
    for (let number = 0; number < 20; number++) await later.schedule(appointment(`${number}`, 0));
    await eventually(() => expect(count).toBe(20));
    await withClient(url, (redis) => eventually(async () => expect(await redis.keys(`${namespace}:*:at-*`)).toEqual([])));
    await later.close();
    await removeKeys(url, namespace);
  });

  it('cannot be made where nothing answers, and the error says so within 5 s, without the password', async () => {
    const port = await freePort();
    const startedAt = performance.now();
    const error = await bullmqLater({
      url: `redis://:open-sesame@127.0.0.1:${port}`,
      namespace: 'x',
      publish: async () => undefined,
    }).catch((refused: Error) => refused);
    expect(String(error)).toMatch(new RegExp(`cannot use Redis at 127\\.0\\.0\\.1:${port} .*ECONNREFUSED`));
    expect(String(error)).not.toContain('open-sesame');
    expect(performance.now() - startedAt).toBeLessThan(6_000);
    await expect(bullmqLater({ url: 'open-sesame', namespace: 'x', publish: async () => undefined })).rejects.not.toThrow('open-sesame');
  });
});

describe('appointments on a Redis that goes away', () => {
  let child: RedisChild;
  let later: Later;
  const published: string[] = [];
  const publish: Publish = async (_to, { body }) => void published.push(body.toString());
  beforeAll(async () => {
    child = await redisChild();
    await child.start();
    later = await bullmqLater({ url: child.url, namespace: 'hub', publish });
    await later.start();
  });
  afterEach(() => child.thaw());
  afterAll(async () => {
    await later.close();
    await child.remove();
  });

  it('close while it is gone', async () => {
    const other = await bullmqLater({ url: child.url, namespace: 'hub', publish });
    await other.start();
    await child.kill();
    const startedAt = performance.now();
    await other.close();
    expect(performance.now() - startedAt).toBeLessThan(7_000);
    await child.start();
    await eventually(() => later.cancel('nothing'));
  });

  it('are refused while it is gone, and all are kept when it is back', async () => {
    await later.schedule(appointment('made before', 1_500));
    await child.kill();
    await rejectsWithin(5_000, () => later.schedule(appointment('made meanwhile', 0)));
    await rejectsWithin(5_000, () => later.cancel('made before'));
    await child.start();
    await eventually(() => later.schedule(appointment('made afterwards', 0)));
    await eventually(() => expect(published).toEqual(expect.arrayContaining(['made before', 'made afterwards'])), { withinMs: 15_000 });
    expect(published).not.toContain('made meanwhile');
  });

  it('are refused within 5 s while it hangs', async () => {
    child.freeze();
    await rejectsWithin(5_000, () => later.schedule(appointment('hung', 60_000)));
    child.thaw();
    await eventually(() => later.schedule(appointment('thawed', 0)), { withinMs: 10_000 });
    await eventually(() => expect(published).toContain('thawed'), { withinMs: 15_000 });
  });

  it('go on when what has become a replica is a primary again', async () => {
    await later.schedule(appointment('due at the replica', 100));
    await withClient(child.url, (redis) => redis.replicaof('127.0.0.1', 1));
    await rejectsWithin(5_000, () => later.schedule(appointment('refused', 0)));
    await withClient(child.url, (redis) => redis.replicaof('NO', 'ONE'));
    await eventually(() => later.schedule(appointment('promoted', 0)));
    await eventually(() => expect(published).toEqual(expect.arrayContaining(['due at the replica', 'promoted'])), { withinMs: 15_000 });
  });

  it('are published though the link that they come by breaks again and again', async () => {
    const link = await lossyLink(child.url);
    const remote = await bullmqLater({ url: link.url, namespace: 'hub', publish });
    for (let round = 0; round < 3; round++) {
      link.loseAnswers();
      await expect(remote.schedule(appointment(`round ${round}`, 0))).rejects.toThrow();
      link.mend();
      await eventually(() => remote.schedule(appointment(`round ${round}`, 0)));
    }
    await eventually(() => expect(published).toEqual(expect.arrayContaining(['round 0', 'round 1', 'round 2'])));
    await remote.close();
    await link.close();
  });
});

async function rejectsWithin(ms: number, act: () => Promise<unknown>): Promise<void> {
  const startedAt = performance.now();
  await expect(act()).rejects.toThrow(/Redis at/);
  expect(performance.now() - startedAt).toBeLessThan(ms);
}
