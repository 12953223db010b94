/**
 * `hub.yaml` as data, with the place of every node, and the collector of what is wrong with it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument, type Document } from 'yaml';
import { isMapping } from './formats.js';
import { ConfigError, didYouMean } from './problems.js';

/** Keys from the top of the document: `['flows', 'loan.quote', 'steps', 1]`. */
export type Path = readonly (string | number)[];

const fileName = 'hub.yaml';

const threeLines = ['name: my-hub', 'flows:', '  hello: [hello]'].map((line) => `  ${line}`).join('\n');

interface Place {
  readonly line: number;
  readonly col: number;
}

/** Reads and parses; throws a ConfigError when there is nothing that could be looked at further. */
export function readHubFile(folder: string): HubFile {
  const text = readText(folder);
  const lines = new LineCounter();
  const doc = parsed(text, lines);
  // The parser's excerpts of the source are left out: there may be a password in them.
  const flaws = [...doc.errors, ...doc.warnings].map(({ pos, message }) => {
    const { line, col } = lines.linePos(pos[0]);
    return `${fileName}:${Math.max(line, 1)}:${Math.max(col, 1)}: not valid YAML: ${message.replace(/(in YAML stream): .*/s, '$1')}`;
  });
  if (flaws.length > 0) throw new ConfigError(flaws);
  const data = plain(doc);
  if (isMapping(data)) return new HubFile(doc, lines, data);
  throw new ConfigError([
    `${fileName}:1:1: ${data === null ? 'the file is empty' : 'the file is not a mapping'}; these three lines make a hub:\n${threeLines}`,
  ]);
}

function readText(folder: string): string {
  const file = join(folder, fileName);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new ConfigError([absent(folder, file)]);
    throw new ConfigError([
      code === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? `${fileName}: not UTF-8 text` : `${file} cannot be read: ${(error as Error).message}`,
    ]);
  }
}

function absent(folder: string, file: string): string {
  const other = existsSync(join(folder, 'hub.yml')) ? ' (there is a hub.yml: rename it)' : '';
  return `${file} does not exist${other}. A project is a folder with a ${fileName}; these three lines make one:\n${threeLines}`;
}

function parsed(text: string, lineCounter: LineCounter): Document {
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false, logLevel: 'silent' });
  } catch (error) {
    throw new ConfigError([`${fileName}: cannot be parsed: ${(error as Error).message}`]);
  }
}

/** Plain data: no loops (an alias inside of what it stands for), nothing that is not JSON. */
function plain(doc: Document): unknown {
  try {
    const data: unknown = doc.toJS({ maxAliasCount: 100 });
    JSON.stringify(data);
    return data;
  } catch (error) {
    throw new ConfigError([`${fileName}: its aliases cannot be resolved: ${(error as Error).message.split('\n')[0]}`]);
  }
}

/** The parsed file; collects problems, each at its place. */
export class HubFile {
  readonly data: Readonly<Record<string, unknown>>;
  readonly #doc: Document;
  readonly #lines: LineCounter;
  readonly #problems: (Place & { readonly text: string })[] = [];

  constructor(doc: Document, lines: LineCounter, data: Readonly<Record<string, unknown>>) {
    this.#doc = doc;
    this.#lines = lines;
    this.data = data;
  }

  /** `hub.yaml:12:5`: where the key (or the item of a list) is, or the nearest one above that exists. */
  locate(path: Path): string {
    const { line, col } = this.#place(path);
    return `${fileName}:${line}:${col}`;
  }

  /** Notes a problem at a place in the file. */
  complain(path: Path, message: string): void {
    this.#problems.push({ ...this.#place(path), text: `${this.locate(path)}: ${message}` });
  }

  /** Notes a problem that is somewhere else: in the environment, on the command line. */
  complainElsewhere(text: string): void {
    this.#problems.push({ line: Infinity, col: 0, text });
  }

  /** Throws when anything was wrong, in the order of the file. */
  settle(): void {
    if (this.#problems.length === 0) return;
    const sorted = this.#problems.toSorted((a, b) => (a.line === b.line ? a.col - b.col : a.line < b.line ? -1 : 1));
    throw new ConfigError([...new Set(sorted.map(({ text }) => text))]);
  }

  /** What is at the path; undefined when it is absent. */
  at(path: Path): unknown {
    return path.reduce<unknown>(
      (node, key) =>
        typeof node === 'object' && node !== null && Object.hasOwn(node, key) ? (node as Record<string | number, unknown>)[key] : undefined,
      this.data,
    );
  }

  /** The entries of the mapping at the path; none when all of it is commented out; a problem when it is something else. */
  entries(path: Path, what: string): [string, unknown][] {
    const value = this.at(path);
    if (value === undefined || value === null) return [];
    if (isMapping(value)) return Object.entries(value);
    this.complain(path, `${what} must be a mapping of names to values`);
    return [];
  }

  /** Refuses keys that mean nothing, with the one that was probably meant. */
  knows(path: Path, known: readonly string[], what: string): void {
    const value = this.at(path);
    if (!isMapping(value)) return;
    for (const key of Object.keys(value)) {
      if (!known.includes(key)) this.complain([...path, key], `${what}unknown key "${key}"${didYouMean(key, known)}`);
    }
  }

  #place(path: Path): Place {
    let node: unknown = this.#doc.contents;
    let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
    for (const key of path) {
      const step = this.#child(node, key);
      if (step === undefined) break;
      offset = step.offset ?? offset;
      node = step.node;
    }
    const { line, col } = this.#lines.linePos(offset);
    return { line: Math.max(line, 1), col: Math.max(col, 1) };
  }

  #child(parent: unknown, key: string | number): { node: unknown; offset: number | undefined } | undefined {
    const node = isAlias(parent) ? parent.resolve(this.#doc) : parent;
    if (isSeq(node)) {
      const item = node.items[Number(key)];
      return isNode(item) ? { node: item, offset: item.range?.[0] } : undefined;
    }
    if (!isMap(node)) return undefined;
    const pair = node.items.find((candidate) => isScalar(candidate.key) && String(candidate.key.value ?? '') === String(key));
    return pair === undefined ? undefined : { node: pair.value, offset: isScalar(pair.key) ? pair.key.range?.[0] : undefined };
  }
}
