/** The OpenAPI 3.1 document of a hub: one path per flow, and what every hub has. */
import type { Flow } from '../../broker/flow.js';
import { hubPaths } from './openapi-paths.js';
import { taskPaths, taskSchemas } from './openapi-tasks.js';
import { headers, json, lines, openedSchemas, parameters, problemAnswers, ref, securitySchemes, sharedSchemas } from './openapi-parts.js';
import { flowSchemas, schemaOf } from './schemas.js';

export function openApi(
  flows: readonly Flow[],
  { version, authenticated }: { readonly version: string; readonly authenticated: boolean },
): object {
  const paths = {
    ...Object.fromEntries(flows.map((flow) => [`/requests/${encodeURIComponent(flow.name)}`, { post: ask(flow) }])),
    ...hubPaths(flows),
    ...taskPaths(authenticated),
  };
  return {
    openapi: '3.1.0',
    info: {
      title: 'Answerback',
      version,
      summary: 'Requests in, every answer routed back.',
      description:
        'A request gets exactly one outcome: a reply, a fault, a timeout or a cancellation. ' +
        'It comes on the held connection (`200`), or later at the status address that `202` names.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    jsonSchemaDialect: 'https://json-schema.org/draft/2020-12/schema',
    servers: [{ url: '/' }],
    security: authenticated ? [{ bearer: [] }, { apiKey: [] }] : [],
    tags: [
      { name: 'flows', description: 'One address per kind of request.' },
      { name: 'requests', description: 'Where a request is, and its outcome.' },
      // A WebSocket is no operation of OpenAPI's.
      {
        name: 'conversations',
        description:
          'WebSocket at `/conversations/{flow}`, subprotocol `answerback.v1+json`: several requests and their replies over one channel. Say ' +
          '`{"type": "request", "id", "body"}`, `{"type": "answer", "id", "question", "answer"}`, `{"type": "cancel", "id"}`; hear `open`, `accepted`, `refused`, `progress`, `ask`, ' +
          '`answered`, and in the order of acceptance `part`, `reply` and `fault`, each with its place `at`. After a drop: ' +
          '`?conversation=<id>&after=<the last at>`, on any hub; `ordered=true`: each request begins when the one before has ended.',
      },
      { name: 'messages', description: 'One-way messages.' },
      { name: 'events', description: 'Publish and watch topics.' },
      { name: 'tasks', description: 'What people decide.' },
      { name: 'people', description: 'Who they are.' },
      { name: 'hub', description: 'About the hub itself.' },
    ],
    paths,
    components: {
      schemas: {
        ...sharedSchemas,
        ...(flows.some(({ parts }) => parts !== undefined) ? openedSchemas : {}),
        ...taskSchemas,
        ...flowSchemas(flows),
      },
      parameters: usedIn(paths, 'parameters', parameters),
      headers: usedIn([paths, problemAnswers], 'headers', headers),
      responses: usedIn(paths, 'responses', problemAnswers),
      securitySchemes: authenticated ? securitySchemes : { session: securitySchemes.session },
    },
  };
}

/** Those of the components that the document refers to. */
function usedIn(document: object, kind: string, components: Readonly<Record<string, object>>): object {
  const text = JSON.stringify(document);
  return Object.fromEntries(Object.entries(components).filter(([name]) => text.includes(`"#/components/${kind}/${name}"`)));
}

/** `POST /requests/{flow}` of one flow. */
function ask(flow: Flow): object {
  const seconds = (ms: number): string => `${ms / 1_000} s`;
  return {
    operationId: `request.${flow.name}`,
    summary: flow.summary ?? `Request ${flow.name}`,
    description:
      `Steps: ${flow.steps.join(', ')}. Held for ${seconds(flow.waitMs)} unless \`Prefer: wait\` says otherwise (at most ${seconds(flow.maxWaitMs)}); ` +
      `lives for ${seconds(flow.deadlineMs)} unless \`Hub-Deadline\` says otherwise (at most ${seconds(flow.maxDeadlineMs)}).`,
    tags: ['flows'],
    parameters: [
      ...['Prefer', 'IdempotencyKey', 'HubDeadline', 'HubKey', 'HubSupersedes', 'HubCallback'],
      ...(flow.urgent === true ? ['HubPriority'] : []),
      'traceparent',
    ].map((name) => ref('parameters', name)),
    requestBody: {
      required: flow.request !== undefined,
      content: body(schemaOf(flow, 'request'), flow.example),
    },
    responses: {
      '200': {
        description: 'The reply, with its own content type.',
        headers: pick(
          'Hub-Request-Id',
          'Preference-Applied',
          'Idempotency-Replayed',
          'Vary',
          ...(flow.late === 'amend' ? (['Hub-Reply-Version', 'ETag', 'Link'] as const) : []),
        ),
        content: { ...body(schemaOf(flow, 'reply')), ...(flow.durable ? lines : {}) },
      },
      '202': {
        description: 'Accepted; the answer comes later.',
        headers: pick('Location', 'Retry-After', 'Hub-Request-Id', 'Preference-Applied', 'Idempotency-Replayed', 'Vary'),
        content: json(ref('schemas', 'Status')),
      },
      ...Object.fromEntries(
        ['400', '401', '403', '404', '408', '409', '413', '415', '422', '429', '431', '500', '502', '503', '504'].map((status) => [
          status,
          ref('responses', `Problem${status}`),
        ]),
      ),
    },
  };
}

function body(schema: { readonly $ref: string } | undefined, example?: unknown): object {
  const shown = example === undefined ? {} : { examples: { example: { value: example } } };
  return schema === undefined && example === undefined
    ? { '*/*': { schema: {} } }
    : { 'application/json': { schema: schema ?? {}, ...shown } };
}

const pick = (...names: readonly (keyof typeof headers)[]): object => Object.fromEntries(names.map((name) => [name, ref('headers', name)]));
