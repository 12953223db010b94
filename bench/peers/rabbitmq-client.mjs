// rabbitmq-client: an RPCClient (direct reply-to) and a Consumer that replies.

import { Connection } from 'rabbitmq-client';

/** @typedef {{ rabbitmq: string, namespace: string }} Settings */

/** @param {string} namespace */
const queueOf = (namespace) => `${namespace}.rabbitmq-client`;

/** @param {Settings} settings */
export async function replier({ rabbitmq, namespace }) {
  const connection = new Connection({ url: rabbitmq, noDelay: true });
  const consumer = connection.createConsumer(
    { queue: queueOf(namespace), queueOptions: { durable: true, autoDelete: true }, qos: { prefetchCount: 2_000 }, noAck: true },
    async ({ body }, reply) => reply(body),
  );
  await new Promise((resolve) => consumer.once('ready', () => resolve(undefined)));
  return { close: async () => void (await consumer.close(), await connection.close()) };
}

/** @param {Settings} settings */
export async function requestor({ rabbitmq, namespace }) {
  const connection = new Connection({ url: rabbitmq, noDelay: true });
  const client = connection.createRPCClient({ confirm: false });
  return {
    /** @param {Buffer} body */
    request: async (body) => (await client.send(queueOf(namespace), body)).body,
    close: async () => void (await client.close(), await connection.close()),
  };
}
