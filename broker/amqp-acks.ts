/**
 * The acknowledgements of one channel: what is done in one turn of the event loop is told the broker in as few frames as
 * possible. That is cheaper, and safer: a quorum queue keeps acknowledgements in the channel when more than about 32 are under
 * way, and forgets them when the channel closes [RabbitMQ 3.10.8, tried].
 */
import type { ConsumeMessage, Session } from './amqp-connection.js';
import { Chain, type Place } from './under-way.js';

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
/** How long one that is not next in order waits for those before it: each by itself is a frame, and a command of its own to the queue. */
const outOfOrderMs = 50;

export interface AcksOptions {
  /** How many that are done may be unacknowledged: they take the place of others that could be handed out. */
  readonly held: number;
  /** They need not be acknowledged in the turn in which they are done. */
  readonly lazy: boolean;
}

interface Unsettled {
  readonly message: ConsumeMessage;
  isDone: boolean;
}

/** A message that the channel has handed out. */
export type Taken = Place<Unsettled>;

export class Acks {
  readonly #on: Acknowledging;
  readonly #options: AcksOptions;
  #timer: NodeJS.Timeout | undefined;
  #isDue = false;
  /** What the channel has handed out and we have not settled, in order. */
  readonly #unsettled = new Chain<Unsettled>();
  /** So many of them are done. */
  #done = 0;

  constructor(on: Acknowledging, options: AcksOptions) {
    this.#on = on;
    this.#options = options;
  }

  took(message: ConsumeMessage): Taken {
    return this.#unsettled.add({ message, isDone: false });
  }

  /** It will be acknowledged at the end of this turn (or soon), or never when the channel is gone: the broker has it back then. */
  done({ item }: Taken): void {
    const { lazy, held } = this.#options;
    item.isDone = true;
    this.#done++;
    if (lazy && this.#done < held) return this.#flushWithin(lazyMs);
    if (this.#isDue) return;
    this.#isDue = true;
    // After the promises that are settled already: a whole batch of deliveries may be done in one turn.
    process.nextTick(() => {
      this.#isDue = false;
      this.#flushInOrder();
      if (this.#done > held) this.flush();
      else if (this.#done > 0) this.#flushWithin(outOfOrderMs);
    });
  }

  /** Gives it back to the queue. */
  giveBack(taken: Taken): void {
    this.#unsettled.remove(taken);
    // Not `reject`: from RabbitMQ 4.3 on a nack does not count towards a delivery limit, so nothing is dropped for it.
    this.#send(() => this.#on.channel.nack(taken.item.message, false, true));
  }

  /** Acknowledges all that are done. */
  flush(): void {
    this.#flushInOrder();
    for (const taken of this.#done > 0 ? this.#unsettled.all().filter(({ item }) => item.isDone) : []) {
      this.#settled(taken);
      this.#acknowledge(taken, false);
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #flushWithin(ms: number): void {
    this.#timer ??= setTimeout(() => this.flush(), ms);
  }

  /** Acknowledges those that are done up to the first one that is not: one frame. */
  #flushInOrder(): void {
    let upTo: Taken | undefined;
    for (let next; (next = this.#unsettled.first) !== undefined && next.item.isDone; upTo = next) this.#settled(next);
    if (upTo !== undefined) this.#acknowledge(upTo, true);
  }

  #settled(taken: Taken): void {
    this.#unsettled.remove(taken);
    this.#done--;
  }

  #acknowledge({ item }: Taken, allUpTo: boolean): void {
    this.#send(() => this.#on.channel.ack(item.message, allUpTo));
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
