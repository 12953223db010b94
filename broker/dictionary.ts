/**
 * Reading the `hub` header, a Structured Field dictionary (RFC 9651): what our own template writes by ourselves, anything else by a library.
 */
import { parseDictionary, type DisplayString, type Token } from 'structured-headers';

// What the library gives, without its `any`.
export type BareItem = string | number | boolean | Date | Token | DisplayString | ArrayBuffer;
export type Parameters = ReadonlyMap<string, BareItem>;
export type Item = readonly [BareItem, Parameters];
export type InnerList = readonly [readonly Item[], Parameters];
export type Dictionary = ReadonlyMap<string, Item | InnerList>;

/** Throws when it is not a dictionary. */
export const readDictionary = (header: string): Dictionary => ourDictionary(header) ?? (parseDictionary(header) as Dictionary);

/** Where the reading of a text is. */
interface Reader {
  readonly text: string;
  at: number;
}

const name = /[a-z]+/y;
const word = /[a-z][a-z0-9.-]*/y;
const integer = /\d{1,15}/y;
const quoted = /"[ !#-[\]-~]*"/y;
const no = /\?0/y;
const lastDate = /@\d{1,11}$/y;

const noParameters: Parameters = new Map();

/**
 * The dictionary as our own template writes it; undefined for any other. It is on the way of every message, and takes a quarter of the
 * library's time.
 */
export function ourDictionary(text: string): Dictionary | undefined {
  const entries = new Map<string, Item | InnerList>();
  const reader: Reader = { text, at: 0 };
  for (;;) {
    const key = take(reader, name);
    if (key === undefined) return undefined;
    const value = !skip(reader, '=') ? true : skip(reader, '(') ? list(reader) : bare(reader);
    if (value === undefined) return undefined;
    entries.set(key, typeof value === 'object' && !(value instanceof Date) ? [value, noParameters] : [value, noParameters]);
    if (reader.at === text.length) return entries;
    if (!skip(reader, ',') || !skip(reader, ' ')) return undefined;
  }
}

/** The rest of an inner list, behind its bracket. */
function list(reader: Reader): Item[] | undefined {
  const items: Item[] = [];
  while (!skip(reader, ')')) {
    if (items.length > 0 && !skip(reader, ' ')) return undefined;
    const item = bare(reader);
    const parameters = reader.text[reader.at] === ';' ? parametersOf(reader) : noParameters;
    if (item === undefined || parameters === undefined) return undefined;
    items.push([item, parameters]);
  }
  return items;
}

function parametersOf(reader: Reader): Parameters | undefined {
  const parameters = new Map<string, BareItem>();
  while (skip(reader, ';')) {
    const key = take(reader, name);
    const value = skip(reader, '=') ? bare(reader) : undefined;
    if (key === undefined || value === undefined) return undefined;
    parameters.set(key, value);
  }
  return parameters;
}

function bare(reader: Reader): string | number | boolean | Date | undefined {
  switch (reader.text[reader.at]) {
    case '"':
      return take(reader, quoted)?.slice(1, -1);
    case '?':
      return take(reader, no) === undefined ? undefined : false;
    case '@': {
      const seconds = take(reader, lastDate)?.slice(1);
      return seconds === undefined ? undefined : new Date(Number(seconds) * 1_000);
    }
    default: {
      const digits = take(reader, integer);
      return digits === undefined ? take(reader, word) : Number(digits);
    }
  }
}

/** What matches here, and goes on behind it. */
function take(reader: Reader, pattern: RegExp): string | undefined {
  pattern.lastIndex = reader.at;
  if (!pattern.test(reader.text)) return undefined;
  const found = reader.text.slice(reader.at, pattern.lastIndex);
  reader.at = pattern.lastIndex;
  return found;
}

/** Is this character here? Then it goes on behind it. */
function skip(reader: Reader, character: string): boolean {
  const isHere = reader.text[reader.at] === character;
  if (isHere) reader.at++;
  return isHere;
}
