/**
 * The door that every inbound adapter uses (EIP: Messaging Gateway). An adapter hands in an `Ask` and gets an `Answer`:
 * the outcome, or "accepted, answer later". What those look like on the adapter's protocol is the adapter's business.
 */
import type { Principal } from './access.js';
import type { Flow } from './flow.js';
import type { ForwardAddress, Outcome, Progress, RequestEvent, RequestState } from './store.js';

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
