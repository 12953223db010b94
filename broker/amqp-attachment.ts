/**
 * Keeps something listening to RabbitMQ, for `amqp-consumer.ts`: on a channel of its own, and on a new one whenever that is
 * lost, cancelled or closed.
 */
import { setMaxListeners } from 'node:events';
import { Acks, type AcksOptions } from './amqp-acks.js';
import { type AmqpConnection, answerMs, type Channel, closeChannel, type Log, type Session } from './amqp-connection.js';
import { asTopologyError, replyCode } from './amqp-topology.js';
import { pause, systemClock } from './clock.js';
import { TopologyError } from './transport.js';

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
export interface Live {
  readonly session: Session;
  readonly channel: Channel;
  /** Resolves when the channel is closed, or when `end` says that it is of no use any more. */
  readonly ended: Promise<Error>;
  end(error: Error): void;
  isOpen(): boolean;
  close(): Promise<void>;
  readonly acks: Acks;
  /** Deliveries in the hands of handlers. */
  running: number;
  /** Nothing more is taken from it; it is closed when nothing runs. */
  isLeft: boolean;
}

async function openLive(session: Session, acking: AcksOptions): Promise<Live> {
  const channel = await session.channel();
  let isOpen = true;
  let end: (error: Error) => void = () => {};
  const ended = new Promise<Error>((resolve) => (end = resolve));
  channel.on('error', end);
  channel.on('close', () => {
    isOpen = false;
    end(new Error('channel closed'));
  });
  const acks = new Acks({ session, channel, isOpen: () => isOpen }, acking);
  const close = async () => {
    acks.flush();
    if (isOpen) await closeChannel(channel);
  };
  return { session, channel, ended, end, isOpen: () => isOpen, close, acks, running: 0, isLeft: false };
}

/** RabbitMQ sends nothing more, on its own account: what was listened to was deleted. */
export class ConsumerCancelled extends Error {
  override readonly name = 'ConsumerCancelled';
}

/** Keeps something listening: attaches it, and attaches it again after every loss, until stopped. */
export class Attachment {
  /** Aborts when it shall listen no more. */
  readonly stopping = new AbortController();
  live: Live | undefined;
  readonly #what: string;
  readonly #context: ConsumerContext;
  readonly #listen: (live: Live) => Promise<void>;
  readonly #restored: () => void;
  readonly #acking: AcksOptions;
  #over: Promise<void> = Promise.resolve();
  /** It was deleted, and whoever declares it again first may not know that. */
  #wasDeleted = false;

  /** `listen` makes the broker send to the fresh channel; its refusals by reply code are final at the first time. `acking`: see `Acks`. */
  constructor(
    what: string,
    context: ConsumerContext,
    listen: (live: Live) => Promise<void>,
    {
      restored = () => {},
      acking = { held: 0, lazy: false },
    }: { readonly restored?: (() => void) | undefined; readonly acking?: AcksOptions } = {},
  ) {
    this.#restored = restored;
    this.#acking = acking;
    this.#what = what;
    this.#context = context;
    this.#listen = listen;
    // Each delivery that rests after a failure listens to it, and takes its listener away.
    setMaxListeners(0, this.stopping.signal);
  }

  /** Resolves when it listens for the first time; rejects when it is refused, or cannot be had within 20 s. */
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
    const giveUpAt = performance.now() + firstAttachMs;
    let isFirst = true;
    for (let waitMs = 0; !signal.aborted; await pause(systemClock, waitMs, signal)) {
      const longerMs = Math.min(longestRetryMs, Math.max(firstRetryMs, waitMs * 2));
      try {
        const live = await this.#attach();
        if (signal.aborted) {
          void live.close();
          break;
        }
        this.live = live;
        isFirst = false;
        listens();
        const since = performance.now();
        const error = await live.ended;
        live.isLeft = true;
        if (signal.aborted) return;
        this.#wasDeleted ||= error instanceof ConsumerCancelled;
        if (live.running === 0) void live.close();
        waitMs = performance.now() - since < shortLifeMs ? longerMs : 0;
        this.#context.log('consumer.lost', { consumer: this.#what, error });
      } catch (error) {
        waitMs = isHeld(error) ? 500 : longerMs;
        const isFinal = (replyCode(error) !== undefined && !isHeld(error)) || performance.now() + waitMs > giveUpAt;
        if (isFirst && isFinal) return refused(this.#refusal(error));
        if (!signal.aborted) this.#context.log('consumer.failed', { consumer: this.#what, error });
      }
    }
    refused(new Error('the transport is closed'));
  }

  async #attach(): Promise<Live> {
    const session = await this.#context.connection.up(answerMs, this.stopping.signal);
    let live: Live;
    try {
      live = await this.#listening(session);
    } catch (error) {
      if (replyCode(error) !== 404) throw error;
      // A queue or an exchange of ours was deleted: have it back.
      this.#wasDeleted = true;
      await this.#context.restore(session);
      live = await this.#listening(session);
    }
    if (this.#wasDeleted) this.#restored();
    this.#wasDeleted = false;
    return live;
  }

  async #listening(session: Session): Promise<Live> {
    const live = await openLive(session, this.#acking);
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
    if (!isHeld(error)) return asTopologyError(error, this.#what, () => 'declare it before it is consumed');
    return new TopologyError(
      `${this.#what} has another consumer: does a second process run under the same name? Give each its own (HUB_NAME)`,
      { cause: error },
    );
  }
}

/** Is it refused because somebody else consumes? That may be our own old connection, which the broker still believes in. */
function isHeld(error: unknown): boolean {
  return replyCode(error) === 405 || (replyCode(error) === 403 && /exclusive use/.test(String(error)));
}
