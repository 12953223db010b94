/**
 * Random flows, failures, holds and cancellations on the ports in memory, in a time of their own: whatever happens, every
 * request ends in exactly one outcome, the same for whoever reads it, and it is the one that its steps make.
 */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { anonymous } from '../../broker/access.js';
import { testClock, type TestClock } from '../../broker/clock.js';
import type { Answer } from '../../broker/gateway.js';
import { aggregator, Fault, split, worker, type Step } from '../../index.js';
import { memoryHub, type TestHub } from '../support/hub.js';

/** A flow as a tree: a step that works, or a scatter over `inner` that is gathered again. */
type Stage =
  | { readonly kind: 'work' }
  | { readonly kind: 'scatter'; readonly parts: number; readonly gather: 'all' | 'first' | 'quiet'; readonly inner: readonly Stage[] };

/** What a step does with a message: its result after a while, an error some times before that, a Fault, or nothing ever. */
type Act =
  | { readonly does: 'work'; readonly afterMs: number }
  | { readonly does: 'fail'; readonly times: number }
  | { readonly does: 'reject' }
  | { readonly does: 'hang' };

interface Asked {
  readonly acts: readonly Act[];
  readonly waitMs: number;
  readonly deadlineMs: number;
  /** With a key it is asked twice, the second time at another hub. */
  readonly keyed: boolean;
  readonly cancel: boolean;
}

interface Body {
  readonly token: number;
  readonly acts: readonly Act[];
  /** Which part of which part this is. */
  readonly path: string;
  readonly said: unknown;
}

const attempts = 3;
const attemptMs = 100;
const work: fc.Arbitrary<Stage> = fc.constant({ kind: 'work' });
const stages: fc.Arbitrary<readonly Stage[]> = fc.array(
  fc.oneof(
    work,
    fc.record({
      kind: fc.constant('scatter' as const),
      parts: fc.nat(4),
      gather: fc.constantFrom('all' as const, 'all' as const, 'first' as const, 'quiet' as const),
      inner: fc.array(
        fc.oneof(
          { weight: 3, arbitrary: work },
          {
            weight: 1,
            arbitrary: fc.record({
              kind: fc.constant('scatter' as const),
              parts: fc.nat(2),
              gather: fc.constant('all' as const),
              inner: fc.array(work, { maxLength: 1 }),
            }),
          },
        ),
        { maxLength: 2 },
      ),
    }),
  ),
  { minLength: 1, maxLength: 4 },
);
const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ does: fc.constant('work' as const), afterMs: fc.constantFrom(0, 0, 10, 80) }) },
  { weight: 3, arbitrary: fc.record({ does: fc.constant('fail' as const), times: fc.integer({ min: 1, max: attempts }) }) },
  { weight: 1, arbitrary: fc.constant({ does: 'reject' as const }) },
  { weight: 1, arbitrary: fc.constant({ does: 'hang' as const }) },
);
const asked: fc.Arbitrary<Asked> = fc.record({
  acts: fc.array(act, { minLength: 1, maxLength: 6 }),
  waitMs: fc.constantFrom(0, 1, 60, 300, 60_000),
  deadlineMs: fc.constantFrom(1_000, 60_000, 60_000),
  keyed: fc.boolean(),
  cancel: fc.nat(9).map((n) => n === 0),
});

/** The steps that a tree becomes, in the order of the slip, each under the place that it has in the tree. */
const slipOf = (tree: readonly Stage[], at = 's'): string[] =>
  tree.flatMap((stage, index) => {
    const name = `${at}${index}`;
    return stage.kind === 'work' ? [name] : [`${name}.spread`, ...slipOf(stage.inner, `${name}.p`), `${name}.gather`];
  });

/** Which act a step does on a message: any, but always the same one. */
function actFor({ acts, path }: Body, step: string): Act {
  const sum = [...`${path}/${step}`].reduce((total, character) => (total * 31 + character.charCodeAt(0)) >>> 0, 7);
  return acts[sum % acts.length]!;
}

const partsOf = (body: Body, { parts }: { readonly parts: number }): Body[] =>
  Array.from({ length: parts }, (_, index) => ({ ...body, path: `${body.path}.${index}` }));
const worked = (body: Body, step: string): Body => ({ ...body, said: [step, body.said] });

/** What is left of a group: who said what, or why not. */
const gathered = (body: Pick<Body, 'token' | 'acts'>, path: string, answers: readonly (Body | string)[]): Body => ({
  token: body.token,
  acts: body.acts,
  path,
  said: answers.map((answer) => (typeof answer === 'string' ? answer : answer.said)),
});

function stepsOf(tree: readonly Stage[], clock: TestClock, at = 's'): Step[] {
  return tree.flatMap((stage, index) => {
    const name = `${at}${index}`;
    if (stage.kind === 'work') return [workStep(name, clock)];
    const spread = worker<Body>({
      name: `${name}.spread`,
      handle: (body) =>
        split(
          partsOf(body, stage).map((part) => ({ body: part })),
          { into: `${name}.gather` },
        ),
    });
    return [spread, ...stepsOf(stage.inner, clock, `${name}.p`), gatherStep(name, stage)];
  });
}

const workStep = (name: string, clock: TestClock): Step =>
  worker<Body>({
    name,
    timeoutMs: attemptMs,
    retry: ['5ms', '20ms'],
    async handle(body, { attempt }) {
      const todo = actFor(body, name);
      if (todo.does === 'reject') throw new Fault('rejected', name);
      if (todo.does === 'fail' && attempt <= todo.times) throw new Error('again');
      if (todo.does === 'hang') await new Promise(() => undefined);
      if (todo.does === 'work' && todo.afterMs > 0) await new Promise<void>((resolve) => clock.after(todo.afterMs, resolve));
      return worked(body, name);
    },
  });

function gatherStep(name: string, { parts, gather }: Stage & { kind: 'scatter' }): Step {
  return aggregator<Body>({
    name: `${name}.gather`,
    timeout: '30s',
    ...(gather === 'first' ? { atLeast: 1 } : gather === 'quiet' ? { quiet: '150ms' } : {}),
    combine(answers, { failed, completedBy }) {
      const [first] = answers;
      if (first === undefined) throw new Fault('unavailable', `none of ${parts}, ${failed.length} failed, by ${completedBy}`);
      const path = first.body.path.slice(0, first.body.path.lastIndexOf('.'));
      const all = Array.from(
        { length: parts },
        (_, index) =>
          answers.find(({ from }) => from === String(index))?.body ?? failed.find(({ from }) => from === String(index))?.code ?? 'missing',
      );
      return gathered(first.body, path, all);
    },
  });
}

/** What must come out; a text is a fault's code. Undefined: it depends on who is faster. */
function expected(tree: readonly Stage[], start: Body, at = 's'): Body | string | undefined {
  let body = start;
  for (const [index, stage] of tree.entries()) {
    const name = `${at}${index}`;
    if (stage.kind === 'work') {
      const todo = actFor(body, name);
      if (todo.does === 'reject') return 'rejected';
      if (todo.does === 'hang' || (todo.does === 'fail' && todo.times >= attempts)) return 'internal';
      body = worked(body, name);
      continue;
    }
    const answers = partsOf(body, stage).map((part) => expected(stage.inner, part, `${name}.p`));
    if (answers.includes(undefined) || (stage.gather !== 'all' && stage.parts > 1)) return undefined;
    // One that stays silent for longer than the quiet period.
    if (stage.gather !== 'all' && stage.inner.length > 0) return undefined;
    if (answers.every((answer) => typeof answer === 'string')) return 'unavailable';
    body = gathered(body, body.path, answers as (Body | string)[]);
  }
  return body;
}

/** Lets time go by until it has come to its end. It has one, or the test says that it hangs. */
async function inTime<T>(clock: TestClock, what: string, work: Promise<T>): Promise<T> {
  let over = false;
  const ended = work.finally(() => (over = true));
  ended.catch(() => undefined);
  for (let waited = 0; !over; waited += 50) {
    if (waited > 300_000) throw new Error(`${what} hangs`);
    await clock.advance(50);
  }
  return ended;
}

const told = (answer: Answer | undefined): string =>
  answer?.kind === 'outcome' ? `${answer.outcome.kind} ${answer.outcome.body.toString()}` : `no outcome: ${answer?.kind}`;

/** Asks, reads wherever there is something to read, and gives back all that was read. */
async function readersOf(
  hubs: readonly [TestHub, TestHub],
  token: number,
  { acts, waitMs, deadlineMs, keyed, cancel }: Asked,
): Promise<{ told: string[]; cancelled: boolean }> {
  const body: Body = { token, acts, path: '', said: 'start' };
  const ask = (hub: TestHub) => hub.ask('random', body, { waitMs, deadlineMs, ...(keyed ? { idempotencyKey: `key ${token}` } : {}) });
  const answers = await Promise.all(keyed ? hubs.map(ask) : [ask(hubs[token % 2]!)]);
  const ids = new Set(answers.map(({ id }) => id));
  expect(ids.size).toBe(1);
  const [id] = ids as unknown as [string];
  const recorded = keyed || answers[0]!.kind === 'accepted';
  const cancelled = recorded && cancel && (await hubs[1].gateway.cancel(id, anonymous)) === 'cancelled';
  const collected = recorded ? await Promise.all(hubs.map(({ gateway }) => gateway.collect(id, anonymous, 200_000))) : [];
  return { told: [...answers.filter(({ kind }) => kind === 'outcome'), ...collected].map(told), cancelled };
}

async function run(tree: readonly Stage[], requests: readonly Asked[]): Promise<void> {
  const clock = testClock();
  const steps = stepsOf(tree, clock);
  const slip = slipOf(tree);
  const hub = await memoryHub({ flows: { random: { steps: slip, maxWaitMs: 60_000, maxDeadlineMs: 60_000 } }, steps, clock });
  const hubs = [hub, await hub.another({ idle: true })] as const;
  try {
    await inTime(
      clock,
      'a request',
      Promise.all(
        requests.map(async (request, token) => {
          const { told, cancelled } = await readersOf(hubs, token, request);
          expect(new Set(told).size).toBe(1);
          const [kind, text] = /^(\S+) (.*)$/s.exec(told[0]!)!.slice(1) as [string, string];
          const answer = JSON.parse(text) as { token?: number; code?: string };
          const should = expected(tree, { token, acts: request.acts, path: '', said: 'start' });
          if (cancelled) expect(kind).toBe('cancelled');
          else if (kind === 'timeout') expect(request.deadlineMs).toBe(1_000);
          else if (should === undefined)
            expect(kind === 'reply' ? answer.token : ['internal', 'rejected', 'unavailable'].includes(answer.code!)).toBe(
              kind === 'reply' ? token : true,
            );
          else expect(kind === 'reply' ? answer : answer.code).toEqual(should);
        }),
      ),
    );
    // What was abandoned on the way ends by its attempts, its deadline or its group's.
    await clock.advance(70_000);
    const { names } = hub.hub;
    for (const queue of [...slip.map(names.workQueue), names.retry('5ms'), names.retry('20ms'), names.reply('h1'), names.late])
      expect([queue, (await hub.ports.transport.inspect(queue))?.ready ?? 0]).toEqual([queue, 0]);
  } finally {
    await inTime(clock, 'the stop', hub.close());
  }
}

describe('random flows with random failures', () => {
  it('end every request in exactly one outcome, the same for every reader', async () => {
    await fc.assert(fc.asyncProperty(stages, fc.array(asked, { minLength: 1, maxLength: 6 }), run), {
      numRuns: 150,
      interruptAfterTimeLimit: 15_000,
    });
  });
});
