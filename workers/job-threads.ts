/**
 * Jobs that compute, in threads of their own (piscina, an optional dependency), so that this process goes on giving signs of life and hears of
 * cancellations. The other side is `job-thread.ts`; between them go plain objects over a MessagePort.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import type { Piscina } from 'piscina';
import { isFault, messageOf, readFault, type FaultBody } from '../broker/fault.js';
import type { Progress } from '../broker/store.js';
import type { Message } from '../broker/transport.js';
import { encode } from '../broker/wire.js';
import type { Perform, PerformContext } from './job-attempt.js';
import type { JobOutcome } from './job-rules.js';

/** What a thread is given. */
export interface ThreadTask {
  /** The file in `workers/` and the name by which it exports the job. */
  readonly file: string;
  readonly name: string;
  readonly message: Message;
  readonly attempt: number;
  readonly state: unknown;
  /** When the request ends, by the clock of this machine. */
  readonly endsAt: number;
  readonly port: MessagePort;
}

export type FromThread =
  { readonly say: 'progress'; readonly progress: Progress } | { readonly say: 'checkpoint'; readonly n: number; readonly state: unknown };

export type ToThread =
  | { readonly say: 'abort'; readonly reason: Reason }
  | { readonly say: 'kept'; readonly n: number }
  | { readonly say: 'refused'; readonly n: number; readonly reason: Reason };

/** An error, as it goes from thread to thread. */
export type Reason = { readonly fault: FaultBody } | { readonly error: string };

export type ThreadEnd = { readonly outcome: JobOutcome } | { readonly reason: Reason };

export function reasonFor(error: unknown): Reason {
  if (!isFault(error)) return { error: messageOf(error) };
  const { code, message, step, reason, errors } = error;
  return {
    fault: {
      code,
      message,
      ...(step === undefined ? {} : { step }),
      ...(reason === undefined ? {} : { reason }),
      ...(errors === undefined ? {} : { errors }),
    },
  };
}

export const errorOf = (reason: Reason): Error =>
  'fault' in reason ? readFault(Buffer.from(JSON.stringify(reason.fault))) : new Error(reason.error);

export interface Threads {
  readonly perform: Perform;
  close(): Promise<void>;
}

/** Threads for the job that a file exports. They are there when they are needed; an idle one ends after a while. */
export function openThreads({ file, name }: { readonly file: string; readonly name: string }, concurrency: number): Threads {
  let pool: Promise<Piscina<ThreadTask, ThreadEnd>> | undefined;

  const perform: Perform = async (envelope, context, terminate) => {
    pool ??= openPool(concurrency);
    const { port1: near, port2: port } = new MessageChannel();
    const tell = (message: ToThread) => near.postMessage(message);
    const cancel = () => tell({ say: 'abort', reason: reasonFor(context.signal.reason) });
    near.on('message', (message: FromThread) => void hear(message, context, tell));
    context.signal.addEventListener('abort', cancel);
    if (context.signal.aborted) cancel();
    const { attempt } = envelope;
    const task: ThreadTask = {
      file,
      name,
      message: encode(envelope),
      attempt,
      state: context.state,
      endsAt: Date.now() + context.remainingMs(),
      port,
    };
    try {
      // A signal that aborts ends the thread.
      const end = await (await pool).run(task, { transferList: [port], signal: terminate });
      if ('outcome' in end) return end.outcome;
      throw errorOf(end.reason);
    } finally {
      context.signal.removeEventListener('abort', cancel);
      near.close();
    }
  };

  return { perform, close: async () => (await pool?.catch(() => undefined))?.destroy() };
}

async function hear(message: FromThread, context: PerformContext, tell: (message: ToThread) => void): Promise<void> {
  if (message.say === 'progress') return context.progress(message.progress);
  const { n, state } = message;
  try {
    await context.checkpoint(state);
    tell({ say: 'kept', n });
  } catch (error) {
    tell({ say: 'refused', n, reason: reasonFor(error) });
  }
}

/** Idle threads end after this long (ms). */
const idleMs = 30_000;

async function openPool(maxThreads: number): Promise<Piscina<ThreadTask, ThreadEnd>> {
  const { Piscina } = await import('piscina').catch((cause: unknown) => {
    throw new Error('a job with cpu: true needs the package piscina: npm install piscina', { cause });
  });
  // Sources that were not built (tests of this package) are TypeScript.
  const built = fileURLToPath(new URL('./job-thread.js', import.meta.url));
  const isBuilt = existsSync(built);
  return new Piscina<ThreadTask, ThreadEnd>({
    filename: isBuilt ? built : built.replace(/\.js$/, '.ts'),
    name: 'perform',
    minThreads: 0,
    maxThreads,
    idleTimeout: idleMs,
    ...(isBuilt ? {} : { execArgv: ['--import', 'tsx'] }),
  });
}
