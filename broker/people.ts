/**
 * People: who they are, how they prove it, who stands in for whom. Users stand in hub.yaml, or come from an identity provider; a session is
 * a random id in a cookie, and what it stands for is in the store, so that any hub knows it.
 */
import { createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import type { Principal } from './access.js';
import type { Clock } from './clock.js';
import type { Store } from './store.js';
import { isSame, type Actor, type Member, type Role } from './tasks/task.js';

/** A user of hub.yaml. */
export interface User {
  readonly name: string;
  readonly displayName?: string;
  readonly email?: string;
  readonly groups: readonly string[];
  readonly roles: readonly Role[];
  /** As `hashPassword` makes it. Absent: signs in by the identity provider. */
  readonly password?: string;
  /** A password that everybody may know: the page shows it. Only where nobody but this machine gets in. */
  readonly demoPassword?: string;
  /** What this user can be tried for, shown beside it. */
  readonly about?: string;
}

/** Who is away, when (ms since 1970), and who acts for them meanwhile. */
export interface Absence {
  readonly from: number;
  readonly until: number;
  readonly substitute: string;
}

export type SignedIn =
  | { readonly result: 'in'; readonly session: string; readonly member: Member }
  | { readonly result: 'no' }
  /** Too many have failed. */
  | { readonly result: 'later'; readonly againMs: number };

export interface People {
  /** Users whose passwords may be shown. */
  readonly demoUsers: readonly { readonly name: string; readonly password: string; readonly about: string }[];
  /** True when anybody can sign in with a password. */
  readonly hasPasswords: boolean;
  /** Opens a session for who has this password. `from`: where they are, for the limit. */
  signIn(name: string, password: string, from: string): Promise<SignedIn>;
  /** Opens a session for whom an identity provider vouches; undefined: the name is that of a local user with a password. */
  vouched(member: Member): Promise<string | undefined>;
  /** Who has this session. */
  session(id: string): Promise<Member | undefined>;
  signOut(id: string): Promise<void>;
  /** Anybody that the hub knows: in hub.yaml, or seen within a month. */
  find(name: string): Promise<Member | undefined>;
  /** A person as they act now, with those for whom they stand in. */
  actor(member: Member, via: Actor['via']): Promise<Actor>;
  /** A principal that may act on tasks, as a person; undefined: it has no roles, see `withoutRoles`. */
  memberOf(principal: Principal): Member | undefined;
  absence(name: string): Promise<Absence | undefined>;
  /** `undefined` ends it. */
  setAbsence(name: string, absence: Absence | undefined): Promise<void>;
}

/** A principal that may do nothing to tasks, as the one who tries: so that it is refused like everybody else, and the audit knows it. */
export const withoutRoles = ({ name }: Pick<Principal, 'name'>, via: Actor['via']): Actor => ({
  name,
  groups: [],
  roles: [],
  via,
  standsInFor: [],
});

export const sessionMs = 8 * 3_600_000;
const seenMs = 30 * 86_400_000;

// Passwords: scrypt with the cost that OWASP names (2^15, 8, 3). Unknown users cost the same time as known ones.

const cost = { ln: 15, r: 8, p: 3 } as const;

function derive(
  password: string,
  salt: Buffer,
  { ln, r, p }: { readonly ln: number; readonly r: number; readonly p: number },
): Promise<Buffer> {
  return new Promise((resolve, reject) =>
    scrypt(password.normalize('NFKC'), salt, 32, { N: 2 ** ln, r, p, maxmem: 256 * 2 ** ln * r }, (error, key) =>
      error === null ? resolve(key) : reject(error),
    ),
  );
}

/** `scrypt$ln=15,r=8,p=3$<salt>$<hash>`, for hub.yaml. */
export async function hashPassword(password: string, salt: Buffer = randomBytes(16)): Promise<string> {
  const key = await derive(password, salt, cost);
  return `scrypt$ln=${cost.ln},r=${cost.r},p=${cost.p}$${salt.toString('base64url')}$${key.toString('base64url')}`;
}

const passwordShape = /^scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([\w-]+)\$([\w-]{43})$/;

async function isPassword(hashed: string, password: string): Promise<boolean> {
  const [, ln, r, p, salt = '', hash = ''] = passwordShape.exec(hashed) ?? [];
  const key = await derive(password, Buffer.from(salt, 'base64url'), { ln: Number(ln), r: Number(r), p: Number(p) });
  return timingSafeEqual(key, Buffer.from(hash, 'base64url'));
}

/** Nobody's. */
const nobody = `scrypt$ln=${cost.ln},r=${cost.r},p=${cost.p}$${'A'.repeat(22)}$${'A'.repeat(43)}`;

// Attempts: a few at once, then each failure makes the next one wait longer.

/** Of one name; and from one address, which may be that of a whole company. */
const freeFailures = { name: 5, from: 100 } as const;
const longestWaitMs = 60_000;
const forgottenMs = 15 * 60_000;
const mostNames = 10_000;
const atOnce = 4;

function attempts(clock: Clock) {
  const failures = new Map<string, { count: number; at: number }>();
  const waitOf = (what: string): number => {
    const { count = 0, at = 0 } = failures.get(what) ?? {};
    const passed = clock.now() - at;
    const tooMany = count - freeFailures[what.startsWith('name ') ? 'name' : 'from'];
    return tooMany < 0 || passed > forgottenMs ? 0 : Math.max(0, Math.min(1_000 * 2 ** tooMany, longestWaitMs) - passed);
  };
  return {
    waitMs: (names: readonly string[]): number => Math.max(...names.map(waitOf)),
    failed(names: readonly string[]) {
      for (const name of names) {
        const { count = 0, at = 0 } = failures.get(name) ?? {};
        failures.delete(name);
        failures.set(name, { count: clock.now() - at > forgottenMs ? 1 : count + 1, at: clock.now() });
        if (failures.size > mostNames) failures.delete(failures.keys().next().value as string);
      }
    },
    worked: (name: string) => void failures.delete(name),
  };
}

/** A user of hub.yaml, or whom the identity provider vouched for. */
type Session = { readonly local: string } | { readonly vouched: Member };

export interface PeopleOptions {
  readonly users: readonly User[];
  readonly store: Store;
  readonly clock: Clock;
}

export function openPeople({ users, store, clock }: PeopleOptions): People {
  const byName = new Map(users.map((user) => [user.name, user]));
  const tried = attempts(clock);
  let trying = 0;

  const memberFrom = ({ name, displayName, email, groups, roles }: User): Member => ({
    name,
    groups,
    roles,
    ...(displayName === undefined ? {} : { displayName }),
    ...(email === undefined ? {} : { email }),
  });

  async function parked<T>(name: string): Promise<T | undefined> {
    const value = await store.parked(name);
    return value === undefined || value.length === 0 ? undefined : (JSON.parse(value.toString('utf8')) as T);
  }
  const park = (name: string, value: unknown, ttlMs: number) =>
    store.park(name, value === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(value)), ttlMs);

  const sessionKey = (id: string): string => `session:${createHash('sha256').update(id).digest('base64url')}`;

  async function begin(session: Session): Promise<string> {
    const id = randomBytes(32).toString('base64url');
    await park(sessionKey(id), session, sessionMs);
    return id;
  }

  async function check(user: User | undefined, password: string): Promise<boolean> {
    if (user?.demoPassword !== undefined) return timingSafeEqual(digest(user.demoPassword), digest(password));
    return (await isPassword(user?.password ?? nobody, password)) && user?.password !== undefined;
  }

  const self: People = {
    demoUsers: users.flatMap(({ name, demoPassword, about = '' }) =>
      demoPassword === undefined ? [] : [{ name, password: demoPassword, about }],
    ),
    hasPasswords: users.some(({ password, demoPassword }) => password !== undefined || demoPassword !== undefined),
    async signIn(name, password, from) {
      const limits = [`name ${name}`, `from ${from}`];
      const againMs = tried.waitMs(limits);
      if (againMs > 0) return { result: 'later', againMs };
      if (trying >= atOnce) return { result: 'later', againMs: 1_000 };
      trying++;
      try {
        const user = byName.get(name);
        if (!(await check(user, password)) || user === undefined) {
          tried.failed(limits);
          return { result: 'no' };
        }
        tried.worked(limits[0]!);
        const member = memberFrom(user);
        return { result: 'in', session: await begin({ local: name }), member };
      } finally {
        trying--;
      }
    },
    async vouched(member) {
      const local = [...byName.values()].find((user) => isSame(user, { name: member.name }));
      if (local?.password !== undefined || local?.demoPassword !== undefined) return undefined;
      const { groups = [], roles = [] } = local ?? {};
      const known: Member = {
        ...member,
        ...(local === undefined ? {} : { name: local.name }),
        groups: [...new Set([...member.groups, ...groups])],
        roles: [...new Set([...member.roles, ...roles])],
      };
      await park(`member:${known.name}`, known, seenMs);
      return begin({ vouched: known });
    },
    async session(id) {
      const session = await parked<Session>(sessionKey(id));
      if (session === undefined) return undefined;
      if ('vouched' in session) return session.vouched;
      // What hub.yaml says of a user now holds also for who signed in before.
      const user = byName.get(session.local);
      return user === undefined ? undefined : memberFrom(user);
    },
    signOut: (id) => park(sessionKey(id), undefined, 1),
    async find(name) {
      const user = byName.get(name);
      return user === undefined ? parked<Member>(`member:${name}`) : memberFrom(user);
    },
    async actor(member, via) {
      const away = await Promise.all((await standsInFor(member.name)).map(async (name) => self.find(name)));
      return { ...member, via, standsInFor: away.filter((each) => each !== undefined) };
    },
    memberOf({ name, roles = [], groups = [] }) {
      return roles.length === 0 ? undefined : { name, groups, roles };
    },
    absence: (name) => parked<Absence>(`absence:${name}`),
    async setAbsence(name, absence) {
      const before = await self.absence(name);
      await park(`absence:${name}`, absence, absence === undefined ? 1 : Math.max(1, absence.until - clock.now()));
      for (const substitute of new Set([before?.substitute, absence?.substitute]))
        if (substitute !== undefined) await noteSubstitution(substitute, name, substitute === absence?.substitute ? absence.until : 0);
    },
  };

  /** Who has named this person; who is away now, and still says so, says their own absence. */
  async function standsInFor(name: string): Promise<readonly string[]> {
    const named = (await parked<Readonly<Record<string, number>>>(`substitute:${name}`)) ?? {};
    const now = clock.now();
    const found = await Promise.all(
      Object.keys(named).map(async (away) => {
        const absence = await self.absence(away);
        return absence?.substitute === name && absence.from <= now && now < absence.until ? [away] : [];
      }),
    );
    return found.flat();
  }

  async function noteSubstitution(substitute: string, away: string, until: number): Promise<void> {
    const named = (await parked<Readonly<Record<string, number>>>(`substitute:${substitute}`)) ?? {};
    const others = Object.entries(named).filter(([name, end]) => name !== away && end > clock.now());
    const next = Object.fromEntries(until === 0 ? others : [...others, [away, until]]);
    await park(`substitute:${substitute}`, next, Math.max(1, ...Object.values(next).map((end) => end - clock.now())));
  }

  return self;
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
