/** Events: published to whoever listens, and the last value of each topic (EIP: Publish-Subscribe Channel). */
import { mayUse, type Principal } from './access.js';
import type { Clock } from './clock.js';
import { deriveId } from './envelope.js';
import { Fault } from './fault.js';
import type { Gateway, TopicMessage } from './gateway.js';
import type { Store } from './store.js';
import type { Names } from './topology.js';
import type { Message, Transport } from './transport.js';
import { reachable } from './waiting.js';

/** Publishes events of the hub's own, as JSON. The same `id` under the same topic is the same event. */
export const announcer =
  ({ transport, names, clock }: { readonly transport: Transport; readonly names: Names; readonly clock: Clock }) =>
  (topic: string, id: string, data: unknown): Promise<void> =>
    transport.publish(
      { exchange: names.events, routingKey: topic },
      {
        body: Buffer.from(JSON.stringify(data)),
        contentType: 'application/json',
        messageId: deriveId(id, topic),
        type: 'event',
        timestamp: Math.floor(clock.now() / 1_000),
        headers: { 'hub-at': clock.now() },
      },
      { mandatory: false },
    );

export function openTopics({
  transport,
  store,
  clock,
  newId,
  names,
}: {
  readonly transport: Transport;
  readonly store: Store;
  readonly clock: Clock;
  readonly newId: () => string;
  readonly names: Names;
}): Pick<Gateway, 'publish' | 'subscribe' | 'last'> {
  return {
    async publish(topic, principal, { body, contentType }) {
      checkTopic(topic, principal, /^[\w-]+(\.[\w-]+)*$/);
      const at = clock.now();
      const message = {
        body,
        contentType,
        messageId: newId(),
        type: 'event',
        timestamp: Math.floor(at / 1_000),
        headers: { 'hub-at': at },
      };
      await transport.publish({ exchange: names.events, routingKey: topic }, message, { mandatory: false }).catch((cause: unknown) => {
        throw new Fault('unavailable', 'RabbitMQ does not take events at the moment', { cause, reason: 'broker', retryAfterMs: 2_000 });
      });
    },
    async subscribe(pattern, principal, listener) {
      checkTopic(pattern, principal, /^([\w-]+|\*|#)(\.([\w-]+|\*|#))*$/);
      const subscription = await transport.subscribe(names.events, [pattern], (delivery) =>
        listener(topicMessage(delivery.routingKey, delivery, clock.now())),
      );
      return () => subscription.close();
    },
    async last(topic, principal) {
      checkTopic(topic, principal, /^[\w-]+(\.[\w-]+)*$/);
      const found = await reachable(store.last(topic));
      return found === undefined ? undefined : topicMessage(topic, found.message, found.at);
    },
  };
}

function checkTopic(topic: string, principal: Principal, shape: RegExp): void {
  if (topic.length > 200 || !shape.test(topic))
    throw new Fault(
      'invalid',
      'a topic is words of letters, digits, "-" and "_" with dots between them, as in "plant.line-1.temperature"',
      { reason: 'topic' },
    );
  if (!mayUse(principal, 'topics', topic)) throw new Fault('forbidden', `${principal.name} may not use topic ${topic}`);
}

function topicMessage(topic: string, { body, contentType, headers, timestamp }: Message, now: number): TopicMessage {
  const at = headers?.['hub-at'];
  return {
    topic,
    body,
    contentType: contentType ?? 'application/octet-stream',
    at: typeof at === 'number' ? at : timestamp === undefined ? now : timestamp * 1_000,
  };
}
