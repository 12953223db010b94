// Where RabbitMQ and Redis come from (docs: design §8). In this order: the addresses in the environment; what answers on
// the standard local ports; installed programs, started privately under .hub/; Docker Compose; the package manager.
// Only node: built-ins, because this runs before `npm ci`.

import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { alive, end, find, isOurs, readLedger, run, withLock, writeLedger } from './processes.mjs';
import * as rabbitmq from './rabbitmq.mjs';
import * as redis from './redis.mjs';

const project = dirname(dirname(fileURLToPath(import.meta.url)));
const kinds = [rabbitmq, redis];

/**
 * @typedef {typeof rabbitmq | typeof redis} Kind
 * @typedef {{ url: string, managementUrl: string | null, from: string }} Found
 * @typedef {{ rabbitmq: Found, redis: Found, stop(): Promise<void> }} Services
 *
 * @typedef {object} Options
 * @property {NodeJS.ProcessEnv} [env] HUB_RABBITMQ_URL, HUB_RABBITMQ_MANAGEMENT_URL and HUB_REDIS_URL are read from it
 * @property {string} [dir] holds the data, logs and pids of private services
 * @property {(line: string) => void} [log] told in one line each why a source was passed over, and what is installed
 * @property {boolean} [allowInstall] may the package manager be used
 * @property {boolean} [onlyPrivate] looks neither at the environment, nor at the standard ports, nor at Docker
 * @property {AbortSignal} [signal] aborts the start: what it has started by then is stopped before it rejects
 */

/** Resolves once both answer a login; `from` says where each was found. Rejects, with what to do about it, if one cannot
 * be had; a configured address that does not answer is such a case, nothing else is tried then.
 *
 * Private services are shared by all starts on one `dir` and end with the last `stop()`; one that dies without calling it
 * leaves them to the next start. So handle SIGINT and SIGTERM before you call this: abort `signal`, wait for the promise,
 * and call `stop()` if it resolved. The management address carries no login: it is that of the AMQP address.
 * @param {Options} [options] @returns {Promise<Services>} */
export async function ensureServices({
  env = process.env,
  dir = join(project, '.hub'),
  log = console.error,
  allowInstall = true,
  onlyPrivate = false,
  signal,
} = {}) {
  /** @type {Map<Kind, Found>} */
  const found = new Map();
  /** @type {(() => Promise<void>)[]} */
  const releases = [];
  const missing = () => kinds.filter((kind) => !found.has(kind));
  /** @param {(kind: Kind) => Promise<Found | null>} source */
  const lookAt = async (source) => {
    const results = await Promise.allSettled(
      missing().map(async (kind) => {
        const service = await source(kind);
        if (service) found.set(kind, service);
      }),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    signal?.throwIfAborted();
  };
  const local = () => lookAt((kind) => onStandardPort(kind, log));
  const own = () => lookAt((kind) => privately(kind, { dir, log, signal, releases }));
  let stopping = /** @type {Promise<void> | null} */ (null);
  const lock = () => join(dir, 'services.lock');
  const stop = () =>
    (stopping ??=
      releases.length === 0
        ? Promise.resolve()
        : withLock(lock(), async () => {
            await Promise.allSettled(releases.map((release) => release()));
          }));

  try {
    if (!onlyPrivate) {
      await lookAt((kind) => configured(kind, env, log));
      await local();
    }
    if (missing().length > 0) {
      mkdirSync(dir, { recursive: true });
      dir = realpathSync(dir);
      await withLock(
        lock(),
        async () => {
          await own();
          if (missing().length > 0 && !onlyPrivate && (await compose(missing(), log, releases))) await local();
          if (missing().length > 0 && allowInstall && (await install(missing(), log))) {
            if (!onlyPrivate) await local();
            await own();
          }
        },
        signal,
      );
    }
    if (missing().length > 0) throw new Error(helpless(missing()));
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    rabbitmq: /** @type {Found} */ (found.get(rabbitmq)),
    redis: /** @type {Found} */ (found.get(redis)),
    stop,
  };
}

/** @param {Kind} kind @param {NodeJS.ProcessEnv} env @param {(line: string) => void} log @returns {Promise<Found | null>} */
async function configured(kind, env, log) {
  const url = env[kind.variable];
  if (!url) return null;
  // The nodes of a RabbitMQ cluster: one that can be used is enough.
  const urls = kind === rabbitmq ? url.split(/\s*,\s*(?=[a-z]+:\/\/)/i) : [url];
  if (!urls.every((one) => URL.canParse(one) && kind.protocols.includes(new URL(one).protocol))) {
    throw new Error(`${kind.variable} is set, but not to an address like ${kind.local}.`);
  }
  const hosts = urls.map((one) => new URL(one).host);
  const problems = await Promise.all(urls.map((one) => kind.check(one, 5_000)));
  const [problem] = problems;
  if (problem && /maxmemory-policy/.test(problem)) log(`Redis at ${hosts[0]}: ${problem}.`);
  else if (problems.every((each) => each !== null)) {
    throw new Error(
      `${kind.variable} is set to ${urls.map(masked).join(', ')}, which cannot be used: ${problems.join('; ')}. ` +
        `Start that ${kind.title} or correct the address; or unset ${kind.variable}, and the hub looks for one itself.`,
    );
  } else for (const [i, each] of problems.entries()) if (each !== null) log(`${kind.title} at ${hosts[i]}: ${each}.`);
  return {
    url,
    managementUrl: (kind === rabbitmq && env.HUB_RABBITMQ_MANAGEMENT_URL) || null,
    from: `${kind.variable} (${hosts.join(', ')})`,
  };
}

/** @param {string} url */
function masked(url) {
  const copy = new URL(url);
  if (copy.password) copy.password = '***';
  return copy.href;
}

/** @param {Kind} kind @param {(line: string) => void} log @returns {Promise<Found | null>} */
async function onStandardPort(kind, log) {
  const { hostname, port, host } = new URL(kind.local);
  if (!(await listens(Number(port), hostname))) return null;
  const problem = await kind.check(kind.local, 5_000);
  if (problem) {
    log(`Something listens on ${host}, not used as ${kind.title}: ${problem}.`);
    return null;
  }
  return {
    url: kind.local,
    managementUrl: kind === rabbitmq ? await rabbitmq.managementAt('http://127.0.0.1:15672') : null,
    from: `the one on this machine's standard port (${host})`,
  };
}

/** @param {number} port @param {string} [host] @returns {Promise<boolean>} */
function listens(port, host = '127.0.0.1') {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 2_000 });
    for (const event of ['connect', 'error', 'timeout']) {
      socket.once(event, () => {
        resolve(event === 'connect');
        socket.destroy();
      });
    }
  });
}

/** Uses the private one that runs under `dir`, or starts it. Runs under the lock.
 * @param {Kind} kind
 * @param {{ dir: string, log: (line: string) => void, signal: AbortSignal | undefined, releases: (() => Promise<void>)[] }} start
 * @returns {Promise<Found | null>} */
async function privately(kind, { dir, log, signal, releases }) {
  const release = async () => {
    const entry = readLedger(dir)[kind.name];
    if (!entry) return;
    const mine = entry.users.indexOf(process.pid);
    const users = entry.users.filter((pid, index) => index !== mine && alive(pid));
    if (users.length === 0) await end(entry.pids, dir);
    writeLedger(dir, kind.name, users.length > 0 ? { ...entry, users } : null);
  };

  const entry = readLedger(dir)[kind.name];
  if (entry) {
    const users = entry.users.filter(alive);
    if (await stillServes(kind, entry, dir, signal)) {
      releases.push(release);
      writeLedger(dir, kind.name, { ...entry, users: [...users, process.pid] });
      const from = users.length > 0 ? `shared with process ${users.join(', ')}` : 'taken over from a start that was killed';
      const managementUrl = entry.managementUrl && (await rabbitmq.managementAt(entry.managementUrl));
      return { url: entry.url, managementUrl, from: `the private one under ${dir}, ${from}` };
    }
    await end(entry.pids, dir);
    writeLedger(dir, kind.name, null);
  }

  const binary = find(kind.binaries);
  if (!binary) return null;
  const { children, logs, url, managementUrl } = await kind.start({ binary, home: join(dir, kind.name) });
  let dead = '';
  for (const child of children) {
    child.on('error', (error) => {
      dead = error.message;
    });
    child.on('exit', (code, by) => {
      dead = `${child.spawnfile} ended with ${by ?? code}`;
    });
    child.unref();
  }
  // Before it is ready: if we are killed while it starts, the next start must know of it.
  const pids = children.flatMap(({ pid }) => pid ?? []);
  writeLedger(dir, kind.name, { pids, url, managementUrl, users: [process.pid] });
  releases.push(release);

  const problem = await becomes(
    () => dead || kind.check(url, 5_000),
    90_000,
    signal,
    () => dead !== '',
  );
  if (problem) {
    throw new Error(
      `${kind.title} (${binary}) was started and did not come up: ${problem}.${lastLines(logs)}\n` +
        `Its data is in ${join(dir, kind.name)}; with that folder removed it starts afresh.`,
    );
  }
  const from = `started privately (${binary}), data in ${join(dir, kind.name)}`;
  if (!managementUrl) return { url, managementUrl, from };
  const silent = await becomes(async () => ((await rabbitmq.managementAt(managementUrl)) ? null : 'silent'), 20_000, signal);
  if (silent) log(`RabbitMQ's management page did not come up at ${managementUrl}.`);
  return { url, managementUrl: silent ? null : managementUrl, from };
}

/** @param {Kind} kind @param {import('./processes.mjs').Entry} entry @param {string} dir @param {AbortSignal | undefined} signal */
async function stillServes(kind, { pids, url }, dir, signal) {
  const ours = async () => (await Promise.all(pids.map((pid) => isOurs(pid, dir)))).every(Boolean);
  if (!(await ours())) return false;
  // Its start may have been killed while it was still coming up.
  return !(await becomes(async () => ((await ours()) ? kind.check(url, 5_000) : 'gone'), 20_000, signal));
}

/** Asks until nothing is wrong any more; gives back what was wrong last.
 * @param {() => Promise<string | null> | string} problem @param {number} withinMs @param {AbortSignal} [signal]
 * @param {() => boolean} [hopeless] */
async function becomes(problem, withinMs, signal, hopeless = () => false) {
  for (const until = Date.now() + withinMs; ;) {
    const wrong = await problem();
    if (!wrong || hopeless() || Date.now() > until) return wrong;
    signal?.throwIfAborted();
    await sleep(100);
  }
}

/** @param {string[]} logs */
function lastLines([log = '']) {
  const text = existsSync(log) ? readFileSync(log, 'utf8').trim() : '';
  return text
    ? `\n${text
        .split('\n')
        .slice(-12)
        .map((line) => `  | ${line}`)
        .join('\n')}`
    : '';
}

const engine = async () => (await run('docker', ['info', '--format', '{{.ServerVersion}}'], { timeout: 5_000 })).ok;

/** Starts what is missing by Docker Compose, on the standard ports. @param {Kind[]} missing
 * @param {(line: string) => void} log @param {(() => Promise<void>)[]} releases */
async function compose(missing, log, releases) {
  if (!existsSync(join(project, 'docker-compose.yml')) || !(await engine())) return false;
  const names = missing.map(({ name }) => name);
  log(`Starting ${names.join(' and ')} by Docker Compose.`);
  const docker = (/** @type {string[]} */ ...args) => run('docker', ['compose', ...args], { cwd: project, timeout: 300_000 });
  releases.push(async () => {
    await docker('stop', ...names);
  });
  const { ok, out } = await docker('up', '--detach', '--wait', ...names);
  if (!ok) log(`Docker Compose failed: ${out.split('\n').at(-1)}`);
  return ok;
}

/** The command that installs these, if the machine has a package manager that we know. @param {Kind[]} missing */
function installer(missing) {
  const names = (/** @type {'apt' | 'brew'} */ by) => missing.map(({ packages }) => packages[by]);
  if (process.platform === 'darwin') return find(['brew']) && { sudo: false, steps: [['brew', 'install', ...names('brew')]] };
  if (!find(['apt-get'])) return null;
  return {
    sudo: process.getuid?.() !== 0,
    steps: [
      ['apt-get', 'update'],
      ['apt-get', 'install', '-y', ...names('apt')],
    ],
  };
}

/** @param {Kind[]} missing @param {(line: string) => void} log */
async function install(missing, log) {
  const plan = installer(missing);
  if (!plan || (plan.sudo && !(await run('sudo', ['-n', 'true'])).ok)) return false;
  log(`Installing ${missing.map(({ title }) => title).join(' and ')}: ${plan.steps.map((step) => step.join(' ')).join(' && ')}`);
  // RUNLEVEL=1: Debian's invoke-rc.d then does not start the service for the whole machine, where it asks at all.
  const prefix = [...(plan.sudo ? ['sudo', '-n'] : []), 'env', 'DEBIAN_FRONTEND=noninteractive', 'RUNLEVEL=1'];
  for (const step of plan.steps) {
    const [file = '', ...args] = [...prefix, ...step];
    const { ok, out } = await run(file, args, { timeout: 900_000 });
    if (!ok) return (log(`${step.join(' ')} failed: ${out.split('\n').slice(-3).join(' ')}`), false);
  }
  return true;
}

/** @param {Kind[]} missing */
const mend = (missing) => {
  const plan = installer(missing);
  if (plan) return `${plan.sudo ? 'sudo ' : ''}${plan.steps.map((step) => step.join(' ')).join(plan.sudo ? ' && sudo ' : ' && ')}`;
  return `docker compose up --detach --wait ${missing.map(({ name }) => name).join(' ')}`;
};

/** @param {Kind[]} missing */
function helpless(missing) {
  return (
    `There is no ${missing.map(({ title }) => title).join(' and no ')} here: ${missing.map(({ variable }) => variable).join(' and ')} not set, ` +
    `nothing usable on ${missing.map(({ local }) => new URL(local).host).join(' and ')}, no program installed, no Docker engine.\n` +
    `This mends it:  ${mend(missing)}`
  );
}

/** What this machine has of what the hub needs, for `answerback doctor`. `mend` is the one command that puts it right.
 * @param {{ dir?: string }} [options]
 * @returns {Promise<{ name: string, ok: boolean, found: string, mend: string | null }[]>} */
export async function whatIsThere({ dir = join(project, '.hub') } = {}) {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const npm = await run('npm', ['--version']);
  const free = await statfs(existsSync(dir) ? dir : project).then(({ bavail, bsize }) => (bavail * bsize) / 2 ** 30);
  const docker = await engine();
  const node = major > 20 || (major === 20 && minor >= 19);
  /** @param {string} name @param {boolean} ok @param {string} found @param {string | null} mend */
  const row = (name, ok, found, mend) => ({ name, ok, found, mend: ok ? null : mend });
  return [
    row('node', node, process.version, 'install Node.js 20.19 or newer: https://nodejs.org'),
    row('npm', npm.ok, npm.ok ? npm.out : 'not found', 'install Node.js with npm: https://nodejs.org'),
    ...kinds.map((kind) => {
      const binary = find(kind.binaries);
      return row(`${kind.title} program`, binary !== null, binary ?? 'not installed', mend([kind]));
    }),
    ...(await Promise.all(
      kinds.map(async (kind) => {
        const { port } = new URL(kind.local);
        if (!(await listens(Number(port)))) return row(`port ${port}`, true, 'free: a private one is started', null);
        const problem = await kind.check(kind.local, 5_000);
        const use = problem ? `not usable as ${kind.title}, a private one is started: ${problem}` : `${kind.title} answers and is used`;
        return row(`port ${port}`, true, use, null);
      }),
    )),
    await listens(8080).then((taken) => row('port 8080', !taken, taken ? 'taken' : 'free', 'HUB_HTTP_PORT=8081 npm start')),
    row('docker engine', true, docker ? 'answers' : 'none (needed only without installed programs)', null),
    row('disk', free > 1, `${free.toFixed(1)} GB free at ${dir}`, 'free at least 1 GB'),
  ];
}
