/** Request and reply over one step that echoes, against the hand-written limit of the same durability. */
import type { Bench, Case, Row } from './case.js';
import { compare, type Load, type Subject } from './compare.js';

const kilo = (bytes: number): string => (bytes < 1_024 ? `${bytes} B` : `${bytes / 1_024} KiB`);
export const label = ({ outstanding, bytes }: Load): string => `${outstanding} outstanding, ${kilo(bytes)}`;

const loadsOf = ({ quick }: Bench): readonly Load[] =>
  [256, 16_384]
    .filter((bytes) => !quick || bytes === 256)
    .flatMap((bytes) => [1, 64, 1_024].filter((outstanding) => !quick || outstanding > 1).map((outstanding) => ({ outstanding, bytes })));

export const requestReply: Case = {
  name: 'request-reply',
  about: [
    'A flow of one step that echoes, asked through the gateway in the hub process, served by a worker process. The hand-written limit has',
    'its requestor and its replier in two processes, too, each with one connection, one channel, `noDelay`, prefetch 2,000, and correlates by a Map.',
    'With batches: `batch: true`, requests and replies of one turn of the event loop in one message.',
    'Volatile: transient messages, noAck, a classic queue for work, an exclusive one for replies, no confirms. Durable: quorum queues for work',
    'and for replies, persistent messages, confirms on both legs, manual acknowledgement, that of a request when its reply is confirmed.',
  ].join(' '),
  bars: {
    'volatile: hub, 64 outstanding, 256 B': 1.0,
    'volatile: hub, 1024 outstanding, 256 B': 0.7,
    'volatile: hub with batches, 64 outstanding, 256 B': 1.0,
    'volatile: hub with batches, 1024 outstanding, 256 B': 0.7,
    'durable: hub without journal, 64 outstanding, 256 B': 0.85,
    'durable: hub without journal, 1024 outstanding, 256 B': 0.75,
    'durable: hub with journal, 64 outstanding, 256 B': 0.65,
    'durable: hub with journal, 1024 outstanding, 256 B': 0.5,
  },
  async run(bench): Promise<readonly Row[]> {
    const [workers, hub, volatileLimit, durableLimit] = await Promise.all([
      bench.start('workers'),
      bench.start('hub'),
      limit(bench, 'volatile'),
      limit(bench, 'durable'),
    ]);
    const processes = { hub: hub.pid, worker: workers.pid, broker: bench.brokerPid };
    const ours = (name: string, to: string): Subject => ({ name, to, requestor: hub, processes });
    const loads = loadsOf(bench);
    return [
      ...(await compare(
        bench,
        { name: 'volatile', limit: volatileLimit, ours: [ours('hub', 'volatile'), ours('hub with batches', 'batched')], loads },
        label,
      )),
      ...(await compare(
        bench,
        {
          name: 'durable',
          limit: durableLimit,
          ours: [ours('hub without journal', 'plain'), ours('hub with journal', 'journal')],
          loads,
        },
        label,
      )),
    ];
  },
};

export async function limit(bench: Bench, durability: 'volatile' | 'durable', settings = {}): Promise<Subject> {
  const replier = await bench.start(`limit.${durability}.replier`, settings);
  const requestor = await bench.start(`limit.${durability}.requestor`, settings);
  return { name: 'limit', requestor, processes: { hub: requestor.pid, worker: replier.pid, broker: bench.brokerPid } };
}
