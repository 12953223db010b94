import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { hashPassword, type User } from '../../broker/people.js';
import type { Summary, TaskView } from '../../broker/tasks/view.js';
import { task } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { readEvents, serve, type Served, type SentEvent } from './http-server.js';

const steps = [
  task<{ readonly amount: number }>({
    name: 'order.approve',
    title: ({ amount }) => `Approve ${amount} €`,
    form: { type: 'object', properties: { rate: { type: 'number', maximum: 10 } } },
    outcomes: { approve: { needs: ['rate'] }, reject: { style: 'danger', needs: ['comment'] } },
    candidates: { groups: ['buyers'] },
    attachments: { types: ['text/plain'], maxBytes: 10 },
  }),
  task({ name: 'order.note', title: 'Seen?', candidates: { groups: ['buyers'] }, claim: 'optional', bulk: true }),
];

let served: Served;
let users: readonly User[];
beforeAll(async () => {
  const user = (name: string, more: Partial<User> = {}): User => ({ name, groups: ['buyers'], roles: ['task-user'], ...more });
  const demo = (name: string, groups = ['buyers']): User => user(name, { groups, demoPassword: `${name}-demo` });
  users = [
    demo('ana'),
    demo('bo'),
    demo('eve', ['sales']),
    { ...demo('adam', []), roles: ['operator'] },
    user('cem', { password: await hashPassword('correct horse') }),
  ];
  served = await serve({}, { flows: { order: ['order.approve'], note: ['order.note'] }, steps, users });
});
afterAll(() => served?.close());

/** A person with a browser. */
async function browser(name: string, password = `${name}-demo`) {
  const response = await served.fetch('/session', { json: { name, password } });
  const cookie = response.headers.get('set-cookie')?.split(';')[0] ?? '';
  const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const answer = await served.fetch(path, {
      method,
      headers: {
        cookie,
        'sec-fetch-site': 'same-origin',
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await answer.text();
    return {
      status: answer.status,
      headers: answer.headers,
      text,
      json: (/json/.test(answer.headers.get('content-type') ?? '') ? JSON.parse(text) : undefined) as never,
    };
  };
  return { response, cookie, call };
}
type Browser = Awaited<ReturnType<typeof browser>>;

const listed = async ({ call }: Browser, view = 'groups'): Promise<readonly Summary[]> =>
  ((await call('GET', `/tasks?view=${view}`)).json as { tasks: readonly Summary[] }).tasks;

async function newTask(who: Browser, flow = 'order'): Promise<Summary> {
  const before = new Set((await listed(who)).map(({ id }) => id));
  const response = await served.fetch(`/requests/${flow}`, { json: { amount: 500 }, headers: { prefer: 'respond-async' } });
  expect(response.status).toBe(202);
  return eventually(async () => {
    const fresh = (await listed(who)).find(({ id }) => !before.has(id));
    if (fresh === undefined) throw new Error('no task yet');
    return fresh;
  });
}

describe('sessions', () => {
  it('let in who has the password, by a cookie that scripts cannot read', async () => {
    const { response } = await browser('ana');
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ user: { name: 'ana', groups: ['buyers'] }, signIn: { local: true, oidc: null } });
    expect(response.headers.get('set-cookie')).toMatch(/^hub_session=[\w-]{43}; Path=\/; Max-Age=28800; HttpOnly; SameSite=Lax$/);
    expect((await browser('cem', 'correct horse')).response.status).toBe(200);
  });

  it('let in nobody else', async () => {
    for (const [name, password] of [
      ['ana', 'wrong'],
      ['cem', 'correct'],
      ['nobody', 'x'],
      ['__proto__', 'x'],
    ] as const)
      expect((await browser(name, password)).response.status).toBe(401);
    expect((await served.fetch('/tasks')).status).toBe(401);
    expect((await served.fetch('/tasks', { headers: { cookie: `hub_session=${'A'.repeat(43)}` } })).status).toBe(401);
  });

  it('make who guesses wait', async () => {
    const status = async () => (await browser('bob-the-guesser', 'guess')).response.status;
    const all = [];
    for (let n = 0; n < 8; n++) all.push(await status());
    expect(all.filter((each) => each === 429).length).toBeGreaterThan(0);
  });

  it('end when somebody signs out', async () => {
    const bo = await browser('bo');
    expect((await bo.call('GET', '/tasks')).status).toBe(200);
    expect((await bo.call('DELETE', '/session')).status).toBe(204);
    expect((await bo.call('GET', '/tasks')).status).toBe(401);
    expect((await bo.call('GET', '/session')).json).toMatchObject({ user: null });
  });

  it('are of no use to pages of other sites', async () => {
    const ana = await browser('ana');
    const { id } = await newTask(ana);
    for (const headers of [{ 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' }, { 'sec-fetch-site': 'none' }])
      expect((await ana.call('POST', `/tasks/${id}/claim`, {}, headers)).json).toMatchObject({ status: 403, code: 'cross-origin' });
    const plain = (headers: Record<string, string>) =>
      served.fetch(`/tasks/${id}/claim`, { method: 'POST', body: '{}', headers: { cookie: ana.cookie, ...headers } });
    expect((await plain({ origin: 'http://evil.example', 'content-type': 'application/json' })).status).toBe(403);
    expect((await plain({ 'content-type': 'text/plain' })).status).toBe(403);
    expect((await plain({ origin: served.url, 'content-type': 'application/json' })).status).toBe(200);
  });
});

describe('tasks over HTTP', () => {
  let ana: Browser;
  let bo: Browser;
  let eve: Browser;
  beforeAll(async () => {
    [ana, bo, eve] = [await browser('ana'), await browser('bo'), await browser('eve')];
  });

  it('frees who holds the line as soon as it is decided', async () => {
    const before = new Set((await listed(ana)).map(({ id }) => id));
    const held = served.fetch('/requests/order', { json: { amount: 7 }, headers: { prefer: 'wait=30' } });
    const { id, holdingUntil } = await eventually(async () => {
      const fresh = (await listed(ana)).find((each) => !before.has(each.id));
      if (fresh === undefined) throw new Error('no task yet');
      return fresh;
    });
    expect(holdingUntil).toBeGreaterThan(Date.now());
    expect((await ana.call('POST', `/tasks/${id}/claim`, {})).json).toMatchObject({
      state: 'claimed',
      assignee: 'ana',
      may: { decide: true },
    });
    expect((await bo.call('POST', `/tasks/${id}/claim`, {})).json).toMatchObject({
      status: 409,
      code: 'conflict',
      task: { assignee: 'ana' },
    });
    const done = await ana.call('POST', `/tasks/${id}/decide`, { outcome: 'approve', data: { rate: 4 } });
    expect(done.json).toMatchObject({ state: 'decided', undoUntil: null });
    const decidedAt = Date.now();
    const reply = await held;
    expect([reply.status, Date.now() - decidedAt < 3_000]).toEqual([200, true]);
    expect(await reply.json()).toMatchObject({ outcome: 'approve', data: { rate: 4 }, by: 'ana' });
    expect((await listed(ana, 'done')).map((each) => each.id)).toContain(id);
  });

  it('says where a decision is wrong, and takes nothing that was not asked for', async () => {
    const { id } = await newTask(ana);
    await ana.call('POST', `/tasks/${id}/claim`, {});
    const wrong = async (body: unknown) => {
      const { status, json } = await ana.call('POST', `/tasks/${id}/decide`, body);
      return [status, (json as { errors?: readonly { pointer: string }[] }).errors?.map(({ pointer }) => pointer)];
    };
    expect(await wrong({ outcome: 'approve', data: { rate: 11 } })).toEqual([422, ['#/rate']]);
    expect(await wrong({ outcome: 'approve', data: {} })).toEqual([422, ['#/rate']]);
    expect(await wrong({ outcome: 'reject', data: {} })).toEqual([422, ['#/comment']]);
    expect(await wrong({ outcome: 'other', data: {} })).toEqual([422, ['#/outcome']]);
    expect(await wrong({ outcome: 'approve', data: { rate: 1 }, by: 'bo' })).toEqual([422, ['#/by']]);
    expect(await wrong('{"outcome":')).toEqual([415, undefined]);
    expect((await ana.call('POST', `/tasks/${id}/claim`, {}, { 'if-match': '"1"' })).json).toMatchObject({
      status: 409,
      task: { version: 2 },
    });
  });

  it('shows a task to those whom it concerns, and nothing to others', async () => {
    const { id } = await newTask(ana);
    expect((await eve.call('GET', `/tasks/${id}`)).status).toBe(404);
    expect((await eve.call('POST', `/tasks/${id}/claim`, {})).status).toBe(403);
    expect((await eve.call('GET', `/tasks/${id}/audit`)).status).toBe(404);
    expect((await bo.call('GET', `/tasks/${id}`)).json).toMatchObject({
      id,
      may: { claim: true, decide: 'nobody has it in hand: claim it first' },
    });
    const audit = await bo.call('GET', `/tasks/${id}/audit`);
    expect(audit.json).toMatchObject({
      intact: true,
      entries: [{ action: 'created' }, { action: 'refused', by: 'eve', detail: { action: 'claim' } }],
    });
    const csv = await bo.call('GET', `/tasks/${id}/audit?format=csv`);
    expect([csv.headers.get('content-type'), csv.text.split('\r\n').length]).toEqual(['text/csv; charset=utf-8', 4]);
  });

  it('takes a decision back for a while when nobody waits, and lets it go after that', async () => {
    const { id, requestId } = await newTask(ana);
    await ana.call('POST', `/tasks/${id}/claim`, {});
    const decide = () => ana.call('POST', `/tasks/${id}/decide`, { outcome: 'approve', data: { rate: 1 } });
    expect(((await decide()).json as TaskView).undoUntil).toBeGreaterThan(Date.now());
    expect((await ana.call('POST', `/tasks/${id}/undo`, {})).json).toMatchObject({ state: 'claimed', decision: null });
    await decide();
    expect((await (await served.fetch(`/requests/${requestId}`)).json()) as object).toMatchObject({ state: 'waiting' });
    await eventually(async () => expect((await served.fetch(`/requests/${requestId}/reply`)).status).toBe(200), { withinMs: 15_000 });
    expect((await ana.call('POST', `/tasks/${id}/undo`, {})).json).toMatchObject({ status: 410, code: 'ended' });
  }, 30_000);

  it('keeps drafts, comments and attachments', async () => {
    const { id } = await newTask(ana);
    await ana.call('POST', `/tasks/${id}/claim`, {});
    await ana.call('POST', `/tasks/${id}/draft`, { data: { rate: 99 } });
    await ana.call('POST', `/tasks/${id}/comment`, { text: 'see attached' });
    const attach = (text: string, type: string) =>
      ana.call('POST', `/tasks/${id}/attachments?name=..%2Fa%20b.txt`, text, { 'content-type': type });
    expect((await attach('0123456789', 'text/plain')).status).toBe(201);
    expect((await attach('0123456789x', 'text/plain')).status).toBe(422);
    expect((await attach('x', 'text/html')).status).toBe(422);
    const view = (await ana.call('GET', `/tasks/${id}`)).json as TaskView;
    expect(view).toMatchObject({
      draft: { rate: 99 },
      hasDraft: true,
      comments: [{ by: 'ana', text: 'see attached' }],
      attachments: [{ name: 'a b.txt', size: 10 }],
    });
    expect((await bo.call('GET', `/tasks/${id}`)).json).toMatchObject({ draft: null });
    const file = await bo.call('GET', `/tasks/${id}/attachments/${view.attachments[0]!.id}`);
    expect([file.text, file.headers.get('content-disposition')]).toEqual(['0123456789', "attachment; filename*=UTF-8''a%20b.txt"]);
  });

  it('decides several at once, of those that need no form', async () => {
    const [one, two, three] = [await newTask(ana, 'note'), await newTask(ana, 'note'), await newTask(ana)];
    const { json } = await ana.call('POST', '/tasks/bulk', { ids: [one.id, two.id, three.id, 'none'], outcome: 'approve' });
    expect((json as { results: readonly { ok: boolean }[] }).results.map(({ ok }) => ok)).toEqual([true, true, false, false]);
  });

  it('lets a substitute act while somebody is away', async () => {
    const { id } = await newTask(ana);
    await ana.call('POST', `/tasks/${id}/claim`, {});
    const away = (substitute: string) =>
      ana.call('PUT', '/absence', { from: '2026-01-01T00:00:00Z', until: new Date(Date.now() + 60_000).toISOString(), substitute });
    expect((await away('ana')).status).toBe(422);
    expect((await away('nobody')).status).toBe(422);
    expect((await away('eve')).status).toBe(200);
    expect((await eve.call('GET', '/session')).json).toMatchObject({ user: { standsInFor: ['ana'] } });
    expect((await listed(eve, 'mine')).map((each) => each.id)).toContain(id);
    const done = await eve.call('POST', `/tasks/${id}/decide`, { outcome: 'approve', data: { rate: 1 } });
    expect(done.json).toMatchObject({ decision: { by: 'eve', forWhom: ['ana'] } });
    expect((await ana.call('DELETE', '/absence')).status).toBe(204);
    expect((await eve.call('GET', '/session')).json).toMatchObject({ user: { standsInFor: [] } });
  });
});

describe('the story of a request', () => {
  it('says what it waits for and who waits, to those whom it concerns; an operator may end it', async () => {
    const [ana, eve, adam] = [await browser('ana'), await browser('eve'), await browser('adam')];
    const { id, requestId, title } = await newTask(ana);
    const story = `/requests/${requestId}/story`;
    expect((await ana.call('GET', story)).json).toMatchObject({
      id: requestId,
      state: 'waiting',
      waitingOn: { kind: 'task', text: title, taskId: id },
      requestor: { kind: 'detached' },
      parts: [],
      mayCancel: false,
    });
    expect((await eve.call('GET', story)).status).toBe(404);
    expect((await ana.call('DELETE', `/requests/${requestId}`)).status).toBe(404);
    expect((await adam.call('GET', story)).json).toMatchObject({ mayCancel: true });
    expect((await adam.call('DELETE', `/requests/${requestId}`)).status).toBe(204);
    expect((await adam.call('GET', story)).json).toMatchObject({ state: 'cancelled', waitingOn: null, mayCancel: false });
    expect((await adam.call('DELETE', `/requests/${requestId}`)).status).toBe(409);
  });
});

describe('the stream', () => {
  const stops: AbortController[] = [];
  afterEach(() => stops.splice(0).forEach((stop) => stop.abort()));

  async function watching({ cookie }: Browser) {
    const stop = new AbortController();
    stops.push(stop);
    const response = await served.fetch('/tasks/events', { headers: { cookie }, signal: stop.signal });
    const events: SentEvent[] = [];
    void readEvents(response, (all) => {
      events.splice(0, events.length, ...all);
      return false;
    }).catch(() => undefined);
    return events;
  }

  it('tells each of what concerns them, and whoever has it open that it was withdrawn', async () => {
    const [ana, eve] = [await browser('ana'), await browser('eve')];
    const [toAna, toEve] = [await watching(ana), await watching(eve)];
    const { id, requestId } = await newTask(ana);
    await eventually(() => expect(toAna.find(({ event, data }) => event === 'task' && data['id'] === id)).toBeDefined());
    await ana.call('POST', `/tasks/${id}/claim`, {});
    await eventually(() =>
      expect(toAna.findLast(({ event }) => event === 'task')?.data).toMatchObject({ id, state: 'claimed', assignee: 'ana' }),
    );
    await served.fetch(`/requests/${requestId}`, { method: 'DELETE' });
    await eventually(() => expect(toAna.find(({ event }) => event === 'gone')?.data).toEqual({ id, why: 'the request was cancelled' }));
    expect((await ana.call('POST', `/tasks/${id}/decide`, { outcome: 'approve', data: { rate: 1 } })).json).toMatchObject({
      status: 410,
      code: 'ended',
    });
    expect(toAna.some(({ event }) => event === 'counts')).toBe(true);
    expect(toEve).toEqual([]);
  });
});
