/** docs/way-of-a-request.md says that a newcomer reads nine files and at most 700 lines: it stays so. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const rows = [...readFileSync('docs/way-of-a-request.md', 'utf8').matchAll(/^\| \d \| `([^`]+)` \| ([^|]+) \|/gm)].map(
  ([, file, names]) => ({
    file: file!,
    names: [...names!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
  }),
);

/** How many lines the definition of a name has: from its line to the brace that closes it at the same indentation. */
function linesOf(file: string, name: string): number {
  const lines = readFileSync(file, 'utf8').split('\n');
  const defines = (words: string) =>
    lines.findIndex((line) => new RegExp(`^\\s*(export |return )?(async )?(${words}) ${name}\\b`).test(line));
  const start = [defines('function|interface|class'), defines('const')].find((index) => index !== -1);
  if (start === undefined) throw new Error(`${file} does not define ${name}`);
  if (/^\s*(export )?const/.test(lines[start]!) && /;$/.test(lines[start]!)) return 1;
  const indent = /^\s*/.exec(lines[start]!)![0];
  const end = lines.findIndex(
    (line, index) =>
      index > start &&
      (line.startsWith(`${indent}}`) ||
        (/^\s*(export )?const/.test(lines[start]!) && line.startsWith(`${indent}  `) && line.endsWith(';'))),
  );
  return end - start + 1;
}

describe('the way of a request', () => {
  it('leads through nine files at most', () => {
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.length).toBeLessThanOrEqual(9);
  });

  it('is at most 700 lines', () => {
    const total = rows.flatMap(({ file, names }) => names.map((name) => linesOf(file, name))).reduce((sum, lines) => sum + lines, 0);
    process.stderr.write(`the way of a request: ${total} lines in ${rows.length} files\n`);
    expect(total).toBeLessThanOrEqual(700);
    expect(total).toBeGreaterThan(200);
  });
});
