import { describe, expect, it } from '@jest/globals';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { systemClock } from '../../broker/clock.js';
import { openCorrelator } from '../../broker/correlator.js';
import { Chain, IdTable, type Entry } from '../../broker/under-way.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as (how?: { readonly type: 'minor' }) => void;

/**
 * Has as many come and go as must leave a trace, if they leave any, 200 at a time, after the first of them have become old. Returns the MB
 * by which the heap grew, after collections of the young generation only.
 */
async function grownMb(enter: (id: string, filler: object) => () => void): Promise<number> {
  let came = 0;
  const come = () => enter(`id-${came++}`, new Array<number>(250).fill(came));
  const here = Array.from({ length: 200 }, come);
  const turns = async (count: number) => {
    for (let turn = 0; turn < count; turn++) {
      here[turn % here.length]!();
      here[turn % here.length] = come();
      if (turn % 200 === 0) await setImmediate();
      if (turn % 2_000 === 0) collect({ type: 'minor' });
    }
  };
  collect();
  collect();
  await turns(2_000);
  const before = process.memoryUsage().heapUsed;
  await turns(40_000);
  return (process.memoryUsage().heapUsed - before) / 2 ** 20;
}

interface Item extends Entry {
  readonly filler: object;
}

const item = (id: string, filler: object = {}): Item => ({ id, filler, beside: undefined });

describe('what comes and goes all the time', () => {
  it('leaves nothing behind in a chain that has been there for long', async () => {
    const chain = new Chain<Item>();
    const grown = await grownMb((id, filler) => {
      const place = chain.add(item(id, filler));
      return () => chain.remove(place);
    });
    expect(grown).toBeLessThan(4);
  });

  it('leaves nothing behind in a table by id that has been there for long', async () => {
    const table = new IdTable<Item>();
    const grown = await grownMb((id, filler) => {
      const entry = item(id, filler);
      table.add(entry);
      return () => table.remove(entry);
    });
    expect(grown).toBeLessThan(4);
  });

  it('leaves nothing behind in a correlator that has been there for long', async () => {
    const correlator = openCorrelator(systemClock);
    const grown = await grownMb((id, filler) => {
      const wait = correlator.expect(id, true);
      const unlisten = correlator.onWake(id, () => filler);
      void wait.within(60_000).then(() => filler);
      return () => (unlisten(), wait.catch({} as never), wait.close());
    });
    expect(grown).toBeLessThan(4);
  });
});

describe('a chain', () => {
  it('keeps the order in which its items came, whichever of them leave', () => {
    const chain = new Chain<string>();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => chain.add(name));
    const names = () => chain.all().map((place) => place.item);
    expect(names()).toEqual(['a', 'b', 'c', 'd']);
    expect([chain.remove(b!), chain.remove(b!), chain.remove(d!)]).toEqual([true, false, true]);
    expect([names(), chain.size, chain.first]).toEqual([['a', 'c'], 2, a]);
    chain.remove(a!);
    const e = chain.add('e');
    expect([names(), chain.first]).toEqual([['c', 'e'], c]);
    for (const place of [c!, e]) chain.remove(place);
    expect([names(), chain.size, chain.first]).toEqual([[], 0, undefined]);
  });

  it('does not know the places of another one', () => {
    const [one, other] = [new Chain<string>(), new Chain<string>()];
    const place = one.add('a');
    expect([other.remove(place), one.size, other.size]).toEqual([false, 1, 0]);
  });
});

describe('a table by id', () => {
  it('finds each of many, and none that has left', () => {
    const table = new IdTable<Item>();
    const items = Array.from({ length: 1_000 }, (_, at) => item(`id-${at}`));
    items.forEach((each) => table.add(each));
    const left = items.filter((_, at) => at % 3 === 0);
    left.forEach((each) => table.remove(each));
    const here = items.filter((each) => !left.includes(each));
    expect(items.map(({ id }) => table.get(id))).toEqual(items.map((each) => (left.includes(each) ? undefined : each)));
    expect([table.size, new Set(table.all())]).toEqual([here.length, new Set(here)]);
  });

  it('keeps several with one id apart, and does not mind one that is not there', () => {
    const table = new IdTable<Item>();
    const [first, second] = [item('a'), item('a')];
    table.add(first);
    table.add(second);
    table.remove(item('a'));
    expect([table.get('a'), table.allOf('a'), table.allOf('b')]).toEqual([second, [second, first], []]);
    table.remove(second);
    expect([table.get('a'), table.size]).toEqual([first, 1]);
  });
});
