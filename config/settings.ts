/**
 * One setting from all the places where it may be given: default < hub.yaml < environment < command line. Each is looked
 * at with a convict schema of its own, so that every problem is found and keeps its place.
 */
import convict from 'convict';
import { formatName, formats, isMapping, maskUrls, type Format, type SettingSpec } from './formats.js';
import { didYouMean } from './problems.js';

/** Structurally the `SettingsSchema` of `broker/adapter.ts`. */
export type SettingsSchemaLike = Readonly<Record<string, SettingSpec>>;

/** A value somebody gave, and where: `hub.yaml:12:5`, `environment HUB_RETENTION`, `command line`. */
export interface Given {
  readonly raw: unknown;
  readonly source: string;
}

export interface Resolved {
  readonly name: string;
  readonly value: unknown;
  readonly source: string;
  /** For people: units instead of milliseconds, secrets masked. */
  readonly shown: string;
}

/** Says what is wrong at a place; the place is `undefined` when the setting was given nowhere. */
export type Complain = (message: string, source: string | undefined) => void;

/** The value that counts: the last of `given` (lowest precedence first), else the default. All of `given` is checked. */
export function resolve(name: string, spec: SettingSpec, given: readonly Given[], complain: Complain): Resolved {
  let winner = given.length === 0 ? fallback(name, spec, complain) : { value: undefined as unknown, source: 'default' };
  for (const { raw, source } of given) {
    try {
      winner = { value: accept(spec, raw), source };
    } catch (error) {
      complain(`${name}${shownRaw(spec, raw)} ${reason(error)}`, source);
    }
  }
  return { name, ...winner, shown: show(spec, winner.value) };
}

function fallback(name: string, spec: SettingSpec, complain: Complain): { value: unknown; source: string } {
  if (spec.default === undefined) return { value: undefined, source: 'default' };
  try {
    return { value: accept(spec, spec.default), source: 'default' };
  } catch (error) {
    complain(
      `${name} is needed (${spec.doc.replace(/\.$/, '')}) and ${spec.default === null ? mustBe(spec, error) : reason(error)}`,
      undefined,
    );
    return { value: undefined, source: 'default' };
  }
}

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** `null` as a default says nothing about the value that is expected; its format does. */
function mustBe(spec: SettingSpec, error: unknown): string {
  return reason(error) === emptied ? `must be ${saysOf(spec)}` : reason(error);
}

function saysOf(spec: SettingSpec): string {
  const name = formatName(spec.format);
  const format: Format | undefined = name === undefined ? undefined : formats[name];
  if (format === undefined) return Array.isArray(spec.format) ? `one of ${spec.format.join(', ')}` : 'given';
  return typeof format.says === 'string' ? format.says : format.says(spec);
}

const emptied = 'has no value: write one, or remove the line';

/** The typed value, or an Error whose message says what it must be (never what it was). */
export function accept(spec: SettingSpec, raw: unknown): unknown {
  if (raw === null) throw new Error(emptied);
  const format = convictFormat(spec.format);
  const value = read(spec.format, raw);
  // convict flattens objects and then stumbles over keys with dots, so a mapping is checked without it.
  if (isMapping(value)) return acceptMapping(format, spec, value);
  const single = convict(
    {
      value: {
        ...spec,
        format,
        mayBeEmpty: mayBeEmpty(spec),
        default: null,
        env: undefined,
        sensitive: true,
      } as convict.SchemaObj<unknown>,
    },
    { env: {}, args: [] },
  );
  single.set('value', value);
  try {
    single.validate({ allowed: 'strict' });
  } catch (error) {
    throw new Error(reason(error).replace(/^value: /, ''), { cause: error });
  }
  return single.get('value');
}

const mayBeEmpty = (spec: SettingSpec): boolean => spec.mayBeEmpty === true || spec.default === '';

function acceptMapping(format: unknown, spec: SettingSpec, value: Readonly<Record<string, unknown>>): unknown {
  if (typeof format === 'function') (format as (value: unknown) => void)(value);
  else if (format !== 'mapping' && format !== '*') throw new Error(`must be ${saysOf(spec)}, not a mapping`);
  return value;
}

/** The format as convict takes it: one of our names, or a function. */
function convictFormat(format: unknown): unknown {
  const named = formatName(format);
  if (named !== undefined || format === '*' || typeof format === 'function') return named ?? format;
  if (Array.isArray(format)) return oneOf(format);
  throw new TypeError(`a setting has the unknown format ${JSON.stringify(format)}; there is ${Object.keys(formats).join(', ')}`);
}

const oneOf =
  (accepted: readonly unknown[]) =>
  (value: unknown): void => {
    if (accepted.includes(value)) return;
    const known = accepted.map(String);
    const hint = typeof value === 'string' ? didYouMean(value, known) : '';
    throw new Error(`must be one of ${known.join(', ')}${hint.includes('did you mean') ? hint : ''}`);
  };

function read(format: unknown, raw: unknown): unknown {
  if (typeof raw !== 'string') return raw;
  if (Array.isArray(format)) return (format as unknown[]).find((accepted) => String(accepted) === raw) ?? raw;
  const name = formatName(format);
  return name === undefined ? raw : formats[name].read(raw);
}

const isSecretUrl = ({ format }: SettingSpec): boolean => format === 'secretUrl' || format === 'secretUrls';

/** ` "12x"`, or nothing when it might be a secret. */
function shownRaw(spec: SettingSpec, raw: unknown): string {
  if (spec.sensitive === true || isSecretUrl(spec) || raw === null || raw === undefined || typeof raw === 'object') return '';
  if (spec.format === 'url' && String(raw).includes('@')) return '';
  const text = maskUrls(JSON.stringify(raw));
  return ` ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`;
}

function show(spec: SettingSpec, value: unknown): string {
  if (value === undefined || value === '') return '';
  if (spec.sensitive === true && !isSecretUrl(spec)) return '****';
  const name = formatName(spec.format);
  const format: Format | undefined = name === undefined ? undefined : formats[name];
  if (format?.show !== undefined) return maskUrls((format.show as (value: unknown) => string)(value));
  return maskUrls(typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value)));
}

/** `inFlight` → `IN_FLIGHT`. */
export function upperSnake(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^A-Za-z0-9]+/g, '_')
    .toUpperCase();
}

/** Values by setting name; what has no value has no key. */
export function recordOf(resolved: Iterable<readonly [string, Resolved]>): Record<string, unknown> {
  return Object.fromEntries([...resolved].filter(([, { value }]) => value !== undefined).map(([name, { value }]) => [name, value]));
}

/**
 * Resolves the settings that stand beside `use:` of a step. `where` begins every problem: `hub.yaml:12:5: step bank.harbour`.
 * The settings are usable only when there are no problems.
 */
export function checkCallSettings(
  schema: SettingsSchemaLike,
  values: Readonly<Record<string, unknown>>,
  where: string,
): { readonly settings: Record<string, unknown>; readonly problems: readonly string[] } {
  const problems: string[] = [];
  const known = Object.keys(schema);
  for (const key of Object.keys(values)) {
    if (!Object.hasOwn(schema, key)) problems.push(`${where}: unknown setting "${key}"${didYouMean(key, known)}`);
  }
  const resolved = Object.entries(schema).map(([name, spec]) => {
    const given = Object.hasOwn(values, name) ? [{ raw: values[name], source: where }] : [];
    return [name, resolve(name, spec, given, (message) => problems.push(`${where}: ${message}`))] as const;
  });
  return { settings: recordOf(resolved), problems: problems.map(maskUrls) };
}
