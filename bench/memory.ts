/** Memory: of a requestor that waits in the correlator, and of a pending record in Redis. */
import { Redis } from 'ioredis';
import type { Bench, Case, Row } from './case.js';

/** Waits of the correlator, all at once. */
const waits = 100_000;

export const memory: Case = {
  name: 'memory',
  about: [
    'The correlator: 100,000 waits in one process, each with its id, its promise and a time at which it gives up; what the heap grew by after',
    'collection. Redis: what `used_memory` grew by with pending requests that have an idempotency key and a deadline.',
  ].join(' '),
  bars: {
    'memory: per waiting requestor in the correlator': 1_000,
    'memory: timer objects of 100000 waiting requestors': 1_000,
  },
  async run(bench): Promise<readonly Row[]> {
    const child = await bench.start('memory');
    const { bytesEach, timers } = await child.tell<{ bytesEach: number; timers: number }>('waits', { waits });
    return [
      { name: 'memory: per waiting requestor in the correlator', value: bytesEach, unit: 'bytes' },
      { name: `memory: timer objects of ${waits} waiting requestors`, value: timers, unit: 'timers' },
      await perRecord(bench, bench.quick ? 10_000 : 100_000),
    ];
  },
};

/** What Redis' own count rises by. Others may use the same Redis: then it is only about right. */
async function perRecord(bench: Bench, records: number): Promise<Row> {
  const redis = new Redis(bench.redis);
  const used = async () => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))![1]);
  try {
    await bench.start('hub');
    const before = await used();
    await (await bench.start('memory')).tell('records', { records });
    return { name: 'memory: per pending record in Redis', value: ((await used()) - before) / records, unit: 'bytes' };
  } finally {
    await redis.quit();
  }
}
