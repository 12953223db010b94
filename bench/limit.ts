/**
 * The limit: request/reply as a good programmer writes it by hand on amqplib, without a hub, and without anything that the
 * promise does not need. One connection and one channel at each end, prefetch in the thousands, correlation by one Map.
 *
 * Volatile: transient messages, noAck, a classic queue for work and an exclusive one for replies, no confirms.
 * Durable: quorum queues for work and replies, persistent messages, confirms on both legs, the replier acknowledges a
 * request once its reply is confirmed, the requestor resolves once it has the reply, and rejects when its message is refused.
 */
import { connect, type ChannelModel, type ConsumeMessage, type Options } from 'amqplib';
import { fastify } from 'fastify';
import type { End, EndSettings } from './ends.js';
import type { LoadSettings } from './load.js';

const none: LoadSettings = { outstanding: 1, bytes: 0, warmUpMs: 0, measureMs: 0 };
const partCount = 10;

const prefetch = 2_000;
const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } };

export const volatileQueue = (namespace: string): string => `${namespace}.limit.volatile`;
export const workQueue = (namespace: string): string => `${namespace}.limit.work`;
export const replyQueue = (namespace: string): string => `${namespace}.limit.reply.${process.pid}`;

const open = (url: string): Promise<ChannelModel> => connect(url, { noDelay: true });

export async function volatileReplier({ rabbitmq, namespace }: EndSettings): Promise<End> {
  const connection = await open(rabbitmq);
  const channel = await connection.createChannel();
  const queue = volatileQueue(namespace);
  await channel.assertQueue(queue, { durable: true });
  await channel.consume(
    queue,
    (message) => {
      if (message === null) return;
      const { replyTo, correlationId } = message.properties as { replyTo: string; correlationId: string };
      channel.sendToQueue(replyTo, message.content, { correlationId });
    },
    { noAck: true },
  );
  return {
    async close() {
      await channel.deleteQueue(queue);
      await connection.close();
    },
  };
}

export async function volatileRequestor({ rabbitmq, namespace }: EndSettings): Promise<End> {
  const connection = await open(rabbitmq);
  const channel = await connection.createChannel();
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true });
  const work = volatileQueue(namespace);
  const waiting = new Map<string, (body: Buffer) => void>();
  await channel.consume(replyTo, (message) => take(waiting, message)?.(message!.content), { noAck: true });
  let asked = 0;
  return {
    request: (body) =>
      new Promise<Buffer>((resolve) => {
        const correlationId = String(asked++);
        waiting.set(correlationId, resolve);
        channel.sendToQueue(work, body, { correlationId, replyTo });
      }),
    close: () => connection.close(),
  };
}

export interface DurableSettings extends EndSettings {
  /** With the properties and the header that the hub's messages bear, made anew for each message: to see what they cost. */
  readonly dressed?: boolean;
}

const dressOf = ({ dressed }: DurableSettings): (() => Options.Publish) => {
  if (dressed !== true) return () => bare;
  const hub =
    'flow=journal, slip=(hello), step=1, attempt=1, at=1795413590123, from=hello, took=0, principal="anonymous", deadline=@1795413600';
  return () => ({
    messageId: '019ac0de-0000-7000-8000-000000000000',
    type: 'request',
    contentType: 'application/octet-stream',
    timestamp: 1_795_413_590,
    appId: 'answerback/0.0.0',
    headers: { hub },
  });
};
const bare: Options.Publish = {};

export async function durableReplier(settings: DurableSettings): Promise<End> {
  const { rabbitmq, namespace } = settings;
  const dress = dressOf(settings);
  const connection = await open(rabbitmq);
  const channel = await connection.createConfirmChannel();
  const queue = workQueue(namespace);
  await channel.assertQueue(queue, quorum);
  await channel.prefetch(prefetch);
  await channel.consume(queue, (message) => {
    if (message === null) return;
    const { replyTo, correlationId } = message.properties as { replyTo: string; correlationId: string };
    channel.sendToQueue(replyTo, message.content, { correlationId, persistent: true, ...dress() }, (error: unknown) =>
      error ? channel.nack(message) : channel.ack(message),
    );
  });
  return {
    async close() {
      await channel.deleteQueue(queue);
      await connection.close();
    },
  };
}

export async function durableRequestor(settings: DurableSettings): Promise<End> {
  const { rabbitmq, namespace } = settings;
  const dress = dressOf(settings);
  const connection = await open(rabbitmq);
  const channel = await connection.createConfirmChannel();
  const replyTo = replyQueue(namespace);
  await channel.assertQueue(replyTo, quorum);
  await channel.prefetch(prefetch);
  const work = workQueue(namespace);
  const waiting = new Map<string, (body: Buffer) => void>();
  await channel.consume(replyTo, (message) => {
    if (message === null) return;
    take(waiting, message)?.(message.content);
    channel.ack(message);
  });
  let asked = 0;
  return {
    request: (body) =>
      new Promise<Buffer>((resolve, reject) => {
        const correlationId = String(asked++);
        waiting.set(correlationId, resolve);
        channel.sendToQueue(work, body, { correlationId, replyTo, persistent: true, ...dress() }, (error: unknown) => {
          if (error) reject(new Error('refused', { cause: error }));
        });
      }),
    async close() {
      await channel.deleteQueue(replyTo);
      await connection.close();
    },
  };
}

/** Both ends of the durable one in one process. */
export async function durableBoth(settings: EndSettings): Promise<End> {
  const replier = await durableReplier(settings);
  const { request, close } = await durableRequestor(settings);
  return { request: request!, close: async () => void (await close(), await replier.close()) };
}

/**
 * Ten requests for one, each as durable as the one, and the answers joined in their order: a scatter-gather whose state is in
 * the memory of its requestor, and is lost with it.
 */
export async function scatterRequestor(settings: EndSettings): Promise<End> {
  const { request, close } = await durableRequestor(settings);
  return {
    request: async (body, load) =>
      Buffer.concat((await Promise.all(Array.from({ length: partCount }, () => request!(body, load)))) as Buffer[]),
    close,
  };
}

/** Fastify as it comes, with the durable requestor behind one route. */
export async function httpRequestor(settings: EndSettings): Promise<End> {
  const { request, close } = await durableRequestor(settings);
  const app = fastify();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.post('/', async ({ body }, reply) => {
    reply.header('content-type', 'application/octet-stream');
    return request!(body as Buffer, none);
  });
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  return { tell: async () => url, close: async () => void (await app.close(), await close()) };
}

/** Whoever waits for this message; once. */
function take<T>(waiting: Map<string, T>, message: ConsumeMessage | null): T | undefined {
  if (message === null) return undefined;
  const id = message.properties.correlationId as string;
  const waiter = waiting.get(id);
  waiting.delete(id);
  return waiter;
}
