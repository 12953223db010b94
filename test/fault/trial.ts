/** A trial: what the hub is put through, outside jest, and what came of it as one row of figures. */
import { eventually } from '../support/eventually.js';
import type { Violation } from './history.js';
import type { Scenario } from './processes.js';

/** One row of the report: what `npm run test:fault -- --json` prints. */
export interface Row {
  readonly name: string;
  readonly requests: number;
  readonly kills: number;
  readonly lost: number;
  readonly doubled: number;
  readonly foreign: number;
  readonly hung: number;
}

export type Size = 'quick' | 'normal' | 'long';

export interface TrialContext {
  readonly seed: number;
  readonly size: Size;
  /** How many, for a trial that can be told; default: what its size says. */
  readonly requests?: number;
  readonly kills?: number;
  /** For people, on stderr. */
  readonly say: (line: string) => void;
}

export interface Trial {
  readonly name: string;
  /** Sizes in which it runs. */
  readonly sizes: readonly Size[];
  /** Runs it. What it finds broken is in the rows; it rejects when it could not be carried out. */
  readonly run: (context: TrialContext) => Promise<readonly Row[]>;
}

/** What was seen, counted. Every violation is told, since a number alone mends nothing. */
export function rowOf(
  name: string,
  { history: { seen } }: Pick<Scenario, 'history'>,
  violations: readonly Violation[],
  { kills = 0, say }: { readonly kills?: number; readonly say: (line: string) => void },
): Row {
  const tokens = new Set(seen.flatMap((one) => (one.what === 'ask' ? [one.token] : [])));
  for (const { breach, sentence } of violations.slice(0, 20)) say(`${name}: ${breach}: ${sentence}`);
  if (violations.length > 20) say(`${name}: and ${violations.length - 20} more`);
  const count = (wanted: Violation['breach']) => violations.filter(({ breach }) => breach === wanted).length;
  return {
    name,
    requests: tokens.size,
    kills,
    lost: count('lost'),
    doubled: count('doubled'),
    foreign: count('foreign'),
    hung: count('hung'),
  };
}

/** A condition that a trial has of its own, as a violation when it does not hold. */
export const unless = (holds: boolean, sentence: string): readonly Violation[] => (holds ? [] : [{ breach: 'hung', sentence }]);

/** Resolves when there is more of something by `count`. */
export async function more(now: () => number, count: number, withinMs = 60_000): Promise<void> {
  const before = now();
  await until(() => now() >= before + count, `${count} more than ${before}`, withinMs);
}

/** Resolves when it is so; rejects with `what` after `withinMs`. */
export const until = (isSo: () => boolean, what: string, withinMs = 60_000): Promise<void> =>
  eventually(
    () => {
      if (!isSo()) throw new Error(`not within ${withinMs} ms: ${what}`);
    },
    { withinMs },
  );

/**
 * When an operation that began after `since` was first accepted, at `from` or later: so long took the way back. Of those with a key, which have
 * a record from the start: what is answered on the line needs no Redis, and a hub that has not noticed yet goes on taking it.
 */
export async function acceptedAgain({ history }: Scenario, since: number, from: number): Promise<number> {
  let found: number | undefined;
  await until(
    () => {
      const asked = new Set(
        history.seen.filter((one) => one.what === 'ask' && one.key !== undefined && one.at > since).map(({ op }) => op),
      );
      found = history.seen.find(({ what, op, at }) => what === 'accepted' && at >= from && asked.has(op))?.at;
      return found !== undefined;
    },
    'a request is accepted again',
    60_000,
  );
  return found! - from;
}

/**
 * What clients heard that asked while a service was away: a definite refusal within 1 s and with Retry-After, or within 6 s that nobody
 * knows. First tries only: a repeat under a key is held, for the first may be under way.
 */
export function slowAnswers({ history: { seen } }: Scenario, from: number, to: number): readonly Violation[] {
  const tokens = new Set<string>();
  const firsts = new Map<number, number>();
  for (const one of seen) {
    if (one.what !== 'ask') continue;
    if (!tokens.has(one.token) && one.at >= from && one.at <= to) firsts.set(one.op, one.at);
    tokens.add(one.token);
  }
  return seen.flatMap((one) => {
    const askedAt = firsts.get(one.op);
    if (askedAt === undefined || (one.what !== 'refused' && one.what !== 'unknown')) return [];
    const tookMs = one.at - askedAt;
    return [
      ...unless(tookMs <= (one.what === 'refused' ? 1_000 : 6_000), `operation ${one.op} took ${tookMs} ms to be ${one.what}: ${one.why}`),
      ...unless(!one.why.includes('without Retry-After'), `operation ${one.op} was told ${one.why}`),
    ];
  });
}
