import { afterEach, describe, expect, it } from '@jest/globals';
import type { User } from '../../broker/people.js';
import type { Actor } from '../../broker/tasks/task.js';
import type { Summary } from '../../broker/tasks/view.js';
import { anonymous, newKey, type KeyedPrincipal } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import { brokenAt } from '../../broker/tasks/audit.js';
import type { Wish } from '../../broker/tasks/tasks.js';
import { aggregator, split, task, worker } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';

interface Order {
  readonly amount: number;
  readonly enteredBy?: string;
}

export const approve = task<Order>({
  name: 'order.approve',
  title: ({ amount }) => `Approve ${amount} €`,
  form: { type: 'object', required: ['rate'], properties: { rate: { type: 'number' } } },
  candidates: { groups: ['buyers'] },
});

const twice = task<Order>({
  name: 'order.approve',
  title: ({ amount }) => `Approve ${amount} €`,
  candidates: { groups: ['buyers'] },
  approvals: ({ enteredBy }) => ({ needed: 2, never: [enteredBy] }),
  attachments: { types: ['text/plain'] },
});

const person = (name: string, groups: readonly string[] = ['buyers'], more: Partial<User> = {}): User => ({
  name,
  groups,
  roles: ['task-user'],
  ...more,
});
const users = [
  ...['ana', 'bo', 'cem', 'rita'].map((name) => person(name)),
  person('eve', ['sales']),
  person('adam', [], { roles: ['admin', 'operator', 'task-user'] }),
];
const approval: Wish = { do: 'decide', outcome: 'approve', data: undefined };

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('tasks %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: Partial<TestHubOptions> = {}) =>
    (hub = await openHub({ flows: { order: ['order.approve'] }, steps: [approve], users, ...options }));
  afterEach(() => hub?.close());

  const as = async (name: string): Promise<Actor> => hub.hub.people.actor((await hub.hub.people.find(name))!, 'page');
  const seen = async (name: string, view: 'groups' | 'mine' | 'done' = 'groups'): Promise<readonly Summary[]> =>
    (await hub.hub.tasks.list(await as(name), { view, limit: 50 })).tasks;
  const found = (name: string): Promise<Summary> =>
    eventually(async () => {
      const [first] = await seen(name);
      if (first === undefined) throw new Error('no task yet');
      return first;
    });
  const act = async (id: string, wish: Wish, who: string | Actor) =>
    hub.hub.tasks.act(id, wish, typeof who === 'string' ? await as(who) : who);
  /** What is refused, with its code; `done` otherwise. */
  const tried = async (id: string, wish: Wish, who: string | Actor) => {
    const answered = await act(id, wish, who);
    return answered?.result === 'refused' ? answered.refusal.code : answered?.result;
  };
  const auditOf = async (id: string) => (await hub.hub.tasks.audit(id, await as('adam'))) ?? [];

  it('goes from a request to whoever claims it, and from the decision to who holds the line', async () => {
    await open();
    const reply = hub.reply('order', { amount: 500 });
    const { id, title, holdingUntil } = await found('ana');
    expect([title, typeof holdingUntil]).toEqual(['Approve 500 €', 'number']);
    const { tasks } = hub.hub;
    expect(await tasks.act(id, { do: 'claim' }, await as('ana'))).toMatchObject({ result: 'done', task: { state: 'claimed' } });
    expect(await tasks.act(id, { do: 'claim' }, await as('bo'))).toMatchObject({ result: 'refused', refusal: { code: 'conflict' } });
    expect([await seen('bo'), (await seen('ana', 'mine')).length]).toEqual([[], 1]);
    const began = Date.now();
    expect(await tasks.act(id, { do: 'decide', outcome: 'approve', data: { rate: 4 } }, await as('ana'))).toMatchObject({ result: 'done' });
    expect(await reply).toMatchObject({ outcome: 'approve', data: { rate: 4 }, by: 'ana', votes: [{ by: 'ana' }] });
    expect(Date.now() - began).toBeLessThan(3_000);
    await eventually(async () => expect(await seen('ana', 'done')).toMatchObject([{ id, state: 'decided' }]));
    expect(await seen('ana', 'mine')).toEqual([]);
  });

  it('has one winner when many claim at once', async () => {
    await open();
    await hub.ask('order', { amount: 1 }, { waitMs: 0 });
    const { id } = await found('ana');
    const names = Array.from({ length: 30 }, (_, n) => ['ana', 'bo', 'cem', 'rita'][n % 4]!);
    const answers = await Promise.all(names.map(async (name) => [name, await tried(id, { do: 'claim' }, name)] as const));
    const winner = (await hub.hub.tasks.get(id, await as('ana')))!.assignee;
    expect(answers.filter(([, answer]) => answer === 'done').map(([name]) => name)).toEqual(expect.arrayContaining([winner]));
    expect(answers.every(([name, answer]) => answer === (name === winner ? 'done' : 'conflict'))).toBe(true);
  });

  it('refuses every way around four eyes, whatever the entry, and has all of them in the audit', async () => {
    const { key, line } = newKey();
    const principal = (name: string, more: Partial<KeyedPrincipal> = {}): KeyedPrincipal => ({
      name,
      flows: ['*'],
      topics: [],
      keys: [],
      ...more,
    });
    const principals = [
      principal('rita', { roles: ['task-user'], groups: ['buyers'], keys: [line] }),
      principal('ana', { roles: ['task-user'], groups: ['buyers'] }),
      principal('amqp'),
      principal('guest', { roles: ['task-user'], groups: ['buyers'] }),
    ];
    await open({ steps: [twice], principals });
    const asked = await hub.ask('order', { amount: 9_000, enteredBy: 'CEM ' }, { waitMs: 0, principal: principals[0]! });
    const { id } = await found('ana');
    const { people } = hub.hub;
    const away = { from: 0, until: Date.now() + 60_000 };

    // Who made the request (by the page, by key), who entered its data, and an administrator who is no candidate.
    const { memberOf } = people;
    const byKey = await people.actor(memberOf(principals.find((each) => each.name === 'rita')!)!, 'key');
    expect(key).toMatch(/^ab_/);
    for (const who of ['rita', 'cem', 'adam', byKey]) {
      expect(await tried(id, { do: 'claim' }, who)).toBe('not-permitted');
      expect(await tried(id, approval, who)).toBe('not-permitted');
    }
    // The administrator cannot give it to who may not decide, nor to itself.
    for (const to of ['rita', 'cem', 'adam']) expect(await tried(id, { do: 'assign', to }, 'adam')).toBe('not-permitted');
    // Somebody acts for them while they are away.
    await people.setAbsence('rita', { ...away, substitute: 'eve' });
    expect(await tried(id, { do: 'claim' }, 'eve')).toBe('not-permitted');
    await people.setAbsence('rita', undefined);

    await act(id, { do: 'claim' }, 'ana');
    for (const to of ['rita', 'cem']) expect(await tried(id, { do: 'delegate', to }, 'ana')).toBe('not-permitted');
    expect(await tried(id, approval, 'ana')).toBe('done');
    // The same person once more: herself, by key, by her substitute, as a delegate, by a decision sent again.
    expect(await tried(id, { do: 'claim' }, 'ana')).toBe('not-permitted');
    expect(await tried(id, approval, { ...(await as('ana')), via: 'key' })).toBe('not-permitted');
    await people.setAbsence('ana', { ...away, substitute: 'eve' });
    expect(await tried(id, { do: 'claim' }, 'eve')).toBe('not-permitted');
    await people.setAbsence('ana', undefined);
    await act(id, { do: 'claim' }, 'bo');
    expect(await tried(id, { do: 'delegate', to: 'ana' }, 'bo')).toBe('not-permitted');
    expect(await tried(id, approval, 'ana')).toBe('not-permitted');
    // A forged form: what it has no field for is refused, and nobody is believed to be another.
    expect(await tried(id, { ...approval, data: { by: 'bo' } }, 'bo')).toBe('invalid');
    // By AMQP, as the broker says who it is; here the user of the connection (or of the hub's own, in memory: nobody).
    const { transport } = hub.ports;
    const replies = `${hub.namespace}.answers`;
    await transport.declare({
      exchanges: [],
      queues: [{ name: replies, type: 'classic', about: 'test', arguments: {} } as never],
      bindings: [],
    });
    const heard: { readonly type?: string; readonly body: Buffer; readonly headers: Readonly<Record<string, unknown>> }[] = [];
    const consumer = await transport.consume(replies, { prefetch: 1, tag: 'test' }, async (delivery) => void heard.push(delivery));
    await transport.publish(
      { exchange: hub.hub.names.requests, routingKey: 'tasks.decide' },
      {
        body: Buffer.from(JSON.stringify({ task: id, outcome: 'approve' })),
        replyTo: replies,
        correlationId: 'c1',
        contentType: 'application/json',
      },
    );
    await eventually(() => expect(heard).toMatchObject([{ type: 'fault', headers: { 'hub-error-code': 'forbidden' } }]));
    await consumer.close();
    await transport.removeQueue(replies);

    expect(await tried(id, approval, 'bo')).toBe('done');
    // A link in a mail that is opened again.
    expect(await tried(id, approval, 'bo')).toBe('ended');
    expect(await hub.gateway.collect(asked.id, principals[0]!, 15_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });

    const audit = await auditOf(id);
    expect(brokenAt(audit)).toBeUndefined();
    expect(audit.filter(({ action }) => action === 'voted').map(({ by }) => by)).toEqual(['ana', 'bo']);
    const refused = audit.filter(({ action }) => action === 'refused');
    expect(refused.length).toBe(22);
    expect(new Set(refused.map(({ by, via }) => `${by} by ${via}`))).toEqual(
      new Set([
        ...['rita by page', 'cem by page', 'adam by page', 'rita by key', 'eve by page', 'ana by page', 'ana by key', 'bo by page'],
        'amqp by amqp',
      ]),
    );
  }, 30_000);

  it('asks several people at once, each their own, and goes on when enough of them have decided', async () => {
    const spread = worker({
      name: 'experts.ask',
      handle: (body) =>
        split(['ana', 'bo', 'cem'].map((expert) => ({ body: { ...(body as object), expert }, steps: ['expert'], name: expert }))),
    });
    const expert = task<{ readonly expert: string }>({
      name: 'expert',
      title: 'Your opinion?',
      candidates: ({ expert: name }) => ({ users: [name] }),
    });
    await open({
      flows: { opinion: ['experts.ask', 'opinions'] },
      steps: [spread, expert, aggregator({ name: 'opinions', atLeast: 2, timeout: '30s' })],
    });
    const reply = hub.reply('opinion', {});
    for (const name of ['ana', 'bo', 'cem']) await found(name);
    const left = (await found('cem')).id;
    for (const name of ['ana', 'bo']) {
      const { id } = await found(name);
      await act(id, { do: 'claim' }, name);
      expect(await tried(id, approval, name)).toBe('done');
    }
    expect(await reply).toMatchObject({ answered: ['ana', 'bo'], missing: ['cem'] });
    await eventually(async () => expect(await hub.hub.tasks.get(left, await as('adam'))).toMatchObject({ state: 'withdrawn' }));
    expect(await seen('cem')).toEqual([]);
    expect(await tried(left, { do: 'claim' }, 'cem')).toBe('ended');
  }, 30_000);

  it('withdraws a task with its request, and tells who watches', async () => {
    await open();
    const { id: requestId } = await hub.ask('order', { amount: 1 }, { waitMs: 0 });
    const { id } = await found('ana');
    const told: unknown[] = [];
    const stop = new AbortController();
    void hub.hub.tasks.watch(
      () => as('bo'),
      (event) => void told.push(event),
      stop.signal,
    );
    await act(id, { do: 'claim' }, 'bo');
    expect(await hub.gateway.cancel(requestId, anonymous)).toBe('cancelled');
    await eventually(() => expect(told).toContainEqual({ event: 'gone', data: { id, why: 'the request was cancelled' } }));
    expect(await hub.hub.tasks.get(id, await as('adam'))).toMatchObject({
      state: 'withdrawn',
      history: expect.arrayContaining([expect.objectContaining({ action: 'withdrawn', detail: { why: 'the request was cancelled' } })]),
    });
    const late = await hub.ask('order', { amount: 2 }, { waitMs: 0, deadlineMs: 1_000 });
    const second = await found('ana');
    await eventually(async () => expect(await hub.gateway.status(late.id, anonymous)).toMatchObject({ state: 'timed-out' }));
    await eventually(async () => expect(await hub.hub.tasks.get(second.id, await as('adam'))).toMatchObject({ state: 'withdrawn' }));
    stop.abort();
  }, 30_000);

  it('survives the loss of everything that Redis holds: votes, comments, files, and who has it in hand', async () => {
    await open({ steps: [twice] });
    const { id: requestId } = await hub.ask('order', { amount: 1 }, { waitMs: 0 });
    const { id } = await found('ana');
    await act(id, { do: 'claim' }, 'ana');
    await act(id, { do: 'comment', text: 'looks fine' }, 'ana');
    await hub.hub.tasks.attach(id, { name: 'offer.txt', type: 'text/plain', bytes: Buffer.from('100') }, await as('ana'));
    await act(id, approval, 'ana');
    await act(id, { do: 'claim' }, 'bo');
    const before = await hub.hub.tasks.get(id, await as('bo'));
    await hub.lose();
    const after = await eventually(async () => (await hub.hub.tasks.get(id, await as('bo')))!, { withinMs: 20_000 });
    expect(after).toEqual(before);
    const file = await hub.hub.tasks.attachment(id, after.attachments[0]!.id, await as('bo'));
    expect(file?.bytes.toString()).toBe('100');
    expect((await seen('bo', 'mine')).map((each) => each.id)).toEqual([id]);
    expect(await tried(id, approval, 'bo')).toBe('done');
    const answer = await eventually(
      async () => {
        const got = await hub.gateway.collect(requestId, anonymous, 0);
        expect(got).toMatchObject({ kind: 'outcome' });
        return got;
      },
      { withinMs: 20_000 },
    );
    expect(answer).toMatchObject({ outcome: { kind: 'reply' } });
  }, 60_000);
});

describe('a task by a test clock', () => {
  it('reminds, lets another group in, and decides by itself when nobody does', async () => {
    const clock = testClock();
    const hour = 3_600_000;
    const hub = await memoryHub({
      clock,
      flows: { order: { steps: ['order.approve'], deadlineMs: 100 * hour, maxDeadlineMs: 100 * hour } },
      steps: [
        task({
          name: 'order.approve',
          title: 'Approve',
          candidates: { groups: ['buyers'] },
          due: '10h',
          reminders: [0.5, 0.9],
          escalate: [{ after: 0.8, to: ['sales'] }],
          expire: { outcome: 'reject', after: '20h' },
        }),
      ],
      users,
    });
    const events: string[] = [];
    await hub.gateway.subscribe('tasks.#', anonymous, ({ topic }) => void events.push(topic));
    const asked = hub.ask('order', {}, { waitMs: 0 });
    await clock.advance(100);
    const { id: requestId } = await asked;
    const as = async (name: string) => hub.hub.people.actor((await hub.hub.people.find(name))!, 'page');
    const groups = async (name: string) => (await hub.hub.tasks.list(await as(name), { view: 'groups', limit: 10 })).tasks;
    expect([(await groups('ana')).length, (await groups('eve')).length]).toEqual([1, 0]);
    await clock.advance(5 * hour);
    expect(events).toEqual(['tasks.created', 'tasks.reminded']);
    await clock.advance(3 * hour + 2_000);
    expect([(await groups('ana')).length, (await groups('eve')).length]).toEqual([1, 1]);
    await clock.advance(3 * hour);
    expect(events).toEqual(['tasks.created', 'tasks.reminded', 'tasks.escalated', 'tasks.reminded']);
    expect(await hub.gateway.status(requestId, anonymous)).toMatchObject({ state: 'waiting' });
    await clock.advance(9 * hour);
    const answer = await hub.gateway.collect(requestId, anonymous, 0);
    expect(answer?.kind === 'outcome' && (JSON.parse(answer.outcome.body.toString()) as unknown)).toMatchObject({
      outcome: 'reject',
      by: null,
      votes: [],
    });
    expect(events.at(-1)).toBe('tasks.expired');
    await hub.close();
  });

  it.each([
    [{ form: { type: 'objekt' } }, /form/],
    [{ form: { type: 'object', propertees: {} } }, /propertees/],
    [{ approvals: { needed: 3, of: 2 } }, /3 of 2/],
    [{ approvals: { needed: 2 }, expire: { outcome: 'approve' } }, /without any of them/],
    [{ expire: { outcome: 'maybe' } }, /no outcome "maybe"/],
    [{ due: 'tomorrow' }, /8h/],
    [{ reminders: [50] }, /shares/],
    [{ bulk: true, form: { type: 'object' } }, /bulk/],
    [{ calendar: { zone: 'Mars/Olympus', hours: { mon: ['09:00-17:00'] } } }, /calendar/],
  ])('is refused at the start with %j', (wrong, why) => {
    expect(() => task({ name: 'x', title: 'X', candidates: {}, ...(wrong as object) })).toThrow(why);
  });
});
