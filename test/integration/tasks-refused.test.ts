/** Every way around four eyes that we could think of, each by its real entrance, on real services: refused, and in the audit. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { newKey, type KeyedPrincipal } from '../../broker/access.js';
import type { User } from '../../broker/people.js';
import { brokenAt, type AuditEntry } from '../../broker/tasks/audit.js';
import { task } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { realHub, type TestHub } from '../support/hub.js';
import { settings } from './http-server.js';

const approve = task<{ readonly enteredBy: string }>({
  name: 'order.approve',
  title: 'Approve?',
  form: { type: 'object', properties: { rate: { type: 'number', maximum: 10 }, note: { type: 'string', maxLength: 5 } } },
  candidates: { groups: ['buyers'] },
  approvals: ({ enteredBy }) => ({ needed: 3, never: [enteredBy] }),
});

const user = (name: string, groups: readonly string[] = ['buyers'], more: Partial<User> = {}): User => ({
  name,
  groups,
  roles: ['task-user'],
  demoPassword: name,
  ...more,
});
const users = [
  ...['ana', 'bo', 'cem', 'rita'].map((name) => user(name)),
  user('eve', ['sales']),
  user('adam', [], { roles: ['admin', 'operator', 'task-user'] }),
];

const taskUser: Partial<KeyedPrincipal> = { roles: ['task-user'], groups: ['buyers'] };
const keys: Record<string, string> = {};
const principal = (name: string, more: Partial<KeyedPrincipal> = {}): KeyedPrincipal => {
  const { key, line } = newKey();
  keys[name] = key;
  return { name, flows: ['*'], topics: [], keys: [line], ...more };
};
// RabbitMQ vouches for `guest`, the user of the connection; what names no user is of the principal "amqp".
const principals = [
  principal('rita', taskUser),
  principal('ana', taskUser),
  principal('robot', taskUser),
  principal('clerk'),
  principal('guest', taskUser),
  principal('amqp'),
];

/** What came back, by whatever entrance. */
interface Said {
  readonly status: number | string;
  readonly code?: string;
  readonly detail?: string;
}

interface Attempt {
  readonly name: string;
  readonly by: string;
  readonly via?: 'key' | 'amqp';
  readonly what: string;
  readonly try: () => Promise<Said>;
  /** As the one who tries is told. */
  readonly told: Said & { readonly says?: RegExp };
  /** As the audit has it, where it has more to say. */
  readonly audit?: Readonly<Record<string, unknown>>;
}

describe('who tries to get around four eyes', () => {
  let hub: TestHub;
  let url: string;
  let id: string;
  let held: Promise<Response>;
  const cookies: Record<string, string> = {};
  const replies: { readonly type?: string; readonly body: Buffer; readonly headers: Readonly<Record<string, unknown>> }[] = [];

  beforeAll(async () => {
    hub = await realHub({ flows: { order: ['order.approve'] }, steps: [approve], users, principals });
    [url = ''] = (await hub.open(http, settings)).urls;
    for (const { name } of users) {
      const response = await fetch(`${url}/session`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ name, password: name }),
      });
      cookies[name] = response.headers.get('set-cookie')!.split(';')[0]!;
    }
    const { transport } = hub.ports;
    const queue = `${hub.namespace}.answers`;
    await transport.declare({
      exchanges: [],
      queues: [{ name: queue, type: 'classic', about: 'test', arguments: {} } as never],
      bindings: [],
    });
    await transport.consume(queue, { prefetch: 1, tag: 'test' }, async (delivery) => void replies.push(delivery));
    held = fetch(`${url}/requests/order`, {
      method: 'POST',
      headers: { authorization: `Bearer ${keys['rita']}`, 'content-type': 'application/json', prefer: 'wait=60' },
      body: JSON.stringify({ amount: 9_000, enteredBy: 'CEM ' }),
    });
    id = await eventually(async () => {
      const { tasks } = (await (await fetch(`${url}/tasks?view=groups`, { headers: { cookie: cookies['ana']! } })).json()) as {
        tasks: readonly { id: string }[];
      };
      return tasks[0]!.id;
    });
  });
  afterAll(async () => {
    await hub?.ports.transport.removeQueue(`${hub.namespace}.answers`);
    await hub?.close();
  });

  // The entrances.

  async function call(method: string, path: string, headers: Record<string, string>, body?: string): Promise<Said> {
    const answer = await fetch(url + path, { method, headers, ...(body === undefined ? {} : { body }) });
    const text = await answer.text();
    const { code, detail } = (text === '' ? {} : JSON.parse(text)) as Partial<Said>;
    return { status: answer.status, ...(code === undefined ? {} : { code }), ...(detail === undefined ? {} : { detail }) };
  }
  const json = { 'content-type': 'application/json' };
  const byPage = (who: string, action: string, body: object = {}, more: Record<string, string> = {}) =>
    call(
      'POST',
      `/tasks/${id}/${action}`,
      { ...json, cookie: cookies[who]!, 'sec-fetch-site': 'same-origin', ...more },
      JSON.stringify(body),
    );
  const byKey = (who: string, action: string, body: object = {}) =>
    call('POST', `/tasks/${id}/${action}`, { ...json, authorization: `Bearer ${keys[who]}` }, JSON.stringify(body));
  async function byAmqp(action: string, body: object, userId?: 'guest'): Promise<Said> {
    const before = replies.length;
    await hub.ports.transport.publish(
      { exchange: hub.hub.names.requests, routingKey: `tasks.${action}` },
      {
        body: Buffer.from(JSON.stringify({ task: id, ...body })),
        contentType: 'application/json',
        replyTo: `${hub.namespace}.answers`,
        correlationId: String(before),
        ...(userId === undefined ? {} : { userId }),
      },
    );
    await eventually(() => expect(replies).toHaveLength(before + 1));
    const { type = '', body: answer } = replies.at(-1)!;
    const { code, message } = JSON.parse(answer.toString()) as { code?: string; message?: string };
    return {
      status: type,
      ...(type === 'reply' || code === undefined ? {} : { code }),
      ...(message === undefined ? {} : { detail: message }),
    };
  }
  async function away(who: string, substitute: string | undefined): Promise<void> {
    const headers = { ...json, cookie: cookies[who]!, 'sec-fetch-site': 'same-origin' };
    const body = { from: '2026-01-01T00:00:00Z', until: new Date(Date.now() + 60_000).toISOString(), substitute };
    const { status } =
      substitute === undefined
        ? await call('DELETE', '/absence', { cookie: cookies[who]!, 'sec-fetch-site': 'same-origin' })
        : await call('PUT', '/absence', headers, JSON.stringify(body));
    expect(status).toBe(substitute === undefined ? 204 : 200);
  }
  const standingIn = async (who: string, substitute: string, attempt: () => Promise<Said>): Promise<Said> => {
    await away(who, substitute);
    try {
      return await attempt();
    } finally {
      await away(who, undefined);
    }
  };
  async function auditOf(): Promise<readonly AuditEntry[]> {
    const answer = await fetch(`${url}/tasks/${id}/audit`, { headers: { cookie: cookies['adam']! } });
    const { intact, entries } = (await answer.json()) as { intact: boolean; entries: readonly AuditEntry[] };
    expect(intact).toBe(true);
    return entries;
  }

  const approval = { outcome: 'approve', data: { rate: 1 } };
  const notPermitted = (says: RegExp): Attempt['told'] => ({ status: 403, code: 'not-permitted', says });
  const isRequestor = notPermitted(/rita made the request or entered its data/);
  const isClerk = notPermitted(/cem made the request or entered its data/);
  const hasVoted = notPermitted(/ana has voted already/);
  const isNobody = (name: string) => notPermitted(new RegExp(`${name} is not among those whom this task is for`));
  const linkSays = { status: 405, code: 'method-not-allowed', says: /GET cannot be done here; POST can/ };
  const link = (who: string, query = '?outcome=approve') => call('GET', `/tasks/${id}/decide${query}`, { cookie: cookies[who]! });

  const beforeAnyVote: readonly Attempt[] = [
    { name: 'the requestor', by: 'rita', what: 'claim', try: () => byPage('rita', 'claim'), told: isRequestor },
    {
      name: 'the requestor, by a decision at once',
      by: 'rita',
      what: 'decide',
      try: () => byPage('rita', 'decide', approval),
      told: isRequestor,
    },
    {
      name: 'the requestor, by key',
      by: 'rita',
      via: 'key',
      what: 'decide',
      try: () => byKey('rita', 'decide', approval),
      told: isRequestor,
    },
    { name: 'who entered the data', by: 'cem', what: 'claim', try: () => byPage('cem', 'claim'), told: isClerk },
    {
      name: 'who stands in for the requestor',
      by: 'eve',
      what: 'claim',
      try: () => standingIn('rita', 'eve', () => byPage('eve', 'claim')),
      told: isRequestor,
    },
    { name: 'an administrator', by: 'adam', what: 'decide', try: () => byPage('adam', 'decide', approval), told: isNobody('adam') },
    {
      name: 'an administrator who gives it to the requestor',
      by: 'adam',
      what: 'assign',
      try: () => byPage('adam', 'assign', { to: 'rita' }),
      told: isRequestor,
      audit: { to: 'rita' },
    },
    {
      name: 'an administrator who gives it to themselves',
      by: 'adam',
      what: 'assign',
      try: () => byPage('adam', 'assign', { to: 'adam' }),
      told: isNobody('adam'),
      audit: { to: 'adam' },
    },
    { name: 'somebody of another group', by: 'eve', what: 'claim', try: () => byPage('eve', 'claim'), told: isNobody('eve') },
    {
      name: 'the key of a principal without roles',
      by: 'clerk',
      via: 'key',
      what: 'decide',
      try: () => byKey('clerk', 'decide', approval),
      told: notPermitted(/clerk has no roles/),
      audit: { why: expect.stringMatching(/clerk does not have the role task-user/) },
    },
    {
      name: 'a program on AMQP without roles',
      by: 'amqp',
      via: 'amqp',
      what: 'decide',
      try: () => byAmqp('decide', approval),
      told: { status: 'fault', code: 'forbidden', says: /amqp does not have the role task-user/ },
      audit: { code: 'not-permitted' },
    },
    {
      name: 'a program on AMQP without roles, with a body that means nothing',
      by: 'amqp',
      via: 'amqp',
      what: 'claim',
      try: () => byAmqp('claim', { as: 'ana' }),
      told: { status: 'fault', code: 'forbidden', says: /amqp does not have the role task-user/ },
      audit: { code: 'not-permitted' },
    },
    {
      name: 'a link, before it was claimed',
      by: 'bo',
      what: 'decide',
      try: () => link('bo'),
      told: linkSays,
      audit: { code: 'not-permitted' },
    },
  ];

  const inAnasHand: readonly Attempt[] = [
    {
      name: 'delegation to the requestor',
      by: 'ana',
      what: 'delegate',
      try: () => byPage('ana', 'delegate', { to: 'rita' }),
      told: isRequestor,
      audit: { to: 'rita' },
    },
    {
      name: 'delegation to who entered the data',
      by: 'ana',
      what: 'delegate',
      try: () => byPage('ana', 'delegate', { to: 'cem' }),
      told: isClerk,
    },
    {
      name: 'a decision on what another one has in hand',
      by: 'bo',
      what: 'decide',
      try: () => byPage('bo', 'decide', approval),
      told: { status: 409, code: 'conflict', says: /ana has had it in hand/ },
    },
    {
      name: 'a decision on what another one has in hand, over AMQP',
      by: 'guest',
      via: 'amqp',
      what: 'decide',
      try: () => byAmqp('decide', approval, 'guest'),
      told: { status: 'fault', code: 'rejected', says: /ana has had it in hand/ },
      audit: { code: 'conflict' },
    },
    {
      name: 'a form that names somebody else',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { ...approval, by: 'secret-0' }),
      told: { status: 422, code: 'invalid', says: /#\/by means nothing to decide/ },
      audit: { why: 'wrong at #/by' },
    },
    {
      name: 'a form with a field that it does not have',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { ...approval, data: { rate: 1, votes: 'secret-1' } }),
      told: { status: 422, code: 'invalid' },
      audit: { outcome: 'approve', why: expect.stringMatching(/^wrong at #/) },
    },
    {
      name: 'a form with wrong values',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { ...approval, data: { rate: 4_711, note: 'secret-2' } }),
      told: { status: 422, code: 'invalid' },
      audit: { why: 'wrong at #/rate, #/note' },
    },
    {
      name: 'an outcome that there is not',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { outcome: 'approve-all' }),
      told: { status: 422, code: 'invalid', says: /must be one of approve, reject/ },
      audit: { outcome: 'approve-all' },
    },
    {
      name: 'a form that is no JSON',
      by: 'ana',
      what: 'decide',
      try: () =>
        call(
          'POST',
          `/tasks/${id}/decide`,
          { cookie: cookies['ana']!, 'sec-fetch-site': 'same-origin', 'content-type': 'application/x-www-form-urlencoded' },
          'outcome=approve&note=secret-3',
        ),
      told: { status: 415, code: 'unsupported-media-type' },
      audit: { code: 'invalid', why: 'it was no JSON object' },
    },
    {
      name: 'a form on another site’s page, with the cookie of who has it in hand',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', approval, { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' }),
      told: { status: 403, code: 'cross-origin' },
      audit: { code: 'not-permitted', why: 'this is for the pages of this hub' },
    },
    {
      name: 'a link in a mail, opened by who has it in hand',
      by: 'ana',
      what: 'decide',
      try: () => link('ana'),
      told: linkSays,
      audit: { code: 'not-permitted', why: 'GET cannot be done here; POST can' },
    },
    {
      name: 'a forged form over AMQP',
      by: 'guest',
      via: 'amqp',
      what: 'claim',
      try: () => byAmqp('claim', { as: 'ana' }, 'guest'),
      told: { status: 'fault', code: 'invalid', says: /#\/as means nothing to claim/ },
      audit: { why: 'wrong at #/as' },
    },
  ];

  const afterAnasVote: readonly Attempt[] = [
    { name: 'the same person', by: 'ana', what: 'claim', try: () => byPage('ana', 'claim'), told: hasVoted },
    {
      name: 'the same person, by the decision sent again',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', approval),
      told: hasVoted,
    },
    {
      name: 'the same person, by the decision sent again with the ETag of then',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { ...approval, comment: 'again' }, { 'if-match': '"2"' }),
      told: hasVoted,
      audit: { times: 2 },
    },
    { name: 'the same person, by key', by: 'ana', via: 'key', what: 'decide', try: () => byKey('ana', 'decide', approval), told: hasVoted },
    {
      name: 'who stands in for the same person',
      by: 'eve',
      what: 'claim',
      try: () => standingIn('ana', 'eve', () => byPage('eve', 'claim')),
      told: hasVoted,
    },
    {
      name: 'a decision among many',
      by: 'ana',
      what: 'decide',
      try: async () => {
        const answer = await fetch(`${url}/tasks/bulk`, {
          method: 'POST',
          headers: { ...json, cookie: cookies['ana']!, 'sec-fetch-site': 'same-origin' },
          body: JSON.stringify({ ids: [id], outcome: 'approve' }),
        });
        const { results } = (await answer.json()) as { results: readonly { problem: Said }[] };
        return results[0]!.problem;
      },
      told: hasVoted,
      // The same as what was tried alone, but that no outcome was looked at.
      audit: { why: expect.stringMatching(/has voted already/) },
    },
  ];

  const inBosHand: readonly Attempt[] = [
    {
      name: 'delegation back to who has voted',
      by: 'bo',
      what: 'delegate',
      try: () => byPage('bo', 'delegate', { to: 'ana' }),
      told: hasVoted,
      audit: { to: 'ana' },
    },
  ];

  const whenDecided: readonly Attempt[] = [
    {
      name: 'the vote over AMQP once more',
      by: 'guest',
      via: 'amqp',
      what: 'decide',
      try: () => byAmqp('decide', approval, 'guest'),
      told: { status: 'fault', code: 'rejected', says: /decided: approve/ },
      audit: { code: 'ended' },
    },
    {
      name: 'the vote by key once more',
      by: 'robot',
      via: 'key',
      what: 'decide',
      try: () => byKey('robot', 'decide', approval),
      told: { status: 410, code: 'ended', says: /decided: approve/ },
    },
    {
      name: 'another outcome afterwards',
      by: 'ana',
      what: 'decide',
      try: () => byPage('ana', 'decide', { outcome: 'reject', comment: 'secret-4' }),
      told: { status: 410, code: 'ended' },
      audit: { outcome: 'reject' },
    },
    {
      name: 'the link in the mail, opened again',
      by: 'ana',
      what: 'decide',
      try: () => link('ana', '?outcome=reject'),
      told: linkSays,
      audit: { code: 'ended' },
    },
  ];

  async function tryEach(attempts: readonly Attempt[]): Promise<void> {
    for (const { name, by, via = 'page', what, try: attempt, told, audit = {} } of attempts) {
      const before = (await auditOf()).length;
      const { says, ...expected } = told;
      const said = await attempt();
      expect({ name, ...said }).toMatchObject({ name, ...expected });
      if (says !== undefined) expect(said.detail).toMatch(says);
      const written = (await auditOf()).slice(before);
      const { code } = told;
      expect({ name, written }).toMatchObject({
        name,
        written: [
          {
            by,
            via,
            action: 'refused',
            detail: { action: what, ...(typeof told.status === 'number' ? { code } : {}), why: expect.stringMatching(/.../), ...audit },
          },
        ],
      });
    }
  }

  it('is refused by each entrance, and stands in the audit with who, what and why', async () => {
    await tryEach(beforeAnyVote);
    expect(await byPage('ana', 'claim')).toEqual({ status: 200 });
    await tryEach(inAnasHand);
    expect(await byPage('ana', 'decide', approval)).toEqual({ status: 200 });
    await tryEach(afterAnasVote);
    expect(await byPage('bo', 'claim')).toEqual({ status: 200 });
    await tryEach(inBosHand);
    expect(await byPage('bo', 'return')).toEqual({ status: 200 });

    // By an API key, and over AMQP, whoever may decides.
    expect([await byKey('robot', 'claim'), await byKey('robot', 'decide', approval)]).toEqual([{ status: 200 }, { status: 200 }]);
    expect(await byKey('robot', 'decide', approval)).toMatchObject({ status: 403, code: 'not-permitted' });
    for (const [action, body] of [
      ['claim', {}],
      ['decide', approval],
    ] as const)
      expect(await byAmqp(action, body, 'guest')).toEqual({ status: 'reply' });
    const answer = await held;
    expect([answer.status, await answer.json()]).toMatchObject([200, { outcome: 'approve', by: 'guest' }]);
    await tryEach(whenDecided);

    const audit = await auditOf();
    expect(brokenAt(audit)).toBeUndefined();
    expect(audit.filter(({ action }) => action === 'voted').map(({ by, via }) => `${by} by ${via}`)).toEqual([
      'ana by page',
      'robot by key',
      'guest by amqp',
    ]);
    const all = [beforeAnyVote, inAnasHand, afterAnasVote, inBosHand, whenDecided].flat();
    expect(audit.filter(({ action }) => action === 'refused')).toHaveLength(all.length + 1);
    // A time or a hash may hold these digits among others.
    expect(JSON.stringify(audit)).not.toMatch(/secret|\b4711\b/);
    // None of it is in what people see of the task.
    expect(JSON.stringify(await (await fetch(`${url}/tasks/${id}`, { headers: { cookie: cookies['ana']! } })).json())).not.toMatch(
      /refused|secret/,
    );
  }, 60_000);

  it('and goes on trying makes the audit grow no longer', async () => {
    const before = await auditOf();
    for (let n = 1; n <= 40; n++) expect(await byPage('eve', 'claim')).toMatchObject({ status: 410 });
    for (let n = 1; n <= 40; n++)
      expect(await byPage('eve', 'decide', { outcome: 'approve', [`field-${n}`]: n })).toMatchObject({ status: 410 });
    const written = (await auditOf()).slice(before.length);
    const timesOf = (what: string) => written.filter(({ detail }) => detail['action'] === what).map(({ detail }) => detail['times'] ?? 1);
    expect([timesOf('claim'), timesOf('decide')]).toEqual([
      [1, 2, 4, 8, 16, 32],
      [1, 2, 4, 8, 16, 32],
    ]);
  }, 60_000);
});
