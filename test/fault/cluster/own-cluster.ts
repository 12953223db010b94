/**
 * Three RabbitMQ nodes of the test's own on loopback, with `pause_minority`: it kills, stops and cuts off nodes of it. Each
 * has an address of its own in 127.0.0.0/8 and speaks to the others from there, so that a packet filter can part them
 * while clients (127.0.0.1) reach all of them.
 */
import { execFile, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eventually } from '../../support/eventually.js';
import { freePorts, listening, nodeEnvironment, openHome, type Installation } from '../rabbitmq-node.js';

export interface ClusterNode {
  /** As RabbitMQ calls it. */
  readonly name: string;
  readonly url: string;
  readonly pid: number;
  /** Starts it (again), with the same data. Resolves when its port opens. */
  start(): Promise<void>;
  /** As a power cut does. */
  kill(): Promise<void>;
  /** It keeps its connections and answers no more, until it thaws. */
  freeze(): void;
  thaw(): void;
  isRunning(): boolean;
}

export interface OwnCluster {
  readonly nodes: readonly ClusterNode[];
  /** All nodes, the given ones first, as `HUB_RABBITMQ_URL` has them. */
  url(...first: readonly ClusterNode[]): string;
  /** Runs rabbitmqctl (or another of its programs) on a node that runs; resolves with what that wrote. */
  ctl(args: readonly string[], program?: string): Promise<string>;
  /** Nothing goes between this node and the others any more; resolves with how to mend that. */
  cutOff(node: ClusterNode): Promise<() => Promise<void>>;
  /** Starts what is down. Resolves when all three are members and no queue is without leader. */
  whole(): Promise<void>;
  remove(): Promise<void>;
}

/** Starts it. */
export async function ownCluster(installation: Installation): Promise<OwnCluster> {
  const home = openHome(installation);
  const [port = 0, epmdPort = 0, ...distributionPorts] = await freePorts(5);
  // Clusters side by side have other addresses.
  const [x, y] = [...randomBytes(2)].map((byte) => (byte % 254) + 1);
  const hosts = [1, 2, 3].map((n) => `127.${x}.${y}.${n}`);
  const names = ['n1', 'n2', 'n3'].map((name) => `${name}@${name}-${x}-${y}`);
  const hostOf = (name: string) => name.slice(name.indexOf('@') + 1);
  // Names that only these processes know.
  home.write(
    'inetrc',
    [...hosts.map((host, i) => `{host, {${host.replaceAll('.', ',')}}, ["${hostOf(names[i]!)}"]}.`), '{lookup, [file, native]}.', ''].join(
      '\n',
    ),
  );
  const filters = new Set<string>();

  const env = (i: number) =>
    nodeEnvironment({
      name: names[i]!,
      home,
      host: hosts[i]!,
      epmdPort,
      distributionPort: distributionPorts[i]!,
      own: `n${i + 1}`,
      env: { ERL_EPMD_ADDRESS: hosts.join(','), ERL_INETRC: join(home.folder, 'inetrc') },
      erlang: ` +S 1:1 -kernel inet_dist_connect_options [{ip,{${hosts[i]!.replaceAll('.', ',')}}}]`,
    });
  const epmd = home.begin('epmd', ['-address', hosts.join(','), '-port', String(epmdPort)], env(0));

  const nodes = names.map((name, i): ClusterNode => {
    let child: ChildProcess | undefined;
    mkdirSync(join(installation.root, home.folder, `n${i + 1}`));
    home.write(
      `n${i + 1}/rabbitmq.conf`,
      [
        `listeners.tcp.1 = ${hosts[i]}:${port}`,
        'disk_free_limit.absolute = 200MB',
        'cluster_formation.peer_discovery_backend = classic_config',
        ...names.map((each, n) => `cluster_formation.classic_config.nodes.${n + 1} = ${each}`),
        'cluster_partition_handling = pause_minority',
        // By default Erlang takes a minute to miss a node that stands still or is cut off.
        'net_ticktime = 10',
        '',
      ].join('\n'),
    );
    const isRunning = () => child !== undefined && home.isRunning(child);
    return {
      name,
      url: `amqp://guest:guest@${hosts[i]}:${port}`,
      get pid() {
        return child?.pid ?? 0;
      },
      async start() {
        if (isRunning()) return;
        child = home.begin(join(installation.programs, 'rabbitmq-server'), [], env(i));
        await listening(hosts[i]!, port, child, home);
      },
      kill: () => home.end(child),
      freeze: () => void child?.kill('SIGSTOP'),
      thaw: () => void child?.kill('SIGCONT'),
      isRunning,
    };
  });

  const ctl: OwnCluster['ctl'] = (args, program = 'rabbitmqctl') => {
    const i = nodes.findIndex((node) => node.isRunning());
    return home.run(join(installation.programs, program), args, env(i));
  };

  const self: OwnCluster = {
    nodes,
    url: (...first) => [...first, ...nodes.filter((node) => !first.includes(node))].map(({ url }) => url).join(','),
    ctl,
    async cutOff(node) {
      const table = `hub_${randomBytes(4).toString('hex')}`;
      const host = hosts[nodes.indexOf(node)]!;
      const others = hosts.filter((each) => each !== host).join(', ');
      filters.add(table);
      await nft(
        `add table ip ${table}; add chain ip ${table} in { type filter hook input priority 0; }; ` +
          `add rule ip ${table} in ip saddr ${host} ip daddr { ${others} } drop; add rule ip ${table} in ip saddr { ${others} } ip daddr ${host} drop`,
      );
      return async () => {
        if (filters.delete(table)) await nft(`delete table ip ${table}`);
      };
    },
    async whole() {
      // Together: a node that was not the last to go waits for the others.
      await Promise.all(nodes.map((node) => node.start()));
      await eventually(
        async () => {
          const { running_nodes: running } = JSON.parse(await ctl(['-q', 'cluster_status', '--formatter', 'json'])) as {
            running_nodes: string[];
          };
          if (running.length < nodes.length) throw new Error(`only ${running.join(', ')}`);
          const away = (
            JSON.parse(await ctl(['-q', 'list_queues', 'name', 'state', '--formatter', 'json'])) as { name: string; state: string }[]
          )
            .filter(({ state }) => state !== 'running')
            .map(({ name }) => name);
          if (away.length > 0) throw new Error(`not running: ${away.join(', ')}`);
        },
        { withinMs: 90_000 },
      );
    },
    async remove() {
      for (const table of filters) await nft(`delete table ip ${table}`).catch(() => undefined);
      for (const node of nodes) node.thaw();
      await Promise.all(nodes.map((node) => node.kill()));
      await home.end(epmd);
      await home.remove();
    },
  };
  try {
    // They agree on who founds it.
    await self.whole();
    return self;
  } catch (error) {
    await self.remove();
    throw error;
  }
}

/** Why no node can be cut off here, if so. */
export const noFilter = async (): Promise<string | undefined> =>
  nft('list tables').then(
    () => undefined,
    (error: Error) => `packets cannot be filtered here (apt-get install -y nftables, as root): ${error.message}`,
  );

const nft = (script: string) => promisify(execFile)('nft', [script], { env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
