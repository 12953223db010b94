/**
 * Where an envelope goes next: to the step's queue, to a foreign step, to the return address, or nowhere any more. Used by
 * whatever makes envelopes: the runner, and the hub when a foreign worker has answered.
 */
import { optionsOf, publisher, type Way } from './batches.js';
import { pause, type Clock } from './clock.js';
import type { Control } from './control.js';
import type { Emit } from './emit.js';
import { follow, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import type { Fault } from './fault.js';
import type { Journal } from './journal.js';
import type { Step } from './step.js';
import type { Bell, Report, RequestEvent, Store } from './store.js';
import { isReturnAddress, isWorkQueue, replyAddress, workAddress, type Names } from './topology.js';
import { PublishError, type Address, type Message, type PublishOptions, type Transport } from './transport.js';
import { encode, encodeVolatileReply, errorHeaders, faultMessage } from './wire.js';

export interface DispatchOptions {
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly control: Control;
  readonly clock: Clock;
  readonly names: Names;
  readonly emit: Emit;
  readonly steps: ReadonlyMap<string, Step>;
}

export interface Dispatch {
  /**
   * Publishes until the broker has it: same id each time, so twice looks like once. Ends when the process stops (the
   * delivery is then given back). A deleted queue comes back by whoever consumes it or checks the topology.
   */
  publish(to: Address, message: Message, way?: Way): Promise<void>;
  /** Publishes an envelope to whoever is next. */
  send(envelope: Envelope): Promise<void>;
}

const durable: Way = { durable: true };

export function openDispatch(
  { transport, store, journal, control, clock, names, emit, steps }: DispatchOptions,
  stopping: AbortSignal,
): Dispatch {
  const publishOnce = publisher(transport);

  function publish(to: Address, message: Message, way = durable): Promise<void> {
    return publishOnce(to, message, way).catch((error: unknown) => publishAgain(to, message, optionsOf(way), error));
  }

  async function publishAgain(to: Address, message: Message, options: PublishOptions, error: unknown): Promise<void> {
    for (let tries = 1; ; tries++) {
      if (!(error instanceof PublishError) || stopping.aborted) throw error;
      const isGone = error.failure === 'unroutable' && to.exchange === '';
      // A foreign requestor's queue that is gone: nobody is left to hear it. A hub's: any hub takes the reply.
      if (isGone && isReturnAddress(names, to.routingKey)) to = { ...to, exchange: names.lateReplies };
      else if (isGone && !isWorkQueue(names, to.routingKey))
        return emit('publish.undeliverable', { routingKey: to.routingKey, requestId: message.correlationId });
      emit('publish.again', { exchange: to.exchange, routingKey: to.routingKey, failure: error.failure, tries });
      await pause(clock, Math.min(2_000, 100 * 2 ** tries), stopping);
      try {
        return await transport.publish(to, message, options);
      } catch (cause) {
        error = cause;
      }
    }
  }

  async function sendToStep(step: string, envelope: Envelope): Promise<void> {
    const waiting = waitingAt(steps.get(step));
    if (waiting !== undefined && control.isWatched(envelope)) await store.report(envelope.requestId, ...waiting).catch(() => undefined);
    const message = await messageFor(envelope, { store, steps, names, clock });
    return publish(workAddress(names, step, envelope), message, envelope);
  }

  async function noteDone(envelope: Envelope): Promise<void> {
    if (!envelope.journal) return;
    const { body: _body, ...message } = encode(envelope);
    await journal.note('done', envelope.requestId, message, message.headers);
  }

  function send(envelope: Envelope): Promise<void> {
    const [step] = envelope.slip;
    if (step !== undefined) return sendToStep(step, envelope);
    if (envelope.replyTo === undefined) return noteDone(envelope);
    const message = envelope.durable ? encode(envelope) : encodeVolatileReply(envelope);
    return publish(replyAddress(names, envelope.replyTo, envelope), message, envelope);
  }

  return { publish, send };
}

/**
 * The message for the step that an envelope addresses. A foreign worker brings back nothing but the correlation id: unless it is
 * the last step (then it answers the requestor's own address), the envelope is parked and the answer comes to the hub's
 * continuation queue, which goes on from there.
 */
export function messageFor(
  envelope: Envelope,
  options: Pick<DispatchOptions, 'store' | 'steps' | 'names' | 'clock'>,
): Message | Promise<Message> {
  const message = encode(envelope);
  return options.steps.get(envelope.slip[0] ?? '')?.kind === 'foreign' ? foreignMessage(envelope, message, options) : message;
}

async function foreignMessage(
  envelope: Envelope,
  message: Message,
  { store, names, clock }: Parameters<typeof messageFor>[1],
): Promise<Message> {
  if (envelope.slip.length === 1 && envelope.groups.length === 0) return message;
  await store.park(...parkingOf(message, envelope.deadline, clock.now()));
  failpoint('park.before-publish');
  return {
    ...message,
    replyTo: names.continuation,
    correlationId: envelope.id,
    headers: {
      ...message.headers,
      'hub-request-id': envelope.requestId,
      ...(envelope.replyTo === undefined ? {} : { 'hub-return-to': envelope.replyTo }),
    },
  };
}

/** What the record is told of a request that a step of somebody else has: nobody reports from there. */
export function waitingAt(step: Step | undefined): [Report, Pick<RequestEvent, 'name' | 'data'>] | undefined {
  if (step?.kind !== 'foreign') return undefined;
  const { name } = step;
  return [
    { state: 'waiting', step: name, waitingOn: `foreign worker of ${name}` },
    { name: 'step', data: { step: name, attempt: 1 } },
  ];
}

/** How long what is parked outlives its request. */
const parkedLongerMs = 60_000;

/** A message to a foreign worker, as `store.park` takes it: all but the body, under its id. */
export function parkingOf({ body: _body, ...properties }: Message, deadline: number, now: number): Parameters<Store['park']> {
  return [properties.messageId ?? '', Buffer.from(JSON.stringify(properties)), Math.max(0, deadline - now) + parkedLongerMs];
}

/** A ring, as the store keeps it for a group. */
export const bellOf = (to: Address, { body: _body, ...properties }: Message): Bell => ({ to, properties });

/** The message as it was before it was addressed to a foreign worker; undefined if it was not. */
export function unforeign(message: Message, names: Names): Message | undefined {
  const { 'hub-request-id': requestId, 'hub-return-to': replyTo, ...headers } = message.headers ?? {};
  if (message.replyTo !== names.continuation || typeof requestId !== 'string') return undefined;
  const { replyTo: _continuation, ...rest } = message;
  return { ...rest, headers, correlationId: requestId, ...(typeof replyTo === 'string' ? { replyTo } : {}) };
}

/** What follows from a fault: inside a group it is an answer to the aggregator, else it ends the request. */
export function faultEnvelope(envelope: Envelope, fault: Fault, at: number, took = 0): Envelope {
  const step = envelope.slip[0] ?? 'end';
  // An aggregator that fails has left its own group: the next one outwards hears it.
  const groups = envelope.groups[0]?.at === step ? envelope.groups.slice(1) : envelope.groups;
  const aggregator = groups[0]?.at;
  const slip = aggregator === undefined ? [] : envelope.slip.slice(envelope.slip.indexOf(aggregator));
  const extra = errorHeaders(fault, step, at);
  return follow(envelope, { at, took, slip, groups, ...faultMessage(fault), contentEncoding: undefined, type: 'fault', extra }, 'fault');
}
