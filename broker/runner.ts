/**
 * Serves steps: takes a message from the step's queue, runs the step, turns the verdict into messages. The order is always
 * effect, publish, confirm, acknowledge, so that whoever dies in between only makes it happen again, under the same ids.
 */
import { setMaxListeners } from 'node:events';
import { Attempt, type Running } from './attempt.js';
import { oneByOne } from './batches.js';
import { deadlineBuckets, type Clock } from './clock.js';
import type { Control } from './control.js';
import { faultEnvelope, openDispatch } from './dispatch.js';
import type { Dossiers } from './dossiers.js';
import type { Emit } from './emit.js';
import { follow, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import { Fault, isFault, messageOf } from './fault.js';
import type { Flow } from './flow.js';
import type { Jobs } from './jobs.js';
import type { Journal } from './journal.js';
import type { Later } from './later.js';
import { patience } from './patience.js';
import { openMarks, suspectFrom } from './poison.js';
import { openResurrect } from './resurrect.js';
import { openSplitter } from './splitter.js';
import { commonTools, Tools } from './step-tools.js';
import type { Step, Verdict } from './step.js';
import type { Store } from './store.js';
import { deadAddress, retryAddress, type Names } from './topology.js';
import type { Consumer, Delivery, Handler, Headers, Message, Transport } from './transport.js';
import { openTurns } from './turns.js';
import { Chain } from './under-way.js';
import { decode, encode, errorHeaders, faultOf, isUndecodable } from './wire.js';

export interface RunnerOptions {
  readonly flows: readonly Flow[];
  readonly transport: Transport;
  readonly store: Store;
  readonly later: Later;
  readonly jobs: Jobs;
  readonly clock: Clock;
  readonly names: Names;
  readonly journal: Journal;
  readonly control: Control;
  readonly dossiers: Dossiers;
  readonly emit: Emit;
  /** Every step that flows may name. */
  readonly steps: ReadonlyMap<string, Step>;
  /** Those that this process serves. */
  readonly serve: readonly Step[];
  /** Steps of volatile flows, which have a second queue. */
  readonly volatile: ReadonlySet<string>;
  /** Shown in the RabbitMQ UI: `<host>/<pid>`. */
  readonly place: string;
}

export interface Runner {
  /** Takes no more, ends what runs (its signal aborts after `withinMs`). */
  stop(withinMs: number): Promise<void>;
}

export async function startRunner(options: RunnerOptions): Promise<Runner> {
  const { transport, names, control, clock } = options;
  const stopping = new AbortController();
  setMaxListeners(0, stopping.signal); // each publish that waits for the broker listens
  const running: Running = new Chain();
  control.listen((what, id) => {
    for (const { item: tried } of running.all()) {
      const { envelope } = tried;
      const meant = envelope.requestId === id || envelope.groups.some((group) => group.id === id);
      if (what === 'drop' && meant) tried.abort(new Fault('cancelled', 'the request was cancelled'));
      if (what === 'watch' && envelope.requestId === id) tried.report();
    }
  });
  const work = worker(options, running, stopping.signal);
  const resurrect = openResurrect(options, stopping.signal);
  const consumers: Consumer[] = [];
  const mayBeUrgent = options.flows.some(({ urgent }) => urgent === true);
  const batched = new Set(options.flows.flatMap(({ batch, steps }) => (batch === true ? steps : [])));
  for (const step of options.serve.filter(({ run }) => run !== undefined)) {
    // A delivery may be many messages, and of those that wait the urgent ones come first.
    const turns = mayBeUrgent || batched.has(step.name) ? openTurns(step.concurrency) : undefined;
    const each: Handler = (delivery) => work(step, delivery);
    const inTurn = (queue: string): Handler =>
      turns === undefined
        ? each
        : (delivery) => turns.take(queue === names.urgentQueue(step.name), stopping.signal, () => work(step, delivery));
    const consume = (queue: string) =>
      transport.consume(
        queue,
        {
          // The next urgent one must be at hand when one ends, or another would have the turn.
          prefetch: queue === names.urgentQueue(step.name) ? 2 * step.concurrency : step.concurrency,
          tag: `${step.name}@${options.place}`,
          // A volatile request may be done twice, and is worth nothing soon.
          lazy: queue === names.volatileQueue(step.name),
          ...(queue === names.volatileQueue(step.name) ? {} : { restored: () => void resurrect(step.name) }),
        },
        queue === names.volatileQueue(step.name) ? oneByOne(inTurn(queue)) : inTurn(queue),
      );
    if (mayBeUrgent) consumers.push(await consume(names.urgentQueue(step.name)));
    consumers.push(await consume(names.workQueue(step.name)));
    if (options.volatile.has(step.name)) consumers.push(await consume(names.volatileQueue(step.name)));
  }
  return {
    async stop(withinMs) {
      const cancelTimer = clock.after(withinMs, () => {
        stopping.abort(new Error('the process stops'));
        for (const { item: tried } of running.all()) tried.abort(new Error('the process stops'));
      });
      await Promise.all(consumers.map((consumer) => consumer.close()));
      cancelTimer();
      stopping.abort();
    },
  };
}

/** What one delivery becomes. Resolves: acknowledged. Rejects: given back (only when the process stops). */
function worker(options: RunnerOptions, running: Running, stopping: AbortSignal) {
  const { store, clock, names, control, emit, steps } = options;
  const { publish, send } = openDispatch(options, stopping);
  const apart = openSplitter(options);
  const common = commonTools(options);
  const deadlines = deadlineBuckets(clock);
  const patiently = patience(options, stopping);
  // Whoever starts under the same name, as a container does, is another one.
  const marks = openMarks(store, `${options.place}/${clock.now()}`);

  return async function work(step: Step, delivery: Delivery): Promise<void> {
    const envelope = decode(delivery);
    if (isUndecodable(envelope)) return bury(delivery, new Fault('invalid', `not a message for a step: ${envelope.undecodable}`), step);
    const about = { step: step.name, requestId: envelope.requestId, attempt: envelope.attempt };
    // An aggregator still hears the late parts of a group that is complete, to put them on record.
    const groups = step.gatherMs === undefined ? envelope.groups : envelope.groups.slice(1);
    if (control.isDropped({ requestId: envelope.requestId, groups })) return emit('step.dropped', about);
    // Whoever waits for the request writes the timeout; work that nobody may use any more is not begun.
    if (envelope.deadline <= clock.now()) {
      emit('step.expired', about);
      // For a one-way message nobody waits: it must not vanish.
      if (envelope.replyTo === undefined && envelope.durable && envelope.type !== 'event')
        await bury(delivery, new Fault('timeout', 'not done before its deadline'), step);
      return;
    }
    if (delivery.deliveries < suspectFrom) return serve(step, envelope, delivery);
    const mark = await patiently(() => marks.leave(envelope.id));
    const dies = `handed out ${delivery.deliveries} times and never finished: whoever takes it dies`;
    if (mark === undefined) return giveUp(step, envelope, delivery, new Error(dies));
    try {
      await serve(step, envelope, delivery);
    } finally {
      await marks.remove(mark);
    }
  };

  /** Runs the step on a message and sends what follows from it. */
  async function serve(step: Step, envelope: Envelope, delivery: Delivery): Promise<void> {
    const about = { step: step.name, requestId: envelope.requestId, attempt: envelope.attempt };
    const started = clock.now();
    let verdict: Verdict;
    try {
      failpoint('work.before-step');
      verdict = await patiently(() => attempt(step, envelope));
      failpoint('work.after-step');
    } catch (error) {
      if (stopping.aborted) throw error;
      return failed(step, envelope, delivery, error, clock.now() - started);
    }
    if (stopping.aborted && verdict.go === 'nowhere' && step.kind === 'worker') throw new Error('the process stops');
    if (verdict.go === 'nowhere') return emit('step.absorbed', { ...about, tookMs: clock.now() - started });
    const took = clock.now() - started;
    if (verdict.go === 'fault') {
      await patiently(() => refused(step, envelope, verdict, took));
      return patiently(verdict.afterwards);
    }
    const next =
      verdict.go === 'apart' ? await patiently(() => apart(step, envelope, verdict, took)) : [onwards(step, envelope, verdict, took)];
    // All at once, in their order: parts that wait for one another's confirms would take a trip to the broker each.
    await (next.length === 1 ? sent(next[0]!) : Promise.all(next.map(sent)));
    if (verdict.afterwards !== undefined) await patiently(verdict.afterwards);
    failpoint('work.before-ack');
    emit('step.done', { ...about, tookMs: clock.now() - started });
  }

  async function sent(one: Envelope): Promise<void> {
    await patiently(() => send(one));
    failpoint('work.between-messages');
  }

  /** Runs one attempt, with its time-out, its signal and its progress. */
  function attempt(step: Step, envelope: Envelope): Promise<Verdict> {
    const tried = new Attempt(envelope, () => void whereabouts(step, envelope).catch(() => undefined), running, deadlines);
    if (control.isWatched(envelope) && step.gatherMs === undefined) tried.report();
    return tried.within(Math.min(step.timeoutMs, envelope.deadline - clock.now()), () =>
      step.run!(envelope, new Tools(common, envelope, tried)),
    );
  }

  /** Tells the record where the request is: at this step, or, when this is one of several parts, who of them is silent. */
  async function whereabouts(step: Step, { requestId, attempt, groups: [group] }: Envelope): Promise<void> {
    const event = { name: 'step', data: { step: step.name, attempt } } as const;
    if (group === undefined)
      return void (await store.report(requestId, { state: 'running', step: step.name, attempt, waitingOn: null }, event));
    const { members, parts } = await store.group(group.id);
    const silent = members.filter((_, index) => !parts.some((part) => part.index === index));
    await store.report(requestId, { state: 'waiting', step: group.at, waitingOn: `parts: ${silent.join(', ')}` }, event);
  }

  /** The message that follows from a verdict. */
  function onwards(step: Step, envelope: Envelope, verdict: Extract<Verdict, { go: 'on' }>, took: number): Envelope {
    const { body, contentType, contentEncoding, slip, change } = verdict;
    for (const name of slip ?? []) if (!steps.has(name)) throw new Error(`step ${step.name} routes to unknown step ${name}`);
    const next = slip === undefined ? change : { slip: [...slip, ...mandatoryRest(envelope, slip)], ...change };
    return follow(envelope, { at: clock.now(), took, body, contentType, contentEncoding, ...next });
  }

  /** A part of a group may not route around the aggregator that waits for it. */
  function mandatoryRest(envelope: Envelope, slip: readonly string[]): readonly string[] {
    const at = envelope.groups[0]?.at;
    return at === undefined || slip.includes(at) ? [] : envelope.slip.slice(Math.max(0, envelope.slip.indexOf(at)));
  }

  async function failed(step: Step, envelope: Envelope, delivery: Delivery, error: unknown, took: number): Promise<void> {
    const about = { step: step.name, requestId: envelope.requestId, attempt: envelope.attempt, error: messageOf(error), tookMs: took };
    if (isFault(error)) {
      emit('step.fault', { ...about, code: error.code });
      if (error.code === 'cancelled' && control.isDropped(envelope)) return;
      return send(faultEnvelope(envelope, faultOf(error, step.name), clock.now(), took));
    }
    // Volatile requests are asked again by their requestor, if at all.
    const delay = envelope.durable ? step.retry[envelope.attempt - 1] : undefined;
    if (delay === undefined) return giveUp(step, envelope, delivery, error);
    emit('step.retry', { ...about, delay });
    const now = clock.now();
    // The same id: what follows from this step is the same message on whichever attempt, and effects outside can be keyed by it.
    const again = {
      ...envelope,
      attempt: envelope.attempt + 1,
      at: now,
      from: step.name,
      took,
      // A ring says what it is about.
      extra: {
        ...(envelope.type === 'event' ? envelope.extra : {}),
        ...errorHeaders(new Fault('internal', messageOf(error)), step.name, now),
      },
    };
    failpoint('retry.before-publish');
    await publish(retryAddress(names, step.name, delay, envelope), encode(again));
    failpoint('retry.after-publish');
    if (control.isWatched(envelope)) {
      const waitingOn = `retry ${again.attempt} of ${step.retry.length + 1} of ${step.name} in ${delay}`;
      const where =
        envelope.groups.length > 0 ? {} : ({ state: 'waiting', step: step.name, attempt: envelope.attempt, waitingOn } as const);
      await store
        .report(envelope.requestId, where, {
          name: 'step',
          data: { step: step.name, attempt: envelope.attempt, failed: true, retryIn: delay },
        })
        .catch(() => undefined);
    }
  }

  /** After the last attempt: the message goes to `hub.dead.<step>` for a person, `internal` to the requestor. */
  async function giveUp(step: Step, envelope: Envelope, delivery: Delivery, error: unknown): Promise<void> {
    emit('step.dead', { step: step.name, requestId: envelope.requestId, attempt: envelope.attempt, error: messageOf(error) });
    failpoint('dead.before-letter');
    if (envelope.durable) await bury(delivery, error, step, envelope);
    failpoint('dead.after-letter');
    await send(faultEnvelope(envelope, faultOf(error, step.name), clock.now()));
  }

  /** What a step found out after its delivery was acknowledged. */
  async function refused(step: Step, envelope: Envelope, verdict: Extract<Verdict, { go: 'fault' }>, took: number): Promise<void> {
    const { fault, dead, id } = verdict;
    const about = { step: step.name, requestId: envelope.requestId };
    if (dead === undefined) emit('step.fault', { ...about, code: fault.code });
    else {
      emit('step.dead', { ...about, error: fault.message });
      failpoint('dead.before-letter');
      await bury(dead, fault, step, envelope);
      failpoint('dead.after-letter');
    }
    await send({ ...faultEnvelope(envelope, faultOf(fault, step.name), clock.now(), took), id });
  }

  function bury(letter: Message & Partial<Delivery>, error: unknown, step: Step, way = { journal: true }): Promise<void> {
    const fault = isFault(error) ? error : new Fault('internal', messageOf(error));
    const {
      exchange: _exchange,
      routingKey: _key,
      redelivered: _again,
      deliveries: _count,
      expirationMs: _life,
      headers = {},
      ...message
    } = letter;
    return publish(deadAddress(names, step.name, way), {
      ...message,
      headers: {
        ...withoutBrokers(headers),
        ...errorHeaders(fault, step.name, clock.now()),
        'hub-origin-queue': names.workQueue(step.name),
      },
    });
  }
}

/** `x-death` and its like are the broker's notes about an earlier life; with them a message could count as a cycle. */
const withoutBrokers = (headers: Headers): Headers =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith('x-')));
