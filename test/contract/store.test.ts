import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { testClock } from '../../broker/clock.js';
import { memoryState } from '../../broker/store-memory.js';
import { redisStore } from '../../broker/store-redis.js';
import type { NewRecord, Outcome, Store } from '../../broker/store.js';
import { eventually } from '../support/eventually.js';
import { freePort, lossyLink, randomNamespace, redisChild, redisUrl, removeKeys, withClient, type RedisChild } from '../support/redis.js';
import { amendingContract } from './amending.js';
import { dossierContract } from './dossiers.js';
import { restoringContract } from './restoring.js';
import { completed, storeContract, type StoreBench } from './store.js';

async function inMemory(options: { readonly retentionMs: number }): Promise<StoreBench> {
  const state = memoryState(options);
  return { connect: async () => state.connect(), lose: async () => state.lose(), close: async () => undefined };
}

async function onRedis({ retentionMs }: { readonly retentionMs: number }): Promise<StoreBench> {
  const url = redisUrl();
  const namespace = randomNamespace();
  const stores: Store[] = [];
  return {
    async connect() {
      const store = await redisStore({ url, namespace, retentionMs });
      stores.push(store);
      return store;
    },
    lose: () => removeKeys(url, namespace),
    async close() {
      await Promise.all(stores.map((store) => store.close()));
      await removeKeys(url, namespace);
    },
  };
}

storeContract('memory', inMemory);
storeContract('Redis', onRedis);
restoringContract('memory', inMemory);
restoringContract('Redis', onRedis);
dossierContract('memory', inMemory);
dossierContract('Redis', onRedis);
amendingContract('memory', inMemory);
amendingContract('Redis', onRedis);

const record = (id: string, more: Partial<NewRecord> = {}): NewRecord => ({
  id,
  flow: 'loan.quote',
  state: 'accepted',
  acceptedAt: Date.now(),
  deadline: Date.now() + 60_000,
  published: false,
  ...more,
});
const outcome = (text: string): Outcome => ({ kind: 'reply', body: Buffer.from(text), contentType: 'text/plain', at: 1 });

describe('the store in memory', () => {
  it('goes by the clock that it is given', async () => {
    const clock = testClock();
    const store = await completed(memoryState({ clock, retentionMs: 1_000 }).connect());
    await store.create(record('a', { deadline: clock.now() + 500 }));
    expect(await store.due(1)).toEqual([]);
    await clock.advance(500);
    expect(await store.due(1)).toEqual(['a']);
    await store.settle('a', outcome('x'), true);
    await clock.advance(1_000);
    expect(await store.get('a')).toBeUndefined();
  });

  it('hands out copies: nobody changes a record by holding it', async () => {
    const store = await completed(memoryState().connect());
    await store.create(record('a'));
    const before = await store.get('a');
    await store.report('a', { state: 'running' });
    expect(before).toMatchObject({ state: 'accepted' });
  });
});

describe('opening the store on Redis', () => {
  const children: RedisChild[] = [];
  const startChild = async (...settings: string[]) => {
    const child = await redisChild(...settings);
    children.push(child);
    await child.start();
    return child;
  };
  afterAll(() => Promise.all(children.map((child) => child.remove())));

  it('says within 5 s where nothing answers and how to mend it', async () => {
    const port = await freePort();
    const startedAt = performance.now();
    await expect(redisStore({ url: `redis://ann:secret@127.0.0.1:${port}`, namespace: 'x' })).rejects.toThrow(
      new RegExp(`^cannot use Redis at 127\\.0\\.0\\.1:${port}: .*ECONNREFUSED.*Start it`),
    );
    expect(performance.now() - startedAt).toBeLessThan(6_000);
  });

  it('never tells the password', async () => {
    const url = `redis://ann:open-sesame@127.0.0.1:${await freePort()}`;
    const error = await redisStore({ url, namespace: 'x' }).catch((refused: Error) => refused);
    expect(String(error)).not.toContain('open-sesame');
    await expect(redisStore({ url: 'open-sesame', namespace: 'x' })).rejects.not.toThrow('open-sesame');
  });

  it('says at once that the password is wrong', async () => {
    const { port } = await startChild('--requirepass', 'right');
    const startedAt = performance.now();
    await expect(redisStore({ url: `redis://127.0.0.1:${port}`, namespace: 'x' })).rejects.toThrow(
      /NOAUTH.*Put user and password into the URL/,
    );
    await expect(redisStore({ url: `redis://:wrong@127.0.0.1:${port}`, namespace: 'x' })).rejects.toThrow(
      /WRONGPASS.*Put user and password into the URL/,
    );
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    const store = await redisStore({ url: `redis://:right@127.0.0.1:${port}`, namespace: 'x' });
    expect(await store.time()).toBeGreaterThan(0);
    await store.close();
  });

  it('refuses a Redis that may drop requests, with the command that mends it', async () => {
    const { url, port } = await startChild('--maxmemory-policy', 'allkeys-lru');
    await expect(redisStore({ url, namespace: 'x' })).rejects.toThrow(
      `redis-cli -h 127.0.0.1 -p ${port} CONFIG SET maxmemory-policy noeviction`,
    );
  });

  it('waits for a Redis that is about to start', async () => {
    const child = await redisChild();
    children.push(child);
    const opening = redisStore({ url: child.url, namespace: 'x' });
    await child.start();
    await (await opening).close();
  });
});

describe('the store on a Redis that goes away', () => {
  let child: RedisChild;
  let store: Store;
  beforeAll(async () => {
    child = await redisChild();
    await child.start();
    store = await completed(await redisStore({ url: child.url, namespace: 'hub' }));
  });
  afterEach(async () => {
    child.thaw();
  });
  afterAll(async () => {
    await store.close();
    await child.remove();
  });

  it('rejects at once while it is gone, and works again, watchers too, when it is back', async () => {
    const woken: string[] = [];
    const stop = await store.watch((id) => woken.push(id));
    await store.create(record('before'));
    await child.kill();
    await rejectsWithin(2_100, () => store.time(), /Redis at 127\.0\.0\.1/);
    await rejectsWithin(2_100, () => store.create(record('meanwhile')), /Redis at/);
    await child.start();
    await eventually(() => store.time(), { withinMs: 5_000 });
    // Its last writes may be gone: nobody goes by it before it was looked at.
    await expect(store.get('before')).rejects.toMatchObject({ reason: 'incomplete' });
    expect(await store.condition()).toEqual({ complete: false, since: expect.any(Number) });
    await completed(store);
    expect(await store.get('before')).toMatchObject({ id: 'before' });
    expect(await store.get('meanwhile')).toBeUndefined();
    await eventually(async () => {
      await store.report('before', { progress: { percent: woken.length } });
      expect(woken.slice(1)).toContain('before');
    });
    await stop();
  });

  it('rejects within 2 s while it hangs', async () => {
    child.freeze();
    await rejectsWithin(2_500, () => store.time(), /timed out/);
    await rejectsWithin(2_500, () => store.settle('x', outcome('y'), true), /Redis at/);
    child.thaw();
    await eventually(() => store.time(), { withinMs: 5_000 });
  });

  it('closes while it is gone', async () => {
    const other = await redisStore({ url: child.url, namespace: 'hub' });
    await other.watch(() => undefined);
    await child.kill();
    const startedAt = performance.now();
    await other.close();
    expect(performance.now() - startedAt).toBeLessThan(3_000);
    await child.start();
    await eventually(() => completed(store));
  });

  it('finds what was done when the answer got lost, and does it once', async () => {
    const link = await lossyLink(child.url);
    const remote = await redisStore({ url: link.url, namespace: 'hub' });
    const claim = { scope: 's', fingerprint: 'f' };
    const lost = async (act: () => Promise<unknown>) => {
      link.loseAnswers();
      await expect(act()).rejects.toThrow(/Redis at/);
      link.mend();
      await eventually(() => remote.time());
    };

    await lost(() => remote.create(record('twice', { claim })));
    expect(await remote.create(record('twice', { claim }))).toMatchObject({ result: 'exists', sameBody: true, record: { id: 'twice' } });

    const report = () => remote.report('twice', { state: 'running' }, { name: 'step', data: { step: 'a' } });
    await lost(report);
    await report();

    await lost(() => remote.settle('twice', outcome('x'), true));
    expect(await remote.settle('twice', outcome('x'), true)).toBe('same');
    // Several may have brought it to the broker: it is shown when the journal has it.
    await lost(() => remote.show('twice', outcome('x')));
    await remote.show('twice', outcome('x'));
    expect((await remote.events('twice', 0)).map(({ name }) => name)).toEqual(['state', 'state', 'step', 'outcome']);

    await remote.openGroup({ id: 'g', requestId: 'twice', members: ['a', 'b'], deadline: Date.now() + 60_000 });
    const part = () => remote.addPart('g', { index: 0, kind: 'reply', body: Buffer.from('p'), contentType: 'text/plain', at: 1 }, 2, true);
    await lost(part);
    expect(await part()).toMatchObject({ state: 'open', parts: [{ index: 0 }] });

    await remote.close();
    await link.close();
  });

  it('leaves a connection that is silently dead', async () => {
    const link = await lossyLink(child.url);
    const remote = await redisStore({ url: link.url, namespace: 'hub' });
    link.deaden();
    await rejectsWithin(2_500, () => remote.time(), /timed out/);
    await eventually(() => remote.time(), { withinMs: 5_000 });
    await remote.close();
    await link.close();
  });

  it('refuses to write to what has become a replica, and goes on when it is a primary again', async () => {
    await store.create(record('promoted'));
    await withClient(child.url, (redis) => redis.replicaof('127.0.0.1', 1));
    await rejectsWithin(2_500, () => store.settle('promoted', outcome('x'), true), /READONLY/);
    await withClient(child.url, (redis) => redis.replicaof('NO', 'ONE'));
    await eventually(async () => expect(await store.settle('promoted', outcome('x'), true)).toBe('won'));
  });

  it('goes on when somebody flushes the scripts', async () => {
    await store.create(record('flushed'));
    await withClient(child.url, (redis) => redis.script('FLUSH'));
    await store.report('flushed', { state: 'running' });
    expect(await store.get('flushed')).toMatchObject({ state: 'running' });
  });

  it('fails without half a change when the memory is full', async () => {
    await withClient(child.url, (redis) => redis.config('SET', 'maxmemory', '1'));
    try {
      await expect(store.create(record('full', { claim: { scope: 'full', fingerprint: 'f' } }))).rejects.toThrow(/OOM/);
      expect(await store.get('full')).toBeUndefined();
    } finally {
      await withClient(child.url, (redis) => redis.config('SET', 'maxmemory', '0'));
    }
    expect(await store.create(record('full', { claim: { scope: 'full', fingerprint: 'f' } }))).toEqual({ result: 'created' });
  });
});

describe('what the store keeps on Redis', () => {
  it('is small for a pending request, and expires by itself', async () => {
    const url = redisUrl();
    const namespace = randomNamespace();
    const store = await completed(await redisStore({ url, namespace }));
    const id = '01953c1e-7d7e-7c3a-9f5e-2b7d1c0a4e55';
    await store.create(record(id, { principal: 'ann', key: 'C-1042', claim: { scope: 'a'.repeat(43), fingerprint: 'f'.repeat(43) } }));
    await store.report(id, { published: true, state: 'running', step: 'credit.score', attempt: 1 });
    await withClient(url, async (redis) => {
      expect(await redis.object('ENCODING', `${namespace}:request:${id}`)).toMatch(/listpack|ziplist/);
      const keys = await redis.keys(`${namespace}:*`);
      const expiring = keys.filter((key) => !/:(deadlines|owed|position|complete(:\w+)?)$/.test(key));
      expect(expiring).toHaveLength(3);
      for (const key of expiring) expect(await redis.pttl(key)).toBeGreaterThan(86_400_000);
    });
    await store.close();
    await removeKeys(url, namespace);
  });
});

/** By a timer, not by the clock: where the event loop is late, both are, and the one that is due first is first. */
async function rejectsWithin(ms: number, act: () => Promise<unknown>, reason: RegExp): Promise<void> {
  let isOver = false;
  const timer = setTimeout(() => (isOver = true), ms);
  await expect(act()).rejects.toThrow(reason);
  clearTimeout(timer);
  expect(isOver).toBe(false);
}
