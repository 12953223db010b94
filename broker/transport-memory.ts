/**
 * Transport in one process: the twin of `transport-amqp.ts` for tests and `--demo`. What a user of the port can see is
 * the same; nothing survives the process. One `memoryBroker` is one RabbitMQ: each hub or runner takes its own
 * connection, and what a closed connection had not acknowledged goes back to its queue.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Clock, pause, systemClock } from './clock.js';
import { restMs } from './requeue.js';
import {
  type Address,
  type Binding,
  type ConsumeOptions,
  type Consumer,
  type Delivery,
  type Exchange,
  type Handler,
  type HeaderValue,
  type Headers,
  type Message,
  PublishError,
  type PublishOptions,
  type Queue,
  type Topology,
  TopologyError,
  type Transport,
  type TransportState,
} from './transport.js';

export interface MemoryBroker {
  connect(): Transport;
}

export function memoryBroker(options: { readonly clock?: Clock } = {}): MemoryBroker {
  const broker = new Broker(options.clock ?? systemClock);
  return { connect: () => new Connection(broker) };
}

/** A message in a queue. `order` is its place: what comes back goes where it was. */
interface Entry {
  readonly message: Message;
  readonly exchange: string;
  readonly routingKey: string;
  readonly order: number;
  readonly at: number;
  readonly expiresAt: number;
  deliveries: number;
}

/** Somebody who takes entries from a queue, as the queue sees it. */
interface Taker {
  readonly exclusive: boolean;
  hasRoom(): boolean;
  take(entry: Entry): void;
  /** The queue is gone. */
  lost(): void;
  /** Streams: the next order to take. */
  cursor: number;
}

class MemoryQueue {
  readonly spec: Queue;
  readonly takers: Taker[] = [];
  /** Ready entries in order; on a stream, all that are kept. */
  readonly entries: Entry[] = [];
  #broker: Broker;
  #nextOrder = 0;
  #cancelExpiry: () => void = () => {};
  #removed = false;

  constructor(broker: Broker, spec: Queue) {
    this.#broker = broker;
    this.spec = spec;
  }

  /** Where the next entry of a stream will be. */
  get end(): number {
    return this.#nextOrder;
  }

  add(message: Message, exchange: string, routingKey: string): void {
    const now = this.#broker.clock.now();
    const lifeMs = Math.min(this.spec.ttlMs ?? Infinity, message.expirationMs ?? Infinity);
    this.entries.push({ message, exchange, routingKey, order: this.#nextOrder++, at: now, expiresAt: now + lifeMs, deliveries: 0 });
    if (this.spec.type === 'stream') this.#forgetOld(now);
    this.#broker.wake(this);
  }

  /** Takes back what was handed out and not acknowledged. */
  giveBack(entry: Entry): void {
    if (this.#removed) return;
    entry.deliveries++;
    const place = this.entries.findIndex(({ order }) => order > entry.order);
    this.entries.splice(place < 0 ? this.entries.length : place, 0, entry);
    this.#broker.wake(this);
  }

  attach(taker: Taker, from: ConsumeOptions['from']): void {
    taker.cursor = this.#position(from ?? 'next');
    this.takers.push(taker);
    this.#broker.wake(this);
  }

  detach(taker: Taker): void {
    const place = this.takers.indexOf(taker);
    if (place >= 0) this.takers.splice(place, 1);
    this.#broker.wake(this);
  }

  remove(): void {
    this.#removed = true;
    this.#cancelExpiry();
    this.entries.length = 0;
    for (const taker of this.takers.splice(0)) taker.lost();
  }

  /** Hands out what can be handed out now. Called by the broker only, never from within a publish. */
  pump(): void {
    if (this.spec.type === 'stream') for (const taker of this.takers) this.#read(taker);
    else this.#handOut();
  }

  #handOut(): void {
    this.expire();
    const takers = this.spec.singleActive ? this.takers.slice(0, 1) : this.takers;
    while (this.entries.length > 0) {
      const taker = takers.find((one) => one.hasRoom());
      if (taker === undefined) break;
      // Round robin: who took goes to the end of the row (a single active one keeps its place).
      if (!this.spec.singleActive) this.takers.push(...this.takers.splice(this.takers.indexOf(taker), 1));
      taker.take(this.entries.shift() as Entry);
    }
    this.#watchExpiry();
  }

  #read(taker: Taker): void {
    const first = this.entries[0]?.order ?? this.#nextOrder;
    if (taker.cursor < first) taker.cursor = first;
    for (let entry = this.entries[taker.cursor - first]; entry !== undefined && taker.hasRoom(); entry = this.entries[taker.cursor - first]) {
      taker.cursor++;
      taker.take({ ...entry });
    }
  }

  #position(from: NonNullable<ConsumeOptions['from']>): number {
    if (from === 'next') return this.#nextOrder;
    if (from === 'first') return 0;
    return this.entries.find(({ at }) => at >= from)?.order ?? this.#nextOrder;
  }

  /** Like RabbitMQ, looks at the head only: an entry behind one that lives longer waits for it. */
  expire(): void {
    if (this.spec.type === 'stream') return;
    for (let head = this.entries[0]; head !== undefined && head.expiresAt <= this.#broker.clock.now(); head = this.entries[0]) {
      // At least once: a dead letter that has nowhere to go stays.
      if (!this.#bury(head)) return;
      this.entries.shift();
    }
  }

  #bury(entry: Entry): boolean {
    const { deadLetter } = this.spec;
    if (deadLetter === undefined) return true;
    const { expirationMs: _spent, ...message } = entry.message;
    const death = { count: 1, reason: 'expired', queue: this.spec.name, exchange: entry.exchange, 'routing-keys': [entry.routingKey] };
    const headers = { ...message.headers, 'x-death': [death], 'x-first-death-queue': this.spec.name, 'x-first-death-reason': 'expired' };
    const to = { exchange: deadLetter.exchange, routingKey: deadLetter.routingKey ?? entry.routingKey };
    return this.#broker.route(to, { ...message, headers });
  }

  #watchExpiry(): void {
    this.#cancelExpiry();
    const head = this.entries[0];
    if (head === undefined || head.expiresAt === Infinity) return;
    const now = this.#broker.clock.now();
    const waitMs = head.expiresAt <= now ? 1_000 : head.expiresAt - now;
    this.#cancelExpiry = this.#broker.clock.after(waitMs, () => this.#broker.wake(this));
  }

  #forgetOld(now: number): void {
    const keepMs = ageMs(this.spec.maxAge);
    while (this.entries.length > 1 && (this.entries[0] as Entry).at < now - keepMs) this.entries.shift();
  }
}

/** `7D` → ms, as RabbitMQ writes ages. */
function ageMs(age: string | undefined): number {
  const [, count, unit] = /^(\d+)([YMDhms])$/.exec(age ?? '') ?? [];
  const seconds = { Y: 31_536_000, M: 2_592_000, D: 86_400, h: 3_600, m: 60, s: 1 }[unit ?? ''];
  return seconds === undefined ? Infinity : Number(count) * seconds * 1_000;
}

class Broker {
  readonly clock: Clock;
  readonly exchanges = new Map<string, Exchange>();
  readonly queues = new Map<string, MemoryQueue>();
  readonly #bindings = new Map<string, Map<string, Binding>>();
  readonly #awake = new Set<MemoryQueue>();

  constructor(clock: Clock) {
    this.clock = clock;
  }

  declare(topology: Topology): void {
    for (const exchange of topology.exchanges) this.#declareExchange(exchange);
    for (const queue of topology.queues) this.#declareQueue(queue);
    for (const binding of topology.bindings) this.bind(binding);
  }

  #declareExchange(exchange: Exchange): void {
    const there = this.exchanges.get(exchange.name);
    if (there !== undefined && (there.type !== exchange.type || there.alternate !== exchange.alternate)) {
      throw new TopologyError(`exchange ${exchange.name} is there with other properties: ${JSON.stringify(there)}, wanted ${JSON.stringify(exchange)}`);
    }
    this.exchanges.set(exchange.name, exchange);
  }

  #declareQueue(queue: Queue): void {
    const there = this.queues.get(queue.name)?.spec;
    if (there === undefined) this.queues.set(queue.name, new MemoryQueue(this, queue));
    else if (!isDeepStrictEqual({ ...there, about: '' }, { ...queue, about: '' })) {
      throw new TopologyError(`queue ${queue.name} is there with other properties: ${JSON.stringify(there)}, wanted ${JSON.stringify(queue)}`);
    }
  }

  bind(binding: Binding): void {
    if (!this.exchanges.has(binding.exchange)) throw new TopologyError(`cannot bind ${binding.queue}: no exchange ${binding.exchange}`);
    if (!this.queues.has(binding.queue)) throw new TopologyError(`cannot bind to ${binding.exchange}: no queue ${binding.queue}`);
    const bindings = this.#bindings.get(binding.exchange) ?? new Map<string, Binding>();
    this.#bindings.set(binding.exchange, bindings.set(`${binding.queue}\n${binding.routingKey}`, binding));
  }

  removeQueue(name: string): void {
    for (const bindings of this.#bindings.values()) {
      for (const [key, { queue }] of bindings) if (queue === name) bindings.delete(key);
    }
    const queue = this.queues.get(name);
    this.queues.delete(name);
    queue?.remove();
  }

  /** False when no queue took it. */
  route(to: Address, message: Message): boolean {
    const queues = this.#queuesFor(to.exchange, to.routingKey, new Set());
    for (const queue of queues) queue.add(message, to.exchange, to.routingKey);
    return queues.size > 0;
  }

  #queuesFor(exchange: string, routingKey: string, seen: Set<string>): Set<MemoryQueue> {
    const found = new Set<MemoryQueue>();
    const add = (name: string) => {
      const queue = this.queues.get(name);
      if (queue !== undefined) found.add(queue);
    };
    if (exchange === '') {
      add(routingKey);
      return found;
    }
    const spec = this.exchanges.get(exchange);
    if (spec === undefined || seen.has(exchange)) return found;
    for (const binding of this.#bindings.get(exchange)?.values() ?? []) if (matches(spec, binding.routingKey, routingKey)) add(binding.queue);
    return found.size === 0 && spec.alternate !== undefined ? this.#queuesFor(spec.alternate, routingKey, seen.add(exchange)) : found;
  }

  /** Lets a queue hand out in the next turn of the event loop, so that nobody is called from within a publish. */
  wake(queue: MemoryQueue): void {
    if (this.#awake.size === 0) setImmediate(() => this.#pump());
    this.#awake.add(queue);
  }

  #pump(): void {
    const queues = [...this.#awake];
    this.#awake.clear();
    for (const queue of queues) queue.pump();
  }
}

function matches(exchange: Exchange, pattern: string, routingKey: string): boolean {
  if (exchange.type === 'fanout') return true;
  if (exchange.type === 'direct') return pattern === routingKey;
  return topicMatches(words(pattern), words(routingKey));
}

const words = (key: string): readonly string[] => (key === '' ? [] : key.split('.'));

/** `*` stands for one word, `#` for any number of words. */
function topicMatches([head, ...rest]: readonly string[], key: readonly string[]): boolean {
  if (head === undefined) return key.length === 0;
  if (head === '#') return topicMatches(rest, key) || (key.length > 0 && topicMatches([head, ...rest], key.slice(1)));
  return key.length > 0 && (head === '*' || head === key[0]) && topicMatches(rest, key.slice(1));
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
  readonly #declared: Topology[] = [];
  #removed = new Set<string>();
  #closed = false;

  constructor(broker: Broker) {
    this.#broker = broker;
  }

  async declare(topology: Topology): Promise<void> {
    this.#assertOpen();
    this.#broker.declare(topology);
    for (const queue of topology.queues) this.#removed.delete(queue.name);
    this.#declared.push(topology);
  }

  async removeQueue(name: string): Promise<void> {
    this.#assertOpen();
    this.#removed.add(name);
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
      restore: () => this.#restore(),
      ended: (one) => void this.#served.delete(one),
    });
    this.#served.add(consumer);
    consumer.attach();
    return consumer;
  }

  async subscribe(exchange: string, routingKeys: readonly string[], listener: (delivery: Delivery) => void): Promise<Consumer> {
    this.#assertOpen();
    const name = `amq.gen-${nextName++}`;
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
      // At most once, and a listener that throws is its own business: as over the wire.
      try {
        listener(deliveryOf(entry, 0, false));
      } catch {}
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
    for (const served of [...this.#served]) served.drop();
    for (const listener of this.#listeners) listener('disconnected');
  }

  /** After a queue was deleted under a consumer: declares again what this connection remembers. */
  #restore(): void {
    for (const { exchanges, queues, bindings } of this.#declared) {
      this.#broker.declare({
        exchanges,
        queues: queues.filter(({ name }) => !this.#removed.has(name)),
        bindings: bindings.filter(({ queue }) => !this.#removed.has(queue)),
      });
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new Error('the transport is closed');
  }
}

let nextName = 1;

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
  #failedInARow = 0;
  #dropped = false;
  #drained: () => void = () => {};

  constructor(broker: Broker, queueName: string, options: ConsumeOptions, handler: Handler, owner: { restore(): void; ended(consumer: MemoryConsumer): void }) {
    this.#broker = broker;
    this.#queueName = queueName;
    this.#options = options;
    this.#handler = handler;
    this.#owner = owner;
    this.exclusive = options.exclusive === true;
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
    if (this.#dropped) return;
    this.#dropped = true;
    this.#stop();
    for (const entry of [...this.#unacked]) this.#giveBack(entry);
  }

  async close(): Promise<void> {
    this.#stop();
    if (this.#unacked.size > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
  }

  #stop(): void {
    this.#queue?.detach(this);
    this.#stopping.abort();
    this.#owner.ended(this);
  }

  async #serve(entry: Entry): Promise<void> {
    const queue = this.#queue;
    try {
      await this.#handler(deliveryOf(entry, entry.deliveries, queue?.spec.type === 'stream'));
      this.#failedInARow = 0;
      this.#unacked.delete(entry);
    } catch {
      await pause(this.#broker.clock, restMs(++this.#failedInARow), this.#stopping.signal);
      if (queue === this.#queue) this.#giveBack(entry);
    }
    if (this.#unacked.size === 0) this.#drained();
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
      try {
        this.#owner.restore();
      } catch {
        // Somebody declared it otherwise meanwhile: look again, as over the wire.
      }
      this.attach();
    }
  }
}

function deliveryOf({ message, exchange, routingKey, order }: Entry, deliveries: number, isStream: boolean): Delivery {
  const redelivered = deliveries > 0;
  return { ...message, headers: message.headers ?? {}, exchange, routingKey, redelivered, deliveries, ...(isStream ? { offset: order } : {}) };
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
  return structuredClone(Object.fromEntries(Object.entries(table).filter(([, value]) => value !== undefined)));
}
