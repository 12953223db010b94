/** The table of design §2: who may import whom. Fails on a slip, on a cycle, and on a folder that says nothing. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, it } from '@jest/globals';

const root = resolve('.');
const folders = ['broker', 'adapters', 'workers', 'config', 'cli', 'console', 'bench'];

const filesIn = (folder: string): string[] =>
  readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.name === 'node_modules') return [];
    return entry.isDirectory() ? filesIn(path) : /\.tsx?$/.test(entry.name) ? [path] : [];
  });

const sources = [...folders.filter((folder) => readdirSync(root).includes(folder)).flatMap(filesIn), 'main.ts', 'index.ts', 'testing.ts'];

/** Imports of a file: ours as paths from the root, others by package name. */
function importsOf(file: string): { readonly ours: readonly string[]; readonly packages: readonly string[] } {
  const text = readFileSync(join(root, file), 'utf8');
  const found = [...text.matchAll(/(?:from\s+|import\s*\(\s*|import\s+)'([^']+)'/g)].map(([, name]) => name!);
  return {
    ours: found.filter((name) => name.startsWith('.')).map((name) => sourceOf(relative(root, resolve(dirname(join(root, file)), name)))),
    packages: found.filter((name) => !name.startsWith('.') && !name.startsWith('node:')),
  };
}

/** The source of what an import names: `./row.js` is written as row.ts or row.tsx. */
function sourceOf(name: string): string {
  return (
    [name.replace(/\.js$/, '.ts'), name.replace(/\.js$/, '.tsx')].find((path) => sources.includes(path)) ?? name.replace(/\.js$/, '.ts')
  );
}

const graph = new Map(sources.map((file) => [file, importsOf(file)]));
const partOf = (file: string): string => (file.includes('/') ? file.split('/')[0]! : file);
/** An adapter is a file, or a folder. */
const adapterOf = (file: string): string => file.split('/')[1]!.replace(/\.ts$/, '');

const mayImport: Readonly<Record<string, readonly string[]>> = {
  broker: ['broker'],
  config: ['config'],
  adapters: ['adapters', 'broker'],
  workers: ['workers', 'broker'],
  cli: ['cli', 'main.ts', 'broker', 'config'],
  // The pages speak HTTP: they know nothing of the hub's code, and it nothing of theirs.
  console: ['console'],
  bench: ['bench', 'broker', 'main.ts', 'index.ts'],
  'main.ts': ['broker', 'adapters', 'workers', 'config'],
  'index.ts': ['broker', 'workers'],
  'testing.ts': ['broker', 'workers', 'config', 'main.ts'],
};

describe('the architecture', () => {
  it('imports only along the table of design §2', () => {
    const slips = [...graph].flatMap(([file, { ours }]) =>
      ours.filter((target) => !mayImport[partOf(file)]?.includes(partOf(target))).map((target) => `${file} → ${target}`),
    );
    expect(slips).toEqual([]);
  });

  it('lets no adapter import another', () => {
    const slips = [...graph].flatMap(([file, { ours }]) =>
      partOf(file) === 'adapters' && file !== 'adapters/index.ts'
        ? ours
            .filter((target) => partOf(target) === 'adapters' && adapterOf(target) !== adapterOf(file))
            .map((target) => `${file} → ${target}`)
        : [],
    );
    expect(slips).toEqual([]);
  });

  it.each(['amqplib', 'ioredis', 'bullmq'])('imports the driver %s in one file of broker/', (driver) => {
    // Benchmarks compare with what people write on the driver itself.
    const users = [...graph]
      .filter(
        ([file, { packages }]) => partOf(file) !== 'bench' && packages.some((name) => name === driver || name.startsWith(`${driver}/`)),
      )
      .map(([file]) => file);
    expect(users).toHaveLength(1);
    expect(partOf(users[0]!)).toBe('broker');
  });

  it('has no cycle of imports', () => {
    const cycles: string[] = [];
    const done = new Set<string>();
    const visit = (file: string, path: readonly string[]): void => {
      if (path.includes(file)) return void cycles.push([...path.slice(path.indexOf(file)), file].join(' → '));
      if (done.has(file)) return;
      for (const target of runtimeImports(file)) if (graph.has(target)) visit(target, [...path, file]);
      done.add(file);
    };
    for (const file of sources) visit(file, []);
    expect(cycles).toEqual([]);
  });

  it('has no folder or file that says nothing', () => {
    const empty = /(^|\/)(utils?|helpers?|common|lib|types|misc|shared)(\/|\.tsx?$)/;
    expect([...sources, ...filesIn('test'), ...filesIn('examples')].filter((file) => empty.test(file))).toEqual([]);
  });

  it('says in the first comment of each file what lives there', () => {
    expect(sources.filter((file) => !/^(#!.*\n)?\/[/*]/.test(readFileSync(join(root, file), 'utf8')))).toEqual([]);
  });
});

/** Imports that remain when types are erased: ports may name each other's types. */
function runtimeImports(file: string): readonly string[] {
  const text = readFileSync(join(root, file), 'utf8')
    .replace(/import type [^;]+;/g, '')
    .replace(/export type \{[^;]+;/g, '');
  return [...text.matchAll(/(?:import|export)\s*(\{[^}]*\}|[^'{]*)\s*from\s+'(\.[^']+)'/g)]
    .filter(
      ([, names]) =>
        !names!.startsWith('{') ||
        names!
          .slice(1, -1)
          .split(',')
          .some((name) => name.trim() !== '' && !name.trim().startsWith('type ')),
    )
    .map(([, , name]) => sourceOf(relative(root, resolve(dirname(join(root, file)), name!))));
}
