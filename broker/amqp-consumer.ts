/**
 * The consuming half of `transport-amqp.ts`: a consumer has a channel of its own, and gets a new one whenever that is lost,
 * cancelled or closed. A delivery is settled on the channel it came by, once, or not at all when that is gone: then the
 * broker has given it back already.
 */
import { type AmqpConnection, answerMs, type Channel, type ConsumeMessage, type Log, type Session, within } from './amqp-connection.js';
import { asTopologyError, replyCode } from './amqp-topology.js';
import { pause, systemClock } from './clock.js';
import { restMs } from './requeue.js';
import { type ConsumeOptions, type Consumer, type Delivery, type Handler, TopologyError } from './transport.js';

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

/** Something that listens on a channel of its own. */
interface Attachable {
  /** For people: `queue hub.work.a`. */
  readonly what: string;
  readonly signal: AbortSignal;
  /** Resolves once it listens, with the promise of its end. */
  attach(session: Session): Promise<{ readonly ended: Promise<Error> }>;
  /** May the broker change its mind about this refusal soon? */
  mayPass?(error: unknown): boolean;
}

/** Attaches it, and again after every loss, until its signal aborts. */
function keepAttached(it: Attachable, { connection, log, restore }: ConsumerContext): { readonly first: Promise<void>; readonly over: Promise<void> } {
  const attach = async () => {
    const session = await connection.up(answerMs, it.signal);
    try {
      return await it.attach(session);
    } catch (error) {
      if (replyCode(error) !== 404) throw error;
      // A queue or an exchange of ours was deleted: have it back.
      await restore(session);
      return await it.attach(session);
    }
  };
  let listens: () => void = () => {};
  let refused: (error: unknown) => void = () => {};
  const first = new Promise<void>((resolve, reject) => ([listens, refused] = [resolve, reject]));
  const keep = async () => {
    const giveUpAt = Date.now() + firstAttachMs;
    let isFirst = true;
    for (let waitMs = 0; !it.signal.aborted; await pause(systemClock, waitMs, it.signal)) {
      const longer = Math.min(longestRetryMs, Math.max(firstRetryMs, waitMs * 2));
      try {
        const { ended } = await attach();
        isFirst = false;
        listens();
        const since = Date.now();
        const error = await ended;
        waitMs = Date.now() - since < shortLifeMs ? longer : 0;
        if (!it.signal.aborted) log('consumer.lost', { consumer: it.what, error });
      } catch (error) {
        const isFinal = (replyCode(error) !== undefined && it.mayPass?.(error) !== true) || Date.now() + longer > giveUpAt;
        if (isFirst && isFinal) return refused(asTopologyError(error, it.what, 'declare it before it is consumed'));
        if (!it.signal.aborted) log('consumer.refused', { consumer: it.what, error });
        waitMs = longer;
      }
    }
    refused(new Error('the transport is closed'));
  };
  return { first, over: keep() };
}

/** A channel and whether it still lives. */
interface Live {
  readonly session: Session;
  readonly channel: Channel;
  /** Resolves when the channel is closed, or when `end` says that it is of no use any more. */
  readonly ended: Promise<Error>;
  end(error: Error): void;
  isOpen(): boolean;
  close(): Promise<void>;
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
  return { session, channel, ended, end, isOpen: () => isOpen, close };
}

/** Runs `listen` on a fresh channel; nothing is left of it when that fails or `signal` has aborted meanwhile. */
async function listening(session: Session, signal: AbortSignal, listen: (live: Live) => Promise<void>): Promise<Live> {
  const live = await openLive(session);
  try {
    await listen(live);
    if (signal.aborted) throw new Error('closed meanwhile');
    return live;
  } catch (error) {
    void live.close();
    throw error;
  }
}

export async function consume(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext): Promise<Consumer> {
  const consumer = new AmqpConsumer(queue, options, handler, context);
  await consumer.start();
  return consumer;
}

class AmqpConsumer implements Consumer {
  readonly #queue: string;
  readonly #options: ConsumeOptions;
  readonly #handler: Handler;
  readonly #context: ConsumerContext;
  readonly #closing = new AbortController();
  readonly #position: StreamPosition;
  #live: Live | undefined;
  #tag = '';
  #over: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;
  #running = 0;
  #failedInARow = 0;
  #idle: () => void = () => {};

  constructor(queue: string, options: ConsumeOptions, handler: Handler, context: ConsumerContext) {
    this.#queue = queue;
    this.#options = options;
    this.#handler = handler;
    this.#context = context;
    this.#position = new StreamPosition(options.from);
  }

  async start(): Promise<void> {
    const { held } = this.#context;
    if (this.#options.exclusive === true) {
      if (held.has(this.#queue)) throw new TopologyError(`${this.#queue} has another consumer in this process`);
      held.add(this.#queue);
    }
    const attachable: Attachable = {
      what: `queue ${this.#queue}`,
      signal: this.#closing.signal,
      attach: (session) => this.#attach(session),
      mayPass: isHeldElsewhere,
    };
    const { first, over } = keepAttached(attachable, this.#context);
    this.#over = over;
    try {
      await first;
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #attach(session: Session): Promise<Live> {
    const { prefetch, tag, exclusive = false, from } = this.#options;
    if (exclusive) await this.#hold(session);
    const consumerTag = `${tag}#${nextTag++}`;
    const position = this.#position.startOver();
    const live = await listening(session, this.#closing.signal, async (fresh) => {
      await within(answerMs, 'prefetch', fresh.channel.prefetch(prefetch));
      const take = (message: ConsumeMessage | null) => {
        if (message === null) fresh.end(new Error('RabbitMQ cancelled the consumer: was the queue deleted?'));
        else this.#take(fresh, message);
      };
      const args = from === undefined ? {} : { 'x-stream-offset': position };
      await within(answerMs, `consuming ${this.#queue}`, fresh.channel.consume(this.#queue, take, { consumerTag, exclusive, arguments: args }));
    });
    this.#live = live;
    this.#tag = consumerTag;
    return live;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    const live = this.#live;
    if (live?.isOpen() === true) await within(answerMs, 'cancelling', live.channel.cancel(this.#tag)).catch(() => {});
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    await live?.close();
    live?.end(new Error('closed by us'));
    await this.#over;
    if (this.#options.exclusive === true) await this.#release();
  }
