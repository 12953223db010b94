/**
 * Port to the broker (EIP: Message Channel, Guaranteed Delivery, Dead Letter Channel). Two implementations:
 * `transport-amqp.ts` (RabbitMQ) and `transport-memory.ts`; `test/contract/transport.ts` runs on both.
 */

/** A header's value, as far as AMQP 0-9-1 tables carry it through both implementations. */
export type HeaderValue = string | number | boolean | null | readonly HeaderValue[] | { readonly [name: string]: HeaderValue };
export type Headers = Readonly<Record<string, HeaderValue>>;

/** A message as it is on the wire: the body untouched, and the standard AMQP 0-9-1 properties by their usual names. */
export interface Message {
  readonly body: Buffer;
  readonly messageId?: string;
  readonly correlationId?: string;
  readonly replyTo?: string;
  readonly type?: string;
  readonly contentType?: string;
  readonly contentEncoding?: string;
  /** Unix time in seconds (AMQP has no finer one). */
  readonly timestamp?: number;
  /** Life in the queue, ms. */
  readonly expirationMs?: number;
  readonly priority?: number;
  readonly appId?: string;
  readonly userId?: string;
  readonly headers?: Headers;
}

export interface Delivery extends Message {
  readonly headers: Headers;
  readonly exchange: string;
  readonly routingKey: string;
  readonly redelivered: boolean;
  /** How many times the broker has handed this message out before (0 the first time), as far as it counts. */
  readonly deliveries: number;
  /** Only on a stream: position in it. */
  readonly offset?: number;
}

/** Where a message is published. `exchange: ''` is the default exchange: the routing key names a queue. */
export interface Address {
  readonly exchange: string;
  readonly routingKey: string;
}

export interface PublishOptions {
  /** Default true: persistent, mandatory and confirmed. False: transient, fire and forget (volatile flows, control). */
  readonly durable?: boolean;
  /** Default: same as `durable`. False allows that no queue is bound (events that nobody listens to). */
  readonly mandatory?: boolean;
}

/**
 * Why a message is not known to be with the broker.
 * - `unavailable`: nothing was sent, since the broker is away or has blocked publishers. Nothing can have happened.
 * - `unroutable`: the broker had no queue for it. Nothing can have happened.
 * - `nacked`: the broker refused it (full queue).
 * - `unknown`: sent, but neither confirmed nor refused in time: it may or may not be there. Publish it again under the
 *   same id.
 */
export type PublishFailure = 'unavailable' | 'unroutable' | 'nacked' | 'unknown';

export class PublishError extends Error {
  readonly failure: PublishFailure;
  constructor(failure: PublishFailure, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'PublishError';
    this.failure = failure;
  }
}

/** The broker has something under this name with other properties, or refuses it. Says what, and how to mend it. */
export class TopologyError extends Error {
  override readonly name = 'TopologyError';
}

export interface Exchange {
  readonly name: string;
  readonly type: 'direct' | 'topic' | 'fanout';
  /** Where messages go that no queue is bound for. */
  readonly alternate?: string;
}

export interface Queue {
  readonly name: string;
  readonly type: 'quorum' | 'stream' | 'classic';
  /** One sentence that the RabbitMQ UI shows. */
  readonly about: string;
  /** Messages stay this long and are then dead-lettered. */
  readonly ttlMs?: number;
  /** Where dead letters go (quorum: at least once). Without `routingKey` they keep their own. */
  readonly deadLetter?: { readonly exchange: string; readonly routingKey?: string };
  /** One consumer at a time, others stand by: keeps order. */
  readonly singleActive?: boolean;
  /** Streams: how long entries are kept, as RabbitMQ writes it: `7D`, `12h`. */
  readonly maxAge?: string;
}

export interface Binding {
  readonly exchange: string;
  readonly queue: string;
  readonly routingKey: string;
}

export interface Topology {
  readonly exchanges: readonly Exchange[];
  readonly queues: readonly Queue[];
  readonly bindings: readonly Binding[];
}

export interface ConsumeOptions {
  /** How many deliveries may be unacknowledged at once. */
  readonly prefetch: number;
  /** Human text for the Consumers table of the RabbitMQ UI; the transport makes it unique. */
  readonly tag: string;
  /**
   * Acknowledgements may come some milliseconds late, many at once: cheaper, and more is delivered again when this process dies.
   */
  readonly lazy?: boolean;
  /** Refuse to consume beside another consumer. */
  readonly exclusive?: boolean;
  /** Streams only: where to begin. `first`, `next` (only what comes from now on), or a time (ms since 1970). */
  readonly from?: 'first' | 'next' | number;
  /** Called when this consumer found its queue gone and has declared it again: what was in it is lost. */
  readonly restored?: () => void;
}

export interface Consumer {
  /** Takes no more deliveries, waits until the running handlers have ended and were acknowledged. */
  close(): Promise<void>;
}

/**
 * Resolving acknowledges the delivery. Rejecting gives it back to its queue after a short pause, to be delivered again;
 * nothing is ever lost by a throwing handler, and nothing spins.
 */
export type Handler = (delivery: Delivery) => Promise<void>;

/** `connected`; `blocked`: connected, but the broker takes no messages (memory or disk alarm); `disconnected`. */
export type TransportState = 'connected' | 'blocked' | 'disconnected';

export interface Transport {
  /** Declares what is missing. Remembered: declared again after each reconnect. Rejects with TopologyError. */
  declare(topology: Topology): Promise<void>;
  /** Removes queues (for tests and for retiring a hub's reply queue); a missing one is fine. */
  removeQueue(name: string): Promise<void>;
  /** Resolves once the broker has stored the message in every queue it was routed to; rejects with PublishError. */
  publish(to: Address, message: Message, options?: PublishOptions): Promise<void>;
  /**
   * Hands out the queue's messages, up to `prefetch` at once. Goes on by itself after a lost connection, a closed
   * channel, a cancelled consumer or a deleted queue (which is declared again).
   */
  consume(queue: string, options: ConsumeOptions, handler: Handler): Promise<Consumer>;
  /**
   * A private, temporary queue bound to an exchange: every subscriber gets each message, at most once, only while it
   * listens. For control messages and event watchers.
   */
  subscribe(exchange: string, routingKeys: readonly string[], listener: (delivery: Delivery) => void): Promise<Consumer>;
  /** What the broker says of a queue; undefined when there is none. */
  inspect(queue: string): Promise<{ readonly ready: number; readonly consumers: number } | undefined>;
  state(): TransportState;
  /** Tells each change of state; returns how to stop listening. */
  onState(listener: (state: TransportState) => void): () => void;
  /** Waits for publishes under way (at most 5 s), closes everything. Afterwards every call rejects. */
  close(): Promise<void>;
}
