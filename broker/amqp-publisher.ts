/**
 * The publishing half of `transport-amqp.ts` (EIP: Guaranteed Delivery): a message is either known to be with the broker,
 * or the caller learns within the confirm deadline what is known of it. Nothing is kept for later: who could not publish
 * is told at once.
 */
import {
  type AmqpMessage,
  type Channel,
  closeChannel,
  type ConfirmChannel,
  isClosedChannel,
  type Options,
  type Session,
} from './amqp-connection.js';
import { systemClock } from './clock.js';
import { type Address, type Headers, type HeaderValue, type Message, PublishError, type PublishOptions } from './transport.js';
import { Chain, type Place } from './under-way.js';

/** How much may be sent and unconfirmed at once, messages and bytes. */
const unconfirmedLimit = 10_000;
const unconfirmedBytesLimit = 128 << 20;
/** How long a message that cost us a channel is refused without asking the broker again: exchanges come, limits stay. */
const missingMs = 1_000;
const refusedMs = 60_000;

/** How long a confirm channel that refuses something, or confirms nothing, is kept before it is tried with a new one. */
const renewMs = 1_000;
/** After this much of the time that a confirm may take. */
const suspectAfter = 0.2;

/** A publish that waits for its confirm. In the order of publishing, which is the order of deadlines. */
interface Pending {
  readonly by: ConfirmChannel;
  readonly to: Address;
  readonly message: Message;
  readonly deadline: number;
  resolve(): void;
  reject(error: PublishError): void;
}

/** What the broker told when it closed a channel: that it never takes such a message. */
interface Lesson {
  readonly until: number;
  appliesTo(to: Address, message: Message): boolean;
  refusal(to: Address): PublishError;
}

export interface PublisherOptions {
  readonly confirmMs: number;
  /** The session has not confirmed anything for so long, though something waits for it. */
  silent(session: Session): void;
  /** Messages go by a new confirm channel from now on. */
  renewed(because: string): void;
  /** Under an alarm the broker takes nothing, and answers nothing on this connection. */
  isBlocked(): boolean;
  /** Is it part of what this transport declared (and so declares again after each reconnect)? */
  isDeclared(exchange: string): boolean;
}

export class AmqpPublisher {
  readonly #options: PublisherOptions;
  #pending = new Chain<Pending>();
  readonly #encode = propertiesEncoder();
  #session: Session | undefined;
  #durable: ConfirmChannel | undefined;
  #volatile: Channel | undefined;
  #isOpen: () => boolean = () => false;
  #returned: AmqpMessage[] = [];
  #lessons: Lesson[] = [];
  #unconfirmed = 0;
  #unconfirmedBytes = 0;
  /** Volatile messages that wait in our memory for the socket to drain, and their bytes. */
  #overflow = 0;
  #overflowBytes = 0;
  /** When the confirm channel was opened, or began to be. */
  #openedAt = 0;
  /** When the broker confirmed last. */
  #confirmedAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #drained: (() => void) | undefined;

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  /** Opens the channels on a new session. A lost confirm channel ends the session: that is one way to mend, not two. */
  async attach(session: Session): Promise<void> {
    const use = await this.#openDurable(session);
    await this.#openVolatile(session);
    use();
    this.#returned = [];
    this.#unconfirmed = 0;
    this.#unconfirmedBytes = 0;
    this.#session = session;
  }

  /** Resolves with how to publish by it from then on. */
  async #openDurable(session: Session): Promise<() => void> {
    this.#openedAt = Date.now();
    const durable = await session.confirmChannel();
    let isOpen = true;
    let error: Error | undefined;
    durable.on('error', (cause: Error) => (error = cause));
    // Before amqplib's own listener, which calls back every unconfirmed publish: those are lost, not refused.
    durable.prependListener('close', () => (isOpen = false));
    durable.on('close', () => {
      // One that was renewed is closed when nothing waits for it any more.
      if (this.#durable !== durable) return;
      this.#durable = undefined;
      this.#lose(error);
      // Without an error of its own it went with its session.
      if (error !== undefined) session.fail(error);
    });
    durable.on('return', (message: AmqpMessage) => void this.#returned.push(message));
    return () => {
      if (!isOpen) throw error ?? new Error('publish channel closed');
      this.#durable = durable;
      this.#isOpen = () => isOpen;
    };
  }

  /**
   * A channel keeps in mind where it found the leader of a queue. One that looked while the leader's node was dying refuses every
   * message for that queue, or confirms none, until the node is back, when others have long gone on [RabbitMQ 3.10.8, tried with a plain client].
   */
  #renew(because: string): void {
    const session = this.#session;
    const old = this.#durable;
    if (session?.isOpen() !== true || old === undefined || Date.now() - this.#openedAt < renewMs || this.#options.isBlocked()) return;
    this.#openDurable(session)
      .then((use) => {
        this.#options.renewed(because);
        // Whatever it still owes is confirmed or late by then.
        systemClock.after(this.#options.confirmMs, () => void closeChannel(old));
        use();
      })
      .catch((error: Error) => void (this.#options.isBlocked() || session.fail(error)));
  }

  publish(to: Address, message: Message, options: PublishOptions | undefined, refusal: string | undefined): Promise<void> {
    const isDurable = options?.durable ?? true;
    const isMandatory = options?.mandatory ?? isDurable;
    if (refusal !== undefined) return Promise.reject(new PublishError('unavailable', refusal));
    const lesson = this.#lessons.length > 0 ? this.#lessonFor(to, message) : undefined;
    if (lesson !== undefined) return Promise.reject(lesson.refusal(to));
    // Only the confirm channel can tell that a message found no queue.
    return isDurable || isMandatory ? this.#confirmed(to, message, isDurable, isMandatory) : this.#unconfirmedly(to, message);
  }

  /** Resolves when nothing waits for a confirm any more; by the confirm deadline at the latest. */
  idle(): Promise<void> {
    return this.#pending.size === 0 ? Promise.resolve() : new Promise((resolve) => (this.#drained = resolve));
  }

  #confirmed(to: Address, message: Message, isDurable: boolean, isMandatory: boolean): Promise<void> {
    const channel = this.#durable;
    if (channel === undefined) return Promise.reject(new PublishError('unavailable', 'RabbitMQ is away'));
    if (this.#unconfirmed >= unconfirmedLimit || this.#unconfirmedBytes >= unconfirmedBytesLimit) {
      return Promise.reject(new PublishError('unavailable', `${this.#unconfirmed} publishes are unconfirmed already`));
    }
    return new Promise((resolve, reject) => {
      const pending: Pending = { by: channel, to, message, deadline: performance.now() + this.#options.confirmMs, resolve, reject };
      const isOpen = this.#isOpen;
      try {
        channel.publish(to.exchange, to.routingKey, message.body, this.#encode(message, isDurable, isMandatory), (error: unknown) => {
          // Its channel may have closed without: then nobody waits for it on this one any more.
          this.#unconfirmed--;
          this.#unconfirmedBytes -= message.body.length;
          if (!isOpen()) return;
          this.#confirmedAt = performance.now();
          this.#settle(place, error !== null);
        });
      } catch (error) {
        return reject(asUnsent(error));
      }
      this.#unconfirmed++;
      this.#unconfirmedBytes += message.body.length;
      const place = this.#pending.add(pending);
      this.#session?.coalesce();
      if (this.#timer === undefined) this.#watch(this.#options.confirmMs);
    });
  }

  #unconfirmedly(to: Address, message: Message): Promise<void> {
    const channel = this.#volatile;
    if (channel === undefined) return Promise.reject(new PublishError('unavailable', 'RabbitMQ is away'));
    if (this.#overflow >= unconfirmedLimit || this.#overflowBytes >= unconfirmedBytesLimit)
      return Promise.reject(new PublishError('unavailable', 'RabbitMQ does not take messages fast enough'));
    try {
      const isTaken = channel.publish(to.exchange, to.routingKey, message.body, this.#encode(message, false, false));
      if (!isTaken) {
        this.#overflow++;
        this.#overflowBytes += message.body.length;
      }
      this.#session?.coalesce();
      return Promise.resolve();
    } catch (error) {
      return Promise.reject(asUnsent(error));
    }
  }

  #settle(place: Place<Pending>, isRefused: boolean): void {
    const pending = place.item;
    const isReturned = this.#returned.length > 0 && this.#takeReturn(pending);
    if (!this.#pending.remove(place)) return;
    if (isReturned) pending.reject(unroutable(pending.to));
    else if (isRefused) {
      pending.reject(new PublishError('nacked', `RabbitMQ refused the message for "${pending.to.routingKey}": is a queue full?`));
      this.#renew('it refused a message');
    } else pending.resolve();
    this.#checkDrained();
  }

  /**
   * RabbitMQ sends the return before the confirm of the same message. They carry no common number, and several publishes
   * may have the same id, so the return is matched by all that it carries; what is equal in all that is the same message.
   */
  #takeReturn({ to, message }: Pending): boolean {
    const place = this.#returned.findIndex(
      ({ fields, properties, content }) =>
        fields.exchange === to.exchange &&
        fields.routingKey === to.routingKey &&
        properties.messageId === message.messageId &&
        content.equals(message.body),
    );
    if (place >= 0) this.#returned.splice(place, 1);
    return place >= 0;
  }

  /** The confirm channel is gone: what waits is neither known to be there nor known not to be. */
  #lose(error: Error | undefined): void {
    const lesson = this.#learn(error);
    const lost = this.#pending.all().map(({ item }) => item);
    this.#pending = new Chain();
    // The message that the channel was closed for is one of these; the last of them came no earlier, and is nowhere.
    const nowhere = lost.findLast(({ to, message }) => lesson?.appliesTo(to, message) === true);
    for (const pending of lost) {
      const refusal = pending === nowhere ? lesson?.refusal(pending.to) : undefined;
      pending.reject(refusal ?? new PublishError('unknown', 'the connection was lost before RabbitMQ confirmed', { cause: error }));
    }
    this.#checkDrained();
  }

  #learn(error: Error | undefined): Lesson | undefined {
    const lesson = lessonOf(error?.message ?? '', this.#options.isDeclared);
    if (lesson !== undefined) this.#lessons.push(lesson);
    return lesson;
  }

  #lessonFor(to: Address, message: Message): Lesson | undefined {
    const now = performance.now();
    this.#lessons = this.#lessons.filter(({ until }) => until > now);
    return this.#lessons.find(({ appliesTo }) => appliesTo(to, message));
  }

  async #openVolatile(session: Session): Promise<void> {
    const channel = await session.channel();
    this.#volatile = channel;
    this.#overflow = 0;
    this.#overflowBytes = 0;
    let error: Error | undefined;
    channel.on('drain', () => {
      this.#overflow = 0;
      this.#overflowBytes = 0;
    });
    channel.on('error', (cause: Error) => (error = cause));
    channel.on('close', () => {
      if (this.#volatile === channel) this.#volatile = undefined;
      // Without a lesson it is something of ours that is gone: a new session declares it again.
      if (error !== undefined && this.#learn(error) === undefined) session.fail(error);
      if (session.isOpen()) this.#openVolatile(session).catch((failure: Error) => session.fail(failure));
    });
  }

  /**
   * One timer for all: the first of the set is the one that is due first. On the way there, one that has waited for long has those behind it
   * go by a new channel.
   */
  #watch(ms: number): void {
    const suspectMs = this.#options.confirmMs * suspectAfter;
    this.#timer = setTimeout(
      () => {
        const { confirmMs, silent } = this.#options;
        const now = performance.now();
        this.#timer = undefined;
        const late = [...this.#takeLate(now)];
        for (const pending of late) pending.reject(new PublishError('unknown', `RabbitMQ has not confirmed within ${confirmMs} ms`));
        if (late.length > 0 && this.#session !== undefined && now - this.#confirmedAt >= confirmMs) silent(this.#session);
        const next = this.#pending.first?.item;
        if (next === undefined) return this.#checkDrained();
        if (this.#hasWaited(suspectMs, now)) this.#renew(`it has not confirmed a message for ${suspectMs} ms`);
        if (this.#timer === undefined) this.#watch(next.deadline - now);
      },
      Math.min(ms, suspectMs),
    );
  }

  /** What the confirm channel was given first waits for so long. Others may be confirmed meanwhile: they are for other queues. */
  #hasWaited(ms: number, now: number): boolean {
    const first = this.#pending.all().find(({ item }) => item.by === this.#durable);
    return first !== undefined && now + this.#options.confirmMs - first.item.deadline >= ms;
  }

  *#takeLate(now: number): Iterable<Pending> {
    for (let next; (next = this.#pending.first) !== undefined && next.item.deadline <= now;) {
      this.#pending.remove(next);
      yield next.item;
    }
  }

  #checkDrained(): void {
    if (this.#pending.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#drained?.();
  }
}

const unroutable = ({ exchange, routingKey }: Address) =>
  new PublishError('unroutable', `no queue takes "${routingKey}" from exchange "${exchange}"`);

/** Nothing was sent: the channel is just closing, or the message cannot be encoded, and the error tells why. */
const asUnsent = (error: unknown): Error =>
  isClosedChannel(error) ? new PublishError('unavailable', 'RabbitMQ is away', { cause: error }) : (error as Error);

/** Why RabbitMQ closed a channel, if that is in the message and not in the state of the broker. */
function lessonOf(said: string, isDeclared: (exchange: string) => boolean): Lesson | undefined {
  const exchange = /no exchange '(.*?)' in vhost/.exec(said)?.[1];
  // One that we declared will be declared again.
  if (exchange !== undefined && !isDeclared(exchange))
    return { until: performance.now() + missingMs, appliesTo: (to) => to.exchange === exchange, refusal: unroutable };
  const nacked = () => new PublishError('nacked', `RabbitMQ refuses the message: ${said}`);
  const largest = /message size \d+ is larger than .*?(\d+)/.exec(said)?.[1];
  if (largest !== undefined)
    return { until: performance.now() + refusedMs, appliesTo: (_to, { body }) => body.length > Number(largest), refusal: nacked };
  const user = /user_id property set to .* authenticated user was '(.*?)'/.exec(said)?.[1];
  if (user !== undefined)
    return {
      until: performance.now() + refusedMs,
      appliesTo: (_to, { userId }) => userId !== undefined && userId !== user,
      refusal: nacked,
    };
  return undefined;
}

/** RabbitMQ counts a message's life in 32 bits. One that lives longer is sent without: its reader knows the deadline. */
function expirationOf(ms: number | undefined): string | undefined {
  return ms === undefined || !(ms < 2 ** 32) ? undefined : String(Math.max(0, Math.ceil(ms)));
}

/**
 * amqplib makes the headers object that it gets the prototype of another one, which is slow for a fresh object
 * (`reference/performance.md`, rule 1), so it always gets the same ones, filled anew. It encodes before it returns.
 */
function propertiesEncoder(): (message: Message, isPersistent: boolean, isMandatory: boolean) => Options.Publish {
  const empty = () => Object.create(null) as Record<string, HeaderValue | undefined>;
  let table = empty();
  let names = 0;
  let filled: readonly string[] = [];
  const fill = (headers: Headers) => {
    for (const name of filled) table[name] = undefined;
    filled = Object.keys(headers);
    // Names that come from outside must not pile up here.
    if (names > 64) [table, names] = [empty(), 0];
    for (const name of filled) {
      if (!(name in table)) names++;
      table[name] = headers[name];
    }
    return table;
  };
  const properties: { [Name in keyof Options.Publish]: Options.Publish[Name] | undefined } = {};
  return (message, isPersistent, isMandatory) => {
    properties.persistent = isPersistent;
    properties.mandatory = isMandatory;
    properties.messageId = message.messageId;
    properties.correlationId = message.correlationId;
    properties.replyTo = message.replyTo;
    properties.type = message.type;
    properties.contentType = message.contentType;
    properties.contentEncoding = message.contentEncoding;
    properties.timestamp = message.timestamp;
    properties.expiration = expirationOf(message.expirationMs);
    properties.priority = message.priority;
    properties.appId = message.appId;
    properties.userId = message.userId;
    properties.headers = message.headers === undefined ? undefined : fill(message.headers);
    return properties as Options.Publish;
  };
}
