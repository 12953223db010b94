/** What a keyed request costs when few or many others are pending: it should be the same. */
import type { Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';

export const flat: Case = {
  name: 'flat',
  about: [
    'Requests with an idempotency key at a hub whose Redis holds so many other pending requests; the ratio is to the hub with 1 pending, which',
    'runs first and last in each round.',
  ].join(' '),
  bars: {},
  async run(bench): Promise<readonly Row[]> {
    if (bench.quick) return [];
    const subjects: Subject[] = [];
    // Each in a namespace of its own, so that few and many can be measured in turn.
    for (const pending of [1, 10_000, 100_000, 1_000_000]) {
      const own = { namespace: `${bench.namespace}.${pending}` };
      const [workers, hub] = await Promise.all([bench.start('workers', own), bench.start('hub', own)]);
      const filling = await bench.start('memory', own);
      await filling.tell('records', { records: pending });
      await filling.stop();
      const processes = { hub: hub.pid, worker: workers.pid, broker: bench.brokerPid, redis: bench.redisPid };
      subjects.push({ name: `${pending} pending`, to: 'keyed', requestor: hub, processes });
      bench.log(`flat: ${pending} pending`);
    }
    const [limit, ...ours] = subjects;
    return compare(bench, { name: 'flat', limit: limit!, ours, loads: [{ outstanding: 64, bytes: 256 }] }, () => 'keyed requests');
  },
};
