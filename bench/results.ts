/** What is made of the rows: JSON for machines, Markdown for people. Pure. */
import type { Case, Row } from './case.js';
import { rounded } from './statistics.js';

export interface JsonRow {
  readonly name: string;
  readonly value: number | null;
  readonly unit: string;
  readonly ratio: number | null;
  readonly bar: number | null;
}

type Bars = Readonly<Record<string, number>>;

/** A bar is the least `ratio`, or, where there is no ratio, the largest `value`. `ratio` is that of the best round. */
export function jsonOf(rows: readonly Row[], bars: Bars): { readonly rows: readonly JsonRow[] } {
  const number = (value: number | undefined) => (value === undefined || !Number.isFinite(value) ? null : Number(value.toPrecision(4)));
  return {
    rows: rows.map(({ name, value, unit, ratio }) => ({ name, value: number(value), unit, ratio: number(ratio), bar: bars[name] ?? null })),
  };
}

/** Missed only when best and median are both on the wrong side; the best one decides that. */
export function missed({ value, ratio }: Row, bar: number): boolean {
  return ratio === undefined ? value > bar : ratio < bar;
}

/** The section of one case: what it is, under which circumstances it ran, and its rows as a table. */
export function sectionOf(
  { name, about, bars }: Pick<Case, 'name' | 'about' | 'bars'>,
  rows: readonly Row[],
  circumstances: string,
): string {
  return [`## ${name}`, '', about, '', circumstances, '', tableOf(rows, bars)].join('\n');
}

/** As many columns as the rows need. */
export function tableOf(rows: readonly Row[], bars: Bars): string {
  const further = [...new Set(rows.flatMap(({ more = {} }) => Object.keys(more)))];
  const hasRatio = rows.some(({ ratio }) => ratio !== undefined);
  const head = ['', 'value', 'unit', ...(hasRatio ? ['ratio, best', 'median'] : []), 'bar', ...further];
  const lines = rows.map((row) => {
    const bar = bars[row.name];
    return [
      row.name,
      cell(row.value),
      row.unit,
      ...(hasRatio ? [cell(row.ratio), cell(row.medianRatio)] : []),
      bar === undefined ? '' : `${row.ratio === undefined ? '≤' : '≥'} ${bar}${missed(row, bar) ? ' **missed**' : ''}`,
      ...further.map((column) => cell(row.more?.[column])),
    ];
  });
  return [head, head.map((_, index) => (index === 0 ? '---' : '---:')), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function cell(value: number | string | null | undefined): string {
  if (value === undefined || value === null) return '';
  return typeof value === 'number' ? rounded(value).toLocaleString('en-US', { maximumFractionDigits: 3 }) : value;
}

const begin = (name: string) => `<!-- written by npm run bench: ${name} -->`;
const end = '<!-- until here -->';

/** The document with these sections in place of those of the same name. A section that has no place goes to the end, if wanted. */
export function withSections(document: string, sections: ReadonlyMap<string, string>, addNew: boolean): string {
  let text = document;
  for (const [name, section] of sections) {
    const written = `${begin(name)}\n\n${section}\n\n${end}`;
    const from = text.indexOf(begin(name));
    if (from >= 0) text = text.slice(0, from) + written + text.slice(text.indexOf(end, from) + end.length);
    else if (addNew) text = `${text.trimEnd()}\n\n${written}\n`;
  }
  return text;
}
