import { describe, expect, it } from '@jest/globals';
import { openAdmission } from '../../broker/admission.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';

/** An admission whose time is told, and whose event loop may be late. */
function opened(maxDelayMs = 50, lateMs = 0) {
  const punctual = testClock();
  const clock = { ...punctual, after: (ms: number, run: () => void) => punctual.after(ms + lateMs, run) };
  const admission = openAdmission({ clock, maxDelayMs });
  const waiting: (() => void)[] = [];
  const enter = (count: number) => {
    for (let i = 0; i < count; i++) waiting.push(admission.entering());
  };
  return {
    ...admission,
    clock,
    enter,
    waiting,
    /** `askedPerMs` come each millisecond, and `leavePerMs` of those that were taken leave. Tells how many were refused. */
    async load(forMs: number, askedPerMs: number, leavePerMs: number): Promise<number> {
      let refused = 0;
      for (let ms = 0; ms < forMs; ms++) {
        for (let asked = 0; asked < askedPerMs; asked++) {
          if (admission.busy() === undefined) enter(1);
          else refused++;
        }
        for (let left = 0; left < leavePerMs; left++) waiting.shift()?.();
        if (ms % 10 === 9) await clock.advance(10);
      }
      return refused;
    },
  };
}

describe('admission', () => {
  it('refuses nothing as long as what comes also leaves', async () => {
    const { load } = opened();
    expect(await load(2_000, 4, 4)).toBe(0);
  });

  it('takes as many as leave: at three times the load, the wait stays at its limit', async () => {
    const { load, waiting, busy } = opened();
    await load(1_000, 12, 4);
    const waits: number[] = [];
    let refused = 0;
    for (let round = 0; round < 100; round++) {
      refused += await load(20, 12, 4);
      waits.push(waiting.length / 4);
    }
    expect([Math.min(...waits), Math.max(...waits)]).toEqual([expect.closeTo(50, -1), expect.closeTo(50, -1)]);
    expect(refused / (2_000 * 12)).toBeCloseTo(2 / 3, 1);
    expect(busy()?.over ?? 'hub').toBe('hub');
  });

  it('lets nobody wait for more than twice that, from the first moment of an overload on', async () => {
    const { load, waiting } = opened();
    await load(300, 12, 4);
    await load(300, 0, 4);
    const waits: number[] = [];
    for (let ms = 0; ms < 500; ms += 10) {
      await load(10, 12, 4);
      waits.push(waiting.length / 4);
    }
    expect(Math.max(...waits)).toBeLessThanOrEqual(110);
    expect(waits.at(-1)).toBeCloseTo(50, -1);
  });

  it('takes a burst, and forgets it', async () => {
    const { load, enter } = opened();
    await load(500, 4, 4);
    enter(300); // 75 ms of work, at once
    expect(await load(60, 0, 4)).toBe(0);
    expect(await load(1_000, 4, 5)).toBe(0);
  });

  it('takes everything again soon after the load has gone', async () => {
    const { load } = opened();
    expect(await load(2_000, 12, 4)).toBeGreaterThan(10_000);
    await load(500, 2, 4);
    expect(await load(1_000, 3, 4)).toBe(0);
  });

  it('notices a broker that has come to a standstill', async () => {
    const { load } = opened();
    await load(500, 4, 4);
    const refused = await load(5_000, 4, 0);
    expect(refused).toBeGreaterThan(15_000);
  });

  it('refuses what comes to an event loop that is too late, whatever the broker does', async () => {
    const refused = async (lateMs: number) => {
      const { load, enter } = opened(50, lateMs);
      enter(100);
      return load(500, 10, 10);
    };
    expect([await refused(30), (await refused(60)) > 0, (await refused(200)) > 0]).toEqual([0, true, true]);
  });

  it('refuses nobody while few wait, however late the event loop is', async () => {
    for (const lateMs of [60, 100, 200]) {
      const { load, enter } = opened(50, lateMs);
      enter(1);
      expect(await load(1_000, 1, 1)).toBe(0);
    }
  });

  it('looks at nothing while there is nothing to see', async () => {
    let timers = 0;
    const clock = testClock();
    const counted = { ...clock, after: (ms: number, run: () => void) => (timers++, clock.after(ms, run)) };
    const admission = openAdmission({ clock: counted, maxDelayMs: 100 });
    admission.entering()();
    await clock.advance(5_000);
    const before = timers;
    await clock.advance(60_000);
    expect([timers - before, before > 10]).toEqual([0, true]);
  });

  it('tells those that it refuses to come back at different times', async () => {
    const { load, busy } = opened();
    await load(1_000, 40, 1);
    const times = Array.from({ length: 200 }, busy).flatMap((refusal) => refusal?.retryAfterMs ?? []);
    expect(new Set(times).size).toBeGreaterThan(10);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(1_000);
  });

  it('refuses nobody when it is switched off', async () => {
    const { load } = opened(0);
    expect(await load(2_000, 12, 4)).toBe(0);
  });
});

describe('the quota of a principal', () => {
  const of = (limits: { perSecond?: number; inFlight?: number }) => ({ ...anonymous, name: 'ann', limits });

  it('lets a second’s worth through at once, then as many as were agreed', async () => {
    const { admit, overQuota, clock } = opened();
    const ann = of({ perSecond: 10 });
    for (let i = 0; i < 11; i++) admit(ann)();
    expect(overQuota(ann)).toMatchObject({ over: 'principal', retryAfterMs: 100 });
    expect(() => admit(ann)).toThrow(expect.objectContaining({ code: 'unavailable', reason: 'too-many' }));
    await clock.advance(100);
    admit(ann)();
    expect(overQuota(ann)).toBeDefined();
    expect(overQuota(of({}))).toBeUndefined();
    expect(overQuota({ ...ann, name: 'bob' })).toBeUndefined();
  });

  it('counts what is in flight, until it ends', () => {
    const { admit, overQuota } = opened();
    const ann = of({ inFlight: 2 });
    const ends = [admit(ann), admit(ann)];
    expect(overQuota(ann)).toMatchObject({ over: 'principal' });
    ends[0]!();
    expect(overQuota(ann)).toBeUndefined();
  });
});
