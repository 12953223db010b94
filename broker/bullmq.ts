/**
 * The only file of the hub that knows BullMQ: how its queues and workers are connected, and what is asked of a Redis that may be away.
 * What is kept there can be lost with Redis: `later-bullmq.ts` and `jobs-bullmq.ts` say what that means.
 */
import { DelayedError, Queue, WaitingError, Worker, type Job, type Processor, type RedisOptions, type WorkerOptions } from 'bullmq';
import type { Emit } from './emit.js';
import { placeOf, reasonOf } from './redis-place.js';

export { DelayedError, WaitingError, type Job, type Queue, type Worker };

export interface BullmqOptions {
  readonly url: string;
  /** Prefix of all keys. */
  readonly namespace: string;
  readonly log: Emit;
}

export interface Bullmq {
  /** `host:port` */
  readonly where: string;
  /** A connected one that fails fast: no queue of commands in this process, none sent again after a reconnect. Rejects within 5 s when Redis is away. */
  queue<Data>(name: string): Promise<Queue<Data>>;
  worker<Data>(name: string, process: Processor<Data>, options: Omit<WorkerOptions, 'connection' | 'prefix'>): Worker<Data>;
  /** An answer of Redis within 4 s, or an error that says where. */
  ask<T>(reply: Promise<T>): Promise<T>;
  /**
   * Ends a queue and its worker. BullMQ waits for a goodbye that a Redis that is away never gives, so it is asked first. `work` is
   * what is being done: it is awaited either way, for a while.
   */
  close(queue: Queue, worker: Worker | undefined, work: () => Iterable<Promise<unknown>>): Promise<void>;
}

const connectMs = 5_000;
const commandMs = 4_000;
const closeMs = 5_000;

export function bullmq({ url, namespace, log }: BullmqOptions): Bullmq {
  const where = placeOf(url);
  const connection: RedisOptions = {
    url,
    connectTimeout: 2_000,
    retryStrategy: (attempt) => Math.min(100 * 2 ** Math.min(attempt - 1, 5), 2_000),
    // A replica that was a primary until now: the reconnect finds the new one.
    reconnectOnError: (error: Error) => error.message.includes('READONLY'),
  };
  const { onError, lastError } = outageLog(log, where);
  return {
    where,
    async queue<Data>(name: string) {
      const queue = new Queue<Data>(name, {
        prefix: namespace,
        connection: {
          ...connection,
          enableOfflineQueue: false,
          maxRetriesPerRequest: 0,
          commandTimeout: commandMs,
          socketTimeout: commandMs + 1_000,
        },
        streams: { events: { maxLen: 100 } },
      });
      queue.on('error', onError);
      try {
        await within(queue.waitUntilReady(), connectMs, 'no answer');
        return queue;
      } catch (error) {
        await queue.close().catch(() => undefined);
        throw new Error(reasonOf(lastError() ?? error), { cause: error });
      }
    },
    worker<Data>(name: string, process: Processor<Data>, options: Omit<WorkerOptions, 'connection' | 'prefix'>) {
      const worker = new Worker<Data>(name, process, {
        prefix: namespace,
        // It waits up to 10 s for a job without a word: a connection that says nothing for longer is dead.
        connection: { ...connection, maxRetriesPerRequest: null, socketTimeout: 30_000 },
        // A process that died over its work must not cost the work.
        maxStalledCount: Number.MAX_SAFE_INTEGER,
        runRetryDelay: 1_000,
        ...options,
      });
      worker.on('error', onError);
      return worker;
    },
    async ask(reply) {
      try {
        return await within(reply, commandMs, 'no answer');
      } catch (error) {
        throw new Error(`Redis at ${where}: ${reasonOf(error)}`, { cause: error });
      }
    },
    async close(queue, worker, work) {
      const answers = await settles(queue.isPaused(), 1_000);
      if (!answers) await settles(Promise.allSettled(work()), closeMs);
      const parted = await settles(worker?.close(!answers), closeMs);
      if (answers && parted && (await settles(queue.close(), closeMs))) return;
      void worker?.disconnect().catch(() => undefined);
      void queue.disconnect().catch(() => undefined);
    },
  };
}

/** BullMQ tells each failed attempt to connect; the log hears of the first one in 10 s. */
function outageLog(log: Emit, where: string): { onError: (error: Error) => void; lastError: () => Error | undefined } {
  let saidAt = -Infinity;
  let last: Error | undefined;
  return {
    onError(error) {
      last = error;
      if (performance.now() - saidAt < 10_000) return;
      saidAt = performance.now();
      log('later.redis-error', { where, error: reasonOf(error) });
    },
    lastError: () => last,
  };
}

/** Whether it resolves in time. */
const settles = (work: Promise<unknown> | undefined, ms: number): Promise<boolean> =>
  within(Promise.resolve(work), ms, 'too slow').then(
    () => true,
    () => false,
  );

async function within<T>(work: Promise<T>, ms: number, otherwise: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([work, new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(otherwise)), ms)))]);
  } finally {
    clearTimeout(timer);
  }
}
