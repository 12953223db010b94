/**
 * Envelope (EIP: Message with Correlation Identifier, Return Address, Message Expiration, Routing Slip, Message Sequence,
 * Message History). Immutable; every hop derives the next one, and derives its id from the one before, so that a step
 * that runs twice produces the same message twice.
 *
 * What is absent is there as `undefined`, so that all envelopes have one shape: copies of mixed ones take 2 µs and more, these 0.2.
 */
import { hash, randomUUID } from 'node:crypto';
import type { HeaderValue } from './transport.js';

export type EnvelopeType = 'request' | 'reply' | 'part' | 'progress' | 'fault' | 'event' | 'cancel';

/** Membership in a group that a split made (EIP: Message Sequence). */
export interface GroupMember {
  readonly id: string;
  /** Position of this part, from 0. */
  readonly index: number;
  readonly size: number;
  /** The aggregator that collects the group. */
  readonly at: string;
  /** When the group is complete at the latest, ms since 1970; and the part's name in the manifest: so that any part tells of the group. */
  readonly deadline: number;
  readonly name: string;
}

/** Where a foreign requestor hears what comes before the outcome (`aside.ts`). */
export interface AsideAddress {
  readonly queue: string;
  readonly correlationId: string | undefined;
  /** It wants the parts of its reply. */
  readonly parts: boolean;
}

export interface Envelope {
  readonly id: string;
  readonly requestId: string;
  readonly type: EnvelopeType;
  readonly flow: string;
  /** Steps still to go, the one addressed first. Empty on an outcome. */
  readonly slip: readonly string[];
  /** How many hops the request has made: 1 at its first step. */
  readonly step: number;
  /** Which try of this step this is, from 1. */
  readonly attempt: number;
  /** When the request must have its outcome: ms since 1970, whole seconds (the wire carries seconds). */
  readonly deadline: number;
  /** Return address: a queue's name. Absent on one-way messages. */
  readonly replyTo?: string | undefined;
  /** Innermost first. */
  readonly groups: readonly GroupMember[];
  /** Business key to find the request by. */
  readonly key?: string | undefined;
  readonly principal?: string | undefined;
  readonly conversation?: string | undefined;
  readonly aside?: AsideAddress | undefined;
  /** False on volatile flows: transient, unconfirmed, best effort. */
  readonly durable: boolean;
  /** True on volatile flows whose messages may travel with others: `batches.ts`. */
  readonly batch?: boolean | undefined;
  /** False on flows that leave the journal out (volatile ones always do): their messages go straight to the queues. */
  readonly journal: boolean;
  /** True when the store holds a record of the request, so that steps report where it is. */
  readonly recorded: boolean;
  /** The step that produced this message, and for how long its handler ran (ms). */
  readonly from?: string | undefined;
  readonly took?: number | undefined;
  /** When it was made, ms since 1970. */
  readonly at: number;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string | undefined;
  readonly traceparent?: string | undefined;
  readonly tracestate?: string | undefined;
  /** As AMQP has it: for foreign programs, and for quorum queues of RabbitMQ 4. */
  readonly priority?: number | undefined;
  /** It overtakes what waits at its steps. */
  readonly urgent?: boolean | undefined;
  /** `hub-error…` and foreign headers that travel along (faults, retries, dead letters). */
  readonly extra?: Readonly<Record<string, HeaderValue>> | undefined;
}

/** AMQP's priorities go up to 9, and RabbitMQ 4 calls those from 5 on high. */
export const urgentPriority = 9;
export const isHigh = (priority: number | undefined): boolean => priority !== undefined && priority >= 5;

/** A fresh request id: UUIDv7 (RFC 9562), so ids sort by time and tell when the request came in. */
export function newId(at = Date.now()): string {
  const time = at.toString(16).padStart(12, '0');
  // The random bits of a UUIDv4 have the same places, and Node makes those in advance.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

const namespace = Buffer.from('6d0c9f5e7a0b5f8e9b6e0a5b3c2d1e4f', 'hex');
/** What is hashed, written anew for each id: a buffer of its own for each took as long as the hash. */
const named = Buffer.alloc(1_024);
namespace.copy(named);

function bytesToHash(text: string): Buffer {
  // UTF-8 takes up to three bytes for a character.
  if (text.length * 3 > named.length - namespace.length) return Buffer.concat([namespace, Buffer.from(text)]);
  return named.subarray(0, namespace.length + named.write(text, namespace.length));
}

/** The id that follows from `id`: UUIDv5 of it and what happened. Same input, same id, on any machine. */
export function deriveId(id: string, ...what: readonly (string | number)[]): string {
  const digest = hash('sha1', bytesToHash(`${id}/${what.join('/')}`), 'hex');
  const variant = '89ab'[Number.parseInt(digest[16]!, 16) & 3]!;
  return `${digest.slice(0, 8)}-${digest.slice(8, 12)}-5${digest.slice(13, 16)}-${variant}${digest.slice(17, 20)}-${digest.slice(20, 32)}`;
}

/** When a UUIDv7 was made, ms since 1970; undefined for any other id. */
export function timeOfId(id: string): number | undefined {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)
    ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)
    : undefined;
}

/** What an envelope says of itself that follows from no other. */
type First = Pick<Envelope, 'id' | 'flow' | 'slip' | 'deadline' | 'at' | 'body' | 'contentType'> &
  Partial<Omit<Envelope, 'step' | 'attempt' | 'groups' | 'took' | 'from'>>;

/** An envelope that follows from no other: a request of its own, journalled and not recorded, unless it says otherwise. */
export function firstEnvelope(said: First): Envelope {
  return {
    id: said.id,
    requestId: said.requestId ?? said.id,
    type: said.type ?? 'request',
    flow: said.flow,
    slip: said.slip,
    step: 1,
    attempt: 1,
    deadline: said.deadline,
    groups: [],
    durable: said.durable ?? true,
    batch: said.batch,
    journal: said.journal ?? true,
    recorded: said.recorded ?? false,
    at: said.at,
    body: said.body,
    contentType: said.contentType,
    took: undefined,
    from: undefined,
    key: said.key,
    principal: said.principal,
    conversation: said.conversation,
    aside: said.aside,
    replyTo: said.replyTo,
    contentEncoding: said.contentEncoding,
    traceparent: said.traceparent,
    tracestate: said.tracestate,
    priority: said.priority,
    urgent: said.urgent,
    extra: said.extra,
  };
}

/** The envelope that follows `previous` once its step is done. */
export function follow(previous: Envelope, change: Partial<Envelope> & { readonly at: number }, index: string | number = 0): Envelope {
  const slip = change.slip ?? previous.slip.slice(1);
  // It bears no id: see `encodeVolatileReply`.
  const isVolatileReply = slip.length === 0 && !previous.durable;
  return {
    ...previous,
    attempt: 1,
    step: previous.step + 1,
    type: slip.length === 0 ? 'reply' : 'request',
    from: previous.slip[0] ?? previous.from,
    extra: undefined,
    ...change,
    slip,
    id: change.id ?? (isVolatileReply ? '' : deriveId(previous.id, previous.slip[0] ?? 'end', index)),
  };
}

/** The message that makes an aggregator look at a group: at its deadline, after a quiet period, or when it has no members. */
export function ringFor(envelope: Envelope, groups: Envelope['groups'], slip: readonly string[], reason: string, now: number): Envelope {
  return follow(
    envelope,
    {
      at: now,
      slip,
      groups,
      body: Buffer.alloc(0),
      contentType: 'application/octet-stream',
      contentEncoding: undefined,
      type: 'event',
      extra: { 'hub-ring': reason },
    },
    `ring-${reason}`,
  );
}
