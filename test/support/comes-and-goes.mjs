// How often V8 looks through the whole heap while 200 of something at a time come and go, after the first of them have become old.
// Prints that number. In a process of its own: what else a process does makes V8 look, too.

import { setFlagsFromString } from 'node:v8';
import { setImmediate } from 'node:timers/promises';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { runInNewContext } from 'node:vm';
import { systemClock } from '../../dist/broker/clock.js';
import { openCorrelator } from '../../dist/broker/correlator.js';
import { Chain, IdTable } from '../../dist/broker/under-way.js';

/** @type {Record<string, () => (id: string, filler: object) => () => void>} Each enters something, and returns what takes it out. */
const kinds = {
  chain() {
    const chain = new Chain();
    return (_id, filler) => {
      const place = chain.add(filler);
      return () => void chain.remove(place);
    };
  },
  table() {
    const table = new IdTable();
    return (id, filler) => {
      const entry = { id, filler, beside: undefined };
      table.add(entry);
      return () => table.remove(entry);
    };
  },
  correlator() {
    const correlator = openCorrelator(systemClock);
    return (id, filler) => {
      const unlisten = correlator.onWake(id, () => filler);
      const wait = correlator.expect(id, true);
      void wait.within(60_000).then(() => filler);
      return () => {
        unlisten();
        wait.catch(/** @type {never} */ ({}));
        wait.close();
      };
    };
  },
  // What the others are instead of.
  set() {
    const set = new Set();
    return (_id, filler) => {
      set.add(filler);
      return () => void set.delete(filler);
    };
  },
};

const enter = /** @type {NonNullable<typeof kinds[string]>} */ (kinds[process.argv[2] ?? ''])();
let came = 0;
const come = () => enter(`id-${came++}`, new Array(250).fill(came));
const here = Array.from({ length: 200 }, come);
setFlagsFromString('--expose-gc');
const collect = /** @type {() => void} */ (runInNewContext('gc'));
collect();
collect();
let looks = 0;
new PerformanceObserver((list) => {
  for (const { detail } of list.getEntries())
    if (/** @type {{ kind: number }} */ (detail).kind === constants.NODE_PERFORMANCE_GC_MAJOR) looks++;
}).observe({ entryTypes: ['gc'] });
await setImmediate();
looks = 0;
for (let turn = 0; turn < 300_000; turn++) {
  here[turn % here.length]?.();
  here[turn % here.length] = come();
  if (turn % 200 === 0) await setImmediate();
}
await setImmediate();
console.log(looks);
process.exit(0);
