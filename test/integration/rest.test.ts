import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { rest, type RestCallSettings } from '../../adapters/rest.js';
import type { OutgoingCall } from '../../broker/adapter.js';
import { newId, type Envelope } from '../../broker/envelope.js';
import { Fault } from '../../broker/fault.js';

interface Received {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

let server: Server;
let origin: string;
let received: Received[];
let answer: (response: ServerResponse, nth: number) => void;
let closing: (() => Promise<void>)[];

const settings = (more: Partial<RestCallSettings> = {}): RestCallSettings => ({
  url: `${origin}/price`,
  method: 'POST',
  headers: {},
  bearerEnv: '',
  timeout: 5_000,
  retry: true,
  maxSize: 10_000,
  connections: 5,
  ...more,
});

const outgoing = (
  body: unknown = { id: 7 },
  more: Partial<OutgoingCall['context']> = {},
  envelope: Partial<Envelope> = {},
): OutgoingCall => ({
  body: Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body)),
  contentType: 'application/json',
  envelope: { id: newId(), requestId: newId(), step: 2, slip: ['price'], groups: [], ...envelope } as Envelope,
  context: {
    signal: new AbortController().signal,
    progress: () => undefined,
    remainingMs: () => 60_000,
    answers: [],
    kept: undefined,
    ...more,
  },
  projectFolder: '/',
});

async function client(more: Partial<RestCallSettings> = {}) {
  const opened = await rest.call!(settings(more), '/');
  closing.push(() => opened.close());
  return async (call: OutgoingCall = outgoing()) => {
    const { body, contentType } = await opened.call(call);
    return [contentType, body.toString()];
  };
}

const says =
  (status: number, body = '', headers: Record<string, string> = {}) =>
  (response: ServerResponse) =>
    void response.writeHead(status, headers).end(body);

beforeEach(async () => {
  [received, closing] = [[], []];
  answer = says(200, '{"price":3}', { 'content-type': 'application/json; charset=utf-8' });
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      received.push({ method: request.method!, url: request.url!, headers: request.headers, body: Buffer.concat(chunks).toString() });
      answer(response, received.length);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterEach(async () => {
  for (const close of closing) await close();
  server.close();
  server.closeAllConnections();
  await once(server, 'close');
});

describe('a step that calls a REST service', () => {
  it('sends the body as it is and gives back the answer with its content type', async () => {
    expect(await (await client())()).toEqual(['application/json; charset=utf-8', '{"price":3}']);
    expect(received[0]).toMatchObject({ method: 'POST', url: '/price', body: '{"id":7}', headers: { 'content-type': 'application/json' } });
  });

  it('sends no body with GET, and fills the address from the body, encoded', async () => {
    const call = await client({ method: 'GET', url: `${origin}/customers/{customer.id}/offers?sure={sure}&q={text}` });
    await call(outgoing({ customer: { id: 'a/b?c#d&e ü%' }, sure: false, text: 'x=y' }));
    expect(received[0]).toMatchObject({
      method: 'GET',
      url: '/customers/a%2Fb%3Fc%23d%26e%20%C3%BC%25/offers?sure=false&q=x%3Dy',
      body: '',
    });
    expect(received[0]!.headers['content-type']).toBeUndefined();
  });

  it.each([['..'], ['.'], [''], [null], [{}], [undefined], ['\ud800']])('does not let the body change the path: %j', async (id) => {
    const call = await client({ url: `${origin}/customers/{id}/orders` });
    await expect(call(outgoing({ id }))).rejects.toMatchObject({ code: 'invalid' });
    expect(received).toEqual([]);
  });

  it('takes only own properties of the body', async () => {
    await expect((await client({ url: `${origin}/{constructor.name}` }))()).rejects.toMatchObject({ code: 'invalid' });
    await expect((await client({ url: `${origin}/{id}` }))(outgoing(Buffer.from('no json')))).rejects.toMatchObject({ code: 'invalid' });
  });

  it('sends one Idempotency-Key for all attempts of a step, another for other steps, the trace, and the headers it was given', async () => {
    process.env['TEST_REST_TOKEN'] = 't0ken';
    const call = await client({ headers: { 'X-Tenant': 'north' }, bearerEnv: 'TEST_REST_TOKEN' });
    delete process.env['TEST_REST_TOKEN'];
    const first = outgoing({}, {}, { traceparent: '00-11111111111111111111111111111111-2222222222222222-01' });
    await call(first);
    await call({ ...first, envelope: { ...first.envelope, attempt: 2 } });
    await call({
      ...first,
      envelope: { ...first.envelope, id: newId(), groups: [{ id: 'g', index: 1, size: 2, at: 'x', deadline: 1, name: 'b' }] },
    });
    const keys = received.map(({ headers }) => headers['idempotency-key']);
    expect(keys[0]).toBe(keys[1]);
    expect(keys[2]).not.toBe(keys[0]);
    expect(received[0]!.headers).toMatchObject({
      'x-tenant': 'north',
      authorization: 'Bearer t0ken',
      traceparent: '00-11111111111111111111111111111111-2222222222222222-01',
    });
  });

  it('gives back bytes of any kind, and nothing at all', async () => {
    answer = says(204);
    expect(await (await client())()).toEqual(['application/octet-stream', '']);
    answer = says(201, 'a;b', { 'content-type': 'text/csv' });
    expect(await (await client())()).toEqual(['text/csv', 'a;b']);
  });
});

describe('what a REST service may say instead', () => {
  it.each([
    [400, 'rejected'],
    [403, 'forbidden'],
    [404, 'rejected'],
    [409, 'rejected'],
    [410, 'rejected'],
    [422, 'rejected'],
  ])('%i is the fault %s, with what the service says', async (status, code) => {
    answer = says(status, JSON.stringify({ title: 'No', detail: 'no such customer' }), { 'content-type': 'application/problem+json' });
    await expect((await client())()).rejects.toMatchObject({ code, message: 'no such customer', reason: `http-${status}` });
    answer = says(status, '<html>secret stack trace</html>', { 'content-type': 'text/html' });
    await expect((await client())()).rejects.toMatchObject({ code, message: `the service answered ${status}` });
  });

  it.each([
    ['500', says(500, 'boom'), 'answered 500'],
    ['503', says(503), 'answered 503'],
    ['429 without a time', says(429), 'answered 429'],
    ['429 with a time that is too long', says(429, '', { 'retry-after': '3600' }), 'answered 429'],
    ['401', says(401), 'the credentials of this hub are not accepted'],
    ['a redirect', says(302, '', { location: 'http://127.0.0.1:1/' }), 'redirects are not followed'],
    ['more than is read', says(200, 'x'.repeat(20_000)), 'the answer is larger than 10000 bytes'],
    ['a broken connection', (response: ServerResponse) => void response.destroy(), 'other side closed'],
  ])('%s is an error, to be tried again', async (_what, says, message) => {
    answer = says;
    const error = await (
      await client()
    )().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(Error);
    expect(error).not.toBeInstanceOf(Fault);
    expect((error as Error).message).toContain(message);
    expect(received).toHaveLength(1);
  });

  it.each([429, 503, 425, 408])('%i with Retry-After: waits and asks again with the same key', async (status) => {
    answer = (response, nth) =>
      nth === 1 ? says(status, '', { 'retry-after': '0' })(response) : says(200, 'ok', { 'content-type': 'text/plain' })(response);
    expect(await (await client())()).toEqual(['text/plain', 'ok']);
    expect(new Set(received.map(({ headers }) => headers['idempotency-key'])).size).toBe(1);
  });

  it('nothing: ends with the time-out, with what is left of the request, and when the step is cancelled', async () => {
    answer = () => undefined;
    await expect((await client({ timeout: 100 }))()).rejects.toThrow(/did not answer within 100 ms/);
    await expect((await client())(outgoing({}, { remainingMs: () => 150 }))).rejects.toThrow(/did not answer within 150 ms/);
    await expect((await client())(outgoing({}, { remainingMs: () => 0 }))).rejects.toThrow('no time is left');
    const cancel = new AbortController();
    const called = (await client())(outgoing({}, { signal: cancel.signal }));
    cancel.abort();
    await expect(called).rejects.toThrow('the call was given up');
  });

  it('a body that drips: ends with the time-out, too', async () => {
    answer = (response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write('x'), 20);
      response.on('close', () => clearInterval(timer));
    };
    await expect((await client({ timeout: 200 }))()).rejects.toThrow(/did not answer within 200 ms/);
  });

  it('nobody there: an error, to be tried again', async () => {
    await expect((await client({ url: 'http://127.0.0.1:1/', retry: false }))()).rejects.toThrow('ECONNREFUSED');
  });
});

describe('a service that does not honour Idempotency-Key', () => {
  it.each([
    ['500', says(500)],
    ['a broken connection', (response: ServerResponse) => void response.destroy()],
    ['silence', () => undefined],
  ])('is not asked again after %s: the requestor is told that nobody knows', async (_what, says) => {
    answer = says;
    await expect((await client({ retry: false, timeout: 200 }))()).rejects.toMatchObject({ code: 'unavailable', reason: 'unknown' });
  });

  it('is asked again where it has said that it did nothing, and with methods that may be repeated', async () => {
    answer = says(429);
    await expect((await client({ retry: false }))()).rejects.not.toBeInstanceOf(Fault);
    answer = says(500);
    await expect((await client({ retry: false, method: 'PUT' }))()).rejects.not.toBeInstanceOf(Fault);
  });
});

it('says at start what is wrong with its settings', async () => {
  await expect(client({ url: '' })).rejects.toThrow('rest: a step with `use: rest` needs an http(s) url, not ""');
  await expect(client({ url: 'ftp://x/' })).rejects.toThrow('needs an http(s) url');
  await expect(client({ url: 'http://{host}/x' })).rejects.toThrow('host and port cannot come from a body');
  await expect(client({ url: 'http://a:b@x/' })).rejects.toThrow('rest: the url has a user or a password');
  await expect(client({ url: 'http://x/a b' })).rejects.toThrow('must have encoded');
  await expect(client({ headers: { Host: 'x' } })).rejects.toThrow('rest: the header "Host" cannot be set');
  await expect(client({ headers: { a: 'x\r\ny: z' } })).rejects.toThrow('rest: the header "a" cannot be set');
  await expect(client({ bearerEnv: 'NOT_THERE' })).rejects.toThrow('rest: the environment variable NOT_THERE is not set');
});
