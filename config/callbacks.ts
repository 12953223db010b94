/**
 * The `callbacks` of hub.yaml: where requestors may be called back. Secrets are named, never written: an environment variable or a file.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import ipaddr from 'ipaddr.js';
import { formats, isMapping } from './formats.js';
import type { HubFile, Path } from './hubfile.js';
import { didYouMean } from './problems.js';

/** Where a secret is. */
export type SecretSource = { readonly env: string } | { readonly file: string };

export interface ConfiguredCallback {
  readonly name: string;
  /** Its address; or the beginning of those that requestors name. */
  readonly url?: string;
  readonly prefix?: string;
  readonly principals?: readonly string[];
  readonly secrets: readonly SecretSource[];
  readonly headers: Readonly<Record<string, string | SecretSource>>;
  readonly networks: readonly string[];
}

/** What a callback may say in hub.yaml. */
export const callbackKeys = {
  url: 'Its address: requestors say `Hub-Callback: <name>`',
  prefix:
    'Instead of `url`: the beginning of the addresses that requestors may name themselves (`Hub-Callback: https://…`), with `/` at the end',
  secrets: 'What signs: a list of `{ env: NAME }` or `{ file: name }`, each `whsec_` and base64. Two while the receiver changes its secret',
  principals: 'Who may use it. Default: everybody',
  headers: 'Further headers: texts, or `{ env: NAME }` or `{ file: name }` for what is secret',
  networks: 'Networks (CIDR) beside the public internet that it may be in, as in `[10.20.0.0/16]`; only with them may it be `http:`',
} as const;

/** All callbacks that could be read; what is wrong with the others is noted in the file. */
export function readCallbacks(file: HubFile, principals: readonly string[]): ConfiguredCallback[] {
  return file.entries(['callbacks'], 'callbacks').flatMap(([name, value]) => {
    const complain: Complain = (below, message) => file.complain(['callbacks', name, ...below], `callback ${name}: ${message}`);
    if (!formats.name.holds(name)) complain([], `a name has ${formats.name.says}`);
    if (!isMapping(value)) {
      complain([], 'must be a mapping, as in { url: https://crm.example.com/answers, secrets: [{ env: CRM_SECRET }] }');
      return [];
    }
    file.knows(['callbacks', name], Object.keys(callbackKeys), `callback ${name}: `);
    const networks = textsIn(value['networks'], 'networks', complain) ?? [];
    networks.forEach((network, index) => {
      if (!ipaddr.isValidCIDR(network)) complain(['networks', index], `${JSON.stringify(network)} is not a network, as in 10.20.0.0/16`);
    });
    const allowed = textsIn(value['principals'], 'principals', complain);
    allowed?.forEach((principal, index) => {
      if (!principals.includes(principal))
        complain(['principals', index], `there is no principal "${principal}"${didYouMean(principal, principals)}`);
    });
    return [
      {
        name,
        ...addressIn(value, networks.length > 0, complain),
        ...(allowed === undefined ? {} : { principals: allowed }),
        secrets: secretsIn(value['secrets'], complain),
        headers: headersIn(value['headers'], complain),
        networks,
      },
    ];
  });
}

type Complain = (below: Path, message: string) => void;

function addressIn(
  value: Readonly<Record<string, unknown>>,
  mayBePlain: boolean,
  complain: Complain,
): Pick<ConfiguredCallback, 'url' | 'prefix'> {
  const { url, prefix } = value;
  if ((url === undefined) === (prefix === undefined)) {
    complain([], 'say where it is: either url or prefix');
    return {};
  }
  const key = url === undefined ? 'prefix' : 'url';
  const given = url ?? prefix;
  const parsed = typeof given === 'string' && URL.canParse(given) ? new URL(given) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol)) complain([key], `${key} must be a URL that begins with https://`);
  else if (parsed.username !== '' || parsed.password !== '' || parsed.hash !== '')
    complain([key], `${key} must have no user, no password and no fragment: what is secret belongs into headers`);
  else if (parsed.protocol === 'http:' && !mayBePlain)
    complain([key], `${key} must begin with https://, unless networks says that it is in a network of your own`);
  else if (key === 'prefix' && (!parsed.pathname.endsWith('/') || parsed.search !== ''))
    complain([key], 'prefix must end with /, so that nobody can go on with another name');
  else return { [key]: parsed.href };
  return {};
}

function textsIn(value: unknown, key: string, complain: Complain): string[] | undefined {
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
  complain([key], `${key} must be a list of texts, as in ["a", "b"]`);
  return [];
}

/** Says nothing of what is there: it may be the secret itself. */
function secretsIn(value: unknown, complain: Complain): SecretSource[] {
  if (!Array.isArray(value) || value.length === 0) {
    complain(['secrets'], 'secrets must be a list, as in [{ env: CRM_SECRET }]: receivers go by the signature');
    return [];
  }
  return value.flatMap((item: unknown, index) => {
    const source = sourceIn(item);
    if (source === undefined) complain(['secrets', index], 'a secret must be { env: NAME } or { file: name }, never the secret itself');
    return source === undefined ? [] : [source];
  });
}

function sourceIn(value: unknown): SecretSource | undefined {
  if (!isMapping(value) || Object.keys(value).length !== 1) return undefined;
  const { env, file } = value;
  if (typeof env === 'string' && env !== '') return { env };
  return typeof file === 'string' && file !== '' ? { file } : undefined;
}

const ours = /^(?:webhook-|hub-|content-|connection$|host$|transfer-encoding$|upgrade$|expect$|te$|trailer$|keep-alive$)/i;

function headersIn(value: unknown, complain: Complain): ConfiguredCallback['headers'] {
  if (value === undefined) return {};
  if (!isMapping(value)) {
    complain(['headers'], 'headers must be a mapping of names to texts');
    return {};
  }
  const read = Object.entries(value).flatMap(([name, given]) => {
    const text = typeof given === 'string' && /^[\x20-\x7e]*$/.test(given) ? given : sourceIn(given);
    if (ours.test(name) || !/^[\w!#$%&'*+.^`|~-]+$/.test(name))
      complain(['headers', name], `the header ${JSON.stringify(name)} cannot be set`);
    else if (text === undefined) complain(['headers', name], `${name} must be text, { env: NAME } or { file: name }`);
    else return [[name.toLowerCase(), text] as const];
    return [];
  });
  return Object.fromEntries(read);
}

/** The secret, as it is now. Throws, without it, when it cannot be had. */
export function secretOf(source: SecretSource, folder: string, env: Readonly<Record<string, string | undefined>>): string {
  if ('file' in source) {
    try {
      return readFileSync(resolve(folder, source.file), 'utf8').trim();
    } catch (error) {
      throw new Error(`the file ${source.file} cannot be read (${String((error as NodeJS.ErrnoException).code)})`, { cause: error });
    }
  }
  const value = env[source.env];
  if (value === undefined || value === '') throw new Error(`the environment variable ${source.env} is not set`);
  return value;
}
