/**
 * Envelope ⇄ AMQP 0-9-1. The AMQP body is the body; everything of ours is in one header, `hub`, a Structured Field
 * dictionary (RFC 9651) that a person can read in the RabbitMQ UI and that a plain RPC program can ignore:
 *
 *   flow=loan.quote, slip=(bank.offer loan.best), step=2, attempt=1, at=1795413590123, key="C-1042", deadline=@1795413600
 *
 * It is written by template, since that is on the way of every message, and read in `dictionary.ts`. Reading never throws.
 */
import { DisplayString, Token } from 'structured-headers';
import { amendableIn } from './amendable.js';
import { readDictionary, type BareItem, type Dictionary, type InnerList, type Item } from './dictionary.js';
import { isFault, readFault, type Fault } from './fault.js';
import type { AsideAddress, Envelope, EnvelopeType, GroupMember } from './envelope.js';
import { partsIn } from './parts.js';
import type { NewRecord, Outcome } from './store.js';
import type { Delivery, HeaderValue, Headers, Message } from './transport.js';
import { version } from './version.js';

const appId = `answerback/${version}`;
const envelopeTypes: readonly string[] = ['request', 'reply', 'part', 'progress', 'fault', 'event', 'cancel'] satisfies EnvelopeType[];

/** A text as sf-string, or as Display String when it is not plain ASCII. */
function text(value: string): string {
  if (/^[ !#-[\]-~]*$/.test(value)) return `"${value}"`;
  if (/^[\x20-\x7e]*$/.test(value)) return `"${value.replace(/["\\]/g, '\\$&')}"`;
  const escaped = [...Buffer.from(value)].map((byte) =>
    byte < 0x20 || byte > 0x7e || byte === 0x25 || byte === 0x22 ? `%${byte.toString(16).padStart(2, '0')}` : String.fromCharCode(byte),
  );
  return `%"${escaped.join('')}"`;
}

/** A name as sf-token, which begins with a letter; the name of a flow may begin with a digit. */
const nameOf = (name: string): string => (/^[a-z]/.test(name) ? name : text(name));

const member = ({ id, index, size, at, deadline, name }: GroupMember): string =>
  `${text(id)};index=${index};size=${size};at=${at};due=${Math.round(deadline)};name=${text(name)}`;

const asideText = ({ queue, correlationId, parts }: AsideAddress): string =>
  `${text(queue)}${correlationId === undefined ? '' : `;for=${text(correlationId)}`}${parts ? ';parts' : ''}`;

function hubHeader(envelope: Envelope): string {
  let header = `flow=${nameOf(envelope.flow)}, slip=(${envelope.slip.join(' ')}), step=${envelope.step}, attempt=${envelope.attempt}, at=${envelope.at}`;
  if (!envelope.durable) header += envelope.batch === true ? ', durable=?0, batch' : ', durable=?0';
  else if (!envelope.journal) header += ', journal=?0';
  if (envelope.groups.length > 0) header += `, groups=(${envelope.groups.map(member).join(' ')})`;
  if (envelope.from !== undefined) header += `, from=${envelope.from}, took=${Math.round(envelope.took ?? 0)}`;
  if (envelope.key !== undefined) header += `, key=${text(envelope.key)}`;
  if (envelope.principal !== undefined) header += `, principal=${text(envelope.principal)}`;
  if (envelope.conversation !== undefined) header += `, conversation=${text(envelope.conversation)}`;
  if (envelope.aside !== undefined) header += `, aside=${asideText(envelope.aside)}`;
  if (envelope.recorded) header += ', recorded';
  if (envelope.urgent === true) header += ', urgent';
  // Last, since structured-headers 2.1 does not take a comma after a Date.
  return `${header}, deadline=@${Math.ceil(envelope.deadline / 1_000)}`;
}

/** The message that carries this envelope. */
export function encode(envelope: Envelope): Message {
  const headers: Record<string, HeaderValue> = { hub: hubHeader(envelope) };
  if (envelope.traceparent !== undefined) headers['traceparent'] = envelope.traceparent;
  if (envelope.tracestate !== undefined) headers['tracestate'] = envelope.tracestate;
  if (envelope.extra !== undefined) Object.assign(headers, envelope.extra);
  const message: { -readonly [Name in keyof Message]: Message[Name] } = {
    body: envelope.body,
    messageId: envelope.id,
    correlationId: envelope.requestId,
    type: envelope.type,
    contentType: envelope.contentType,
    headers,
  };
  // For people who look into a queue, which volatile messages leave at once.
  if (envelope.durable) {
    message.timestamp = Math.floor(envelope.at / 1_000);
    message.appId = appId;
  }
  if (envelope.replyTo !== undefined) message.replyTo = envelope.replyTo;
  if (envelope.contentEncoding !== undefined) message.contentEncoding = envelope.contentEncoding;
  if (envelope.priority !== undefined) message.priority = envelope.priority;
  return message;
}

/**
 * The last message of a volatile request. Nobody but the hub that waits ever sees it, and that wants to know the request and the answer:
 * each further property costs both ends and the broker.
 */
export function encodeVolatileReply({ body, requestId, type, contentType, contentEncoding, extra }: Envelope): Message {
  const message: { -readonly [Name in keyof Message]: Message[Name] } = { body, correlationId: requestId, contentType };
  if (type !== 'reply') message.type = type;
  if (contentEncoding !== undefined) message.contentEncoding = contentEncoding;
  if (extra !== undefined) message.headers = extra;
  return message;
}

/** A text that says what is wrong with a message. */
export interface Undecodable {
  readonly undecodable: string;
}

/** The envelope that a message of ours carries, or what is wrong with it. Never throws. */
export function decode(message: Message): Envelope | Undecodable {
  const hub = message.headers?.['hub'];
  if (typeof hub !== 'string')
    return { undecodable: 'it has no "hub" header: only the hub publishes to work queues; others publish to the requests exchange' };
  try {
    whole(message);
    return readPlain(message, hub) ?? read(message, readDictionary(hub));
  } catch (error) {
    return { undecodable: `its "hub" header cannot be read: ${error instanceof Error ? error.message : String(error)}` };
  }
}

export const isUndecodable = (found: Envelope | Undecodable): found is Undecodable => 'undecodable' in found;

/** Does this message say that its flow leaves the journal out? A plain reply of a foreign worker says nothing. */
export function leavesJournalOut({ headers }: Message): boolean {
  const hub = headers?.['hub'];
  // No quotation mark before it: it is not part of somebody's text.
  return typeof hub === 'string' && /^flow=[^,]*, [^"]*, (?:durable|journal)=\?0/.test(hub);
}

interface Whole extends Message {
  readonly messageId: string;
  readonly correlationId: string;
  readonly type: string;
}

/** Throws when it lacks a property that every envelope has. */
function whole(message: Message): asserts message is Whole {
  if (message.messageId === undefined || message.correlationId === undefined)
    throw new TypeError('message_id and correlation_id are missing');
  if (message.type === undefined || !envelopeTypes.includes(message.type)) throw new TypeError(`type is ${JSON.stringify(message.type)}`);
}

const word = '[a-z][a-z0-9.-]*';
const wordPattern = `(${word})`;
const textPattern = '"([ !#-[\\]-~]*)"';
const countPattern = '(\\d{1,15})';

/** What `hubHeader` writes of a message that is in no group within another, has no text to be escaped, and belongs to a flow that begins with a letter. */
const plainHeader = new RegExp(
  [
    `^flow=${wordPattern}, slip=\\(((?:${word}(?: ${word})*)?)\\), step=${countPattern}, attempt=${countPattern}, at=${countPattern}`,
    '(?:, (durable|journal)=\\?0(, batch)?)?',
    `(?:, groups=\\(${textPattern};index=${countPattern};size=${countPattern};at=${wordPattern};due=${countPattern};name=${textPattern}\\))?`,
    `(?:, from=${wordPattern}, took=${countPattern})?(?:, key=${textPattern})?(?:, principal=${textPattern})?(?:, conversation=${textPattern})?`,
    '(, recorded)?, deadline=@(\\d{1,11})$',
  ].join(''),
);

/** Reads most messages at one look, in a third of the time; undefined for the others. */
function readPlain(message: Whole, hub: string): Envelope | undefined {
  const found = plainHeader.exec(hub);
  if (found === null) return undefined;
  const [, flow, slip, step, attempt, at, leftOut, batch, ...more] = found;
  const [group, index, size, gathersAt, due, member, from, took, key, principal, conversation, recorded, deadline] = more;
  return {
    id: message.messageId,
    requestId: message.correlationId,
    type: message.type as EnvelopeType,
    flow: flow!,
    slip: slip === '' ? [] : slip!.split(' '),
    step: Number(step),
    attempt: Number(attempt),
    deadline: Number(deadline) * 1_000,
    groups:
      group === undefined
        ? []
        : [{ id: group, index: Number(index), size: Number(size), at: gathersAt!, deadline: Number(due), name: member! }],
    durable: leftOut !== 'durable',
    batch: batch === undefined ? undefined : true,
    journal: leftOut === undefined,
    recorded: recorded !== undefined,
    at: Number(at),
    body: message.body,
    contentType: message.contentType ?? 'application/octet-stream',
    took: took === undefined ? undefined : Number(took),
    from,
    key,
    principal,
    conversation,
    aside: undefined,
    replyTo: message.replyTo,
    contentEncoding: message.contentEncoding,
    traceparent: headerText(message.headers, 'traceparent'),
    tracestate: headerText(message.headers, 'tracestate'),
    priority: message.priority,
    urgent: undefined,
    extra: extraOf(message.headers),
  };
}

function read(message: Whole, hub: Dictionary): Envelope {
  const durable = bareIn(hub, 'durable') !== false;
  return {
    id: message.messageId,
    requestId: message.correlationId,
    type: message.type as EnvelopeType,
    flow: required(stringIn(hub, 'flow'), 'flow'),
    slip: listIn(hub, 'slip').map(([item]) => plain(item)),
    step: required(numberIn(hub, 'step'), 'step'),
    attempt: required(numberIn(hub, 'attempt'), 'attempt'),
    deadline: dateIn(hub, 'deadline'),
    groups: listIn(hub, 'groups').map(groupMember),
    durable,
    batch: bareIn(hub, 'batch') === true ? true : undefined,
    journal: durable && bareIn(hub, 'journal') !== false,
    recorded: bareIn(hub, 'recorded') === true,
    at: numberIn(hub, 'at') ?? (message.timestamp ?? 0) * 1_000,
    body: message.body,
    contentType: message.contentType ?? 'application/octet-stream',
    took: numberIn(hub, 'took'),
    from: stringIn(hub, 'from'),
    key: stringIn(hub, 'key'),
    principal: stringIn(hub, 'principal'),
    conversation: stringIn(hub, 'conversation'),
    aside: asideIn(hub.get('aside')),
    replyTo: message.replyTo,
    contentEncoding: message.contentEncoding,
    traceparent: headerText(message.headers, 'traceparent'),
    tracestate: headerText(message.headers, 'tracestate'),
    priority: message.priority,
    urgent: bareIn(hub, 'urgent') === true ? true : undefined,
    extra: extraOf(message.headers),
  };
}

const isList = (entry: Item | InnerList | undefined): entry is InnerList => entry !== undefined && Array.isArray(entry[0]);
const bareIn = (hub: Dictionary, name: string): BareItem | undefined => {
  const entry = hub.get(name);
  return entry === undefined || isList(entry) ? undefined : entry[0];
};
const listIn = (hub: Dictionary, name: string): readonly Item[] => {
  const entry = hub.get(name);
  return isList(entry) ? entry[0] : [];
};
const plain = (item: BareItem): string => (item instanceof Token || item instanceof DisplayString ? item.toString() : String(item));
const stringIn = (hub: Dictionary, name: string): string | undefined => {
  const item = bareIn(hub, name);
  return item === undefined ? undefined : plain(item);
};
const numberIn = (hub: Dictionary, name: string): number | undefined => {
  const item = bareIn(hub, name);
  return typeof item === 'number' && Number.isFinite(item) ? item : undefined;
};
function dateIn(hub: Dictionary, name: string): number {
  const item = bareIn(hub, name);
  if (!(item instanceof Date) || Number.isNaN(item.getTime())) throw new TypeError(`${name} is not a date`);
  return item.getTime();
}
function required<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new TypeError(`${name} is missing`);
  return value;
}
function asideIn(entry: Item | InnerList | undefined): AsideAddress | undefined {
  if (entry === undefined || isList(entry)) return undefined;
  const [queue, parameters] = entry;
  const correlationId = parameters.get('for');
  return {
    queue: plain(queue),
    correlationId: correlationId === undefined ? undefined : plain(correlationId),
    parts: parameters.get('parts') === true,
  };
}
function groupMember([id, parameters]: Item): GroupMember {
  const index = parameters.get('index');
  const size = parameters.get('size');
  const at = parameters.get('at');
  const deadline = parameters.get('due');
  if (typeof index !== 'number' || typeof size !== 'number' || typeof deadline !== 'number' || at === undefined)
    throw new TypeError('a group needs index, size, at and due');
  return { id: plain(id), index, size, at: plain(at), deadline, name: plain(parameters.get('name') ?? String(index)) };
}
const headerText = (headers: Headers | undefined, name: string): string | undefined => {
  const value = headers?.[name];
  return typeof value === 'string' ? value : undefined;
};
function extraOf(headers: Headers = {}): Record<string, HeaderValue> | undefined {
  let extra: Record<string, HeaderValue> | undefined;
  for (const name of Object.keys(headers)) if (name.startsWith('hub-')) (extra ??= {})[name] = headers[name]!;
  return extra;
}

/** Everything about a request that is not in the messages that follow from it, so that the journal can tell the record again. */
export function recordHeader(record: NewRecord): Record<string, HeaderValue> {
  const { flow, state, acceptedAt, deadline, published, principal, key, conversation, forward, claim, supersedes, detached, carriedAt } =
    record;
  const told = {
    flow,
    state,
    acceptedAt,
    deadline,
    published,
    principal,
    key,
    conversation,
    forward,
    claim,
    supersedes,
    detached,
    carriedAt,
  };
  return { 'hub-record': JSON.stringify(told) };
}

/** The record that a journal entry tells, if it tells one. */
export function recordIn({ correlationId, headers }: Message): NewRecord | undefined {
  const told = headers?.['hub-record'];
  if (typeof told !== 'string' || correlationId === undefined) return undefined;
  try {
    return { ...(JSON.parse(told) as Omit<NewRecord, 'id'>), id: correlationId };
  } catch {
    return undefined;
  }
}

/** Headers that tell a person, in the queue, what went wrong. Each its own, unlike `hub`. */
export const errorHeaders = (fault: Fault, step: string, at: number): Record<string, HeaderValue> => ({
  'hub-error-code': fault.code,
  'hub-error': fault.message.slice(0, 500),
  'hub-error-step': step,
  'hub-error-at': new Date(at).toISOString(),
});

/** What an answer says, whoever wrote it: `type=fault` is a fault, everything else of a worker is the reply. */
export function outcomeOf(message: Delivery | Message, at: number): Outcome {
  if (message.type === 'fault') {
    const fault = readFault(message.body, message.headers?.['hub-error-code'], message.headers?.['hub-error']);
    const kind = fault.code === 'timeout' ? 'timeout' : fault.code === 'cancelled' ? 'cancelled' : 'fault';
    return { kind, ...faultMessage(fault), at };
  }
  const parts = partsIn(message.headers);
  const amendable = amendableIn(message.headers);
  return {
    kind: 'reply',
    body: message.body,
    contentType: message.contentType ?? 'application/octet-stream',
    ...(message.contentEncoding === undefined ? {} : { contentEncoding: message.contentEncoding }),
    ...(parts === undefined ? {} : { parts }),
    ...(amendable === undefined ? {} : { amendable }),
    at,
  };
}

/** A fault as body and content type. */
export function faultMessage(fault: Fault): { body: Buffer; contentType: string } {
  const { code, message, step, reason, errors } = fault;
  return { body: Buffer.from(JSON.stringify({ code, message, step, reason, errors })), contentType: 'application/json' };
}

/** Anything that was thrown, as the fault that the requestor hears: the details of our own errors stay with us. */
export const faultOf = (error: unknown, step: string): Fault =>
  isFault(error)
    ? readFault(
        Buffer.from(
          JSON.stringify({
            code: error.code,
            message: error.message,
            reason: error.reason,
            errors: error.errors,
            step: error.step ?? step,
          }),
        ),
      )
    : readFault(Buffer.from(JSON.stringify({ code: 'internal', message: `step ${step} failed after its last attempt`, step })));
