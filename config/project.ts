/**
 * A project: the folder with `hub.yaml`, read, resolved with the environment and the command line, and checked as far as
 * that is possible without knowing the workers. Everything that is wrong is told at once.
 */
import { basename, resolve as absolute } from 'node:path';
import { readCallbacks, type ConfiguredCallback } from './callbacks.js';
import { formats, isMapping, maskUrls } from './formats.js';
import { readFlows, type Flow } from './flows.js';
import { readHubFile, type HubFile, type Path } from './hubfile.js';
import { readPrincipals, type KeyedPrincipal } from './principals.js';
import { didYouMean, nearest } from './problems.js';
import { core, coreSettings, nest, type Settings } from './schema.js';
import { accept, recordOf, resolve, upperSnake, type Given, type Resolved, type SettingsSchemaLike } from './settings.js';
import { readSteps, type ConfiguredStep } from './steps.js';
import { readUsers, type User } from './users.js';

export { ConfigError } from './problems.js';
export { checkCallSettings, type SettingsSchemaLike } from './settings.js';
export type { Flow, JsonSchema } from './flows.js';
export { secretOf, type ConfiguredCallback, type SecretSource } from './callbacks.js';
export type { KeyedPrincipal } from './principals.js';
export type { Settings } from './schema.js';
export type { ConfiguredStep } from './steps.js';
export type { User } from './users.js';

export interface ProjectOptions {
  /** Default `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Every adapter there is, with the settings of its `open`. */
  readonly adapters: readonly { readonly name: string; readonly settings: SettingsSchemaLike }[];
  /** From the command line, by name: `retention`, `limits.inFlight`, `adapters.http.port`, `adapters.soap` (true or false). */
  readonly overrides?: Readonly<Record<string, unknown>>;
  /** Names in the environment that begin with HUB_ and belong to somebody else. */
  readonly knownEnv?: readonly string[];
}

/** One line of "what counts, and who says so". */
export interface Effective {
  readonly name: string;
  /** As a person writes it; secrets masked. */
  readonly value: string;
  /** `default`, `environment HUB_X`, `hub.yaml:12:5`, `command line`. */
  readonly source: string;
}

export interface Project {
  /** Absolute. */
  readonly folder: string;
  readonly title: string;
  readonly settings: Settings;
  readonly flows: readonly Flow[];
  readonly steps: readonly ConfiguredStep[];
  /** The adapters to open, with their settings. */
  readonly adapters: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
  readonly principals: readonly KeyedPrincipal[];
  readonly users: readonly User[];
  readonly callbacks: readonly ConfiguredCallback[];
  /** Warnings: HUB_ variables that mean nothing, probably misspelt. */
  readonly unknownEnv: readonly string[];
  /** `hub.yaml:12:5` of the node at the path, or of the nearest one above it. */
  locate(path: Path): string;
  effective(): readonly Effective[];
}

interface Loading {
  readonly file: HubFile;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly overrides: Readonly<Record<string, unknown>>;
}

/** Reads `<folder>/hub.yaml`. Throws a ConfigError with every problem. */
export function loadProject(folder: string, options: ProjectOptions): Project {
  const file = readHubFile(folder);
  const loading: Loading = { file, env: options.env ?? process.env, overrides: options.overrides ?? {} };
  const names = options.adapters.map(({ name }) => name);
  file.knows([], ['name', 'settings', 'flows', 'steps', 'adapters', 'principals', 'users', 'callbacks'], '');
  const resolvedCore = readSettings(loading);
  const settings = nest(new Map(resolvedCore.map(({ name, value }) => [name, value])));
  checkDefaults(loading, settings.defaults);
  checkJournal(loading, settings);
  const flows = readFlows({ file, folder, defaults: settings.defaults });
  const steps = readSteps(file, names);
  const resolvedAdapters = readAdapters(loading, options.adapters);
  const principals = readPrincipals(
    file,
    flows.map(({ name }) => name),
  );
  const users = readUsers(file);
  const callbacks = readCallbacks(
    file,
    principals.map(({ name }) => name),
  );
  const title = readTitle(file, folder);
  checkOverrides(loading, options.adapters);
  file.settle();
  const effective = [...resolvedCore, ...[...resolvedAdapters.values()].flatMap((settings) => [...settings.values()])];
  return {
    folder: absolute(folder),
    title,
    settings,
    flows,
    steps,
    adapters: new Map([...resolvedAdapters].map(([name, settings]) => [name, recordOf(settings)])),
    principals,
    users,
    callbacks,
    unknownEnv: unknownEnv(loading.env, options),
    locate: (path) => file.locate(path),
    effective: () => effective.map(({ name, shown, source }) => ({ name, value: shown, source })),
  };
}

const dayMs = 86_400_000;
const ageMs = { s: 1_000, m: 60_000, h: 3_600_000, D: dayMs, M: 30 * dayMs, Y: 365 * dayMs } as const;

/** A rebuild reads the journal back as far as answers are kept, and a day at least: it must reach there. */
function checkJournal({ file }: Loading, { journal: { maxAge }, retention }: Settings): void {
  const [, count, unit] = /^(\d+)([YMDhms])$/.exec(maxAge ?? '') ?? [];
  if (unit === undefined || !Number.isFinite(retention)) return; // refused already
  const needed = retention + dayMs;
  if (Number(count) * ageMs[unit as keyof typeof ageMs] < needed)
    file.complain(
      ['settings', 'journal', 'maxAge'],
      `journal.maxAge ${maxAge} is shorter than retention (${formats.duration.show(retention)}) and a day, so that what Redis loses could not be had back: set journal.maxAge (HUB_JOURNAL_MAX_AGE) to ${Math.ceil(needed / dayMs)}D or more, or a shorter retention`,
    );
}

function readTitle(file: HubFile, folder: string): string {
  const title = file.at(['name']) ?? basename(absolute(folder));
  if (typeof title === 'string') return title;
  file.complain(['name'], `name must be ${formats.text.says}`);
  return '';
}

/** The core settings; what is under `settings` in the file and means nothing is refused. */
function readSettings(loading: Loading): Resolved[] {
  checkSettingKeys(loading.file, core, []);
  return coreSettings.map(({ name, path, env, spec }) => resolveOne(loading, { name, path: ['settings', ...path], env }, spec));
}

function checkSettingKeys(file: HubFile, tree: object, below: readonly string[]): void {
  const path = ['settings', ...below];
  const groups = new Map<string, object>(Object.entries(tree));
  for (const [key] of file.entries(path, path.join('.'))) {
    const group = groups.get(key);
    if (group === undefined) file.complain([...path, key], `unknown setting "${[...below, key].join('.')}"${suggestSetting(below, key)}`);
    else if (!('format' in group)) checkSettingKeys(file, group, [...below, key]);
  }
}

/** Near its siblings, or right but in another group: `inFlight` is `limits.inFlight`. */
function suggestSetting(below: readonly string[], key: string): string {
  const elsewhere = coreSettings.find(({ path }) => path.at(-1) === key)?.name;
  const siblings = coreSettings
    .filter(({ path }) => below.every((word, index) => path[index] === word))
    .map(({ path }) => path.slice(0, below.length + 1).join('.'));
  return elsewhere === undefined ? didYouMean([...below, key].join('.'), [...new Set(siblings)]) : `; did you mean "${elsewhere}"?`;
}

interface Slot {
  readonly name: string;
  readonly path: Path;
  readonly env: string;
}

/** One setting from everywhere; problems go to the place where the value was given. */
function resolveOne({ file, env, overrides }: Loading, slot: Slot, spec: Parameters<typeof resolve>[1]): Resolved {
  const inFile = file.at(slot.path);
  const inEnv = env[slot.env];
  const place = file.locate(slot.path);
  const given: Given[] = [];
  if (inFile !== undefined) given.push({ raw: inFile, source: place });
  if (inEnv !== undefined) given.push({ raw: inEnv, source: `environment ${slot.env}` });
  if (Object.hasOwn(overrides, slot.name)) given.push({ raw: overrides[slot.name], source: 'command line' });
  return resolve(slot.name, spec, given, (message, source) => {
    if (source === undefined || source === place) file.complain(slot.path, message);
    else file.complainElsewhere(`${source}: ${message}`);
  });
}

function checkDefaults({ file }: Loading, { wait, maxWait, deadline, maxDeadline }: Settings['defaults']): void {
  if (wait > maxWait) file.complain(['settings', 'defaults', 'wait'], 'defaults.wait is longer than defaults.maxWait');
  if (deadline > maxDeadline) file.complain(['settings', 'defaults', 'deadline'], 'defaults.deadline is longer than defaults.maxDeadline');
}

const adapterEnv = (adapter: string, setting: string, schema: SettingsSchemaLike): string =>
  schema[setting]?.env ?? `HUB_${upperSnake(adapter)}_${upperSnake(setting)}`;

/** The settings of each adapter that is on. */
function readAdapters(loading: Loading, adapters: ProjectOptions['adapters']): Map<string, Map<string, Resolved>> {
  const { file } = loading;
  for (const [name] of file.entries(['adapters'], 'adapters')) {
    const names = adapters.map((adapter) => adapter.name);
    if (!names.includes(name)) file.complain(['adapters', name], `there is no adapter "${name}"${didYouMean(name, names)}`);
  }
  const on = adapters.filter(({ name }) => isOn(loading, name));
  return new Map(on.map(({ name, settings }) => [name, readAdapter(loading, name, settings)]));
}

function readAdapter(loading: Loading, adapter: string, schema: SettingsSchemaLike): Map<string, Resolved> {
  loading.file.knows(['adapters', adapter], Object.keys(schema), `adapter ${adapter}: `);
  const resolved = Object.entries(schema).map(([setting, spec]) => {
    const slot = {
      name: `adapters.${adapter}.${setting}`,
      path: ['adapters', adapter, setting],
      env: adapterEnv(adapter, setting, schema),
    };
    return [setting, resolveOne(loading, slot, spec)] as const;
  });
  return new Map(resolved);
}

/** On when hub.yaml (or the command line) names it and does not say false; http also when nobody names it. */
function isOn({ file, overrides }: Loading, adapter: string): boolean {
  const path = ['adapters', adapter];
  const inFile = file.at(path);
  const fromFile =
    inFile === undefined ? adapter === 'http' : switchOf(inFile, (message) => file.complain(path, `adapter ${adapter}: ${message}`));
  const override = `adapters.${adapter}`;
  if (!Object.hasOwn(overrides, override)) return fromFile;
  return switchOf(overrides[override], (message) => file.complainElsewhere(`command line: ${override} ${message}`));
}

function switchOf(value: unknown, complain: (message: string) => void): boolean {
  if (isMapping(value) || value === null) return true;
  try {
    return accept({ doc: '', format: 'bool', default: true }, value) === true;
  } catch {
    complain('write true, false, or a mapping of its settings');
    return false;
  }
}

function checkOverrides({ file, overrides }: Loading, adapters: ProjectOptions['adapters']): void {
  const known = [
    ...coreSettings.map(({ name }) => name),
    ...adapters.flatMap(({ name, settings }) => [
      `adapters.${name}`,
      ...Object.keys(settings).map((setting) => `adapters.${name}.${setting}`),
    ]),
  ];
  for (const name of Object.keys(overrides)) {
    if (!known.includes(name)) file.complainElsewhere(`command line: unknown setting "${name}"${didYouMean(name, known)}`);
  }
}

/** HUB_ variables that no setting reads. Their values are not looked at. */
function unknownEnv(env: Loading['env'], { adapters, knownEnv = [] }: ProjectOptions): string[] {
  const ofAdapters = adapters.flatMap(({ name, settings }) => Object.keys(settings).map((setting) => adapterEnv(name, setting, settings)));
  const known = new Set([...coreSettings.map((setting) => setting.env), ...ofAdapters, ...knownEnv]);
  const unknown = Object.keys(env)
    .filter((name) => name.startsWith('HUB_') && env[name] !== undefined && !known.has(name))
    .sort();
  return unknown.map((name) => {
    const meant = nearest(name, [...known]);
    return maskUrls(`${name} in the environment matches no setting${meant === undefined ? '' : `; did you mean ${meant}?`}`);
  });
}
