/**
 * Ten thousand held HTTP requests on one hub: what each costs in memory, and whether the event loop notices. The hub has one processor, all others
 * the other one: an event loop that waits for its turn of a processor is late, too, and would tell of the others.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Case, Row } from './case.js';
import { removeQueues, startCommand, type Command } from './commands.js';
import type { Answered } from './hold.js';
import type { LoadReport } from './open-loop.js';
import { apart } from './processors.js';

const bars = { rss: 'held: RSS of the hub for each', loop: 'held: event loop p99', lost: 'held: not answered with 200' };

export const held: Case = {
  name: 'held',
  about:
    '10,000 requestors that hold the line of one hub: memory of each, and how late the event loop is meanwhile. The hub has a processor of its own',
  bars: {
    [bars.rss]: 16,
    [`${bars.loop}, while they come`]: 20,
    [`${bars.loop}, while they are held`]: 20,
    [`${bars.loop}, while they are answered`]: 20,
    [bars.lost]: 0,
  },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const count = bench.quick ? 1_000 : 10_000;
    const folder = mkdtempSync(join(tmpdir(), 'answerback-bench-'));
    const gate = join(folder, 'gate');
    const env = {
      HUB_NAMESPACE: bench.namespace,
      HUB_RABBITMQ_URL: bench.rabbitmq,
      HUB_REDIS_URL: bench.redis,
      HUB_NAME: 'bench',
      BENCH_GATE: gate,
    };
    const worker = await startCommand('worker', env);
    const hub = await startCommand('hub', env);
    const clients = await bench.start('http.hold');
    const warmer = await bench.start('http.open-loop');
    const services = [bench.brokerPid, bench.redisPid];
    const together = apart(hub.pid, [worker.pid, clients.pid, warmer.pid, ...services]);
    try {
      const limit = await clients.tell<number | undefined>('limit');
      bench.log(`held: ${limit ?? 'unknown'} open files may be had by each process, ${count + 100} are needed`);
      // Code that has run, and a heap that has its size, are not the cost of a held request.
      await warmer.tell<LoadReport>('generate', {
        url: hub.url,
        path: '/requests/echo',
        bytes: 2,
        connections: 256,
        warmUpMs: 0,
        measureMs: 3_000,
      });
      const before = await hub.probe('collect');
      await hub.probe();

      await clients.tell('hold', { url: hub.url, path: '/requests/gated', count, perSecond: 500 });
      await until(async () => {
        const early = await clients.tell<Answered>('answered');
        if (sum(early) > 0) throw new Error(`answered before there was an answer, of ${count}, by HTTP status: ${JSON.stringify(early)}`);
        return (await holding(hub)) === count;
      });
      const coming = await hub.probe();
      await sleep(bench.quick ? 1_000 : 5_000);
      const still = await hub.probe();
      const after = await hub.probe('collect');

      const began = performance.now();
      await hub.probe();
      writeFileSync(gate, '');
      let answered: Answered = {};
      await until(async () => sum((answered = await clients.tell<Answered>('answered'))) >= count);
      const tookMs = performance.now() - began;
      const answering = await hub.probe();
      const each = (pick: 'rss' | 'heapUsed') => Math.round(((after[pick] - before[pick]) / count / 1_024) * 10) / 10;
      const loop = (when: string, { loopP50Ms, loopP99Ms, loopMaxMs }: typeof coming): Row => ({
        name: `${bars.loop}, while they ${when}`,
        value: Math.round(loopP99Ms * 10) / 10,
        unit: 'ms',
        more: { p50: Math.round(loopP50Ms * 10) / 10, max: Math.round(loopMaxMs) },
      });
      return [
        { name: 'held: requests at once', value: count, unit: 'requests', more: { 'open files': limit ?? null } },
        { name: bars.rss, value: each('rss'), unit: 'KiB', more: { heap: each('heapUsed') } },
        loop('come', coming),
        loop('are held', still),
        loop('are answered', answering),
        { name: 'held: until all were answered', value: Math.round(tookMs), unit: 'ms' },
        { name: bars.lost, value: count - (answered['200'] ?? 0), unit: 'requests', more: { ...answered } },
      ];
    } finally {
      together(services);
      await hub.stop();
      await worker.stop();
      await removeQueues(bench.rabbitmq, bench.namespace);
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

const sum = (answered: Answered): number => Object.values(answered).reduce((total, count) => total + count, 0);

async function holding({ url }: Command): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^hub_requestors_holding (\d+)/m.exec(text)?.[1] ?? NaN);
}

/** A fact that takes at most a minute. */
async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 60_000; !(await isSo()); await sleep(100))
    if (performance.now() > end) throw new Error('it did not come to that within a minute');
}
