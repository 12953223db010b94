/**
 * The door that every inbound adapter uses (EIP: Messaging Gateway). An adapter hands in an `Ask` and gets an `Answer`:
 * the outcome, or "accepted, answer later". What those look like on the adapter's protocol is the adapter's business.
 */
import { createHash } from 'node:crypto';
import { mayUse, type Principal } from './access.js';
import { pause, type Clock } from './clock.js';
import type { Control } from './control.js';
import type { Correlator, Wait } from './correlator.js';
import { messageFor } from './dispatch.js';
import type { Emit } from './emit.js';
import { newId, type Envelope } from './envelope.js';
import { Fault, isFault, messageOf } from './fault.js';
import { didYouMean, type Flow } from './flow.js';
import type { Journal } from './journal.js';
import { validator } from './schema.js';
import { outcomeOfFault, type Settler } from './settle.js';
import type { Step } from './step.js';
import type { Claim, ForwardAddress, NewRecord, Outcome, Progress, RequestEvent, RequestRecord, RequestState, Store } from './store.js';
import { workAddress, type Names } from './topology.js';
import { PublishError, type Message, type Transport } from './transport.js';
import { encode } from './wire.js';

/** A request as it comes in. Rejections are Faults: nothing happened, unless its reason is `unknown`. */
export interface Ask {
  readonly flow: string;
  readonly principal: Principal;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
  /** How long the requestor stays on the line (ms). Default and maximum: the flow's. 0: answer `accepted` at once. */
  readonly waitMs?: number;
  /** How long the request may live (ms). Default and maximum: the flow's. */
  readonly deadlineMs?: number;
  /** Same key, principal and flow: the same request. With another body: fault `invalid`, reason `idempotency-mismatch`. */
  readonly idempotencyKey?: string;
  /** Business key to find the request by. */
  readonly key?: string;
  /** The outcome is sent there as well, whenever it comes (foreign AMQP requestors). */
  readonly forward?: ForwardAddress;
  /** Ask for this id (adapters that can derive it from the foreign message, so that a redelivery is the same request). */
  readonly requestId?: string;
  /** The adapter knows that it asked this before and may have died before the broker had it: publish again if that is not known. */
  readonly again?: boolean;
  readonly traceparent?: string;
  readonly tracestate?: string;
  readonly priority?: number;
  /** Aborts when the requestor hangs up: it is no longer held, and the request goes on. */
  readonly signal?: AbortSignal;
}

export type Answer =
  | { readonly kind: 'outcome'; readonly id: string; readonly outcome: Outcome; readonly heldMs: number; /** Answered from an earlier request of the same key. */ readonly replayed: boolean }
  | { readonly kind: 'accepted'; readonly id: string; readonly status: Status; readonly heldMs: number; readonly replayed: boolean };

/** What a requestor may know of its request. */
export interface Status {
  readonly id: string;
  readonly flow: string;
  readonly state: RequestState;
  readonly key?: string;
  readonly step?: string;
  readonly attempt?: number;
  readonly waitingOn?: string;
  readonly progress?: Progress;
  readonly acceptedAt: number;
  readonly updatedAt: number;
  readonly deadline: number;
  /** When it got its outcome. */
  readonly endedAt?: number;
}

export interface OneWay {
  readonly flow: string;
  readonly principal: Principal;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
  readonly idempotencyKey?: string;
  readonly key?: string;
  readonly deadlineMs?: number;
  readonly requestId?: string;
  readonly traceparent?: string;
  readonly tracestate?: string;
}

export interface TopicMessage {
  readonly topic: string;
  readonly body: Buffer;
  readonly contentType: string;
  /** When it was published, ms since 1970. */
  readonly at: number;
}

export interface Gateway {
  /** Every flow, for documents and for adapters that make something of each (SOAP operations, folders). */
  readonly flows: readonly Flow[];
  /** Sends a request and holds the line. Also throws a Fault for an unknown flow, a wrong body, a missing permission. */
  request(ask: Ask): Promise<Answer>;
  /** One-way: resolves with the id once the broker has confirmed it. */
  send(message: OneWay): Promise<string>;
  /** Where a request is. Undefined when there is none, when it is forgotten, or when it is somebody else's. */
  status(id: string, principal: Principal): Promise<Status | undefined>;
  /** The outcome, waiting up to `waitMs` for it; `accepted` when it is not there yet; undefined as with `status`. */
  collect(id: string, principal: Principal, waitMs: number, signal?: AbortSignal): Promise<Answer | undefined>;
  /**
   * Calls `listener` for each event after `sequence`, first those that were, then those that come, in order, until the
   * `outcome` event (then resolves), or `signal` aborts. Resolves `false` when there is no such request.
   */
  events(id: string, principal: Principal, sequence: number, listener: (event: RequestEvent) => void, signal: AbortSignal): Promise<boolean>;
  /** `cancelled`; `ended` when it has an outcome already; undefined as with `status`. */
  cancel(id: string, principal: Principal): Promise<'cancelled' | 'ended' | undefined>;
  /** Publishes an event; resolves once the broker has confirmed it. Listeners or not. */
  publish(topic: string, principal: Principal, message: { readonly body: Buffer; readonly contentType: string }): Promise<void>;
  /** Calls `listener` for each event that matches (`*` one word, `#` any number) from now on. Returns how to stop. */
  subscribe(pattern: string, principal: Principal, listener: (message: TopicMessage) => void): Promise<() => Promise<void>>;
  last(topic: string, principal: Principal): Promise<TopicMessage | undefined>;
  /** Ready to take requests; when not, why. */
  ready(): Promise<{ readonly ready: boolean; readonly checks: Readonly<Record<string, string>> }>;
}

export interface GatewayOptions {
  readonly flows: readonly Flow[];
  readonly steps: ReadonlyMap<string, Step>;
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly control: Control;
  readonly correlator: Correlator;
  readonly settler: Settler;
  readonly clock: Clock;
  readonly names: Names;
  readonly emit: Emit;
  /** This hub's name: its return address is `hub.reply.<hub>`. */
  readonly hub: string;
  /** Requests that this hub holds or publishes at once; more are refused. */
  readonly maxInFlight: number;
  /** Aborts when the hub begins to stop. */
  readonly stopping: AbortSignal;
}

/** A publish that is not known to have reached the broker may be repeated after this long. */
const unpublishedMs = 6_000;
const lookAgainMs = 2_000;

export function openGateway(options: GatewayOptions): Gateway {
  const { flows, store, correlator, settler, clock, names, control, transport, journal, emit, stopping } = options;
  const byName = new Map(flows.map((flow) => [flow.name, flow]));
  const validate = validator(flows);
  let inFlight = 0;

  /** Runs while counted as in flight, unless this hub has too much to do or stops. */
  async function admitted<T>(run: () => Promise<T>): Promise<T> {
    if (stopping.aborted) throw new Fault('unavailable', 'this hub is stopping: ask again, another hub or this one will answer soon', { reason: 'stopping', retryAfterMs: 2_000 });
    if (inFlight >= options.maxInFlight) throw new Fault('unavailable', `this hub has ${options.maxInFlight} requests in flight, its limit`, { reason: 'busy', retryAfterMs: 1_000 + Math.round(Math.random() * 2_000) });
    inFlight++;
    try {
      return await run();
    } finally {
      inFlight--;
    }
  }

  /** The flow, if this principal may use it and the body fits. */
  function checked(ask: Ask | OneWay): Flow {
    const flow = byName.get(ask.flow);
    if (flow === undefined) throw new Fault('invalid', `there is no flow "${ask.flow.slice(0, 100)}"${didYouMean(ask.flow.slice(0, 100), flows.filter(({ name }) => mayUse(ask.principal, 'flows', name)).map(({ name }) => name))}`, { reason: 'unknown-flow' });
    if (!mayUse(ask.principal, 'flows', flow.name)) throw new Fault('forbidden', `${ask.principal.name} may not use flow ${flow.name}`);
    validate(flow, ask);
    return flow;
  }

  function envelopeOf(ask: Ask | OneWay, flow: Flow, id: string, deadline: number, recorded: boolean, replyTo: string | undefined): Envelope {
    const optional = { contentEncoding: ask.contentEncoding, key: ask.key, traceparent: ask.traceparent, tracestate: ask.tracestate, priority: 'priority' in ask ? ask.priority : undefined, replyTo };
    return {
      id,
      requestId: id,
      type: 'request',
      flow: flow.name,
      slip: flow.steps,
      step: 1,
      attempt: 1,
      deadline,
      groups: [],
      principal: ask.principal.name,
      durable: flow.durable,
      recorded,
      at: clock.now(),
      body: ask.body,
      contentType: ask.contentType,
      ...(Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)) as Partial<Envelope>),
    };
  }

  /** Hands a request to the broker, once. The Fault says whether it may have arrived all the same. */
  async function enter(envelope: Envelope): Promise<void> {
    try {
      await transport.publish(workAddress(names, envelope.slip[0]!, envelope.durable), await messageFor(envelope, options), { durable: envelope.durable });
    } catch (cause) {
      const unknown = cause instanceof PublishError && cause.failure === 'unknown';
      emit('request.refused', { requestId: envelope.requestId, flow: envelope.flow, failure: cause instanceof PublishError ? cause.failure : messageOf(cause) });
      throw unknown
        ? new Fault('unavailable', `RabbitMQ did not confirm request ${envelope.requestId} in time: it may or may not be under way; send it again with the same Idempotency-Key`, { cause, reason: 'unknown', retryAfterMs: 5_000 })
        : new Fault('unavailable', 'RabbitMQ does not take requests at the moment; nothing was started', { cause, reason: 'broker', retryAfterMs: 2_000 });
    }
  }

  const untilDeadline = (ask: { readonly deadlineMs?: number }, flow: Flow): number => Math.ceil((clock.now() + Math.min(ask.deadlineMs ?? flow.deadlineMs, flow.maxDeadlineMs)) / 1_000) * 1_000;

  async function request(ask: Ask): Promise<Answer> {
    const flow = checked(ask);
    const waitMs = Math.max(0, Math.min(ask.waitMs ?? flow.waitMs, flow.maxWaitMs));
    if (!flow.durable && (waitMs === 0 || ask.idempotencyKey !== undefined || ask.forward !== undefined)) throw new Fault('invalid', `flow ${flow.name} is volatile: it is answered at once on the line, or not at all`, { reason: 'volatile' });
    const id = ask.requestId ?? newId();
    const deadline = untilDeadline(ask, flow);
    const recorded = waitMs === 0 || ask.idempotencyKey !== undefined || ask.forward !== undefined || ask.requestId !== undefined;
    const envelope = envelopeOf(ask, flow, id, deadline, recorded, names.reply(options.hub));
    if (recorded) {
      const created = await reachable(store.create(recordOf(envelope, 'accepted', false, ask.forward), claimOf(ask)));
      if (created.result === 'exists') return join(created.record, created.sameBody, ask, envelope, waitMs);
    }
    emit('request.accepted', { requestId: id, flow: flow.name, recorded });
    const began = clock.now();
    const wait = correlator.expect(id, !recorded); // expect, then publish: the reply may be faster than the confirm
    try {
      await enterRecorded(envelope);
      const life = Math.min(waitMs, deadline - clock.now());
      const outcome = recorded ? await recordedWithin(id, wait, life, ask.signal) : await wait.within(life, ask.signal);
      const heldMs = clock.now() - began;
      if (outcome !== undefined) return { kind: 'outcome', id, outcome, heldMs, replayed: false };
      if (recorded) return await accepted(id, heldMs, false);
      return await detach(envelope, wait, heldMs);
    } finally {
      wait.close();
    }
  }

  async function enterRecorded(envelope: Envelope): Promise<void> {
    try {
      await enter(envelope);
    } catch (error) {
      if (envelope.recorded && isFault(error) && error.reason !== 'unknown') await store.discard(envelope.requestId).catch(() => undefined);
      throw error;
    }
    // Not awaited by the requestor: if it is lost, a repeat of the request publishes the same message again.
    if (envelope.recorded) void store.report(envelope.requestId, { published: true }).catch(() => undefined);
  }

  /** The hold is over before the answer: from here on there is a record. Record, then 202. */
  async function detach(envelope: Envelope, wait: Wait, heldMs: number): Promise<Answer> {
    const id = envelope.requestId;
    const timedOut = envelope.deadline <= clock.now();
    if (timedOut || !envelope.durable) {
      const fault = new Fault('timeout', timedOut ? 'no answer before the deadline' : 'no answer in time, and a volatile request is not kept', { step: 'gateway' });
      const outcome = outcomeOfFault('timeout', fault, clock.now());
      if (envelope.durable) await settler.settle(id, outcome, false);
      else wait.catch(outcome);
      return { kind: 'outcome', id, outcome: wait.caught!, heldMs, replayed: false };
    }
    for (const giveUpAt = clock.now() + 10_000; wait.caught === undefined; ) {
      try {
        await store.create(recordOf(envelope, 'running', true, undefined));
        break;
      } catch (cause) {
        if (clock.now() >= giveUpAt) throw new Fault('unavailable', `request ${id} is under way, but there is no place to keep its answer now: Redis is away`, { cause, reason: 'unknown', retryAfterMs: 5_000 });
        await wait.within(500);
      }
    }
    if (wait.caught !== undefined) {
      // It came in this very moment. Whoever has the id may read it, too.
      await store.settle(id, wait.caught, true).catch(() => undefined);
      return { kind: 'outcome', id, outcome: wait.caught, heldMs, replayed: false };
    }
    wait.close();
    await control.watch(id);
    void journal.note('recorded', id, {}, { hub: encode(envelope).headers!['hub']! }).catch(() => undefined);
    emit('request.detached', { requestId: id, flow: envelope.flow, heldMs });
    return accepted(id, heldMs, false);
  }

  /** The id or the key is taken: the same request goes on, and this requestor waits with the first. */
  async function join(record: RequestRecord, sameBody: boolean, ask: Ask, envelope: Envelope, waitMs: number): Promise<Answer> {
    if (!sameBody) throw new Fault('invalid', 'this Idempotency-Key was used with another body', { reason: 'idempotency-mismatch' });
    const began = clock.now();
    const { id } = record;
    const wait = correlator.expect(id, false);
    const again = async (found: RequestRecord) => {
      if (found.published || found.outcome !== undefined || (ask.again !== true && clock.now() - found.acceptedAt < unpublishedMs)) return;
      await enterRecorded({ ...envelope, id, requestId: id, deadline: found.deadline });
    };
    try {
      await again(record);
      const outcome = await recordedWithin(id, wait, waitMs, ask.signal, again);
      const heldMs = clock.now() - began;
      return outcome === undefined ? await accepted(id, heldMs, true) : { kind: 'outcome', id, outcome, heldMs, replayed: true };
    } finally {
      wait.close();
    }
  }

  /** Waits for the outcome of a recorded request, wherever it is settled: by the reply here, by a wake-up, by looking again. */
  async function recordedWithin(id: string, wait: Wait, ms: number, signal?: AbortSignal, look?: (record: RequestRecord) => Promise<void>): Promise<Outcome | undefined> {
    const read = async () => {
      const record = await store.get(id);
      if (record?.shown === true && record.outcome !== undefined) wait.catch(record.outcome);
      else if (record !== undefined) await look?.(record);
    };
    const hint = () => void read().catch(() => undefined);
    const unlisten = correlator.onWake(id, hint); // subscribe, then read
    try {
      if (look !== undefined) await read();
      for (const end = clock.now() + ms; ; hint()) {
        const outcome = await wait.within(Math.min(lookAgainMs, end - clock.now()), signal);
        if (outcome !== undefined || clock.now() >= end || signal?.aborted === true || correlator.gone) return outcome;
      }
    } finally {
      unlisten();
    }
  }

  async function accepted(id: string, heldMs: number, replayed: boolean): Promise<Answer> {
    const record = await reachable(store.get(id));
    if (record?.shown === true && record.outcome !== undefined) return { kind: 'outcome', id, outcome: record.outcome, heldMs, replayed };
    if (record === undefined) throw new Fault('unavailable', `request ${id} is no longer known here`, { reason: 'unknown', retryAfterMs: 1_000 });
    return { kind: 'accepted', id, status: statusOf(record), heldMs, replayed };
  }

  /** A record, if it is this principal's. Somebody else's looks like none. */
  async function owned(id: string, principal: Principal): Promise<RequestRecord | undefined> {
    const record = await reachable(store.get(id));
    return record?.principal === principal.name ? record : undefined;
  }

  async function send(message: OneWay): Promise<string> {
    const flow = checked(message);
    const id = message.requestId ?? newId();
    const keyed = message.idempotencyKey !== undefined || message.requestId !== undefined;
    const envelope = envelopeOf(message, flow, id, untilDeadline(message, flow), keyed, undefined);
    if (keyed) {
      const created = await reachable(store.create(recordOf(envelope, 'accepted', false, undefined), claimOf(message)));
      if (created.result === 'exists' && !created.sameBody) throw new Fault('invalid', 'this Idempotency-Key was used with another body', { reason: 'idempotency-mismatch' });
      if (created.result === 'exists' && created.record.outcome !== undefined) return created.record.id;
      // Whoever asked first may have died before the broker had it: the same message again does no harm.
      const first = created.result === 'exists' ? { ...envelope, id: created.record.id, requestId: created.record.id } : envelope;
      await enterRecorded(first);
      await reachable(store.settle(first.requestId, { kind: 'reply', body: Buffer.alloc(0), contentType: 'text/plain', at: clock.now() }, true));
      return first.requestId;
    }
    await enter(envelope);
    emit('request.accepted', { requestId: id, flow: flow.name, oneWay: true });
    return id;
  }

  return {
    flows,
    request: (ask) => admitted(() => request(ask)),
    send: (message) => admitted(() => send(message)),
    async status(id, principal) {
      const record = await owned(id, principal);
      return record === undefined ? undefined : statusOf(record);
    },
    async collect(id, principal, waitMs, signal) {
      if ((await owned(id, principal)) === undefined) return undefined;
      const began = clock.now();
      const wait = correlator.expect(id, false);
      try {
        const outcome = await recordedWithin(id, wait, waitMs, signal, async () => undefined);
        const heldMs = clock.now() - began;
        return outcome === undefined ? await accepted(id, heldMs, false) : { kind: 'outcome', id, outcome, heldMs, replayed: false };
      } finally {
        wait.close();
      }
    },
    async events(id, principal, sequence, listener, signal) {
      if ((await owned(id, principal)) === undefined) return false;
      let awake: () => void = () => undefined;
      let changed: boolean;
      const unlisten = correlator.onWake(id, () => ((changed = true), awake()));
      try {
        for (let seen = sequence; !signal.aborted && !correlator.gone; ) {
          changed = false;
          const ended = (await store.get(id))?.shown !== false;
          const news = await store.events(id, seen);
          for (const event of news) listener(event);
          seen = news.at(-1)?.sequence ?? seen;
          if (ended || news.some(({ name }) => name === 'outcome')) return true;
          const nap = new AbortController();
          awake = () => nap.abort();
          if (!changed) await pause(clock, lookAgainMs, AbortSignal.any([signal, nap.signal]));
        }
        return true;
      } finally {
        unlisten();
      }
    },
    async cancel(id, principal) {
      const record = await owned(id, principal);
      if (record === undefined) return undefined;
      if (record.outcome !== undefined) return 'ended';
      const fault = new Fault('cancelled', `cancelled by ${principal.name}`);
      return (await settler.settle(id, outcomeOfFault('cancelled', fault, clock.now()), false)) === 'won' ? 'cancelled' : 'ended';
    },
    publish: (topic, principal, { body, contentType }) =>
      admitted(async () => {
        checkTopic(topic, principal, /^[\w-]+(\.[\w-]+)*$/);
        const at = clock.now();
        const message = { body, contentType, messageId: newId(), type: 'event', timestamp: Math.floor(at / 1_000), headers: { 'hub-at': at } };
        await transport.publish({ exchange: names.events, routingKey: topic }, message, { mandatory: false }).catch((cause: unknown) => {
          throw new Fault('unavailable', 'RabbitMQ does not take events at the moment', { cause, reason: 'broker', retryAfterMs: 2_000 });
        });
      }),
    async subscribe(pattern, principal, listener) {
      checkTopic(pattern, principal, /^([\w-]+|\*|#)(\.([\w-]+|\*|#))*$/);
      const subscription = await transport.subscribe(names.events, [pattern], (delivery) => listener(topicMessage(delivery.routingKey, delivery, clock.now())));
      return () => subscription.close();
    },
    async last(topic, principal) {
      checkTopic(topic, principal, /^[\w-]+(\.[\w-]+)*$/);
      const found = await reachable(store.last(topic));
      return found === undefined ? undefined : topicMessage(topic, found.message, found.at);
    },
    async ready() {
      const redis = await store.time().then(() => 'ok', messageOf);
      const rabbitmq = transport.state() === 'connected' ? 'ok' : transport.state();
      return { ready: redis === 'ok' && rabbitmq === 'ok' && !stopping.aborted, checks: { rabbitmq, redis, ...(stopping.aborted ? { hub: 'stopping' } : {}) } };
    },
  };
}

/** A store that is away is the requestor's business only as `unavailable`. */
async function reachable<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (cause) {
    throw new Fault('unavailable', 'Redis, where the state of requests is kept, is away', { cause, reason: 'store', retryAfterMs: 2_000 });
  }
}

function recordOf(envelope: Envelope, state: 'accepted' | 'running', published: boolean, forward: ForwardAddress | undefined): NewRecord {
  const { requestId, flow, at, deadline, principal, key } = envelope;
  return {
    id: requestId,
    flow,
    state,
    published,
    acceptedAt: at,
    deadline,
    ...(principal === undefined ? {} : { principal }),
    ...(key === undefined ? {} : { key }),
    ...(forward === undefined ? {} : { forward }),
  };
}

const sha256 = (...parts: (string | Buffer)[]): string => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('base64url');
};

const claimOf = (ask: Ask | OneWay): Claim | undefined =>
  ask.idempotencyKey === undefined ? undefined : { scope: sha256(ask.principal.name, ask.flow, ask.idempotencyKey), fingerprint: sha256(ask.contentType, ask.body) };

function statusOf(record: RequestRecord): Status {
  const { id, flow, state, key, step, attempt, waitingOn, progress, acceptedAt, updatedAt, deadline, outcome, shown } = record;
  const optional = { key, step, attempt, waitingOn, progress, endedAt: shown ? outcome?.at : undefined };
  return { id, flow, state, acceptedAt, updatedAt, deadline, ...(Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)) as Partial<Status>) };
}

function checkTopic(topic: string, principal: Principal, shape: RegExp): void {
  if (topic.length > 200 || !shape.test(topic)) throw new Fault('invalid', 'a topic is words of letters, digits, "-" and "_" with dots between them, as in "plant.line-1.temperature"', { reason: 'topic' });
  if (!mayUse(principal, 'topics', topic)) throw new Fault('forbidden', `${principal.name} may not use topic ${topic}`);
}

function topicMessage(topic: string, { body, contentType, headers, timestamp }: Message, now: number): TopicMessage {
  const at = headers?.['hub-at'];
  return { topic, body, contentType: contentType ?? 'application/octet-stream', at: typeof at === 'number' ? at : timestamp === undefined ? now : timestamp * 1_000 };
}
