/**
 * The task API of a hub, pretended: tasks in memory, everything else as the contract says. The pages' own tests make rare
 * states with it; what hub and pages do together is tested on a real hub.
 */
import type { AddressInfo } from 'node:net';
import type { ServerResponse } from 'node:http';
import { fastify, type FastifyReply, type FastifyRequest } from 'fastify';
import { consoleHandlers, pageOfRequest } from '../../adapters/http/console.js';
import { checkerOf } from '../../console/form/check.js';
import type { Json, Outcome, Story, Task, User } from '../../console/contract.js';

type Open<T> = { -readonly [K in keyof T]: T[K] };
export type PretendTask = Open<Task>;

const people: Readonly<Record<string, User>> = {
  ana: { name: 'ana', displayName: 'Ana Weber', groups: ['credit-team'], roles: ['task-user', 'operator'], standsInFor: [] },
  bo: { name: 'bo', displayName: 'Bo Klein', groups: ['credit-team'], roles: ['task-user'], standsInFor: [] },
};

export const approveOrReject: readonly Outcome[] = [
  { id: 'approve', label: 'Approve', style: 'primary', needs: [] },
  { id: 'reject', label: 'Reject', style: 'danger', needs: ['comment'] },
];

const past: Readonly<Record<string, string>> = { claim: 'claimed', decide: 'decided', return: 'returned' };
const over = 'the task is over';
const nothing: Task['may'] = { claim: over, return: over, decide: over, delegate: over, assign: over, comment: over };

let made = 0;
export function aTask(more: Partial<Task> = {}): PretendTask {
  made++;
  return {
    id: `task-${made}`,
    step: 'loan.approve',
    title: `Approve loan ${made}`,
    summary: '24,000 for Ada Lovelace',
    requestId: '01890000-0000-7000-8000-000000000001',
    flow: 'loan.apply',
    key: 'C-1042',
    state: 'open',
    assignee: null,
    owner: null,
    candidates: { users: [], groups: ['credit-team'] },
    createdAt: new Date().toISOString(),
    dueAt: new Date(Date.now() + made * 3_600_000).toISOString(),
    followUpAt: null,
    priority: null,
    holdingUntil: null,
    hasDraft: false,
    hasForm: true,
    outcomes: approveOrReject,
    votes: { needed: 1, of: 1, given: 0 },
    version: 1,
    form: {
      type: 'object',
      required: ['rate'],
      properties: {
        rate: { type: 'number', title: 'Rate', minimum: 1, maximum: 20 },
        reason: { type: 'string', title: 'Reason', maxLength: 500 },
      },
    },
    ui: null,
    context: { customer: 'Ada Lovelace', amount: 24_000 },
    contextSchema: null,
    draft: null,
    comments: [],
    attachable: { maxBytes: 1_000_000, types: ['application/pdf'] },
    attachments: [],
    history: [],
    may: nothing,
    decision: null,
    undoUntil: null,
    ...more,
  };
}

export interface PretendHub {
  readonly url: string;
  readonly tasks: Map<string, PretendTask>;
  readonly stories: Map<string, Story>;
  /** Why a person may not decide a task, by `<task>/<user>`. */
  readonly forbidden: Map<string, string>;
  /** How many event streams are open. */
  streams(): number;
  /** Tells everybody of a task as it is now. */
  tell(task: PretendTask): void;
  close(): Promise<void>;
}

export async function pretendHub({ undoMs = 0 }: { readonly undoMs?: number } = {}): Promise<PretendHub> {
  const tasks = new Map<string, PretendTask>();
  const stories = new Map<string, Story>();
  const forbidden = new Map<string, string>();
  const streams = new Set<ServerResponse>();
  const app = fastify({ forceCloseConnections: true, rewriteUrl: pageOfRequest });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, text, done) => done(null, text === '' ? {} : JSON.parse(String(text))));

  const who = (request: FastifyRequest): User | undefined => people[/who=(\w+)/.exec(request.headers.cookie ?? '')?.[1] ?? ''];
  const refuse = (reply: FastifyReply, status: number, code: string, detail: string, more: object = {}) =>
    reply
      .code(status)
      .header('content-type', 'application/problem+json')
      .send(JSON.stringify({ status, code, detail, ...more }));
  const isOver = (task: PretendTask) => ['decided', 'withdrawn', 'expired'].includes(task.state);
  const shown = (task: PretendTask, user: User): Task => {
    const mine = task.assignee === user.name;
    const bar = forbidden.get(`${task.id}/${user.name}`);
    return {
      ...task,
      may: isOver(task)
        ? nothing
        : {
            claim: bar ?? (task.assignee === null ? true : 'somebody has it'),
            return: mine || 'it is not yours',
            decide: bar ?? (mine || 'claim it first'),
            delegate: mine || 'it is not yours',
            assign: 'only operators may',
            comment: true,
          },
    };
  };
  const tell = (task: PretendTask) => {
    for (const stream of streams) stream.write(`event: task\ndata: ${JSON.stringify(task)}\n\n`);
  };
  const changed = (task: PretendTask, by: string, action: string) => {
    task.version++;
    task.history = [...task.history, { at: new Date().toISOString(), by, forWhom: null, action: past[action] ?? action, detail: {} }];
    tell(task);
  };

  const pages = consoleHandlers();
  app.get('/inbox', pages.page);
  app.get('/inbox/*', pages.file);
  const sessionOf = (user: User | null) => ({
    user,
    signIn: { local: true, oidc: null, demoUsers: [{ name: 'ana', password: 'demo', about: 'credit team, operator' }] },
  });
  app.get('/session', (request) => sessionOf(who(request) ?? null));
  app.post('/session', (request, reply) => {
    const { name, password, ...others } = request.body as { name: string; password: string };
    if (Object.keys(others).length > 0) return refuse(reply, 415, 'unsupported-media-type', 'send a name and a password');
    if (people[name] === undefined || password !== 'demo') return refuse(reply, 401, 'unauthenticated', 'wrong name or password');
    return reply.header('set-cookie', `who=${name}; HttpOnly; SameSite=Lax; Path=/`).send(sessionOf(people[name]));
  });
  app.delete('/session', (_request, reply) => reply.header('set-cookie', 'who=; Path=/; Max-Age=0').code(204).send());
  app.addHook('onRequest', async (request, reply) => {
    if (/^\/(tasks|requests|absence)/.test(request.url) && who(request) === undefined)
      return refuse(reply, 401, 'unauthenticated', 'sign in');
    return undefined;
  });
  app.get('/tasks', (request) => {
    const user = who(request)!;
    const { view = 'mine', q = '' } = request.query as { view?: string; q?: string };
    const all = [...tasks.values()].sort((a, b) => (a.dueAt ?? '').localeCompare(b.dueAt ?? ''));
    const inView: Readonly<Record<string, (task: PretendTask) => boolean>> = {
      mine: (task) => !isOver(task) && task.assignee === user.name,
      groups: (task) => !isOver(task) && task.assignee === null,
      due: (task) => !isOver(task) && task.dueAt !== null,
      done: isOver,
      all: (task) => !isOver(task),
    };
    const found = all.filter((task) => inView[view]!(task) && `${task.title} ${task.summary}`.toLowerCase().includes(q.toLowerCase()));
    const counts = Object.fromEntries(['mine', 'groups', 'due'].map((name) => [name, all.filter(inView[name]!).length]));
    return { tasks: found, next: null, total: found.length, counts };
  });
  app.get('/tasks/events', (request, reply) => {
    reply.hijack();
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' });
    reply.raw.write(':\n\n');
    streams.add(reply.raw);
    request.raw.on('close', () => streams.delete(reply.raw));
  });
  app.get('/tasks/:id', (request, reply) => {
    const task = tasks.get((request.params as { id: string }).id);
    return task === undefined ? refuse(reply, 404, 'not-found', 'no such task') : shown(task, who(request)!);
  });
  app.post('/tasks/bulk', (request) => {
    const { ids, outcome } = request.body as { ids: string[]; outcome: string };
    return {
      results: ids.map((id) => {
        const task = tasks.get(id)!;
        const why = forbidden.get(`${id}/${who(request)!.name}`);
        if (why !== undefined) return { id, ok: false, problem: { status: 403, code: 'not-permitted', detail: why } };
        Object.assign(task, {
          state: 'decided',
          decision: { outcome, data: {}, at: new Date().toISOString(), by: who(request)!.name, forWhom: [], comment: null },
        });
        changed(task, who(request)!.name, 'decide');
        return { id, ok: true };
      }),
    };
  });
  app.post('/tasks/:id/:action', (request, reply) => {
    const { id, action } = request.params as { id: string; action: string };
    const body = request.body as { to: string; text: string; data: Json; outcome: string; comment?: string };
    const task = tasks.get(id)!;
    const user = who(request)!;
    const may = shown(task, user).may as Readonly<Record<string, true | string>>;
    if (action === 'undo') Object.assign(task, { state: 'claimed', decision: null, undoUntil: null });
    else if (isOver(task)) return refuse(reply, 410, 'gone', 'it is over');
    else if (action === 'claim') {
      if (task.assignee !== null) return refuse(reply, 409, 'conflict', `${task.assignee} has it`, { task: shown(task, user) });
      if (may['claim'] !== true) return refuse(reply, 403, 'not-permitted', may['claim']!);
      Object.assign(task, { state: 'claimed', assignee: user.name });
    } else if (action === 'return') Object.assign(task, { state: 'open', assignee: null });
    else if (action === 'delegate') Object.assign(task, { state: 'delegated', assignee: body.to, owner: user.name });
    else if (action === 'comment') task.comments = [...task.comments, { by: user.name, at: new Date().toISOString(), text: body.text }];
    else if (action === 'draft') Object.assign(task, { draft: body.data, hasDraft: true });
    else if (action === 'decide') {
      if (may['decide'] !== true) return refuse(reply, 403, 'not-permitted', may['decide']!);
      const errors = task.form === null ? [] : checkerOf(task.form)(body.data);
      if (errors.length > 0) return refuse(reply, 422, 'invalid', 'the data does not fit the form', { errors });
      const decision = {
        outcome: body.outcome,
        data: body.data,
        by: user.name,
        at: new Date().toISOString(),
        comment: body.comment ?? null,
        forWhom: [],
      };
      Object.assign(task, { state: 'decided', decision, undoUntil: undoMs > 0 ? Date.now() + undoMs : null });
    }
    changed(task, user.name, action);
    return shown(task, user);
  });
  app.get('/requests/:id/story', (request, reply) => {
    const story = stories.get((request.params as { id: string }).id);
    return story ?? refuse(reply, 404, 'not-found', 'no such request');
  });
  let absence: unknown = null;
  app.get('/absence', () => absence ?? 'null');
  app.put('/absence', (request) => (absence = request.body));

  await app.listen({ port: 0, host: '127.0.0.1' });
  return {
    url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`,
    tasks,
    stories,
    forbidden,
    streams: () => streams.size,
    tell,
    close: () => app.close(),
  };
}
