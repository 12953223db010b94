/**
 * The order in which test files run: first those that take the longest, so that none of them is alone at the end. Jest goes by what
 * they took last time, and knows nothing on a fresh machine.
 */
import Sequencer from '@jest/test-sequencer';

const slowest = [
  'integration/docs',
  'integration/callbacks',
  'integration/refuse-to-start',
  'integration/jobs',
  'integration/rebuild',
  'integration/arrivals',
  'integration/tasks',
  'contract/transport-amqp',
  'browser/pages',
  'fault/broker',
  'integration/hub',
  'fault/workers',
  'integration/http-down',
  'integration/conversations',
  'browser/hub',
  'integration/parts',
  'fault/hubs',
  'contract/store',
  'integration/amend',
];

/** @param {string} path */
const place = (path) => {
  const at = slowest.findIndex((name) => path.endsWith(`/test/${name}.test.ts`));
  return at < 0 ? slowest.length : at;
};

export default class SlowestFirst extends Sequencer {
  /** @override @param {Parameters<typeof Sequencer.prototype.sort>[0]} tests */
  sort(tests) {
    return [...super.sort(tests)].sort((a, b) => place(a.path) - place(b.path));
  }
}
