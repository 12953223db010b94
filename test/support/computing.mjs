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
