/**
 * Appointments on BullMQ: one queue `<namespace>.later`, one delayed job per appointment. The only file of the hub that
 * knows BullMQ. What is here can be lost with Redis: whoever must not miss an appointment also looks at the store's deadlines.
 */
import { Queue, Worker, type RedisOptions } from 'bullmq';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import type { Later } from './later.js';
import { placeOf, reasonOf } from './redis-place.js';
import type { Address, Message } from './transport.js';

export interface BullmqLaterOptions {
  readonly url: string;
  /** Prefix of all keys, and first word of the queue's name: `hub`. */
  readonly namespace: string;
  readonly publish: (to: Address, message: Message) => Promise<void>;
  readonly log?: Emit;
}

interface Data {
  readonly to: Address;
  readonly properties: Omit<Message, 'body'>;
  readonly body: string;
}

const connectMs = 5_000;
const commandMs = 4_000;
const closeMs = 5_000;
const retryMs = [1_000, 2_000, 5_000, 10_000, 30_000];

/** Readable, and never what BullMQ refuses: a colon, an integer. */
const jobIdOf = (id: string): string => `at-${encodeURIComponent(id)}`;

/** Rejects within 5 s when Redis is away. */
export async function bullmqLater({ url, namespace, publish, log = () => undefined }: BullmqLaterOptions): Promise<Later> {
  const name = `${namespace}.later`;
  const where = placeOf(url);
  const connection: RedisOptions = {
    url,
    connectTimeout: 2_000,
    retryStrategy: (attempt) => Math.min(100 * 2 ** Math.min(attempt - 1, 5), 2_000),
    // A replica that was a primary until now: the reconnect finds the new one.
    reconnectOnError: (error: Error) => error.message.includes('READONLY'),
  };
  const { onError, lastError } = outageLog(log, where);

  // Fails fast: no queue of commands in this process, and none sent again after a reconnect.
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
  } catch (error) {
    await queue.close().catch(() => undefined);
    throw new Error(
      `cannot use Redis at ${where} for appointments: ${reasonOf(lastError() ?? error)}. Start it (redis-server, or docker compose up -d redis), or set the right URL`,
      { cause: error },
    );
  }
  let worker: Worker<Data> | undefined;
  let closing: Promise<void> | undefined;
  const publishing = new Set<Promise<void>>();

  async function keep({ data }: { readonly data: Data }): Promise<void> {
    failpoint('later.before-publish');
    const published = publish(data.to, { ...data.properties, body: Buffer.from(data.body, 'base64') });
    publishing.add(published);
    try {
      await published;
      failpoint('later.after-publish');
    } finally {
      publishing.delete(published);
    }
  }

  /**
   * BullMQ waits for a goodbye that a Redis that is away never gives, so it is asked first. What was published and could not
   * be ticked off is published again, under its own id, by whoever is there.
   */
  async function close(): Promise<void> {
    const answers = await settles(queue.isPaused(), 1_000);
    if (!answers) await settles(Promise.allSettled(publishing), closeMs);
    const parted = await settles(worker?.close(!answers), closeMs);
    if (answers && parted && (await settles(queue.close(), closeMs))) return;
    void worker?.disconnect().catch(() => undefined);
    void queue.disconnect().catch(() => undefined);
  }

  const ask = async <T>(reply: Promise<T>): Promise<T> => {
    try {
      return await within(reply, commandMs, 'no answer');
    } catch (error) {
      throw new Error(`Redis at ${where}: ${reasonOf(error)}`, { cause: error });
    }
  };

  return {
    async schedule({ id, at, to, message: { body, ...properties } }) {
      const data: Data = { to, properties, body: body.toString('base64') };
      // A job whose id is there already is not added; a kept appointment is removed, so its id is free.
      await ask(
        queue.add('publish', data, {
          jobId: jobIdOf(id),
          delay: Math.max(0, Math.ceil(at - Date.now())),
          removeOnComplete: true,
          attempts: Number.MAX_SAFE_INTEGER,
          backoff: { type: 'custom' },
          stackTraceLimit: 1,
        }),
      );
    },
    async cancel(id) {
      // 0 when it is gone, or being published at this moment.
      await ask(queue.remove(jobIdOf(id)));
    },
    async start() {
      if (worker !== undefined) return;
      worker = new Worker<Data>(name, keep, {
        prefix: namespace,
        // It waits up to 10 s for a job without a word: a connection that says nothing for longer is dead.
        connection: { ...connection, maxRetriesPerRequest: null, socketTimeout: 30_000 },
        concurrency: 50,
        // A process that died while it published must not cost an appointment.
        maxStalledCount: Number.MAX_SAFE_INTEGER,
        runRetryDelay: 1_000,
        settings: { backoffStrategy: (attempt) => retryMs[Math.min(attempt, retryMs.length) - 1] ?? 30_000 },
      });
      worker.on('error', onError);
      worker.on('failed', (job, error) => log('later.retry', { job: job?.id, attempt: job?.attemptsMade, error: reasonOf(error) }));
      await within(worker.waitUntilReady(), connectMs, `Redis at ${where}: no answer`);
    },
    close: () => (closing ??= close()),
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
