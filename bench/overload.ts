/**
 * Overload: three times the load that the hub can carry, in an open loop through HTTP, flow with journal, against 80 % of what
 * it can carry. What it can carry is what a closed loop of 64 gets. The hub has one processor, all others the other one, and of those the load
 * comes first: a load that is starved is none. It has 2,000 connections, since who waits for one of few waits in the client.
 */
import { setPriority } from 'node:os';
import { removeQueues, startCommand } from './commands.js';
import type { Bench, Case, Row } from './case.js';
import type { LoadReport, LoadOrder, Times } from './open-loop.js';
import type { Probed } from './probe.js';
import { apart } from './processors.js';
import { median } from './statistics.js';

/** A load that waits for its turn would be late itself. Where we may not say so, it does. */
function first(pid: number): void {
  try {
    setPriority(pid, -10);
  } catch {
    // Not ours to say.
  }
}

interface Round {
  readonly capacity: number;
  /** Refused though there was not too much: of the closed loop and at 80 %. */
  readonly needless: number;
  readonly normal: Times;
  readonly accepted: Times;
  readonly refused: Times | undefined;
  /** Answered neither way. */
  readonly others: number;
  readonly rssMb: number;
  /** Of the hub during the overload, and how late the load itself was. */
  readonly utilization: number;
  readonly loopP99Ms: number;
  readonly lateP99Ms: number;
}

const none: Times = { count: 0, perSecond: 0, p50Ms: NaN, p99Ms: NaN, maxMs: NaN };

export const overload: Case = {
  name: 'overload',
  about: [
    'Three times the load that the hub carries, in an open loop, against 80 % of it: who is taken, who is refused, how fast. What it carries is what a closed',
    'loop of 64 gets just before. The hub has a processor of its own; clients, worker and services share the other one.',
  ].join(' '),
  bars: {
    'overload: p99 of those accepted at 3 times the load': 2,
    'overload: p99 of those refused': 50,
    'overload: memory after the last overload against after the first': 1.2,
    'overload: neither accepted nor refused': 0,
  },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const env = { HUB_NAMESPACE: bench.namespace, HUB_RABBITMQ_URL: bench.rabbitmq, HUB_REDIS_URL: bench.redis, HUB_NAME: 'bench' };
    const worker = await startCommand('worker', env);
    const hub = await startCommand('hub', env);
    const client = await bench.start('http.open-loop');
    const services = [bench.brokerPid, bench.redisPid];
    const together = apart(hub.pid, [client.pid, worker.pid, ...services]);
    first(client.pid);
    const load = (order: Pick<LoadOrder, 'perSecond' | 'connections' | 'measureMs' | 'warmUpMs'>) =>
      client.tell<LoadReport>('generate', { url: hub.url, path: '/requests/echo', bytes: 256, ...order });
    try {
      await load({ connections: 64, warmUpMs: bench.quick ? 3_000 : 5_000, measureMs: 500 });
      const rounds: Round[] = [];
      for (let round = 0; round < bench.rounds; round++) {
        const result = await runRound(bench, load, () => hub.probe());
        rounds.push(result);
        bench.log(saying(result));
      }
      return rowsOf(rounds);
    } finally {
      together(services);
      await hub.stop();
      await worker.stop();
      await removeQueues(bench.rabbitmq, bench.namespace);
    }
  },
};

async function runRound(
  bench: Bench,
  load: (order: Pick<LoadOrder, 'perSecond' | 'connections' | 'measureMs' | 'warmUpMs'>) => Promise<LoadReport>,
  probe: () => Promise<Probed>,
): Promise<Round> {
  const [warmUpMs, measureMs] = bench.quick ? [500, 1_500] : [1_000, 6_000];
  const most = await load({ connections: 64, warmUpMs, measureMs });
  const capacity = (most.statuses['200'] ?? none).perSecond;
  const normal = await load({ perSecond: 0.8 * capacity, connections: 500, warmUpMs, measureMs });
  // No warm-up: how the overload begins counts.
  await probe();
  const { statuses, lateP99Ms } = await load({ perSecond: 3 * capacity, connections: 2_000, warmUpMs: 0, measureMs: 2 * measureMs });
  const { rss, utilization, loopP99Ms } = await probe();
  return {
    capacity,
    needless: (most.statuses['503'] ?? none).count + (normal.statuses['503'] ?? none).count,
    normal: normal.statuses['200'] ?? none,
    accepted: statuses['200'] ?? none,
    refused: statuses['503'],
    others: Object.entries(statuses).reduce((sum, [status, { count }]) => (status === '200' || status === '503' ? sum : sum + count), 0),
    rssMb: rss / 2 ** 20,
    utilization,
    loopP99Ms,
    lateP99Ms,
  };
}

const saying = ({
  capacity,
  needless,
  normal,
  accepted,
  refused = none,
  others,
  rssMb,
  utilization,
  loopP99Ms,
  lateP99Ms,
}: Round): string =>
  [
    `overload: carries ${capacity.toFixed(0)}/s`,
    `80 %: p50 ${normal.p50Ms.toFixed(1)} p99 ${normal.p99Ms.toFixed(1)} ms; needlessly refused ${needless}`,
    `300 %: accepted ${accepted.perSecond.toFixed(0)}/s p50 ${accepted.p50Ms.toFixed(1)} p99 ${accepted.p99Ms.toFixed(1)} max ${accepted.maxMs.toFixed(0)} ms`,
    `refused ${refused.perSecond.toFixed(0)}/s p50 ${refused.p50Ms.toFixed(1)} p99 ${refused.p99Ms.toFixed(1)} max ${refused.maxMs.toFixed(0)} ms`,
    `others ${others}`,
    `hub: RSS ${rssMb.toFixed(0)} MiB, busy ${utilization.toFixed(2)}, event loop p99 ${loopP99Ms.toFixed(0)} ms; load late p99 ${lateP99Ms.toFixed(0)} ms`,
  ].join('; ');

function rowsOf(rounds: readonly Round[]): readonly Row[] {
  const all = (pick: (round: Round) => number) => rounds.map(pick).map((value) => Math.round(value * 10) / 10);
  const of = (name: string, unit: string, values: readonly number[]): Row => ({
    name: `overload: ${name}`,
    unit,
    value: median(values),
    more: { rounds: values.join(' ') },
  });
  return [
    of(
      'requests that the hub can carry',
      'req/s',
      all(({ capacity }) => capacity),
    ),
    of(
      'p99 at 80 % of that',
      'ms',
      all(({ normal }) => normal.p99Ms),
    ),
    of(
      'p99 of those accepted at 3 times the load',
      'of that at 80 %',
      rounds.map(({ normal, accepted }) => Math.round((accepted.p99Ms / normal.p99Ms) * 100) / 100),
    ),
    of(
      'accepted at 3 times the load',
      'req/s',
      all(({ accepted }) => accepted.perSecond),
    ),
    of(
      'p99 of those refused',
      'ms',
      all(({ refused }) => refused?.p99Ms ?? NaN),
    ),
    of(
      'neither accepted nor refused',
      'requests',
      all(({ others }) => others),
    ),
    {
      name: 'overload: memory after the last overload against after the first',
      unit: 'times',
      value: Math.round((rounds.at(-1)!.rssMb / rounds[0]!.rssMb) * 100) / 100,
    },
  ];
}
