/**
 * The broker that `transport-memory.ts` connects to: exchanges, queues and streams as RabbitMQ has them, as far as the port
 * shows them. It hands out later only, never from within a publish.
 */
import type { Clock, Soon } from './clock.js';
import {
  type Address,
  type Binding,
  type ConsumeOptions,
  type Exchange,
  type Message,
  type Queue,
  type Topology,
  TopologyError,
} from './transport.js';

/** A message in a queue. `order` is its place: what comes back goes where it was. */
export interface Entry {
  readonly message: Message;
  readonly exchange: string;
  readonly routingKey: string;
  readonly order: number;
  readonly at: number;
  readonly expiresAt: number;
  deliveries: number;
}

/** Somebody who takes entries from a queue, as the queue sees it. */
export interface Taker {
  readonly exclusive: boolean;
  hasRoom(): boolean;
  take(entry: Entry): void;
  /** The queue is gone. */
  lost(): void;
  /** Streams: the next order to take. */
  cursor: number;
}

export class MemoryQueue {
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
    for (
      let entry = this.entries[taker.cursor - first];
      entry !== undefined && taker.hasRoom();
      entry = this.entries[taker.cursor - first]
    ) {
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
    // With nobody connected nobody can tell whether it expired: a timer would only keep the process alive.
    if (head === undefined || head.expiresAt === Infinity || this.#broker.connections === 0) return;
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

export class Broker {
  readonly clock: Clock;
  readonly exchanges = new Map<string, Exchange>();
  readonly queues = new Map<string, MemoryQueue>();
  readonly #bindings = new Map<string, Map<string, Binding>>();
  readonly #awake = new Set<MemoryQueue>();
  readonly #soon: Soon;
  #privateQueues = 0;
  connections = 0;

  constructor(clock: Clock, soon: Soon) {
    this.clock = clock;
    this.#soon = soon;
  }

  declare(topology: Topology): void {
    for (const exchange of topology.exchanges) this.#declareExchange(exchange);
    for (const queue of topology.queues) this.#declareQueue(queue);
    for (const binding of topology.bindings) this.#bind(binding);
  }

  #declareExchange(exchange: Exchange): void {
    const there = this.exchanges.get(exchange.name);
    if (there !== undefined && (there.type !== exchange.type || there.alternate !== exchange.alternate)) {
      throw new TopologyError(
        `exchange ${exchange.name} is there with other properties: ${JSON.stringify(there)}, wanted ${JSON.stringify(exchange)}`,
      );
    }
    this.exchanges.set(exchange.name, exchange);
  }

  #declareQueue(queue: Queue): void {
    const there = this.queues.get(queue.name)?.spec;
    if (there === undefined) this.queues.set(queue.name, new MemoryQueue(this, queue));
    else if (!isSame(there, queue)) {
      throw new TopologyError(
        `queue ${queue.name} is there with other properties: ${JSON.stringify(there)}, wanted ${JSON.stringify(queue)}`,
      );
    }
  }

  #bind(binding: Binding): void {
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
    for (const binding of this.#bindings.get(exchange)?.values() ?? [])
      if (matches(spec, binding.routingKey, routingKey)) add(binding.queue);
    return found.size === 0 && spec.alternate !== undefined ? this.#queuesFor(spec.alternate, routingKey, seen.add(exchange)) : found;
  }

  /** Somebody connects (1), or closes (-1): time goes by for the queues while anybody is there. */
  connected(change: 1 | -1): void {
    this.connections += change;
    for (const queue of this.queues.values()) this.wake(queue);
  }

  /** A name for a queue that is one connection's own. */
  privateName(): string {
    return `amq.gen-${++this.#privateQueues}`;
  }

  /** Lets a queue hand out soon, and never at once: nobody is called from within a publish. */
  wake(queue: MemoryQueue): void {
    if (this.#awake.has(queue)) return;
    this.#awake.add(queue);
    this.#soon(() => {
      this.#awake.delete(queue);
      queue.pump();
    });
  }
}

/** As RabbitMQ compares: not what people read. */
const isSame = (one: Queue, other: Queue): boolean =>
  one.type === other.type &&
  one.ttlMs === other.ttlMs &&
  one.maxAge === other.maxAge &&
  one.deadLetter?.exchange === other.deadLetter?.exchange &&
  one.deadLetter?.routingKey === other.deadLetter?.routingKey &&
  (one.singleActive ?? false) === (other.singleActive ?? false);

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
