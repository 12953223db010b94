/**
 * Long work on BullMQ: one queue `<namespace>.jobs.<step>`, a job per piece of work, under its own id, without data: what it is about is
 * in the dossier. A job whose process has died, or has lost its lock, is found by the others (`stalledAfterMs`).
 */
import { bullmq, DelayedError, WaitingError, type Job, type Queue } from './bullmq.js';
import type { Emit } from './emit.js';
import { rejectedAgainMs, type Jobs, type ServeOptions, type Serving, type Work } from './jobs.js';
import { reasonOf } from './redis-place.js';
import { StoreError } from './store.js';

export interface BullmqJobsOptions {
  readonly url: string;
  /** Prefix of all keys, and first word of the queues' names. */
  readonly namespace: string;
  readonly log?: Emit;
}

/** BullMQ's priority of what is not urgent. What comes back to the queue is the first of its priority. */
const notUrgent = 1;

/** Connects when it is first used. */
export function bullmqJobs({ url, namespace, log = () => undefined }: BullmqJobsOptions): Jobs {
  const redis = bullmq({ url, namespace, log });
  const queues = new Map<string, Promise<Queue<null>>>();
  const served = new Set<Serving>();
  let isClosed = false;

  const nameOf = (queue: string): string => `${namespace}.jobs.${queue}`;

  /** The queue, connected: a command before that would fail. */
  function queueOf(name: string): Promise<Queue<null>> {
    if (isClosed) throw new Error('jobs are closed');
    let found = queues.get(name);
    if (found === undefined) {
      found = redis.queue<null>(nameOf(name)).catch((error: unknown) => {
        queues.delete(name);
        throw error;
      });
      queues.set(name, found);
    }
    return found;
  }

  async function told<T>(name: string, tell: (queue: Queue<null>) => Promise<T>): Promise<T> {
    try {
      const queue = await queueOf(name);
      return await redis.ask(tell(queue));
    } catch (cause) {
      throw new StoreError('away', `the jobs of ${name} in Redis: ${reasonOf(cause)}`, { cause });
    }
  }

  async function serve(name: string, { concurrency, rateLimit, stalledAfterMs }: ServeOptions, work: Work): Promise<Serving> {
    // Of its own: it tells at the end whether Redis is there.
    const queue = await redis.queue<null>(nameOf(name)).catch((cause: unknown) => {
      throw new Error(`cannot use Redis at ${redis.where} for the jobs of ${name}: ${reasonOf(cause)}`, { cause });
    });
    let closing: Promise<void> | undefined;
    const running = new Map<string, { readonly lost: AbortController; readonly done: Promise<void> }>();
    const working = () => [...running.values()].map(({ done }) => done.catch(() => undefined));

    async function take(job: Job<null>, token: string | undefined): Promise<void> {
      const id = job.id ?? '';
      // It waited for one when it was told to leave, and BullMQ hands over what then came.
      if (closing !== undefined) {
        await job.moveToWait(token);
        throw new WaitingError();
      }
      const lost = new AbortController();
      const one = { lost, done: run(job, token, lost.signal) };
      running.set(id, one);
      try {
        await one.done;
      } finally {
        // Whoever has lost it may be at it still when it comes back to the same process.
        if (running.get(id) === one) running.delete(id);
      }
    }

    async function run(job: Job<null>, token: string | undefined, lost: AbortSignal): Promise<void> {
      const next = await work(job.id ?? '', lost).catch((error: unknown) => {
        log('job.work.failed', { queue: name, id: job.id, error: reasonOf(error) });
        return { againInMs: rejectedAgainMs };
      });
      if (next === 'done' || lost.aborted) return;
      if (next.againInMs > 0) {
        await job.moveToDelayed(Date.now() + next.againInMs, token);
        throw new DelayedError();
      }
      await job.moveToWait(token);
      throw new WaitingError();
    }

    const worker = redis.worker<null>(nameOf(name), take, {
      concurrency,
      // A process that leaves may take along the mark that would have woken the others: so late (s) they look by themselves.
      drainDelay: 1,
      lockDuration: stalledAfterMs,
      stalledInterval: Math.max(1_000, Math.round(stalledAfterMs / 3)),
      ...(rateLimit === undefined ? {} : { limiter: { max: rateLimit.max, duration: rateLimit.perMs } }),
    });
    worker.on('lockRenewalFailed', (ids) => ids.forEach((id) => running.get(id)?.lost.abort(new Error('it has lost its lock'))));
    const serving: Serving = {
      close: () => (closing ??= leave().finally(() => served.delete(serving))),
    };
    async function leave(): Promise<void> {
      // Takes no more from now on.
      await worker.pause(true);
      while (running.size > 0) await Promise.all(working());
      await redis.close(queue, worker, working);
    }
    served.add(serving);
    return serving;
  }

  return {
    async add(name, id, { inMs = 0, isUrgent = false } = {}) {
      // A job whose id is there already is not added; one that is done is removed, so its id is free.
      await told(name, (queue) =>
        queue.add('work', null, {
          jobId: id,
          delay: Math.max(0, Math.ceil(inMs)),
          // Those without a priority are taken first.
          ...(isUrgent ? {} : { priority: notUrgent }),
          removeOnComplete: true,
          removeOnFail: true,
          stackTraceLimit: 1,
        }),
      );
    },
    async remove(name, id) {
      await told(name, (queue) => queue.remove(id));
    },
    serve,
    async close() {
      isClosed = true;
      await Promise.all([...served].map((serving) => serving.close()));
      for (const opened of queues.values()) {
        const queue = await opened.catch(() => undefined);
        if (queue !== undefined) await redis.close(queue, undefined, () => []);
      }
      queues.clear();
    },
  };
}
