/** A thousand readers of server-sent events on one hub, while the jobs that they watch report 50 times a second each. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Case, Row } from './case.js';
import { removeQueues, startCommand } from './commands.js';
import type { Watched } from './watch.js';

const bars = {
  behind: 'watchers: how far behind, p99',
  lost: 'watchers: streams that ended',
  memory: 'watchers: RSS of the hub, growth',
};
const [jobs, watchersEach] = [20, 50];

export const watchers: Case = {
  name: 'watchers',
  about: [
    `1,000 streams of server-sent events from one hub, 50 for each of ${jobs} jobs. Each job reports 50 times a second, of which each watcher is told at most 4.`,
    'How far behind: from the moment at which a job says something to that at which a watcher has read it. Jobs, hub and watchers share the machine.',
    'Growth: of the RSS after garbage collection, from 10 s after they all watch.',
  ].join(' '),
  bars: { [bars.behind]: 1_000, [bars.lost]: 0, [bars.memory]: 10 },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const [fromMs, forMs] = bench.quick ? [1_000, 3_000] : [10_000, 60_000];
    const env = { HUB_NAMESPACE: bench.namespace, HUB_RABBITMQ_URL: bench.rabbitmq, HUB_REDIS_URL: bench.redis, HUB_NAME: 'bench' };
    const worker = await startCommand('worker', env);
    const hub = await startCommand('hub', env);
    try {
      const clients = await bench.start('http.watch');
      const each = bench.quick ? 10 : watchersEach;
      await clients.tell('watch', { url: hub.url, path: '/requests/reporting', jobs, each });
      await sleep(fromMs);
      const before = await hub.probe('collect');
      await clients.tell('forget');
      await hub.probe();
      const took = forMs - fromMs;
      await sleep(took);
      const watched = await clients.tell<Watched>('watched');
      const during = await hub.probe();
      const after = await hub.probe('collect');
      const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
      const perSecond = Math.round((watched.events / took) * 1_000);
      const loop = { 'event loop p99 ms': Math.round(during.loopP99Ms), 'hub busy': `${Math.round(during.utilization * 100)} %` };
      return [
        {
          name: bars.behind,
          value: watched.p99Ms,
          unit: 'ms',
          more: { 'p50 ms': watched.p50Ms, 'most ms': watched.mostMs, 'events/s': perSecond, 'fewest of one': watched.fewest, ...loop },
        },
        { name: bars.lost, value: watched.lost, unit: 'streams', more: { streams: jobs * each } },
        {
          name: bars.memory,
          value: Math.round((after.rss / before.rss - 1) * 1_000) / 10,
          unit: '%',
          more: { [`MiB after ${fromMs / 1_000} s`]: mib(before.rss), [`MiB after ${forMs / 1_000} s`]: mib(after.rss) },
        },
      ];
    } finally {
      await hub.stop();
      await worker.stop();
      await removeQueues(bench.rabbitmq, bench.namespace);
    }
  },
};
