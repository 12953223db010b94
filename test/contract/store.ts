/** What every store does, whoever keeps the state: runs on Redis and on memory (`store.test.ts`). */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Claim, GroupState, NewRecord, Outcome, OutcomeKind, Part, Store } from '../../broker/store.js';
import { eventually } from '../support/eventually.js';

export interface StoreBench {
  /** One more connection to the same state, as another hub has it. */
  connect(): Promise<Store>;
  /** Everything is lost. */
  lose(): Promise<void>;
  /** Closes the connections and forgets the state. */
  close(): Promise<void>;
}

const day = 86_400_000;

/** Declares a new state complete, as a hub does that finds nothing in the journal. */
export async function completed(store: Store): Promise<Store> {
  if ((await store.condition()).complete) return store;
  await store.lease('rebuild', 'test', 10_000);
  await store.restoring('test').complete();
  return store;
}

export function storeContract(name: string, open: (options: { readonly retentionMs: number }) => Promise<StoreBench>): void {
  describe(`the store on ${name}`, () => {
    let bench: StoreBench;
    let store: Store;
    let others: Store[];
    const stops: (() => Promise<void>)[] = [];

    beforeAll(async () => {
      bench = await open({ retentionMs: day });
      store = await completed(await bench.connect());
      others = await Promise.all([bench.connect(), bench.connect(), bench.connect()]);
    });
    afterEach(async () => {
      for (const stop of stops.splice(0)) await stop();
    });
    afterAll(() => bench?.close());

    /** A store that forgets after `retentionMs`. */
    async function forgetful(retentionMs: number): Promise<Store> {
      const own = await open({ retentionMs });
      stops.push(() => own.close());
      return completed(await own.connect());
    }

    /** Spreads work over four connections. */
    const hub = (number: number): Store => [store, ...others][number % 4] as Store;
    const many = <T>(count: number, act: (store: Store, number: number) => Promise<T>): Promise<T[]> =>
      Promise.all(Array.from({ length: count }, (_, number) => act(hub(number), number)));

    async function accepted(more: Partial<NewRecord> = {}, claim?: Claim): Promise<string> {
      const record = aRequest(more);
      expect(await store.create(claim === undefined ? record : { ...record, claim })).toEqual({ result: 'created' });
      return record.id;
    }

    describe('its clock', () => {
      it('tells the time in ms since 1970', async () => {
        expect(Math.abs((await store.time()) - Date.now())).toBeLessThan(1_000);
      });
    });

    describe('a new request', () => {
      it('is there as it was created', async () => {
        const record = aRequest({
          principal: 'ann',
          key: 'C-1042',
          forward: { queue: 'their.replies', correlationId: 'their-7' },
          conversation: { id: 'their talk', place: 3, ref: 'mine "☎"' },
        });
        expect(await store.create(record)).toEqual({ result: 'created' });
        const kept = await hub(1).get(record.id);
        expect(kept).toEqual({ ...record, updatedAt: expect.any(Number), shown: false });
        expect(Math.abs((kept?.updatedAt ?? 0) - Date.now())).toBeLessThan(1_000);
      });

      it('has no property that was not given', async () => {
        const id = await accepted();
        expect(Object.keys((await store.get(id)) ?? {}).sort()).toEqual([
          'acceptedAt',
          'deadline',
          'flow',
          'id',
          'published',
          'shown',
          'state',
          'updatedAt',
        ]);
      });

      it('is undefined under an id that nobody has', async () => {
        expect(await store.get(randomUUID())).toBeUndefined();
      });

      it('is created once, however often the same is asked for', async () => {
        const record = aRequest();
        await store.create(record);
        const again = await store.create({ ...record, flow: 'another' });
        expect(again).toMatchObject({ result: 'exists', sameBody: true, record: { id: record.id, flow: record.flow } });
        expect(await store.events(record.id, 0)).toHaveLength(1);
      });

      it('keeps names in any script and hands them back untouched', async () => {
        const id = await accepted({ key: 'ключ "q" \n 🜁 %', principal: '__proto__', forward: { queue: 'a b:c' } });
        expect(await store.get(id)).toMatchObject({ key: 'ключ "q" \n 🜁 %', principal: '__proto__', forward: { queue: 'a b:c' } });
      });
    });

    describe('an idempotency key', () => {
      it('leads a repetition to the request that has it', async () => {
        const claim = aClaim();
        const id = await accepted({}, claim);
        expect(await hub(1).create({ ...aRequest(), claim })).toMatchObject({ result: 'exists', sameBody: true, record: { id } });
      });

      it('creates nothing for a repetition', async () => {
        const claim = aClaim();
        await accepted({}, claim);
        const repetition = aRequest();
        await store.create({ ...repetition, claim });
        expect(await store.get(repetition.id)).toBeUndefined();
        expect(await store.due(1_000)).not.toContain(repetition.id);
      });

      it('says when it comes with another body', async () => {
        const claim = aClaim();
        await accepted({}, claim);
        expect(await store.create({ ...aRequest(), claim: { ...claim, fingerprint: 'another' } })).toMatchObject({
          result: 'exists',
          sameBody: false,
        });
      });

      it('compares bodies too when the same id comes again', async () => {
        const claim = aClaim();
        const record = aRequest();
        await store.create({ ...record, claim });
        expect(await store.create({ ...record, claim })).toMatchObject({ result: 'exists', sameBody: true });
        expect(await store.create({ ...record, claim: { ...claim, fingerprint: 'another' } })).toMatchObject({
          result: 'exists',
          sameBody: false,
        });
        expect(await store.create(record)).toMatchObject({ result: 'exists', sameBody: true });
      });

      it('is one among 100 that come at once', async () => {
        const claim = aClaim();
        const results = await many(100, (one) => one.create({ ...aRequest(), claim }));
        const created = results.filter(({ result }) => result === 'created');
        const holders = new Set(results.flatMap((made) => (made.result === 'exists' ? [made.record.id] : [])));
        expect(created).toHaveLength(1);
        expect(holders.size).toBe(1);
      });

      it('still leads there when the request has its outcome', async () => {
        const claim = aClaim();
        const id = await accepted({}, claim);
        await store.settle(id, reply('done'), true);
        expect(await store.create({ ...aRequest(), claim })).toMatchObject({
          result: 'exists',
          record: { id, state: 'replied', outcome: { kind: 'reply' } },
        });
      });
    });

    describe('taking a request back', () => {
      it('forgets it and frees its key', async () => {
        const claim = aClaim();
        const id = await accepted({ deadline: Date.now() - 1 }, claim);
        await store.discard(id);
        expect(await store.get(id)).toBeUndefined();
        expect(await store.events(id, 0)).toEqual([]);
        expect(await store.due(1_000)).not.toContain(id);
        expect(await store.create({ ...aRequest(), claim })).toEqual({ result: 'created' });
      });

      it('may be said twice, and of a request that never was', async () => {
        const id = await accepted();
        await store.discard(id);
        await store.discard(id);
        await store.discard(randomUUID());
      });

      it('leaves a key alone that another request has by now', async () => {
        const claim = aClaim();
        const first = await accepted({}, claim);
        await store.discard(first);
        const second = await accepted({}, claim);
        await store.discard(first);
        expect(await store.create({ ...aRequest(), claim })).toMatchObject({ result: 'exists', record: { id: second } });
      });

      it('leaves one alone that somebody else has brought to the broker meanwhile, if it is asked to', async () => {
        const ids = [await accepted(), await accepted(), await accepted()] as const;
        await store.report(ids[0], { published: true });
        await store.report(ids[1], { state: 'running' });
        for (const id of ids) await store.discard(id, { unpublished: true });
        expect((await Promise.all(ids.map((id) => store.get(id)))).map((found) => found?.id)).toEqual([ids[0], ids[1], undefined]);
      });

      it('is too late once there is an outcome', async () => {
        const id = await accepted();
        await store.settle(id, reply('done'), false);
        await store.discard(id);
        expect(await store.get(id)).toMatchObject({ outcome: { kind: 'reply' } });
      });

      it('never takes back a request that won an outcome at the same moment', async () => {
        const ids = await Promise.all(Array.from({ length: 50 }, () => accepted()));
        const settled = await Promise.all(
          ids.map(
            async (id, number) => (await Promise.all([hub(number).settle(id, reply('done'), false), hub(number + 1).discard(id)]))[0],
          ),
        );
        const records = await Promise.all(ids.map((id) => store.get(id)));
        expect(records.map((record) => (record === undefined ? 'unknown' : 'won'))).toEqual(settled);
      });
    });

    describe('a request that supersedes', () => {
      it('takes the place of those before it that have no outcome, by every connection', async () => {
        const supersedes = randomUUID();
        const [first, second] = [await accepted({ supersedes }), await accepted({ supersedes })];
        await accepted({ supersedes: randomUUID() });
        const third = await accepted({ supersedes });
        expect(await store.get(third)).toMatchObject({ supersedes });
        expect(await hub(1).superseded(third)).toEqual([first, second]);
        expect(await store.superseded(second)).toEqual([first]);
        expect(await store.superseded(first)).toEqual([]);
        await store.settle(first, reply('x'), true);
        expect(await store.superseded(third)).toEqual([second]);
        await store.discard(second);
        expect(await store.superseded(third)).toEqual([]);
      });

      it('takes no place any more once it has an outcome, and none without saying so', async () => {
        const supersedes = randomUUID();
        await accepted({ supersedes });
        const second = await accepted({ supersedes });
        await store.settle(second, reply('x'), false);
        expect(await store.superseded(second)).toEqual([]);
        expect(await store.superseded(await accepted())).toEqual([]);
        expect(await store.superseded(randomUUID())).toEqual([]);
      });

      it('has one place among 100 that come at once', async () => {
        const supersedes = randomUUID();
        const ids = await many(100, async (at) => {
          const record = aRequest({ supersedes });
          await at.create(record);
          return { id: record.id, before: (await at.superseded(record.id)).length };
        });
        const all = await Promise.all(ids.map(async ({ id }) => (await store.superseded(id)).length));
        expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, n) => n));
        // Whoever came later saw all that came before.
        ids.forEach(({ before }, n) => expect(before).toBe(all[n]));
      });
    });

    describe('a report', () => {
      it('says where the request is', async () => {
        const id = await accepted();
        await store.report(id, {
          state: 'waiting',
          step: 'bank.offer',
          attempt: 2,
          waitingOn: 'retry:2/4 in 5s',
          published: true,
          progress: { percent: 40, message: 'half' },
        });
        expect(await hub(1).get(id)).toMatchObject({
          state: 'waiting',
          step: 'bank.offer',
          attempt: 2,
          waitingOn: 'retry:2/4 in 5s',
          published: true,
          progress: { percent: 40, message: 'half' },
        });
      });

      it('changes only what it names', async () => {
        const id = await accepted({ published: true });
        await store.report(id, { state: 'running', step: 'credit.score', attempt: 1 });
        await store.report(id, { progress: { percent: 5 } });
        expect(await store.get(id)).toMatchObject({
          state: 'running',
          step: 'credit.score',
          attempt: 1,
          published: true,
          progress: { percent: 5 },
        });
      });

      it('never says that a published request is not published', async () => {
        const id = await accepted({ published: true });
        await store.report(id, { published: false });
        expect(await store.get(id)).toMatchObject({ published: true });
      });

      it('counts only from the state that it names', async () => {
        const id = await accepted();
        const waits = { published: true, state: 'waiting', step: 'price', waitingOn: 'foreign worker of price', from: 'accepted' } as const;
        const event = { name: 'step', data: { step: 'price', attempt: 1 } } as const;
        expect(await store.report(id, waits, event)).toBe(true);
        expect(await store.get(id)).toMatchObject({ published: true, state: 'waiting', waitingOn: 'foreign worker of price' });
        const other = await accepted();
        await store.report(other, { state: 'running', step: 'bill' });
        expect(await store.report(other, waits, event)).toBe(true);
        expect(await store.get(other)).toMatchObject({ published: false, state: 'running', step: 'bill' });
        expect(await store.events(other, 0)).toHaveLength(2);
        expect(await store.report(randomUUID(), waits, event)).toBe(false);
      });

      it('clears what the request waits for', async () => {
        const id = await accepted();
        await store.report(id, { state: 'waiting', waitingOn: 'parts: 0 of 3' });
        await store.report(id, { waitingOn: null });
        expect(await store.get(id)).not.toHaveProperty('waitingOn');
        await store.report(id, { waitingOn: 'parts: 1 of 3' });
        await store.report(id, { state: 'running' });
        expect(await store.get(id)).not.toHaveProperty('waitingOn');
      });

      it('tells watchers the new state, then its own event', async () => {
        const id = await accepted();
        await store.report(
          id,
          { state: 'waiting', waitingOn: 'parts: 0 of 3' },
          { name: 'step', data: { step: 'bank.offer', attempt: 1 } },
        );
        await store.report(id, { state: 'waiting' });
        expect((await store.events(id, 0)).map(({ name, data }) => [name, data])).toEqual([
          ['state', { state: 'accepted' }],
          ['state', { state: 'waiting', waitingOn: 'parts: 0 of 3' }],
          ['step', { step: 'bank.offer', attempt: 1 }],
        ]);
      });

      it('that is made twice is told once', async () => {
        const id = await accepted();
        const report = () =>
          store.report(id, { state: 'running', step: 'a', attempt: 1 }, { name: 'step', data: { step: 'a', attempt: 1 } });
        await report();
        await report();
        expect(await store.events(id, 1)).toHaveLength(2);
      });

      it('of a request that is not there does nothing', async () => {
        const id = randomUUID();
        await store.report(id, { state: 'running' }, { name: 'step', data: {} });
        expect(await store.get(id)).toBeUndefined();
        expect(await store.events(id, 0)).toEqual([]);
      });

      it('that comes after the outcome does nothing', async () => {
        const id = await accepted();
        await store.settle(id, reply('done'), false);
        await store.report(id, { state: 'running', step: 'late' }, { name: 'step', data: { step: 'late' } });
        await store.show(id, reply('done'));
        await store.report(id, { state: 'running', step: 'late' }, { name: 'step', data: { step: 'late' } });
        const record = await store.get(id);
        expect(record).toMatchObject({ state: 'replied' });
        expect(record).not.toHaveProperty('step');
        expect((await store.events(id, 0)).map(({ name }) => name)).toEqual(['state', 'outcome']);
      });
    });

    describe('the outcome', () => {
      it('keeps its bytes as they are', async () => {
        const body = Buffer.from(Array.from({ length: 70_000 }, (_, at) => at % 256));
        const outcome: Outcome = {
          kind: 'reply',
          body,
          contentType: 'application/x-thing; v="1"',
          contentEncoding: 'gzip',
          parts: 3,
          at: 1_795_413_590_123,
        };
        const id = await accepted();
        expect(await store.settle(id, outcome, true)).toBe('won');
        expect((await hub(2).get(id))?.outcome).toEqual(outcome);
      });

      it('may be empty', async () => {
        const id = await accepted();
        await store.settle(id, reply(''), true);
        expect((await store.get(id))?.outcome?.body).toEqual(Buffer.alloc(0));
      });

      it.each<[OutcomeKind, string]>([
        ['reply', 'replied'],
        ['fault', 'faulted'],
        ['timeout', 'timed-out'],
        ['cancelled', 'cancelled'],
      ])('%s makes the request %s', async (kind, state) => {
        const id = await accepted();
        await store.settle(id, { ...reply('x'), kind }, true);
        expect(await store.get(id)).toMatchObject({ state, shown: true, outcome: { kind } });
        expect((await store.events(id, 1)).map(({ name, data }) => [name, data])).toEqual([['outcome', { state, kind }]]);
      });

      it('that is not shown leaves the state as it was and tells nobody', async () => {
        const id = await accepted();
        await store.report(id, { state: 'waiting', waitingOn: 'retry' });
        await store.settle(id, reply('done'), false);
        expect(await store.get(id)).toMatchObject({ state: 'waiting', waitingOn: 'retry', shown: false, outcome: { kind: 'reply' } });
        expect((await store.events(id, 0)).map(({ name }) => name)).not.toContain('outcome');
      });

      it('is shown once, however often that is said', async () => {
        const id = await accepted();
        await store.report(id, { state: 'waiting', waitingOn: 'retry' });
        await store.settle(id, reply('done'), false);
        await many(10, (one) => one.show(id, reply('done')));
        const record = await store.get(id);
        expect(record).toMatchObject({ state: 'replied', shown: true });
        expect(record).not.toHaveProperty('waitingOn');
        expect((await store.events(id, 0)).filter(({ name }) => name === 'outcome')).toHaveLength(1);
      });

      it('is not there to be shown before it is', async () => {
        const id = await accepted();
        expect(await store.show(id, reply('x'))).toBe(false);
        await store.forwarded(id);
        expect(await store.get(id)).toMatchObject({ state: 'accepted', shown: false });
      });

      it('is not shown when another one was meant', async () => {
        const id = await accepted();
        await store.settle(id, reply('done'), false);
        expect(await store.show(id, reply('something else'))).toBe(false);
        expect(await store.get(id)).toMatchObject({ shown: false });
        expect(await store.show(id, reply('done'))).toBe(true);
        expect(await store.show(id, reply('done'))).toBe(true);
        expect(await store.show(randomUUID(), reply('done'))).toBe(false);
      });

      it('that comes twice is the same', async () => {
        const id = await accepted();
        expect(await store.settle(id, reply('done'), false)).toBe('won');
        expect(await hub(1).settle(id, { ...reply('done'), at: 1 }, false)).toBe('same');
        expect(await store.get(id)).toMatchObject({ shown: false });
      });

      it('that comes twice, the second time with the journal behind it, is shown', async () => {
        const id = await accepted();
        await store.settle(id, reply('done'), false);
        expect(await store.settle(id, reply('done'), true)).toBe('same');
        expect(await store.get(id)).toMatchObject({ state: 'replied', shown: true });
      });

      it('that comes second is late, by its bytes or by its kind', async () => {
        const id = await accepted();
        await store.settle(id, reply('first'), true);
        expect(await store.settle(id, reply('second'), true)).toBe('late');
        expect(await store.settle(id, { ...reply('first'), kind: 'fault' }, true)).toBe('late');
        expect((await store.get(id))?.outcome?.body.toString()).toBe('first');
      });

      it('of a request that is not there is unknown', async () => {
        expect(await store.settle(randomUUID(), reply('x'), true)).toBe('unknown');
      });

      it('is one for each request among 1,000 different ones at once', async () => {
        const ids = await Promise.all(Array.from({ length: 20 }, () => accepted()));
        const results = await many(1_000, async (one, number) => {
          const id = ids[number % ids.length] as string;
          return { id, body: `outcome ${number}`, settled: await one.settle(id, reply(`outcome ${number}`), number % 3 === 0) };
        });
        for (const id of ids) {
          const won = results.filter((result) => result.id === id && result.settled === 'won');
          expect(won).toHaveLength(1);
          expect((await store.get(id))?.outcome?.body.toString()).toBe(won[0]?.body);
        }
        expect(new Set(results.map(({ settled }) => settled))).toEqual(new Set(['won', 'late']));
      });
    });

    describe('deadlines', () => {
      it('that have passed are due, oldest first, as many as asked for', async () => {
        const bench = await forgetful(day);
        const now = await bench.time();
        const ids: string[] = [];
        for (const ago of [100, 300, 200, -60_000]) {
          const record = aRequest({ deadline: now - ago });
          ids.push(record.id);
          await bench.create(record);
        }
        expect(await bench.due(10)).toEqual([ids[1], ids[2], ids[0]]);
        expect(await bench.due(2)).toEqual([ids[1], ids[2]]);
      });

      it('come due when their time comes', async () => {
        const bench = await forgetful(day);
        const record = aRequest({ deadline: (await bench.time()) + 150 });
        await bench.create(record);
        expect(await bench.due(10)).toEqual([]);
        await eventually(async () => expect(await bench.due(10)).toEqual([record.id]));
        expect(await bench.time()).toBeGreaterThanOrEqual(record.deadline);
      });

      it('are gone with the outcome, shown or not', async () => {
        const bench = await forgetful(day);
        const record = aRequest({ deadline: (await bench.time()) - 1 });
        await bench.create(record);
        await bench.settle(record.id, reply('just in time'), false);
        expect(await bench.due(10)).toEqual([]);
      });
    });

    describe('what is owed', () => {
      it('is an outcome that is not shown, until it is', async () => {
        const bench = await forgetful(day);
        const record = aRequest();
        await bench.create(record);
        await bench.settle(record.id, reply('x'), false);
        expect(await bench.owed(0, 10)).toEqual([record.id]);
        expect(await bench.owed(60_000, 10)).toEqual([]);
        await bench.show(record.id, reply('x'));
        expect(await bench.owed(0, 10)).toEqual([]);
      });

      it('is an outcome that is not forwarded though it must be', async () => {
        const bench = await forgetful(day);
        const record = aRequest({ forward: { queue: 'their.replies' } });
        await bench.create(record);
        await bench.settle(record.id, reply('x'), true);
        expect(await bench.owed(0, 10)).toEqual([record.id]);
        expect(await bench.get(record.id)).not.toHaveProperty('forwarded');
        await bench.forwarded(record.id);
        await bench.forwarded(record.id);
        expect(await bench.owed(0, 10)).toEqual([]);
        expect(await bench.get(record.id)).toMatchObject({ forwarded: true });
      });

      it('is still the showing when the forwarding came first', async () => {
        const bench = await forgetful(day);
        const record = aRequest({ forward: { queue: 'their.replies' } });
        await bench.create(record);
        await bench.settle(record.id, reply('x'), false);
        await bench.forwarded(record.id);
        expect(await bench.owed(0, 10)).toEqual([record.id]);
        await bench.show(record.id, reply('x'));
        expect(await bench.owed(0, 10)).toEqual([]);
      });

      it('is nothing of a request that was settled and shown at once', async () => {
        const bench = await forgetful(day);
        const record = aRequest();
        await bench.create(record);
        await bench.settle(record.id, reply('x'), true);
        expect(await bench.owed(0, 10)).toEqual([]);
      });

      it('comes oldest first, as many as asked for', async () => {
        const bench = await forgetful(day);
        const ids: string[] = [];
        for (let number = 0; number < 4; number++) {
          const record = aRequest();
          ids.push(record.id);
          await bench.create(record);
          await bench.settle(record.id, reply('x'), false);
          const settledAt = await bench.time();
          await eventually(async () => expect(await bench.time()).toBeGreaterThan(settledAt));
        }
        expect(await bench.owed(0, 3)).toEqual(ids.slice(0, 3));
      });
    });

    describe('retention', () => {
      it('forgets request, events and key some time after the outcome', async () => {
        const bench = await forgetful(150);
        const claim = aClaim();
        const record = aRequest();
        await bench.create({ ...record, claim });
        await bench.settle(record.id, reply('x'), true);
        expect(await bench.get(record.id)).toBeDefined();
        await eventually(async () => expect(await bench.get(record.id)).toBeUndefined());
        expect(await bench.events(record.id, 0)).toEqual([]);
        expect(await bench.settle(record.id, reply('y'), true)).toBe('unknown');
        expect(await bench.create({ ...aRequest(), claim })).toEqual({ result: 'created' });
      });

      it('begins again when the outcome is shown', async () => {
        const bench = await forgetful(400);
        const record = aRequest();
        await bench.create(record);
        await bench.settle(record.id, reply('x'), false);
        const settledAt = await bench.time();
        await eventually(async () => expect(await bench.time()).toBeGreaterThan(settledAt + 250));
        await bench.show(record.id, reply('x'));
        await eventually(async () => expect(await bench.time()).toBeGreaterThan(settledAt + 450));
        expect(await bench.get(record.id)).toMatchObject({ shown: true });
      });

      it('does not touch a request that has no outcome, until its deadline is long past', async () => {
        const bench = await forgetful(100);
        const claim = aClaim();
        const patient = aRequest({ deadline: (await bench.time()) + 60_000 });
        const lost = aRequest({ deadline: await bench.time() });
        await bench.create({ ...patient, claim });
        await bench.create(lost);
        await eventually(async () => expect(await bench.get(lost.id)).toBeUndefined());
        expect(await bench.get(patient.id)).toBeDefined();
        expect(await bench.create({ ...aRequest(), claim })).toMatchObject({ result: 'exists', record: { id: patient.id } });
        expect(await bench.due(10)).toEqual([]);
      });

      it('leaves no forgotten request in what is owed', async () => {
        const bench = await forgetful(100);
        const record = aRequest();
        await bench.create(record);
        await bench.settle(record.id, reply('x'), false);
        await eventually(async () => expect(await bench.get(record.id)).toBeUndefined());
        expect(await bench.owed(0, 10)).toEqual([]);
      });
    });

    describe('events', () => {
      it('rise from 1, and a watcher goes on after the one it saw', async () => {
        const id = await accepted();
        for (let percent = 1; percent <= 5; percent++)
          await hub(percent).report(id, { progress: { percent } }, { name: 'progress', data: { percent } });
        const all = await store.events(id, 0);
        expect(all.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5, 6]);
        expect(await store.events(id, 4)).toEqual(all.slice(4));
        expect(await store.events(id, 6)).toEqual([]);
        // They were lost, and are counted anew.
        expect(await store.events(id, 99)).toEqual(all);
      });

      it('carry any data', async () => {
        const id = await accepted();
        const data = { text: 'line one\nline two "q" 🜁', list: [1, null, true], nested: { a: 'b c' } };
        await store.report(id, {}, { name: 'part', data });
        expect((await store.events(id, 1))[0]).toEqual({ sequence: 2, at: expect.any(Number), name: 'part', data });
      });

      it('are the last 500, with their numbers', async () => {
        const id = await accepted();
        await many(600, (one, percent) => one.report(id, {}, { name: 'progress', data: { percent } }));
        const events = await store.events(id, 0);
        expect(events.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 500 }, (_, at) => 102 + at));
        expect((await store.events(id, 599)).map(({ sequence }) => sequence)).toEqual([600, 601]);
      });
    });

    describe('a watcher', () => {
      it('on any hub wakes when a request is created, reported on, and shown', async () => {
        const woken: string[] = [];
        stops.push(await hub(1).watch((id) => woken.push(id)));
        const id = await accepted();
        const times = () => woken.filter((one) => one === id).length;
        await eventually(() => expect(times()).toBe(1));
        await hub(2).report(id, { state: 'running' });
        await eventually(() => expect(times()).toBe(2));
        await hub(3).settle(id, reply('x'), false);
        await store.show(id, reply('x'));
        await eventually(() => expect(times()).toBe(3));
      });

      it('finds in the record what woke it', async () => {
        const id = await accepted();
        const found: unknown[] = [];
        stops.push(await store.watch((woken) => void (woken === id && store.get(id).then((record) => found.push(record?.progress)))));
        await hub(1).report(id, { progress: { percent: 7 } });
        await eventually(() => expect(found).toContainEqual({ percent: 7 }));
      });

      it('that has stopped is left alone, and its neighbour is not', async () => {
        const stopped: string[] = [];
        const woken: string[] = [];
        const stop = await store.watch((id) => stopped.push(id));
        stops.push(await store.watch((id) => woken.push(id)));
        await stop();
        const id = await accepted();
        await eventually(() => expect(woken).toContain(id));
        expect(stopped).toEqual([]);
      });
    });

    describe('a group', () => {
      const opened = async (members = ['bank.a', 'bank.b', 'bank.c']): Promise<string> => {
        const id = randomUUID();
        await store.openGroup({ id, requestId: 'r', members, deadline: Date.now() + 60_000 });
        return id;
      };
      const added = async (one: Store, id: string, part: Part, enough: number): Promise<GroupState> =>
        (await one.addPart(id, part, enough, true))!;

      it('that nobody opened is unknown', async () => {
        const id = randomUUID();
        const unknown = { state: 'unknown', parts: [] };
        expect(await store.group(id)).toMatchObject(unknown);
        expect(await added(store, id, aPart(0), 1)).toMatchObject(unknown);
        expect(await store.closeGroup(id, 'deadline')).toMatchObject(unknown);
        await store.groupDone(id);
        expect(await store.group(id)).toMatchObject(unknown);
      });

      it('collects parts and closes with the last one that is needed', async () => {
        const id = await opened();
        expect(await added(store, id, aPart(2), 3)).toMatchObject({
          state: 'open',
          parts: [{ index: 2 }],
          members: ['bank.a', 'bank.b', 'bank.c'],
        });
        expect(await added(hub(1), id, aPart(0, { kind: 'fault' }), 3)).toMatchObject({ state: 'open' });
        const closed = await added(hub(2), id, aPart(1), 3);
        expect(closed).toMatchObject({ state: 'closed', reason: 'all' });
        expect(closed.parts).toEqual([aPart(0, { kind: 'fault' }), aPart(1), aPart(2)]);
        expect(await hub(3).group(id)).toEqual(closed);
      });

      it('that needs fewer than all says so', async () => {
        const id = await opened();
        await added(store, id, aPart(0), 2);
        expect(await added(store, id, aPart(1), 2)).toMatchObject({ state: 'closed', reason: 'at-least' });
      });

      it('keeps the first part of a member', async () => {
        const id = await opened();
        await added(store, id, aPart(0, { body: Buffer.from('first') }), 3);
        const { parts, state } = await added(store, id, aPart(0, { body: Buffer.from('second') }), 2);
        expect(state).toBe('open');
        expect(parts.map(({ body }) => body.toString())).toEqual(['first']);
      });

      it('that is opened again keeps what it has', async () => {
        const id = await opened();
        await added(store, id, aPart(0), 3);
        await store.openGroup({ id, requestId: 'r', members: ['other'], deadline: 1 });
        expect(await store.group(id)).toMatchObject({ state: 'open', members: ['bank.a', 'bank.b', 'bank.c'], parts: [{ index: 0 }] });
      });

      it('closes with what it has, for the first reason given', async () => {
        const id = await opened();
        await added(store, id, aPart(1), 3);
        expect(await store.closeGroup(id, 'deadline')).toMatchObject({ state: 'closed', reason: 'deadline', parts: [{ index: 1 }] });
        expect(await store.closeGroup(id, 'quiet')).toMatchObject({ state: 'closed', reason: 'deadline' });
      });

      it('that is closed takes no more parts', async () => {
        const id = await opened();
        const closed = await store.closeGroup(id, 'deadline');
        expect(await added(store, id, aPart(0), 3)).toEqual(closed);
      });

      it('that is done says so to whoever comes late', async () => {
        const id = await opened();
        await added(store, id, aPart(0), 1);
        await store.groupDone(id);
        await store.groupDone(id);
        expect(await added(store, id, aPart(1), 1)).toMatchObject({ state: 'done', parts: [{ index: 0 }] });
        expect(await store.closeGroup(id, 'deadline')).toMatchObject({ state: 'done', reason: 'at-least' });
      });

      it('knows when the last part came', async () => {
        const id = await opened();
        const { touchedAt } = await store.group(id);
        await eventually(async () => expect(await store.time()).toBeGreaterThan(touchedAt));
        expect((await added(store, id, aPart(0), 3)).touchedAt).toBeGreaterThan(touchedAt);
      });

      it('closes once, and for ever with the same parts, when parts come at once and twice', async () => {
        const members = Array.from({ length: 30 }, (_, at) => `bank.${at}`);
        const id = await opened(members);
        const states = await many(90, (one, number) => added(one, id, aPart(number % 30, { body: Buffer.from(`from ${number}`) }), 20));
        const closed = states.filter(({ state }) => state === 'closed');
        expect(closed).toHaveLength(90 - states.filter(({ state }) => state === 'open').length);
        expect(new Set(closed.map(({ parts }) => parts.map(({ index, body }) => `${index} ${body.toString()}`).join()))).toHaveProperty(
          'size',
          1,
        );
        expect(closed[0]?.parts).toHaveLength(20);
        expect(states.filter(({ state, parts }) => state === 'open' && parts.length >= 20)).toEqual([]);
      });

      it('closes for one reason when the deadline and the last part come at once', async () => {
        const ids = await Promise.all(Array.from({ length: 30 }, () => opened(['a', 'b'])));
        for (const id of ids) await added(store, id, aPart(0), 2);
        const pairs = await Promise.all(
          ids.map((id, number) => Promise.all([added(hub(number), id, aPart(1), 2), hub(number + 1).closeGroup(id, 'deadline')])),
        );
        for (const [one, other] of pairs) {
          expect(one).toEqual(other);
          expect(one.parts).toHaveLength(one.reason === 'all' ? 2 : 1);
        }
      });

      it('that is open still is nothing to see for who does not look', async () => {
        const id = await opened();
        expect(await store.addPart(id, aPart(0), 3, false)).toBeUndefined();
        expect(await store.group(id)).toMatchObject({ state: 'open', parts: [{ index: 0 }] });
        expect(await store.addPart(randomUUID(), aPart(0), 3, false)).toMatchObject({ state: 'unknown' });
      });

      it('is closed by the last part that counts of those that come at once, and only its bringer hears so, and who is late', async () => {
        const id = await opened(['a', 'b', 'c', 'd']);
        const states = await Promise.all([0, 1, 1, 2, 3].map((index) => store.addPart(id, aPart(index), 3, false)));
        expect(states.slice(0, 3)).toEqual([undefined, undefined, undefined]);
        for (const state of states.slice(3))
          expect(state).toMatchObject({ state: 'closed', reason: 'at-least', parts: [{ index: 0 }, { index: 1 }, { index: 2 }] });
        expect(await store.addPart(id, aPart(2), 3, false)).toMatchObject({ state: 'closed' });
      });

      it('is rung for when its deadline comes, until it was, or is done', async () => {
        const bell = (name: string) => ({ to: { exchange: 'x', routingKey: name }, properties: { messageId: name, headers: { n: 1 } } });
        const open = (id: string, deadline: number) =>
          store.openGroup({ id, requestId: 'r', members: ['a'], deadline, bell: bell(`bell of ${id}`) });
        const now = await store.time();
        const [first, second, done, far] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
        await open(second, now - 1_000);
        await open(first, now - 2_000);
        await open(done, now - 3_000);
        await store.groupDone(done);
        await open(far, now + 60_000);
        await store.openGroup({ id: randomUUID(), requestId: 'r', members: ['a'], deadline: now - 1_000 });
        const ours = async () => {
          const { due, nextMs } = await hub(1).bells(1_000);
          return { due: due.filter(([id]) => ([first, second, done, far] as string[]).includes(id)), nextMs };
        };
        const { due, nextMs } = await ours();
        expect(due).toEqual([first, second].map((id) => [id, bell(`bell of ${id}`)]));
        expect(nextMs).toBeGreaterThan(0);
        expect(nextMs).toBeLessThanOrEqual(60_000);
        await store.rung([first]);
        await open(first, now - 2_000);
        expect((await ours()).due.map(([id]) => id)).toEqual([second]);
        await store.groupDone(second);
        expect((await ours()).due).toEqual([]);
      });

      it('is forgotten some time after its deadline', async () => {
        const bench = await forgetful(100);
        await bench.openGroup({ id: 'g', requestId: 'r', members: ['a'], deadline: (await bench.time()) + 50 });
        expect(await bench.group('g')).toMatchObject({ state: 'open' });
        await eventually(async () => expect(await bench.group('g')).toMatchObject({ state: 'unknown' }));
      });
    });

    describe('the last message of a topic', () => {
      it('is kept with its properties', async () => {
        const topic = `rates.${randomUUID()}`;
        const message = {
          body: Buffer.from([0, 200, 10]),
          contentType: 'x/y',
          type: 'event',
          timestamp: 5,
          headers: { a: [1, { b: null }], c: true },
        };
        expect(await store.last(topic)).toBeUndefined();
        await store.remember(topic, message, 1_000);
        expect(await hub(1).last(topic)).toEqual({ message, at: 1_000 });
      });

      it('is never replaced by an older one', async () => {
        const topic = `rates.${randomUUID()}`;
        await store.remember(topic, { body: Buffer.from('new') }, 2_000);
        await store.remember(topic, { body: Buffer.from('old'), type: 'x' }, 1_000);
        expect((await store.last(topic))?.message).toEqual({ body: Buffer.from('new') });
        await store.remember(topic, { body: Buffer.from('newer') }, 3_000);
        expect((await store.last(topic))?.at).toBe(3_000);
      });
    });

    describe('a parked value', () => {
      it('is there for its time, and replaced when parked again', async () => {
        const name = randomUUID();
        expect(await store.parked(name)).toBeUndefined();
        await store.park(name, Buffer.from([0, 255]), 60_000);
        await store.park(name, Buffer.from([1, 254]), 100);
        expect(await hub(1).parked(name)).toEqual(Buffer.from([1, 254]));
        await eventually(async () => expect(await store.parked(name)).toBeUndefined());
      });
    });

    describe('a lease', () => {
      it('has one holder among many, who renews it', async () => {
        const name = randomUUID();
        const got = await many(20, (one, number) => one.lease(name, `hub-${number}`, 60_000));
        expect(got.filter(Boolean)).toHaveLength(1);
        const holder = `hub-${got.indexOf(true)}`;
        expect(await store.lease(name, holder, 60_000)).toBe(true);
        expect(await store.lease(name, 'another', 60_000)).toBe(false);
        expect(await store.lease(name, holder, 60_000, { renews: true })).toBe(true);
        expect(await store.lease(name, 'another', 60_000, { renews: true })).toBe(false);
        expect(await store.lease(`${name}, lost`, holder, 60_000, { renews: true })).toBe(false);
      });

      it('is free when its time is over', async () => {
        const name = randomUUID();
        await store.lease(name, 'first', 100);
        expect(await store.lease(name, 'second', 100)).toBe(false);
        await eventually(async () => expect(await store.lease(name, 'second', 100)).toBe(true));
      });
    });

    describe('closing', () => {
      it('ends this connection and no other', async () => {
        const leaving = await bench.connect();
        const woken: string[] = [];
        await leaving.watch((id) => woken.push(id));
        await leaving.close();
        await leaving.close();
        await expect(leaving.time()).rejects.toThrow();
        await expect(leaving.watch(() => undefined)).rejects.toThrow();
        const id = await accepted();
        expect(await hub(1).get(id)).toBeDefined();
        expect(woken).toEqual([]);
      });
    });
  });
}

const aRequest = (more: Partial<NewRecord> = {}): NewRecord => ({
  id: randomUUID(),
  flow: 'loan.quote',
  state: 'accepted',
  acceptedAt: Date.now(),
  deadline: Date.now() + 60_000,
  published: false,
  ...more,
});
const aClaim = (): Claim => ({ scope: `ann|loan.quote|${randomUUID()}`, fingerprint: 'fingerprint' });
const reply = (text: string): Outcome => ({ kind: 'reply', body: Buffer.from(text), contentType: 'text/plain', at: 1_795_413_590_000 });
const aPart = (index: number, more: Partial<Part> = {}): Part => ({
  index,
  kind: 'reply',
  body: Buffer.from(`part ${index}`),
  contentType: 'text/plain',
  at: 1_795_413_590_000,
  ...more,
});
