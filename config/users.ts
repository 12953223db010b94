/**
 * The `users` of hub.yaml: people who sign in and answer tasks, with their groups and roles; and what principals may do to tasks.
 */
import { isMapping } from './formats.js';
import type { HubFile, Path } from './hubfile.js';
import { didYouMean } from './problems.js';

const roles = ['viewer', 'task-user', 'operator', 'admin'] as const;
export type Role = (typeof roles)[number];

/** The `User` of `broker/people.ts`: test/unit/agreement.test.ts keeps them the same. */
export interface User {
  readonly name: string;
  readonly displayName?: string;
  readonly email?: string;
  readonly groups: readonly string[];
  readonly roles: readonly Role[];
  readonly password?: string;
  readonly demoPassword?: string;
  readonly about?: string;
}

const keys = ['name', 'email', 'groups', 'roles', 'password', 'demoPassword', 'about'] as const;

/** All users that could be read. */
export function readUsers(file: HubFile): User[] {
  const owners = new Map<string, string>();
  return file.entries(['users'], 'users').flatMap(([name, value]) => {
    const path = ['users', name];
    const complain = (key: string | undefined, message: string): void =>
      file.complain([...path, ...(key === undefined ? [] : [key])], `user ${name}: ${message}`);
    if (!/^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,99}$/u.test(name))
      complain(undefined, 'a name has letters, digits, and . _ @ + - between them, at most 100');
    if (!isMapping(value)) {
      complain(undefined, 'must be a mapping, as in { groups: [credit-team], password: "scrypt$…" }: `answerback user <name>` makes one');
      return [];
    }
    file.knows(path, [...keys], `user ${name}: `);
    const text = (key: (typeof keys)[number]): string | undefined => {
      const given = value[key];
      if (given === undefined || (typeof given === 'string' && given !== '')) return given;
      complain(key, `${key} must be a text`);
      return undefined;
    };
    const [displayName, email, password, demoPassword, about] = (['name', 'email', 'password', 'demoPassword', 'about'] as const).map(text);
    // Says nothing of the password itself: somebody may have put it there as it is.
    if (password !== undefined && !/^scrypt\$ln=1[4-9],r=8,p=\d{1,2}\$[\w-]{22,}\$[\w-]{43}$/.test(password))
      complain('password', 'password must be what `answerback user <name>` makes of it: "scrypt$…"');
    if (password !== undefined && demoPassword !== undefined) complain('demoPassword', 'it has a password: leave demoPassword out');
    for (const id of [name, ...(email === undefined ? [] : [email])].map((each) => each.normalize('NFKC').toLowerCase())) {
      const owner = owners.get(id);
      if (owner !== undefined && owner !== name)
        complain(undefined, `has the same name or address as user ${owner}: four-eyes would take them for one person`);
      owners.set(id, name);
    }
    return [
      {
        name,
        groups: readGroups(file, path, `user ${name}`),
        roles: readRoles(file, path, `user ${name}`, ['task-user']),
        ...(displayName === undefined ? {} : { displayName }),
        ...(email === undefined ? {} : { email }),
        ...(password === undefined ? {} : { password }),
        ...(demoPassword === undefined ? {} : { demoPassword }),
        ...(about === undefined ? {} : { about }),
      },
    ];
  });
}

export function readGroups(file: HubFile, path: Path, whose: string): readonly string[] {
  const value = file.at([...path, 'groups']);
  if (value === undefined) return [];
  if (Array.isArray(value) && value.every((item) => typeof item === 'string' && item !== '')) return value as string[];
  file.complain([...path, 'groups'], `${whose}: groups must be a list of texts, as in [credit-team]`);
  return [];
}

export function readRoles(file: HubFile, path: Path, whose: string, absent: readonly Role[]): readonly Role[] {
  const value = file.at([...path, 'roles']);
  if (value === undefined) return absent;
  if (!Array.isArray(value)) {
    file.complain([...path, 'roles'], `${whose}: roles must be a list, as in [task-user, operator]`);
    return [];
  }
  value.forEach((role, index) => {
    if (!roles.includes(role as Role))
      file.complain([...path, 'roles', index], `${whose}: there is no role ${JSON.stringify(role)}${didYouMean(String(role), [...roles])}`);
  });
  return value.filter((role): role is Role => roles.includes(role as Role));
}
