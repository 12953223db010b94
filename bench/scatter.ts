/** Scatter to ten and gather, against a hand-written durable one. */
import type { Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';

export const scatter: Case = {
  name: 'scatter',
  about: [
    'The hand-written one: its requestor publishes ten persistent messages of 256 B with confirms, one correlation id each, to one quorum queue; the',
    'durable replier answers each (persistent, confirmed, then acknowledged); the requestor keeps the answers in its memory, acknowledges each,',
    'and joins the ten. That is 20 messages, and a group that is lost with its requestor. Ours splits in a step, works on ten parts, aggregates',
    'in Redis with a deadline, and replies: 22 messages, one script for each part, an appointment made and taken back, and a group that survives.',
  ].join(' '),
  bars: {
    'scatter: hub without journal, 64 outstanding': 0.55,
    'scatter: hub with journal, 64 outstanding': 0.38,
  },
  async run(bench): Promise<readonly Row[]> {
    const startLimit = async () => [await bench.start('limit.durable.replier'), await bench.start('limit.scatter.requestor')] as const;
    const [workers, hub, [replier, requestor]] = await Promise.all([bench.start('workers'), bench.start('hub'), startLimit()]);
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
        ours: [ours('hub without journal', 'plain.scatter'), ours('hub with journal', 'scatter')],
        loads: [{ outstanding: 64, bytes: 256 }],
      },
      ({ outstanding }) => `${outstanding} outstanding`,
    );
  },
};
