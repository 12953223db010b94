/**
 * Micro-batches: messages of volatile flows that are published in one turn of the event loop and go to the same place travel as one. Three
 * times the throughput, for a shared fate: they are lost together, or handed out again together. Between our own ends only, which take
 * them apart again, hence a flow must ask for it (`batch: true`).
 *
 * On the wire: content type `application/vnd.answerback.batch`; the body is the length of the table (4 octets), the table (JSON: of each
 * message its properties and the length of its body), then the bodies.
 */
import { nextTurn, type Soon } from './clock.js';
import type { Envelope } from './envelope.js';
import type { Address, Delivery, Handler, Message, PublishOptions, Transport } from './transport.js';

export const batchType = 'application/vnd.answerback.batch';

/** As large as one may become. What does not fit goes by itself, or in the next one. */
const maxMessages = 100;
const maxBytes = 64 << 10;

type Publish = (to: Address, message: Message) => Promise<void>;

interface Batch {
  readonly to: Address;
  readonly messages: Message[];
  readonly sent: Promise<void>;
  bytes: number;
}

/** How a message travels is said by its envelope. */
export type Way = Pick<Envelope, 'durable' | 'batch'>;

const durable: PublishOptions = { durable: true };
const volatile: PublishOptions = { durable: false };
export const optionsOf = (way: Way): PublishOptions => (way.durable ? durable : volatile);

/** Publishes as the envelope says: by itself, or with others. */
export function publisher(transport: Pick<Transport, 'publish'>, soon?: Soon): (to: Address, message: Message, way: Way) => Promise<void> {
  const together = batching((to, message) => transport.publish(to, message, volatile), soon);
  return (to, message, way) => (way.batch === true ? together(to, message) : transport.publish(to, message, optionsOf(way)));
}

/** Publishes each message with the others of this turn; resolves, or rejects, as `publish` does with what it was part of. */
export function batching(publish: Publish, soon: Soon = nextTurn): Publish {
  const open = new Map<string, Batch>();

  function begin(to: Address, name: string): Batch {
    const messages: Message[] = [];
    const sent = new Promise<void>((resolve, reject) =>
      soon(() => {
        if (open.get(name) === batch) open.delete(name);
        publish(to, messages.length === 1 ? messages[0]! : packed(messages)).then(resolve, reject);
      }),
    );
    const batch: Batch = { to, messages, sent, bytes: 0 };
    open.set(name, batch);
    return batch;
  }

  return (to, message) => {
    if (message.body.length > maxBytes / 4) return publish(to, message);
    const name = `${to.exchange} ${to.routingKey}`;
    const found = open.get(name);
    const fits = found !== undefined && found.messages.length < maxMessages && found.bytes + message.body.length <= maxBytes;
    const batch = fits ? found : begin(to, name);
    batch.messages.push(message);
    batch.bytes += message.body.length;
    return batch.sent;
  };
}

function packed(messages: readonly Message[]): Message {
  const table = Buffer.from(JSON.stringify(messages.map(({ body, ...properties }) => [body.length, properties])));
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32BE(table.length);
  return { body: Buffer.concat([length, table, ...messages.map(({ body }) => body)]), contentType: batchType };
}

/** Hands out the messages of a batch one by one, as if each had come by itself; resolves when all are done. */
export const oneByOne =
  (handle: Handler): Handler =>
  (delivery) =>
    delivery.contentType === batchType
      ? Promise.all(unpacked(delivery).map(async (one) => handle(one))).then(() => undefined)
      : handle(delivery);

/** The messages of a batch. Anything else is one message; so is a batch that cannot be read, which then is no message for anybody. */
export function unpacked(delivery: Delivery): readonly Delivery[] {
  const { body: all, exchange, routingKey, redelivered, deliveries } = delivery;
  if (delivery.contentType !== batchType) return [delivery];
  try {
    let at = 4 + all.readUInt32BE(0);
    const table = JSON.parse(all.toString('utf8', 4, at)) as readonly (readonly [number, Omit<Message, 'body'>])[];
    return table.map(([length, properties]) => {
      if (!(at + length <= all.length)) throw new RangeError('the batch is shorter than its table says');
      return { headers: {}, ...properties, body: all.subarray(at, (at += length)), exchange, routingKey, redelivered, deliveries };
    });
  } catch {
    return [delivery];
  }
}
