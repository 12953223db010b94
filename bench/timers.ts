/** How late timers are: appointments that `Later` keeps, and deadlines that the sweeper finds. */
import type { Case, Row } from './case.js';

export interface Lateness {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export const timers: Case = {
  name: 'timers',
  bars: {
    'timers: lateness of appointments, p99': 1_000,
    'timers: lateness of deadlines, p99': 1_000,
  },
  async run(bench): Promise<readonly Row[]> {
    const hub = await bench.start('timers', { both: true });
    const settings = bench.quick ? { count: 200, withinMs: 3_000 } : { count: 2_000, withinMs: 10_000 };
    const row = (what: string, { p50Ms, p99Ms }: Lateness): Row => ({
      name: `timers: lateness of ${what}, p99`,
      value: p99Ms,
      unit: 'ms',
      more: { 'p50 ms': p50Ms },
    });
    return [
      row('appointments', await hub.tell<Lateness>('appointments', settings)),
      row('deadlines', await hub.tell<Lateness>('deadlines', settings)),
    ];
  },
};
