/** Redis for tests: the shared one (`HUB_REDIS_URL`) with a namespace of its own, one that a test may kill, and a link that a test may cut. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { guard } from './guard.js';

export function redisUrl(): string {
  const url = process.env['HUB_REDIS_URL'];
  if (url === undefined)
    throw new Error(
      'these tests need Redis: start one (redis-server --port 6391) and set HUB_REDIS_URL=redis://127.0.0.1:6391, or use `npm test`',
    );
  return url;
}

export const randomNamespace = (): string => `hub-test-${randomBytes(6).toString('hex')}`;

const removeAll = `for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do redis.call('UNLINK', key) end`;

/** Removes every key of a namespace, at once. */
export async function removeKeys(url: string, namespace: string): Promise<void> {
  await withClient(url, (redis) => redis.eval(removeAll, 0, namespace));
}

/** Remembers every key of a namespace; the returned function makes it so again, as when an older copy was restored: by a new server. */
export async function copyKeys(url: string, namespace: string): Promise<() => Promise<void>> {
  const kept = await withClient(url, async (redis) => {
    const keys = (await redis.keys(`${namespace}:*`)).filter((key) => !key.startsWith(`${namespace}:complete`));
    return Promise.all(keys.map(async (key) => ({ key, value: await redis.dumpBuffer(key), ttl: await redis.pttl(key) })));
  });
  return () =>
    withClient(url, async (redis) => {
      const all = redis.multi().eval(removeAll, 0, namespace);
      for (const { key, value, ttl } of kept) if (value !== null) all.restore(key, Math.max(0, ttl), value);
      await all.exec();
    });
}

/** A client of the test's own, to look at what is really there. */
export async function withClient<T>(url: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url);
  redis.on('error', () => undefined);
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

export interface RedisChild {
  readonly url: string;
  readonly port: number;
  /** Starts it (again), on the same port and with the same data. */
  start(): Promise<void>;
  /** As a power cut does. */
  kill(): Promise<void>;
  /** It keeps its connections and answers no more, until it thaws. */
  freeze(): void;
  thaw(): void;
  /** Keeps a copy of the data on disk as they are now. */
  copyData(): Promise<void>;
  /** Puts the copy in place of the data; call it while it is not running. */
  restoreData(): Promise<void>;
  remove(): Promise<void>;
}

/** A Redis of the test's own, with every write on disk before it is answered. */
export async function redisChild(...settings: readonly string[]): Promise<RedisChild> {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), 'hub-redis-'));
  let child: ChildProcess | undefined;
  const url = `redis://127.0.0.1:${port}`;

  async function kill(): Promise<void> {
    if (child === undefined) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    child = undefined;
  }

  return {
    url,
    port,
    async start() {
      child = spawn(
        'redis-server',
        ['--port', String(port), '--dir', folder, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always', ...settings],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      guard(child);
      const output = child.stdout;
      if (output === null) throw new Error('no output');
      for await (const [text] of on(output)) if (text.includes('Ready to accept connections')) break;
      output.resume();
    },
    kill,
    freeze: () => void child?.kill('SIGSTOP'),
    thaw: () => void child?.kill('SIGCONT'),
    copyData: () => cp(join(folder, 'appendonlydir'), join(folder, 'copy'), { recursive: true, force: true }),
    async restoreData() {
      await rm(join(folder, 'appendonlydir'), { recursive: true, force: true });
      await cp(join(folder, 'copy'), join(folder, 'appendonlydir'), { recursive: true });
    },
    async remove() {
      await kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function* on(output: NodeJS.ReadableStream): AsyncGenerator<[string]> {
  let text = '';
  while (true) {
    const [chunk] = (await once(output, 'data')) as [Buffer];
    text += chunk.toString();
    yield [text];
  }
}

export interface Link {
  readonly url: string;
  /** From now on what the server answers is swallowed, and the connection is reset as soon as there is an answer. */
  loseAnswers(): void;
  /** Answers come through again. */
  mend(): void;
  /** Nothing comes through the present connections any more, and nobody is told. New ones work. */
  deaden(): void;
  close(): Promise<void>;
}

/** A TCP proxy before a Redis, to lose an answer to a command that was carried out. */
export async function lossyLink(url: string): Promise<Link> {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  const clients = new Set<Socket>();
  const dead = new WeakSet<Socket>();
  let losing = false;
  const server = createServer((client) => {
    const upstream = connect(Number(target.port || 6379), target.hostname);
    clients.add(client);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        clients.delete(client);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on('data', (data) => void (dead.has(client) || upstream.write(data)));
    upstream.on('data', (data) => {
      if (dead.has(client)) return;
      if (losing) client.resetAndDestroy();
      else client.write(data);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    loseAnswers: () => void (losing = true),
    mend: () => void (losing = false),
    deaden: () => clients.forEach((client) => dead.add(client)),
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}
