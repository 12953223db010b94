/**
 * A RabbitMQ of the test's own, on one port and one folder, that it may kill and start again: of the version that the tests run on.
 */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { freePorts, listening, meant, nodeEnvironment, openHome, type Installation } from './rabbitmq-node.js';

export interface OwnRabbitmq {
  readonly url: string;
  /** Starts it (again), on the same port and with the same data. Resolves when the port opens, with when that was. */
  start(): Promise<number>;
  /** As a power cut does. */
  kill(): Promise<void>;
  /** It keeps its connections and answers no more, until it thaws. */
  freeze(): void;
  thaw(): void;
  /** Runs rabbitmqctl on it; resolves with what that wrote. */
  ctl(...args: readonly string[]): Promise<string>;
  /** Runs a command line as somebody does who pastes it into a shell beside the node; resolves with what that wrote. */
  paste(command: string): Promise<string>;
  /** Kills it for good, and removes its data. */
  remove(): Promise<void>;
}

export interface OwnOptions {
  /** Default: see `meant`. */
  readonly installation?: Installation;
  /** Added to the node's environment. */
  readonly env?: NodeJS.ProcessEnv;
}

export async function ownRabbitmq({ installation = meant(), env: more = {} }: OwnOptions = {}): Promise<OwnRabbitmq> {
  const { programs } = installation;
  const home = openHome(installation);
  const [port = 0, distributionPort = 0, epmdPort = 0] = await freePorts(3);
  const env = nodeEnvironment({
    name: `fault-${distributionPort}@localhost`,
    home,
    host: '127.0.0.1',
    epmdPort,
    distributionPort,
    env: more,
  });
  home.write('rabbitmq.conf', `listeners.tcp.1 = 127.0.0.1:${port}\ndisk_free_limit.absolute = 200MB\n`);
  // One of our own that we can end; the one that Erlang would start stays for ever.
  home.begin('epmd', ['-address', '127.0.0.1', '-port', String(epmdPort)], env);
  let node: ChildProcess | undefined;

  return {
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    async start() {
      node = home.begin(join(programs, 'rabbitmq-server'), [], env);
      await listening('127.0.0.1', port, node, home);
      return Date.now();
    },
    kill: () => home.end(node),
    freeze: () => void node?.kill('SIGSTOP'),
    thaw: () => void node?.kill('SIGCONT'),
    ctl: (...args) => home.run(join(programs, 'rabbitmqctl'), args, env),
    paste: (command) => home.run('sh', ['-c', command], env),
    remove: () => home.remove(),
  };
}
