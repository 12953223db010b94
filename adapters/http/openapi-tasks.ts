/** Paths and schemas of the OpenAPI document for people: sessions, tasks, stories. */
import { roles } from '../../broker/tasks/task.js';
import { views } from '../../broker/tasks/tasks.js';
import { wishes } from '../../broker/tasks/wishes.js';
import { operation, problems, type Responses } from './openapi-operation.js';
import { json, ref } from './openapi-parts.js';

const string = { type: 'string' } as const;
const time = { type: 'string', format: 'date-time' } as const;
const orNull = (schema: object): object => ({ anyOf: [schema, { type: 'null' }] });
const listOf = (items: object): object => ({ type: 'array', items });
const object = (properties: Readonly<Record<string, object>>, required: readonly string[] = Object.keys(properties)): object => ({
  type: 'object',
  required,
  properties,
});

export const taskSchemas = {
  Session: object({
    user: orNull(
      object({ name: string, displayName: string, groups: listOf(string), roles: listOf({ enum: roles }), standsInFor: listOf(string) }),
    ),
    signIn: object({
      local: { type: 'boolean' },
      oidc: orNull(object({ url: string, label: string })),
      demoUsers: listOf(object({ name: string, password: string, about: string })),
    }),
  }),
  TaskSummary: object({
    id: string,
    step: string,
    title: string,
    summary: string,
    requestId: string,
    flow: string,
    key: orNull(string),
    state: { enum: ['open', 'claimed', 'delegated', 'decided', 'withdrawn', 'expired'] },
    assignee: orNull(string),
    owner: orNull(string),
    candidates: object({ users: listOf(string), groups: listOf(string) }),
    createdAt: time,
    dueAt: orNull(time),
    followUpAt: orNull(time),
    endedAt: orNull(time),
    priority: orNull({ type: 'number' }),
    holdingUntil: { type: ['number', 'null'], description: 'Until when a requestor waits on the line: ms since 1970.' },
    hasDraft: { type: 'boolean' },
    hasForm: { type: 'boolean' },
    bulk: { type: 'boolean' },
    claim: { enum: ['required', 'optional'] },
    outcomes: listOf(object({ id: string, label: string, style: { enum: ['primary', 'danger', 'plain'] }, needs: listOf(string) })),
    votes: object({ needed: { type: 'integer' }, of: { type: 'integer' }, given: { type: 'integer' } }),
    version: { type: 'integer', description: 'The ETag without quotes.' },
  }),
  Task: {
    description: 'A task as whoever asks sees it.',
    allOf: [
      ref('schemas', 'TaskSummary'),
      object({
        form: { description: 'JSON Schema (2020-12) of what a decision says, or null.' },
        ui: {},
        context: {},
        contextSchema: {},
        draft: {},
        comments: listOf(object({ by: string, at: time, text: string })),
        attachable: orNull(object({ maxBytes: { type: 'integer' }, types: listOf(string) })),
        attachments: listOf(object({ id: string, name: string, type: string, size: { type: 'integer' }, by: string, at: time })),
        history: listOf(object({ at: time, by: string, forWhom: orNull(string), action: string, detail: { type: 'object' } })),
        may: { type: 'object', additionalProperties: { type: ['boolean', 'string'] }, description: 'By action: true, or why not.' },
        decision: orNull(
          object({
            outcome: string,
            data: {},
            at: time,
            by: orNull(string),
            forWhom: listOf(string),
            comment: orNull(string),
            votes: listOf({ type: 'object' }),
          }),
        ),
        undoUntil: { type: ['number', 'null'], description: 'Until when whoever asks may take it back: ms since 1970.' },
      }),
    ],
  },
  TaskPage: object({
    tasks: listOf(ref('schemas', 'TaskSummary')),
    next: { type: ['string', 'null'], description: 'The cursor of the next page.' },
    total: { type: 'integer' },
    counts: object({ mine: { type: 'integer' }, groups: { type: 'integer' }, due: { type: 'integer' } }),
  }),
  Absence: object({ from: time, until: time, substitute: string }),
} as const;

const taskId = { name: 'task', in: 'path', required: true, description: 'Task id.', schema: string };
const query = (name: string, description: string, schema: object = string): object => ({ name, in: 'query', description, schema });
const task = { description: 'The task as it is then.', content: json(ref('schemas', 'Task')) };
const asksJson = (schema: object): object => ({ required: true, content: json(schema) });

const summaries: Readonly<Record<keyof typeof wishes, string>> = {
  claim: 'Take a task in hand',
  return: 'Give it back to those whom it is for',
  delegate: 'Have somebody else do it, on behalf of who has it in hand',
  resolve: 'Give a delegated task back to whose it is',
  assign: 'Give it to one of those whom it is for',
  comment: 'Say something about it',
  draft: 'Keep what was begun to be filled in',
  decide: 'Decide it',
  undo: 'Take the decision back, for the few seconds in which nobody has heard of it',
};

function act(action: keyof typeof wishes): object {
  const fields: Readonly<Record<string, string>> = wishes[action];
  const properties = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field === 'any' ? {} : string]));
  const required = Object.entries(fields).flatMap(([name, field]) => (field === 'text' ? [name] : []));
  return {
    parameters: [taskId],
    post: operation(`task.${action}`, 'tasks', summaries[action], {
      parameters: [{ name: 'If-Match', in: 'header', description: 'Only if this is still its ETag.', schema: string, example: '"3"' }],
      requestBody: { required: required.length > 0, content: json({ type: 'object', additionalProperties: false, properties, required }) },
      responses: { '200': task, ...refusals },
    }),
  };
}

const refusals: Responses = problems(400, 401, 403, 404, 409, 410, 415, 422, 503);

export function taskPaths(authenticated: boolean): Readonly<Record<string, object>> {
  const security = [{ session: [] }, ...(authenticated ? [{ bearer: [] }, { apiKey: [] }] : [])];
  /** People sign in also where programs need no key. */
  const forPeople = (path: object): object =>
    Object.fromEntries(
      Object.entries(path).map(([name, part]: [string, object]) => [name, 'operationId' in part ? { security, ...part } : part]),
    );
  return Object.fromEntries(Object.entries(paths()).map(([name, path]) => [name, forPeople(path)]));
}

function paths(): Readonly<Record<string, object>> {
  return {
    '/session': {
      get: operation('session', 'people', 'Who is signed in, and how one could be', {
        security: [],
        responses: { '200': { description: 'The session.', content: json(ref('schemas', 'Session')) }, ...problems(400) },
      }),
      post: operation('signIn', 'people', 'Sign in; the answer sets a cookie', {
        security: [],
        requestBody: asksJson(object({ name: string, password: string })),
        responses: { '200': { description: 'Signed in.', content: json(ref('schemas', 'Session')) }, ...problems(401, 403, 415, 429) },
      }),
      delete: operation('signOut', 'people', 'Sign out', {
        security: [],
        responses: { '204': { description: 'Signed out.' }, ...problems(403) },
      }),
    },
    '/tasks': {
      get: operation('tasks', 'tasks', 'Tasks, due soonest first; those that are done, newest first', {
        parameters: [
          query('view', 'Which: in hand, for one of the groups, due within a day, done; for operators all that are open.', {
            enum: views,
            default: 'mine',
          }),
          query('q', 'Words that stand in title, summary, key, flow, group or name.'),
          query('cursor', 'Where the page before ended.'),
          query('limit', 'How many.', { type: 'integer', minimum: 1, maximum: 200, default: 50 }),
        ],
        responses: { '200': { description: 'A page.', content: json(ref('schemas', 'TaskPage')) }, ...problems(400, 401, 422, 503) },
      }),
    },
    '/tasks/events': {
      get: operation('watchTasks', 'tasks', 'What happens to the tasks of whoever asks, as server-sent events', {
        description: 'Events `task` (a summary), `gone` (`id`, `why`), `counts`, and `resync` when something was missed.',
        responses: {
          '200': { description: 'Server-sent events.', content: { 'text/event-stream': { schema: string } } },
          ...problems(401, 429, 503),
        },
      }),
    },
    '/tasks/bulk': {
      post: operation('decideTasks', 'tasks', 'Decide several tasks that need no form', {
        requestBody: asksJson(
          object({ ids: { type: 'array', items: string, maxItems: 200 }, outcome: string, comment: string }, ['ids', 'outcome']),
        ),
        responses: {
          '200': {
            description: 'What became of each.',
            content: json(
              object({
                results: listOf(object({ id: string, ok: { type: 'boolean' }, problem: ref('schemas', 'Problem') }, ['id', 'ok'])),
              }),
            ),
          },
          ...problems(401, 403, 415, 422, 503),
        },
      }),
    },
    '/tasks/{task}': {
      parameters: [taskId],
      get: operation('task', 'tasks', 'A task', { responses: { '200': task, ...problems(401, 404, 503) } }),
    },
    ...Object.fromEntries((Object.keys(wishes) as (keyof typeof wishes)[]).map((action) => [`/tasks/{task}/${action}`, act(action)])),
    '/tasks/{task}/attachments': {
      parameters: [taskId],
      post: operation('attach', 'tasks', 'Add a file', {
        parameters: [query('name', 'Its name.')],
        requestBody: { required: true, content: { '*/*': { schema: {} } } },
        responses: { '201': task, ...refusals, ...problems(413) },
      }),
    },
    '/tasks/{task}/attachments/{attachment}': {
      parameters: [taskId, { name: 'attachment', in: 'path', required: true, description: 'Its id.', schema: string }],
      get: operation('attachment', 'tasks', 'A file', {
        responses: { '200': { description: 'Its bytes.', content: { '*/*': { schema: {} } } }, ...problems(401, 404, 503) },
      }),
    },
    '/tasks/{task}/audit': {
      parameters: [taskId],
      get: operation('audit', 'tasks', 'Who did what, and what was refused, as a chain of hashes', {
        parameters: [query('format', 'How.', { enum: ['json', 'csv'], default: 'json' })],
        responses: {
          '200': {
            description: 'Each entry has the SHA-256 of the hash before it and its own canonical JSON (RFC 8785) without `hash`.',
            content: {
              ...json(
                object({ task: string, intact: { type: 'boolean' }, brokenAt: { type: 'integer' }, entries: listOf({ type: 'object' }) }, [
                  'task',
                  'intact',
                  'entries',
                ]),
              ),
              'text/csv': { schema: string },
            },
          },
          ...problems(401, 404, 503),
        },
      }),
    },
    '/absence': {
      get: operation('absence', 'people', 'When whoever asks is away, and who stands in', {
        responses: {
          '200': { description: 'The absence, or null.', content: json(orNull(ref('schemas', 'Absence'))) },
          ...problems(401, 503),
        },
      }),
      put: operation('goAway', 'people', 'Be away: the substitute may do meanwhile what one may do oneself; both names are on record', {
        requestBody: asksJson(ref('schemas', 'Absence')),
        responses: { '200': { description: 'Noted.', content: json(ref('schemas', 'Absence')) }, ...problems(401, 403, 415, 422, 503) },
      }),
      delete: operation('comeBack', 'people', 'Be back', { responses: { '204': { description: 'Noted.' }, ...problems(401, 403, 503) } }),
    },
    '/requests/{id}/story': {
      parameters: [ref('parameters', 'id')],
      get: operation('story', 'requests', 'What a request waits for, who waits for it, and what happened, for people', {
        responses: {
          '200': {
            description: 'Its status document with `waitingOn` (`kind`, `text`, `taskId`), `requestor`, `story`, `parts` and `mayCancel`.',
            content: json({ type: 'object' }),
          },
          ...problems(401, 404, 410, 503),
        },
      }),
    },
  };
}
