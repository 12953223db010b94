/** Whose turn it is at a step with two queues: so many at once, and of those that wait the urgent ones first. */

export interface Turns {
  /** Runs when it is its turn. Rejects when the process stops before that. */
  take<T>(isUrgent: boolean, stopping: AbortSignal, run: () => Promise<T>): Promise<T>;
}

export function openTurns(atOnce: number): Turns {
  let free = atOnce;
  const urgent: (() => void)[] = [];
  const others: (() => void)[] = [];
  return {
    async take(isUrgent, stopping, run) {
      if (free > 0) free--;
      else await new Promise<void>((resolve) => (isUrgent ? urgent : others).push(resolve));
      try {
        if (stopping.aborted) throw new Error('the process stops');
        return await run();
      } finally {
        const next = urgent.shift() ?? others.shift();
        if (next === undefined) free++;
        else next();
      }
    },
  };
}
