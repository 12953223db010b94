/**
 * A RabbitMQ of the test's own, on one port and one folder, that it may kill and start again: whichever version is installed here.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eventually } from '../support/eventually.js';

export interface OwnRabbitmq {
  readonly url: string;
  /** Starts it (again), on the same port and with the same data. Resolves when the port opens, with when that was. */
  start(): Promise<number>;
  /** As a power cut does. */
  kill(): Promise<void>;
  /** Runs rabbitmqctl on it. */
  ctl(...args: readonly string[]): Promise<void>;
  /** Kills it for good, and removes its data. */
  remove(): Promise<void>;
}

const places = ['/usr/lib/rabbitmq/bin', '/opt/homebrew/sbin', '/usr/local/sbin', '/usr/sbin'];

export async function ownRabbitmq(): Promise<OwnRabbitmq> {
  const programs = places.find((folder) => existsSync(join(folder, 'rabbitmq-server')));
  if (programs === undefined)
    throw new Error(
      `this test restarts a RabbitMQ of its own, and none is installed in ${places.join(', ')}: apt-get install -y rabbitmq-server`,
    );
  const home = mkdtempSync(join(tmpdir(), 'hub-rabbitmq-'));
  // Below the range of outgoing connections: none of those may take the port while the broker is down.
  const { freePorts } = (await import(new URL('../../scripts/processes.mjs', import.meta.url).href)) as {
    freePorts(count: 3): Promise<[number, number, number]>;
  };
  const [port, distribution, epmdPort] = await freePorts(3);
  const env = environment(programs, home, distribution, epmdPort);
  const url = `amqp://guest:guest@127.0.0.1:${port}`;
  mkdirSync(join(home, 'conf.d'));
  writeFileSync(join(home, 'plugins'), '[].\n');
  writeFileSync(join(home, 'rabbitmq.conf'), `listeners.tcp.1 = 127.0.0.1:${port}\ndisk_free_limit.absolute = 200MB\n`);

  const children = new Set<ChildProcess>();
  const begin = (program: string, ...args: string[]): ChildProcess => {
    const output = openSync(join(home, 'output'), 'a');
    const child = spawn(program, args, { cwd: home, env, stdio: ['ignore', output, output] });
    closeSync(output);
    // Should the test be killed, its end of the pipe closes: children do not die with their parent.
    const guard = spawn('sh', ['-c', 'cat >/dev/null; kill -9 "$1"', 'guard', String(child.pid)], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    children.add(child);
    child.once('exit', () => {
      guard.kill('SIGKILL');
      guard.stdin.destroy();
      children.delete(child);
    });
    return child;
  };
  const end = async (child: ChildProcess | undefined) => {
    if (child === undefined || !children.has(child)) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
  // One of our own that we can end; the one that Erlang would start stays for ever.
  begin('epmd', '-address', '127.0.0.1', '-port', String(epmdPort));
  let node: ChildProcess | undefined;

  return {
    url,
    async start() {
      node = begin(join(programs, 'rabbitmq-server'));
      await eventually(
        () =>
          children.has(node!) ? opens(port) : Promise.reject(new Error(`RabbitMQ ended:\n${readFileSync(join(home, 'output'), 'utf8')}`)),
        { withinMs: 60_000 },
      );
      return Date.now();
    },
    kill: () => end(node),
    ctl: async (...args) => void (await promisify(execFile)(join(programs, 'rabbitmqctl'), args, { env })),
    async remove() {
      await Promise.all([...children].map(end));
      rmSync(home, { recursive: true, force: true });
    },
  };
}

/** Nothing is inherited but PATH: a RABBITMQ_* variable of the machine's own node must not lead us to its data. */
const environment = (programs: string, home: string, distribution: number, epmdPort: number): NodeJS.ProcessEnv => ({
  PATH: `${programs}:${process.env['PATH']}:/usr/sbin:/usr/bin:/bin`,
  LANG: 'C.UTF-8',
  HOME: home,
  ERL_EPMD_PORT: String(epmdPort),
  ERL_EPMD_ADDRESS: '127.0.0.1',
  ERL_CRASH_DUMP_SECONDS: '0',
  RABBITMQ_NODENAME: `fault-${distribution}@localhost`,
  RABBITMQ_DIST_PORT: String(distribution),
  RABBITMQ_MNESIA_BASE: join(home, 'data'),
  RABBITMQ_LOG_BASE: join(home, 'log'),
  RABBITMQ_PID_FILE: join(home, 'pid'),
  RABBITMQ_GENERATED_CONFIG_DIR: join(home, 'generated'),
  RABBITMQ_ENABLED_PLUGINS_FILE: join(home, 'plugins'),
  RABBITMQ_CONFIG_FILE: join(home, 'rabbitmq.conf'),
  RABBITMQ_CONFIG_FILES: join(home, 'conf.d'),
  RABBITMQ_ADVANCED_CONFIG_FILE: join(home, 'advanced.config'),
  RABBITMQ_CONF_ENV_FILE: join(home, 'rabbitmq-env.conf'),
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none',
  // The script then becomes the node instead of staying as its parent: one process, one pid.
  RUNNING_UNDER_SYSTEMD: 'true',
});

function opens(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('error', reject);
    socket.once('connect', () => (socket.destroy(), resolve()));
  });
}
