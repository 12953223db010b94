/**
 * The consuming half of `transport-amqp.ts`: whatever listens has a channel of its own, and gets a new one whenever that is
 * lost, cancelled or closed. A delivery is settled on the channel it came by, once, or not at all when that is gone: then
 * the broker has given it back already.
 */
import { type AmqpConnection, answerMs, type Channel, type ConsumeMessage, type Log, type Session, within } from './amqp-connection.js';
import { asTopologyError, replyCode } from './amqp-topology.js';
import { pause, systemClock } from './clock.js';
import { restMs } from './requeue.js';
import { type ConsumeOptions, type Consumer, type Delivery, type Handler, type Headers, TopologyError } from './transport.js';

/** How long it is tried for the first time. An exclusive consumer waits for our own old connection to be gone. */
const firstAttachMs = 20_000;
const firstRetryMs = 100;
const longestRetryMs = 5_000;
/** What is lost sooner than this after it was attached is not tried again at once. */
const shortLifeMs = 1_000;

export interface ConsumerContext {
  readonly connection: AmqpConnection;
  readonly log: Log;
  /** Declares the remembered topology again. */
  restore(session: Session): Promise<void>;
  /** Queues that a consumer of this transport has for itself. */
  readonly held: Set<string>;
}

/** A channel that somebody listens on. */
interface Live {
  readonly session: Session;
  readonly channel: Channel;
  /** Resolves when the channel is closed, or when `end` says that it is of no use any more. */
  readonly ended: Promise<Error>;
  end(error: Error): void;
  isOpen(): boolean;
  close(): Promise<void>;
  /** Deliveries in the hands of handlers. */
  running: number;
  /** Nothing more is taken from it; it is closed when nothing runs. */
  isLeft: boolean;
}

async function openLive(session: Session): Promise<Live> {
  const channel = await session.channel();
  let isOpen = true;
  let end: (error: Error) => void = () => {};
  const ended = new Promise<Error>((resolve) => (end = resolve));
  channel.on('error', end);
  channel.on('close', () => {
    isOpen = false;
    end(new Error('channel closed'));
  });
  const close = async () => {
    // It may be gone, and everything on it with it: that is what was wanted.
    if (isOpen) await within(answerMs, 'closing a channel', channel.close()).catch(() => {});
  };
  return { session, channel, ended, end, isOpen: () => isOpen, close, running: 0, isLeft: false };
}

/** Keeps something listening: attaches it, and attaches it again after every loss, until stopped. */
class Attachment {
  /** Aborts when it shall listen no more. */
  readonly stopping = new AbortController();
  live: Live | undefined;
  readonly #what: string;
  readonly #context: ConsumerContext;
  readonly #listen: (live: Live) => Promise<void>;
  #over: Promise<void> = Promise.resolve();

  /** `listen` makes the broker send to the fresh channel; its refusals by reply code are final at the first time. */
  constructor(what: string, context: ConsumerContext, listen: (live: Live) => Promise<void>) {
    this.#what = what;
    this.#context = context;
    this.#listen = listen;
  }

  /** Resolves when it listens for the first time; rejects when it cannot be had within 20 s, or is refused. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#over = this.#keep(resolve, reject);
    });
  }

  /** It takes nothing more from now on. What it listened on stays open for what is still to be acknowledged. */
  stop(): void {
    this.stopping.abort();
    this.live?.end(new Error('stopped'));
  }

  /** Resolves when nothing of it goes on in the background. */
  over(): Promise<void> {
    return this.#over;
  }

  async #keep(listens: () => void, refused: (error: unknown) => void): Promise<void> {
    const { signal } = this.stopping;
    const giveUpAt = Date.now() + firstAttachMs;
    let isFirst = true;
    for (let waitMs = 0; !signal.aborted; await pause(systemClock, waitMs, signal)) {
      const longerMs = Math.min(longestRetryMs, Math.max(firstRetryMs, waitMs * 2));
      try {
        const live = await this.#attach();
        if (signal.aborted) return void live.close();
        this.live = live;
        isFirst = false;
        listens();
        const since = Date.now();
        const error = await live.ended;
        live.isLeft = true;
        if (signal.aborted) return;
        if (live.running === 0) void live.close();
        waitMs = Date.now() - since < shortLifeMs ? longerMs : 0;
        this.#context.log('consumer.lost', { consumer: this.#what, error });
      } catch (error) {
        waitMs = isHeld(error) ? 500 : longerMs;
        const isFinal = (replyCode(error) !== undefined && !isHeld(error)) || Date.now() + waitMs > giveUpAt;
        if (isFirst && isFinal) return refused(this.#refusal(error));
        if (!signal.aborted) this.#context.log('consumer.refused', { consumer: this.#what, error });
      }
    }
    refused(new Error('the transport is closed'));
  }

  async #attach(): Promise<Live> {
    const session = await this.#context.connection.up(answerMs, this.stopping.signal);
    try {
      return await this.#listening(session);
    } catch (error) {
      if (replyCode(error) !== 404) throw error;
      // A queue or an exchange of ours was deleted: have it back.
      await this.#context.restore(session);
      return await this.#listening(session);
    }
  }

  async #listening(session: Session): Promise<Live> {
    const live = await openLive(session);
    try {
      await this.#listen(live);
      return live;
    } catch (error) {
      live.isLeft = true;
      void live.close();
      throw error;
    }
  }

  #refusal(error: unknown): unknown {
    if (!isHeld(error)) return asTopologyError(error, this.#what, 'declare it before it is consumed');
    return new TopologyError(`${this.#what} has another consumer: does a second process run under the same name? Give each its own`, { cause: error });
  }
}

/** Is it refused because somebody else consumes? That may be our own old connection, which the broker still believes in. */
function isHeld(error: unknown): boolean {
  return replyCode(error) === 405 || (replyCode(error) === 403 && /exclusive use/.test(String(error)));
}

export interface AmqpConsumer extends Consumer {
  /** Stops without waiting for the handlers: the connection is about to be closed. */
  drop(): void;
}

/** A private queue for each connection: what is published while there is none is not for us. */
export async function subscribe(exchange: string, routingKeys: readonly string[], listener: (delivery: Delivery) => void, context: ConsumerContext): Promise<AmqpConsumer> {
  const attachment = new Attachment(`subscription to exchange ${exchange}`, context, async (live) => {
    const { channel } = live;
    const about = `private copy of what goes to ${exchange}`;
    const declared = channel.assertQueue('', { exclusive: true, autoDelete: true, durable: false, arguments: { about } });
    const { queue } = await within(answerMs, 'declaring a private queue', declared);
    for (const key of routingKeys) await within(answerMs, `binding to ${exchange}`, channel.bindQueue(queue, exchange, key));
    const take = (message: ConsumeMessage | null) => {
      if (message === null) return live.end(new Error('RabbitMQ cancelled the subscription'));
      if (attachment.stopping.signal.aborted) return;
      try {
        listener(deliveryOf(message));
      } catch (error) {
        context.log('subscriber.failed', { exchange, error });
      }
    };
    await within(answerMs, `subscribing to ${exchange}`, channel.consume(queue, take, { noAck: true }));
  });
  await attachment.start();
  const close = async () => {
    attachment.stop();
    await attachment.live?.close();
    await attachment.over();
  };
  return { drop: () => attachment.stop(), close };
}

export async function consume(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext): Promise<AmqpConsumer> {
  const consumer = new QueueConsumer(queue, options, handler, context);
  await consumer.start();
  return consumer;
}

let nextTag = 1;

class QueueConsumer implements AmqpConsumer {
  readonly #queue: string;
  readonly #options: ConsumeOptions;
  readonly #handler: Handler;
  readonly #context: ConsumerContext;
  readonly #attachment: Attachment;
  readonly #position: StreamPosition;
  readonly #tags = new WeakMap<Live, string>();
  #running = 0;
  #failedInARow = 0;
  #idle: () => void = () => {};
  #closed: Promise<void> | undefined;

  constructor(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext) {
    this.#queue = queue;
    this.#options = options;
    this.#handler = handler;
    this.#context = context;
    this.#position = new StreamPosition(options.from);
    this.#attachment = new Attachment(`queue ${queue}`, context, (live) => this.#listen(live));
  }

  async start(): Promise<void> {
    const { held } = this.#context;
    if (this.#options.exclusive === true && held.has(this.#queue)) throw new TopologyError(`queue ${this.#queue} has another consumer in this process`);
    if (this.#options.exclusive === true) held.add(this.#queue);
    try {
      await this.#attachment.start();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  drop(): void {
    this.#attachment.stop();
  }

  async #close(): Promise<void> {
    const { live } = this.#attachment;
    this.#attachment.stop();
    const tag = live && this.#tags.get(live);
    // When the channel is gone, so is what was to be cancelled.
    if (live?.isOpen() === true && tag !== undefined) await within(answerMs, 'cancelling', live.channel.cancel(tag)).catch(() => {});
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    await live?.close();
    await this.#attachment.over();
    if (this.#options.exclusive === true) await this.#release();
  }

  async #listen(live: Live): Promise<void> {
    const { prefetch, tag, exclusive = false } = this.#options;
    const { channel } = live;
    if (exclusive) await this.#hold(live.session);
    await within(answerMs, 'setting the prefetch', channel.prefetch(prefetch));
    const take = (message: ConsumeMessage | null) => {
      if (message === null) live.end(new Error('RabbitMQ cancelled the consumer: was the queue deleted?'));
      else this.#take(live, message);
    };
    const consumerTag = `${tag}#${nextTag++}`;
    const from = this.#position.startOver();
    const args = from === undefined ? {} : { 'x-stream-offset': from };
    this.#tags.set(live, consumerTag);
    await within(answerMs, `consuming ${this.#queue}`, channel.consume(this.#queue, take, { consumerTag, exclusive, arguments: args }));
  }

  /**
   * Quorum queues take any number of consumers, exclusive or not [RabbitMQ 3.10.8, tried]. What the broker does keep
   * exclusive is a queue, as long as its connection lives: so we hold one beside it.
   */
  async #hold(session: Session): Promise<void> {
    const channel = await session.channel();
    const about = `held by the one consumer of ${this.#queue}`;
    await within(answerMs, `holding ${this.#queue}`, channel.assertQueue(holderOf(this.#queue), { exclusive: true, durable: false, arguments: { about } }));
    const { consumerCount } = await within(answerMs, `looking at ${this.#queue}`, channel.checkQueue(this.#queue));
    await within(answerMs, 'closing a channel', channel.close());
    if (consumerCount > 0) throw Object.assign(new Error(`queue ${this.#queue} has ${consumerCount} consumers`), { code: 405 });
  }

  async #release(): Promise<void> {
    this.#context.held.delete(this.#queue);
    const session = this.#context.connection.session();
    try {
      const channel = await session?.channel();
      if (channel !== undefined) await within(answerMs, 'letting go', channel.deleteQueue(holderOf(this.#queue)).then(() => channel.close()));
    } catch {
      // Somebody else holds it, or the connection is gone and the broker has let go by itself.
    }
  }

  #take(live: Live, message: ConsumeMessage): void {
    // Nobody waits for what a failed attempt to listen still brings.
    if (live.isLeft) return;
    if (this.#attachment.stopping.signal.aborted) return this.#settle(live, message, false);
    live.running++;
    this.#running++;
    void this.#serve(live, message);
  }

  async #serve(live: Live, message: ConsumeMessage): Promise<void> {
    const { signal } = this.#attachment.stopping;
    let delivery = deliveryOf(message);
    this.#position.took(delivery);
    let isDone = await this.#handled(delivery);
    // A stream takes nothing back: there the handler gets it again.
    while (!isDone && delivery.offset !== undefined && !signal.aborted && live.isOpen()) {
      delivery = { ...delivery, redelivered: true, deliveries: delivery.deliveries + 1 };
      isDone = await this.#handled(delivery);
    }
    if (isDone) this.#position.settled(delivery);
    if (isDone || delivery.offset === undefined) this.#settle(live, message, isDone);
    if (--live.running === 0 && live.isLeft && !signal.aborted) void live.close();
    if (--this.#running === 0) this.#idle();
  }

  /** Never rejects. After a failure it rests, so that a message that always fails does not spin. */
  async #handled(delivery: Delivery): Promise<boolean> {
    try {
      await this.#handler(delivery);
      this.#failedInARow = 0;
      return true;
    } catch (error) {
      const { messageId, deliveries } = delivery;
      this.#context.log('handler.failed', { queue: this.#queue, messageId, deliveries, error });
      await pause(systemClock, restMs(++this.#failedInARow), this.#attachment.stopping.signal);
      return false;
    }
  }

  #settle(live: Live, message: ConsumeMessage, isDone: boolean): void {
    if (!live.isOpen()) return;
    try {
      if (isDone) live.channel.ack(message);
      // Not reject: from RabbitMQ 4.3 on a nack does not count towards a delivery limit, so nothing is dropped for it.
      else live.channel.nack(message, false, true);
      live.session.coalesce();
    } catch {
      // The channel is closing: the broker gives the message back.
    }
  }
}

const holderOf = (queue: string): string => `${queue}.holder`;

/** Where in a stream to go on. */
class StreamPosition {
  readonly #from: ConsumeOptions['from'];
  readonly #unsettled = new Set<number>();
  #next: number | undefined;
  #since: number | undefined;

  constructor(from: ConsumeOptions['from']) {
    this.#from = from;
  }

  /** The argument `x-stream-offset` for a new attempt: after the last entry before which all are acknowledged. */
  startOver(): string | number | object | undefined {
    const lowest = Math.min(...this.#unsettled, this.#next ?? Infinity);
    this.#unsettled.clear();
    if (lowest !== Infinity) return (this.#next = lowest);
    if (this.#from === undefined || this.#from === 'first') return this.#from;
    // Once it listened, `next` means what came since then: while it was cut off, too. A time has whole seconds only.
    const since = this.#from === 'next' ? this.#since : this.#from;
    this.#since ??= Date.now();
    return since === undefined ? 'next' : { '!': 'timestamp', value: Math.floor(since / 1_000) };
  }

  took({ offset }: Delivery): void {
    if (offset === undefined) return;
    this.#unsettled.add(offset);
    this.#next = Math.max(this.#next ?? 0, offset + 1);
  }

  settled({ offset }: Delivery): void {
    if (offset !== undefined) this.#unsettled.delete(offset);
  }
}

/** Message without `readonly`, to be filled field by field: absent properties shall be absent. */
type Draft = { -readonly [Name in keyof Delivery]: Delivery[Name] };

function deliveryOf({ content, fields, properties }: ConsumeMessage): Delivery {
  const headers = headersOf(properties.headers);
  const { exchange, routingKey, redelivered } = fields;
  const delivery: Draft = { body: content, headers, exchange, routingKey, redelivered, deliveries: deliveriesOf(headers, redelivered) };
  if (properties.messageId !== undefined) delivery.messageId = properties.messageId;
  if (properties.correlationId !== undefined) delivery.correlationId = properties.correlationId;
  if (properties.replyTo !== undefined) delivery.replyTo = properties.replyTo;
  if (properties.type !== undefined) delivery.type = properties.type;
  if (properties.contentType !== undefined) delivery.contentType = properties.contentType;
  if (properties.contentEncoding !== undefined) delivery.contentEncoding = properties.contentEncoding;
  if (properties.timestamp !== undefined) delivery.timestamp = properties.timestamp;
  if (properties.expiration !== undefined) delivery.expirationMs = Number(properties.expiration);
  if (properties.priority !== undefined) delivery.priority = properties.priority;
  if (properties.appId !== undefined) delivery.appId = properties.appId;
  if (properties.userId !== undefined) delivery.userId = properties.userId;
  const offset = headers['x-stream-offset'];
  if (typeof offset === 'number') delivery.offset = offset;
  return delivery;
}

/** A header named `__proto__` that came over the wire has become the prototype: it shall not speak for absent ones. */
function headersOf(headers: Headers | undefined): Headers {
  if (headers === undefined) return {};
  return Object.getPrototypeOf(headers) === Object.prototype ? headers : { ...headers };
}

/** Quorum queues count in `x-delivery-count`, and from 4.3 on what a nack gave back in `x-acquired-count` only. */
function deliveriesOf(headers: Headers, redelivered: boolean): number {
  const [returned, acquired] = [headers['x-delivery-count'], headers['x-acquired-count']];
  const counted = Math.max(typeof returned === 'number' ? returned : 0, typeof acquired === 'number' ? acquired : 0);
  return redelivered && returned === undefined && acquired === undefined ? 1 : counted;
}
