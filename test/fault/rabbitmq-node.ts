/**
 * RabbitMQ nodes as child processes of a test, that it may kill and start again: of the version that is installed here, or of
 * the Debian 13 in a folder that `scripts/rabbitmq4.sh` makes.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { eventually } from '../support/eventually.js';
import { guard } from '../support/guard.js';

/** Where RabbitMQ's programs are. `root` is not empty when they run in a chroot. */
export interface Installation {
  readonly root: string;
  readonly programs: string;
}

const places = ['/usr/lib/rabbitmq/bin', '/opt/homebrew/sbin', '/usr/local/sbin', '/usr/sbin'];

/** The RabbitMQ of this machine. */
export function installed(): Installation {
  const programs = places.find((folder) => existsSync(join(folder, 'rabbitmq-server')));
  if (programs === undefined)
    throw new Error(
      `this test restarts a RabbitMQ of its own, and none is installed in ${places.join(', ')}: apt-get install -y rabbitmq-server`,
    );
  return { root: '', programs };
}

/** RabbitMQ 4 in its chroot, if that was made. Making it takes minutes: `scripts/rabbitmq4.sh`, then `scripts/rabbitmq4.sh stop`. */
export function rabbitmq4(): Installation | undefined {
  const root = process.env['HUB_RABBITMQ4_ROOT'] ?? resolve('.hub/rabbitmq4');
  const programs = '/usr/lib/rabbitmq/bin';
  return process.getuid?.() === 0 && existsSync(join(root, programs, 'rabbitmq-server')) ? { root, programs } : undefined;
}

/** That of a test's own nodes: the RabbitMQ of this machine; under `scripts/rabbitmq4.sh run`, RabbitMQ 4. */
export function meant(): Installation {
  const four = process.env['HUB_RABBITMQ4_RUN'] === undefined ? undefined : rabbitmq4();
  return four ?? installed();
}

/** A folder with all that some nodes have, and the processes that run on it. */
export interface Home {
  /** As the programs see it. */
  readonly folder: string;
  write(name: string, text: string): void;
  begin(program: string, args: readonly string[], env: NodeJS.ProcessEnv): ChildProcess;
  /** Runs a command of RabbitMQ to its end; resolves with what it wrote. */
  run(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<string>;
  isRunning(child: ChildProcess): boolean;
  /** As a power cut does. */
  end(child: ChildProcess | undefined): Promise<void>;
  /** What the processes wrote. */
  output(): string;
  /** Kills everything for good, and removes it. */
  remove(): Promise<void>;
}

export function openHome({ root, programs }: Installation): Home {
  const temporary = root === '' ? tmpdir() : '/tmp';
  const outside = mkdtempSync(join(root, temporary, 'hub-rabbitmq-'));
  const folder = outside.slice(root.length);
  const children = new Set<ChildProcess>();
  const atHome = (name: string) => join(outside, name);
  mkdirSync(atHome('conf.d'));
  writeFileSync(atHome('plugins'), '[].\n');

  /** A chroot gets a /proc of its own, which goes with the process. Nothing forks: the pid is the program's. */
  const command = (program: string, args: readonly string[]): [string, string[]] =>
    root === ''
      ? [program, [...args]]
      : ['unshare', ['--mount', 'sh', '-c', 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"', root, program, ...args]];
  const environment = (env: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({
    // Nothing is inherited but PATH: a RABBITMQ_* variable of the machine's own node must not lead us to its data.
    PATH: `${programs}:${process.env['PATH']}:/usr/sbin:/usr/bin:/sbin:/bin`,
    LANG: 'C.UTF-8',
    HOME: folder,
    ERL_CRASH_DUMP_SECONDS: '0',
    ...env,
  });
  const end: Home['end'] = async (child) => {
    if (child === undefined || !children.has(child)) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };

  return {
    folder,
    write: (name, text) => writeFileSync(atHome(name), text),
    begin(program, args, env) {
      const output = openSync(atHome('output'), 'a');
      const child = spawn(...command(program, args), { cwd: outside, env: environment(env), stdio: ['ignore', output, output] });
      closeSync(output);
      guard(child);
      children.add(child);
      child.once('exit', () => children.delete(child));
      return child;
    },
    run: async (program, args, env) => (await promisify(execFile)(...command(program, args), { env: environment(env) })).stdout,
    isRunning: (child) => children.has(child),
    end,
    output: () => readFileSync(atHome('output'), 'utf8'),
    async remove() {
      await Promise.all([...children].map(end));
      rmSync(outside, { recursive: true, force: true });
    },
  };
}

export interface NodeOptions {
  /** `name@host`. */
  readonly name: string;
  readonly home: Home;
  /** The address of the node's listeners. */
  readonly host: string;
  readonly epmdPort: number;
  readonly distributionPort: number;
  /** Folder in the home that holds what is this node's alone. */
  readonly own?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly erlang?: string;
}

/** What a node, and a command about it, needs in its environment. */
export function nodeEnvironment({
  name,
  home: { folder },
  host,
  epmdPort,
  distributionPort,
  own = '.',
  env = {},
  erlang = '',
}: NodeOptions): NodeJS.ProcessEnv {
  const at = (file: string) => join(folder, own, file);
  return {
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: '127.0.0.1',
    RABBITMQ_NODENAME: name,
    RABBITMQ_DIST_PORT: String(distributionPort),
    RABBITMQ_MNESIA_BASE: at('data'),
    RABBITMQ_LOG_BASE: at('log'),
    RABBITMQ_PID_FILE: at('pid'),
    RABBITMQ_GENERATED_CONFIG_DIR: at('generated'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'plugins'),
    RABBITMQ_CONFIG_FILE: at('rabbitmq.conf'),
    RABBITMQ_CONFIG_FILES: join(folder, 'conf.d'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(folder, 'advanced.config'),
    RABBITMQ_CONF_ENV_FILE: join(folder, 'rabbitmq-env.conf'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: `-kernel inet_dist_use_interface {${host.replaceAll('.', ',')}} +sbwt none +sbwtdcpu none +sbwtdio none -rabbit dead_letter_worker_publisher_confirm_timeout 5000${erlang}`,
    // The script then becomes the node instead of staying as its parent: one process, one pid.
    RUNNING_UNDER_SYSTEMD: 'true',
    ...env,
  };
}

/** Resolves when this port takes connections; rejects when the process has ended, or after 90 s. */
export async function listening(host: string, port: number, child: ChildProcess, home: Home): Promise<void> {
  await eventually(
    async () => {
      if (home.isRunning(child)) await opens(host, port);
    },
    { withinMs: 90_000 },
  );
  if (!home.isRunning(child)) throw new Error(`RabbitMQ ended:\n${home.output()}`);
}

function opens(host: string, port: number): Promise<void> {
  return new Promise((done, failed) => {
    const socket = connect({ host, port });
    socket.once('error', failed);
    socket.once('connect', () => (socket.destroy(), done()));
  });
}

/** Ports below the range of outgoing connections: none of those may take one while its broker is down. */
export async function freePorts(count: number): Promise<readonly number[]> {
  const found = (await import(new URL('../../scripts/processes.mjs', import.meta.url).href)) as {
    freePorts(count: number): Promise<number[]>;
  };
  return found.freePorts(count);
}
