/**
 * The formats of settings: how a value is written, what is refused, how it is shown. Registered with convict once, when
 * this file is loaded. convict's own `Boolean` takes "no", "0" and "" for true and its numbers take "80x" for 80, so ours
 * stand in their place: `String`, `Number`, `Boolean`, `Array` and `Object` mean `text`, `number`, `bool`, `list`, `mapping`.
 */
import convict from 'convict';

/** One setting; structurally what `SettingsSchema` of `broker/adapter.ts` has for each. */
export interface SettingSpec {
  readonly doc: string;
  /** A name of `formats`, a list of the accepted values, a built-in constructor, or a function that throws on a wrong value. */
  readonly format: unknown;
  /** `null`: the setting must be given. `undefined`: it may be left out. */
  readonly default: unknown;
  readonly env?: string;
  /** Never shown, neither in listings nor in errors. */
  readonly sensitive?: boolean;
  /** For `url` and `secretUrl`: without the colon. Default: any. */
  readonly protocols?: readonly string[];
  /** For `url` and `secretUrl`: an empty text stands for "none". Also so where the default is empty. */
  readonly mayBeEmpty?: boolean;
}

export interface Format {
  /** What follows "must be". */
  readonly says: string | ((spec: SettingSpec) => string);
  /** Turns text into the value; what it cannot read it returns as it is, for `holds` to refuse. */
  readonly read: (text: string) => unknown;
  readonly holds: (value: unknown, spec: SettingSpec) => boolean;
  /** The value as a person writes it. Default: as it is. */
  readonly show?: (value: never) => string;
}

const second = 1_000;
const durations = { ms: 1, s: second, m: 60 * second, h: 3_600 * second, d: 86_400 * second } as const;
const sizes = { b: 1, kb: 1_024, mb: 1_024 ** 2, gb: 1_024 ** 3 } as const;
const words = new Map([
  ['true', true],
  ['yes', true],
  ['on', true],
  ['1', true],
  ['false', false],
  ['no', false],
  ['off', false],
  ['0', false],
]);

/** Reads `<number><unit>`, or a whole number of the smallest unit. */
const quantity =
  (units: Readonly<Record<string, number>>) =>
  (text: string): unknown => {
    const [, count, unit] = /^(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)$/.exec(text.trim().toLowerCase()) ?? [];
    if (count === undefined || (unit === '' && count.includes('.'))) return text;
    const factor = unit === '' ? 1 : Object.entries(units).find(([name]) => name === unit)?.[1];
    return factor === undefined ? text : Math.round(Number(count) * factor);
  };

/** Shows a number in the largest unit that leaves no fraction. */
const inUnits =
  (units: Readonly<Record<string, number>>) =>
  (value: number): string => {
    const [name, factor] =
      Object.entries(units)
        .reverse()
        .find(([, size]) => value !== 0 && value % size === 0) ?? Object.entries(units)[0]!;
    return `${value / factor}${name}`;
  };

const isText = (value: unknown): value is string => typeof value === 'string';
const wholeFrom =
  (least: number) =>
  (value: unknown): boolean =>
    Number.isSafeInteger(value) && (value as number) >= least;
const wholeNumber = (text: string): unknown => (/^\s*[+-]?\d{1,15}\s*$/.test(text) ? Number(text) : text);
const decimal = (text: string): unknown => (/^\s*[+-]?\d+(\.\d+)?(e[+-]?\d{1,3})?\s*$/i.test(text) ? Number(text) : text);
const asIs = (text: string): unknown => text;
const matches =
  (pattern: RegExp, longest: number) =>
  (value: unknown): boolean =>
    isText(value) && value.length <= longest && pattern.test(value);

/** Flow, step and hub names become parts of queue names. */
const fitName = matches(/^[a-z0-9]+([.-][a-z0-9]+)*$/, 100);

function parsedUrl(value: unknown): URL | undefined {
  return isText(value) && URL.canParse(value) ? new URL(value) : undefined;
}

/** Where a new URL begins: a password may have commas, too. */
const betweenUrls = /\s*,\s*(?=[a-z][a-z0-9+.-]*:\/\/)/i;

function holdsUrl(value: unknown, { protocols, mayBeEmpty }: SettingSpec): boolean {
  if (value === '') return mayBeEmpty === true;
  const url = parsedUrl(value);
  // Without a host it is `localhost:8080` (read as a protocol) or `amqp:/host`.
  return (
    url !== undefined &&
    (url.host !== '' || url.protocol === 'file:') &&
    (protocols === undefined || protocols.includes(url.protocol.slice(0, -1)))
  );
}

const saysUrl = ({ protocols }: SettingSpec): string =>
  protocols === undefined
    ? 'a URL, as in http://127.0.0.1:8080'
    : `a URL that begins with ${protocols.map((protocol) => `${protocol}://`).join(' or ')}`;

/** A mapping of YAML: an object, not a list. */
export function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // refused by `holds`, which says what is expected
  }
}

const integer: Format = { says: 'a whole number', read: wholeNumber, holds: (value) => Number.isSafeInteger(value) };

/** Every named format. */
export const formats = {
  text: { says: 'text (put it in quotes)', read: asIs, holds: isText },
  name: { says: 'lower case letters, digits, dots and hyphens, as in "loan.quote"', read: asIs, holds: fitName },
  word: { says: 'one word of lower case letters, digits and hyphens', read: asIs, holds: matches(/^[a-z0-9]+(-[a-z0-9]+)*$/, 40) },
  bool: {
    says: `one of ${[...words.keys()].join(', ')}`,
    read: (text) => words.get(text.trim().toLowerCase()) ?? text,
    holds: (value) => typeof value === 'boolean',
  },
  duration: {
    says: 'a duration: a number and ms, s, m, h or d, as in 200ms, 5s, 1m, 2h, 7d',
    read: quantity(durations),
    holds: wholeFrom(0),
    show: inUnits(durations),
  },
  size: { says: 'a size: a number and b, kb, mb or gb, as in 64kb, 1mb', read: quantity(sizes), holds: wholeFrom(0), show: inUnits(sizes) },
  /** As RabbitMQ writes the age of a stream. */
  age: { says: 'a number and Y, M, D, h, m or s, as in 7D', read: asIs, holds: matches(/^[1-9]\d*[YMDhms]$/, 12) },
  count: { says: 'a whole number, 1 or more', read: wholeNumber, holds: wholeFrom(1) },
  nat: { says: 'a whole number, 0 or more', read: wholeNumber, holds: wholeFrom(0) },
  int: integer,
  integer,
  number: { says: 'a number', read: decimal, holds: (value) => Number.isFinite(value) },
  port: {
    says: 'a port: a whole number from 0 to 65535',
    read: wholeNumber,
    holds: (value) => wholeFrom(0)(value) && (value as number) <= 65_535,
  },
  url: { says: saysUrl, read: asIs, holds: holdsUrl, show: maskUrl },
  /** A URL that may have a password in it: shown without, and never shown when it is wrong. */
  secretUrl: { says: saysUrl, read: asIs, holds: holdsUrl, show: maskUrl },
  /** The same several times: the nodes of one cluster. */
  secretUrls: {
    says: (spec) => `${saysUrl(spec)}; several, the nodes of a cluster, with commas between them`,
    read: (text) => text.split(betweenUrls),
    holds: (value, spec) => Array.isArray(value) && value.length > 0 && value.every((url) => holdsUrl(url, spec)),
    show: (value: readonly string[]) => value.map(maskUrl).join(', '),
  },
  list: {
    says: 'a list of texts, as in [a, b]',
    read: (text) =>
      text
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== ''),
    holds: (value) => Array.isArray(value) && value.every(isText),
    show: (value: readonly string[]) => value.join(', '),
  },
  mapping: { says: 'a mapping of names to values', read: readJson, holds: isMapping },
} as const satisfies Readonly<Record<string, Format>>;

export type FormatName = keyof typeof formats;

for (const [name, format] of Object.entries<Format>(formats)) {
  convict.addFormat({ name, coerce: format.read, validate: (value: unknown, spec) => check(format, value, spec as SettingSpec) });
}

function check(format: Format, value: unknown, spec: SettingSpec): void {
  if (format.holds(value, spec)) return;
  throw new Error(`must be ${typeof format.says === 'string' ? format.says : format.says(spec)}`);
}

const builtIns = new Map<unknown, FormatName>([
  [String, 'text'],
  ['String', 'text'],
  [Number, 'number'],
  ['Number', 'number'],
  [Boolean, 'bool'],
  ['Boolean', 'bool'],
  [Array, 'list'],
  ['Array', 'list'],
  [Object, 'mapping'],
  ['Object', 'mapping'],
]);

/** The name of a setting's format; undefined for lists of accepted values and for functions. */
export function formatName(format: unknown): FormatName | undefined {
  if (isText(format) && Object.hasOwn(formats, format)) return format as FormatName;
  return builtIns.get(format);
}

/** Hides the passwords of URLs (and what looks like one) inside any text. */
export function maskUrls(text: string): string {
  return text
    .replace(/([a-z][a-z0-9+.-]*:\/\/[^\s/:@]*):[^\s]*@/gi, '$1:****@')
    .replace(/([a-z][a-z0-9+.-]*:\/\/)[^\s/:@]+@/gi, '$1****@')
    .replace(/([?&](?:password|passwd|secret|token|api[_-]?key)=)[^&#\s"']*/gi, '$1****');
}

/** A URL without its password, whatever characters that has. */
export function maskUrl(value: string): string {
  const url = parsedUrl(value);
  if (url === undefined || (url.username === '' && url.password === '')) return maskUrls(value);
  const [start, end] = [value.indexOf('://') + 3, value.lastIndexOf('@')];
  const user = url.password === '' ? '****' : `${url.username}:****`;
  return maskUrls(`${value.slice(0, start)}${user}${value.slice(end)}`);
}
