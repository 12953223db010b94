/** docs/reference.md is what the code says. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, it } from '@jest/globals';

it('is up to date (npm run -s answerback -- reference > docs/reference.md)', () => {
  const made = execFileSync(process.execPath, ['dist/cli/answerback.js', 'reference'], { encoding: 'utf8' });

  expect(readFileSync('docs/reference.md', 'utf8')).toBe(made);
});
