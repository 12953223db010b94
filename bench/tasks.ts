/** An inbox with 100,000 open tasks (BENCH_TASKS says how many else): the first page, a claim, and how soon a decision frees who waits. */
import type { Case, Row } from './case.js';
import type { Times } from './inbox.js';

const bars = {
  page: 'tasks: first page, p99',
  claim: 'tasks: claim, p99',
  decision: 'tasks: from the decision to who holds the line, p99',
};

export const tasks: Case = {
  name: 'tasks',
  about:
    'An inbox over HTTP, of somebody who is in ten groups that share all open tasks. The client, the hub and its worker are one process. Claims are made four at a time.',
  bars: { [bars.page]: 200, [bars.claim]: 50, [bars.decision]: 300 },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const open = Number(process.env['BENCH_TASKS'] ?? (bench.quick ? 1_000 : 100_000));
    const [pages, claims, decisions] = bench.quick ? [50, 100, 10] : [300, 1_000, 200];
    const inbox = await bench.start('inbox');
    await inbox.tell('fill', { count: open });
    const row = (name: string, { p50Ms, p99Ms, most }: Times): Row => {
      bench.log(`${name}: ${p99Ms} ms, p50 ${p50Ms}, most ${most}`);
      return { name, value: p99Ms, unit: 'ms', more: { 'p50 ms': p50Ms, 'most ms': most, 'open tasks': open } };
    };
    return [
      row(bars.page, await inbox.tell<Times>('pages', { count: pages })),
      row(bars.claim, await inbox.tell<Times>('claims', { count: claims })),
      row(bars.decision, await inbox.tell<Times>('decisions', { count: decisions })),
    ];
  },
};
