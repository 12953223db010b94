/** How many must agree, and when the result can no longer change. */

/**
 * `needed` different people of `of` must vote for `outcome`. As soon as so many have, it is that; as soon as so many can no longer
 * be found, it is the other outcome with the most votes (of several, the one voted for first).
 */
export interface Approvals {
  readonly needed: number;
  readonly of: number;
  readonly outcome: string;
}

/** The outcome that the votes, in their order, make certain; undefined: it may still go either way. Without approvals the first vote decides. */
export function certain(approvals: Approvals | undefined, votes: readonly { readonly outcome: string }[]): string | undefined {
  if (approvals === undefined) return votes[0]?.outcome;
  const { needed, of, outcome } = approvals;
  const others = votes.filter((vote) => vote.outcome !== outcome);
  const agreed = votes.length - others.length;
  if (agreed >= needed) return outcome;
  if (agreed + (of - votes.length) >= needed) return undefined;
  const counts = new Map<string, number>();
  for (const vote of others) counts.set(vote.outcome, (counts.get(vote.outcome) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)?.[0];
}
