/**
 * Connections to Redis: how the store connects, what it says when it cannot, and the one that listens for wake-ups. The only file of the
 * hub that knows ioredis.
 *
 * A command whose connection breaks is rejected at once and never sent again by the driver: nothing may happen in Redis
 * long after its caller was told that it failed. Whoever calls may call again, since every script may run twice.
 */
import { Redis, type ChainableCommander, type RedisOptions } from 'ioredis';
import type { Emit } from './emit.js';
import { placeOf, reasonOf } from './redis-place.js';
import { incomplete } from './store-scripts.js';
import { StoreError } from './store.js';

export type { ChainableCommander };

const connectMs = 5_000;
const commandMs = 2_000;
const pingMs = 10_000;

/** In our words where the driver speaks of its settings. */
export function storeError(where: string, error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const said = reasonOf(error);
  if (said.startsWith(incomplete))
    return new StoreError('incomplete', `Redis at ${where}: its data was lost or is an older copy; it is rebuilt from the journal`, {
      cause: error,
    });
  const reason = /enableOfflineQueue|Connection is closed/.test(said)
    ? 'not connected'
    : /max retries per request/.test(said)
      ? 'the connection was lost'
      : said;
  return new StoreError('away', `Redis at ${where}: ${reason}`, { cause: error });
}

const options = {
  lazyConnect: true,
  commandTimeout: commandMs,
  // A command that times out leaves its connection as it is: one that is silently dead must not stay.
  socketTimeout: commandMs + 1_000,
  connectTimeout: 2_000,
  disconnectTimeout: 500,
  retryStrategy: (attempt: number) => Math.min(100 * 2 ** Math.min(attempt - 1, 5), 2_000),
  maxRetriesPerRequest: 0,
  enableOfflineQueue: false,
  autoResubscribe: false,
  // A replica that was a primary until now: the reconnect finds the new one.
  reconnectOnError: (error: Error) => error.message.includes('READONLY'),
} satisfies RedisOptions;

export interface Connected {
  readonly redis: Redis;
  /** Call before each command: what is sent in one turn of the event loop goes out in one write. */
  coalesce(): void;
  /** Run id of the Redis server that answers on this connection; another one after each of its restarts. Throws when there is none. */
  server(): string;
}

/** Resolves once Redis answers; tries for 5 s, since services often start together. */
export async function connect(url: string, name: string, log: Emit): Promise<Connected> {
  const where = placeOf(url);
  const redis = new Redis(url, { ...options, connectionName: name.replaceAll(' ', '.') });
  let lastError: Error | undefined;
  let connected = false;
  redis.on('error', (error: Error) => (lastError = error));
  let runId: string | undefined;
  redis.on('close', () => {
    if (connected) log('redis.disconnected', { connection: name, where, error: lastError });
    connected = false;
    runId = undefined;
  });
  const identified = async () => {
    // Where INFO is forbidden, an emptied Redis is noticed, and a restarted one is not.
    const info = await redis.info('server').catch((error: Error) => (/NOPERM/.test(error.message) ? '' : Promise.reject(error)));
    runId = /^run_id:(\w+)/m.exec(info)?.[1] ?? 'unknown';
    connected = true;
    lastError = undefined;
    log('redis.connected', { connection: name, where });
    redis.emit('identified');
  };
  redis.on('ready', () => void identified().catch(() => redis.disconnect(true)));
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => refuse(lastError ?? new Error('no answer')), connectMs);
    const refuse = (error: Error) => {
      clearTimeout(timer);
      redis.disconnect();
      reject(new Error(`cannot use Redis at ${where}: ${reasonOf(error)}. ${howToMend(error)}`, { cause: error }));
    };
    // A wrong password is not going to be right in a second.
    redis.on('error', (error: Error) => /WRONGPASS|NOAUTH|NOPERM|invalid password/.test(error.message) && !connected && refuse(error));
    redis.once('identified', () => (clearTimeout(timer), resolve()));
    redis.connect().catch(() => undefined);
  });
  return {
    redis,
    coalesce: coalescing(redis),
    server() {
      if (runId === undefined) throw new StoreError('away', `Redis at ${where}: not connected`);
      return runId;
    },
  };
}

/** The driver writes each command to the socket by itself, which costs more than the command. */
function coalescing(redis: Redis): () => void {
  let corked: Redis['stream'] | undefined;
  const uncork = () => {
    corked?.uncork();
    corked = undefined;
  };
  return () => {
    if (corked !== undefined || redis.status !== 'ready') return;
    corked = redis.stream;
    corked.cork();
    setImmediate(uncork);
  };
}

function howToMend(error: Error): string {
  if (/WRONGPASS|NOAUTH|invalid password/.test(error.message))
    return 'Put user and password into the URL: redis://user:password@host:port/0';
  if (/NOPERM/.test(error.message)) return 'Give the user the rights: ACL SETUSER <user> ~* &* +@all';
  if (/LOADING/.test(error.message)) return 'It is still loading its data: start again in a moment';
  return 'Start it (redis-server, or docker compose up -d redis), or set the right URL';
}

/** A store that forgets by itself keeps no promise. INFO says it also where CONFIG is forbidden. */
export async function refuseEviction(redis: Redis, where: string, log: Emit): Promise<void> {
  let policy: string | undefined;
  try {
    policy = /^maxmemory_policy:(\S+)/m.exec(await redis.info('memory'))?.[1];
  } catch (error) {
    log('redis.policy-unknown', { where, error });
  }
  if (policy === undefined || policy === 'noeviction') return;
  const [host, port] = where.split(/:(?=\d+$)/);
  throw new Error(
    `Redis at ${where} may drop requests when memory gets short (maxmemory-policy ${policy}). Mend it: redis-cli -h ${host} -p ${port} CONFIG SET maxmemory-policy noeviction`,
  );
}

/** Says goodbye, or hangs up when nobody listens. */
export async function end(redis: Redis): Promise<void> {
  redis.removeAllListeners('close');
  if (redis.status === 'ready') await redis.quit().catch(() => undefined);
  redis.disconnect();
}

/** One connection for all watchers of this store, made when the first one comes, subscribed again after each reconnect. */
export function wakeListener(url: string, ns: string, log: Emit) {
  const channel = `${ns}:wake`;
  const wakes = new Set<(id: string) => void>();
  let opening: Promise<Redis> | undefined;
  let pinging: NodeJS.Timeout | undefined;
  let closed = false;

  async function open(): Promise<Redis> {
    const { redis } = await connect(url, `${ns} wake`, log);
    redis.on('message', (_channel: string, id: string) => {
      for (const wake of wakes) {
        try {
          wake(id);
        } catch (error) {
          log('redis.watcher-failed', { error });
        }
      }
    });
    // The wake-ups of the gap are lost: they are hints, and who waits looks again by itself.
    redis.on('ready', () => void redis.subscribe(channel).catch(() => redis.disconnect(true)));
    try {
      await redis.subscribe(channel);
    } catch (error) {
      redis.disconnect();
      throw storeError(placeOf(url), error);
    }
    // Who only listens never notices that nobody speaks any more.
    pinging = setInterval(() => void redis.ping().catch(() => undefined), pingMs);
    return redis;
  }

  return {
    async watch(wake: (id: string) => void): Promise<() => Promise<void>> {
      if (closed) throw new Error('the store is closed');
      // A set member of its own, so that one function can watch twice.
      const own = (id: string) => wake(id);
      opening ??= open();
      try {
        await opening;
      } catch (error) {
        opening = undefined;
        throw error;
      }
      wakes.add(own);
      return async () => void wakes.delete(own);
    },
    async close(): Promise<void> {
      closed = true;
      wakes.clear();
      const redis = await opening?.catch(() => undefined);
      clearInterval(pinging);
      if (redis !== undefined) await end(redis);
    },
  };
}
