/**
 * What the hubs of a simulation serve: flows of every kind, with steps that do what the request's body tells them to (work,
 * fail, refuse, hang), and write down what they did.
 */
import type { Envelope } from '../../broker/envelope.js';
import type { Flow } from '../../broker/flow.js';
import type { Project } from '../../broker/hub.js';
import { aggregator, Fault, foreign, split, timer, worker, type Step } from '../../index.js';
import type { Effect } from '../fault/history.js';
import type { Machine } from './machine.js';

/** What a step does with a request: its result after a while, an error some times before that, a Fault, or nothing ever. */
export type Act =
  | { readonly does: 'work'; readonly afterMs: number }
  | { readonly does: 'fail'; readonly times: number }
  | { readonly does: 'refuse' }
  | { readonly does: 'hang' };

export interface Body {
  readonly token: string;
  /** By step. A step that is not named works at once. */
  readonly acts: Readonly<Record<string, Act>>;
  readonly part?: string;
  /** The request that a part belongs to. */
  readonly id?: string;
}

export const members = ['a', 'b', 'c'];
const retries = ['200ms', '1s'] as const;
/** Those of the aggregators, too. */
export const retryDelays = ['200ms', '1s', '5s', '30s'];

const flow = (name: string, steps: readonly string[], more: Partial<Flow> = {}): Flow => ({
  name,
  steps,
  waitMs: 5_000,
  maxWaitMs: 10_000,
  deadlineMs: 10_000,
  maxDeadlineMs: 10_000,
  durable: true,
  ...more,
});

export const flows: readonly Flow[] = [
  flow('plain', ['first', 'answer']),
  flow('scatter', ['spread', 'part', 'gather', 'answer']),
  flow('some', ['spread', 'part', 'gather.some', 'answer']),
  flow('soon', ['spread', 'part', 'gather.soon']),
  flow('middle', ['first', 'legacy', 'answer']),
  flow('last', ['first', 'oracle']),
  flow('straight', ['oracle']),
  flow('note', ['first', 'keep']),
  flow('later', ['first', 'rest', 'answer']),
  flow('quick', ['answer'], { durable: false }),
];

/** The steps that a program of somebody else serves. */
export const foreignSteps = ['legacy', 'oracle'];
export const stepNames = ['first', 'answer', 'keep', 'spread', 'part', 'gather', 'gather.some', 'gather.soon', 'rest', ...foreignSteps];

export interface Deeds {
  readonly effects: Effect[];
  note(machine: Machine, what: Effect['what'], step: string, token: string, id: string, attempt: number, said?: unknown): void;
  /** A mark that no other answer has. */
  mark(): number;
}

export function projectOf(machine: Machine, deeds: Deeds): Project {
  const noted = (name: string, work: (body: Body, envelope: Envelope) => unknown, timeoutMs = 3_000): Step =>
    worker<Body>({
      name,
      timeoutMs,
      retry: retries,
      async handle(body, envelope, { signal }) {
        const step = body.part === undefined ? name : `${name}/${body.part}`;
        const note = (what: Effect['what'], said?: unknown) =>
          deeds.note(machine, what, step, body.token, envelope.requestId, envelope.attempt, said);
        note('start');
        const act = body.acts[step] ?? { does: 'work', afterMs: 0 };
        if (act.does === 'refuse') {
          note('end', 'refused');
          throw new Fault('rejected', `${step} refuses`);
        }
        if (act.does === 'fail' && envelope.attempt <= act.times) throw new Error(`${step} fails`);
        if (act.does === 'hang') await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
        if (act.does === 'work' && act.afterMs > 0) await new Promise<void>((resolve) => machine.clock.after(act.afterMs, resolve));
        const said = work(body, envelope);
        note('end', said);
        return said;
      },
    });

  /** Who gets it again says something else: two answers can be told apart. */
  const answer = ({ token }: Body, { requestId }: Envelope) => ({ token, for: requestId, mark: deeds.mark() });
  const pass = (body: Body, { requestId }: Envelope) => (body.part === undefined ? body : { ...body, id: requestId });
  const apart = ({ token, acts }: Body) => split(members.map((part) => ({ name: part, body: { token, acts, part } })));

  const gather = (name: string, more: { readonly atLeast?: number; readonly timeout?: '2s' }): Step =>
    aggregator<Body>({
      name,
      ...more,
      combine(answers, manifest) {
        const [first] = answers;
        if (first === undefined) throw new Fault('unavailable', `nobody answered ${name}, ${manifest.failed.length} failed`);
        const { token, acts, id = '' } = first.body;
        const said = { token, acts, gathered: manifest, parts: answers.map(({ from, body }) => [from, body.part]) };
        deeds.note(machine, 'end', name, token, id, 1, said);
        return said;
      },
    });

  return {
    flows,
    steps: [
      noted('first', pass),
      noted('answer', answer),
      noted('keep', answer),
      noted('part', pass),
      worker<Body>({ name: 'spread', retry: retries, handle: apart }),
      gather('gather', {}),
      gather('gather.some', { atLeast: 2 }),
      gather('gather.soon', { timeout: '2s' }),
      timer({ name: 'rest', wait: '1s' }),
      ...foreignSteps.map((name) => foreign(name)),
    ],
  };
}
