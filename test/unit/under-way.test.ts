import { describe, expect, it } from '@jest/globals';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Chain, IdTable, type Entry } from '../../broker/under-way.js';

/** How often V8 looks through the whole heap of a process while 300,000 come and go. */
async function looks(kind: string): Promise<number> {
  const script = fileURLToPath(new URL('../support/comes-and-goes.mjs', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, kind]);
  return Number(stdout);
}

interface Item extends Entry {
  readonly filler: object;
}

const item = (id: string, filler: object = {}): Item => ({ id, filler, beside: undefined });

describe('what comes and goes all the time', () => {
  it.each(['chain', 'table', 'correlator'])('leaves nothing behind in a %s that has been there for long', async (kind) => {
    expect(await looks(kind)).toBeLessThan(5);
  });

  // When this fails, V8 has mended it, and a Set will do.
  it('leaves much behind in a Set, which is why there are chains', async () => {
    expect(await looks('set')).toBeGreaterThan(5);
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
