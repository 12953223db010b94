/** Parts that come when the answer is given amend it (`late: amend`). On both sets of ports. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { http, outcomeProblem } from '../../adapters/http/index.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import { checkFlows } from '../../broker/flow.js';
import type { Answer, Ask } from '../../broker/gateway.js';
import type { RequestEvent } from '../../broker/store.js';
import type { Delivery, Message } from '../../broker/transport.js';
import { storyOf } from '../../cli/trace.js';
import { verify } from '../../cli/verify.js';
import { aggregator, Fault, job, split, worker, type AggregatorOptions } from '../../index.js';
import { keyOf, targetsOf, webhook } from '../../workers/webhook/index.js';
import { eventually } from '../support/eventually.js';
import { flowsOf, memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { openReceiver } from '../support/receiver.js';
import { talk as openTalk } from '../support/talk.js';
import { gate, settings } from './http-server.js';

let gates = new Map<string, ReturnType<typeof gate>>();
const gateOf = (name: string) => {
  const known = gates.get(name) ?? gate();
  gates.set(name, known);
  return known;
};
let stopped: string[] = [];

/** What a bank says when its gate is open; the first two are open. */
const bank = (name: string) =>
  worker<{ fails?: string }>({
    name,
    retry: [],
    async handle({ fails }, _envelope, { signal }) {
      signal.addEventListener('abort', () => stopped.push(name));
      await Promise.race([gateOf(name).opened, new Promise((_, no) => signal.addEventListener('abort', no))]);
      if (fails === name) throw new Fault('rejected', `${name} lends nothing`);
      return { rate: name };
    },
  });
const banks = ['bank.a', 'bank.b', 'bank.c', 'bank.d'];
const spread = worker({ name: 'spread', handle: (body) => split(banks.map((name) => ({ name, body, steps: [name] }))) });
const best = (more: Partial<AggregatorOptions<{ rate: string }>> = {}) =>
  aggregator<{ rate: string }>({
    name: 'best',
    atLeast: 2,
    combine: (answers, { missing, failed, late = [], completedBy }) => ({
      rates: answers.map(({ body }) => body.rate),
      failed: failed.map(({ from }) => from),
      missing,
      late,
      completedBy,
    }),
    ...more,
  });
const flow = (more: object = {}) => ({ loan: { steps: ['spread', 'best'], late: 'amend' as const, ...more } });
const stepsWith = (...more: TestHubOptions['steps'][number][]) => [spread, ...banks.map(bank), ...(more.length === 0 ? [best()] : more)];

const firstAnswer = { rates: ['bank.a', 'bank.b'], failed: [], missing: ['bank.c', 'bank.d'], late: [], completedBy: 'at-least' };
const withC = { ...firstAnswer, rates: ['bank.a', 'bank.b', 'bank.c'], missing: ['bank.d'], late: ['bank.c'] };
const withAll = { ...withC, rates: banks, missing: [], late: ['bank.c', 'bank.d'] };

const saidIn = (answer: Answer | 'none' | undefined) =>
  typeof answer === 'object' && answer.kind === 'outcome'
    ? { version: answer.version, said: JSON.parse(answer.outcome.body.toString()) as unknown }
    : answer;

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a reply that late parts amend %s', (_where, openHub) => {
  let hub: TestHub;
  let url = '';
  beforeEach(() => {
    gates = new Map();
    stopped = [];
    for (const name of ['bank.a', 'bank.b']) gateOf(name).open();
  });
  afterEach(async () => {
    for (const one of gates.values()) one.open();
    await hub?.close();
  });
  const open = async (more: Partial<TestHubOptions> = {}) => (hub = await openHub({ flows: flow(), steps: stepsWith(), ...more }));
  const listen = async () => (url = (await hub.open(http, settings)).urls[0]!);
  const call = (path: string, init: RequestInit = {}) => fetch(url + path, init);
  const post = (headers: Record<string, string> = {}) =>
    call('/requests/loan', { method: 'POST', body: '{}', headers: { 'content-type': 'application/json', ...headers } });
  const ask = async (more: Partial<Ask> = {}, body: object = {}) => (await hub.ask('loan', body, more)).id;
  const collected = async (id: string) => saidIn(await hub.gateway.collect(id, anonymous, 10_000));
  const versioned = async (id: string, version: number) => saidIn(await hub.gateway.version(id, anonymous, version));
  const isVersion = (id: string, version: number) =>
    eventually(async () => expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'replied', version }));
  const notes = async (id: string, kind: string) => (await hub.hub.journal.read(id)).filter(({ headers }) => headers['hub-note'] === kind);
  const judged = () => verify({ journal: hub.hub.journal, names: hub.hub.names, from: 'first', now: Date.now(), retentionMs: 86_400_000 });

  it('is answered at once with who is there, and corrected by who comes later, version by version', async () => {
    await open();
    const answer = await hub.ask('loan', {});
    const { id } = answer;
    expect(saidIn(answer)).toEqual({ version: 1, said: firstAnswer });
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'replied', version: 1, amendableUntil: expect.any(Number) });
    gateOf('bank.c').open();
    await isVersion(id, 2);
    expect(await collected(id)).toEqual({ version: 2, said: withC });
    gateOf('bank.d').open();
    await isVersion(id, 3);
    expect(await collected(id)).toEqual({ version: 3, said: withAll });
    expect(await versioned(id, 1)).toEqual({ version: 1, said: firstAnswer });
    expect(await versioned(id, 2)).toEqual({ version: 2, said: withC });
    expect(await versioned(id, 4)).toBe('none');
    expect(await hub.gateway.status(id, anonymous)).not.toHaveProperty('amendableUntil');
    expect(stopped).toEqual([]);
    expect(await judged()).toMatchObject({ amended: 2, replied: 1, violations: [] });
    const story = storyOf(await hub.hub.journal.read(id), hub.hub.names).map(({ what }) => what);
    expect(story).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/once more, with bank\.c, who came late: reply/),
        expect.stringMatching(/^corrected: version 2 of the reply, with bank\.c, /),
        expect.stringMatching(/^corrected: version 3 of the reply, with bank\.d, /),
      ]),
    );
  });

  it('is amended, too, by who comes before it is there', async () => {
    await open();
    for (const name of banks) gateOf(name).open();
    const ids = await Promise.all(Array.from({ length: 10 }, () => ask({ waitMs: 0 })));
    for (const id of ids) await eventually(async () => expect(await collected(id)).toMatchObject({ said: { rates: banks, missing: [] } }));
    expect(await judged()).toMatchObject({ replied: 10, violations: [] });
  });

  it('has a number, an entity tag and the newest by default over HTTP; a repeat of the request gets the first one', async () => {
    await open();
    await listen();
    const asked = await post({ 'idempotency-key': 'k' });
    const id = asked.headers.get('hub-request-id')!;
    const first = await asked.text();
    expect([asked.status, asked.headers.get('hub-reply-version'), JSON.parse(first)]).toEqual([200, '1', firstAnswer]);
    gateOf('bank.c').open();
    await isVersion(id, 2);
    const newest = await call(`/requests/${id}/reply`);
    expect([newest.headers.get('hub-reply-version'), newest.headers.get('link'), await newest.json()]).toEqual(['2', null, withC]);
    const etag = newest.headers.get('etag')!;
    expect((await call(`/requests/${id}/reply`, { headers: { 'if-none-match': etag } })).status).toBe(304);
    expect((await call(`/requests/${id}/reply`, { headers: { 'if-none-match': asked.headers.get('etag')! } })).status).toBe(200);
    const latest = `</requests/${id}/reply>; rel="latest-version"`;
    const again = await post({ 'idempotency-key': 'k' });
    const old = await call(`/requests/${id}/reply?version=1`);
    for (const one of [again, old]) {
      expect([one.status, one.headers.get('hub-reply-version'), one.headers.get('link')]).toEqual([200, '1', latest]);
      expect(one.headers.get('etag')).toBe(asked.headers.get('etag'));
      expect(await one.text()).toBe(first);
    }
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await call(`/requests/${id}/reply?version=3`)).status).toBe(404);
    expect((await call(`/requests/${id}/reply?version=0`)).status).toBe(400);
    expect(await (await call(`/requests/${id}`)).json()).toMatchObject({ version: 2, amendableUntil: expect.stringMatching(/^20/) });
    const lines = await call(`/requests/${id}/reply`, { headers: { accept: 'application/x-ndjson' } });
    expect(JSON.parse(await lines.text())).toEqual({ end: 'replied', version: 2, reply: withC });
  });

  it('is told to who watches, until nothing more can come', async () => {
    await open();
    await listen();
    const id = await ask();
    const stream = await call(`/requests/${id}/events`);
    for (const [n, name] of ['bank.c', 'bank.d'].entries()) {
      gateOf(name).open();
      await isVersion(id, n + 2);
    }
    const text = await stream.text();
    expect(text.match(/^event: (outcome|amended)$/gm)).toEqual(['event: outcome', 'event: amended', 'event: amended']);
    expect(text).toMatch(/"version":2,"by":"bank\.c","missing":1/);
    expect(text).toMatch(/"version":3,"by":"bank\.d","missing":0/);
    const last = /^id: (\d+)$/gm.exec(text.slice(text.lastIndexOf('id: ')))![1]!;
    expect((await call(`/requests/${id}/events`, { headers: { 'last-event-id': last } })).status).toBe(204);
    const seen: RequestEvent[] = [];
    await hub.gateway.events(id, anonymous, 0, (event) => seen.push(event), new AbortController().signal);
    expect(seen.filter(({ name }) => name === 'amended')).toHaveLength(2);
  });

  it('is posted to who is called back, each version under its own id', async () => {
    const receiver = await openReceiver();
    const callbacks = targetsOf([
      { name: 'crm', url: receiver.url, networks: ['127.0.0.0/8'], keys: () => [keyOf(`whsec_${'a'.repeat(43)}=`)], headers: () => ({}) },
    ]);
    await open({ steps: [...stepsWith(), webhook({ targets: callbacks, problemOf: outcomeProblem })], callbacks });
    const id = await ask({ callback: 'crm', waitMs: 0 });
    await eventually(() => expect(receiver.received).toHaveLength(1));
    gateOf('bank.c').open();
    await eventually(() => expect(receiver.received).toHaveLength(2));
    const [reply, amended] = receiver.received;
    expect(reply!.headers).toMatchObject({ 'hub-reply-version': '1', 'hub-event': 'request.replied', 'hub-request-id': id });
    expect(amended!.headers).toMatchObject({ 'hub-reply-version': '2', 'hub-event': 'request.amended', 'hub-request-id': id });
    expect([reply, amended].map((one) => JSON.parse(one!.body.toString()) as unknown)).toEqual([firstAnswer, withC]);
    expect(reply!.headers['webhook-id']).not.toBe(amended!.headers['webhook-id']);
    await eventually(async () =>
      expect(await hub.gateway.callback(id, anonymous)).toMatchObject({
        state: 'delivered',
        version: 2,
        webhookId: amended!.headers['webhook-id'],
      }),
    );
    await receiver.close();
  });

  it('is sent to the queue of a requestor that asked for it, and to no other', async () => {
    await open();
    const { transport } = hub.ports;
    const heard: Delivery[] = [];
    const queue = `${hub.namespace}.requestor`;
    await transport.declare({ exchanges: [], queues: [{ name: queue, type: 'quorum', about: 'a requestor' }], bindings: [] });
    const listening = await transport.consume(queue, { prefetch: 10, tag: 'requestor' }, async (delivery) => void heard.push(delivery));
    const send = (correlationId: string, headers: Message['headers'] = {}) =>
      transport.publish(
        { exchange: hub.hub.names.requests, routingKey: 'loan' },
        { body: Buffer.from('{}'), contentType: 'application/json', replyTo: queue, correlationId, headers },
      );
    await send('plain');
    await send('all', { amended: true });
    await eventually(() => expect(heard).toHaveLength(2));
    gateOf('bank.c').open();
    await eventually(() => expect(heard).toHaveLength(3));
    const plain = heard.find(({ correlationId }) => correlationId === 'plain')!;
    await isVersion(String(plain.headers['hub-request-id']), 2);
    const [reply, amended] = heard.filter(({ correlationId }) => correlationId === 'all');
    expect(reply).toMatchObject({ type: 'reply', headers: { 'hub-reply-version': 1 } });
    expect(amended).toMatchObject({ type: 'amended', headers: { 'hub-reply-version': 2, 'hub-state': 'replied' } });
    expect(JSON.parse(amended!.body.toString())).toEqual(withC);
    expect(heard).toHaveLength(3);
    await listening.close();
    await transport.removeQueue(queue);
  });

  it('is a frame of its own in a conversation', async () => {
    await open();
    await listen();
    const talk = await openTalk(url, 'loan');
    talk.request('mine', {});
    expect(await talk.heard('reply', 'mine')).toMatchObject({ at: '1.end', version: 1, body: firstAnswer });
    gateOf('bank.c').open();
    const amended = await talk.heard('amended', 'mine');
    expect(amended).toMatchObject({ version: 2, body: withC });
    expect(amended).not.toHaveProperty('at');
    talk.drop();
  });

  it('is the same version, whoever sends it how often', async () => {
    await open();
    const id = await ask();
    gateOf('bank.c').open();
    await isVersion(id, 2);
    const entries = await hub.hub.journal.read(id);
    const late = entries.find(
      ({ exchange, routingKey, headers }) =>
        exchange === hub.hub.names.work && routingKey === 'best' && String(headers['hub']).includes('bank.c'),
    )!;
    const correction = entries.find(({ headers, exchange }) => exchange === hub.hub.names.replies && headers['hub-amends'] === 1)!;
    for (const { exchange, routingKey, redelivered: _r, deliveries: _d, offset: _o, headers, ...message } of [
      late,
      correction,
      correction,
    ]) {
      const own = Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith('x-')));
      await hub.ports.transport.publish({ exchange, routingKey }, { ...message, headers: own });
    }
    gateOf('bank.d').open();
    await isVersion(id, 3);
    await eventually(async () => expect((await notes(id, 'amended')).length).toBeGreaterThanOrEqual(4));
    expect(await hub.ports.store.events(id, 0).then((events) => events.filter(({ name }) => name === 'amended'))).toHaveLength(2);
    expect(await judged()).toMatchObject({ amended: 2, violations: [] });
  });

  it('is one with the state rebuilt from the journal: what was corrected stays, and what comes later corrects it', async () => {
    await open();
    const [id, other] = [await ask(), await ask()];
    gateOf('bank.c').open();
    await isVersion(id, 2);
    await isVersion(other, 2);
    const before = await versioned(id, 2);
    await hub.lose();
    await eventually(async () => expect(await hub.gateway.status(id, anonymous)).toMatchObject({ version: 2 }), { withinMs: 20_000 });
    expect(await versioned(id, 1)).toEqual({ version: 1, said: firstAnswer });
    expect(await versioned(id, 2)).toEqual(before);
    gateOf('bank.d').open();
    for (const one of [id, other]) {
      await isVersion(one, 3);
      expect(await collected(one)).toEqual({ version: 3, said: withAll });
    }
    expect(await judged()).toMatchObject({ amended: 4, violations: [] });
  }, 40_000);

  it('is amended by what failed, too; and not by what its aggregator refuses', async () => {
    await open();
    const id = await ask({}, { fails: 'bank.c' });
    gateOf('bank.c').open();
    await isVersion(id, 2);
    expect(await collected(id)).toEqual({
      version: 2,
      said: { ...firstAnswer, failed: ['bank.c'], missing: ['bank.d'], late: ['bank.c'] },
    });
    await hub.close();
    gates.delete('bank.c');
    gates.delete('bank.d');
    const picky = best({
      combine: (answers) => {
        if (answers.length === 3) throw new Fault('unavailable', 'three are none');
        return answers.length;
      },
    });
    await open({ steps: stepsWith(picky) });
    const refused = await ask();
    gateOf('bank.c').open();
    await eventually(async () => expect((await notes(refused, 'late')).length).toBe(1));
    expect(await collected(refused)).toEqual({ version: 1, said: 2 });
    gateOf('bank.d').open();
    await isVersion(refused, 2);
    expect(await collected(refused)).toEqual({ version: 2, said: 4 });
  });

  it('that comes out the same makes no version', async () => {
    await open({ steps: stepsWith(best({ combine: (answers) => answers[0]!.body })) });
    const id = await ask();
    gateOf('bank.c').open();
    await eventually(async () => expect((await notes(id, 'late')).map(({ headers }) => headers['hub-late-because'])).toEqual(['same']));
    expect(await collected(id)).toEqual({ version: 1, said: { rate: 'bank.a' } });
  });

  it('is a reply: a fault, a timeout or a cancel is not amended, and the late part is in the journal', async () => {
    const nothing = best({
      combine: () => {
        throw new Fault('unavailable', 'nobody has enough');
      },
    });
    await open({ steps: stepsWith(nothing) });
    const id = await ask({ waitMs: 5_000 });
    gateOf('bank.c').open();
    await eventually(async () => expect((await notes(id, 'late')).length).toBe(1));
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'faulted' });
    expect(await hub.gateway.status(id, anonymous)).not.toHaveProperty('version');
  });

  it('is journalled and no more where the flow does not say so, and the others are told to stop', async () => {
    await open({ flows: { loan: ['spread', 'best'] } });
    const { id, ...answer } = await hub.ask('loan', {});
    expect(answer).not.toHaveProperty('version');
    await eventually(() => expect([...stopped].sort()).toEqual(['bank.c', 'bank.d']));
    expect(await hub.gateway.status(id, anonymous)).toBeUndefined(); // held, and no record
  });

  it('tells the others to stop all the same where the step says so', async () => {
    await open({ steps: stepsWith(best({ cancelLosers: true })) });
    await ask();
    await eventually(() => expect([...stopped].sort()).toEqual(['bank.c', 'bank.d']));
  });

  it('lets the jobs go on that may amend it', async () => {
    const slow = job({
      name: 'bank.c',
      async handle() {
        await gateOf('bank.c').opened;
        return { rate: 'bank.c' };
      },
    });
    await open({ steps: [spread, ...banks.filter((name) => name !== 'bank.c').map(bank), slow, best()] });
    const id = await ask();
    gateOf('bank.c').open();
    await isVersion(id, 2);
    expect(await collected(id)).toEqual({ version: 2, said: withC });
  });
});

it.each([
  [
    { steps: ['spread', 'best', 'bank.a'], late: 'amend' },
    'late',
    /its last step bank\.a is a worker: .* Make the aggregator the last step/,
  ],
  [{ steps: ['spread', 'best'], late: 'amend', journal: false }, 'late', /says late: amend, and is not in the journal/],
  [{ steps: ['spread', 'best'], amendForMs: 1 }, 'amendFor', /says amendFor and not late: amend/],
] as const)('refuses at the start what cannot be amended: %j', (said, key, message) => {
  const known = new Map(stepsWith().map((step) => [step.name, step]));
  expect(checkFlows(flowsOf({ loan: said }), known)).toEqual([{ path: ['flows', 'loan', key], message: expect.stringMatching(message) }]);
});

describe('how long a reply may be amended', () => {
  it.each([
    ['as long as the flow says', { amendForMs: 60_000 }, 61_000],
    ['at most until the deadline of the request', {}, 600_000],
  ])('is %s', async (_how, more, afterMs) => {
    const clock = testClock();
    let answer: () => void = () => undefined;
    const late = worker({ name: 'late', timeoutMs: 1e9, handle: () => new Promise((resolve) => (answer = () => resolve(['late']))) });
    const hub = await memoryHub({
      clock,
      flows: { slow: { steps: ['two', 'join'], late: 'amend', deadlineMs: 600_000, ...more } },
      steps: [
        worker({
          name: 'two',
          handle: () =>
            split([
              { body: 1, steps: ['now'] },
              { body: 2, steps: ['late'] },
            ]),
        }),
        worker({ name: 'now', handle: () => ['now'] }),
        late,
        aggregator<string[]>({ name: 'join', atLeast: 1, combine: (answers) => answers.flatMap(({ body }) => body) }),
      ],
    });
    const asked = hub.ask('slow', 1, { waitMs: 0 });
    await clock.advance(1_000);
    const { id } = await asked;
    const { amendableUntil = 0 } = (await hub.gateway.status(id, anonymous))!;
    expect(amendableUntil).toBeGreaterThan(clock.now());
    await clock.advance(afterMs);
    expect(amendableUntil).toBeLessThanOrEqual(clock.now());
    answer();
    await clock.advance(1_000);
    expect(saidIn(await hub.gateway.version(id, anonymous, 1))).toEqual({ version: 1, said: ['now'] });
    expect(await hub.gateway.version(id, anonymous, 2)).toBe('none');
    const stream = new AbortController();
    expect(await hub.gateway.events(id, anonymous, 0, () => undefined, stream.signal, 'toTheLast')).toBe(true);
    await Promise.all([hub.close(), clock.advance(5_000)]);
  });
});
