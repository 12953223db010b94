/**
 * The entrance of foreign requestors: any program publishes a body to exchange `hub.requests` with routing key = flow, and
 * sets `reply_to` and `correlation_id` (its own queue, or `amq.rabbitmq.reply-to`). It gets the reply, or a fault with
 * `type=fault`, with its own correlation id. Without `reply_to` it is a one-way message.
 *
 * With the routing key `tasks.<action>` (`claim`, `decide`, …) a program acts on a task: the body names the `task`, and is otherwise what HTTP
 * takes; the answer is the task, or a fault.
 *
 * With the header `parts: true` it hears the parts of its reply before that. What a step asks it comes there, too, and is answered with the
 * routing key that the question names.
 *
 * A request may come in parts, too: messages of `type=part`, each with its number in `hub-sequence`, one of them with `hub-parts`, how many there are.
 *
 * Taken from outside: body, content type and encoding, correlation id, reply_to, message id, priority, trace context, `parts`; of a part its
 * type, `hub-sequence` and `hub-parts`. Nothing else.
 */
import { anonymous, type Access, type Principal } from './access.js';
import { answerOf } from './aside.js';
import type { Clock } from './clock.js';
import type { Emit } from './emit.js';
import { deriveId } from './envelope.js';
import { failpoint } from './failpoint.js';
import { Fault, isFault, messageOf, type Flaw } from './fault.js';
import type { Ask, Gateway } from './gateway.js';
import type { Names } from './topology.js';
import { flawed, type Refusal } from './tasks/action.js';
import type { Actor } from './tasks/task.js';
import { isAction, readWish } from './tasks/wishes.js';
import type { Tasks, Wish } from './tasks/tasks.js';
import { withoutRoles, type People } from './people.js';
import { PublishError, type Consumer, type Delivery, type Transport } from './transport.js';
import { errorHeaders, faultMessage } from './wire.js';

export interface EntranceOptions {
  readonly transport: Transport;
  readonly gateway: Gateway;
  readonly people: People;
  readonly tasks: Tasks;
  readonly access: Access;
  readonly names: Names;
  readonly clock: Clock;
  readonly newId: () => string;
  readonly emit: Emit;
  readonly place: string;
}

export function openEntrance(options: EntranceOptions): Promise<Consumer> {
  const { transport, gateway, names, clock, newId, emit } = options;

  async function take(delivery: Delivery): Promise<void> {
    try {
      failpoint('entrance.before-request');
      const principal = principalOf(delivery, options.access);
      const flow = delivery.routingKey;
      const action = /^tasks\.([a-z]+)$/.exec(flow)?.[1];
      if (action !== undefined && isAction(action) && !gateway.flows.some(({ name }) => name === flow))
        return await actOn(delivery, action, principal);
      const answering = answerOf(flow);
      if (answering !== undefined) return await answer(delivery, principal, answering);
      if (delivery.type === 'part') return await takePart(delivery, principal);
      const volatile = gateway.flows.find(({ name }) => name === flow)?.durable === false;
      if (delivery.replyTo === undefined) await gateway.send({ ...askOf(delivery, principal), flow, requestId: ownId(delivery) });
      else if (volatile) await answerNow(delivery, { ...askOf(delivery, principal), flow });
      else
        await accept(delivery, {
          ...askOf(delivery, principal),
          flow,
          waitMs: 0,
          requestId: ownId(delivery),
          again: delivery.redelivered,
          hearsParts: delivery.headers['parts'] === true,
          forward: {
            queue: delivery.replyTo,
            ...(delivery.correlationId === undefined ? {} : { correlationId: delivery.correlationId }),
            ...(delivery.headers['amended'] === true ? { amended: true } : {}),
          },
        });
      failpoint('entrance.after-request');
    } catch (error) {
      // Broker or store away: the message stays in the queue, and its turn comes.
      if (!isFault(error) || error.code === 'unavailable') throw error;
      await refuse(delivery, error);
    }
  }

  /** A part of a request, its end, or both. The request is known by return address and correlation id. */
  async function takePart(delivery: Delivery, principal: Principal): Promise<void> {
    const { replyTo, correlationId, routingKey: flow } = delivery;
    const { 'hub-sequence': sequence, 'hub-parts': total } = delivery.headers;
    if (replyTo === undefined || correlationId === undefined)
      throw new Fault('invalid', 'a part needs reply_to and correlation_id: they say which request it belongs to', { reason: 'part' });
    if (sequence === undefined && total === undefined)
      throw new Fault('invalid', 'a part says its number in the header hub-sequence, or how many there are in hub-parts', {
        reason: 'part',
      });
    const { body, contentType, contentEncoding, principal: _whose, ...sealed } = askOf(delivery, principal);
    const encoded = contentEncoding === undefined ? {} : { contentEncoding };
    await gateway.arrivals.take({
      id: deriveId(principal.name, 'parts', flow, replyTo, correlationId),
      principal,
      flow,
      forward: { queue: replyTo, correlationId },
      ...(sequence === undefined ? {} : { part: { sequence: Number(sequence), body, contentType, ...encoded } }),
      ...(total === undefined ? {} : { total: Number(total) }),
      sealed: { ...sealed, hearsParts: delivery.headers['parts'] === true, hearsAmended: delivery.headers['amended'] === true },
    });
  }

  /** A program acts on a task, as the person that its principal is. */
  async function actOn(delivery: Delivery, action: Wish['do'], principal: Principal): Promise<void> {
    const { people, tasks } = options;
    const member = people.memberOf(principal);
    const actor = member === undefined ? withoutRoles(principal, 'amqp') : await people.actor(member, 'amqp');
    const { task: id, ...rest } = objectIn(delivery.body);
    if (typeof id !== 'string') throw new Fault('invalid', 'the body names no task: { "task": "<id>", … }', { reason: 'task' });
    const wish = readWish(action, rest);
    const answered = 'do' in wish ? await tasks.act(id, wish, actor) : await refusedUnread(id, action, wish, actor);
    if (answered === undefined) throw new Fault('invalid', `there is no task ${id}`, { reason: 'task' });
    if (answered.result === 'refused') throw faultOf(answered.refusal);
    if (delivery.replyTo === undefined) return;
    const body = Buffer.from(JSON.stringify(answered.task));
    await tell(delivery, { body, contentType: 'application/json', type: 'reply', headers: {} });
  }

  async function refusedUnread(id: string, action: Wish['do'], flaws: readonly Flaw[], actor: Actor) {
    const refusal = await options.tasks.refuse(id, action, flawed(...flaws), actor);
    return refusal === undefined ? undefined : ({ result: 'refused', refusal } as const);
  }

  /** What a step asked, answered. A refusal is heard as always; who answers well hears no more than the next question, or the outcome. */
  async function answer(
    { body }: Delivery,
    principal: Principal,
    { requestId, questionId }: { readonly requestId: string; readonly questionId: string },
  ): Promise<void> {
    const said = await gateway.answer(requestId, principal, jsonOf(body), questionId);
    if (said !== 'answered')
      throw new Fault('rejected', `request ${requestId} does not ask this, or not any more`, { reason: 'not-asked', requestId });
  }

  /** A correlation id that is used for a second request is the requestor's right: unless the broker says "redelivered", it is a new one. */
  async function accept(delivery: Delivery, ask: Ask): Promise<void> {
    const answer = await gateway.request(ask);
    if (answer.replayed && !delivery.redelivered && delivery.messageId === undefined) await gateway.request({ ...ask, requestId: newId() });
  }

  async function answerNow(delivery: Delivery, ask: Ask): Promise<void> {
    const answer = await gateway.request(ask);
    if (answer.kind !== 'outcome') return;
    const { kind, body, contentType } = answer.outcome;
    await tell(delivery, { body, contentType, type: kind === 'reply' ? 'reply' : 'fault', headers: {} });
  }

  /** A refusal goes to the requestor; without return address it is for a person to see. */
  async function refuse(delivery: Delivery, fault: Fault): Promise<void> {
    emit('entrance.refused', { flow: delivery.routingKey, code: fault.code, reason: fault.reason });
    const headers = errorHeaders(fault, 'gateway', clock.now());
    if (delivery.replyTo !== undefined) return tell(delivery, { ...faultMessage(fault), type: 'fault', headers });
    const { body, contentType, messageId, correlationId } = delivery;
    const known = {
      ...(contentType === undefined ? {} : { contentType }),
      ...(messageId === undefined ? {} : { messageId }),
      ...(correlationId === undefined ? {} : { correlationId }),
    };
    await transport.publish(
      { exchange: names.dead, routingKey: 'unrouted' },
      { body, ...known, headers: { ...headers, 'hub-origin-queue': names.requests, 'hub-origin-key': delivery.routingKey } },
    );
  }

  async function tell(delivery: Delivery, message: Parameters<Transport['publish']>[1]): Promise<void> {
    const queue = delivery.replyTo ?? '';
    const correlation = delivery.correlationId === undefined ? {} : { correlationId: delivery.correlationId };
    await transport
      .publish(
        { exchange: '', routingKey: queue },
        { ...message, ...correlation },
        { mandatory: !queue.startsWith('amq.rabbitmq.reply-to') },
      )
      .catch((error: unknown) => {
        if (!(error instanceof PublishError) || error.failure !== 'unroutable') throw error;
        emit('request.undeliverable', { queue });
      });
  }

  return transport.consume(names.requests, { prefetch: 200, tag: `requests@${options.place}` }, take);
}

function faultOf({ code, detail, errors }: Refusal): Fault {
  const faultCode = code === 'invalid' ? 'invalid' : code === 'not-permitted' ? 'forbidden' : 'rejected';
  return new Fault(faultCode, detail, { reason: code, ...(errors === undefined ? {} : { errors }) });
}

function objectIn(body: Buffer): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Readonly<Record<string, unknown>>;
  } catch {
    // Said below, as of any other body that is none.
  }
  throw new Fault('invalid', 'the body is no JSON object', { reason: 'task' });
}

function principalOf(delivery: Delivery, access: Access): Principal {
  if (!access.required) return anonymous;
  // user_id is checked by the broker; without it the request is that of the principal "amqp", if there is one.
  const principal = access.byName(delivery.userId ?? 'amqp');
  if (principal === undefined)
    throw new Fault(
      'forbidden',
      `no principal "${delivery.userId ?? 'amqp'}" in hub.yaml: AMQP requests need one, named as their user_id or "amqp"`,
    );
  return principal;
}

/** The id that a redelivery of the same message gets again. */
const ownId = (delivery: Delivery): string =>
  deriveId(
    delivery.replyTo ?? '',
    delivery.messageId ?? '',
    delivery.correlationId ?? '',
    delivery.routingKey,
    delivery.messageId === undefined ? delivery.body.toString('base64') : '',
  );

function askOf(delivery: Delivery, principal: Principal) {
  const { traceparent, tracestate } = delivery.headers;
  return {
    principal,
    body: delivery.body,
    contentType: delivery.contentType ?? (looksLikeJson(delivery.body) ? 'application/json' : 'application/octet-stream'),
    ...(delivery.contentEncoding === undefined ? {} : { contentEncoding: delivery.contentEncoding }),
    ...(delivery.priority === undefined ? {} : { priority: delivery.priority }),
    ...(typeof traceparent === 'string' ? { traceparent } : {}),
    ...(typeof tracestate === 'string' ? { tracestate } : {}),
  };
}

function jsonOf(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new Fault('invalid', `an answer must be JSON: ${messageOf(cause)}`, { cause });
  }
}

/** Plain RPC programs seldom set a content type. */
function looksLikeJson(body: Buffer): boolean {
  try {
    JSON.parse(body.toString('utf8'));
    return true;
  } catch {
    return false;
  }
}
