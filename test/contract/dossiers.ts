/** What every store does with dossiers: on Redis and on memory (`store.test.ts`). */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Dossier, Store } from '../../broker/store.js';
import { eventually } from '../support/eventually.js';
import { completed, type StoreBench } from './store.js';

export function dossierContract(name: string, open: (options: { readonly retentionMs: number }) => Promise<StoreBench>): void {
  describe(`dossiers on ${name}`, () => {
    let bench: StoreBench;
    let store: Store;
    let other: Store;
    beforeAll(async () => {
      bench = await open({ retentionMs: 60_000 });
      store = await completed(await bench.connect());
      other = await bench.connect();
    });
    afterAll(() => bench.close());

    async function kept(more: Partial<Dossier> = {}): Promise<Dossier> {
      const dossier = aDossier(more);
      expect(await store.keep(dossier)).toBe('kept');
      return dossier;
    }

    const inAll = async (index: string, highestFirst = false) => {
      const ids: string[] = [];
      for (let cursor: string | undefined = ''; cursor !== undefined;) {
        const page: Awaited<ReturnType<Store['dossiers']>> = await other.dossiers(index, {
          limit: 2,
          highestFirst,
          ...(cursor === '' ? {} : { cursor }),
        });
        ids.push(...page.found.map(({ id }) => id));
        cursor = page.next;
      }
      return ids;
    };

    it('are there as they were kept, bytes and all', async () => {
      const message = {
        body: Buffer.from([0, 1, 255]),
        contentType: 'image/png',
        messageId: 'm',
        headers: { hub: 'flow=a', 'hub-x': 1 },
      };
      const dossier = await kept({ data: { title: 'Größe "q" \n', list: [1, null] }, message, wakeAt: Date.now() + 60_000 });
      expect(await other.dossier(dossier.kind, dossier.id)).toEqual(dossier);
      expect(await other.dossier(dossier.kind, 'nobody')).toBeUndefined();
    });

    it('change one version at a time, and one change wins among many', async () => {
      const first = await kept();
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, by) => [store, other][by % 2]!.keep({ ...first, version: 2, data: { by } })),
      );
      expect(results.filter((result) => result === 'kept')).toHaveLength(1);
      const winner = results.indexOf('kept');
      expect(await store.dossier(first.kind, first.id)).toMatchObject({ version: 2, data: { by: winner } });
      expect(await store.keep({ ...first, version: 4 })).toBe('conflict');
      expect(await store.keep(aDossier({ version: 2 }))).toBe('conflict');
    });

    it('may be kept twice, as by a client that did not hear the first time', async () => {
      const dossier = await kept();
      expect(await other.keep(dossier)).toBe('kept');
      expect(await other.keep({ ...dossier, data: 'else' })).toBe('conflict');
    });

    it('are listed by their place, page by page, from either end', async () => {
      const list = `list-${randomUUID()}`;
      const ids = [];
      for (const place of [30, 10, 20, 20, 40]) ids.push((await kept({ index: { [list]: place } })).id);
      const [thirty, ten, ...rest] = ids as [string, string, ...string[]];
      const twenties = rest.slice(0, 2).sort();
      const sorted = [ten, ...twenties, thirty, rest[2]];
      expect(await inAll(list)).toEqual(sorted);
      expect(await inAll(list, true)).toEqual([...sorted].reverse());
      expect(await store.count(list)).toBe(5);
      expect(await store.count(list, 20)).toBe(3);
      expect(await store.dossiers(`none-${list}`, { limit: 10 })).toEqual({ found: [] });
    });

    it('go from one list to another, and keep places to the millisecond', async () => {
      const [a, b] = [`a-${randomUUID()}`, `b-${randomUUID()}`];
      const dossier = await kept({ index: { [a]: 1 } });
      const place = 1_795_413_600_123;
      await store.keep({ ...dossier, version: 2, index: { [b]: place } });
      expect(await store.count(a)).toBe(0);
      expect(await store.count(b, place - 1)).toBe(0);
      expect(await store.count(b, place)).toBe(1);
      const { found } = await store.dossiers(b, { limit: 5 });
      expect(found).toEqual([{ kind: dossier.kind, id: dossier.id, requestId: 'r', step: 's', version: 2, isOpen: true, data: { n: 1 } }]);
    });

    it('go on after the one seen last, even when it has left the list', async () => {
      const list = `list-${randomUUID()}`;
      const made: Dossier[] = [];
      for (const place of [1, 2, 3]) made.push(await kept({ index: { [list]: place } }));
      const first = await store.dossiers(list, { limit: 2 });
      await store.keep({ ...made[1]!, version: 2, index: {} });
      const rest = await store.dossiers(list, { limit: 2, cursor: first.next! });
      expect(rest.found.map(({ id }) => id)).toEqual([made[2]!.id]);
    });

    it('wake watchers by their name', async () => {
      const woken: string[] = [];
      const stop = await other.watch((id) => woken.push(id));
      const { kind, id } = await kept();
      await eventually(() => expect(woken).toContain(`${kind}/${id}`));
      await stop();
    });

    it('can be woken when their time has come, and are let be for a while once somebody was called', async () => {
      const dossier = await kept({ wakeAt: Date.now() - 1 });
      const later = await kept({ wakeAt: Date.now() + 60_000 });
      const wakeable = async () => (await store.wakeable(1_000)).map(({ id }) => id);
      expect(await wakeable()).not.toContain(dossier.id); // nobody may go by what the journal does not have
      await store.told(dossier, 60_000);
      await eventually(async () => expect(await wakeable()).toContain(dossier.id));
      expect(await wakeable()).not.toContain(later.id);
      await store.called(dossier, 60_000);
      expect(await wakeable()).not.toContain(dossier.id);
      await store.keep({ ...later, version: 2, wakeAt: 1 });
      await store.told({ ...later, version: 2 }, 60_000);
      await store.called(later, 60_000);
      expect(await wakeable()).toContain(later.id);
      await store.keep({ ...withoutWake(later), version: 3 });
      await store.told({ ...later, version: 3 }, 60_000);
      expect(await wakeable()).not.toContain(later.id);
    });

    it('are called about by one alone, until others must', async () => {
      const dossier = await kept({ wakeAt: Date.now() - 1 });
      expect(await Promise.all([1, 2, 3].map(() => store.calling(dossier, 100)))).toEqual([true, false, false]);
      await eventually(async () => expect(await store.calling(dossier, 60_000)).toBe(true));
      // Another machine's clock may be behind: what is to be done at once is.
      const ahead = await kept({ wakeAt: Date.now() + 60_000 });
      expect(await store.calling(ahead, 30_000)).toBe(true);
      expect(await store.calling(ahead, 30_000)).toBe(false);
      await store.keep({ ...ahead, version: 2 });
      expect(await store.calling(ahead, 30_000)).toBe(false);
      expect(await store.calling(await kept(), 60_000)).toBe(false);
    });

    it('are untold until the journal has their version, and open ones again some time after', async () => {
      const dossier = await kept();
      const untold = async () => (await store.untold(1_000)).map(({ id }) => id);
      expect(await untold()).not.toContain(dossier.id); // whoever kept it is about to
      await store.keep({ ...dossier, version: 2 });
      await store.told(dossier, 60_000);
      await eventually(async () => expect(await untold()).toContain(dossier.id));
      await store.told({ ...dossier, version: 2 }, 60_000);
      expect(await untold()).not.toContain(dossier.id);
      await store.told({ ...dossier, version: 2 }, 1);
      await eventually(async () => expect(await untold()).toContain(dossier.id));
      await store.keep({ ...dossier, version: 3, isOpen: false });
      await store.told({ ...dossier, version: 3 }, 1);
      expect(await untold()).not.toContain(dossier.id);
    });

    it('are forgotten some time after they are closed', async () => {
      const own = await open({ retentionMs: 50 });
      const forgetful = await completed(await own.connect());
      const list = 'all';
      const dossier = aDossier({ index: { [list]: 1 }, wakeAt: 1 });
      await forgetful.keep(dossier);
      await forgetful.keep({ ...dossier, version: 2, isOpen: false });
      await eventually(async () => expect(await forgetful.dossier(dossier.kind, dossier.id)).toBeUndefined());
      expect((await forgetful.dossiers(list, { limit: 5 })).found).toEqual([]);
      expect(await forgetful.wakeable(5)).toEqual([]);
      await own.close();
    });

    it('come back when a lost state is restored, the newest version of each, and are untold', async () => {
      const own = await open({ retentionMs: 60_000 });
      const lost = await own.connect();
      await expect(lost.dossier('task', 'x')).rejects.toMatchObject({ reason: 'incomplete' });
      await expect(lost.keep(aDossier())).rejects.toMatchObject({ reason: 'incomplete' });
      await expect(lost.dossiers('x', { limit: 1 })).rejects.toMatchObject({ reason: 'incomplete' });
      await expect(lost.wakeable(1)).rejects.toMatchObject({ reason: 'incomplete' });
      await lost.lease('rebuild', 'h1', 10_000);
      const restoring = lost.restoring('h1');
      const dossier = aDossier({ version: 7, index: { found: 1 } });
      await restoring.keep(dossier);
      await restoring.keep({ ...dossier, version: 6, data: 'older' });
      await restoring.complete();
      expect(await lost.dossier(dossier.kind, dossier.id)).toEqual(dossier);
      expect(await lost.count('found')).toBe(1);
      expect((await lost.untold(5)).map(({ id }) => id)).toEqual([dossier.id]);
      expect(await lost.keep({ ...dossier, version: 8 })).toBe('kept');
      await own.close();
    });
  });
}

const withoutWake = ({ wakeAt: _wakeAt, ...dossier }: Dossier): Dossier => dossier;

const aDossier = (more: Partial<Dossier> = {}): Dossier => ({
  kind: 'task',
  id: randomUUID(),
  requestId: 'r',
  step: 's',
  version: 1,
  isOpen: true,
  data: { n: 1 },
  message: { body: Buffer.from('{}'), contentType: 'application/json' },
  index: {},
  ...more,
});
