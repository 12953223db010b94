/** A foreign requestor: puts requests into `hub.requests` with a return address of its own, and counts what comes back. */
import { connect } from 'amqplib';
import { namesIn } from '../broker/topology.js';
import type { End, EndSettings } from './ends.js';

/** How often each number came back. */
export interface Tally {
  readonly once: number;
  readonly more: number;
  readonly never: number;
  readonly faults: number;
}

const atOnce = 2_000;

/** `ask` puts `count` requests in; `tally` tells what has come back. */
export async function foreignRequestorEnd({ rabbitmq, namespace }: EndSettings): Promise<End> {
  const connection = await connect(rabbitmq, { noDelay: true });
  const channel = await connection.createConfirmChannel();
  const queue = `${namespace}.bench.answers`;
  let came = new Uint8Array(0);
  let faults = 0;
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await channel.prefetch(5_000);
  await channel.consume(queue, (message) => {
    if (message === null) return;
    const index = Number(message.properties.correlationId);
    came[index] = (came[index] ?? 0) + 1;
    if (message.properties.type === 'fault') faults++;
    channel.ack(message);
  });

  async function ask(count: number): Promise<void> {
    came = new Uint8Array(count);
    const body = Buffer.alloc(256, 'x');
    const confirmed = (index: number) =>
      new Promise<void>((resolve, reject) =>
        channel.publish(
          namesIn(namespace).requests,
          'echo',
          body,
          {
            persistent: true,
            mandatory: true,
            contentType: 'application/octet-stream',
            replyTo: queue,
            correlationId: `${index}`,
            messageId: `${index}`,
          },
          (error: unknown) => (error === null ? resolve() : reject(new Error('RabbitMQ refused a request', { cause: error }))),
        ),
      );
    for (let from = 0; from < count; from += atOnce)
      await Promise.all(Array.from({ length: Math.min(atOnce, count - from) }, (_, offset) => confirmed(from + offset)));
  }

  return {
    async tell(what, { count }) {
      if (what === 'ask') return ask(Number(count));
      const once = came.filter((times) => times === 1).length;
      const more = came.filter((times) => times > 1).length;
      return { once, more, never: came.length - once - more, faults } satisfies Tally;
    },
    async close() {
      await channel.deleteQueue(queue);
      await connection.close();
    },
  };
}
