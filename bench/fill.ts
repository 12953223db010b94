/** Ends that fill: a correlator with waits, a store with pending requests. */
import { createHash } from 'node:crypto';
import { anonymous } from '../broker/access.js';
import { systemClock } from '../broker/clock.js';
import { openCorrelator } from '../broker/correlator.js';
import { newId } from '../broker/envelope.js';
import { redisStore } from '../broker/store-redis.js';
import type { Store } from '../broker/store.js';
import type { End, EndSettings } from './ends.js';

/** `waits`: how much so many waits take. `records`: puts so many pending requests into the store, with keys; a hub must be there, since a store is complete when a hub says so. */
export async function memoryEnd({ redis, namespace }: EndSettings): Promise<End> {
  const store = await redisStore({ url: redis, namespace });
  return {
    tell: async (what, settings) => (what === 'waits' ? heldBy(Number(settings['waits'])) : fillStore(store, Number(settings['records']))),
    close: () => store.close(),
  };
}

/** Each with its id and its promise, spread over holds of 20 to 40 s. */
async function heldBy(waits: number): Promise<{ bytesEach: number; timers: number }> {
  const correlator = openCorrelator(systemClock);
  const timersNow = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const [heap, timers] = [await usedHeap(), timersNow()];
  const held = Array.from({ length: waits }, (_, index) => {
    const wait = correlator.expect(newId(), true);
    return wait.within(20_000 + (index % 20_000));
  });
  const result = { bytesEach: ((await usedHeap()) - heap) / waits, timers: timersNow() - timers };
  correlator.letGo();
  await Promise.all(held);
  return result;
}

async function usedHeap(): Promise<number> {
  // Twice: the first collection may leave what its finalizers hold.
  for (let time = 0; time < 2; time++) {
    globalThis.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().heapUsed;
}

const dayMs = 86_400_000;
const atOnce = 500;

async function fillStore(store: Store, records: number): Promise<void> {
  let left = records;
  const filler = async () => {
    while (left-- > 0) {
      const id = newId();
      const now = Date.now();
      await store.create({
        id,
        flow: 'journal',
        state: 'accepted',
        acceptedAt: now,
        deadline: now + dayMs,
        published: true,
        principal: anonymous.name,
        claim: { scope: createHash('sha256').update(id).digest('hex'), fingerprint: id },
      });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, filler));
}
