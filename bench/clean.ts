/** Removes what a benchmark leaves in RabbitMQ and Redis: everything that bears its namespace, and nothing else. */
import { connect } from 'amqplib';
import { Redis } from 'ioredis';
import { namesIn, topologyOf } from '../broker/topology.js';
import { flows, hubName, steps, taskFlows, taskSteps } from './ours.js';

export interface Leavings {
  readonly rabbitmq: string;
  readonly redis: string;
  readonly namespaces: Iterable<string>;
}

export async function removeEverything({ rabbitmq, redis, namespaces }: Leavings): Promise<void> {
  const connection = await connect(rabbitmq);
  const channel = await connection.createChannel();
  for (const namespace of namespaces) {
    const topology = topologyOf({
      names: namesIn(namespace),
      flows: [...flows, ...taskFlows],
      steps: new Map([...steps, ...taskSteps].map((step) => [step.name, step])),
      hub: hubName,
      journalMaxAge: '1D',
    });
    for (const { name } of topology.queues) await channel.deleteQueue(name);
    for (const { name } of topology.exchanges) await channel.deleteExchange(name);
  }
  await connection.close();

  const client = new Redis(redis);
  for (const namespace of namespaces) {
    for await (const keys of client.scanStream({ match: `${namespace}:*`, count: 10_000 }) as AsyncIterable<string[]>) {
      if (keys.length > 0) await client.unlink(...keys);
    }
  }
  await client.quit();
}
