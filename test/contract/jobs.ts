/** What every Jobs does, wherever they are handed out: runs on BullMQ and in memory (`jobs.test.ts`). */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Jobs, ServeOptions, Work } from '../../broker/jobs.js';
import { eventually } from '../support/eventually.js';

export interface JobsBench {
  /** Another process on the same jobs. */
  connect(): Jobs;
  /** Closes everything and forgets every job. */
  close(): Promise<void>;
}

const options: ServeOptions = { concurrency: 10, stalledAfterMs: 30_000 };

export function jobsContract(name: string, open: () => Promise<JobsBench>): void {
  describe(`jobs ${name}`, () => {
    let bench: JobsBench;
    let jobs: Jobs;
    let done: { id: string; at: number }[];
    const work: Work = async (id) => {
      done.push({ id, at: Date.now() });
      return 'done';
    };
    const ids = () => done.map(({ id }) => id);

    beforeEach(async () => {
      done = [];
      bench = await open();
      jobs = bench.connect();
    });
    afterEach(() => bench?.close());

    /** Work that goes on until it is told to end. */
    function held() {
      const begun: string[] = [];
      let release: () => void = () => undefined;
      const released = new Promise<void>((resolve) => (release = resolve));
      return {
        begun,
        release: () => release(),
        work: (async (id, lost) => {
          begun.push(id);
          await released;
          return work(id, lost);
        }) as Work,
      };
    }

    it('are done by whoever serves the queue', async () => {
      await jobs.serve('report', options, work);
      const id = randomUUID();
      await jobs.add('report', id);
      await eventually(() => expect(ids()).toEqual([id]));
    });

    it('wait until somebody serves the queue, in their order, the urgent first', async () => {
      for (const id of ['first', 'second']) await jobs.add('report', id);
      for (const id of ['urgent', 'urgent too']) await jobs.add('report', id, { isUrgent: true });
      await jobs.add('report', 'third');
      expect(done).toEqual([]);
      await jobs.serve('report', { ...options, concurrency: 1 }, work);
      await eventually(() => expect(ids()).toEqual(['urgent', 'urgent too', 'first', 'second', 'third']));
    });

    it('that are given back go before those that wait, and after the urgent, which go first when they are given back', async () => {
      const seen: string[] = [];
      const given = new Set<string>();
      await jobs.add('report', 'given back');
      await jobs.serve('report', { ...options, concurrency: 1 }, async (id) => {
        seen.push(id);
        if (!/back/.test(id) || given.has(id)) return 'done';
        given.add(id);
        if (id === 'given back') {
          await jobs.add('report', 'waits');
          for (const urgent of ['urgent, comes back', 'urgent']) await jobs.add('report', urgent, { isUrgent: true });
        }
        return { againInMs: 0 };
      });
      await eventually(() => expect(seen).toHaveLength(6));
      expect(seen).toEqual(['given back', 'urgent, comes back', 'urgent, comes back', 'urgent', 'given back', 'waits']);
    });

    it('that are urgent stay so when they come back later', async () => {
      const seen: string[] = [];
      const { begun, release, work: slow } = held();
      await jobs.add('report', 'urgent', { isUrgent: true });
      await jobs.serve('report', { ...options, concurrency: 1 }, async (id, lost) => {
        seen.push(id);
        if (id === 'holds') return slow(id, lost);
        return id === 'urgent' && seen.length === 1 ? { againInMs: 50 } : 'done';
      });
      await eventually(() => expect(seen).toEqual(['urgent']));
      await jobs.add('report', 'holds');
      await eventually(() => expect(begun).toEqual(['holds']));
      const itsTime = Date.now() + 50;
      for (const id of ['waits', 'waits too']) await jobs.add('report', id);
      await eventually(() => expect(Date.now()).toBeGreaterThan(itsTime));
      release();
      await eventually(() => expect(seen).toHaveLength(5));
      expect(seen).toEqual(['urgent', 'holds', 'urgent', 'waits', 'waits too']);
    });

    it('of another queue are another matter', async () => {
      await jobs.add('other', 'same');
      await jobs.serve('report', options, work);
      await jobs.add('report', 'same');
      await jobs.add('report', 'last');
      await eventually(() => expect(ids().sort()).toEqual(['last', 'same']));
    });

    it('that are put in twice are one, while they wait and while they are done', async () => {
      const { begun, release, work: slow } = held();
      await jobs.add('report', 'same');
      await jobs.add('report', 'same');
      await jobs.serve('report', options, slow);
      await eventually(() => expect(begun).toEqual(['same']));
      await jobs.add('report', 'same');
      await jobs.add('report', 'other');
      await eventually(() => expect(begun).toEqual(['same', 'other']));
      release();
      await eventually(() => expect(ids().sort()).toEqual(['other', 'same']));
    });

    it('may be put in again once they are done', async () => {
      await jobs.serve('report', options, work);
      await jobs.add('report', 'again');
      await eventually(() => expect(ids()).toEqual(['again']));
      await eventually(async () => {
        await jobs.add('report', 'again');
        expect(ids()).toContain('again');
        expect(ids().length).toBeGreaterThan(1);
      });
    });

    it('wait for their time', async () => {
      await jobs.serve('report', options, work);
      const at = Date.now() + 400;
      await jobs.add('report', 'later', { inMs: 400 });
      await jobs.add('report', 'now');
      await eventually(() => expect(ids()).toEqual(['now', 'later']));
      expect(done[1]!.at).toBeGreaterThanOrEqual(at - 20);
    });

    it('that were taken out are not done; one that is being done, or that nobody knows, may be taken out', async () => {
      await jobs.add('report', 'taken out');
      await jobs.add('report', 'not yet', { inMs: 60_000 });
      await jobs.remove('report', 'taken out');
      await jobs.remove('report', 'not yet');
      await jobs.remove('report', 'unknown');
      const { begun, release, work: slow } = held();
      await jobs.serve('report', options, slow);
      await jobs.add('report', 'kept');
      await eventually(() => expect(begun).toEqual(['kept']));
      await jobs.remove('report', 'kept').catch(() => undefined);
      release();
      await eventually(() => expect(ids()).toEqual(['kept']));
    });

    it('come again when their work says so, at once or after a while', async () => {
      let tries = 0;
      await jobs.serve('report', options, async (id, lost) => {
        tries++;
        if (tries === 1) return { againInMs: 0 };
        if (tries === 2) return { againInMs: 300 };
        return work(id, lost);
      });
      const began = Date.now();
      await jobs.add('report', 'stubborn');
      await eventually(() => expect(ids()).toEqual(['stubborn']));
      expect(tries).toBe(3);
      expect(Date.now() - began).toBeGreaterThanOrEqual(280);
    });

    it('come again when their work rejects', async () => {
      let tries = 0;
      await jobs.serve('report', options, async (id, lost) => {
        if (tries++ === 0) throw new Error('not now');
        return work(id, lost);
      });
      await jobs.add('report', 'stubborn');
      await eventually(() => expect(ids()).toEqual(['stubborn']));
      expect(tries).toBe(2);
    });

    it('are as many at once as the process says', async () => {
      const { begun, release, work: slow } = held();
      await jobs.serve('report', { ...options, concurrency: 3 }, slow);
      for (let n = 0; n < 5; n++) await jobs.add('report', `job ${n}`);
      await eventually(() => expect(begun).toHaveLength(3));
      const other = bench.connect();
      const { begun: begunThere, release: releaseThere, work: slowThere } = held();
      await other.serve('report', { ...options, concurrency: 3 }, slowThere);
      await eventually(() => expect(begunThere).toHaveLength(2));
      expect(begun).toHaveLength(3);
      release();
      releaseThere();
      await eventually(() => expect(ids()).toHaveLength(5));
    });

    it('are begun no faster than the rate, by all processes together', async () => {
      const limited = { ...options, rateLimit: { max: 2, perMs: 400 } };
      for (let n = 0; n < 6; n++) await jobs.add('report', `job ${n}`);
      await jobs.serve('report', limited, work);
      await bench.connect().serve('report', limited, work);
      await eventually(() => expect(done).toHaveLength(6));
      expect(done[5]!.at - done[0]!.at).toBeGreaterThanOrEqual(700);
    });

    it('are done once each by several processes, though 200 come at once', async () => {
      const all = Array.from({ length: 200 }, () => randomUUID());
      const others = [jobs, bench.connect(), bench.connect()];
      await Promise.all(others.map((one) => one.serve('report', options, work)));
      await Promise.all(all.flatMap((id) => others.map((one) => one.add('report', id))));
      await eventually(() => expect(done.length).toBeGreaterThanOrEqual(200));
      expect([...new Set(ids())].sort()).toEqual([...all].sort());
    });

    it('that are being done are awaited by the one who leaves, who takes no more; others go on', async () => {
      const { begun, release, work: slow } = held();
      const serving = await jobs.serve('report', options, slow);
      await jobs.add('report', 'under way');
      await eventually(() => expect(begun).toEqual(['under way']));
      let hasLeft = false;
      const leaving = serving.close().then(() => (hasLeft = true));
      const other = bench.connect();
      await other.add('report', 'next');
      await other.serve('report', options, work);
      await eventually(() => expect(ids()).toEqual(['next']));
      expect(hasLeft).toBe(false);
      release();
      await leaving;
      expect(begun).toEqual(['under way']);
      expect(ids()).toEqual(['next', 'under way']);
      await serving.close();
    });

    it('that were given back by the one who leaves are another one’s at once', async () => {
      let give: () => void = () => undefined;
      const given = new Promise<void>((resolve) => (give = resolve));
      let begun = false;
      const serving = await jobs.serve('report', options, async () => {
        begun = true;
        await given;
        return { againInMs: 0 };
      });
      await jobs.add('report', 'given back');
      await eventually(() => expect(begun).toBe(true));
      await bench.connect().serve('report', options, work);
      give();
      await serving.close();
      await eventually(() => expect(ids()).toEqual(['given back']), { withinMs: 3_000 });
    });

    it('cannot be put in, taken out or served after the end', async () => {
      await jobs.serve('report', options, work);
      await jobs.close();
      await expect(jobs.add('report', 'too late')).rejects.toMatchObject({ reason: 'away' });
      await expect(jobs.remove('report', 'too late')).rejects.toThrow();
      await jobs.close();
    });
  });
}
