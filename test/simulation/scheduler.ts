/**
 * Time and chance of a simulation. Whatever happens is an event at a time; between two events every promise that the
 * first one settled is followed to its end. Which event is next, and so the order of all that is concurrent, depends on
 * the seed alone.
 */
import type { Clock, Soon } from '../../broker/clock.js';

export interface Random {
  /** From 0 to below 1. */
  next(): number;
  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
}

/** sfc32 (Chris Doty-Humphrey, PractRand): small, fast, and good enough for drawing. */
export function seeded(seed: number): Random {
  let [a, b, c, counter] = [0x9e3779b9 ^ seed, 0x243f6a88, 0xb7e15162 + seed, 1];
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return (sum >>> 0) / 4_294_967_296;
  };
  for (let turn = 0; turn < 15; turn++) next();
  return {
    next,
    between: (low, high) => low + Math.floor(next() * (high - low + 1)),
    chance: (probability) => next() < probability,
    pick: (from) => from[Math.floor(next() * from.length)]!,
  };
}

export interface Scheduler {
  readonly random: Random;
  readonly clock: Clock;
  /** What is to happen soon happens a drawn moment later. */
  readonly soon: Soon;
  /** The time with its fractions of a millisecond, since the beginning. */
  elapsedMs(): number;
  /** The clocks go forward by `ms` at once: what fell due meanwhile is late. */
  jump(ms: number): void;
  /** Lets events happen until `isOver`; resolves false when nothing is left to happen, or when it takes longer than `limitMs`. */
  run(isOver: () => boolean, limitMs: number): Promise<boolean>;
  /** How many events there were. */
  readonly events: number;
}

interface Event {
  readonly at: number;
  /** Decides between events of the same time. */
  readonly lot: number;
  run: (() => void) | undefined;
}

/** How many events one turn of the event loop may have. */
const atOnce = 64;

export function scheduler(seed: number, start: number): Scheduler {
  const random = seeded(seed);
  const queue = heap();
  let elapsed = 0;
  let events = 0;
  const now = () => start + Math.floor(elapsed);

  function at(time: number, run: () => void): () => void {
    const event: Event = { at: time, lot: random.next(), run };
    queue.push(event);
    return () => void (event.run = undefined);
  }

  /** A timer is never early by the clock that everybody reads, and mostly not late. */
  const after = (ms: number, run: () => void) => {
    const lateMs = random.chance(0.02) ? random.next() * 50 : random.next();
    return at(Math.max(elapsed, Math.floor(elapsed) + Math.max(0, ms)) + lateMs, run);
  };

  return {
    random,
    clock: { now, after },
    soon: (run) => void at(elapsed + random.next() * 0.5, run),
    elapsedMs: () => elapsed,
    jump: (ms) => void (elapsed += ms),
    get events() {
      return events;
    },
    run(isOver, limitMs) {
      return new Promise((resolve, reject) => {
        let ended = false;
        const end = (isDone: boolean) => {
          ended = true;
          resolve(isDone);
        };
        const step = () => {
          if (ended) return;
          if (isOver()) return end(true);
          let event = queue.pop();
          while (event !== undefined && event.run === undefined) event = queue.pop();
          if (event === undefined || event.at > limitMs) return end(false);
          elapsed = Math.max(elapsed, event.at);
          events++;
          try {
            event.run?.();
          } catch (error) {
            ended = true;
            reject(error instanceof Error ? error : new Error(String(error)));
          }
        };
        // Node follows every promise between two immediates, and goes through all that there are without looking for anything else.
        const turn = () => {
          if (ended) return;
          for (let count = 0; count < atOnce; count++) setImmediate(step);
          setImmediate(turn);
        };
        turn();
      });
    },
  };
}

/** The earliest first. */
function heap() {
  const events: Event[] = [];
  const isBefore = (one: Event, other: Event) => one.at < other.at || (one.at === other.at && one.lot < other.lot);
  return {
    push(event: Event) {
      let place = events.length;
      events.push(event);
      for (let above = (place - 1) >> 1; place > 0 && isBefore(event, events[above]!); above = (place - 1) >> 1) {
        events[place] = events[above]!;
        place = above;
      }
      events[place] = event;
    },
    pop(): Event | undefined {
      const first = events[0];
      const last = events.pop();
      if (first === undefined || last === undefined || events.length === 0) return first;
      let place = 0;
      for (;;) {
        let below = 2 * place + 1;
        if (below >= events.length) break;
        if (below + 1 < events.length && isBefore(events[below + 1]!, events[below]!)) below++;
        if (!isBefore(events[below]!, last)) break;
        events[place] = events[below]!;
        place = below;
      }
      events[place] = last;
      return first;
    },
  };
}
