/** Scatter to ten and gather, against a hand-written durable one. */
import type { Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';
import { canLeaveJournalOut } from './ours.js';

export const scatter: Case = {
  name: 'scatter',
  bars: {
    'scatter: hub without journal, 64 outstanding': 0.55,
    'scatter: hub with journal, 64 outstanding': 0.38,
  },
  async run(bench): Promise<readonly Row[]> {
    const [workers, hub] = [await bench.start('workers'), await bench.start('hub')];
    const replier = await bench.start('limit.durable.replier');
    const requestor = await bench.start('limit.scatter.requestor');
    const services = { broker: bench.brokerPid, redis: bench.redisPid };
    const ours = (name: string, to: string): Subject => ({
      name,
      to,
      requestor: hub,
      processes: { hub: hub.pid, worker: workers.pid, ...services },
    });
    return compare(
      bench,
      {
        name: 'scatter',
        limit: { name: 'limit', requestor, processes: { hub: requestor.pid, worker: replier.pid, ...services } },
        ours: [...(canLeaveJournalOut ? [ours('hub without journal', 'plain.scatter')] : []), ours('hub with journal', 'scatter')],
        loads: [{ outstanding: 64, bytes: 256 }],
      },
      ({ outstanding }) => `${outstanding} outstanding`,
    );
  },
};
