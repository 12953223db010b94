/** Hub and workers in one process, against the hand-written limit in one process. */
import type { Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';
import { label } from './request-reply.js';

export const oneProcess: Case = {
  name: 'one-process',
  about: 'Hub and workers in one process, against both hand-written durable ends in one process.',
  bars: {},
  async run(bench): Promise<readonly Row[]> {
    if (bench.quick) return [];
    const both = await bench.start('hub', { both: true });
    const limit = await bench.start('limit.durable.both');
    const ours = (name: string, to: string): Subject => ({
      name,
      to,
      requestor: both,
      processes: { hub: both.pid, broker: bench.brokerPid },
    });
    return compare(
      bench,
      {
        name: 'one process',
        limit: { name: 'limit', requestor: limit, processes: { hub: limit.pid, broker: bench.brokerPid } },
        ours: [ours('hub without journal', 'plain'), ours('hub with journal', 'journal')],
        loads: [64, 1_024].map((outstanding) => ({ outstanding, bytes: 256 })),
      },
      label,
    );
  },
};
