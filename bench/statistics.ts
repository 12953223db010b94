/** What the figures of several rounds come to. Pure. */

/** The value that `share` (0 to 1) of the sorted values do not exceed (nearest rank). NaN of nothing. */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  if (sorted.length === 0) return NaN;
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
}

/** The middle one, or the mean of the two in the middle. NaN of nothing. */
export function median(values: readonly number[]): number {
  if (values.length === 0) return NaN;
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

export const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The largest and the middle one of several rounds. */
export interface Spread {
  readonly best: number;
  readonly median: number;
}

export const spread = (values: readonly number[]): Spread => ({ best: Math.max(...values), median: median(values) });

/** Three significant digits, for tables; figures of a noisy machine have no more. */
export const rounded = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(3)) : value);
