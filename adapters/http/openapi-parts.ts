/** What the paths of the OpenAPI document share: parameters, headers, schemas, problems. */
import { faultCodes } from '../../broker/fault.js';
import { faultStatus, httpProblems } from './problem.js';
import { openedSchema } from './schemas.js';

export const ref = (kind: 'schemas' | 'parameters' | 'headers' | 'responses', name: string): { readonly $ref: string } => ({
  $ref: `#/components/${kind}/${name}`,
});

export const json = (schema: object): object => ({ 'application/json': { schema } });

const string = { type: 'string' } as const;
const time = { type: 'string', format: 'date-time' } as const;

const header = (name: string, description: string, schema: object, example: unknown): object => ({
  name,
  in: 'header',
  description,
  schema,
  example,
});

export const parameters = {
  Prefer: header(
    'Prefer',
    'RFC 7240: `wait=N` seconds on the line; `respond-async` answers 202 at once, or after `wait`.',
    string,
    'wait=10',
  ),
  IdempotencyKey: header(
    'Idempotency-Key',
    'A quoted string or a bare token. Same key and body: the same request and the same answer. Other body: 422. Makes it safe to send again.',
    { type: 'string', maxLength: 257 },
    '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
  ),
  HubDeadline: header('Hub-Deadline', 'How long the request may live, in seconds.', { type: 'number', exclusiveMinimum: 0 }, 60),
  HubKey: header('Hub-Key', 'Business key to find the request by.', { type: 'string', maxLength: 255 }, 'C-1042'),
  HubPriority: header('Hub-Priority', '`urgent`: overtakes what waits at its steps.', { enum: ['normal', 'urgent'] }, 'urgent'),
  HubSupersedes: header(
    'Hub-Supersedes',
    'Your older requests to this flow that came with the same text here, and have no outcome yet, are cancelled (reason `superseded`); this one takes their place.',
    { type: 'string', maxLength: 255 },
    'C-1042',
  ),
  HubCallback: header(
    'Hub-Callback',
    'The outcome is posted there, signed (Standard Webhooks), and again until it is taken: the name of a callback of hub.yaml, or an address that it allows. Without `Prefer` the request is answered 202.',
    { type: 'string', maxLength: 2_000 },
    'crm',
  ),
  HubParts: header('Hub-Parts', 'How many parts the request has.', { type: 'integer', minimum: 1 }, 3),
  n: { name: 'n', in: 'path', required: true, description: 'Number of the part: 1, 2, 3, …', schema: { type: 'integer', minimum: 1 } },
  traceparent: header('traceparent', 'W3C trace context.', string, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'),
  LastEventId: header('Last-Event-ID', 'Resumes after this event, or this part of a reply.', string, '7'),
  after: { name: 'after', in: 'query', description: 'As `Last-Event-ID`.', schema: { type: 'integer', minimum: 0 } },
  version: {
    name: 'version',
    in: 'query',
    description: 'Which version of the reply: 1 is the first. Default: the newest.',
    schema: { type: 'integer', minimum: 1 },
  },
  HubQuestion: header(
    'Hub-Question',
    'Id of the question that is answered. Default: the oldest that is open.',
    string,
    '5d7ad8c5-1d65-5be3-9d4e-2f5b1c0a4e55',
  ),
  IfNoneMatch: header('If-None-Match', 'Answers 304 when nothing has changed.', string, '"yZgM0gsk6oIjdgMIgXRjBg"'),
  id: { name: 'id', in: 'path', required: true, description: 'Request id.', schema: { type: 'string' } },
  topic: {
    name: 'topic',
    in: 'path',
    required: true,
    description: 'A topic; for watching also a pattern: `*` is one word, `#` (as `%23`) any number.',
    schema: { type: 'string', maxLength: 255 },
  },
} as const;

const answered = (description: string, schema: object = string): object => ({ description, schema });

export const headers = {
  'Hub-Request-Id': answered('Id of the request.'),
  'Preference-Applied': answered('Which preferences were honoured (RFC 7240).'),
  'Idempotency-Replayed': answered('`true` on the answer to an earlier request of the same key.'),
  'Hub-Published-At': answered('When the event was published.', time),
  Location: answered('Address of the status document.'),
  'Retry-After': answered('Seconds until it is worth to look or ask again.', { type: 'integer', minimum: 1 }),
  ETag: answered('Changes with the status, or with the version of the reply.'),
  'Hub-Reply-Version': answered('Which version of the reply it is, in flows where late parts amend it (`late: amend`).', {
    type: 'integer',
    minimum: 1,
  }),
  Link: answered('`rel="latest-version"` (RFC 5829): there is a newer version of the reply.'),
  Vary: answered('`Prefer`.'),
  'WWW-Authenticate': answered('How to authenticate.'),
} as const;

/** Of hubs with flows that take requests in parts. */
export const openedSchemas = {
  Opened: {
    ...openedSchema,
    required: [...openedSchema.required, 'links'],
    properties: {
      ...openedSchema.properties,
      links: {
        type: 'object',
        required: ['self', 'parts', 'close', 'events', 'abandon'],
        properties: { self: string, parts: string, close: string, events: string, abandon: string },
      },
    },
  },
} as const;

/** A reply in parts. */
export const lines = { 'application/x-ndjson': { schema: ref('schemas', 'Line') } } as const;

export const sharedSchemas = {
  Line: {
    description:
      'One JSON object per line. A line has `part`, or it is the last and has `end`. A stream without an `end` was cut: it goes on at ' +
      '`GET /requests/{id}/reply?after=<sequence of the last part>`. While nothing comes, spaces keep the line open.',
    oneOf: [
      {
        type: 'object',
        required: ['sequence', 'part'],
        properties: { sequence: { type: 'integer', minimum: 1, description: '1, 2, 3, …' }, part: {} },
      },
      {
        type: 'object',
        required: ['end'],
        properties: {
          end: { enum: ['replied', 'faulted', 'timed-out', 'cancelled', 'later'] },
          parts: { type: 'integer', description: 'How many parts the reply has.' },
          reply: { description: 'A reply that is JSON and no list of parts.' },
          version: { type: 'integer', minimum: 1, description: 'Of a reply that late parts may amend.' },
          contentType: string,
          contentEncoding: string,
          base64: { type: 'string', contentEncoding: 'base64', description: 'A reply that is not JSON.' },
          problem: ref('schemas', 'Problem'),
          status: { description: '`later`: the hold is over, or you are asked something (`questions`).', ...ref('schemas', 'Status') },
          after: { type: 'integer', description: 'The last part that was sent.' },
          next: { type: 'string', description: 'Where it goes on.' },
        },
      },
    ],
  },
  Status: {
    type: 'object',
    required: ['id', 'flow', 'state', 'deadline', 'acceptedAt', 'updatedAt', 'links'],
    properties: {
      id: string,
      flow: string,
      state: { enum: ['accepted', 'running', 'waiting', 'replied', 'faulted', 'timed-out', 'cancelled'] },
      key: string,
      step: { type: 'string', description: 'The step it is at.' },
      attempt: { type: 'integer', minimum: 1 },
      waitingOn: { type: 'string', description: 'What `waiting` waits for.' },
      questions: {
        type: 'array',
        description: 'What the requestor is asked, oldest first.',
        items: {
          type: 'object',
          required: ['id', 'question', 'askedAt'],
          properties: { id: string, question: {}, schema: { description: 'JSON Schema 2020-12 of the answer.' }, askedAt: time },
        },
      },
      progress: {
        type: 'object',
        properties: {
          percent: { type: 'number' },
          message: string,
          done: { type: 'number', description: 'Of `total`.' },
          total: { type: 'number' },
          leftMs: { type: 'integer', description: 'How long it takes still at the pace so far.' },
        },
      },
      callback: { type: 'string', description: 'Where its requestor is called back.' },
      deadline: time,
      acceptedAt: time,
      updatedAt: time,
      endedAt: time,
      version: { type: 'integer', minimum: 1, description: 'The newest version of a reply that late parts may amend.' },
      amendableUntil: { ...time, description: 'Until when there may be a further version. Absent: this is the last.' },
      links: {
        type: 'object',
        required: ['self', 'reply', 'events', 'cancel'],
        properties: { self: string, reply: string, events: string, cancel: string, answers: string, callback: string },
      },
    },
  },
  Callback: {
    type: 'object',
    required: ['requestId', 'callback', 'webhookId', 'state', 'attempts'],
    properties: {
      requestId: string,
      callback: { type: 'string', description: 'The name or address.' },
      webhookId: { type: 'string', description: 'The `webhook-id` of each attempt.' },
      version: {
        type: 'integer',
        minimum: 1,
        description: 'Which version of a reply that late parts may amend: the newest that is posted.',
      },
      state: {
        enum: ['pending', 'waiting', 'posting', 'delivered', 'failed'],
        description: '`pending`: no outcome yet. `failed`: for good; the answer can still be collected.',
      },
      attempts: {
        type: 'array',
        items: {
          type: 'object',
          required: ['at'],
          properties: { at: time, tookMs: { type: 'integer' }, status: { type: 'integer' }, error: string },
        },
      },
      nextAt: time,
    },
  },
  Problem: {
    type: 'object',
    description: 'RFC 9457.',
    required: ['type', 'title', 'status', 'detail', 'code'],
    properties: {
      type: { type: 'string', format: 'uri' },
      title: string,
      status: { type: 'integer' },
      detail: string,
      code: { enum: [...Object.keys(faultCodes), ...Object.keys(httpProblems)], description: 'Stable.' },
      instance: string,
      requestId: string,
      step: { type: 'string', description: 'The step that failed.' },
      reason: { type: 'string', description: 'A finer code, stable as well.' },
      errors: {
        type: 'array',
        items: {
          type: 'object',
          required: ['pointer', 'detail'],
          properties: { pointer: { type: 'string', description: 'JSON Pointer into the body.' }, detail: string },
        },
      },
    },
  },
  Health: {
    type: 'object',
    required: ['ready', 'checks'],
    properties: { ready: { type: 'boolean' }, checks: { type: 'object', additionalProperties: string } },
  },
} as const;

/** Every status that a problem may have, with what it may mean. */
export const problemAnswers = Object.fromEntries(
  [...new Set([...Object.values(faultStatus), ...Object.values(httpProblems).map(([status]) => status)])].sort().map((status) => {
    const faults = (Object.keys(faultCodes) as (keyof typeof faultCodes)[])
      .filter((code) => faultStatus[code] === status)
      .map((code) => faultCodes[code].summary);
    const own = Object.values(httpProblems).flatMap(([its, title]) => (its === status ? [title] : []));
    const extra = status === 401 ? ['WWW-Authenticate'] : status === 429 || status === 503 ? ['Retry-After'] : [];
    return [
      `Problem${status}`,
      {
        description: [...faults, ...own].join(' '),
        headers: Object.fromEntries(extra.map((name) => [name, ref('headers', name)])),
        content: { 'application/problem+json': { schema: ref('schemas', 'Problem') } },
      },
    ];
  }),
);

export const securitySchemes = {
  bearer: { type: 'http', scheme: 'bearer', description: 'An API key `ab_…`.' },
  apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
  session: { type: 'apiKey', in: 'cookie', name: 'hub_session', description: 'Of a person who has signed in.' },
} as const;
