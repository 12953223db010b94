/** Time as a port, so that a test can move it: the system's clock, and one that only goes forward when told to. */

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls `run` once after `ms`; the returned function takes that back. */
  after(ms: number, run: () => void): () => void;
}

/** Runs something soon, after whoever asks for it has ended: the order of what is concurrent, as a port. */
export type Soon = (run: () => void) => void;

export const nextTurn: Soon = (run) => void setImmediate(run);

export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, run) {
    let timer: NodeJS.Timeout;
    const arm = (leftMs: number) => {
      // setTimeout counts in 32 bits, and may be a millisecond early by the clock on the wall: a deadline that has not quite come
      // must not look like one that is far away.
      const pieceMs = Math.min(leftMs, 2 ** 30);
      timer = setTimeout(() => (leftMs > pieceMs ? arm(leftMs - pieceMs) : run()), Math.ceil(pieceMs) + 1);
    };
    arm(Math.max(ms, 0));
    return () => clearTimeout(timer);
  },
};

const bucketMs = 50;

/** Something that may end by time. */
export interface Ending {
  end(): void;
}

export interface DeadlineBuckets {
  /** Calls `end` after `ms`, up to 50 ms late. Returns what `remove` wants to know. */
  add(ms: number, ending: Ending): number;
  /** Takes that back. */
  remove(bucket: number, ending: Ending): void;
}

/** Many things that may end by time, and mostly end otherwise: one timer for all that are due within the same 50 ms. */
export function deadlineBuckets(clock: Clock): DeadlineBuckets {
  const buckets = new Map<number, { readonly endings: Set<Ending>; readonly cancel: () => void }>();
  return {
    add(ms, ending) {
      const at = Math.ceil((clock.now() + ms) / bucketMs) * bucketMs;
      let bucket = buckets.get(at);
      if (bucket === undefined) {
        const endings = new Set<Ending>();
        const cancel = clock.after(at - clock.now(), () => {
          buckets.delete(at);
          for (const each of endings) each.end();
        });
        buckets.set(at, (bucket = { endings, cancel }));
      }
      bucket.endings.add(ending);
      return at;
    },
    remove(at, ending) {
      const bucket = buckets.get(at);
      if (bucket?.endings.delete(ending) !== true || bucket.endings.size > 0) return;
      buckets.delete(at);
      bucket.cancel();
    },
  };
}

export interface FollowingClock extends Clock {
  close(): void;
}

/** How often it is set. */
const followMs = 10_000;

/**
 * A clock that goes by elapsed time and is set by another one (the store's), so that all processes agree on deadlines, and a jump of this
 * machine's clock is not felt. Rejects when the other clock cannot be read at first; later it goes on by itself meanwhile.
 */
export async function followingClock(time: () => Promise<number>): Promise<FollowingClock> {
  let aheadMs = -Infinity;
  const set = async () => {
    const asked = performance.now();
    const there = await time();
    const tookMs = performance.now() - asked;
    const measured = there - asked - tookMs / 2;
    // Within what the way there and back leaves open, it is right as it is.
    if (Math.abs(measured - aheadMs) > tookMs / 2 + 1) aheadMs = measured;
  };
  await set();
  const timer = setInterval(() => void set().catch(() => undefined), followMs);
  return { ...systemClock, now: () => Math.round(performance.now() + aheadMs), close: () => clearInterval(timer) };
}

export interface TestClock extends Clock {
  /** Lets `ms` go by: every timer that falls due runs, in order, and what it set going is awaited. */
  advance(ms: number): Promise<void>;
}

/** A clock for tests: starts at a fixed time and stands still. */
export function testClock(start = Date.UTC(2026, 0, 1)): TestClock {
  let now = start;
  let sequence = 0;
  const timers = new Map<number, { at: number; run: () => void }>();
  const next = () => [...timers].sort(([a, x], [b, y]) => x.at - y.at || a - b)[0];
  const settled = async () => {
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    now: () => now,
    after(ms, run) {
      const id = sequence++;
      timers.set(id, { at: now + Math.max(ms, 0), run });
      return () => void timers.delete(id);
    },
    async advance(ms) {
      const end = now + ms;
      await settled();
      for (let due = next(); due !== undefined && due[1].at <= end; due = next()) {
        timers.delete(due[0]);
        now = Math.max(now, due[1].at);
        due[1].run();
        await settled();
      }
      now = end;
    },
  };
}

/** Resolves after `ms`, or as soon as `signal` aborts. Never rejects. */
export function pause(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      cancel();
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const cancel = clock.after(ms, done);
    signal?.addEventListener('abort', done, { once: true });
  });
}
