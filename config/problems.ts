/**
 * What is wrong with a configuration: all of it at once, each with its place and, where something is near, a suggestion.
 */
import { maskUrls } from './formats.js';

/** The configuration cannot be used. One sentence per problem; no secret is in any of them. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    const masked = problems.map(maskUrls);
    super(masked.join('\n'));
    this.problems = masked;
  }
}

/** `; did you mean "x"?`, or what there is when nothing is near. */
export function didYouMean(name: string, known: readonly string[]): string {
  const best = nearest(name, known);
  if (best !== undefined) return `; did you mean "${best}"?`;
  if (known.length === 0) return '; none are defined';
  return `; there is ${[...known].sort().slice(0, 20).join(', ')}`;
}

/** The known name that was probably meant; undefined when none is near. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const most = Math.max(2, Math.floor(name.length / 3));
  // Long names are cut: nobody mistypes 200 characters, and the distance costs the product of both lengths.
  const asked = name.slice(0, 100).toLowerCase();
  const ranked = known.map((candidate) => ({ candidate, far: distance(asked, candidate.toLowerCase()) })).sort((a, b) => a.far - b.far);
  return ranked.find(({ candidate, far }) => far <= most && far < candidate.length)?.candidate;
}

/** Edit distance (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
