/** How late timers are: appointments that `Later` keeps, and deadlines that the sweeper finds. */
import type { Case, Row } from './case.js';

export interface Lateness {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export const timers: Case = {
  name: 'timers',
  about: [
    'Appointments: from the time asked for to the delivery of the message. Deadlines: from the deadline of a request that nobody works on to the',
    'moment at which a requestor that waits for it is told. All are made before the first is due, so that this is about being on time, not about',
    'how fast they are made.',
  ].join(' '),
  bars: {
    'timers: lateness of appointments, p99': 1_000,
    'timers: lateness of deadlines, p99': 1_000,
  },
  async run(bench): Promise<readonly Row[]> {
    const hub = await bench.start('timers', { both: true });
    const settings = bench.quick ? { count: 200, aheadMs: 2_000, withinMs: 2_000 } : { count: 2_000, aheadMs: 6_000, withinMs: 10_000 };
    const row = (what: string, { p50Ms, p99Ms }: Lateness): Row => ({
      name: `timers: lateness of ${what}, p99`,
      value: p99Ms,
      unit: 'ms',
      more: { 'p50 ms': p50Ms },
    });
    const { appointments, deadlines } = await hub.tell<Record<'appointments' | 'deadlines', Lateness>>('lateness', settings);
    return [row('appointments', appointments), row('deadlines', deadlines)];
  },
};
