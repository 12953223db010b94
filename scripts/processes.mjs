// Private child processes: a lock, a ledger of what runs, free ports, and a sure end.
// Only node: built-ins, because this runs before `npm ci`.

import { execFile } from 'node:child_process';
import {
  accessSync,
  constants,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Runs a program to its end; never throws.
 * @param {string} file @param {string[]} args @param {import('node:child_process').ExecFileOptions} [options]
 * @returns {Promise<{ ok: boolean, out: string }>} */
export function run(file, args, options = {}) {
  return new Promise((resolve) => {
    execFile(file, args, { timeout: 10_000, maxBuffer: 64 << 20, ...options, encoding: 'utf8' }, (error, out, err) =>
      resolve({ ok: !error, out: `${out}${err}`.trim() || (error?.message ?? '') }),
    );
  });
}

/** The first program of these names or paths that can be run. Looks where package managers put servers, too, which is not
 * always on the PATH.
 * @param {readonly string[]} names @returns {string | null} */
export function find(names) {
  const path = (process.env.PATH ?? '').split(delimiter);
  const folders = [...path, '/opt/homebrew/sbin', '/opt/homebrew/bin', '/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin'];
  const files = names.flatMap((name) => (name.startsWith('/') ? [name] : folders.map((folder) => join(folder, name))));
  return (
    files.find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    }) ?? null
  );
}

/** @param {number} pid */
export function alive(pid) {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
  try {
    // In a container without an init, an orphan that ended stays a zombie for ever.
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}

/** Is this living process one that we started under `dir`? A number alone may have been given to somebody else since.
 * We start every child with its working directory there; a command line is no proof, Redis rewrites its own.
 * @param {number} pid @param {string} dir */
export async function isOurs(pid, dir) {
  if (!alive(pid)) return false;
  const root = realpathSync(dir);
  let cwd = '';
  if (process.platform === 'linux') {
    try {
      cwd = readlinkSync(`/proc/${pid}/cwd`);
    } catch {
      /* of another user, or gone: not ours */
    }
  } else {
    cwd = /^n(.*)$/m.exec((await run('lsof', ['-a', '-p', `${pid}`, '-d', 'cwd', '-Fn'])).out)?.[1] ?? '';
  }
  return cwd.startsWith(`${root}/`);
}

/** Ends processes one after the other: SIGTERM, 10 s, SIGKILL. Resolves when all are gone. RabbitMQ 3.10 with its
 * management plugin needs 6 s, of which 5 in waiting for itself (`application:set_env` while applications stop).
 * @param {number[]} pids @param {string} dir */
export async function end(pids, dir) {
  for (const pid of pids) {
    if (!(await isOurs(pid, dir))) continue;
    for (const [signal, waitMs] of /** @type {const} */ ([
      ['SIGTERM', 10_000],
      ['SIGKILL', 5_000],
    ])) {
      try {
        process.kill(pid, signal);
      } catch {
        break;
      }
      for (const until = Date.now() + waitMs; alive(pid) && Date.now() < until;) await sleep(50);
      if (!alive(pid)) break;
    }
  }
}

/** Given out already, to somebody who may not listen yet. @type {Set<number>} */
const given = new Set();

/** Ports that nobody listens on. Below the range of outgoing connections (Linux from 32768, macOS from 49152), so that
 * none of those takes the port while its server is still starting.
 * @param {number} count */
export async function freePorts(count) {
  /** @type {number[]} */
  const found = [];
  for (let tries = 0; found.length < count; tries++) {
    if (tries > 500) throw new Error('no free loopback port between 20000 and 29999');
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    if (given.has(port)) continue;
    given.add(port);
    const server = createServer();
    const free = await new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen({ port, host: '127.0.0.1', exclusive: true }, () => resolve(true));
    });
    if (free) await new Promise((resolve) => server.close(resolve));
    if (free) found.push(port);
  }
  return found;
}

/** Runs `work` while no other process runs under the same lock. The lock of a process that died or stands still for
 * 20 s is taken.
 * @template T @param {string} file @param {() => Promise<T>} work @param {AbortSignal} [signal] @returns {Promise<T>} */
export async function withLock(file, work, signal) {
  const mine = `${process.pid} ${Math.random().toString(36).slice(2)}`;
  for (;;) {
    signal?.throwIfAborted();
    try {
      writeFileSync(file, mine, { flag: 'wx' });
      break;
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error;
    }
    if (!takeStale(file)) await sleep(100);
  }
  const sign = setInterval(() => {
    const now = new Date();
    try {
      utimesSync(file, now, now);
    } catch {
      /* taken away while we stood still */
    }
  }, 1_000);
  try {
    return await work();
  } finally {
    clearInterval(sign);
    if (read(file) === mine) rmSync(file, { force: true });
  }
}

/** @param {string} file */
function takeStale(file) {
  const seen = read(file);
  if (seen === null) return true;
  let age;
  try {
    age = Date.now() - lstatSync(file).mtimeMs;
  } catch {
    return true;
  }
  // An empty file is one whose owner is just about to write its name, or died in that moment.
  if (seen !== '' ? alive(parseInt(seen, 10)) && age < 20_000 : age < 2_000) return false;
  const aside = `${file}.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch {
    return true;
  }
  // Somebody else took the stale one first, and what we moved away is a fresh lock: put it back.
  if (read(aside) !== seen)
    try {
      linkSync(aside, file);
    } catch {
      /* there is yet another; one of the three will win */
    }
  rmSync(aside, { force: true });
  return true;
}

/** @param {string} file */
function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

/** What runs under a .hub folder, and for whom. Whoever leaves last ends it; a user that was killed does not count.
 * @typedef {{ pids: number[], url: string, managementUrl: string | null, users: number[] }} Entry */

/** @param {string} dir @returns {Record<string, Entry>} */
export function readLedger(dir) {
  try {
    return JSON.parse(read(join(dir, 'services.json')) ?? '{}');
  } catch {
    return {};
  }
}

/** Call it under the lock. @param {string} dir @param {string} name @param {Entry | null} entry */
export function writeLedger(dir, name, entry) {
  const { [name]: _old, ...rest } = readLedger(dir);
  const ledger = entry ? { ...rest, [name]: entry } : rest;
  const file = join(dir, 'services.json');
  if (Object.keys(ledger).length === 0) return rmSync(file, { force: true });
  mkdirSync(dir, { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify(ledger, null, 2)}\n`);
  renameSync(`${file}.new`, file);
}
