/**
 * Every name in RabbitMQ, and what is declared there. Sorted, the RabbitMQ queues page reads as the hub's own status
 * page. The first word is the namespace, so that tests and two hubs on one broker live side by side.
 */
import type { Envelope } from './envelope.js';
import { isJournalled, type Flow } from './flow.js';
import { pauseMs, type Step } from './step.js';
import type { Address, Binding, Exchange, Queue, Topology } from './transport.js';

const urgentKey = (step: string): string => `${step}.urgent`;
/** Is this the routing key of a step's work, urgent or not? */
export const isKeyOf = (step: string, routingKey: string): boolean => routingKey === step || routingKey === urgentKey(step);

export type Names = ReturnType<typeof namesIn>;

/** The names within a namespace (`hub` in production). */
export function namesIn(namespace: string) {
  const name = (...words: string[]) => [namespace, ...words].join('.');
  return {
    namespace,
    /** Entrance of foreign requestors: exchange and queue. */
    requests: name('requests'),
    unrouted: name('unrouted'),
    work: name('work'),
    workQueue: (step: string) => name('work', step),
    /** What is urgent at a step. Its routing key in `work` is the same without the namespace and `work`. */
    urgentQueue: (step: string) => name('work', urgentKey(step)),
    journal: name('journal'),
    replies: name('replies'),
    /** Return address of a hub; also its routing key in `replies`. */
    reply: (hub: string) => name('reply', hub),
    late: name('reply', 'late'),
    /** Exchange of replies that no hub's own queue takes. */
    lateReplies: name('replies', 'late'),
    /** Answers of foreign workers in the middle of a slip. */
    continuation: name('continue'),
    retry: (delay: string) => name('retry', delay),
    /** Retries of flows that leave the journal out. */
    plainRetry: (delay: string) => name('retry', delay, 'plain'),
    dead: name('dead'),
    deadQueue: (step: string) => name('dead', step),
    events: name('events'),
    lastEvents: name('events', 'last'),
    control: name('control'),
    volatile: name('volatile'),
    /** Exchange of replies in volatile flows, to the private queue of the hub that waits. */
    volatileReplies: name('replies', 'volatile'),
    volatileQueue: (step: string) => name('volatile', step),
  };
}

export interface TopologyInput {
  readonly names: Names;
  readonly flows: readonly Flow[];
  readonly steps: ReadonlyMap<string, Step>;
  /** Absent in a process that only works. */
  readonly hub?: string;
  readonly journalMaxAge: string;
}

/** How long a reply waits for its hub before any other hub may take it. */
const replyTtlMs = 10_000;

export function topologyOf({ names, flows, steps, hub, journalMaxAge }: TopologyInput): Topology {
  const exchanges: Exchange[] = [
    { name: names.unrouted, type: 'fanout' },
    { name: names.requests, type: 'topic', alternate: names.unrouted },
    { name: names.work, type: 'direct' },
    { name: names.lateReplies, type: 'fanout' },
    { name: names.replies, type: 'direct', alternate: names.lateReplies },
    { name: names.dead, type: 'direct' },
    { name: names.events, type: 'topic' },
    { name: names.control, type: 'fanout' },
  ];
  const queues: Queue[] = [
    {
      name: names.journal,
      type: 'stream',
      about: 'Everything that happened, kept for a while. Read it with: answerback trace <id>',
      maxAge: journalMaxAge,
    },
    { name: names.requests, type: 'quorum', about: 'Requests of foreign programs that no hub has taken yet' },
    { name: names.late, type: 'quorum', about: 'Replies whose hub is away. Any hub stores them' },
    { name: names.continuation, type: 'quorum', about: 'Answers of foreign workers; the hub goes on with the slip' },
    {
      name: names.deadQueue('unrouted'),
      type: 'quorum',
      about: 'Messages that no flow or step was found for. Ready > 0: a person must decide',
    },
    { name: names.lastEvents, type: 'quorum', about: 'Events on their way to "last value of a topic"', singleActive: true },
  ];
  const bindings: Binding[] = [
    { exchange: names.unrouted, queue: names.deadQueue('unrouted'), routingKey: '' },
    { exchange: names.requests, queue: names.requests, routingKey: '#' },
    { exchange: names.lateReplies, queue: names.late, routingKey: '' },
    { exchange: names.dead, queue: names.deadQueue('unrouted'), routingKey: 'unrouted' },
    { exchange: names.events, queue: names.lastEvents, routingKey: '#' },
    { exchange: names.events, queue: names.journal, routingKey: '#' },
  ];

  for (const step of steps.values()) {
    queues.push(
      {
        name: names.workQueue(step.name),
        type: 'quorum',
        about: `${step.summary}. Ready: waits. Unacked: is being done`,
        deadLetter: { exchange: names.dead, routingKey: step.name },
      },
      {
        name: names.deadQueue(step.name),
        type: 'quorum',
        about: `Gave up at ${step.name}, the reason is in the headers. Ready > 0: a person must decide`,
      },
    );
    bindings.push(
      { exchange: names.work, queue: names.workQueue(step.name), routingKey: step.name },
      { exchange: names.work, queue: names.journal, routingKey: step.name },
      { exchange: names.dead, queue: names.deadQueue(step.name), routingKey: step.name },
      { exchange: names.dead, queue: names.journal, routingKey: step.name },
    );
  }
  // As soon as any flow may be urgent, all steps may: a step may route to any other. A foreign program has one queue for all.
  for (const step of flows.some(({ urgent }) => urgent === true) ? steps.values() : []) {
    const isOurs = step.run !== undefined;
    if (isOurs)
      queues.push({
        name: names.urgentQueue(step.name),
        type: 'quorum',
        about: `${step.summary}: those that are urgent, taken first`,
        deadLetter: { exchange: names.dead, routingKey: step.name },
      });
    const queue = isOurs ? names.urgentQueue(step.name) : names.workQueue(step.name);
    for (const to of [queue, names.journal]) bindings.push({ exchange: names.work, queue: to, routingKey: urgentKey(step.name) });
  }
  const delays = new Set([...steps.values()].flatMap((step) => step.retry));
  for (const delay of delays) {
    exchanges.push({ name: names.retry(delay), type: 'fanout' });
    queues.push({
      name: names.retry(delay),
      type: 'quorum',
      about: `Failed, will be tried again after ${delay}`,
      ttlMs: pauseMs(delay),
      deadLetter: { exchange: names.work },
    });
    bindings.push(
      { exchange: names.retry(delay), queue: names.retry(delay), routingKey: '' },
      { exchange: names.retry(delay), queue: names.journal, routingKey: '' },
    );
  }
  // All steps, since a step may route to any other.
  const retriesPlainly = flows.some((flow) => flow.durable && !isJournalled(flow));
  for (const delay of retriesPlainly ? delays : []) {
    exchanges.push({ name: names.plainRetry(delay), type: 'fanout' });
    queues.push({
      name: names.plainRetry(delay),
      type: 'quorum',
      about: `Failed, will be tried again after ${delay}. Not in the journal`,
      ttlMs: pauseMs(delay),
      // The routing key is the name of the work queue.
      deadLetter: { exchange: '' },
    });
    bindings.push({ exchange: names.plainRetry(delay), queue: names.plainRetry(delay), routingKey: '' });
  }
  const volatileSteps = new Set(flows.filter((flow) => !flow.durable).flatMap((flow) => flow.steps));
  if (volatileSteps.size > 0) exchanges.push({ name: names.volatile, type: 'direct' }, { name: names.volatileReplies, type: 'direct' });
  for (const step of volatileSteps) {
    queues.push({ name: names.volatileQueue(step), type: 'classic', about: `Volatile requests for ${step}: fast, not kept` });
    bindings.push({ exchange: names.volatile, queue: names.volatileQueue(step), routingKey: step });
  }
  if (hub !== undefined) {
    queues.push({
      name: names.reply(hub),
      type: 'quorum',
      about: `Replies on their way to hub ${hub}`,
      ttlMs: replyTtlMs,
      deadLetter: { exchange: names.lateReplies },
    });
    bindings.push(
      { exchange: names.replies, queue: names.reply(hub), routingKey: names.reply(hub) },
      { exchange: names.replies, queue: names.journal, routingKey: names.reply(hub) },
    );
  }
  return { exchanges, queues, bindings };
}

/** What decides by which exchange a message goes: see `Envelope`. */
type Way = Pick<Envelope, 'durable' | 'journal' | 'urgent'>;

const keyOf = (step: string, { urgent }: Pick<Way, 'urgent'>): string => (urgent === true ? urgentKey(step) : step);

/** Where a message for a step is published: the stream of the journal is bound beside the queue, unless it is left out. */
export function workAddress(names: Names, step: string, way: Way): Address {
  const { durable, journal } = way;
  if (!durable) return { exchange: names.volatile, routingKey: step };
  return journal ? { exchange: names.work, routingKey: keyOf(step, way) } : { exchange: '', routingKey: names.workQueue(step) };
}

/** Where an outcome is published: our own return addresses through `hub.replies` (and so the journal), others directly. */
export function replyAddress(names: Names, replyTo: string, { durable, journal }: Way): Address {
  if (!isReturnAddress(names, replyTo)) return { exchange: '', routingKey: replyTo };
  // A quorum queue writes transient messages to disk, too; a volatile reply is worth nothing once its hub is gone.
  if (!durable) return { exchange: names.volatileReplies, routingKey: replyTo };
  return { exchange: journal ? names.replies : '', routingKey: replyTo };
}

/** Is it the reply queue of a hub? */
export const isReturnAddress = (names: Names, queue: string): boolean => queue.startsWith(`${names.namespace}.reply.`);

export const isWorkQueue = (names: Names, queue: string): boolean => queue.startsWith(`${names.work}.`);

/** Where a failed message waits for its next attempt. */
export const retryAddress = (names: Names, step: string, delay: string, way: Way): Address =>
  way.journal
    ? { exchange: names.retry(delay), routingKey: keyOf(step, way) }
    : { exchange: names.plainRetry(delay), routingKey: names.workQueue(step) };

/** Where a message goes that a person must look at. */
export const deadAddress = (names: Names, step: string, { journal }: Pick<Way, 'journal'>): Address =>
  journal ? { exchange: names.dead, routingKey: step } : { exchange: '', routingKey: names.deadQueue(step) };
