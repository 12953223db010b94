/**
 * Transport on RabbitMQ over AMQP 0-9-1 (amqplib). Two supervised connections, so that a broker that stops reading from
 * publishers does not stop consumers and their acknowledgements; each, when it comes (back), first declares again what is
 * remembered. Publishing is in `amqp-publisher.ts`, consuming in `amqp-consumer.ts`, declaring in `amqp-topology.ts`.
 */
import { hostname } from 'node:os';
import { AmqpConnection, answerMs, type Channel, closeChannel, type Log, type Session, within } from './amqp-connection.js';
import type { ConsumerContext } from './amqp-attachment.js';
import { type AmqpConsumer, queueConsumer, subscriber } from './amqp-consumer.js';
import { AmqpPublisher } from './amqp-publisher.js';
import { asMissingType, declareOn, isThere, replyCode, restoreOn } from './amqp-topology.js';
import { systemClock } from './clock.js';
import { Declared } from './declared.js';
import {
  type Address,
  type ConsumeOptions,
  type Consumer,
  type Delivery,
  type Handler,
  type Message,
  type PublishOptions,
  type Topology,
  TopologyError,
  type Transport,
  type TransportState,
} from './transport.js';

export interface AmqpTransportOptions {
  /**
   * `amqp://user:password@host:port/vhost`, or `amqps:`. Several: the nodes of one cluster, in the order in which they are tried
   * when the one that we are at is lost. The two connections may be at different nodes.
   */
  readonly url: string | readonly string[];
  /** Who this is, for the Connections table of the RabbitMQ UI: `hub h1`, `worker`. */
  readonly name: string;
  /** How long a confirm may take before the publish rejects as `unknown`. Default 5,000. */
  readonly confirmMs?: number;
  readonly log?: Log;
}

const closeMs = 5_000;
/** How long a node may take to say that it lives. */
const probeMs = 2_000;
/** When, after a reconnect, it is made sure that nothing of ours was deleted meanwhile. */
const restoreLaterMs = 5_000;
/** How often an operation is tried again whose connection was cut under it. */
const adminTries = 5;

/** Rejects when the broker refuses us or cannot be reached within 10 s. Later losses are healed, for ever. */
export async function amqpTransport(options: AmqpTransportOptions): Promise<Transport> {
  const transport = new AmqpTransport(options);
  await transport.open();
  return transport;
}

class AmqpTransport implements Transport {
  readonly #declared = new Declared();
  /** One restoring at a time on each session: many consumers may find their queues gone at once. */
  readonly #restoring = new WeakMap<Session, Promise<void>>();
  readonly #publisher: AmqpPublisher;
  readonly #publishing: AmqpConnection;
  readonly #consuming: AmqpConnection;
  readonly #context: ConsumerContext;
  readonly #consumers = new Set<AmqpConsumer>();
  readonly #listeners = new Set<(state: TransportState) => void>();
  readonly #log: Log;
  #told: TransportState = 'disconnected';
  #closed: Promise<void> | undefined;

  constructor({ url, name, confirmMs = 5_000, log: given }: AmqpTransportOptions) {
    const log: Log = (event, fields) => {
      try {
        given?.(event, fields);
      } catch {
        // A log that fails must not keep us from healing.
      }
    };
    const urls = typeof url === 'string' ? [url] : url;
    const label = `hub ${name.replace(/^hub /, '')} @ ${hostname()} pid ${process.pid}`;
    const changed = () => this.#tell();
    this.#log = log;
    this.#publisher = new AmqpPublisher({
      confirmMs,
      isDeclared: (exchange) => this.#declared.hasExchange(exchange),
      silent: (session) => this.#leave(session, confirmMs),
      isBlocked: () => this.#publishing.isBlocked(),
      renewed: (because) => log('amqp.channel.renewed', { connection: `${label} [publish]`, because }),
    });
    this.#publishing = new AmqpConnection({
      urls,
      name: `${label} [publish]`,
      log,
      changed,
      setUp: async (session, lost) => {
        if (!(await this.#hasAll(session, lost))) await this.#restore(session);
        await this.#publisher.attach(session);
      },
    });
    this.#consuming = new AmqpConnection({
      urls,
      name: `${label} [consume]`,
      log,
      changed,
      setUp: (session, lost) => this.#haveBack(session, lost),
    });
    this.#context = { connection: this.#consuming, log, restore: (session) => this.#restore(session), held: new Set() };
  }

  async open(): Promise<void> {
    const openings = await Promise.allSettled([this.#publishing.open(), this.#consuming.open()]);
    const failed = openings.find((opening) => opening.status === 'rejected');
    if (failed === undefined) return;
    await this.close();
    throw failed.reason;
  }

  async declare(topology: Topology): Promise<void> {
    await this.#admin('declaring', (channel) => declareOn(channel, topology));
    this.#declared.add(topology);
  }

  async removeQueue(name: string): Promise<void> {
    this.#declared.forgetQueue(name);
    await this.#admin(`deleting queue ${name}`, (channel) => within(answerMs, 'deleting', channel.deleteQueue(name)));
  }

  publish(to: Address, message: Message, options?: PublishOptions): Promise<void> {
    return this.#publisher.publish(to, message, options, this.#refusal());
  }

  consume(queue: string, options: ConsumeOptions, handler: Handler): Promise<Consumer> {
    return this.#keep(queueConsumer(queue, options, handler, this.#context));
  }

  subscribe(exchange: string, routingKeys: readonly string[], listener: (delivery: Delivery) => void): Promise<Consumer> {
    return this.#keep(subscriber(exchange, routingKeys, listener, this.#context));
  }

  async inspect(queue: string): Promise<{ readonly ready: number; readonly consumers: number } | undefined> {
    return this.#admin(`looking at queue ${queue}`, async (channel) => {
      try {
        const { messageCount, consumerCount } = await within(answerMs, 'looking', channel.checkQueue(queue));
        return { ready: messageCount, consumers: consumerCount };
      } catch (error) {
        if (replyCode(error) === 404) return undefined;
        throw error;
      }
    });
  }

  state(): TransportState {
    if (this.#closed !== undefined || this.#publishing.session() === undefined || this.#consuming.session() === undefined)
      return 'disconnected';
    return this.#publishing.isBlocked() ? 'blocked' : 'connected';
  }

  onState(listener: (state: TransportState) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const stopping = [...this.#consumers].map((consumer) => consumer.stop());
    await within(closeMs, 'the last confirms', Promise.all([...stopping, this.#publisher.idle()])).catch(() => {});
    await Promise.all([this.#publishing.close(), this.#consuming.close()]);
    this.#tell();
  }

  async #keep(consumer: AmqpConsumer): Promise<Consumer> {
    this.#assertOpen();
    const forget = () => this.#consumers.delete(consumer);
    this.#consumers.add(consumer);
    try {
      await consumer.start();
    } catch (error) {
      forget();
      throw error;
    }
    return { close: () => consumer.close().finally(forget) };
  }

  /**
   * To declare hundreds of things again would keep everybody away for seconds, when the broker has them all the same. So it is
   * asked for one of them, unless it was for something missing that it closed the session.
   */
  async #hasAll(session: Session, lost: Error | undefined): Promise<boolean> {
    return lost !== undefined && replyCode(lost) === undefined && isThere(session, this.#declared.all());
  }

  async #haveBack(session: Session, lost: Error | undefined): Promise<void> {
    if (!(await this.#hasAll(session, lost))) return this.#restore(session);
    // Something may have been deleted meanwhile. That can wait until everybody is back.
    const cancel = systemClock.after(restoreLaterMs, () => {
      this.#restore(session).catch((error: unknown) => this.#log('topology.failed', { error }));
    });
    void session.ended.then(cancel);
  }

  #restore(session: Session): Promise<void> {
    const running =
      this.#restoring.get(session) ?? restoreOn(session, this.#declared.all(), this.#log).finally(() => this.#restoring.delete(session));
    this.#restoring.set(session, running);
    return running;
  }

  /** Does it on a channel of its own, since RabbitMQ answers a refusal by closing the channel. Idempotent work only. */
  async #admin<T>(what: string, work: (channel: Channel) => Promise<T>): Promise<T> {
    this.#assertOpen();
    for (let tries = 1; ; tries++) {
      const session = await this.#consuming.up(answerMs);
      let channel: Channel | undefined;
      try {
        channel = await session.channel();
        return await work(channel);
      } catch (error) {
        if (session.isOpen() || error instanceof TopologyError) throw error;
        const lost = await session.ended;
        const refusal = asMissingType(lost);
        if (refusal !== undefined || tries >= adminTries) throw refusal ?? lost;
        this.#log('amqp.again', { what, tries, error });
      } finally {
        if (channel !== undefined) void closeChannel(channel);
      }
    }
  }

  /**
   * The broker confirms nothing: its node may stand still or be cut off, which the heartbeat notices much later. Another one, or
   * a new connection, may serve; and if the consuming connection has no answer either, it goes, too.
   */
  #leave(publishing: Session, confirmMs: number): void {
    // Under an alarm it is the broker's will, and every node's.
    if (this.#publishing.isBlocked()) return;
    publishing.fail(new Error(`RabbitMQ has confirmed nothing for ${confirmMs} ms`));
    const consuming = this.#consuming.session();
    if (consuming === undefined) return;
    within(probeMs, 'a question whether it is there', consuming.channel()).then(
      (channel) => void closeChannel(channel),
      (error: Error) => consuming.fail(error),
    );
  }

  #refusal(): string | undefined {
    if (this.#closed !== undefined) return 'the transport is closed';
    if (this.#publishing.session() === undefined) return 'RabbitMQ is away';
    return this.#publishing.isBlocked() ? 'RabbitMQ takes no messages now (memory or disk alarm)' : undefined;
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw new Error('the transport is closed');
  }

  #tell(): void {
    const state = this.state();
    if (state === this.#told) return;
    this.#told = state;
    for (const listener of this.#listeners) {
      try {
        listener(state);
      } catch (error) {
        this.#log('listener.failed', { error });
      }
    }
  }
}
