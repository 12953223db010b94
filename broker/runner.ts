/**
 * Serves steps: takes a message from the step's queue, runs the step, turns the verdict into messages. The order is always
 * effect, publish, confirm, acknowledge, so that whoever dies in between only makes it happen again, under the same ids.
 */
import { setMaxListeners } from 'node:events';
import { deadlineBuckets, pause, type Clock } from './clock.js';
import type { Control } from './control.js';
import { faultEnvelope, openDispatch } from './dispatch.js';
import type { Dossiers } from './dossiers.js';
import type { Emit } from './emit.js';
import { deriveId, follow, ringFor, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import { Fault, isFault, messageOf } from './fault.js';
import type { Flow } from './flow.js';
import { freshMs, type Journal } from './journal.js';
import type { Later } from './later.js';
import { openResurrect } from './resurrect.js';
import { written, type SplitPart, type Step, type StepTools, type Verdict } from './step.js';
import { StoreError, type Progress, type Store } from './store.js';
import { announcer } from './topics.js';
import { deadAddress, retryAddress, workAddress, type Names } from './topology.js';
import { PublishError, type Consumer, type Delivery, type Headers, type Transport } from './transport.js';
import { decode, encode, errorHeaders, faultOf, isUndecodable } from './wire.js';

export interface RunnerOptions {
  readonly flows: readonly Flow[];
  readonly transport: Transport;
  readonly store: Store;
  readonly later: Later;
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

/** How soon a store that was away is asked again. */
const storeAgainMs = 500;
/** How often a message may be handed out without ever being finished: whoever takes it dies of it. */
const deliveryLimit = 5;

export async function startRunner(options: RunnerOptions): Promise<Runner> {
  const { transport, names, control, clock } = options;
  const stopping = new AbortController();
  setMaxListeners(0, stopping.signal); // each publish that waits for the broker listens
  const running: Running = new Map();
  control.listen((what, id) => {
    for (const { envelope, abort, report } of running.values()) {
      const meant = envelope.requestId === id || envelope.groups.some((group) => group.id === id);
      if (what === 'drop' && meant) abort(new Fault('cancelled', 'the request was cancelled'));
      if (what === 'watch' && envelope.requestId === id) report();
    }
  });
  const work = worker(options, running, stopping.signal);
  const resurrect = openResurrect(options, stopping.signal);
  const consumers: Consumer[] = [];
  for (const step of options.serve.filter(({ run }) => run !== undefined)) {
    const consume = (queue: string) =>
      transport.consume(
        queue,
        {
          prefetch: step.concurrency,
          tag: `${step.name}@${options.place}`,
          ...(queue === names.workQueue(step.name) ? { restored: () => void resurrect(step.name) } : {}),
        },
        (delivery) => work(step, delivery),
      );
    consumers.push(await consume(names.workQueue(step.name)));
    if (options.volatile.has(step.name)) consumers.push(await consume(names.volatileQueue(step.name)));
  }
  return {
    async stop(withinMs) {
      const cancelTimer = clock.after(withinMs, () => {
        stopping.abort(new Error('the process stops'));
        for (const { abort } of running.values()) abort(new Error('the process stops'));
      });
      await Promise.all(consumers.map((consumer) => consumer.close()));
      cancelTimer();
      stopping.abort();
    },
  };
}

type Running = Map<string, { envelope: Envelope; abort: (why: Error) => void; report: () => void }>;

/** What one delivery becomes. Resolves: acknowledged. Rejects: given back (only when the process stops). */
function worker(options: RunnerOptions, running: Running, stopping: AbortSignal) {
  const { store, clock, names, control, emit, steps, journal } = options;
  const { publish, send } = openDispatch(options, stopping);
  const announce = announcer(options);
  const deadlines = deadlineBuckets(clock);
  const parks = [...steps.values()].some((step) => step.parks === true);

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
    if (delivery.deliveries >= deliveryLimit)
      return giveUp(
        step,
        envelope,
        delivery,
        new Error(`handed out ${delivery.deliveries} times and never finished: whoever takes it dies`),
      );

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
    const next =
      verdict.go === 'apart'
        ? await patiently(() => apart(step, envelope, verdict.parts, verdict.into, took))
        : [onwards(step, envelope, verdict, took)];
    // All at once, in their order: parts that wait for one another's confirms would take a trip to the broker each.
    await Promise.all(
      next.map(async (one) => {
        await patiently(() => send(one));
        failpoint('work.between-messages');
      }),
    );
    if (verdict.afterwards !== undefined) await patiently(verdict.afterwards);
    failpoint('work.before-ack');
    emit('step.done', { ...about, tookMs: clock.now() - started });
  };

  /** A store that is away or is rebuilt, a broker that takes no note, cost no attempt and no delivery: their turn comes. Everything here may run twice. */
  async function patiently<T>(run: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await run();
      } catch (error) {
        if (!(error instanceof StoreError || error instanceof PublishError) || stopping.aborted) throw error;
        emit('step.waits', { why: error.message });
        await pause(clock, storeAgainMs, stopping);
      }
    }
  }

  /** Runs one attempt, with its time-out, its signal and its progress. */
  async function attempt(step: Step, envelope: Envelope): Promise<Verdict> {
    let abort: (why: Error) => void = () => undefined;
    let aborted: Error | undefined;
    // Made when a handler looks at its signal, which few do: with a timer, it was a tenth of a worker's time.
    let controller: AbortController | undefined;
    const signal = () => {
      controller ??= new AbortController();
      if (aborted !== undefined) controller.abort(aborted);
      return controller.signal;
    };
    const report = () => void whereabouts(step, envelope).catch(() => undefined);
    if (control.isWatched(envelope) && step.gatherMs === undefined) report();
    const left = Math.min(step.timeoutMs, envelope.deadline - clock.now());
    const late = { end: () => abort(new Error(`no result within ${left} ms`)) };
    const bucket = deadlines.add(left, late);
    try {
      return await new Promise<Verdict>((resolve, reject) => {
        abort = (why) => {
          aborted ??= why;
          controller?.abort(aborted);
          reject(aborted);
        };
        running.set(envelope.id, { envelope, abort, report });
        step.run!(envelope, toolsFor(envelope, signal)).then(resolve, reject);
      });
    } finally {
      deadlines.remove(bucket, late);
      running.delete(envelope.id);
    }
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

  function toolsFor(envelope: Envelope, signal: () => AbortSignal): StepTools {
    return {
      get signal() {
        return signal();
      },
      store,
      later: options.later,
      dossiers: options.dossiers,
      announce,
      clock,
      answers: [],
      kept: undefined,
      remainingMs: () => Math.max(0, envelope.deadline - clock.now()),
      addressOf: (name) => workAddress(names, name, envelope),
      drop: async (id) => {
        await control.drop(id);
        if (parks) await options.dossiers.withdraw(id, 'others have answered, and that was enough');
      },
      absorbed: async (part) => {
        if (part.journal && clock.now() - part.at > freshMs) await journal.note('part', part.requestId, encode(part), encode(part).headers);
      },
      late: async (late) => {
        if (late.journal) await journal.note('late', late.requestId, { messageId: late.id }, { 'hub-late-from': late.from ?? '' });
      },
      report: (id, what, event) => (control.isWatched(envelope) ? store.report(id, what, event) : Promise.resolve(false)),
      progress: throttled(clock, (progress) => {
        if (!control.isWatched(envelope)) return;
        const event =
          progress.sequence === undefined
            ? { name: 'progress' as const, data: { ...progress } }
            : { name: 'part' as const, data: { sequence: progress.sequence, part: progress.part } };
        const { part: _part, sequence: _sequence, ...shown } = progress;
        void store.report(envelope.requestId, { progress: shown }, event).catch(() => undefined);
      }),
    };
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

  async function apart(
    step: Step,
    envelope: Envelope,
    parts: readonly SplitPart[],
    into: string | undefined,
    took: number,
  ): Promise<readonly Envelope[]> {
    const rest = envelope.slip.slice(1);
    const at = into ?? rest.find((name) => steps.get(name)?.gatherMs !== undefined);
    const gatherMs = at === undefined || !rest.includes(at) ? undefined : steps.get(at)?.gatherMs;
    if (at === undefined || gatherMs === undefined)
      throw new Error(`step ${step.name} splits and no aggregator follows it in flow ${envelope.flow}`);
    const unknown = parts.flatMap((part) => part.steps ?? []).find((name) => !steps.has(name));
    if (unknown !== undefined) throw new Error(`step ${step.name} splits to unknown step ${unknown}`);

    const id = deriveId(envelope.id, 'group');
    const now = clock.now();
    const deadline = now + Math.min(gatherMs, (envelope.deadline - now) * 0.9);
    failpoint('split.before-group');
    await store.openGroup({
      id,
      requestId: envelope.requestId,
      members: parts.map(nameOf),
      deadline,
    });
    failpoint('split.after-group');
    const member = (index: number) => [
      { id, index, size: parts.length, at, deadline, name: nameOf(parts[index], index) },
      ...envelope.groups,
    ];
    const onwards = rest.slice(rest.indexOf(at));
    const bell = ringFor(envelope, member(0), onwards, parts.length === 0 ? 'all' : 'deadline', deadline);
    if (parts.length === 0) return [bell];
    await options.later.schedule({ id: `${id}-deadline`, at: deadline, to: workAddress(names, at, envelope), message: encode(bell) });
    failpoint('split.after-appointment');
    void (
      control.isWatched(envelope) &&
      store.report(envelope.requestId, { state: 'waiting', step: at, waitingOn: `parts: 0 of ${parts.length}` }).catch(() => undefined)
    );
    return parts.map((part, index) =>
      follow(
        envelope,
        {
          at: now,
          took,
          contentEncoding: undefined,
          ...written(part.body),
          groups: member(index),
          slip: [...(part.steps ?? []), ...rest],
          type: 'request',
        },
        index,
      ),
    );
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

  function bury(delivery: Delivery, error: unknown, step: Step, way = { journal: true }): Promise<void> {
    const fault = isFault(error) ? error : new Fault('internal', messageOf(error));
    const {
      exchange: _exchange,
      routingKey: _key,
      redelivered: _again,
      deliveries: _count,
      expirationMs: _life,
      headers,
      ...message
    } = delivery;
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

/** What a part is called in the manifest. */
const nameOf = (part: SplitPart | undefined, index: number): string => part?.name ?? part?.steps?.[0] ?? String(index);

/** `x-death` and its like are the broker's notes about an earlier life; with them a message could count as a cycle. */
const withoutBrokers = (headers: Headers): Headers =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith('x-')));

/** At most 4 a second; parts always. */
function throttled(clock: Clock, report: (progress: Progress) => void): (progress: Progress) => void {
  let last = -Infinity;
  return (progress) => {
    if (progress.sequence === undefined && progress.percent !== 100 && clock.now() - last < 250) return;
    last = clock.now();
    report(progress);
  };
}
