import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { gzipSync } from 'node:zlib';
import { newId } from '../../broker/envelope.js';
import type { KeyedPrincipal } from '../../broker/access.js';
import { newKey } from '../../broker/access.js';
import { eventually } from '../support/eventually.js';
import { http } from '../../adapters/http/index.js';
import { memoryHub } from '../support/hub.js';
import { letSlowGo, readEvents, serve, settings, steps, type Served } from './http-server.js';

let served: Served;
beforeAll(async () => {
  served = await serve();
});
afterAll(() => served.close());

const post = (flow: string, json: unknown, headers: Record<string, string> = {}) => served.fetch(`/requests/${flow}`, { json, headers });
const later = { prefer: 'respond-async' };

describe('POST /requests/{flow}', () => {
  it('answers 200 with the reply, its content type and the request id', async () => {
    const response = await post('double', { n: 21 });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('application/json');
    expect(response.headers.get('hub-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    expect(response.headers.get('vary')).toBe('Prefer, Accept');
    expect(await response.json()).toEqual({ n: 42 });
  });

  it.each([
    ['application/octet-stream', Buffer.from([0, 255, 13, 10, 0])],
    ['text/csv; charset=iso-8859-1', Buffer.from([0xe4, 0x3b, 0x0a])],
    ['application/xml', Buffer.from('<a>\r\n</a>')],
    ['application/json', Buffer.from('{ "b":1,\n"a" : 1.0 }')],
    ['application/x-www-form-urlencoded', Buffer.from('a=1&b=2')],
    ['multipart/form-data; boundary=x', Buffer.from('--x--')],
    ['application/octet-stream', Buffer.alloc(0)],
  ])('passes %s through untouched', async (contentType, body) => {
    const response = await served.fetch('/requests/echo', { method: 'POST', headers: { 'content-type': contentType }, body: body });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe(contentType);
    expect(Buffer.from(await response.arrayBuffer())).toEqual(body);
  });

  it('takes a request without any body', async () => {
    const response = await served.fetch('/requests/echo', { method: 'POST' });
    expect([response.status, await response.text()]).toEqual([200, '']);
  });

  it('passes a compressed body and its encoding through', async () => {
    const body = gzipSync('hello');
    const response = await served.fetch('/requests/echo', {
      method: 'POST',
      headers: { 'content-type': 'text/plain', 'content-encoding': 'gzip' },
      body: body,
    });
    expect(response.headers.get('content-encoding')).toBe('gzip');
    expect(await response.text()).toBe('hello');
  });

  it('answers 202 at once to respond-async, and keeps the reply at the address it names', async () => {
    const response = await post('double', { n: 1 }, later);
    expect(response.status).toBe(202);
    expect(response.headers.get('preference-applied')).toBe('respond-async');
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    const id = response.headers.get('hub-request-id')!;
    expect(response.headers.get('location')).toBe(`/requests/${id}`);
    const status = (await response.json()) as { links: Record<string, string> };
    expect(status).toMatchObject({
      id,
      flow: 'double',
      links: { self: `/requests/${id}`, reply: `/requests/${id}/reply`, events: `/requests/${id}/events`, cancel: `/requests/${id}` },
    });
    const reply = await served.fetch(status.links['reply']!, { headers: { prefer: 'wait=5' } });
    expect([reply.status, await reply.json()]).toEqual([200, { n: 2 }]);
  });

  it('holds as long as Prefer: wait says, and then answers 202', async () => {
    const response = await post('slow', {}, { prefer: 'wait=1' });
    expect(response.status).toBe(202);
    expect(response.headers.get('preference-applied')).toBe('wait=1');
    expect(await response.json()).toMatchObject({ state: expect.stringMatching(/accepted|running|waiting/) });
    letSlowGo();
    const reply = await served.fetch(`${response.headers.get('location')}/reply`, { headers: { prefer: 'wait=5' } });
    expect([reply.status, await reply.json()]).toEqual([200, { slow: true }]);
  });

  it('says that it applied wait when the reply came within it', async () => {
    expect((await post('double', { n: 1 }, { prefer: 'respond-async, wait=5' })).headers.get('preference-applied')).toBe('wait=5');
  });

  it('caps wait at what the flow allows', async () => {
    const response = await post('slow.read', {}, { prefer: 'wait=600' });
    letSlowGo();
    expect([response.status, response.headers.get('preference-applied')]).toEqual([202, 'wait=0']);
  });

  it('ignores preferences that it does not understand', async () => {
    const response = await post('double', { n: 1 }, { prefer: 'wait=soon, return=minimal;;;"' });
    expect([response.status, response.headers.get('preference-applied')]).toEqual([200, null]);
  });

  it('answers a volatile flow on the line, whatever is preferred', async () => {
    const response = await post('fast.read', { a: 1 }, later);
    expect([response.status, response.headers.get('preference-applied'), await response.json()]).toEqual([200, null, { a: 1 }]);
  });

  it('lists everything that is wrong with a body, by JSON Pointer', async () => {
    const response = await post('double', { n: 'x', note: 1, more: true });
    expect(response.status).toBe(400);
    expect(response.headers.get('content-type')).toBe('application/problem+json');
    const problem = (await response.json()) as { errors: { pointer: string }[] };
    expect(problem).toMatchObject({ type: 'urn:answerback:error:invalid', code: 'invalid', status: 400, reason: 'schema' });
    expect(problem.errors.map(({ pointer }) => pointer).sort()).toEqual(['#', '#/n', '#/note']);
  });

  it('refuses JSON that is none', async () => {
    const response = await served.fetch('/requests/double', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"n":',
    });
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, 'invalid']);
  });

  it('answers 404 to an unknown flow, and says what was perhaps meant', async () => {
    const response = await post('duoble', {});
    expect([response.status, await response.json()]).toEqual([
      404,
      expect.objectContaining({ code: 'not-found', reason: 'unknown-flow', detail: expect.stringContaining('did you mean "double"') }),
    ]);
  });

  it.each([
    ['invalid', 400],
    ['rejected', 422],
    ['forbidden', 403],
    ['unavailable', 503],
    ['internal', 502],
  ])('answers a fault %s with %d', async (code, status) => {
    const response = await post('fail', { code });
    expect(response.status).toBe(status);
    const problem = await response.json();
    const requestId = response.headers.get('hub-request-id');
    expect(problem).toMatchObject({
      code,
      status,
      requestId,
      instance: `/requests/${requestId}`,
      reason: 'because',
      detail: `it is ${code}`,
      step: 'fail',
    });
  });

  it('answers 504 when the deadline passes first', async () => {
    const response = await post('slow', {}, { 'hub-deadline': '1', prefer: 'wait=10' });
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([504, 'timeout']);
    letSlowGo();
  });

  it.each([
    { 'hub-deadline': '-1' },
    { 'hub-deadline': 'soon' },
    { 'hub-key': 'x'.repeat(256) },
    { 'idempotency-key': 'a b' },
    { 'idempotency-key': 'x'.repeat(256) },
  ] as Record<string, string>[])('refuses %j before anything happens', async (headers) => {
    const response = await post('double', { n: 1 }, headers);
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, 'invalid']);
  });

  it('keeps the business key', async () => {
    const response = await post('double', { n: 1 }, { ...later, 'hub-key': 'C-1042' });
    expect(await response.json()).toMatchObject({ key: 'C-1042' });
  });
});

describe('Idempotency-Key', () => {
  it('gives the same answer again, marked as replayed, in either spelling', async () => {
    const key = newId();
    const first = await post('double', { n: 3 }, { 'idempotency-key': `"${key}"` });
    const second = await post('double', { n: 3 }, { 'idempotency-key': key });
    expect([first.status, second.status]).toEqual([200, 200]);
    expect([first.headers.get('idempotency-replayed'), second.headers.get('idempotency-replayed')]).toEqual([null, 'true']);
    expect(second.headers.get('hub-request-id')).toBe(first.headers.get('hub-request-id'));
    expect(Buffer.from(await second.arrayBuffer())).toEqual(Buffer.from(await first.arrayBuffer()));
  });

  it('answers 422 to the same key with another body', async () => {
    const headers = { 'idempotency-key': newId() };
    await post('double', { n: 3 }, headers);
    const response = await post('double', { n: 4 }, headers);
    expect([response.status, await response.json()]).toEqual([
      422,
      expect.objectContaining({ code: 'invalid', reason: 'idempotency-mismatch' }),
    ]);
  });

  it('joins a request that still runs', async () => {
    const headers = { 'idempotency-key': newId() };
    const first = await post('slow', {}, { ...headers, ...later });
    const second = post('slow', {}, headers);
    await eventually(() => expect(served.hub.hub.holding()).toBeGreaterThan(0));
    letSlowGo();
    const response = await second;
    expect([response.status, response.headers.get('hub-request-id')]).toEqual([200, first.headers.get('hub-request-id')]);
  });
});

describe('a request that takes longer', () => {
  const begin = async (flow = 'slow') => (await post(flow, {}, later)).headers.get('hub-request-id')!;

  it('has a status document with an entity tag', async () => {
    const id = await begin();
    const response = await served.fetch(`/requests/${id}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('cache-control')).toBe('no-store');
    const status = (await response.json()) as Record<string, string>;
    for (const time of ['deadline', 'acceptedAt', 'updatedAt']) expect(status[time]).toBe(new Date(status[time]!).toISOString());
    await eventually(async () => {
      const etag = (await served.fetch(`/requests/${id}`)).headers.get('etag')!;
      const again = await served.fetch(`/requests/${id}`, { headers: { 'if-none-match': etag } });
      expect([again.status, await again.text()]).toEqual([304, '']);
    });
    const before = (await served.fetch(`/requests/${id}`)).headers.get('etag')!;
    letSlowGo();
    await eventually(async () =>
      expect(await (await served.fetch(`/requests/${id}`)).json()).toMatchObject({ state: 'replied', endedAt: expect.any(String) }),
    );
    expect((await served.fetch(`/requests/${id}`, { headers: { 'if-none-match': before } })).status).toBe(200);
  });

  it('answers a poll for its reply with 202 until it is there', async () => {
    const id = await begin();
    const early = await served.fetch(`/requests/${id}/reply`);
    expect([early.status, early.headers.get('retry-after'), early.headers.get('location')]).toEqual([202, '1', `/requests/${id}`]);
    expect(await early.json()).toMatchObject({ id });
    const poll = served.fetch(`/requests/${id}/reply`, { headers: { prefer: 'wait=20' } });
    letSlowGo();
    expect((await poll).status).toBe(200);
    expect((await poll).headers.get('hub-request-id')).toBe(id);
  });

  it('gives its fault to whoever polls', async () => {
    const response = await post('fail', { code: 'rejected' }, later);
    const reply = await served.fetch(`${response.headers.get('location')}/reply`, { headers: { prefer: 'wait=5' } });
    expect([reply.status, reply.headers.get('content-type')]).toEqual([422, 'application/problem+json']);
  });

  it('can be cancelled once, and then answers 409', async () => {
    const id = await begin();
    const cancelled = await served.fetch(`/requests/${id}`, { method: 'DELETE' });
    expect([cancelled.status, await cancelled.json()]).toEqual([200, expect.objectContaining({ id, state: 'cancelled' })]);
    const again = await served.fetch(`/requests/${id}`, { method: 'DELETE' });
    expect([again.status, await again.json()]).toEqual([409, expect.objectContaining({ code: 'ended', requestId: id })]);
    const reply = await served.fetch(`/requests/${id}/reply`);
    expect([reply.status, await reply.json()]).toEqual([409, expect.objectContaining({ code: 'cancelled' })]);
    letSlowGo();
  });

  it('goes on when the client hangs up', async () => {
    const hangUp = new AbortController();
    const key = newId();
    const held = served.fetch('/requests/slow', { json: {}, headers: { 'idempotency-key': key }, signal: hangUp.signal });
    held.catch(() => undefined);
    await eventually(() => expect(served.hub.hub.holding()).toBe(1));
    hangUp.abort();
    await eventually(() => expect(served.hub.hub.holding()).toBe(0));
    letSlowGo();
    const response = await post('slow', {}, { 'idempotency-key': key });
    expect([response.status, response.headers.get('idempotency-replayed')]).toEqual([200, 'true']);
  });
});

describe('a request that this hub does not have', () => {
  it.each(['', '/reply', '/events'])('answers 404 on GET /requests/{id}%s', async (rest) => {
    const response = await served.fetch(`/requests/${newId()}${rest}`);
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([404, 'not-found']);
  });

  it('answers 404 to its cancellation, and to ids of any other shape', async () => {
    expect((await served.fetch(`/requests/${newId()}`, { method: 'DELETE' })).status).toBe(404);
    for (const id of ['x', '%00', '..%2f..', 'a'.repeat(255), '🙂', '00000000-0000-0000-0000-000000000000'])
      expect((await served.fetch(`/requests/${id}`)).status).toBe(404);
    expect((await served.fetch(`/requests/${'a'.repeat(256)}`)).status).toBe(414);
  });

  it('answers 410 when the id tells that it would be forgotten by now', async () => {
    const old = newId(Date.now() - 86_400_000 - 1_000);
    for (const rest of ['', '/reply', '/events']) expect((await served.fetch(`/requests/${old}${rest}`)).status).toBe(410);
    expect((await served.fetch(`/requests/${newId(Date.now() - 86_000_000)}`)).status).toBe(404);
  });

  it('answers the same for one of somebody else as for none', async () => {
    const [ann, bob] = [newKey(), newKey()];
    const of = (name: string, key: { line: string }): KeyedPrincipal => ({ name, flows: ['*'], topics: ['*'], keys: [key.line] });
    const shared = await serve({}, { principals: [of('ann', ann), of('bob', bob)] });
    try {
      const as = (key: { key: string }) => ({ authorization: `Bearer ${key.key}` });
      const made = await shared.fetch('/requests/slow', { json: {}, headers: { ...later, ...as(ann) } });
      const id = made.headers.get('hub-request-id')!;
      const none = newId();
      expect((await shared.fetch(`/requests/${id}`, { headers: as(ann) })).status).toBe(200);
      for (const [method, rest] of [
        ['GET', ''],
        ['GET', '/reply'],
        ['GET', '/events'],
        ['DELETE', ''],
      ] as const) {
        const [foreign, unknown] = await Promise.all(
          [id, none].map((each) => shared.fetch(`/requests/${each}${rest}`, { method, headers: { ...as(bob), prefer: 'wait=10' } })),
        );
        expect(foreign!.status).toBe(404);
        expect((await foreign!.text()).replaceAll(id, '')).toBe((await unknown!.text()).replaceAll(none, ''));
        const names = (response: Response) => [...response.headers.keys()].filter((name) => name !== 'date').sort();
        expect(names(foreign!)).toEqual(names(unknown!));
      }
      letSlowGo();
    } finally {
      await shared.close();
    }
  });
});

describe('GET /requests/{id}/events', () => {
  it('tells what happens until the outcome, resumes after an id, and is done with 204', async () => {
    const id = (await post('slow', {}, later)).headers.get('hub-request-id')!;
    const response = await served.fetch(`/requests/${id}/events`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    expect(response.headers.get('x-accel-buffering')).toBe('no');
    expect(response.headers.get('cache-control')).toBe('no-store');
    const reading = readEvents(response);
    await eventually(async () => expect(await (await served.fetch(`/requests/${id}`)).json()).toMatchObject({ progress: { percent: 50 } }));
    letSlowGo();
    const events = await reading;
    expect(events.at(-1)).toMatchObject({ event: 'outcome' });
    expect(events.filter(({ event }) => event === 'outcome')).toHaveLength(1);
    expect(events.map(({ id: sequence }) => sequence)).toEqual([...events.map(({ id: sequence }) => sequence)].sort((a, b) => a - b));
    const [second, last] = [events[1]!, events.at(-1)!];
    const resumed = await readEvents(await served.fetch(`/requests/${id}/events`, { headers: { 'last-event-id': String(second.id) } }));
    expect(resumed).toEqual(events.slice(2));
    expect((await served.fetch(`/requests/${id}/events`, { headers: { 'last-event-id': String(last.id) } })).status).toBe(204);
    const whole = await readEvents(await served.fetch(`/requests/${id}/events`, { headers: { 'last-event-id': 'garbage' } }));
    expect(whole).toEqual(events);
  });
});

describe('POST /messages/{flow}', () => {
  it('answers 202 with the id once the broker has it', async () => {
    const response = await served.fetch('/messages/double', { json: { n: 1 } });
    expect([response.status, await response.text()]).toEqual([202, '']);
    expect(response.headers.get('hub-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('refuses what POST /requests would refuse', async () => {
    expect((await served.fetch('/messages/double', { json: {} })).status).toBe(400);
    expect((await served.fetch('/messages/nothing', { json: {} })).status).toBe(404);
  });
});

describe('a body that curl -d calls a form', () => {
  it('is JSON when it is JSON, so that the schema sees it', async () => {
    const hub = await memoryHub({
      flows: { n: { steps: ['double'], request: { type: 'object', required: ['n'], properties: { n: { type: 'number' } } } } },
      steps,
    });
    const { urls } = await hub.open(http, settings);
    const post = (body: string) =>
      fetch(`${urls[0]}/requests/n`, { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body });
    expect(await (await post('{"n":2}')).json()).toEqual({ n: 4 });
    expect((await post('{"m":2}')).status).toBe(400);
    await hub.close();
  });
});
