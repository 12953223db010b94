/**
 * `answerback/testing`: runs any flow on the ports in memory by a clock that the test moves, so that a request that takes three weeks is
 * answered in milliseconds. With any test runner.
 *
 *   const hub = await testHub({ folder: 'examples/loan-broker' });
 *   const quote = await hub.ask('loan.quote', { customer: 'C-1042', amount: 24_000, termMonths: 36 });
 *   await hub.advance('2s');
 *   await quote.reply();
 */
import { access as accessOf, anonymous, type KeyedPrincipal, type Principal } from './broker/access.js';
import type { Callbacks } from './broker/callback.js';
import { systemClock, testClock } from './broker/clock.js';
import type { Dossiers } from './broker/dossiers.js';
import type { Fields } from './broker/emit.js';
import { firstEnvelope, newId, type Envelope } from './broker/envelope.js';
import { Fault, readFault } from './broker/fault.js';
import { checkFlows, type Flow } from './broker/flow.js';
import type { Ask, Status } from './broker/gateway.js';
import { openHub, openWorkers } from './broker/hub.js';
import { memoryJobs } from './broker/jobs-memory.js';
import type { Jobs } from './broker/jobs.js';
import { memoryLater } from './broker/later-memory.js';
import type { User } from './broker/people.js';
import { bodyOf, pauseMs, written, type Pause, type Step, type StepTools, type Verdict } from './broker/step.js';
import type { Outcome, Progress } from './broker/store.js';
import { memoryState } from './broker/store-memory.js';
import type { Actor } from './broker/tasks/task.js';
import type { Wish } from './broker/tasks/tasks.js';
import type { Summary, TaskView } from './broker/tasks/view.js';
import { memoryBroker } from './broker/transport-memory.js';
import type { ConfiguredCallback } from './config/project.js';
import { callingBack, load } from './main.js';
import { targetsOf, type Target } from './workers/webhook/index.js';
import type { Post } from './workers/webhook/post.js';

export interface TestHubOptions {
  /** A project: `hub.yaml`, `workers/`. Its environment is not looked at. */
  readonly folder?: string;
  /** Or flows by name, and their steps; with a folder: steps that take the place of those of the same name. */
  readonly flows?: Readonly<Record<string, readonly string[] | (Partial<Flow> & Pick<Flow, 'steps'>)>>;
  readonly steps?: readonly Step[];
  readonly principals?: readonly KeyedPrincipal[];
  /** Who answers tasks; with a folder: instead of its `users`. */
  readonly users?: readonly User[];
  /** Where the clock begins. Default: 2026-01-01T00:00:00Z. */
  readonly now?: Date;
}

export interface TestHub {
  /** Sends a request and does not wait for its answer. Throws the Fault of one that is refused. */
  ask(flow: string, body: unknown, options?: AskOptions): Promise<Asked>;
  /** The open tasks that somebody may see, due soonest first. */
  tasks(person: string): Promise<readonly Summary[]>;
  /**
   * Does something to a task, as a person does in the inbox: `{ do: 'claim' }`, `{ do: 'delegate', to: 'bo' }`, … Throws a Fault `forbidden`
   * or `invalid` with what the person would read.
   */
  act(taskId: string, wish: Wish, person: string): Promise<TaskView>;
  /** Claims a task and decides it. The decision counts at once, without the seconds in which it could be taken back. */
  decide(
    taskId: string,
    outcome: string,
    decision: { readonly by: string; readonly data?: unknown; readonly comment?: string },
  ): Promise<void>;
  /** Lets time go by: everything that falls due happens, in order. */
  advance(time: Pause): Promise<void>;
  /** The date by the hub's clock. */
  now(): Date;
  /** What happens to the next attempts of a step, in this order; then it works again. */
  disturb(step: string, ...disturbances: Disturbance[]): void;
  /** Every callback of a project's `callbacks` that was posted, signed with a secret of the kit's. Receivers answer 204. */
  readonly posted: readonly Posted[];
  /** What receivers answer to the next callbacks, in this order: a status, or nothing. */
  disturbCallbacks(...answers: (number | 'unreachable')[]): void;
  /** Everything that Redis holds is lost, and rebuilt from the journal. */
  loseStore(): Promise<void>;
  /** What the hub reported, as in its log. */
  readonly events: readonly { readonly event: string; readonly fields: Fields }[];
  close(): Promise<void>;
}

export type AskOptions = Partial<Pick<Ask, 'key' | 'idempotencyKey' | 'deadlineMs' | 'contentType' | 'priority' | 'callback'>> & {
  /** Name of the principal that asks. Default: the first one, or anonymous. */
  readonly as?: string;
};

/** A callback as its receiver was sent it. Nothing leaves the process. */
export interface Posted {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Parsed if it is JSON. */
  readonly body: unknown;
}

/** A request that was sent. */
export interface Asked {
  readonly id: string;
  status(): Promise<Status>;
  /**
   * The reply, parsed if it is JSON: its newest version, or that of this number. Throws the Fault that was answered instead, and an error that
   * says what is waited for when there is no answer yet.
   */
  reply(version?: number): Promise<unknown>;
  /** What became of it, if anything has: the first version. */
  outcome(): Promise<Outcome | undefined>;
  /** Answers what a step asks; the oldest question, or that of this id. Throws when nothing is asked, or when the answer does not fit. */
  answer(answer: unknown, questionId?: string): Promise<void>;
  cancel(): Promise<void>;
}

/**
 * - an Error, or a Fault: it throws that.
 * - `dies`: its process dies before it is done, so that the message is handed out again.
 * - `hangs`: it never ends, until its time-out.
 * - `{ takes }`: it begins after that time.
 */
export type Disturbance = Error | 'dies' | 'hangs' | { readonly takes: Pause };

const second = 1_000;
/** The time in which a decision can be taken back, and a bit. */
const undoMs = 8_500;
/** How long the test waits for a handler that does real work, between two signs of life of any of them. */
const patienceMs = 200;
const year = 366 * 86_400_000;

export async function testHub(options: TestHubOptions): Promise<TestHub> {
  const posted: Posted[] = [];
  const answers: (number | 'unreachable')[] = [];
  const post: Post = async ({ url, headers, body }) => {
    const contentType = headers['content-type'] ?? 'application/octet-stream';
    posted.push({ url: url.href, headers, body: bodyOf({ body, contentType }) });
    const answer = answers.shift() ?? 204;
    return answer === 'unreachable' ? { error: 'the receiver cannot be reached' } : { status: answer };
  };
  const { flows, steps, principals, users, callbacks } = await projectOf(options, post);
  const disturbances = new Map<string, Disturbance[]>();
  /** Handlers that run, and when one last began or ended. */
  let active = 0;
  let changedAt = 0;
  const changed = (by: number) => ([active, changedAt] = [active + by, performance.now()]);

  /** Until nothing happens any more without time going by. Handlers may do real work meanwhile; one that does nothing for long waits for the clock. */
  async function settled(): Promise<void> {
    const isBusy = () => active > 0 && performance.now() - changedAt < patienceMs;
    for (let quiet = 0; quiet < 20; quiet = isBusy() ? 0 : quiet + 1) await new Promise((resolve) => setImmediate(resolve));
  }
  const clock = testClock(options.now?.getTime(), settled);

  const watched = (step: Step): Step => {
    const { run } = step;
    if (run === undefined) return step;
    return {
      ...step,
      async run(envelope, tools) {
        const disturbance = disturbances.get(step.name)?.shift();
        if (disturbance instanceof Error) throw disturbance;
        if (disturbance === 'hangs') return new Promise<Verdict>(() => undefined);
        if (typeof disturbance === 'object') await new Promise<void>((resolve) => void clock.after(pauseMs(disturbance.takes), resolve));
        changed(+1);
        try {
          const verdict = await run(envelope, tools);
          // It did its work, and nobody heard of it.
          return disturbance === 'dies' ? await run(envelope, tools) : verdict;
        } finally {
          changed(-1);
        }
      },
    };
  };

  const broker = memoryBroker({ clock });
  const transport = broker.connect();
  const state = memoryState({ clock, retentionMs: year });
  const store = state.connect();
  const later = memoryLater({ clock, publish: (to, message) => transport.publish(to, message) });
  const allJobs = memoryJobs({ clock });
  const handedOut = allJobs.connect();
  const jobs: Jobs = {
    ...handedOut,
    serve: (queue, how, work) =>
      handedOut.serve(queue, how, async (id, lost) => {
        changed(+1);
        return work(id, lost).finally(() => changed(-1));
      }),
  };
  const events: { event: string; fields: Fields }[] = [];
  const access = accessOf(principals);
  const common = {
    ports: { transport, store, later, jobs, clock },
    project: { flows, steps: steps.map(watched) },
    namespace: 'hub',
    emit: (event: string, fields: Fields = {}) => void events.push({ event, fields }),
    place: 'test/1',
    journalMaxAge: '365D',
  };
  const hub = await openHub({
    ...common,
    name: 'test',
    access,
    users,
    maxDelayMs: Infinity,
    ...(callbacks === undefined ? {} : { callbacks }),
  });
  const workers = await openWorkers(common);
  const principalNamed = (name: string | undefined): Principal => {
    const found = name === undefined ? (principals[0] ?? anonymous) : access.byName(name);
    if (found === undefined) throw new Error(`there is no principal "${name}" in this project`);
    return found;
  };

  /** What is promised by the hub comes without time going by; what it then waits for does not. */
  async function now<T>(promise: Promise<T>): Promise<T> {
    let isOver = false;
    void promise.catch(() => undefined).finally(() => (isOver = true));
    while (!isOver) await clock.advance(0);
    return promise;
  }

  async function actorNamed(name: string): Promise<Actor> {
    const member = await hub.people.find(name);
    if (member === undefined) throw new Error(`there is no user "${name}" in this project`);
    return hub.people.actor(member, 'page');
  }

  async function act(taskId: string, wish: Wish, person: string): Promise<TaskView> {
    const answered = await now(hub.tasks.act(taskId, wish, await actorNamed(person)));
    if (answered === undefined) throw new Error(`there is no task ${taskId}`);
    if (answered.result === 'done') return answered.task;
    const { code, detail } = answered.refusal;
    throw new Fault(code === 'invalid' ? 'invalid' : 'forbidden', detail, { reason: code });
  }

  return {
    events,
    posted,
    disturbCallbacks: (...more) => void answers.push(...more),
    act,
    async tasks(person) {
      const { tasks } = await now(actorNamed(person).then((actor) => hub.tasks.list(actor, { view: 'groups', limit: 1_000 })));
      const mine = await now(actorNamed(person).then((actor) => hub.tasks.list(actor, { view: 'mine', limit: 1_000 })));
      return [...mine.tasks, ...tasks];
    },
    async decide(taskId, outcome, { by, data, comment }) {
      const { may } = await act(taskId, { do: 'claim' }, by);
      if (may.decide !== true) throw new Fault('forbidden', may.decide);
      await act(taskId, { do: 'decide', outcome, data, ...(comment === undefined ? {} : { comment }) }, by);
      await clock.advance(undoMs);
    },
    now: () => new Date(clock.now()),
    advance: (time) => clock.advance(pauseMs(time)),
    disturb(step, ...more) {
      if (!steps.some(({ name }) => name === step)) throw new Error(`there is no step "${step}" in this project`);
      disturbances.set(step, [...(disturbances.get(step) ?? []), ...more]);
    },
    async loseStore() {
      const rebuilds = () => events.filter(({ event }) => event === 'rebuild.done').length;
      const before = rebuilds();
      state.lose();
      allJobs.lose();
      while (rebuilds() === before) await clock.advance(second);
    },
    async ask(flow, body, { as, ...more } = {}) {
      const principal = principalNamed(as);
      const { body: bytes, contentType } = written(body);
      const asked = hub.gateway.request({ flow, principal, body: bytes, contentType, ...more, ...waitOf(flows, flow) });
      return askedOf(principal, asked);
    },
    async close() {
      hub.letGo();
      await now(workers.stop(0));
      await now(hub.close());
      await later.close();
      await jobs.close();
      await transport.close();
      await store.close();
    },
  };

  async function askedOf(principal: Principal, asking: ReturnType<typeof hub.gateway.request>): Promise<Asked> {
    const answer = await now(asking);
    const { id } = answer;
    const status = async () => {
      const found = await hub.gateway.status(id, principal);
      if (found === undefined) throw new Error(`request ${id} has no record: it was answered on the line, or is forgotten`);
      return found;
    };
    const outcome = async () => {
      if (answer.kind === 'outcome') return answer.outcome;
      await clock.advance(0);
      const record = await store.get(id);
      return record?.shown === true ? record.outcome : undefined;
    };
    return {
      id,
      status,
      outcome,
      async reply(version) {
        const found = await outcome();
        if (found === undefined) {
          const { state: where, step, waitingOn } = await status();
          throw new Error(
            `no answer yet: the request is ${where}${step === undefined ? '' : ` at ${step}`}${waitingOn === undefined ? '' : `, waits for ${waitingOn}`}; hub.advance('1h') lets time go by`,
          );
        }
        if (found.kind !== 'reply') throw readFault(found.body);
        const amendment = version === 1 ? undefined : await store.amendment(id, version);
        if (amendment === undefined && (version ?? 1) > 1) throw new Error(`the reply to request ${id} has no version ${version}`);
        return bodyOf(amendment?.outcome ?? found);
      },
      async answer(value, questionId) {
        if ((await now(hub.gateway.answer(id, principal, value, questionId))) !== 'answered')
          throw new Error(`request ${id} asks nothing${questionId === undefined ? '' : ` of the name ${questionId}`}`);
      },
      async cancel() {
        await now(hub.gateway.cancel(id, principal));
      },
    };
  }
}

/** A volatile flow is answered on the line only. */
const waitOf = (flows: readonly Flow[], name: string): { waitMs?: number } =>
  flows.find((flow) => flow.name === name)?.durable === false ? {} : { waitMs: 0 };

async function projectOf(
  { folder, flows, steps = [], principals, users }: TestHubOptions,
  post: Post,
): Promise<{
  readonly flows: readonly Flow[];
  readonly steps: readonly Step[];
  readonly principals: readonly KeyedPrincipal[];
  readonly users: readonly User[];
  readonly callbacks: Callbacks | undefined;
}> {
  const loaded = folder === undefined ? undefined : await load({ folder, env: {} });
  const targets = loaded?.targets === undefined ? undefined : targetsOf(loaded.project.callbacks.map(targetOf));
  const calling = targets === undefined ? [] : [callingBack(targets, post)];
  const own = new Set([...steps, ...calling].map(({ name }) => name));
  const all = {
    callbacks: targets,
    flows: [...(loaded?.project.flows ?? []), ...Object.entries(flows ?? {}).map(([name, flow]) => flowOf(name, flow))],
    steps: [...(loaded?.steps ?? []).filter(({ name }) => !own.has(name)), ...calling, ...steps],
    principals: principals ?? loaded?.project.principals ?? [],
    users: users ?? loaded?.project.users ?? [],
  };
  const flaws = checkFlows(all.flows, new Map(all.steps.map((step) => [step.name, step])));
  if (flaws.length > 0) throw new Error(flaws.map(({ message }) => message).join('\n'));
  return all;
}

/** Its secrets are of no use to a test, which may not have them. */
const targetOf = ({ secrets: _secrets, headers, ...target }: ConfiguredCallback): Target => ({
  ...target,
  keys: () => [Buffer.alloc(32, 'test')],
  headers: () => Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, typeof value === 'string' ? value : 'secret'])),
});

function flowOf(name: string, flow: readonly string[] | (Partial<Flow> & Pick<Flow, 'steps'>)): Flow {
  const defaults = { name, waitMs: 10 * second, maxWaitMs: 60 * second, deadlineMs: year, maxDeadlineMs: year, durable: true };
  return { ...defaults, ...('steps' in flow ? flow : { steps: flow }) };
}

/** What one run of a step came to. */
export interface Performed {
  /** The body that goes on, parsed if it is JSON; undefined when it split. */
  readonly body?: unknown;
  readonly contentType?: string;
  /** The steps that it routed to. */
  readonly steps?: readonly string[];
  /** The parts that it split into. */
  readonly parts?: readonly { readonly name?: string; readonly body: unknown; readonly steps?: readonly string[] }[];
  readonly progress: readonly Progress[];
}

/** Runs one worker alone, once, without any hub. Throws what its handler throws. */
export async function perform(step: Step, body: unknown, envelope: Partial<Envelope> = {}): Promise<Performed> {
  if (step.kind !== 'worker' || step.run === undefined)
    throw new TypeError(`perform() runs a worker by itself, and ${step.name} is of kind ${step.kind}: run its flow with testHub()`);
  const at = Date.now();
  const progress: Progress[] = [];
  const first = firstEnvelope({ id: newId(), flow: 'test', slip: [step.name], deadline: at + step.timeoutMs, at, ...written(body) });
  const given: Envelope = { ...first, ...envelope };
  const nobody = async () => undefined;
  const state = memoryState({});
  const tools: StepTools = {
    signal: AbortSignal.timeout(step.timeoutMs),
    answers: [],
    kept: undefined,
    progress: (one) => void progress.push(one),
    part: nobody,
    tellQuestion: nobody,
    remainingMs: () => Math.max(0, given.deadline - Date.now()),
    store: state.connect(),
    later: memoryLater({ publish: nobody }),
    jobs: memoryJobs({ clock: systemClock }).connect(),
    announce: nobody,
    get dossiers(): Dossiers {
      throw new TypeError('a worker keeps nothing');
    },
    clock: systemClock,
    addressOf: (name) => ({ exchange: '', routingKey: name }),
    drop: nobody,
    absorbed: nobody,
    late: nobody,
    amendsUntil: () => undefined,
    isWatched: false,
    report: async () => false,
  };
  const verdict = await step.run(given, tools);
  if (verdict.go === 'apart') return { parts: verdict.parts, progress };
  if (verdict.go === 'nowhere' || verdict.go === 'fault') throw new Fault('internal', `${step.name} absorbed its message`);
  const { slip, contentType } = verdict;
  return { body: bodyOf(verdict), contentType, ...(slip === undefined ? {} : { steps: slip }), progress };
}
