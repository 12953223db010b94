// Redis or Valkey: how to ask whether one answers, and how to start a private one.

import { spawn } from 'node:child_process';
import { mkdirSync, openSync, closeSync } from 'node:fs';
import { connect, isIP } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { freePorts } from './processes.mjs';

export const name = 'redis';
export const title = 'Redis';
export const variable = 'HUB_REDIS_URL';
export const local = 'redis://127.0.0.1:6379';
export const protocols = ['redis:', 'rediss:'];
export const binaries = ['redis-server', 'valkey-server'];
export const packages = { apt: 'redis-server', brew: 'redis' };

/** What keeps us from using this Redis, in words; null if nothing does.
 * @param {string} url @param {number} withinMs @returns {Promise<string | null>} */
export async function check(url, withinMs) {
  const { protocol, hostname, port, username, password } = new URL(url);
  const login = password ? [['AUTH', ...(username ? [decodeURIComponent(username)] : []), decodeURIComponent(password)]] : [];
  /** @type {string[]} */
  let replies;
  try {
    replies = await talk({ tls: protocol === 'rediss:', host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 6379), withinMs }, [
      ...login,
      ['PING'],
      ['CONFIG', 'GET', 'maxmemory-policy'],
      ['QUIT'],
    ]);
  } catch (error) {
    return /** @type {Error} */ (error).message;
  }
  const refused = replies.find((reply) => /^-(NOAUTH|WRONGPASS|ERR.*AUTH|LOADING|MASTERDOWN|DENIED)/i.test(reply));
  if (refused) return `it answers "${refused.slice(1)}"`;
  if (!replies.includes('+PONG')) return 'what listens there does not speak the Redis protocol';
  // A managed Redis may forbid CONFIG: no policy told, nothing to object to.
  const policy = replies.find((reply) => /^(volatile|allkeys)-/.test(reply));
  return policy ? `its maxmemory-policy is ${policy}, so it may drop keys; "noeviction" is needed` : null;
}

/** Sends commands, gives back every line of the answers.
 * @param {{ tls: boolean, host: string, port: number, withinMs: number }} to @param {string[][]} commands
 * @returns {Promise<string[]>} */
function talk({ tls, host, port, withinMs }, commands) {
  return new Promise((resolve, reject) => {
    // The certificate is the driver's to check; here we only ask whether somebody is at home.
    const socket = tls
      ? connectTls({ host, port, ...(isIP(host) ? {} : { servername: host }), rejectUnauthorized: false })
      : connect({ host, port });
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${withinMs / 1000} s`)), withinMs);
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (data) => {
      text += data;
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(text.split('\r\n'));
    });
    socket.write(
      commands.map((words) => `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`).join(''),
    );
  });
}

/** Starts a private one; its data, every write of it, is in `home`. It outlives us: end it by its pid.
 * @param {{ binary: string, home: string }} where
 * @returns {Promise<{ children: import('node:child_process').ChildProcess[], url: string, managementUrl: null, logs: string[] }>} */
export async function start({ binary, home }) {
  mkdirSync(home, { recursive: true, mode: 0o700 });
  const [port] = await freePorts(1);
  const output = join(home, 'start.log');
  const fd = openSync(output, 'w');
  const child = spawn(
    binary,
    [
      '--port',
      `${port}`,
      '--bind',
      '127.0.0.1',
      '--dir',
      home,
      '--daemonize',
      'no',
      '--appendonly',
      'yes',
      '--save',
      '',
      '--maxmemory-policy',
      'noeviction',
    ],
    { cwd: home, detached: true, stdio: ['ignore', fd, fd] },
  );
  closeSync(fd);
  return { children: [child], url: `redis://127.0.0.1:${port}`, managementUrl: null, logs: [output] };
}
