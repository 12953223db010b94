/**
 * The acknowledgements of one channel: what is done in one turn of the event loop is told the broker in as few frames as
 * possible. That is cheaper, and safer: a quorum queue keeps acknowledgements in the channel when more than about 32 are under
 * way, and forgets them when the channel closes [RabbitMQ 3.10.8, tried].
 */
import type { ConsumeMessage, Session } from './amqp-connection.js';

export interface Acknowledging {
  readonly session: Session;
  readonly channel: {
    ack(message: ConsumeMessage, allUpTo?: boolean): void;
    nack(message: ConsumeMessage, allUpTo?: boolean, requeue?: boolean): void;
  };
  isOpen(): boolean;
}

/** How long acknowledgements that may be late are gathered. */
const lazyMs = 5;

export class Acks {
  readonly #on: Acknowledging;
  /** How many may be gathered for longer than a turn. */
  readonly #lazily: number;
  #timer: NodeJS.Timeout | undefined;
  /** What the channel has handed out and we have not settled, in order. */
  readonly #unsettled = new Set<ConsumeMessage>();
  /** Those of them that are done. */
  readonly #done = new Set<ConsumeMessage>();

  constructor(on: Acknowledging, lazily = 0) {
    this.#on = on;
    this.#lazily = lazily;
  }

  took(message: ConsumeMessage): void {
    this.#unsettled.add(message);
  }

  /** It will be acknowledged at the end of this turn (or soon), or never when the channel is gone: the broker has it back then. */
  done(message: ConsumeMessage): void {
    this.#done.add(message);
    if (this.#done.size < this.#lazily) this.#timer ??= setTimeout(() => this.flush(), lazyMs);
    // After the promises that are settled already: a whole batch of deliveries may be done in one turn.
    else if (this.#done.size === Math.max(1, this.#lazily)) process.nextTick(() => this.flush());
  }

  /** Gives it back to the queue. */
  giveBack(message: ConsumeMessage): void {
    this.#unsettled.delete(message);
    // Not `reject`: from RabbitMQ 4.3 on a nack does not count towards a delivery limit, so nothing is dropped for it.
    this.#send(() => this.#on.channel.nack(message, false, true));
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    let upTo: ConsumeMessage | undefined;
    for (const message of this.#unsettled) {
      if (!this.#done.delete(message)) break;
      this.#unsettled.delete(message);
      upTo = message;
    }
    if (upTo !== undefined) this.#acknowledge(upTo, true);
    for (const message of this.#done) {
      this.#unsettled.delete(message);
      this.#acknowledge(message, false);
    }
    this.#done.clear();
  }

  #acknowledge(message: ConsumeMessage, allUpTo: boolean): void {
    this.#send(() => this.#on.channel.ack(message, allUpTo));
  }

  #send(frame: () => void): void {
    if (!this.#on.isOpen()) return;
    try {
      frame();
      this.#on.session.coalesce();
    } catch {
      // The channel is closing: the broker gives the message back.
    }
  }
}
