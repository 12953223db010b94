/**
 * The consuming half of `transport-amqp.ts`. A delivery is settled on the channel it came by, once, or not at all when that
 * is gone: then the broker has given it back already.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Taken } from './amqp-acks.js';
import { Attachment, ConsumerCancelled, type ConsumerContext, type Live } from './amqp-attachment.js';
import { answerMs, closeChannel, type ConsumeMessage, type Session, within } from './amqp-connection.js';
import { deliveryOf } from './amqp-delivery.js';
import { pause, systemClock } from './clock.js';
import { restMs } from './requeue.js';
import { type ConsumeOptions, type Consumer, type Delivery, type Handler, TopologyError } from './transport.js';

export interface AmqpConsumer extends Consumer {
  /** Resolves when it listens for the first time; rejects when it is refused, or cannot be had within 20 s. */
  start(): Promise<void>;
  /** Resolves when the broker sends nothing more. The handlers are not waited for: the connection is about to be closed. */
  stop(): Promise<void>;
}

/** A private queue for each connection: what is published while there is none is not for us. */
export function subscriber(
  exchange: string,
  routingKeys: readonly string[],
  listener: (delivery: Delivery) => void,
  context: ConsumerContext,
): AmqpConsumer {
  const attachment = new Attachment(`subscription to exchange ${exchange}`, context, async (live) => {
    const { channel } = live;
    const about = `private copy of what goes to ${exchange}`;
    // Named by us, so that it stands among the hub's queues; anew each time, since the last one may linger.
    const name = `${exchange}.${hostname()}.${process.pid}.${randomBytes(3).toString('hex')}`;
    const declared = channel.assertQueue(name, { exclusive: true, autoDelete: true, durable: false, arguments: { about } });
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
  const close = async () => {
    attachment.stop();
    await attachment.live?.close();
    await attachment.over();
  };
  return { start: () => attachment.start(), stop: async () => attachment.stop(), close };
}

export function queueConsumer(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext): AmqpConsumer {
  return new QueueConsumer(queue, options, handler, context);
}

let nextTag = 1;

/**
 * RabbitMQ 4.0 to 4.2 drop, or dead-letter, a message that was given back to a quorum queue more than 20 times, unless a
 * policy says otherwise. A handler that rejects because a store is away must not cost messages, so the last half of them is
 * left to consumers that die.
 */
const giveBacks = 10;

/** Does the handler that failed get it again from us? A stream takes nothing back. */
const isKept = ({ offset, deliveries }: Delivery): boolean => offset !== undefined || deliveries >= giveBacks;

/** Some 10 ms worth of replies. */
const servedInOneTurn = 100;

/** How often at most it is told that a handler failed: while a store is away, hundreds do in a second. */
const tellEveryMs = 1_000;

/** Where fewer are handed out, each that is done makes room for the next at once. */
const fewAtOnce = 64;

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
  #toldAt = -Infinity;
  #untold = 0;
  #idle: () => void = () => {};
  #closed: Promise<void> | undefined;
  readonly #serveInTurn = inTurns(servedInOneTurn, (turn: Turn) => this.#serveTaken(turn));

  constructor(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext) {
    this.#queue = queue;
    this.#options = options;
    this.#handler = handler;
    this.#context = context;
    this.#position = new StreamPosition(options.from);
    this.#attachment = new Attachment(`queue ${queue}`, context, (live) => this.#listen(live), {
      restored: options.restored,
      // The rest of what may be unacknowledged is for what is being done.
      acking: { held: options.prefetch < fewAtOnce ? 0 : Math.floor(options.prefetch / 4), lazy: options.lazy === true },
    });
  }

  async start(): Promise<void> {
    const { held } = this.#context;
    if (this.#options.exclusive === true && held.has(this.#queue))
      throw new TopologyError(`queue ${this.#queue} has another consumer in this process`);
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

  async stop(): Promise<void> {
    const { live } = this.#attachment;
    this.#attachment.stop();
    live?.acks.flush();
    const tag = live && this.#tags.get(live);
    // When the channel is gone, so is what was to be cancelled.
    if (live?.isOpen() === true && tag !== undefined) await within(answerMs, 'cancelling', live.channel.cancel(tag)).catch(() => {});
  }

  async #close(): Promise<void> {
    const { live } = this.#attachment;
    await this.stop();
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
      if (message !== null) return this.#take(live, message);
      this.#position.forget();
      live.end(new ConsumerCancelled('RabbitMQ cancelled the consumer: was the queue deleted?'));
    };
    const consumerTag = `${tag}#${nextTag++}`;
    const from = this.#position.startOver();
    const args = from === undefined ? {} : { 'x-stream-offset': from };
    this.#tags.set(live, consumerTag);
    await within(answerMs, `consuming ${this.#queue}`, channel.consume(this.#queue, take, { consumerTag, exclusive, arguments: args }));
  }

  /**
   * Quorum queues take any number of consumers, exclusive or not [RabbitMQ 3.10.8, tried]. What the broker does keep
   * exclusive is a queue, as long as its connection lives: so we hold one beside it. Consumers are not counted: a quorum queue
   * keeps those of a node that died until that node is back [RabbitMQ 4.0.5, tried].
   */
  async #hold(session: Session): Promise<void> {
    const channel = await session.channel();
    const about = `held by the one consumer of ${this.#queue}`;
    try {
      await within(
        answerMs,
        `holding ${this.#queue}`,
        channel.assertQueue(holderOf(this.#queue), { exclusive: true, durable: false, arguments: { about } }),
      );
    } finally {
      await closeChannel(channel);
    }
  }

  async #release(): Promise<void> {
    this.#context.held.delete(this.#queue);
    try {
      const channel = await this.#context.connection.session()?.channel();
      if (channel === undefined) return;
      await within(answerMs, 'letting go', channel.deleteQueue(holderOf(this.#queue))).finally(() => closeChannel(channel));
    } catch {
      // Somebody else holds it, or the connection is gone and the broker has let go by itself.
    }
  }

  #take(live: Live, message: ConsumeMessage): void {
    const isStopping = this.#attachment.stopping.signal.aborted;
    // What a failed attempt to listen still brings goes back when its channel is closed, which is under way.
    if (live.isLeft && !isStopping) return;
    const taken = live.acks.took(message);
    if (isStopping) return live.acks.giveBack(taken);
    live.running++;
    this.#running++;
    const delivery = deliveryOf(message);
    this.#position.took(delivery);
    this.#serveInTurn({ live, taken, delivery });
  }

  #serveTaken({ live, taken, delivery }: Turn): void {
    const isStopping = this.#attachment.stopping.signal.aborted;
    if (!isStopping && !live.isLeft) return this.#serve(live, taken, delivery);
    if (isStopping) live.acks.giveBack(taken);
    this.#over(live);
  }

  #serve(live: Live, taken: Taken, delivery: Delivery): void {
    const done = () => {
      this.#failedInARow = 0;
      this.#position.settled(delivery);
      live.acks.done(taken);
      this.#over(live);
    };
    const failed = (error: unknown) => void this.#failed(live, taken, delivery, error);
    try {
      this.#handler(delivery).then(done, failed);
    } catch (error) {
      failed(error);
    }
  }

  /** Never rejects. It rests, so that a message that always fails does not spin. */
  async #failed(live: Live, taken: Taken, delivery: Delivery, error: unknown): Promise<void> {
    const { signal } = this.#attachment.stopping;
    const { deliveries } = delivery;
    this.#tell(delivery, error);
    await pause(systemClock, restMs(++this.#failedInARow), signal);
    if (isKept(delivery) && !signal.aborted && live.isOpen())
      return this.#serve(live, taken, { ...delivery, redelivered: true, deliveries: deliveries + 1 });
    if (delivery.offset === undefined) live.acks.giveBack(taken);
    this.#over(live);
  }

  /** `untold`: so many more have failed since it was last told. */
  #tell({ messageId, deliveries }: Delivery, error: unknown): void {
    const now = performance.now();
    if (now < this.#toldAt + tellEveryMs) return void this.#untold++;
    const more = this.#untold === 0 ? {} : { untold: this.#untold };
    this.#context.log('handler.failed', { queue: this.#queue, messageId, deliveries, error, ...more });
    this.#toldAt = now;
    this.#untold = 0;
  }

  #over(live: Live): void {
    if (--live.running === 0 && live.isLeft && !this.#attachment.stopping.signal.aborted) void live.close();
    if (--this.#running === 0) this.#idle();
  }
}

interface Turn {
  readonly live: Live;
  readonly taken: Taken;
  readonly delivery: Delivery;
}

/**
 * So many are served in a turn of the event loop, and the others in the next ones, in their order: thousands may come in one read of the
 * socket, and others wait for their turn meanwhile.
 */
function inTurns<T>(atOnce: number, serve: (one: T) => void): (one: T) => void {
  let served = 0;
  let isSet = false;
  let waiting: T[] = [];
  const next = () => {
    const now = waiting.slice(0, atOnce);
    waiting = waiting.slice(atOnce);
    served = now.length;
    isSet = served > 0;
    if (isSet) setImmediate(next);
    now.forEach(serve);
  };
  return (one) => {
    if (!isSet) setImmediate(next);
    isSet = true;
    if (served === atOnce) return void waiting.push(one);
    served++;
    serve(one);
  };
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

  /** The stream was deleted, and the next one of that name begins at 0: its first entries must not be waited past. */
  forget(): void {
    this.#next = undefined;
    this.#unsettled.clear();
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
