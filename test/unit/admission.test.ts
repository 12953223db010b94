import { describe, expect, it } from '@jest/globals';
import { openAdmission } from '../../broker/admission.js';
import { anonymous } from '../../broker/access.js';

/** An admission whose time is told. */
function opened(maxDelayMs = 100) {
  let now = 0;
  const admission = openAdmission({ clock: { now: () => now, after: () => () => undefined }, maxDelayMs });
  admission.close(); // the event loop of the test is nobody's load
  const waiting: (() => void)[] = [];
  return {
    ...admission,
    pass: (ms: number) => void (now += ms),
    enter: (count: number) => {
      for (let i = 0; i < count; i++) waiting.push(admission.entering());
    },
    /** So many leave, one each millisecond. */
    leave: (count: number) => {
      for (let i = 0; i < count; i++, now++) waiting.shift()!();
    },
    refused: () => admission.refusal(anonymous) !== undefined,
  };
}

describe('admission', () => {
  it('refuses while those that wait already will take longer than a request may wait, and not a moment longer', () => {
    const { enter, leave, refused, refusal } = opened();
    enter(500);
    leave(200); // one a millisecond: the 300 that are left take 300 ms
    expect(refusal(anonymous)).toMatchObject({ over: 'hub', detail: expect.stringMatching(/would wait (29\d|30\d) ms/) });
    leave(60); // fewer than a burst
    expect(refused()).toBe(false);
  });

  it('takes as many as leave: at three times the load the wait stays at its limit', () => {
    const { enter, leave, refused } = opened(400);
    let waiting = 0;
    let most = 0;
    for (let ms = 0; ms < 5_000; ms++) {
      for (let asked = 0; asked < 3; asked++) {
        if (refused()) continue;
        enter(1);
        waiting++;
      }
      leave(1);
      waiting--;
      if (ms > 1_000) most = Math.max(most, waiting);
    }
    expect(most).toBeGreaterThan(350);
    expect(most).toBeLessThan(450);
  });

  it('takes a burst, however slow the broker was', () => {
    const { enter, leave, pass, refused } = opened();
    enter(300);
    for (let i = 0; i < 100; i++) {
      leave(1);
      pass(20);
    }
    enter(56);
    expect(refused()).toBe(true);
    leave(1);
    expect(refused()).toBe(false);
  });

  it('notices a broker that has come to a standstill', () => {
    const { enter, leave, pass, refused } = opened();
    enter(400);
    leave(60);
    enter(60);
    pass(1_000);
    expect(refused()).toBe(true);
  });

  it('tells those that it refuses to come back at different times', () => {
    const { refusal } = opened(-1);
    const times = Array.from({ length: 50 }, () => refusal(anonymous)!.retryAfterMs);
    expect(new Set(times).size).toBeGreaterThan(10);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(1_000);
  });
});

describe('the quota of a principal', () => {
  const of = (limits: { perSecond?: number; inFlight?: number }) => ({ ...anonymous, name: 'ann', limits });

  it('lets a second’s worth through at once, then as many as were agreed', () => {
    const { admit, refusal, pass } = opened();
    const ann = of({ perSecond: 10 });
    for (let i = 0; i < 11; i++) admit(ann)();
    expect(refusal(ann)).toMatchObject({ over: 'principal', retryAfterMs: 100 });
    expect(() => admit(ann)).toThrow(expect.objectContaining({ code: 'unavailable', reason: 'too-many' }));
    pass(100);
    admit(ann)();
    expect(refusal(ann)).toBeDefined();
    expect(refusal(of({}))).toBeUndefined();
    expect(refusal({ ...ann, name: 'bob' })).toBeUndefined();
  });

  it('counts what is in flight, until it ends', () => {
    const { admit, refusal } = opened();
    const ann = of({ inFlight: 2 });
    const ends = [admit(ann), admit(ann)];
    expect(refusal(ann)).toMatchObject({ over: 'principal' });
    ends[0]!();
    expect(refusal(ann)).toBeUndefined();
  });
});
