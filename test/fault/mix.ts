/** What the clients of a load ask, and when things die: all of it from one seed. */
import type { Question } from './clients.js';

/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
export function dice(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One of many. */
export const oneOf = <T>(random: () => number, all: readonly T[]): T => all[Math.floor(random() * all.length)]!;

type Kind = Omit<Question, 'token' | 'key'> & { readonly keyed?: boolean };

/** How often each kind is asked, of a hundred. */
const kinds: readonly (readonly [number, Kind])[] = [
  [28, { flow: 'plain' }],
  [18, { flow: 'plain', keyed: true }],
  [8, { flow: 'plain', waitSeconds: 0 }],
  [8, { flow: 'scatter' }],
  [6, { flow: 'scatter', keyed: true, waitSeconds: 0 }],
  [4, { flow: 'flaky', keyed: true }],
  [4, { flow: 'flaky' }],
  [4, { flow: 'legacy' }],
  [3, { flow: 'legacy.last', keyed: true }],
  [2, { flow: 'legacy.last' }],
  [3, { flow: 'plain', keyed: true, oneWay: true }],
  [3, { flow: 'plain', oneWay: true }],
  [2, { flow: 'reject', keyed: true }],
  [1, { flow: 'plain', keyed: true, misuse: true }],
  [2, { flow: 'scatter', cancel: true }],
  [1, { flow: 'partial' }],
  [1, { flow: 'job' }],
  [1, { flow: 'job', keyed: true, waitSeconds: 0 }],
  [1, { flow: 'silent', deadlineSeconds: 2, waitSeconds: 0 }],
];

const hundred: readonly Kind[] = kinds.flatMap(([count, kind]) => Array.from({ length: count }, () => kind));

/** The questions of a mixed load: hold, 202 and poll, keys, one-way, groups, retries, foreign programs, jobs, faults, cancel, time-outs. */
export function mixed(random: () => number, name = 't'): (n: number) => Question {
  return (n) => {
    const { keyed = false, ...kind } = oneOf(random, hundred);
    return { ...kind, token: `${name}${n}`, ...(keyed ? { key: `${name}-k${n}` } : {}) };
  };
}
