/** What the benchmarks make of their figures. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import type { Row } from '../../bench/case.js';
import { cases } from '../../bench/cases.js';
import { ends } from '../../bench/ends.js';
import { jsonOf, missed, sectionOf, tableOf, withSections } from '../../bench/results.js';
import { median, percentile, rounded, spread } from '../../bench/statistics.js';

describe('the benchmarks', () => {
  it('start no process that there is not', () => {
    const files = readdirSync('bench').filter((name) => name.endsWith('.ts'));
    const started = files.flatMap((name) =>
      [...readFileSync(`bench/${name}`, 'utf8').matchAll(/\.start\('([^']+)'/g)].map(([, end]) => end!),
    );
    expect(started).toContain('hub');
    expect(started.filter((end) => !Object.hasOwn(ends, end))).toEqual([]);
  });
});

describe('the statistics of a benchmark', () => {
  it('take percentiles by the nearest rank', () => {
    const sorted = Array.from({ length: 100 }, (_, index) => index + 1);
    expect([percentile(sorted, 0.5), percentile(sorted, 0.99), percentile(sorted, 1), percentile(sorted, 0)]).toEqual([50, 99, 100, 1]);
    expect(percentile([7], 0.99)).toBe(7);
    expect(percentile([], 0.5)).toBeNaN();
  });

  it('take the middle of an odd number of rounds, and the mean of the two in the middle of an even one', () => {
    expect([median([3, 1, 2]), median([4, 1, 3, 2])]).toEqual([2, 2.5]);
    expect(median([])).toBeNaN();
  });

  it('keep the best round beside the median', () => {
    expect(spread([0.5, 0.9, 0.6])).toEqual({ best: 0.9, median: 0.6 });
  });

  it('show three digits', () => {
    expect([rounded(12_345), rounded(0.123_45), rounded(0)]).toEqual([12_300, 0.123, 0]);
  });
});

describe('the results of a benchmark', () => {
  const rows: Row[] = [
    { name: 'limit', value: 6_805.123_4, unit: 'req/s' },
    { name: 'hub', value: 5_000, unit: 'req/s', ratio: 0.735, medianRatio: 0.7, more: { 'p50 ms': 1.25, 'broker µs': null } },
    { name: 'memory', value: 900, unit: 'bytes' },
  ];
  const bars = { hub: 0.65, memory: 1_000 };

  it('are one object with a row for each, and null where something does not apply', () => {
    expect(jsonOf(rows, bars)).toEqual({
      rows: [
        { name: 'limit', value: 6_805, unit: 'req/s', ratio: null, bar: null },
        { name: 'hub', value: 5_000, unit: 'req/s', ratio: 0.735, bar: 0.65 },
        { name: 'memory', value: 900, unit: 'bytes', ratio: null, bar: 1_000 },
      ],
    });
  });

  it('have no figure that JSON cannot carry', () => {
    expect(jsonOf([{ name: 'nothing', value: NaN, unit: 'ms', ratio: Infinity }], {}).rows[0]).toMatchObject({ value: null, ratio: null });
  });

  it('miss a bar from below with a ratio, from above with a value', () => {
    const [, hub, memory] = rows as [Row, Row, Row];
    expect([missed(hub, 0.65), missed(hub, 0.74), missed(memory, 1_000), missed(memory, 899)]).toEqual([false, true, false, true]);
  });

  it('are a table with the columns that the rows have', () => {
    expect(tableOf(rows, bars).split('\n')).toEqual([
      '|  | value | unit | ratio, best | median | bar | p50 ms | broker µs |',
      '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
      '| limit | 6,810 | req/s |  |  |  |  |  |',
      '| hub | 5,000 | req/s | 0.735 | 0.7 | ≥ 0.65 | 1.25 |  |',
      '| memory | 900 | bytes |  |  | ≤ 1000 |  |  |',
    ]);
  });

  it('replace the section of the same name, and only where the document has one unless it may grow', () => {
    const section = (value: number) => sectionOf({ name: 'a', about: 'About.', bars: {} }, [{ name: 'x', value, unit: 'ms' }], 'Now.');
    const grown = withSections('# Title\n', new Map([['a', section(1)]]), true);
    expect(grown).toContain('| x | 1 | ms |');
    const again = withSections(`${grown}\nThe end.\n`, new Map([['a', section(2)]]), true);
    expect(again).toContain('| x | 2 | ms |');
    expect(again).not.toContain('| x | 1 | ms |');
    expect(again.endsWith('\nThe end.\n')).toBe(true);
    expect(withSections('# Title\n', new Map([['a', section(1)]]), false)).toBe('# Title\n');
  });
});

describe('the list of benchmarks', () => {
  it('names each once, and no bar twice', () => {
    const names = cases.map(({ name }) => name);
    const bars = cases.flatMap((each) => Object.keys(each.bars));
    expect([new Set(names).size, new Set(bars).size]).toEqual([names.length, bars.length]);
  });
});
