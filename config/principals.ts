/**
 * The `principals` of hub.yaml: who may use which flows and topics, and the hashes of their keys.
 */
import { isMapping } from './formats.js';
import type { HubFile, Path } from './hubfile.js';
import { didYouMean } from './problems.js';
import { readGroups, readRoles, type Role } from './users.js';

/** Structurally the `KeyedPrincipal` of `broker/access.ts`. */
export interface KeyedPrincipal {
  readonly name: string;
  readonly flows: readonly string[];
  readonly topics: readonly string[];
  readonly keys: readonly string[];
  /** What it may do to tasks, and for which groups. */
  readonly roles?: readonly Role[];
  readonly groups?: readonly string[];
  readonly limits?: { readonly perSecond?: number; readonly inFlight?: number };
}

/** All principals that could be read. `flows` are the names of those that exist. */
export function readPrincipals(file: HubFile, flows: readonly string[]): KeyedPrincipal[] {
  const entries = file.entries(['principals'], 'principals');
  const value = file.at(['principals']);
  if (value === null || (isMapping(value) && entries.length === 0))
    file.complain(['principals'], 'principals is empty, which would let everybody in: name one, or remove the key to mean it');
  const ids = new Map<string, string>();
  return entries.map(([name]) => {
    const reader = { file, name, path: ['principals', name] };
    if (!isMapping(file.at(reader.path))) complain(reader, [], 'must be a mapping, as in { keys: [...], flows: ["loan.*"] }');
    file.knows(reader.path, ['keys', 'flows', 'topics', 'limits', 'roles', 'groups'], `principal ${name}: `);
    const principal = {
      name,
      keys: texts(reader, 'keys'),
      flows: texts(reader, 'flows'),
      topics: texts(reader, 'topics'),
      ...limitsOf(reader),
      ...asPerson(reader),
    };
    principal.keys.forEach((key, index) => checkKey(reader, key, index, ids));
    principal.flows.forEach((pattern, index) => checkFlow(reader, pattern, index, flows));
    principal.topics.forEach((pattern, index) => checkPattern(reader, 'topics', pattern, index));
    return principal;
  });
}

interface Reader {
  readonly file: HubFile;
  readonly name: string;
  readonly path: Path;
}

function complain({ file, name, path }: Reader, below: Path, message: string): void {
  file.complain([...path, ...below], `principal ${name}: ${message}`);
}

function texts(reader: Reader, key: string): string[] {
  const value = reader.file.at([...reader.path, key]);
  if (value === undefined) return [];
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
  complain(reader, [key], `${key} must be a list of texts, as in ["a", "b"]`);
  return [];
}

/** `limits: { perSecond: 50, inFlight: 200 }`, each a whole number from 1. */
function limitsOf({ file, name, path }: Reader): Pick<KeyedPrincipal, 'limits'> {
  const below = [...path, 'limits'];
  const limits = file.at(below);
  if (limits === undefined) return {};
  if (!isMapping(limits)) {
    file.complain(below, `principal ${name}: limits must be a mapping, as in { perSecond: 50, inFlight: 200 }`);
    return {};
  }
  file.knows(below, ['perSecond', 'inFlight'], `principal ${name}: limits: `);
  for (const [key, value] of Object.entries(limits))
    if (!Number.isSafeInteger(value) || (value as number) < 1)
      file.complain([...below, key], `principal ${name}: ${key} must be a whole number from 1`);
  return { limits };
}

/** What a program may do to tasks, as a person could. */
function asPerson({ file, name, path }: Reader): Pick<KeyedPrincipal, 'roles' | 'groups'> {
  const roles = readRoles(file, path, `principal ${name}`, []);
  const groups = readGroups(file, path, `principal ${name}`);
  return { ...(roles.length === 0 ? {} : { roles }), ...(groups.length === 0 ? {} : { groups }) };
}

/** Says nothing of the key itself: somebody may have put the secret there. */
function checkKey(reader: Reader, key: string, index: number, ids: Map<string, string>): void {
  const [, id] = /^([A-Za-z0-9]+):[0-9a-fA-F]{64}$/.exec(key) ?? [];
  if (id === undefined) {
    const secret = key.startsWith('ab_') ? 'is the API key itself, which belongs to the client: write' : 'must be';
    complain(reader, ['keys', index], `key ${index + 1} ${secret} "<id>:<SHA-256 of the secret, 64 hex digits>"`);
  } else if (ids.has(id)) {
    complain(reader, ['keys', index], `key ${index + 1} has the same id as one of ${ids.get(id)}`);
  } else ids.set(id, `principal ${reader.name}`);
}

function checkFlow(reader: Reader, pattern: string, index: number, flows: readonly string[]): void {
  if (!checkPattern(reader, 'flows', pattern, index) || pattern.endsWith('*') || flows.includes(pattern)) return;
  complain(reader, ['flows', index], `there is no flow "${pattern}"${didYouMean(pattern, flows)}`);
}

function checkPattern(reader: Reader, key: string, pattern: string, index: number): boolean {
  if (pattern !== '' && !pattern.slice(0, -1).includes('*')) return true;
  complain(
    reader,
    [key, index],
    `${JSON.stringify(pattern)} in ${key} must be a name, or a beginning and one * at the end, as in "loan.*"`,
  );
  return false;
}
