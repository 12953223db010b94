/**
 * A hub: what is put together from the ports so that requests enter, and answers find their way back. `openHub` is the
 * side that waits (gateway, replies, deadlines, foreign programs); `openWorkers` is the side that works. One process may
 * be both.
 */
import { setMaxListeners } from 'node:events';
import type { Access } from './access.js';
import { openAdmission } from './admission.js';
import { openAmend } from './amend.js';
import { correctsIn } from './amendable.js';
import { unpacked } from './batches.js';
import type { Callbacks } from './callback.js';
import { pause, systemClock, type Clock } from './clock.js';
import { openControl } from './control.js';
import { openDossiers } from './dossiers.js';
import { openCorrelator } from './correlator.js';
import { faultEnvelope, openDispatch } from './dispatch.js';
import type { Emit } from './emit.js';
import { openEntrance } from './entrance.js';
import { follow, newId as uuid } from './envelope.js';
import { failpoint } from './failpoint.js';
import { readFault } from './fault.js';
import { isJournalled, type Flow } from './flow.js';
import { openForward } from './forward.js';
import { openGateway, type Gateway } from './gateway.js';
import { freshMs, openJournal, type Journal } from './journal.js';
import type { Jobs } from './jobs.js';
import type { Later } from './later.js';
import { openLine } from './line.js';
import { openedKind } from './opened.js';
import { openPeople, type People, type User } from './people.js';
import { openQuestions } from './questions.js';
import { openResurrect } from './resurrect.js';
import { startRunner } from './runner.js';
import { openRebuild } from './rebuild.js';
import { openSettler } from './settle.js';
import type { Served, Step } from './step.js';
import type { Dossier, Store } from './store.js';
import { startSweeper } from './sweeper.js';
import { openTasks, type Tasks } from './tasks/tasks.js';
import { announcer } from './topics.js';
import { namesIn, topologyOf, type Names } from './topology.js';
import type { Delivery, Message, Transport } from './transport.js';
import { decode, isUndecodable, leavesJournalOut, outcomeOf } from './wire.js';

export interface Ports {
  readonly transport: Transport;
  readonly store: Store;
  readonly later: Later;
  readonly jobs: Jobs;
  readonly clock?: Clock;
  /** Makes the ids of requests. Default: UUIDv7. */
  readonly newId?: () => string;
}

export interface Project {
  readonly flows: readonly Flow[];
  readonly steps: readonly Step[];
}

export interface Common {
  readonly ports: Ports;
  readonly project: Project;
  readonly namespace: string;
  readonly emit: Emit;
  /** `<host>/<pid>`, shown in the RabbitMQ UI. */
  readonly place: string;
  /** How long the journal is kept, as RabbitMQ writes it: `7D`. */
  readonly journalMaxAge?: string;
}

export interface HubOptions extends Common {
  /** Stable name of this hub; its replies come to `hub.reply.<name>`. */
  readonly name: string;
  readonly access: Access;
  /** Who answers tasks. */
  readonly users?: readonly User[];
  /** Absent: nobody is called back. */
  readonly callbacks?: Callbacks;
  readonly maxInFlight?: number;
  /** How often it is made sure that nothing of ours was deleted. Default 30,000. */
  readonly checkTopologyMs?: number;
  /** How long requests may wait on this hub before new ones are refused (ms). Default 50. */
  readonly maxDelayMs?: number;
}

export interface Hub {
  readonly gateway: Gateway;
  readonly people: People;
  readonly tasks: Tasks;
  readonly journal: Journal;
  readonly names: Names;
  /** Aborts when the stop begins: for adapters. */
  readonly stopping: AbortSignal;
  /** How many requestors wait on the line. */
  holding(): number;
  /** First half of the stop: refuses what is new, turns holds into 202. Then close the adapters, then `close`. */
  letGo(): void;
  close(): Promise<void>;
}

const completeWithinMs = 2_000;

export async function openHub(options: HubOptions): Promise<Hub> {
  const { ports, project, emit, place, access } = options;
  const { transport, store } = ports;
  const clock = ports.clock ?? systemClock;
  const newId = ports.newId ?? uuid;
  const names = namesIn(options.namespace);
  if (names.reply(options.name) === names.late)
    throw new Error('a hub cannot be named "late": that is the queue of all hubs. Set HUB_NAME to another name');
  const steps = new Map(project.steps.map((step) => [step.name, step]));
  const topology = topologyOf({ names, flows: project.flows, steps, hub: options.name, journalMaxAge: options.journalMaxAge ?? '7D' });
  await transport.declare(topology);

  const stopping = new AbortController();
  setMaxListeners(0, stopping.signal); // each publish that waits for the broker listens
  const control = await openControl(transport, names);
  const journal = openJournal(transport, names, () => clock.now());
  const correlator = openCorrelator(clock);
  const leftOut = new Set(project.flows.filter((flow) => !isJournalled(flow)).map(({ name }) => name));
  const own = { [openedKind]: (dossier: Dossier) => gateway.lookAfterOpened(dossier) };
  const dossiers = openDossiers({ transport, store, journal, clock, names, emit, own, steps: project.steps });
  const parking = project.steps.some(({ parks }) => parks === true) ? dossiers : undefined;
  const forward = openForward({ transport, store, journal, names, leftOut, emit });
  const amend = openAmend({ store, journal, forward, emit });
  const settler = openSettler({
    store,
    journal,
    correlator,
    control,
    dossiers: parking,
    forward,
    leftOut,
    clock,
    emit,
    stopping: stopping.signal,
  });
  const rebuild = openRebuild({ store, journal, later: ports.later, clock, names, flows: project.flows, steps, emit, hub: options.name });
  const admission = openAdmission({ clock, maxDelayMs: options.maxDelayMs ?? 50 });
  const line = openLine({ store, clock, flows: project.flows, steps });
  const gateway = openGateway({
    flows: project.flows,
    steps,
    transport,
    store,
    journal,
    dossiers,
    control,
    correlator,
    settler,
    rebuild,
    questions: openQuestions({ store, dossiers }),
    admission,
    line,
    callbacks: options.callbacks,
    clock,
    newId,
    names,
    emit,
    hub: options.name,
    maxInFlight: options.maxInFlight ?? 20_000,
    stopping: stopping.signal,
  });
  const { send } = openDispatch({ transport, store, journal, control, clock, names, emit, steps }, stopping.signal);

  /** Whatever comes to our return address is the outcome of the request that it names. */
  async function replied(delivery: Delivery): Promise<void> {
    if (delivery.correlationId === undefined) return bury(delivery, 'a reply without correlation_id');
    const corrects = correctsIn(delivery);
    if (corrects !== undefined) {
      const { group, ...correction } = corrects;
      return amend(delivery.correlationId, group, { ...correction, outcome: outcomeOf(delivery, clock.now()) });
    }
    // By our own exchange it came to the journal, too. What has waited for long is told again: see `freshMs`; and what was given back,
    // since another reply may have overtaken it meanwhile, which a rebuild could not know.
    const isFirst = delivery.exchange === names.replies && !delivery.redelivered;
    const journalled = isFirst && clock.now() - (delivery.timestamp ?? 0) * 1_000 < freshMs;
    failpoint('reply.before-settle');
    await settler.settle(delivery.correlationId, outcomeOf(delivery, clock.now()), journalled, leavesJournalOut(delivery));
    failpoint('reply.before-ack');
  }

  /** Nobody but the requestor on the line can use it, and nothing of it is kept. */
  function repliedVolatile(delivery: Delivery): void {
    const { correlationId: requestId = '' } = delivery;
    const outcome = outcomeOf(delivery, clock.now());
    if (correlator.alone(requestId) === undefined) emit('request.settled', { requestId, kind: outcome.kind, settled: 'unknown' });
    else void settler.settle(requestId, outcome, true, true).catch(() => undefined);
  }

  /** A foreign worker in the middle of a slip has answered: the slip goes on. */
  async function continued(delivery: Delivery): Promise<void> {
    const parked = delivery.correlationId === undefined ? undefined : await store.parked(delivery.correlationId);
    if (parked === undefined)
      return bury(delivery, 'no request waits for this answer: the correlation_id must be that of the request, unchanged');
    const envelope = decode({ ...(JSON.parse(parked.toString('utf8')) as Omit<Message, 'body'>), body: Buffer.alloc(0) });
    if (isUndecodable(envelope)) return bury(delivery, envelope.undecodable);
    const { kind, body, contentType, contentEncoding } = outcomeOf(delivery, clock.now());
    failpoint('continue.before-publish');
    if (kind !== 'reply') return send(faultEnvelope(envelope, readFault(body), clock.now()));
    await send(follow(envelope, { at: clock.now(), body, contentType, contentEncoding }));
    failpoint('continue.after-publish');
  }

  async function bury({ body, headers: _headers, exchange, routingKey, ...delivery }: Delivery, why: string): Promise<void> {
    emit('hub.buried', { why, routingKey });
    const { contentType, messageId, correlationId } = delivery;
    const known = {
      ...(contentType === undefined ? {} : { contentType }),
      ...(messageId === undefined ? {} : { messageId }),
      ...(correlationId === undefined ? {} : { correlationId }),
    };
    await transport.publish(
      { exchange: names.dead, routingKey: 'unrouted' },
      {
        body,
        ...known,
        headers: { 'hub-error': why, 'hub-error-code': 'invalid', 'hub-origin-queue': routingKey, 'hub-origin-exchange': exchange },
      },
    );
  }

  async function remembered(delivery: Delivery): Promise<void> {
    const at = delivery.headers['hub-at'];
    const { body, contentType } = delivery;
    await store.remember(
      delivery.routingKey,
      { body, ...(contentType === undefined ? {} : { contentType }) },
      typeof at === 'number' ? at : clock.now(),
    );
  }

  const people = openPeople({ users: options.users ?? [], store, clock });
  const tasks = await openTasks({ store, dossiers, people, clock, emit, line, announce: announcer({ transport, names, clock }) });
  const unwatch = await store.watch((id) => correlator.wake(id));
  const tag = (what: string) => `${what}@${place}`;
  const consumers = [
    await transport.consume(
      names.reply(options.name),
      { prefetch: 2_000, tag: tag(`hub.${options.name}`), exclusive: true, lazy: true },
      replied,
    ),
    await transport.consume(names.late, { prefetch: 200, tag: tag('late') }, (delivery) => replied({ ...delivery, exchange: names.late })),
    await transport.consume(names.continuation, { prefetch: 200, tag: tag('continue') }, continued),
    await transport.consume(names.lastEvents, { prefetch: 200, tag: tag('last-events') }, remembered),
    ...(project.flows.some(({ durable }) => !durable)
      ? [
          await transport.subscribe(names.volatileReplies, [names.reply(options.name)], (delivery) =>
            unpacked(delivery).forEach(repliedVolatile),
          ),
        ]
      : []),
    await openEntrance({ transport, gateway, people, tasks, access, names, clock, newId, emit, place }),
  ];
  const keeping = parking ?? (project.flows.some(({ parts }) => parts !== undefined) ? dossiers : undefined);
  const sweeper = startSweeper({ transport, store, settler, dossiers: keeping, journal, leftOut, rebuild, clock, emit, hub: options.name });
  // A new state is complete at once. One that must be rebuilt takes longer: meanwhile the hub says so to whoever asks.
  const patience = new AbortController();
  await Promise.race([sweeper.complete, pause(clock, completeWithinMs, patience.signal)]);
  patience.abort();
  const resurrect = openResurrect({ transport, store, journal, clock, names, emit, flows: project.flows, place }, stopping.signal);
  // A queue that somebody deletes while nobody consumes it is missed by nobody else.
  const declared = new Set(topology.queues.map(({ name }) => name));
  const lookAfterTopology = async () => {
    const gone: string[] = [];
    const queuesOf = (name: string) => [names.workQueue(name), names.urgentQueue(name)].filter((queue) => declared.has(queue));
    for (const { name } of steps.values())
      for (const queue of queuesOf(name)) if ((await transport.inspect(queue)) === undefined && !gone.includes(name)) gone.push(name);
    await transport.declare(topology);
    for (const step of gone) void resurrect(step);
  };
  const again = () => {
    if (transport.state() === 'connected')
      void lookAfterTopology().catch((error: unknown) => emit('topology.failed', { error: String(error) }));
    cancelCheck = clock.after(options.checkTopologyMs ?? 30_000, again, 'round');
  };
  let cancelCheck = clock.after(options.checkTopologyMs ?? 30_000, again, 'round');

  return {
    gateway,
    people,
    tasks,
    journal,
    names,
    stopping: stopping.signal,
    holding: () => correlator.size,
    letGo() {
      stopping.abort();
      correlator.letGo();
    },
    async close() {
      stopping.abort();
      correlator.letGo();
      cancelCheck();
      admission.close();
      await sweeper.close();
      await Promise.all(consumers.map((consumer) => consumer.close()));
      await control.close();
      await tasks.close();
      await unwatch();
    },
  };
}

export interface WorkersOptions extends Common {
  /** Names of the steps that this process serves. Default: all. */
  readonly only?: readonly string[];
}

export interface Workers {
  /** Takes no more, ends what runs; aborts it after `withinMs`. */
  stop(withinMs: number): Promise<void>;
}

export async function openWorkers({ ports, project, namespace, emit, place, only, journalMaxAge }: WorkersOptions): Promise<Workers> {
  const { transport, store, later, jobs } = ports;
  const clock = ports.clock ?? systemClock;
  const names = namesIn(namespace);
  const steps = new Map(project.steps.map((step) => [step.name, step]));
  await transport.declare(topologyOf({ names, flows: project.flows, steps, journalMaxAge: journalMaxAge ?? '7D' }));
  const control = await openControl(transport, names);
  const journal = openJournal(transport, names, () => clock.now());
  await later.start();
  const volatile = new Set(project.flows.filter((flow) => !flow.durable).flatMap((flow) => flow.steps));
  const serve = project.steps.filter(({ name }) => only === undefined || only.includes(name));
  const dossiers = openDossiers({ transport, store, journal, clock, names, emit, steps: project.steps });
  const runner = await startRunner({
    flows: project.flows,
    transport,
    store,
    later,
    jobs,
    clock,
    names,
    journal,
    control,
    dossiers,
    emit,
    steps,
    serve,
    volatile,
    place,
  });
  const served: Served[] = [];
  for (const step of serve) {
    const one = await step.serve?.({ store, jobs, dossiers, clock, control, emit, place });
    if (one !== undefined) served.push(one);
  }
  return {
    async stop(withinMs) {
      await Promise.all([runner, ...served].map((one) => one.stop(withinMs)));
      await control.close();
      for (const step of serve) await step.close?.();
    },
  };
}
