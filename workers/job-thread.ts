/** The thread's side of `job-threads.ts`: loads the file that exports the job, runs its handler, and says over the port what it says. */
import { receiveMessageOnPort } from 'node:worker_threads';
import { bodyOf, verdictOn } from '../broker/step.js';
import { decode, isUndecodable } from '../broker/wire.js';
import { load } from './index.js';
import type { JobContext, JobStep } from './job.js';
import { outcomeOf } from './job-rules.js';
import { errorOf, reasonFor, type FromThread, type ThreadEnd, type ThreadTask, type ToThread } from './job-threads.js';

export async function perform({ file, name, message, attempt, state, endsAt, port }: ThreadTask): Promise<ThreadEnd> {
  const controller = new AbortController();
  const { signal } = controller;
  const waiting = new Map<number, { resolve(): void; reject(error: Error): void }>();
  let checkpoints = 0;
  const tell = (what: FromThread) => port.postMessage(what);

  function hear(what: ToThread): void {
    if (what.say === 'abort') return controller.abort(errorOf(what.reason));
    const one = waiting.get(what.n);
    waiting.delete(what.n);
    if (what.say === 'kept') one?.resolve();
    else one?.reject(errorOf(what.reason));
  }

  /** While a handler computes, messages wait: whenever it says something, it hears them. */
  function listen(): void {
    for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) hear(next.message as ToThread);
  }

  const context: JobContext & { state: unknown } = {
    signal,
    state,
    remainingMs: () => Math.max(0, endsAt - Date.now()),
    progress(progress) {
      tell({ say: 'progress', progress });
      listen();
    },
    checkpoint(next) {
      const n = ++checkpoints;
      return new Promise((resolve, reject) => {
        waiting.set(n, { resolve, reject });
        tell({ say: 'checkpoint', n, state: next });
      });
    },
    async heartbeat() {
      await new Promise((resolve) => setImmediate(resolve));
      listen();
      signal.throwIfAborted();
    },
  };

  port.on('message', hear);
  try {
    const envelope = decode({ ...message, body: Buffer.from(message.body) });
    if (isUndecodable(envelope)) throw new Error(envelope.undecodable);
    const step = (await load(file))[name] as JobStep;
    const value = await step.handle(bodyOf(envelope), { ...envelope, attempt }, context as never);
    return { outcome: outcomeOf(await verdictOn(value, (part) => tell({ say: 'progress', progress: part }))) };
  } catch (error) {
    return { reason: reasonFor(error) };
  } finally {
    port.close();
  }
}
