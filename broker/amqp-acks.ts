/**
 * The acknowledgements of one channel: what is done in one turn of the event loop is told the broker in as few frames as
 * possible. That is cheaper, and safer: a quorum queue keeps acknowledgements in the channel when more than about 32 are under
 * way, and forgets them when the channel closes [RabbitMQ 3.10.8, tried].
 */
import type { ConsumeMessage, Session } from './amqp-connection.js';

export interface Acknowledging {
  readonly session: Session;
  readonly channel: { ack(message: ConsumeMessage, allUpTo?: boolean): void; nack(message: ConsumeMessage, allUpTo?: boolean, requeue?: boolean): void };
  isOpen(): boolean;
}

export class Acks {
  readonly #on: Acknowledging;
  /** What the channel has handed out and we have not settled, in order; `true` when it is done. */
  readonly #unsettled = new Map<ConsumeMessage, boolean>();
  #done = 0;

  constructor(on: Acknowledging) {
    this.#on = on;
  }

  took(message: ConsumeMessage): void {
    this.#unsettled.set(message, false);
  }

  /** It will be acknowledged at the end of this turn, or never when the channel is gone: the broker has it back then. */
  done(message: ConsumeMessage): void {
    this.#unsettled.set(message, true);
    // After the promises that are settled already: a whole batch of deliveries may be done in one turn.
    if (this.#done++ === 0) process.nextTick(() => this.flush());
  }

  /** Gives it back to the queue. */
  giveBack(message: ConsumeMessage): void {
    this.#unsettled.delete(message);
    // Not `reject`: from RabbitMQ 4.3 on a nack does not count towards a delivery limit, so nothing is dropped for it.
    this.#send(() => this.#on.channel.nack(message, false, true));
  }

  flush(): void {
    if (this.#done === 0) return;
    this.#done = 0;
    let last: ConsumeMessage | undefined;
    let isPrefix = true;
    for (const [message, isDone] of this.#unsettled) {
      isPrefix &&= isDone;
      if (!isDone) continue;
      this.#unsettled.delete(message);
      if (isPrefix) last = message;
      else this.#send(() => this.#on.channel.ack(message));
    }
    if (last !== undefined) {
      const upTo = last;
      this.#send(() => this.#on.channel.ack(upTo, true));
    }
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
