/**
 * Appointments on BullMQ: one queue `<namespace>.later`, one delayed job per appointment. What is here can be lost with Redis: whoever
 * must not miss an appointment also looks at the store's deadlines.
 */
import { bullmq, type Worker } from './bullmq.js';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import type { Later } from './later.js';
import { reasonOf } from './redis-place.js';
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

const retryMs = [1_000, 2_000, 5_000, 10_000, 30_000];

/** Readable, and never what BullMQ refuses: a colon, an integer. */
const jobIdOf = (id: string): string => `at-${encodeURIComponent(id)}`;

/** Rejects within 5 s when Redis is away. */
export async function bullmqLater({ url, namespace, publish, log = () => undefined }: BullmqLaterOptions): Promise<Later> {
  const name = `${namespace}.later`;
  const redis = bullmq({ url, namespace, log });
  const queue = await redis.queue<Data>(name).catch((error: unknown) => {
    throw new Error(
      `cannot use Redis at ${redis.where} for appointments: ${reasonOf(error)}. Start it (redis-server, or docker compose up -d redis), or set the right URL`,
      { cause: error },
    );
  });
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

  return {
    async schedule({ id, at, to, message: { body, ...properties } }) {
      const data: Data = { to, properties, body: body.toString('base64') };
      // A job whose id is there already is not added; a kept appointment is removed, so its id is free.
      await redis.ask(
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
      await redis.ask(queue.remove(jobIdOf(id)));
    },
    async start() {
      if (worker !== undefined) return;
      worker = redis.worker<Data>(name, keep, {
        concurrency: 50,
        settings: { backoffStrategy: (attempt) => retryMs[Math.min(attempt, retryMs.length) - 1] ?? 30_000 },
      });
      worker.on('failed', (job, error) => log('later.retry', { job: job?.id, attempt: job?.attemptsMade, error: reasonOf(error) }));
      await redis.ask(worker.waitUntilReady());
    },
    // What was published and could not be ticked off is published again, under its own id, by whoever is there.
    close: () => (closing ??= redis.close(queue, worker, () => publishing)),
  };
}
