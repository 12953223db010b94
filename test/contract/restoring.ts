/** What every store does when its state was lost: it refuses, until somebody has restored it. On Redis and on memory (`store.test.ts`). */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { NewRecord, Outcome, Restoring, Store } from '../../broker/store.js';
import { completed, type StoreBench } from './store.js';

export function restoringContract(name: string, open: (options: { readonly retentionMs: number }) => Promise<StoreBench>): void {
  describe(`a lost state on ${name}`, () => {
    let bench: StoreBench;
    let store: Store;
    let restoring: Restoring;
    beforeEach(async () => {
      bench = await open({ retentionMs: 60_000 });
      store = await bench.connect();
      await store.lease('rebuild', 'h1', 10_000);
      restoring = store.restoring('h1');
    });
    afterEach(() => bench.close());

    const incomplete = { reason: 'incomplete' };

    it('is what a new store has: nothing can be gone by until it is complete, and then by every connection', async () => {
      const other = await bench.connect();
      expect(await other.condition()).toEqual({ complete: false });
      await expect(store.create(aRequest())).rejects.toMatchObject(incomplete);
      await expect(other.get('x')).rejects.toMatchObject(incomplete);
      await expect(other.settle('x', reply('x'), true)).rejects.toMatchObject(incomplete);
      await expect(other.group('x')).rejects.toMatchObject(incomplete);
      await expect(other.due(1)).rejects.toMatchObject(incomplete);
      await expect(other.mark()).rejects.toMatchObject(incomplete);
      await restoring.complete();
      expect(await other.condition()).toEqual({ complete: true, since: expect.any(Number) });
      expect(await other.get('x')).toBeUndefined();
    });

    it('is noticed when everything is gone, even by who only reads', async () => {
      await restoring.complete();
      const record = aRequest();
      await store.create(record);
      await bench.lose();
      await expect(store.get(record.id)).rejects.toMatchObject(incomplete);
      await expect(store.create(aRequest())).rejects.toMatchObject(incomplete);
      expect(await store.condition()).toEqual({ complete: false });
      await completed(store);
      expect(await store.get(record.id)).toBeUndefined();
    });

    it('is restored by the holder of the lease only', async () => {
      await expect(store.restoring('h2').complete()).rejects.toMatchObject(incomplete);
      await bench.lose();
      await expect(restoring.record(aRequest())).rejects.toMatchObject(incomplete);
      await expect(restoring.complete()).rejects.toMatchObject(incomplete);
    });

    it('gets its records back, with their claims, and nothing twice', async () => {
      const record = aRequest({
        principal: 'ann',
        claim: { scope: 's', fingerprint: 'f' },
        forward: { queue: 'q', correlationId: '7' },
        detached: true,
        carriedAt: 5,
      });
      await restoring.record(record);
      await restoring.record({ ...record, flow: 'another' });
      await restoring.complete();
      expect(await store.get(record.id)).toEqual({ ...record, updatedAt: expect.any(Number), shown: false });
      expect(await store.create(aRequest({ claim: { scope: 's', fingerprint: 'other' } }))).toMatchObject({
        result: 'exists',
        sameBody: false,
        record: { id: record.id },
      });
      expect((await store.events(record.id, 0)).length).toBe(1);
    });

    it('gives a claim to the last record that had it', async () => {
      const [refused, second] = [
        aRequest({ claim: { scope: 's', fingerprint: 'f' } }),
        aRequest({ claim: { scope: 's', fingerprint: 'f' } }),
      ];
      await restoring.record(refused);
      await restoring.record(second);
      await restoring.discard(refused.id);
      await restoring.complete();
      expect(await store.create(aRequest({ claim: { scope: 's', fingerprint: 'f' } }))).toMatchObject({ record: { id: second.id } });
    });

    it('takes back a try of a request that was refused, but not a later one of the same request', async () => {
      const [refused, again, later] = [1, 2, 3].map((acceptedAt) => aRequest({ id: `tried ${acceptedAt % 2}`, acceptedAt })) as [
        NewRecord,
        NewRecord,
        NewRecord,
      ];
      await restoring.record(refused);
      await restoring.record(later);
      await restoring.discard(refused.id, { acceptedBy: refused.acceptedAt });
      await restoring.record(again);
      await restoring.discard(again.id, { acceptedBy: again.acceptedAt });
      await restoring.complete();
      expect(await store.get(refused.id)).toMatchObject({ id: refused.id });
      expect(await store.get(again.id)).toBeUndefined();
    });

    it('tells which of two records with one claim lost it: the one that was accepted first, in whatever order they come', async () => {
      const claim = { scope: 's', fingerprint: 'f' };
      const [first, second, third] = [1, 2, 3].map((acceptedAt) => aRequest({ claim, acceptedAt })) as [NewRecord, NewRecord, NewRecord];
      expect(await restoring.record(second)).toBeUndefined();
      for (let times = 0; times < 2; times++) expect(await restoring.record(first)).toEqual({ ousted: first.id, by: second.id });
      expect(await restoring.record(second)).toBeUndefined();
      expect(await restoring.record(third)).toEqual({ ousted: second.id, by: third.id });
      expect(await restoring.record(second)).toEqual({ ousted: second.id, by: third.id });
      expect(await restoring.record(aRequest())).toBeUndefined();
      await restoring.complete();
      expect(await store.create(aRequest({ claim }))).toMatchObject({ result: 'exists', record: { id: third.id } });
      expect(await store.get(first.id)).toMatchObject({ id: first.id });
    });

    it('does not show a reply to a request that got its record after it was asked: the journal must be told both first', async () => {
      const record = aRequest({ detached: true });
      await restoring.record(record);
      for (let times = 0; times < 2; times++) await restoring.outcome(record.id, reply('a reply'), 'reply');
      await restoring.complete();
      expect(await store.get(record.id)).toMatchObject({ shown: false, outcome: reply('a reply') });
      expect(await store.owed(0, 10)).toEqual([record.id]);
      expect(await store.settle(record.id, reply('a reply'), false)).toBe('same');
      await store.lease('rebuild', 'h1', 10_000);
      await restoring.outcome(record.id, reply('a reply'), 'decision');
      expect(await store.get(record.id)).toMatchObject({ shown: true, state: 'replied' });
    });

    it('shows a reply that it finds, unless a hub is found to have decided otherwise', async () => {
      const [answered, decided] = [aRequest(), aRequest()];
      for (const { id } of [answered, decided]) {
        await restoring.record(id === answered.id ? answered : decided);
        await restoring.outcome(id, reply('first'), 'reply');
        await restoring.outcome(id, reply('second'), 'reply');
      }
      await restoring.outcome(decided.id, { kind: 'timeout', body: Buffer.from('{}'), contentType: 'application/json', at: 1 }, 'decision');
      await restoring.outcome(
        decided.id,
        { kind: 'cancelled', body: Buffer.from('{}'), contentType: 'application/json', at: 1 },
        'decision',
      );
      await restoring.complete();
      expect(await store.get(answered.id)).toMatchObject({ state: 'replied', shown: true, outcome: reply('first') });
      expect(await store.get(decided.id)).toMatchObject({ state: 'timed-out', shown: true, outcome: { kind: 'timeout' } });
      expect(await store.due(10)).toEqual([]);
      expect(await store.settle(decided.id, reply('first'), true)).toBe('late');
    });

    it('never changes what was shown before; what nobody has seen gives way', async () => {
      await restoring.complete();
      const [seen, unseen] = [aRequest(), aRequest()];
      for (const record of [seen, unseen]) {
        await store.create(record);
        await store.settle(record.id, reply('mine'), record.id === seen.id);
      }
      await store.lease('rebuild', 'h1', 10_000);
      for (const { id } of [seen, unseen]) {
        await restoring.outcome(id, reply('another'), 'reply');
        await restoring.outcome(id, reply('yet another'), 'reply');
      }
      await restoring.complete();
      expect(await store.get(seen.id)).toMatchObject({ shown: true, outcome: reply('mine') });
      expect(await store.get(unseen.id)).toMatchObject({ shown: true, outcome: reply('another') });
      // It was on its way to the journal.
      expect(await store.show(unseen.id, reply('mine'))).toBe(false);
    });

    it('shows what is in the journal, too', async () => {
      await restoring.complete();
      const record = aRequest();
      await store.create(record);
      await store.settle(record.id, reply('mine'), false);
      await store.lease('rebuild', 'h1', 10_000);
      await restoring.outcome(record.id, reply('mine'), 'decision');
      await restoring.outcome(record.id, reply('another'), 'decision');
      await restoring.complete();
      expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: reply('mine') });
    });

    it('takes what counts instead of what a hub had decided, and nothing after it', async () => {
      const [corrected, mine, hidden] = [aRequest(), aRequest(), aRequest()];
      await restoring.record(corrected);
      for (const [text, from] of [
        ['a', 'reply'],
        ['b', 'decision'],
        ['c', 'correction'],
        ['d', 'decision'],
        ['e', 'reply'],
      ] as const)
        await restoring.outcome(corrected.id, reply(text), from);
      await restoring.complete();
      expect(await store.get(corrected.id)).toMatchObject({ shown: true, outcome: reply('c') });
      for (const { id } of [mine, hidden]) await store.create(id === mine.id ? mine : hidden);
      await store.settle(mine.id, reply('mine'), true);
      await store.settle(hidden.id, reply('mine'), false);
      await store.lease('rebuild', 'h1', 10_000);
      // What was shown has been seen.
      for (const { id } of [mine, hidden]) await restoring.outcome(id, reply('c'), 'correction');
      await restoring.complete();
      expect(await store.get(mine.id)).toMatchObject({ shown: true, outcome: reply('mine') });
      expect(await store.get(hidden.id)).toMatchObject({ shown: true, outcome: reply('c') });
    });

    it('gets its groups back, open, with the parts that there are', async () => {
      const id = randomUUID();
      await restoring.openGroup({ id, requestId: 'r', members: ['a', 'b'], deadline: Date.now() + 60_000 });
      for (const index of [0, 1])
        await restoring.addPart(
          id,
          { index, kind: 'reply', body: Buffer.from('x'), contentType: 'text/plain', at: 1 },
          Number.MAX_SAFE_INTEGER,
          false,
        );
      await restoring.complete();
      expect(await store.group(id)).toMatchObject({ state: 'open', parts: [{ index: 0 }, { index: 1 }] });
    });

    it('knows until when everything was there', async () => {
      await restoring.complete();
      const first = (await store.condition()).since!;
      await store.mark();
      expect((await store.condition()).since).toBeGreaterThanOrEqual(first);
    });
  });

  describe(`a request on ${name} that is pending for long`, () => {
    let bench: StoreBench;
    let store: Store;
    beforeEach(async () => {
      bench = await open({ retentionMs: 60_000 });
      store = await completed(await bench.connect());
    });
    afterEach(() => bench.close());
    const hour = 3_600_000;

    it('is found page by page until it is carried', async () => {
      const ago = (ms: number) => aRequest({ acceptedAt: Date.now() - ms });
      const old = Array.from({ length: 5 }, () => ago(30 * hour));
      for (const record of [...old, ago(0), ago(10 * hour)]) await store.create(record);
      await store.create(aRequest({ detached: true, carriedAt: 0 }));
      const all = async () => {
        const ids: string[] = [];
        for (let cursor = '0'; cursor !== '';) {
          const page = await store.uncarried(20 * hour, cursor, 3);
          ids.push(...page.ids);
          cursor = page.cursor;
        }
        return ids;
      };
      expect((await all()).length).toBe(6);
      for (const { id } of old) await store.carried(id, Date.now());
      expect((await all()).length).toBe(1);
    });

    it('is shown only when the journal has been told with its record how it ended, though its reply came twice; so is one that several may have brought to the broker', async () => {
      const claim = { scope: 'again', fingerprint: 'f' };
      const [old, detached, repeated, asked, fresh] = [
        aRequest({ acceptedAt: Date.now() - 2 * hour }),
        aRequest({ detached: true }),
        aRequest({ published: false }),
        aRequest({ published: false, claim }),
        aRequest(),
      ];
      for (const record of [old, detached, repeated, asked, fresh]) {
        await store.create(record);
        if (record === asked) await store.create(aRequest({ claim }));
        if (record !== asked) await store.create(record);
        expect(await store.settle(record.id, reply('x'), true)).toBe('won');
        expect(await store.settle(record.id, reply('x'), true)).toBe('same');
      }
      expect((await store.get(old.id))?.shown).toBe(false);
      expect((await store.get(detached.id))?.shown).toBe(false);
      expect((await store.get(repeated.id))?.shown).toBe(false);
      expect((await store.get(asked.id))?.shown).toBe(false);
      expect((await store.get(fresh.id))?.shown).toBe(true);
    });
  });
}

const aRequest = (more: Partial<NewRecord> = {}): NewRecord => ({
  id: randomUUID(),
  flow: 'loan.quote',
  state: 'accepted',
  acceptedAt: Date.now(),
  deadline: Date.now() + 60_000,
  published: true,
  ...more,
});
const reply = (text: string): Outcome => ({ kind: 'reply', body: Buffer.from(text), contentType: 'text/plain', at: 1_795_413_590_000 });
