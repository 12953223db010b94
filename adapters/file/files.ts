/** What both sides do with files: whole or not at all, never through a link, never more than is allowed. */
import { randomBytes } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { lstat, mkdir, open, rename } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { Fault } from '../../broker/fault.js';

/** How something looked, and since when (monotonic ms) it has looked like that. */
export interface Seen {
  readonly looks: string;
  readonly since: number;
}

export const looksOf = ({ size, mtimeMs, ino }: Stats): string => `${size} ${mtimeMs} ${ino}`;

/** Since when it has looked like this. */
export const still = (before: Seen | undefined, looks: string): Seen =>
  before?.looks === looks ? before : { looks, since: performance.now() };

const contentTypes: Readonly<Record<string, string>> = {
  '.json': 'application/json',
  '.xml': 'application/xml',
  '.csv': 'text/csv',
  '.txt': 'text/plain',
};

export const contentTypeOf = (name: string): string => contentTypes[extname(name).toLowerCase()] ?? 'application/octet-stream';

/** `application/problem+json; charset=utf-8` → `.json`. */
export function extensionOf(contentType: string): string {
  const type = contentType.split(';')[0]!.trim().toLowerCase();
  const [known] = Object.entries(contentTypes).find(([, name]) => name === type) ?? [];
  return (
    known ??
    (type.endsWith('+json') ? '.json' : type.endsWith('+xml') || type === 'text/xml' ? '.xml' : type.startsWith('text/') ? '.txt' : '.bin')
  );
}

export const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

export const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

/** Makes sure that the folder is there and is one: never a link to another place. */
export async function realFolder(path: string): Promise<string> {
  await mkdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  if (!(await lstat(path)).isDirectory()) throw new Error(`file: ${path} must be a folder, and not a link to one`);
  return path;
}

/** Never follows a link, never waits for a pipe, never reads more than `maxSize`. */
export async function read(path: string, maxSize: number): Promise<Buffer> {
  const refused = (why: string, reason: string) => new Fault('invalid', `the file ${why}`, { reason });
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'EACCES' || error.code === 'EPERM') throw refused('cannot be read: the hub has no right to', 'unreadable');
      if (error.code === 'ELOOP' || error.code === 'ENXIO') throw refused('is a link, a pipe or a device', 'not-a-file');
      throw error;
    },
  );
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw refused('is a link, a pipe or a device', 'not-a-file');
    const body = Buffer.alloc(Math.min(stats.size, maxSize) + 1);
    let length = 0;
    for (let more = 1; more > 0 && length < body.length; length += more)
      more = (await handle.read(body, length, body.length - length)).bytesRead;
    if (length > maxSize) throw refused(`is larger than ${maxSize} bytes`, 'too-large');
    if (length === body.length) throw new Error(`${path} grows while it is read`);
    return body.subarray(0, length);
  } finally {
    await handle.close();
  }
}

export async function writeWhole(temporary: string, path: string, body: Buffer): Promise<void> {
  const handle = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o666);
  try {
    await handle.writeFile(body);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncFolder(join(path, '..'));
}

export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  // Not every file system can; those keep the order by themselves or not at all.
  await handle.sync().catch(() => undefined);
  await handle.close();
}

/** A name that is free in `folder`, now taken by an empty file: `a.json`, `a.2.json`, … */
export async function reserved(folder: string, name: string): Promise<string> {
  const extension = extname(name);
  const stem = name.slice(0, name.length - extension.length);
  for (let number = 1; ; number++) {
    const candidate = number === 1 ? name : `${stem}.${number > 99 ? randomBytes(6).toString('hex') : number}${extension}`;
    const handle = await open(join(folder, candidate), 'wx').catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
    if (handle === undefined) continue;
    await handle.close();
    return candidate;
  }
}
