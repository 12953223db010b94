/**
 * Steps that append what they do to the file FAULT_EFFECTS, one line each, as the checker reads it. `gated` goes on when the file
 * FAULT_EFFECTS + '.open' is there.
 */
import { appendFileSync, existsSync } from 'node:fs';
import { aggregator, Fault, job, split, task, timer, worker, type Answer, type Envelope, type Manifest } from 'answerback';

interface Body {
  readonly token: string;
  readonly deadly?: boolean;
  /** What a group left behind. */
  readonly parts?: readonly string[];
  readonly members?: readonly string[];
  readonly manifest?: Manifest;
  /** How long `rest.until` rests (ms since 1970). */
  readonly until?: number;
  /** What people said. */
  readonly decision?: object;
}

const file = process.env['FAULT_EFFECTS'] ?? '/dev/null';

function note(
  what: 'start' | 'end',
  step: string,
  token: string,
  { requestId, attempt }: Pick<Envelope, 'requestId' | 'attempt'>,
  said?: unknown,
): void {
  appendFileSync(file, `${JSON.stringify({ what, step, token, id: requestId, attempt, pid: process.pid, at: Date.now(), said })}\n`);
}

/** A step that writes down its beginning and its end; `work` is what lies between. */
const noted = (name: string, work: (body: Body, envelope: Envelope, signal: AbortSignal) => unknown) =>
  worker<Body>({
    name,
    retry: ['200ms', '1s'],
    async handle(body, envelope, { signal }) {
      note('start', name, body.token, envelope);
      const said = await work(body, envelope, signal);
      note('end', name, body.token, envelope, said);
      return said;
    },
  });

/** An answer that nobody else gives. */
const answer = ({ token, parts, members, manifest, decision }: Body, { requestId }: Envelope) => ({
  token,
  for: requestId,
  by: process.pid,
  mark: Math.random(),
  ...(manifest === undefined ? {} : { parts, members, manifest }),
  ...(decision === undefined ? {} : { decision }),
});

export const first = noted('first', (body) => body);
export const last = noted('last', answer);
export const part = noted('part', (body) => body);
export const parted = worker({ name: 'parted', handle: (parts) => ({ parts }) });
export const flaky = noted('flaky', (body, { attempt }) => {
  if (attempt === 1) throw new Error('not at the first attempt');
  return body;
});

/** A job in `of` pieces that take `ms` each, with a checkpoint after each. `gated` stops before the last one until the gate is open. */
const pieces = (name: string, of: number, gated: boolean, ms = 0) =>
  job<Body, number>({
    name,
    retry: ['200ms', '1s'],
    stalledAfter: '2s',
    async handle(body, envelope, { signal, progress, checkpoint, state = 0 }) {
      note('start', name, body.token, envelope, state);
      for (let done = state; done < of; done++) {
        progress({ done, total: of });
        if (gated && done === of - 1) note('start', `${name}.gate`, body.token, envelope);
        while (gated && done === of - 1 && !existsSync(`${file}.open`) && !signal.aborted)
          await new Promise((resolve) => setTimeout(resolve, 20));
        if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
        signal.throwIfAborted();
        await checkpoint(done + 1);
      }
      const said = answer(body, envelope);
      note('end', name, body.token, envelope, said);
      return said;
    },
  });
export const compute = pieces('compute', 2, false);
export const computeGated = pieces('compute.gated', 3, true);
export const computeLong = pieces('compute.long', 4, false, 300);
export const computeFlaky = job<Body>({
  name: 'compute.flaky',
  retry: ['200ms'],
  stalledAfter: '2s',
  handle(body, envelope) {
    note('start', 'compute.flaky', body.token, envelope);
    if (envelope.attempt === 1) throw new Error('not at the first attempt');
    const said = answer(body, envelope);
    note('end', 'compute.flaky', body.token, envelope, said);
    return said;
  },
});
/** A job in three pieces of half a second, one at a time, that gives way to urgent requests. */
export const computeWay = job<Body, number>({
  name: 'compute.way',
  concurrency: 1,
  interruptible: true,
  retry: ['200ms', '1s'],
  grace: '1s',
  stalledAfter: '2s',
  async handle(body, envelope, { signal, checkpoint, state = 0 }) {
    note('start', 'compute.way', body.token, envelope, state);
    for (let done = state; done < 3; done++) {
      await new Promise<void>((resolve) => {
        setTimeout(resolve, 500);
        signal.addEventListener('abort', () => resolve());
      });
      signal.throwIfAborted();
      await checkpoint(done + 1);
    }
    const said = answer(body, envelope);
    note('end', 'compute.way', body.token, envelope, said);
    return said;
  },
});
/** A job that goes on until it is told to end, and then writes down when that was. Every tenth one says all the time when it is. */
export const computeOn = job<Body>({
  name: 'compute.on',
  concurrency: 200,
  async handle(body, envelope, { signal, progress }) {
    note('start', 'compute.on', body.token, envelope);
    const telling = body.token.endsWith('0') ? setInterval(() => progress({ message: String(Date.now()) }), 20) : undefined;
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    clearInterval(telling);
    note('end', 'compute.on', body.token, envelope);
    throw signal.reason;
  },
});
export const rest = timer({ name: 'rest', wait: '500ms' });
export const restLong = timer({ name: 'rest.long', wait: '3s' });

export const restUntil = timer<Body>({ name: 'rest.until', wait: ({ until = 0 }) => new Date(until) });

/** What `needed` of `of` people decide. Each says something that nobody else says. */
const decided = (name: string, needed: number, of: number) =>
  task<Body>({
    name,
    title: ({ token }) => `Decide on ${token}`,
    candidates: { groups: ['deciders'] },
    form: { type: 'object', required: ['mark'], properties: { mark: { type: 'string' } } },
    ...(of === 1 ? {} : { approvals: { needed, of } }),
    result: ({ token }, { outcome, votes }) => ({
      token,
      decision: {
        outcome,
        needed,
        of,
        votes: votes.map(({ by, data, outcome: its }) => ({ by, outcome: its, mark: (data as { mark: string }).mark })),
      },
    }),
  });
export const decide = decided('decide', 1, 1);
export const decideTwo = decided('decide.two', 2, 2);
export const decideMost = decided('decide.most', 2, 3);
export const reject = noted('reject', ({ token }) => {
  throw new Fault('rejected', `no ${token}: ${Math.random()}`);
});
export const failing = noted('failing', () => {
  throw new Error('never');
});
export const gated = noted('gated', async (body, envelope, signal) => {
  while (!existsSync(`${file}.open`) && !signal.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
  return answer(body, envelope);
});
export const slow = noted('slow', async (body, envelope) => {
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  return answer(body, envelope);
});
export const poison = noted('poison', (body, envelope) => {
  if (body.deadly === true) process.kill(process.pid, 'SIGKILL');
  return answer(body, envelope);
});

const members = ['a', 'b', 'c'];
const gatheredOf = (members: readonly string[]) => (answers: readonly Answer<Body>[], manifest: Manifest) => {
  const [one] = answers;
  if (one === undefined) throw new Fault('unavailable', 'nobody answered');
  const decision = answers.find(({ body }) => body.decision !== undefined)?.body.decision;
  return { ...one.body, parts: answers.map(({ from }) => from), members, manifest, ...(decision === undefined ? {} : { decision }) };
};
const gathered = gatheredOf(members);

export const spread = worker<Body>({ name: 'spread', handle: (body) => split(members.map((name) => ({ body, name }))) });
// Longer than any outage of a test: it is not about groups that end by time.
export const gather = aggregator<Body>({ name: 'gather', timeout: '40s', combine: gathered });
export const spreadPartly = worker<Body>({
  name: 'spread.partly',
  handle: (body) => split(members.map((name) => ({ body, name, steps: [name === 'c' ? 'silent' : 'part'] }))),
});
export const spreadLate = worker<Body>({
  name: 'spread.late',
  handle: (body) => split(members.map((name) => ({ body, name, steps: [name === 'c' ? 'slow' : 'last'] }))),
});
/** What it says is the reply, and each version of it. */
export const gatherTwo = aggregator<Body & { readonly for: string }>({
  name: 'gather.two',
  timeout: '40s',
  atLeast: 2,
  combine(answers, manifest) {
    const said = gathered(answers, manifest);
    note('end', 'gather.two', said.token, { requestId: answers[0]?.body.for ?? '', attempt: 1 }, said);
    return said;
  },
});
export const gatherSoon = aggregator<Body>({ name: 'gather.soon', timeout: '1s', combine: gathered });
export const gatherQuiet = aggregator<Body>({ name: 'gather.quiet', timeout: '40s', quiet: '500ms', combine: gathered });

/** A worker, a job, a person and a date, side by side. */
const kinds = ['part', 'compute.long', 'decide', 'rest.long'];
export const spreadLong = worker<Body>({
  name: 'spread.long',
  handle: (body) => split(kinds.map((step) => ({ body, name: step, steps: [step] }))),
});
const slowKinds = ['part', 'decide', 'rest.until'];
export const spreadSlow = worker<Body>({
  name: 'spread.slow',
  handle: (body) => split(slowKinds.map((step) => ({ body, name: step, steps: [step] }))),
});
export const gatherSlow = aggregator<Body>({ name: 'gather.slow', timeout: '15m', combine: gatheredOf(slowKinds) });
export const gatherLong = aggregator<Body>({ name: 'gather.long', timeout: '10m', combine: gatheredOf(kinds) });
