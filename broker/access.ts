/**
 * Who may do what: API keys and principals. A key is `ab_<id>_<secret>`; only the SHA-256 of the secret is stored (its
 * 256 random bits need no slow hash), and it is compared in constant time. A principal sees only its own requests.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Role } from './tasks/task.js';

export interface Principal {
  readonly name: string;
  /** Flows it may use: exact names, or a prefix with `*` at the end: `loan.*`, `*`. */
  readonly flows: readonly string[];
  /** Topics it may publish and watch. */
  readonly topics: readonly string[];
  /** Its quota; absent: none. */
  readonly limits?: PrincipalLimits;
  /** What it may do to tasks, and as a member of which groups; absent: nothing. */
  readonly roles?: readonly Role[];
  readonly groups?: readonly string[];
}

export interface PrincipalLimits {
  /** Requests, messages and events a second, in the long run; a second's worth may come at once. */
  readonly perSecond?: number;
  /** Requests in flight, held ones included. */
  readonly inFlight?: number;
}

export interface KeyedPrincipal extends Principal {
  /** `<id>:<sha-256 of the secret, hex>`; two may be active, for rotation. */
  readonly keys: readonly string[];
}

/** Who asks when authentication is off. */
export const anonymous: Principal = { name: 'anonymous', flows: ['*'], topics: ['*'] };

export interface Access {
  /** False when no principals are configured: everybody is `anonymous`. */
  readonly required: boolean;
  /** The principal whose key this is; undefined for any other text. */
  authenticate(apiKey: string | undefined): Principal | undefined;
  /** A principal by name, for adapters that have a static one (folder, mailbox, source address). */
  byName(name: string): Principal | undefined;
}

const digest = (secret: string): Buffer => createHash('sha256').update(secret).digest();
const nobody = digest('');

export function access(principals: readonly KeyedPrincipal[]): Access {
  const byId = new Map(
    principals.flatMap((principal) =>
      principal.keys.map((key) => {
        const [id = '', hash = ''] = key.split(':');
        return [id, { principal, hash: Buffer.from(hash, 'hex') }] as const;
      }),
    ),
  );
  return {
    required: principals.length > 0,
    byName: (name) => principals.find((principal) => principal.name === name),
    authenticate(apiKey) {
      if (principals.length === 0) return anonymous;
      const [, id = '', secret = ''] = /^ab_([A-Za-z0-9]+)_([A-Za-z0-9_-]{20,})$/.exec(apiKey ?? '') ?? [];
      const known = byId.get(id);
      const expected = known !== undefined && known.hash.length === nobody.length ? known.hash : nobody;
      const equal = timingSafeEqual(digest(secret), expected);
      return equal && known !== undefined && secret !== '' ? known.principal : undefined;
    },
  };
}

export function mayUse(principal: Principal, what: 'flows' | 'topics', name: string): boolean {
  return principal[what].some((pattern) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern));
}

/** A new key: hand `key` to the client once, put `line` into the configuration. */
export function newKey(): { readonly key: string; readonly line: string } {
  const id = randomBytes(6).toString('hex');
  const secret = randomBytes(32).toString('base64url');
  return { key: `ab_${id}_${secret}`, line: `${id}:${digest(secret).toString('hex')}` };
}
