/** From what amqplib received to a Delivery, for `amqp-consumer.ts`. */
import type { ConsumeMessage } from './amqp-connection.js';
import type { Delivery, Headers } from './transport.js';

/** Message without `readonly`, to be filled field by field: absent properties shall be absent. */
type Draft = { -readonly [Name in keyof Delivery]: Delivery[Name] };

export function deliveryOf({ content, fields, properties: sent }: ConsumeMessage): Delivery {
  // amqplib types them `any`; the protocol gives each its type.
  const properties: Properties = sent;
  const headers = headersOf(properties.headers);
  const { exchange, routingKey, redelivered } = fields;
  const delivery: Draft = { body: content, headers, exchange, routingKey, redelivered, deliveries: deliveriesOf(headers, redelivered) };
  if (properties.messageId !== undefined) delivery.messageId = properties.messageId;
  if (properties.correlationId !== undefined) delivery.correlationId = properties.correlationId;
  if (properties.replyTo !== undefined) delivery.replyTo = properties.replyTo;
  if (properties.type !== undefined) delivery.type = properties.type;
  if (properties.contentType !== undefined) delivery.contentType = properties.contentType;
  if (properties.contentEncoding !== undefined) delivery.contentEncoding = properties.contentEncoding;
  if (properties.timestamp !== undefined) delivery.timestamp = properties.timestamp;
  if (properties.expiration !== undefined) delivery.expirationMs = Number(properties.expiration);
  if (properties.priority !== undefined) delivery.priority = properties.priority;
  if (properties.appId !== undefined) delivery.appId = properties.appId;
  if (properties.userId !== undefined) delivery.userId = properties.userId;
  const offset = headers['x-stream-offset'];
  if (typeof offset === 'number') delivery.offset = offset;
  return delivery;
}

interface Properties {
  readonly headers?: Headers | undefined;
  readonly messageId?: string;
  readonly correlationId?: string;
  readonly replyTo?: string;
  readonly type?: string;
  readonly contentType?: string;
  readonly contentEncoding?: string;
  readonly timestamp?: number;
  readonly expiration?: string;
  readonly priority?: number;
  readonly appId?: string;
  readonly userId?: string;
}

/** A header named `__proto__` that came over the wire has become the prototype: it shall not speak for absent ones. */
function headersOf(headers: Headers | undefined): Headers {
  if (headers === undefined) return {};
  return Object.getPrototypeOf(headers) === Object.prototype ? headers : { ...headers };
}

/** Quorum queues count in `x-delivery-count`, and from 4.3 on what a nack gave back in `x-acquired-count` only. */
function deliveriesOf(headers: Headers, redelivered: boolean): number {
  const [returned, acquired] = [headers['x-delivery-count'], headers['x-acquired-count']];
  const counted = Math.max(typeof returned === 'number' ? returned : 0, typeof acquired === 'number' ? acquired : 0);
  return redelivered && returned === undefined && acquired === undefined ? 1 : counted;
}
