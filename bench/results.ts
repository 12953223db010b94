/** What is made of the rows: JSON for machines, Markdown for people. */
import type { Row } from './case.js';

export interface JsonRow {
  readonly name: string;
  readonly value: number | null;
  readonly unit: string;
  readonly ratio: number | null;
  readonly bar: number | null;
}

/** A bar is the least `ratio`, or, where there is no ratio, the largest `value`. */
export function jsonOf(rows: readonly Row[], bars: Readonly<Record<string, number>>): { readonly rows: readonly JsonRow[] } {
  const number = (value: number | undefined) => (value === undefined || !Number.isFinite(value) ? null : Number(value.toPrecision(4)));
  return {
    rows: rows.map(({ name, value, unit, ratio }) => ({ name, value: number(value), unit, ratio: number(ratio), bar: bars[name] ?? null })),
  };
}
