/** Time as a port, so that a test can move it: the system's clock, and one that only goes forward when told to. */
import { Chain, type Place } from './under-way.js';

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls `run` once after `ms`; the returned function takes that back. `round`: one of many that look whether there is anything to do. */
  after(ms: number, run: () => void, round?: 'round'): () => void;
  /** There will be something to do then for who looks. Only clocks that jump want to know. */
  expect?(at: number): void;
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

interface Bucket {
  readonly at: number;
  readonly endings: Chain<Ending>;
  readonly cancel: () => void;
}

/** What is to end by time, and where it waits for that. */
export interface Due {
  readonly bucket: Bucket;
  readonly place: Place<Ending>;
}

export interface DeadlineBuckets {
  /** Calls `end` after `ms`, up to 50 ms late. */
  add(ms: number, ending: Ending): Due;
  /** Takes that back. */
  remove(due: Due): void;
}

/** Many things that may end by time, and mostly end otherwise: one timer for all that are due within the same 50 ms. */
export function deadlineBuckets(clock: Clock): DeadlineBuckets {
  const buckets = new Map<number, Bucket>();
  return {
    add(ms, ending) {
      const at = Math.ceil((clock.now() + ms) / bucketMs) * bucketMs;
      let bucket = buckets.get(at);
      if (bucket === undefined) {
        const endings = new Chain<Ending>();
        const cancel = clock.after(at - clock.now(), () => {
          buckets.delete(at);
          for (const { item } of endings.all()) item.end();
        });
        buckets.set(at, (bucket = { at, endings, cancel }));
      }
      return { bucket, place: bucket.endings.add(ending) };
    },
    remove({ bucket: { at, endings, cancel }, place }) {
      if (!endings.remove(place) || endings.size > 0 || buckets.get(at)?.endings !== endings) return;
      buckets.delete(at);
      cancel();
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
  /**
   * Lets `ms` go by: every timer that falls due runs, in order, and what it set going is awaited. Of rounds only the next one after anything
   * has happened runs, so that months go by in milliseconds.
   */
  advance(ms: number): Promise<void>;
}

/** Resolves when whatever was set going has come to rest, as far as can be told. */
async function atRest(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** A clock for tests: starts at a fixed time and stands still. */
export function testClock(start = Date.UTC(2026, 0, 1), settled = atRest): TestClock {
  let now = start;
  let sequence = 0;
  const timers = new Map<number, { readonly at: number; readonly run: () => void; readonly isRound: boolean }>();
  let expected: number[] = [];
  /** Rounds that follow on something that happened. */
  let rounds = new Set<number>();

  /** What happens next, not after `end`. */
  function next(end: number): { readonly at: number; readonly id?: number } | undefined {
    const due: { readonly at: number; readonly id?: number }[] = expected.map((at) => ({ at }));
    for (const [id, { at, isRound }] of timers) if (!isRound || rounds.has(id)) due.push({ at, id });
    return due.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at || (a.id ?? -1) - (b.id ?? -1))[0];
  }
  const roundsFollow = () => (rounds = new Set([...timers].filter(([, { isRound }]) => isRound).map(([id]) => id)));
  return {
    now: () => now,
    expect: (at) => void expected.push(at),
    after(ms, run, round) {
      const id = sequence++;
      timers.set(id, { at: now + Math.max(ms, 0), run, isRound: round !== undefined });
      return () => void timers.delete(id);
    },
    async advance(ms) {
      const end = now + ms;
      await settled();
      for (let isOver = false; !isOver;) {
        const due = next(end);
        now = Math.max(now, due?.at ?? end);
        expected = expected.filter((at) => at > now);
        const timer = timers.get(due?.id ?? -1);
        timers.delete(due?.id ?? -1);
        timer?.run();
        await settled();
        if (due === undefined) {
          // Who looks now and then has looked just before: what those find to do is done, too.
          for (const [id, { at, run, isRound }] of [...timers])
            if (isRound && at <= now) {
              timers.delete(id);
              run();
            }
          await settled();
          isOver = next(end) === undefined;
        } else if (timer?.isRound === true) rounds.delete(due.id ?? -1);
        else roundsFollow();
      }
    },
  };
}

/** Resolves after `ms`, or as soon as `signal` aborts. Never rejects. */
export function pause(clock: Clock, ms: number, signal?: AbortSignal, round?: 'round'): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      cancel();
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const cancel = clock.after(ms, done, round);
    signal?.addEventListener('abort', done, { once: true });
  });
}

/** Whether `work` has ended by the time `at`; it goes on either way. Rejects with what `work` rejects with until then. */
export async function endsBy(clock: Clock, at: number, work: Promise<unknown>): Promise<boolean> {
  const ended = new AbortController();
  try {
    return await Promise.race([work.then(() => true), pause(clock, at - clock.now(), ended.signal).then(() => false)]);
  } finally {
    ended.abort();
  }
}
