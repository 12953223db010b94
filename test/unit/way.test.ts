/** docs/way-of-a-request.md says that a newcomer reads nine files and at most 700 lines: it stays so. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const rows = [...readFileSync('docs/way-of-a-request.md', 'utf8').matchAll(/^\| \d \| `([^`]+)` \| ([^|]+) \|/gm)].map(([, file, names]) => ({
  file: file!,
  names: [...names!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
}));

/** How many lines the definition of a name has: from its line to the line that closes its indentation. */
function linesOf(file: string, name: string): number {
  const lines = readFileSync(file, 'utf8').split('\n');
  const start = lines.findIndex((line) => new RegExp(`^\\s*(export )?(async )?(function|const|interface) ${name}\\b`).test(line));
  if (start === -1) throw new Error(`${file} does not define ${name}`);
  const indent = /^\s*/.exec(lines[start]!)![0];
  if (/;$/.test(lines[start]!) && !/[{(]$/.test(lines[start]!)) return 1;
  const length = lines.slice(start + 1).findIndex((line) => new RegExp(`^${indent}[\\])};]`).test(line) || (line !== '' && !line.startsWith(`${indent} `)));
  return length + 2;
}

describe('the way of a request', () => {
  it('leads through nine files at most', () => {
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.length).toBeLessThanOrEqual(9);
  });

  it('is at most 700 lines', () => {
    const total = rows.flatMap(({ file, names }) => names.map((name) => linesOf(file, name))).reduce((sum, lines) => sum + lines, 0);
    expect(total).toBeLessThanOrEqual(700);
    expect(total).toBeGreaterThan(200);
  });
});
