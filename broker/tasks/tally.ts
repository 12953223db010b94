/**
 * How often somebody was refused the same thing of late, as far as this hub has seen: so that the audit can tell that somebody goes on
 * trying, without an entry for each try.
 */
import type { Clock } from '../clock.js';

export interface Tally {
  /** How often this makes it, this time included. Counts nothing. */
  next(what: string): number;
  count(what: string): void;
}

/** Whoever lets it be for so long begins anew. */
const forgottenMs = 10 * 60_000;
const most = 10_000;

export function openTally(clock: Pick<Clock, 'now'>): Tally {
  const counts = new Map<string, { readonly times: number; readonly at: number }>();
  const next = (what: string): number => {
    const { times = 0, at = -Infinity } = counts.get(what) ?? {};
    return clock.now() - at > forgottenMs ? 1 : times + 1;
  };
  return {
    next,
    count(what) {
      const times = next(what);
      counts.delete(what);
      counts.set(what, { times, at: clock.now() });
      if (counts.size > most) counts.delete(counts.keys().next().value as string);
    },
  };
}

/** The 1st, 2nd, 4th, 8th, … time is told. */
export const isTold = (times: number): boolean => Number.isInteger(Math.log2(times));
