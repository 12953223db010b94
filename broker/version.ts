/** The version of this package, as it is in `package.json`. */
import { readFileSync } from 'node:fs';

// Both from source and from dist/ the file is one or two folders up.
const found = ['../package.json', '../../package.json']
  .map((path) => new URL(path, import.meta.url))
  .map((url) => {
    try {
      return JSON.parse(readFileSync(url, 'utf8')) as { name?: string; version?: string };
    } catch {
      return undefined;
    }
  });

export const version: string = found.find((file) => file?.name === 'answerback')?.version ?? '0.0.0';
