/** Paths of the OpenAPI document that every hub has. */
import type { Flow } from '../../broker/flow.js';
import { operation, problems } from './openapi-operation.js';
import { json, lines, ref, type headers } from './openapi-parts.js';

const parameter = (name: string) => ref('parameters', name);
const sent = (...names: readonly (keyof typeof headers)[]) => Object.fromEntries(names.map((name) => [name, ref('headers', name)]));
const anything = { '*/*': { schema: {} } };
const status = json(ref('schemas', 'Status'));
const stream = { 'text/event-stream': { schema: { type: 'string' } } };

export function hubPaths(flows: readonly Flow[]): Readonly<Record<string, object>> {
  const id = [parameter('id')];
  const flow = {
    name: 'flow',
    in: 'path',
    required: true,
    description: 'Name of a flow.',
    schema: { type: 'string', ...(flows.length === 0 ? {} : { enum: flows.map(({ name }) => name) }) },
  };
  return {
    ...arrivalPaths(flows),
    '/requests/{id}': {
      parameters: id,
      get: operation('status', 'requests', 'Where a request is', {
        parameters: [parameter('IfNoneMatch')],
        responses: {
          '200': {
            description: 'The status document; of one that arrives in parts, how that stands.',
            headers: sent('ETag', 'Hub-Request-Id'),
            content: flows.some(({ parts }) => parts !== undefined)
              ? json({ anyOf: [ref('schemas', 'Status'), ref('schemas', 'Opened')] })
              : status,
          },
          '304': { description: 'Unchanged.' },
          ...problems(401, 404, 410),
        },
      }),
      delete: operation('cancel', 'requests', 'Cancel a request', {
        responses: {
          '200': { description: 'Cancelled.', headers: sent('Hub-Request-Id'), content: status },
          '204': { description: 'Cancelled, by an operator; or abandoned before it was closed.' },
          ...problems(401, 404, 409, 410),
        },
      }),
    },
    '/requests/{id}/reply': {
      parameters: id,
      get: operation('reply', 'requests', 'The outcome of a request, waiting for it with `Prefer: wait=N`', {
        description:
          'With `Accept: application/x-ndjson` it comes in parts, after the one that you name, and the line is held without being asked. Of a reply that late parts have amended it is the newest version, or the one that you name.',
        parameters: ['Prefer', 'LastEventId', 'after', 'version', 'IfNoneMatch'].map(parameter),
        responses: {
          '200': {
            description: 'The reply, with its own content type.',
            headers: sent('Hub-Request-Id', 'Preference-Applied', 'Vary', 'Hub-Reply-Version', 'ETag', 'Link'),
            content: { ...anything, ...lines },
          },
          '304': { description: 'You have this version.' },
          '202': { description: 'Not there yet.', headers: sent('Location', 'Retry-After', 'Hub-Request-Id', 'Vary'), content: status },
          ...problems(400, 401, 403, 404, 409, 410, 422, 429, 502, 503, 504),
        },
      }),
    },
    '/requests/{id}/answers': {
      parameters: id,
      post: operation('answer', 'requests', 'Answer what a step asks the requestor', {
        description:
          'The body is the answer, as JSON. Then as with the reply: with `Prefer: wait=N` the line is held until the next question or the outcome.',
        parameters: ['HubQuestion', 'Prefer'].map(parameter),
        requestBody: { content: json({}) },
        responses: {
          '200': {
            description: 'The reply, with its own content type.',
            headers: sent('Hub-Request-Id', 'Preference-Applied', 'Vary'),
            content: anything,
          },
          '202': {
            description: 'Taken; not ended yet.',
            headers: sent('Location', 'Retry-After', 'Hub-Request-Id', 'Vary'),
            content: status,
          },
          ...problems(400, 401, 403, 404, 409, 410, 413, 422, 429, 502, 503, 504),
        },
      }),
    },
    '/requests/{id}/events': {
      parameters: id,
      get: operation('watch', 'requests', 'What happens to a request, as server-sent events', {
        description:
          'Events `state`, `step`, `progress`, `part`, `ask` and `outcome`; ends after `outcome`, or, where late parts amend the reply, after the last `amended` ' +
          'that can come. Before them, of one that arrives in parts: `opened`, `reminder`, and `closed`, or `expired` or `abandoned`, which end it.',
        parameters: [parameter('LastEventId')],
        responses: {
          '200': { description: 'Server-sent events.', content: stream },
          '204': { description: 'It has ended, and you have seen everything.' },
          ...problems(401, 404, 410, 429, 503),
        },
      }),
    },
    '/requests/{id}/callback': {
      parameters: id,
      get: operation('callback', 'requests', 'How far calling back is, attempt by attempt', {
        responses: {
          '200': { description: 'State and attempts.', headers: sent('Hub-Request-Id'), content: json(ref('schemas', 'Callback')) },
          ...problems(401, 404, 410, 503),
        },
      }),
    },
    '/messages/{flow}': {
      parameters: [flow],
      post: operation('send', 'messages', 'Send a one-way message', {
        parameters: ['IdempotencyKey', 'HubDeadline', 'HubKey', 'traceparent'].map(parameter),
        requestBody: { content: anything },
        responses: {
          '202': { description: 'The broker has it.', headers: sent('Hub-Request-Id') },
          ...problems(400, 401, 403, 404, 413, 422, 429, 503),
        },
      }),
    },
    '/events/{topic}': {
      parameters: [parameter('topic')],
      post: operation('publish', 'events', 'Publish an event', {
        requestBody: { content: anything },
        responses: { '202': { description: 'The broker has it.' }, ...problems(400, 401, 403, 413, 429, 503) },
      }),
      get: operation('subscribe', 'events', 'Watch the topics that match, as server-sent events', {
        responses: {
          '200': { description: 'Events `message` with `topic`, `contentType`, `at`, and `data` or `base64`.', content: stream },
          ...problems(400, 401, 403, 429, 503),
        },
      }),
    },
    '/events/{topic}/last': {
      parameters: [parameter('topic')],
      get: operation('last', 'events', 'The last event of a topic', {
        responses: {
          '200': { description: 'Its body, with its own content type.', headers: sent('Hub-Published-At'), content: anything },
          ...problems(401, 403, 404),
        },
      }),
    },
    '/health/live': {
      get: operation('live', 'hub', 'Is the process alive?', {
        security: [],
        responses: { '200': { description: 'It is.' }, ...problems(400) },
      }),
    },
    '/health/ready': {
      get: operation('ready', 'hub', 'Can it take requests?', {
        security: [],
        responses: {
          '200': { description: 'It can.', content: json(ref('schemas', 'Health')) },
          ...problems(400),
          '503': { description: 'It cannot, and why.', headers: sent('Retry-After'), content: json(ref('schemas', 'Health')) },
        },
      }),
    },
    '/metrics': {
      get: operation('metrics', 'hub', 'Metrics in the Prometheus format', {
        responses: { '200': { description: 'Metrics.', content: { 'text/plain': { schema: { type: 'string' } } } }, ...problems(401) },
      }),
    },
  };
}

/** Requests that arrive in parts, if any flow takes them. */
function arrivalPaths(flows: readonly Flow[]): Readonly<Record<string, object>> {
  const takers = flows.filter(({ parts }) => parts !== undefined);
  if (takers.length === 0) return {};
  const flow = {
    name: 'flow',
    in: 'path',
    required: true,
    description: 'Name of a flow that takes requests in parts.',
    schema: { type: 'string', enum: takers.map(({ name }) => name) },
  };
  const opened = json(ref('schemas', 'Opened'));
  const accepted = sent('Location', 'Retry-After', 'Hub-Request-Id', 'Preference-Applied', 'Idempotency-Replayed', 'Vary');
  return {
    '/requests/{flow}/parts': {
      parameters: [flow],
      post: operation('open', 'requests', 'Open a request whose body arrives in parts', {
        parameters: [parameter('HubCallback')],
        responses: {
          '201': { description: 'Open. It stays so for its lease.', headers: sent('Location', 'Hub-Request-Id'), content: opened },
          ...problems(400, 401, 403, 404, 429, 503),
        },
      }),
    },
    '/requests/{id}/parts/{n}': {
      parameters: [parameter('id'), parameter('n')],
      put: operation('append', 'requests', 'Append a part, in any order', {
        description: 'All parts have one content type. JSON parts become an array, others are put one after the other.',
        requestBody: { content: anything },
        responses: {
          '200': { description: 'It was here before.', headers: sent('Hub-Request-Id'), content: opened },
          '201': { description: 'It is kept.', headers: sent('Hub-Request-Id'), content: opened },
          ...problems(400, 401, 403, 404, 409, 410, 413, 429, 503),
        },
      }),
    },
    '/requests/{id}/close': {
      parameters: [parameter('id')],
      post: operation('close', 'requests', 'Close it: a request like any other', {
        description: 'Whatever `POST /requests/{flow}` takes and answers. A refusal leaves it open.',
        parameters: [
          'HubParts',
          'Prefer',
          'IdempotencyKey',
          'HubDeadline',
          'HubKey',
          'HubSupersedes',
          'HubCallback',
          'HubPriority',
          'traceparent',
        ].map(parameter),
        responses: {
          '200': {
            description: 'The reply, with its own content type.',
            headers: sent('Hub-Request-Id', 'Preference-Applied', 'Idempotency-Replayed', 'Vary'),
            content: { ...anything, ...lines },
          },
          '202': { description: 'Accepted; the answer comes later.', headers: accepted, content: status },
          ...problems(400, 401, 403, 404, 409, 410, 413, 422, 429, 502, 503, 504),
        },
      }),
    },
  };
}
