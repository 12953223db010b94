/** The AsyncAPI 3.0 document of a hub: how any AMQP program asks for a flow, and how events travel, without our code. */
import { faultCodes } from '../../broker/fault.js';
import type { Flow } from '../../broker/flow.js';
import { flowSchemas, openedSchema, partName, schemaOf } from './schemas.js';

const bindingVersion = '0.3.0';
const correlationId = {
  description: 'Chosen by the requestor; comes back on the answer.',
  location: '$message.header#/correlationId',
} as const;

export function asyncApi(flows: readonly Flow[], { version, namespace }: { readonly version: string; readonly namespace: string }): object {
  const exchange = (name: string, type: 'topic' | 'direct') => ({
    is: 'routingKey',
    exchange: { name: `${namespace}.${name}`, type, durable: true, autoDelete: false },
    bindingVersion,
  });
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Answerback',
      version,
      description:
        `Publish a body to the exchange \`${namespace}.requests\` with the flow as routing key, \`reply_to\` (a queue of your own, or ` +
        '`amq.rabbitmq.reply-to`) and `correlation_id`. The reply comes there with the same `correlation_id`; a fault has `type` = `fault`. With the header `parts: true`, ' +
        'parts of a reply come before it (`type` = `part`); what a step asks comes as `type` = `ask`, and is answered to the same exchange with the routing key in `hub-answer-to`. ' +
        'Flows that say so take a request in parts (`type` = `part`): each with its number in `hub-sequence`, one of them with `hub-parts`, how many there are.',
      license: { name: 'Apache-2.0' },
    },
    defaultContentType: 'application/json',
    channels: {
      ...Object.fromEntries(flows.flatMap((flow) => channelsOf(flow, exchange('requests', 'topic')))),
      events: {
        address: '{topic}',
        description: `Events; bind a queue of your own to the exchange \`${namespace}.events\`.`,
        parameters: { topic: { description: 'Words with dots between; the routing key.' } },
        messages: { event: { $ref: '#/components/messages/event' } },
        bindings: { amqp: exchange('events', 'topic') },
      },
    },
    operations: {
      ...Object.fromEntries(flows.map((flow) => [`request.${partName(flow)}`, receives(flow)])),
      'events.publish': operation('receive', 'Publish an event', 'events'),
      'events.watch': operation('send', 'Watch events', 'events'),
    },
    components: {
      messages: {
        fault: {
          summary: 'What went wrong, in place of a reply.',
          contentType: 'application/json',
          correlationId,
          payload: { $ref: '#/components/schemas/Fault' },
          bindings: { amqp: { messageType: 'fault', bindingVersion } },
        },
        event: { summary: 'Something that happened.', payload: {} },
      },
      schemas: {
        Fault,
        Opened: openedSchema,
        RequestHeaders,
        RequestPartHeaders,
        ReplyHeaders,
        PartHeaders,
        ReminderHeaders,
        AmendedHeaders,
        AskHeaders,
        ...flowSchemas(flows),
      },
    },
  };
}

/** What comes with the AMQP property `type` = `messageType`. */
const message = (messageType: string, summary: string, headers: string, payload: object = {}) => ({
  summary,
  headers: { $ref: `#/components/schemas/${headers}` },
  correlationId,
  payload,
  bindings: { amqp: { messageType, bindingVersion } },
});

function requestMessages(flow: Flow) {
  const { example, parts } = flow;
  return {
    request: {
      ...message('request', flow.summary ?? `Request ${flow.name}`, 'RequestHeaders', schemaOf(flow, 'request')),
      ...(typeof example === 'object' && example !== null ? { examples: [{ name: 'example', payload: example }] } : {}),
    },
    ...(parts === undefined ? {} : { part: message('part', 'A part of a request, its end, or both.', 'RequestPartHeaders') }),
  };
}

function replyMessages(flow: Flow) {
  const reply = schemaOf(flow, 'reply');
  const reminder = 'What a request in parts still waits for, when half of its lease is over. After the other half comes a fault.';
  return {
    reply: message('reply', 'The reply.', 'ReplyHeaders', reply),
    fault: { $ref: '#/components/messages/fault' },
    part: message('part', 'A part of the reply, before it, to who says that it wants them.', 'PartHeaders'),
    ...(flow.parts === undefined
      ? {}
      : { reminder: message('progress', reminder, 'ReminderHeaders', { $ref: '#/components/schemas/Opened' }) }),
    ...(flow.late === 'amend'
      ? { amended: message('amended', 'A corrected result, after the reply, to who says that it wants them.', 'AmendedHeaders', reply) }
      : {}),
    ask: message('ask', 'What a step asks its requestor.', 'AskHeaders'),
  };
}

/** The channel that a flow is asked on, and the one of its answers: the requestor's own queue. */
function channelsOf(flow: Flow, amqp: object): readonly (readonly [string, object])[] {
  const summary = flow.summary ?? `Request ${flow.name}`;
  return [
    [`request.${partName(flow)}`, { address: flow.name, summary, messages: requestMessages(flow), bindings: { amqp } }],
    [
      `reply.${partName(flow)}`,
      { address: null, summary: `Answers of ${flow.name}, in the queue that the request named.`, messages: replyMessages(flow) },
    ],
  ];
}

/** AsyncAPI is written from the hub's side: it receives requests. */
function receives(flow: Flow): object {
  const channel = pointer(`request.${partName(flow)}`);
  const reply = pointer(`reply.${partName(flow)}`);
  const all = (at: string, messages: object) => Object.keys(messages).map((name) => ({ $ref: `${at}/messages/${name}` }));
  return {
    action: 'receive',
    summary: flow.summary ?? `Request ${flow.name}`,
    channel: { $ref: channel },
    messages: all(channel, requestMessages(flow)),
    reply: {
      address: { description: 'The queue for the answer: AMQP property `reply_to`.', location: '$message.header#/replyTo' },
      channel: { $ref: reply },
      messages: all(reply, replyMessages(flow)),
    },
    bindings: { amqp: { deliveryMode: 2, mandatory: true, bindingVersion } },
  };
}

function operation(action: 'send' | 'receive', summary: string, channel: string): object {
  return { action, summary, channel: { $ref: pointer(channel) }, messages: [{ $ref: `${pointer(channel)}/messages/event` }] };
}

const pointer = (channel: string): string => `#/channels/${channel}`;

/** The AMQP properties that a requestor sets, as AsyncAPI's runtime expressions name them. */
const requestor = {
  replyTo: { type: 'string', description: 'AMQP property `reply_to`.' },
  correlationId: { type: 'string', maxLength: 255, description: 'AMQP property `correlation_id`.' },
  traceparent: { type: 'string', description: 'W3C trace context.' },
  parts: { type: 'boolean', description: 'Parts of the reply are wanted as they come.' },
  amended: { type: 'boolean', description: 'Corrected results are wanted, too.' },
} as const;

const RequestHeaders = {
  type: 'object',
  required: ['replyTo', 'correlationId'],
  properties: {
    ...requestor,
    messageId: { type: 'string', description: 'AMQP property `message_id`.' },
  },
} as const;

/** `replyTo` and `correlationId` say which request it is a part of. What else it says counts on the message that has `hub-parts`. */
const RequestPartHeaders = {
  type: 'object',
  required: ['replyTo', 'correlationId'],
  anyOf: [{ required: ['hub-sequence'] }, { required: ['hub-parts'] }],
  properties: {
    ...requestor,
    'hub-sequence': {
      type: 'integer',
      minimum: 1,
      description: 'The number of the part: 1, 2, 3, …, in any order. Without it the body is no part.',
    },
    'hub-parts': { type: 'integer', minimum: 1, description: 'How many parts there are: on one of the messages, whichever.' },
  },
} as const;

const PartHeaders = {
  type: 'object',
  required: ['correlationId', 'hub-sequence'],
  properties: { correlationId: { type: 'string' }, 'hub-sequence': { type: 'integer', minimum: 1, description: '1, 2, 3, …' } },
} as const;

const ReminderHeaders = {
  type: 'object',
  required: ['correlationId', 'hub-event'],
  properties: { correlationId: { type: 'string' }, 'hub-event': { const: 'reminder' } },
} as const;

const AmendedHeaders = {
  type: 'object',
  required: ['correlationId', 'hub-reply-version'],
  properties: {
    correlationId: { type: 'string' },
    'hub-reply-version': { type: 'integer', minimum: 2, description: 'Of the reply, which is version 1.' },
  },
} as const;

const AskHeaders = {
  type: 'object',
  required: ['correlationId', 'hub-question', 'hub-answer-to'],
  properties: {
    correlationId: { type: 'string' },
    'hub-question': { type: 'string', description: 'Id of the question.' },
    'hub-answer-to': { type: 'string', description: 'Routing key of the answer.' },
    'hub-schema': { type: 'string', description: 'JSON Schema of the answer, as JSON.' },
  },
} as const;

const ReplyHeaders = { type: 'object', required: ['correlationId'], properties: { correlationId: { type: 'string' } } } as const;

const Fault = {
  type: 'object',
  required: ['code', 'message'],
  properties: {
    code: { enum: Object.keys(faultCodes), description: 'Stable.' },
    message: { type: 'string' },
    step: { type: 'string', description: 'The step that failed.' },
    reason: { type: 'string', description: 'A finer code, stable as well.' },
    errors: { type: 'array', items: { type: 'object', properties: { pointer: { type: 'string' }, detail: { type: 'string' } } } },
  },
} as const;
