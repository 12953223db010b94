import { describe, expect, it } from '@jest/globals';
import { systemClock, testClock } from '../../broker/clock.js';
import { bullmqJobs } from '../../broker/jobs-bullmq.js';
import { memoryJobs } from '../../broker/jobs-memory.js';
import type { Jobs } from '../../broker/jobs.js';
import { eventually } from '../support/eventually.js';
import { freePort, randomNamespace, redisChild, redisUrl, removeKeys, withClient } from '../support/redis.js';
import { jobsContract } from './jobs.js';

jobsContract('in memory', async () => {
  const all = memoryJobs({ clock: systemClock });
  const opened: Jobs[] = [];
  return {
    connect: () => (opened.push(all.connect()), opened.at(-1)!),
    close: async () => void (await Promise.all(opened.map((jobs) => jobs.close()))),
  };
});

jobsContract('on BullMQ', async () => {
  const url = redisUrl();
  const namespace = randomNamespace();
  const opened: Jobs[] = [];
  return {
    connect: () => (opened.push(bullmqJobs({ url, namespace })), opened.at(-1)!),
    async close() {
      await Promise.all(opened.map((jobs) => jobs.close()));
      await removeKeys(url, namespace);
    },
  };
});

const options = { concurrency: 1, stalledAfterMs: 1_000 };

describe('jobs in memory', () => {
  it('go by the clock that they are given', async () => {
    const clock = testClock();
    const jobs = memoryJobs({ clock }).connect();
    const done: string[] = [];
    await jobs.serve('report', options, async (id) => (done.push(id), 'done'));
    await jobs.add('report', 'tomorrow', { inMs: 86_400_000 });
    await clock.advance(86_400_000 - 1);
    expect(done).toEqual([]);
    await clock.advance(1);
    expect(done).toEqual(['tomorrow']);
  });

  it('that were lost are told so', async () => {
    const all = memoryJobs({ clock: systemClock });
    const jobs = all.connect();
    const lost = new Promise<void>(
      (resolve) =>
        void jobs.serve(
          'report',
          options,
          (_, signal) => new Promise((done) => signal.addEventListener('abort', () => (resolve(), done('done')))),
        ),
    );
    await jobs.add('report', 'under way');
    await Promise.resolve();
    all.lose();
    await lost;
    await jobs.close();
  });
});

describe('jobs on BullMQ', () => {
  it('leave nothing behind once they are done, and no data of theirs is there before', async () => {
    const url = redisUrl();
    const namespace = randomNamespace();
    const jobs = bullmqJobs({ url, namespace });
    await jobs.add('report', 'one');
    await withClient(url, async (redis) => {
      expect(await redis.hget(`${namespace}:${namespace}.jobs.report:one`, 'data')).toBe('null');
      let count = 0;
      await jobs.serve('report', options, async () => (count++, 'done'));
      await eventually(async () => {
        expect(count).toBe(1);
        expect(await redis.keys(`${namespace}:*:one*`)).toEqual([]);
      });
    });
    await jobs.close();
    await removeKeys(url, namespace);
  });

  it('whose lock was lost are told so, and go to another one', async () => {
    const url = redisUrl();
    const namespace = randomNamespace();
    const [jobs, other] = [bullmqJobs({ url, namespace }), bullmqJobs({ url, namespace })];
    const lost = new Promise<void>(
      (resolve) =>
        void jobs.serve(
          'report',
          options,
          (_, signal) => new Promise((done) => signal.addEventListener('abort', () => (resolve(), done('done')))),
        ),
    );
    await jobs.add('report', 'one');
    await withClient(url, async (redis) => {
      await eventually(async () => expect(await redis.del(`${namespace}:${namespace}.jobs.report:one:lock`)).toBe(1));
    });
    const done: string[] = [];
    await other.serve('report', options, async (id) => (done.push(id), 'done'));
    await lost;
    await eventually(() => expect(done).toEqual(['one']));
    await Promise.all([jobs.close(), other.close()]);
    await removeKeys(url, namespace);
  });

  it('where nothing answers are refused within 5 s, without the password', async () => {
    const port = await freePort();
    const jobs = bullmqJobs({ url: `redis://:open-sesame@127.0.0.1:${port}`, namespace: 'x' });
    const startedAt = performance.now();
    const error = await jobs.add('report', 'one').catch((refused: Error) => refused);
    expect(error).toMatchObject({ reason: 'away' });
    expect(String(error)).not.toContain('open-sesame');
    const served = await jobs.serve('report', options, async () => 'done').catch((refused: Error) => refused);
    expect(String(served)).toMatch(new RegExp(`cannot use Redis at 127\\.0\\.0\\.1:${port} .*ECONNREFUSED`));
    expect(performance.now() - startedAt).toBeLessThan(12_000);
    await jobs.close();
  });

  it('go on when a Redis that was away is back', async () => {
    const child = await redisChild();
    await child.start();
    const jobs = bullmqJobs({ url: child.url, namespace: 'hub' });
    const done: string[] = [];
    await jobs.add('report', 'before');
    await child.kill();
    const startedAt = performance.now();
    await expect(jobs.add('report', 'meanwhile')).rejects.toMatchObject({ reason: 'away' });
    expect(performance.now() - startedAt).toBeLessThan(5_500);
    await child.start();
    await jobs.serve('report', options, async (id) => (done.push(id), 'done'));
    await eventually(() => jobs.add('report', 'afterwards'));
    await eventually(() => expect(done).toEqual(['before', 'afterwards']));
    await child.kill();
    const closedAt = performance.now();
    await jobs.close();
    expect(performance.now() - closedAt).toBeLessThan(13_000);
    await child.remove();
  });
});
