/** Requestors that are called back. The signature is checked by the reference implementation of Standard Webhooks. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Webhook } from 'standardwebhooks';
import { http, outcomeProblem } from '../../adapters/http/index.js';
import { anonymous, type KeyedPrincipal } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import type { Transport } from '../../broker/transport.js';
import { replay } from '../../cli/dead.js';
import { storyOf } from '../../cli/trace.js';
import { Fault, raw, worker } from '../../index.js';
import { keyOf, targetsOf, webhook, type Target } from '../../workers/webhook/index.js';
import type { Outgoing } from '../../workers/webhook/post.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { openReceiver, type Receiver, type Received } from '../support/receiver.js';
import { settings } from './http-server.js';

const secretOf = () => `whsec_${randomBytes(32).toString('base64')}`;
const [secret, oldSecret] = [secretOf(), secretOf()];
const odd = Buffer.from('{"n": 1.0,\n  "name":"Jos\u00e9" }\n');

const steps = [
  worker({ name: 'odd', handle: () => raw(odd, 'application/vnd.odd+json; charset=utf-8') }),
  worker({
    name: 'refuse',
    handle: () => {
      throw new Fault('rejected', 'no such customer', { reason: 'customer' });
    },
  }),
  worker({ name: 'never', handle: (_body, _envelope, { signal }) => new Promise((_, no) => signal.addEventListener('abort', no)) }),
];
const flows = {
  odd: ['odd'],
  refuse: ['refuse'],
  never: ['never'],
  'odd.read': { steps: ['odd'], durable: false },
  plain: { steps: ['odd'], journal: false },
  parted: { steps: ['odd'], parts: { leaseMs: 1_000, count: 10, size: 1_000, total: 1_000 } },
};

const target = (name: string, more: Partial<Target>): Target => ({
  name,
  networks: ['127.0.0.0/8'],
  keys: () => [secret, oldSecret].map(keyOf),
  headers: () => ({ 'x-tenant': 'acme' }),
  ...more,
});

const named = ({ received }: Receiver) => received.map(({ headers }) => headers['webhook-id']);
const verified = ({ headers, body }: Received, by = secret) => new Webhook(by).verify(body, headers as Record<string, string>);
/** The library parses JSON; what is something else it only verifies. */
const isSigned = (got: Received, by = secret) => {
  try {
    verified(got, by);
  } catch (error) {
    if (!(error instanceof SyntaxError)) return false;
  }
  return true;
};

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a callback %s', (_where, openHub) => {
  let receiver: Receiver;
  let hub: TestHub;
  beforeEach(async () => (receiver = await openReceiver()));
  afterEach(async () => {
    await hub?.close();
    await receiver.close();
  });
  const open = async (
    more: Partial<TestHubOptions> = {},
    targets: readonly Target[] = [target('crm', { url: `${receiver.url}/answers` })],
  ) => {
    const callbacks = targetsOf(targets);
    hub = await openHub({ flows, steps: [...steps, webhook({ targets: callbacks, problemOf: outcomeProblem })], callbacks, ...more });
    const [url = ''] = (await hub.open(http, settings)).urls;
    return (path: string, init: RequestInit = {}) => fetch(url + path, init);
  };
  const post = (callback: string, more: Record<string, string> = {}): RequestInit => ({
    method: 'POST',
    body: '{}',
    headers: { 'content-type': 'application/json', 'hub-callback': callback, ...more },
  });
  const once = () => eventually(() => (expect(receiver.received).toHaveLength(1), receiver.received[0]!));
  const statusOf = (id: string) => hub.gateway.callback(id, anonymous);
  const delivered = (id: string) => eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'delivered' }));

  it('posts the reply byte for byte with its content type, signed by each secret, and answers 202 meanwhile', async () => {
    const call = await open();
    const response = await call('/requests/odd', post('crm', { 'hub-key': 'C-1042' }));
    expect(response.status).toBe(202);
    const document = (await response.json()) as { id: string; callback: string; links: { callback: string } };
    expect(document).toMatchObject({ callback: 'crm', links: { callback: `/requests/${document.id}/callback` } });
    const got = await once();
    expect(got.path).toBe('/answers');
    expect(got.body.equals(odd)).toBe(true);
    expect(got.headers).toMatchObject({
      'content-type': 'application/vnd.odd+json; charset=utf-8',
      'hub-request-id': document.id,
      'hub-flow': 'odd',
      'hub-state': 'replied',
      'hub-key': 'C-1042',
      'x-tenant': 'acme',
    });
    expect(verified(got)).toEqual({ n: 1, name: 'José' });
    expect(isSigned(got, oldSecret)).toBe(true);
    expect(isSigned(got, secretOf())).toBe(false);
    expect(isSigned({ ...got, body: Buffer.concat([got.body, Buffer.from(' ')]) })).toBe(false);
    const collected = await call(document.links.callback.replace(/callback$/, 'reply'));
    expect(Buffer.from(await collected.arrayBuffer()).equals(got.body)).toBe(true);
    await delivered(document.id);
    expect(await (await call(document.links.callback)).json()).toMatchObject({
      requestId: document.id,
      callback: 'crm',
      webhookId: got.headers['webhook-id'],
      state: 'delivered',
      attempts: [{ at: expect.any(String), tookMs: expect.any(Number), status: 204 }],
    });
  });

  it('tells whoever opened a request in parts that it is waited for, then its answer, or that it has expired', async () => {
    const call = await open();
    const opened = async () => {
      const answer = await call('/requests/parted/parts', { method: 'POST', headers: { 'hub-callback': 'crm' } });
      return ((await answer.json()) as { id: string }).id;
    };
    const [kept, left] = [await opened(), await opened()];
    const append = (n: number) => call(`/requests/${kept}/parts/${n}`, { method: 'PUT', body: 'part' });
    const heard = (id: string) => receiver.received.filter(({ headers }) => headers['hub-request-id'] === id);
    const states = (id: string) => heard(id).map(({ headers }) => headers['hub-state']);
    await append(1);
    await eventually(() => expect(states(kept)).toEqual(['open']));
    await append(2);
    const closed = await call(`/requests/${kept}/close`, { method: 'POST', headers: { 'hub-parts': '2' } });
    expect([200, 202]).toContain(closed.status); // nobody stays on the line for it
    await eventually(() => expect(states(kept)).toEqual(['open', 'replied']));
    await eventually(() => expect(states(left)).toEqual(['open', 'timed-out']));
    expect(verified(heard(kept)[0]!)).toMatchObject({ id: kept, state: 'open', received: 1, callback: 'crm' });
    expect(verified(heard(left)[1]!)).toMatchObject({ code: 'timeout', reason: 'expired' });
    expect(new Set(named(receiver)).size).toBe(4);
    expect((await call('/requests/parted/parts', { method: 'POST', headers: { 'hub-callback': 'nobody' } })).status).toBe(403);
  });

  it('posts a fault, a timeout and a cancel as the problem that would be read', async () => {
    const call = await open();
    const asked = async (flow: string, more: Record<string, string> = {}) =>
      ((await (await call(`/requests/${flow}`, post('crm', more))).json()) as { id: string }).id;
    const [refused, late, cancelled] = [await asked('refuse'), await asked('never', { 'hub-deadline': '1' }), await asked('never')];
    await call(`/requests/${cancelled}`, { method: 'DELETE' });
    await eventually(() => expect(receiver.received).toHaveLength(3));
    for (const [id, state, code] of [
      [refused, 'faulted', 'rejected'],
      [late, 'timed-out', 'timeout'],
      [cancelled, 'cancelled', 'cancelled'],
    ] as const) {
      const got = receiver.received.find(({ headers }) => headers['hub-request-id'] === id)!;
      expect(got.headers).toMatchObject({ 'content-type': 'application/problem+json', 'hub-state': state });
      expect(verified(got)).toMatchObject({ code, requestId: id });
      expect(await (await call(`/requests/${id}/reply`)).text()).toBe(got.body.toString());
    }
  });

  it('is posted beside the answer on the line', async () => {
    const call = await open();
    const response = await call('/requests/odd', post('crm', { prefer: 'wait=5' }));
    expect(response.status).toBe(200);
    expect(await response.text()).toBe(odd.toString());
    expect((await once()).body.equals(odd)).toBe(true);
  });

  it('is tried again until it is taken, under one id, and the log says what came of each', async () => {
    const call = await open();
    receiver.answer(() => ({ status: receiver.received.length === 1 ? 503 : 200 }));
    const { id } = (await (await call('/requests/odd', post('crm'))).json()) as { id: string };
    await eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'waiting', attempts: [{ status: 503 }] }));
    await eventually(() => expect(receiver.received).toHaveLength(2), { withinMs: 15_000 });
    await delivered(id);
    expect(new Set(named(receiver)).size).toBe(1);
    expect(receiver.received.every((got) => isSigned(got))).toBe(true);
    expect(await statusOf(id)).toMatchObject({ attempts: [{ status: 503 }, { status: 200 }] });
    const story = storyOf(await hub.hub.journal.read(id), hub.hub.names).map(({ what }) => what);
    expect(story).toEqual(
      expect.arrayContaining([expect.stringMatching(/^callback crm: answered 503, again at 20/), 'callback crm: delivered, answered 200']),
    );
  }, 30_000);

  it('that the receiver wants no more (410) is a dead letter; the answer can be collected, and a replay has the same id', async () => {
    const call = await open();
    receiver.answer({ status: 410 });
    const { id } = (await (await call('/requests/odd', post('crm'))).json()) as { id: string };
    await eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'failed', attempts: [{ status: 410 }] }));
    const { transport } = hub.ports;
    expect(await transport.inspect(hub.hub.names.deadQueue('webhook'))).toMatchObject({ ready: 1 });
    expect(await (await call(`/requests/${id}/reply`)).text()).toBe(odd.toString());
    receiver.answer({ status: 200 });
    expect(await replay(transport, hub.hub.names, 'webhook')).toBe(1);
    await delivered(id);
    expect(receiver.received).toHaveLength(2);
    expect(new Set(named(receiver)).size).toBe(1);
    expect(receiver.received[1]!.body.equals(odd)).toBe(true);
  });

  it('follows no redirect', async () => {
    const elsewhere = await openReceiver();
    const call = await open();
    receiver.answer({ status: 307, headers: { location: elsewhere.url } });
    const response = await call('/requests/odd', post('crm'));
    expect(response.status).toBe(202);
    const { id } = (await response.json()) as { id: string };
    await eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'waiting', attempts: [{ status: 307 }] }));
    expect(elsewhere.received).toEqual([]);
    await elsewhere.close();
  });

  it('goes only where hub.yaml lets this principal', async () => {
    const principals: KeyedPrincipal[] = ['shop', 'other'].map((name) => ({ name, flows: ['*'], topics: [], keys: [] }));
    const [shop, other] = principals as [KeyedPrincipal, KeyedPrincipal];
    await open({ principals }, [
      target('crm', { url: `${receiver.url}/answers`, principals: ['shop'] }),
      target('partners', { prefix: `${receiver.url}/hooks/`, principals: ['other'] }),
    ]);
    const ask = (callback: string, principal = shop) => hub.ask('odd', 1, { principal, callback, waitMs: 0 });
    await ask('crm');
    await ask(`${receiver.url}/hooks/1?a=b`, other);
    await eventually(() => expect(receiver.received.map(({ path }) => path).sort()).toEqual(['/answers', '/hooks/1?a=b']));
    const refused = { code: 'forbidden', reason: 'callback' };
    await expect(ask('crm', other)).rejects.toMatchObject(refused);
    await expect(ask('partners', other)).rejects.toMatchObject(refused);
    await expect(ask('nobody')).rejects.toMatchObject(refused);
    const port = new URL(receiver.url).port;
    for (const url of [
      `${receiver.url}/hooks`,
      `${receiver.url}/hooks/../admin`,
      `${receiver.url}/hooks/%2e%2e/admin`,
      `${receiver.url}/hooks/..%2fadmin`,
      `${receiver.url}/hooks\\..\\admin`,
      `${receiver.url}.evil.example/hooks/`,
      `http://user@127.0.0.1:${port}/hooks/`,
      `http://127.0.0.1:${port}@evil.example/hooks/`,
      `https://127.0.0.1:${port}/hooks/`,
      `http://localhost:${port}/hooks/`,
      `http://127.0.0.1:1/hooks/`,
      `ftp://127.0.0.1:${port}/hooks/`,
    ])
      await expect(ask(url, other)).rejects.toMatchObject(refused);
    await expect(ask(`${receiver.url}/hooks/1`, shop)).rejects.toMatchObject(refused);
  });

  it('cannot be had where nothing is kept', async () => {
    await open();
    await expect(hub.ask('odd.read', 1, { callback: 'crm' })).rejects.toMatchObject({ code: 'invalid' });
    await expect(hub.ask('plain', 1, { callback: 'crm' })).rejects.toMatchObject({ code: 'invalid', reason: 'callback' });
    expect(receiver.received).toEqual([]);
  });

  it('outlives the store, before the outcome and between two attempts', async () => {
    const call = await open();
    receiver.answer(() => ({ status: receiver.received.length === 1 ? 500 : 200 }));
    const { id } = (await (await call('/requests/never', post('crm', { 'hub-deadline': '3' }))).json()) as { id: string };
    await hub.lose();
    await eventually(() => expect(receiver.received).toHaveLength(1), { withinMs: 20_000 });
    await eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'waiting' }));
    await hub.lose();
    await eventually(async () => expect(await statusOf(id)).toMatchObject({ state: 'delivered' }), { withinMs: 20_000 });
    expect(receiver.received).toHaveLength(2);
    expect(new Set(named(receiver)).size).toBe(1);
  }, 60_000);

  it('is soon made, of many to one receiver at once', async () => {
    await open();
    const asked = await Promise.all(Array.from({ length: 100 }, (_, n) => hub.ask('odd', n, { callback: 'crm', waitMs: 0 })));
    await eventually(() => expect(new Set(named(receiver)).size).toBe(asked.length), { withinMs: 9_000 });
  }, 30_000);

  it('is not told to others', async () => {
    const principals: KeyedPrincipal[] = ['shop', 'other'].map((name) => ({ name, flows: ['*'], topics: [], keys: [] }));
    await open({ principals });
    const { id } = await hub.ask('odd', 1, { callback: 'crm', waitMs: 0 });
    await eventually(async () => expect(await hub.gateway.callback(id, principals[0]!)).toMatchObject({ state: 'delivered' }));
    expect(await hub.gateway.callback(id, principals[1]!)).toBeUndefined();
  });
});

describe('a callback to a program in Python that knows nothing of the hub', () => {
  it('is taken as genuine, once, and nothing else is', async () => {
    const receiver = spawn('/usr/bin/python3', ['docs/foreign/receive.py'], {
      env: { CALLBACK_SECRET: secret, PORT: '0' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    receiver.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    const url = await eventually(() => /^http\S+/.exec(out)![0]);
    const callbacks = targetsOf([target('crm', { url: `${url}/` }), target('wrong', { url: `${url}/`, keys: () => [keyOf(oldSecret)] })]);
    const hub = await memoryHub({ flows, steps: [...steps, webhook({ targets: callbacks, problemOf: outcomeProblem })], callbacks });
    const [genuine, wrong] = [await hub.ask('refuse', 1, { callback: 'crm' }), await hub.ask('refuse', 1, { callback: 'wrong' })];
    const stateOf = async (id: string) => await hub.gateway.callback(id, anonymous);
    await eventually(async () => expect(await stateOf(genuine.id)).toMatchObject({ state: 'delivered' }));
    await eventually(async () => expect(await stateOf(wrong.id)).toMatchObject({ state: 'waiting', attempts: [{ status: 401 }] }));
    expect(out.split('\n').slice(1)).toEqual([expect.stringMatching(`^${genuine.id} faulted .*"code":"rejected"`), '']);
    receiver.kill();
    await hub.close();
  });
});

describe('a callback by a test clock', () => {
  const [minute, hour] = [60_000, 3_600_000];
  const opened = async (
    answers: (n: number) => { readonly status?: number; readonly error?: string; readonly retryAfterMs?: number },
    before: (transport: Transport) => void = () => undefined,
  ) => {
    const clock = testClock();
    const posted: (Outgoing & { readonly at: number })[] = [];
    const callbacks = targetsOf([target('crm', { url: 'https://crm.example.com/' })]);
    const post = async (outgoing: Outgoing) => (posted.push({ ...outgoing, at: clock.now() }), answers(posted.length));
    const hub = await memoryHub({
      clock,
      flows,
      steps: [...steps, webhook({ targets: callbacks, problemOf: outcomeProblem, post })],
      callbacks,
    });
    before(hub.ports.transport);
    const asked = hub.ask('odd', 1, { callback: 'crm', waitMs: 0 });
    await clock.advance(100);
    return { clock, posted, hub, id: (await asked).id };
  };

  it('is tried ten times over three days, with more and more time between, and then is a dead letter', async () => {
    const { clock, posted, hub, id } = await opened(() => ({ error: 'connect ECONNREFUSED' }));
    await clock.advance(90 * hour);
    const waits = posted.slice(1).map(({ at }, n) => at - posted[n]!.at);
    const planned = [5_000, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour];
    expect(waits).toHaveLength(planned.length);
    waits.forEach((wait, n) => {
      expect(wait).toBeGreaterThanOrEqual(planned[n]!);
      expect(wait).toBeLessThanOrEqual(planned[n]! * 1.1 + 1_000);
    });
    expect(new Set(posted.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(new Set(posted.map(({ headers }) => headers['webhook-timestamp'])).size).toBe(10);
    expect(await hub.ports.transport.inspect(hub.hub.names.deadQueue('webhook'))).toMatchObject({ ready: 1 });
    expect((await hub.gateway.callback(id, anonymous))?.state).toBe('failed');
    await hub.close();
  });

  it('is posted once, though its step is rung twice in the same moment', async () => {
    const { posted, hub } = await opened(
      () => ({ status: 204 }),
      (transport) => {
        const open = transport as { publish: Transport['publish'] };
        const publish = transport.publish.bind(transport);
        open.publish = async (to, message, options) => {
          const times = message.headers?.['hub-ring'] === undefined ? 1 : 2;
          await Promise.all(Array.from({ length: times }, () => publish(to, message, options)));
        };
      },
    );
    expect(posted).toHaveLength(1);
    await hub.close();
  });

  it('is delivered when the receiver is back after hours', async () => {
    const { clock, posted, hub, id } = await opened((n) => (n < 5 ? { status: 502 } : { status: 200 }));
    await clock.advance(3 * hour);
    expect(posted).toHaveLength(5);
    expect(await hub.gateway.callback(id, anonymous)).toMatchObject({ state: 'delivered', attempts: { length: 5 } });
    await clock.advance(100 * hour);
    expect(posted).toHaveLength(5);
    await hub.close();
  });

  it('waits as long as the receiver asks for', async () => {
    const { clock, posted, hub } = await opened((n) => (n === 1 ? { status: 429, retryAfterMs: 2 * hour } : { status: 200 }));
    await clock.advance(2 * hour - minute);
    expect(posted).toHaveLength(1);
    await clock.advance(2 * minute);
    expect(posted).toHaveLength(2);
    await hub.close();
  });
});
