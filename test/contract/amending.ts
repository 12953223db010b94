/** What every store does with corrected results and the late parts that they are made of. On Redis and on memory (`store.test.ts`). */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Amended, Correction, NewRecord, Outcome, OutcomeKind, Part, Store } from '../../broker/store.js';
import { eventually } from '../support/eventually.js';
import { completed, type StoreBench } from './store.js';

const amendable = (missing: number) => ({ missing, until: 1_795_413_600_000 });
const outcome = (text: string, missing: number, kind: OutcomeKind = 'reply'): Outcome => ({
  kind,
  body: Buffer.from(text),
  contentType: 'text/plain',
  at: 1_795_413_590_000,
  amendable: amendable(missing),
});
const correction = (rank: number, text: string, missing = 0): Correction => ({
  rank,
  by: `bank ${rank} "é"`,
  outcome: outcome(text, missing),
});
const aPart = (index: number, text = `part ${index}`): Part => ({
  index,
  kind: 'reply',
  body: Buffer.from(text),
  contentType: 'text/plain',
  at: 1,
});

export function amendingContract(name: string, open: (options: { readonly retentionMs: number }) => Promise<StoreBench>): void {
  describe(`corrected results on ${name}`, () => {
    let bench: StoreBench;
    let store: Store;
    beforeEach(async () => {
      bench = await open({ retentionMs: 60_000 });
      store = await completed(await bench.connect());
    });
    afterEach(() => bench.close());

    const record = (): NewRecord => ({
      id: randomUUID(),
      flow: 'travel',
      state: 'accepted',
      acceptedAt: Date.now(),
      deadline: Date.now() + 60_000,
      published: true,
    });
    const answered = async (what: Outcome = outcome('first', 2)): Promise<string> => {
      const one = record();
      await store.create(one);
      await store.settle(one.id, what, true);
      return one.id;
    };
    const versionOf = (amended: Amended) => ('amendment' in amended ? `${amended.result} ${amended.amendment.version}` : amended.result);
    const amend = async (id: string, rank: number, text: string, missing = 0) =>
      versionOf(await store.amend(id, correction(rank, text, missing)));
    /** A version that is seen. */
    async function amended(id: string, rank: number, text: string, missing = 0): Promise<void> {
      const made = await store.amend(id, correction(rank, text, missing));
      if (!('amendment' in made)) throw new Error(made.result);
      await store.showAmendment(id, made.amendment.version);
    }

    it('says of a reply how many are missing, and until when they may come', async () => {
      const id = await answered();
      expect((await store.get(id))?.outcome).toEqual(outcome('first', 2));
      expect(await store.get(id)).not.toHaveProperty('amended');
      expect(await store.amendment(id)).toBeUndefined();
    });

    it('are numbered from 2, and seen once they are shown, beside the reply', async () => {
      const id = await answered();
      expect(await store.amend(id, correction(1, 'second', 1))).toEqual({
        result: 'amended',
        amendment: { version: 2, ...correction(1, 'second', 1) },
      });
      expect(await store.amendment(id)).toBeUndefined();
      expect(await store.amendment(id, 2)).toBeUndefined();
      expect(await store.get(id)).not.toHaveProperty('amended');
      await store.showAmendment(id, 2);
      expect(await store.amendment(id)).toEqual({ version: 2, ...correction(1, 'second', 1) });
      expect(await store.get(id)).toMatchObject({ state: 'replied', outcome: outcome('first', 2), amended: { version: 2, missing: 1 } });
      await amended(id, 2, 'third');
      expect((await store.amendment(id))?.version).toBe(3);
      expect(await store.amendment(id, 2)).toMatchObject({ version: 2, rank: 1 });
      expect(await store.amendment(id, 1)).toBeUndefined();
      expect(await store.amendment(id, 4)).toBeUndefined();
      expect((await store.get(id))?.amended).toEqual({ version: 3, missing: 0 });
    });

    it('are told to watchers, each once', async () => {
      const id = await answered();
      const woken: string[] = [];
      const unwatch = await store.watch((one) => void woken.push(one));
      await amended(id, 1, 'second', 1);
      await store.showAmendment(id, 2);
      await amended(id, 2, 'third');
      expect((await store.events(id, 0)).slice(-2).map(({ name: event, data }) => [event, data])).toEqual([
        ['amended', { version: 2, by: 'bank 1 "é"', missing: 1 }],
        ['amended', { version: 3, by: 'bank 2 "é"', missing: 0 }],
      ]);
      await eventually(() => expect(woken.filter((one) => one === id).length).toBeGreaterThanOrEqual(2));
      await unwatch();
    });

    it('are the same version when they come twice, whatever their bytes are then', async () => {
      const id = await answered();
      await amended(id, 1, 'second');
      await amended(id, 2, 'third');
      expect(await amend(id, 1, 'another')).toBe('amended 2');
      expect(await amend(id, 2, 'third')).toBe('amended 3');
      expect((await store.amendment(id, 2))?.outcome.body.toString()).toBe('second');
    });

    it('wait until the version before is shown', async () => {
      const id = await answered();
      await amend(id, 1, 'second');
      expect(await amend(id, 2, 'third')).toBe('behind 2');
      await store.showAmendment(id, 2);
      expect(await amend(id, 2, 'third')).toBe('amended 3');
    });

    it('that count fewer parts than the newest are stale, and bytes that are those of the newest make no version', async () => {
      const id = await answered();
      expect(await amend(id, 1, 'first')).toBe('same');
      await amended(id, 3, 'second');
      expect(await amend(id, 2, 'third')).toBe('stale');
      expect(await amend(id, 4, 'second')).toBe('same');
      expect(await amend(id, 5, 'first')).toBe('amended 3');
    });

    it('are of replies that are shown, and of nothing else', async () => {
      expect(await amend(randomUUID(), 1, 'x')).toBe('unknown');
      const pending = record();
      await store.create(pending);
      expect(await amend(pending.id, 1, 'x')).toBe('early');
      await store.settle(pending.id, outcome('first', 1), false);
      expect(await amend(pending.id, 1, 'x')).toBe('early');
      expect(await amend(await answered(outcome('{}', 1, 'timeout')), 1, 'x')).toBe('stale');
      const { amendable: _amendable, ...final } = outcome('first', 0);
      expect(await amend(await answered(final), 1, 'x')).toBe('stale');
    });

    it('are one version each, when all come at once', async () => {
      const id = await answered(outcome('first', 20));
      const others = await Promise.all([0, 1, 2].map(() => bench.connect()));
      const told = async (rank: number, one: Store) => {
        for (;;) {
          const made = await one.amend(id, correction(rank, `with ${rank}`));
          if (!('amendment' in made)) return;
          await one.showAmendment(id, made.amendment.version);
          if (made.result === 'amended') return;
        }
      };
      await Promise.all(Array.from({ length: 40 }, (_, n) => told((n % 20) + 1, others[n % 3]!)));
      const newest = (await store.amendment(id))!;
      expect(newest.rank).toBe(20);
      const versions = await Promise.all(Array.from({ length: newest.version - 1 }, (_, n) => store.amendment(id, n + 2)));
      const ranks = versions.map((one) => one!.rank);
      expect(ranks).toEqual([...new Set(ranks)].sort((a, b) => a - b));
      expect(versions.map((one) => one!.outcome.body.toString())).toEqual(ranks.map((rank) => `with ${rank}`));
    });

    it('are restored as the journal tells them', async () => {
      await bench.lose();
      await store.lease('rebuild', 'h1', 10_000);
      const restoring = store.restoring('h1');
      const one = record();
      await restoring.amendment(one.id, { version: 2, ...correction(1, 'nobody') });
      await restoring.record(one);
      await restoring.outcome(one.id, outcome('first', 2), 'reply');
      await restoring.amendment(one.id, { version: 2, ...correction(1, 'second', 1) });
      await restoring.amendment(one.id, { version: 2, ...correction(1, 'second', 1) });
      await restoring.amendment(one.id, { version: 3, ...correction(2, 'third') });
      await restoring.complete();
      expect(await store.get(one.id)).toMatchObject({ outcome: outcome('first', 2), amended: { version: 3, missing: 0 } });
      expect((await store.amendment(one.id, 2))?.outcome.body.toString()).toBe('second');
      expect(await amend(one.id, 2, 'x')).toBe('amended 3');
      expect(await amend(one.id, 3, 'fourth')).toBe('amended 4');
      expect((await store.events(one.id, 0)).filter(({ name: event }) => event === 'amended')).toHaveLength(2);
    });

    it('are made of late parts, which a group keeps in their order beside those that it was completed with', async () => {
      const id = randomUUID();
      await store.openGroup({ id, requestId: 'r', members: ['a', 'b', 'c', 'd'], deadline: Date.now() + 60_000 });
      expect(await store.addLatePart(id, aPart(3))).not.toHaveProperty('late');
      await store.addPart(id, aPart(1), 1, true);
      expect((await store.addLatePart(id, aPart(3))).late).toEqual([aPart(3)]);
      await store.groupDone(id);
      await store.addLatePart(id, aPart(1, 'again'));
      await store.addLatePart(id, aPart(3, 'again'));
      const group = await store.addLatePart(id, aPart(0));
      expect(group).toMatchObject({ state: 'done', reason: 'at-least', parts: [aPart(1)], late: [aPart(3), aPart(0)] });
      expect(await store.addPart(id, aPart(3), 1, true)).toEqual(group);
      expect(await store.addLatePart(randomUUID(), aPart(0))).toMatchObject({ state: 'unknown' });
    });
  });
}
