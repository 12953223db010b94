/** Jobs that compute, as a file of a project: loaded by threads. */
import { threadId } from 'node:worker_threads';
import { Fault, job } from 'answerback';

/** Computes for so long, and says so now and then. */
export const spin = job({
  name: 'spin',
  cpu: true,
  grace: '500ms',
  async handle({ ms }, _envelope, { progress, heartbeat, checkpoint, state }) {
    const began = Date.now();
    while (Date.now() - began < ms) {
      for (let n = 0; n < 1e5; n++) Math.sqrt(n);
      progress({ percent: ((Date.now() - began) / ms) * 100 });
      await heartbeat();
    }
    await checkpoint({ at: ms });
    return { spun: ms, thread: threadId, state: state ?? null };
  },
});

/** Never looks at its signal. */
export const deaf = job({
  name: 'deaf',
  cpu: true,
  grace: '500ms',
  handle(_body, _envelope, { progress }) {
    progress({ message: 'deaf' });
    for (;;) Math.sqrt(2);
  },
});

export const fails = job({
  name: 'fails',
  cpu: true,
  handle() {
    throw new Fault('rejected', 'in a thread');
  },
});

/** Computes so many rounds of 50 ms with a checkpoint after each; says where it went on. */
export const yielding = job({
  name: 'yielding',
  cpu: true,
  concurrency: 1,
  interruptible: true,
  grace: '2s',
  async handle({ rounds }, _envelope, { progress, heartbeat, checkpoint, state = { done: 0 } }) {
    for (let done = state.done; done < rounds; done++) {
      const began = Date.now();
      while (Date.now() - began < 50) Math.sqrt(done);
      progress({ done: done + 1, total: rounds });
      await heartbeat();
      await checkpoint({ done: done + 1 });
    }
    return { from: state.done };
  },
});
