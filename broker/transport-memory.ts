/**
 * Transport in one process: the twin of `transport-amqp.ts` for tests and `--demo`. What a user of the port can see is
 * the same; nothing survives the process. One `memoryBroker` is one RabbitMQ: each hub or runner takes its own
 * connection, and what a closed connection had not acknowledged goes back to its queue.
 */
import { setMaxListeners } from 'node:events';
import { type Clock, nextTurn, pause, type Soon, systemClock } from './clock.js';
import { Declared } from './declared.js';
import { Broker, type Entry, type MemoryQueue, type Taker } from './memory-broker.js';
import { restMs } from './requeue.js';
import {
  type Address,
  type ConsumeOptions,
  type Consumer,
  type Delivery,
  type Handler,
  type HeaderValue,
  type Headers,
  type Message,
  PublishError,
  type PublishOptions,
  type Topology,
  TopologyError,
  type Transport,
  type TransportState,
} from './transport.js';

export interface MemoryBroker {
  connect(): Transport;
}

/** `soon`: when a queue that has something to hand out does so. Default: the next turn of the event loop. */
export function memoryBroker(options: { readonly clock?: Clock; readonly soon?: Soon } = {}): MemoryBroker {
  const broker = new Broker(options.clock ?? systemClock, options.soon ?? nextTurn);
  return { connect: () => new Connection(broker) };
}

/** What a connection knows of its consumers and subscriptions. */
interface Served extends Consumer {
  /** The connection closes: gives back what is unacknowledged without waiting. */
  drop(): void;
}

class Connection implements Transport {
  readonly #broker: Broker;
  readonly #served = new Set<Served>();
  readonly #listeners = new Set<(state: TransportState) => void>();
  readonly #declared = new Declared();
  #closed = false;

  constructor(broker: Broker) {
    this.#broker = broker;
    broker.connected(1);
  }

  async declare(topology: Topology): Promise<void> {
    this.#assertOpen();
    this.#broker.declare(topology);
    this.#declared.add(topology);
  }

  async removeQueue(name: string): Promise<void> {
    this.#assertOpen();
    this.#declared.forgetQueue(name);
    this.#broker.removeQueue(name);
  }

  async publish(to: Address, message: Message, { durable = true, mandatory = durable }: PublishOptions = {}): Promise<void> {
    if (this.#closed) throw new PublishError('unavailable', 'the transport is closed');
    const isUnknown = to.exchange !== '' && !this.#broker.exchanges.has(to.exchange);
    const isRouted = this.#broker.route(to, copyOf(message));
    if (!isRouted && (mandatory || (durable && isUnknown))) {
      throw new PublishError('unroutable', `no queue takes "${to.routingKey}" from exchange "${to.exchange}"`);
    }
  }

  async consume(queue: string, options: ConsumeOptions, handler: Handler): Promise<Consumer> {
    this.#assertOpen();
    const found = this.#broker.queues.get(queue);
    if (found === undefined) throw new TopologyError(`no queue ${queue} to consume from`);
    if (found.takers.some(({ exclusive }) => exclusive) || (options.exclusive === true && found.takers.length > 0)) {
      throw new TopologyError(`queue ${queue} has another consumer`);
    }
    const consumer = new MemoryConsumer(this.#broker, queue, options, handler, {
      restore: () => this.#broker.declare(this.#declared.all()),
      ended: (one) => void this.#served.delete(one),
    });
    this.#served.add(consumer);
    consumer.attach();
    return consumer;
  }

  async subscribe(exchange: string, routingKeys: readonly string[], listener: (delivery: Delivery) => void): Promise<Consumer> {
    this.#assertOpen();
    const name = this.#broker.privateName();
    if (!this.#broker.exchanges.has(exchange)) throw new TopologyError(`no exchange ${exchange} to subscribe to`);
    this.#broker.declare({
      exchanges: [],
      queues: [{ name, type: 'classic', about: `subscription to ${exchange}` }],
      bindings: routingKeys.map((routingKey) => ({ exchange, queue: name, routingKey })),
    });
    const drop = () => {
      this.#served.delete(served);
      this.#broker.removeQueue(name);
    };
    const served: Served = { drop, close: async () => drop() };
    const take = (entry: Entry) => {
      // At most once, whatever the listener makes of it: as over the wire.
      try {
        listener(deliveryOf(entry, 0, false));
      } catch {
        // Its own business.
      }
    };
    this.#broker.queues.get(name)?.attach({ exclusive: true, cursor: 0, hasRoom: () => true, take, lost: () => {} }, 'next');
    this.#served.add(served);
    return served;
  }

  async inspect(queue: string): Promise<{ readonly ready: number; readonly consumers: number } | undefined> {
    this.#assertOpen();
    const found = this.#broker.queues.get(queue);
    found?.expire();
    return found && { ready: found.entries.length, consumers: found.takers.length };
  }

  state(): TransportState {
    return this.#closed ? 'disconnected' : 'connected';
  }

  onState(listener: (state: TransportState) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#broker.connected(-1);
    for (const served of [...this.#served]) served.drop();
    for (const listener of this.#listeners) {
      try {
        listener('disconnected');
      } catch {
        // Its own business: what is closed stays closed.
      }
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new Error('the transport is closed');
  }
}

class MemoryConsumer implements Served, Taker {
  readonly exclusive: boolean;
  cursor = 0;
  readonly #broker: Broker;
  readonly #queueName: string;
  readonly #options: ConsumeOptions;
  readonly #handler: Handler;
  readonly #owner: { restore(): void; ended(consumer: MemoryConsumer): void };
  readonly #unacked = new Set<Entry>();
  readonly #stopping = new AbortController();
  #queue: MemoryQueue | undefined;
  #running = 0;
  #failedInARow = 0;
  #idle: () => void = () => {};

  constructor(
    broker: Broker,
    queueName: string,
    options: ConsumeOptions,
    handler: Handler,
    owner: { restore(): void; ended(consumer: MemoryConsumer): void },
  ) {
    this.#broker = broker;
    this.#queueName = queueName;
    this.#options = options;
    this.#handler = handler;
    this.#owner = owner;
    this.exclusive = options.exclusive === true;
    // Each delivery that rests after a failure listens to it, and takes its listener away.
    setMaxListeners(0, this.#stopping.signal);
  }

  attach(): void {
    this.#queue = this.#broker.queues.get(this.#queueName);
    this.#queue?.attach(this, this.#options.from);
  }

  hasRoom(): boolean {
    return this.#unacked.size < this.#options.prefetch;
  }

  take(entry: Entry): void {
    this.#unacked.add(entry);
    void this.#serve(entry);
  }

  lost(): void {
    this.#queue = undefined;
    this.#unacked.clear();
    void this.#reattach();
  }

  drop(): void {
    this.#stop();
    this.#owner.ended(this);
    for (const entry of [...this.#unacked]) this.#giveBack(entry);
  }

  async close(): Promise<void> {
    this.#stop();
    // Until then what its handlers hold goes back when the connection closes.
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    this.#owner.ended(this);
  }

  #stop(): void {
    this.#queue?.detach(this);
    this.#stopping.abort();
  }

  async #serve(entry: Entry): Promise<void> {
    const queue = this.#queue;
    this.#running++;
    try {
      await this.#handler(deliveryOf(entry, entry.deliveries, queue?.spec.type === 'stream'));
      this.#failedInARow = 0;
      this.#unacked.delete(entry);
    } catch {
      await pause(this.#broker.clock, restMs(++this.#failedInARow), this.#stopping.signal);
      if (queue === this.#queue) this.#giveBack(entry);
    }
    if (--this.#running === 0) this.#idle();
    if (queue !== undefined) this.#broker.wake(queue);
  }

  /** A stream does not take anything back: there the handler gets it again. */
  #giveBack(entry: Entry): void {
    if (!this.#unacked.delete(entry)) return;
    if (this.#queue?.spec.type !== 'stream') this.#queue?.giveBack(entry);
    else if (!this.#stopping.signal.aborted) this.take({ ...entry, deliveries: entry.deliveries + 1 });
  }

  async #reattach(): Promise<void> {
    for (let waitMs = 100; this.#queue === undefined; waitMs = 1_000) {
      await pause(this.#broker.clock, waitMs, this.#stopping.signal);
      if (this.#stopping.signal.aborted) return;
      const wasGone = !this.#broker.queues.has(this.#queueName);
      try {
        this.#owner.restore();
      } catch {
        // Somebody declared it otherwise meanwhile: look again, as over the wire.
      }
      this.attach();
      if (wasGone && this.#queue !== undefined) this.#options.restored?.();
    }
  }
}

function deliveryOf({ message, exchange, routingKey, order }: Entry, deliveries: number, isStream: boolean): Delivery {
  const redelivered = deliveries > 0;
  return {
    ...message,
    headers: message.headers ?? {},
    exchange,
    routingKey,
    redelivered,
    deliveries,
    ...(isStream ? { offset: order } : {}),
  };
}

/** What the wire would carry: the publisher may go on changing what it gave us, and undefined values are left out. */
function copyOf(message: Message): Message {
  const { headers, body, ...properties } = message;
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'string' && Buffer.byteLength(value) > 255) throw new RangeError(`${name} is longer than 255 bytes`);
  }
  const present = Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined));
  return { ...present, body: Buffer.from(body), ...(headers === undefined ? {} : { headers: copyOfTable(headers) }) };
}

function copyOfTable(table: { readonly [name: string]: HeaderValue }): Headers {
  const present = Object.entries(table).filter(([, value]) => value !== undefined);
  return Object.fromEntries(present.map(([name, value]) => [name, typeof value === 'object' ? structuredClone(value) : value]));
}
