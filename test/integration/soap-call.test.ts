import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { listen } from 'soap';
import type { SoapCallSettings } from '../../adapters/soap/client.js';
import { soap } from '../../adapters/soap/index.js';
import type { Adapter, OutgoingCall } from '../../broker/adapter.js';
import { newId, type Envelope } from '../../broker/envelope.js';
import { Fault } from '../../broker/fault.js';
import { worker } from '../../broker/step.js';
import { memoryHub } from '../support/hub.js';

const outbound = soap as unknown as Adapter<SoapCallSettings>;
const harbour = resolve('examples/loan-broker/systems/harbour.wsdl');
const quote = { customer: 'C-1', amount: 1000.5, termMonths: 12, score: 700, historyMonths: 30 };

interface Received {
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

let server: Server;
let url: string;
let received: Received[];
let answer: (response: ServerResponse, body: string) => void;
let closing: (() => Promise<void>)[];

const settings = (more: Partial<SoapCallSettings> = {}): SoapCallSettings => ({
  wsdl: harbour,
  operation: 'Quote',
  service: '',
  port: '',
  endpoint: url,
  version: '1.1',
  timeout: 5_000,
  user: '',
  passwordEnv: '',
  bearerEnv: '',
  maxSize: 20_000,
  connections: 5,
  ...more,
});

const outgoing = (body: unknown = quote, more: Partial<OutgoingCall['context']> = {}, envelope: Partial<Envelope> = {}): OutgoingCall => ({
  body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
  contentType: 'application/json',
  envelope: { id: newId(), requestId: newId(), step: 2, slip: ['bank.harbour'], groups: [], ...envelope } as Envelope,
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

async function client(more: Partial<SoapCallSettings> = {}) {
  const opened = await outbound.call!(settings(more), '/');
  closing.push(() => opened.close());
  return async (call: OutgoingCall = outgoing()): Promise<unknown> => JSON.parse((await opened.call(call)).body.toString()) as unknown;
}

const envelope = (body: string, version = 'http://schemas.xmlsoap.org/soap/envelope/') =>
  `<e:Envelope xmlns:e="${version}"><e:Body>${body}</e:Body></e:Envelope>`;
const reply = envelope(
  '<h:QuoteResponse xmlns:h="urn:harbour-bank:quotes"><h:bank>harbour</h:bank><h:rate>4.25</h:rate></h:QuoteResponse>',
);
const says =
  (status: number, body: string, type = 'text/xml; charset=utf-8') =>
  (response: ServerResponse) =>
    void response.writeHead(status, { 'content-type': type }).end(body);

beforeEach(async () => {
  [received, closing] = [[], []];
  answer = says(200, reply);
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString();
      received.push({ headers: request.headers, body });
      answer(response, body);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/quotes`;
});

afterEach(async () => {
  for (const close of closing) await close();
  server.close();
  server.closeAllConnections();
  await once(server, 'close');
});

describe('a step that calls a SOAP service', () => {
  it('sends the body as the arguments, in the order of the WSDL, and gives the reply as JSON with its types', async () => {
    const call = await client();
    const { historyMonths, score, ...rest } = quote;
    expect(await call(outgoing({ historyMonths, score, ...rest }))).toEqual({ bank: 'harbour', rate: 4.25 });
    expect(
      received[0]!.body.match(/<(?:\w+:)?(customer|amount|termMonths|score|historyMonths)>/g)?.map((tag) => tag.replace(/\w+:/, '')),
    ).toEqual(['<customer>', '<amount>', '<termMonths>', '<score>', '<historyMonths>']);
    expect(received[0]!.headers).toMatchObject({
      soapaction: '"urn:harbour-bank:quotes#Quote"',
      'content-type': 'text/xml; charset=utf-8',
    });
  });

  it('calls a service that npm soap serves', async () => {
    const real = createServer((_request, response) => response.writeHead(404).end()).listen(0, '127.0.0.1');
    await once(real, 'listening');
    const { readFileSync } = await import('node:fs');
    listen(
      real,
      '/quotes',
      { HarbourBank: { Quotes: { Quote: ({ amount }: { amount: number }) => ({ bank: 'harbour', rate: amount / 2 }) } } },
      readFileSync(harbour, 'utf8'),
    );
    const call = await client({ endpoint: `http://127.0.0.1:${(real.address() as AddressInfo).port}/quotes` });
    closing.push(async () => void (real.close(), real.closeAllConnections()));
    expect(await call()).toEqual({ bank: 'harbour', rate: 500.25 });
  });

  it('speaks SOAP 1.2 when it is told to', async () => {
    answer = says(
      200,
      reply.replace('http://schemas.xmlsoap.org/soap/envelope/', 'http://www.w3.org/2003/05/soap-envelope'),
      'application/soap+xml',
    );
    const call = await client({ version: '1.2' });
    expect(await call()).toEqual({ bank: 'harbour', rate: 4.25 });
    expect(received[0]!.headers['content-type']).toMatch(/^application\/soap\+xml/);
    expect(received[0]!.body).toContain('http://www.w3.org/2003/05/soap-envelope');
  });

  it.each(['1.1', '1.2'] as const)('calls another hub, with the WSDL that this one shows (SOAP %s)', async (version) => {
    const schema = {
      type: 'object',
      required: ['text'],
      properties: {
        text: { type: 'string' },
        list: { type: 'array', items: { type: 'integer' } },
        inner: { type: 'object', properties: { sure: { type: 'boolean' } } },
      },
    };
    const echo = worker({
      name: 'echo',
      handle(body: { text: string }) {
        if (body.text === 'no') throw new Fault('rejected', 'not today');
        return body;
      },
    });
    const hub = await memoryHub({ flows: { 'say.it': { steps: ['echo'], request: schema, reply: schema } }, steps: [echo] });
    const { urls } = await hub.open(soap, {
      port: 0,
      host: '127.0.0.1',
      path: '/soap',
      flows: [],
      principal: '',
      open: false,
      wait: 0,
      maxSize: 100_000,
      maxInFlight: 10,
      namespace: 'urn:answerback:flows',
      address: '',
    });
    const call = await client({
      wsdl: urls[0]!,
      operation: 'SayIt',
      port: version === '1.1' ? 'HubSoap11' : 'HubSoap12',
      endpoint: '',
      version,
    });
    const body = { text: 'a < b & ü', list: [7], inner: { sure: false } };
    expect(await call(outgoing(body))).toEqual(body);
    await expect(call(outgoing({ text: 'no' }))).rejects.toMatchObject({ code: 'rejected', message: 'not today' });
    await hub.close();
  });

  it('sends one Idempotency-Key for all attempts of a step, another for other steps, and the trace', async () => {
    const call = await client();
    const first = outgoing(quote, {}, { traceparent: '00-11111111111111111111111111111111-2222222222222222-01' });
    await call(first);
    await call({ ...first, envelope: { ...first.envelope, attempt: 2 } });
    await call({ ...first, envelope: { ...first.envelope, id: newId(), step: 3 } });
    const keys = received.map(({ headers }) => headers['idempotency-key']);
    expect(keys[0]).toBe(keys[1]);
    expect(keys[2]).not.toBe(keys[0]);
    expect(received[0]!.headers['traceparent']).toBe('00-11111111111111111111111111111111-2222222222222222-01');
  });

  it('sends the credentials that the environment holds', async () => {
    process.env['TEST_SOAP_SECRET'] = 's3cret';
    await (
      await client({ user: 'hub', passwordEnv: 'TEST_SOAP_SECRET' })
    )();
    await (
      await client({ bearerEnv: 'TEST_SOAP_SECRET' })
    )();
    expect(received.map(({ headers }) => headers.authorization)).toEqual([
      `Basic ${Buffer.from('hub:s3cret').toString('base64')}`,
      'Bearer s3cret',
    ]);
    delete process.env['TEST_SOAP_SECRET'];
    await expect(client({ bearerEnv: 'TEST_SOAP_SECRET' })).rejects.toThrow('soap: the environment variable TEST_SOAP_SECRET is not set');
  });
});

describe('what a SOAP service may say instead of a reply', () => {
  const fault11 = (code: string) =>
    envelope(`<e:Fault><faultcode>e:${code}</faultcode><faultstring>limit exceeded</faultstring></e:Fault>`);
  const fault12 = (code: string) =>
    envelope(
      `<e:Fault><e:Code><e:Value>e:${code}</e:Value></e:Code><e:Reason><e:Text xml:lang="en">limit exceeded</e:Text></e:Reason></e:Fault>`,
      'http://www.w3.org/2003/05/soap-envelope',
    );

  it.each([
    ['Client', fault11('Client')],
    ['Client.Limit', fault11('Client.Limit')],
    ['Sender', fault12('Sender')],
  ])('a fault %s is the fault rejected', async (_code, body) => {
    answer = says(500, body);
    await expect((await client())()).rejects.toMatchObject({ code: 'rejected', message: 'limit exceeded', reason: 'soap-fault' });
  });

  it.each([
    ['a fault Server', says(500, fault11('Server')), 'SOAP fault e:Server: limit exceeded'],
    ['a fault Receiver', says(500, fault12('Receiver')), 'SOAP fault e:Receiver: limit exceeded'],
    ['a fault of its gateway', says(502, '<html>bad gateway<br></html>', 'text/html'), 'the SOAP service answered 502 without an envelope'],
    ['401', says(401, '', 'text/plain'), 'answered 401'],
    ['a redirect', (response: ServerResponse) => void response.writeHead(302, { location: '/elsewhere' }).end(), 'answered 302'],
    ['a page', says(200, '<html>hello</html>', 'text/html'), 'answered 200 without an envelope'],
    ['XML that breaks off', says(200, reply.slice(0, -20)), 'not well-formed'],
    ['a DOCTYPE', says(200, `<!DOCTYPE a [<!ENTITY b "c">]>${reply}`), 'a DOCTYPE is not accepted'],
    [
      'an id that would write into every object',
      says(200, reply.replace('<h:bank>', '<h:bank id="__proto__">')),
      'means something else to JavaScript',
    ],
    ['more than is read', says(200, `${reply}${' '.repeat(30_000)}`), 'the answer is larger than 20000 bytes'],
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
    expect(({} as Record<string, unknown>)['obj']).toBeUndefined();
  });

  it('403 is the fault forbidden', async () => {
    answer = says(403, '', 'text/plain');
    await expect((await client())()).rejects.toMatchObject({ code: 'forbidden' });
  });

  it('nothing: ends with the time-out, with what is left of the request, and when the step is cancelled', async () => {
    answer = () => undefined;
    await expect((await client({ timeout: 100 }))()).rejects.toThrow('did not answer within 100 ms');
    await expect((await client())(outgoing(quote, { remainingMs: () => 150 }))).rejects.toThrow('did not answer within 150 ms');
    await expect((await client())(outgoing(quote, { remainingMs: () => 0 }))).rejects.toThrow('no time is left');
    const cancel = new AbortController();
    const called = (await client())(outgoing(quote, { signal: cancel.signal }));
    cancel.abort();
    await expect(called).rejects.toThrow('the call was given up');
  });

  it('nobody there: an error, to be tried again', async () => {
    await expect((await client({ endpoint: 'http://127.0.0.1:1/' }))()).rejects.toThrow('ECONNREFUSED');
  });
});

describe('what a requestor may put into the body', () => {
  it.each([
    ['raw XML', { _xml: '<evil/>' }],
    ['raw XML further inside', { customer: { $xml: '<evil/>' } }],
    ['a name that closes its element', { 'a><evil/><a': 1 }],
    ['a name with a prefix', { 'evil:a': 1 }],
    ['attributes that are none', { customer: { $attributes: { 'a="1"><evil/': 1 } } }],
  ])('never becomes markup: %s', async (_what, body) => {
    await expect((await client())(outgoing(body))).rejects.toMatchObject({ code: 'invalid' });
    expect(received).toEqual([]);
  });

  it('is escaped where it is text or an attribute', async () => {
    await (
      await client()
    )(outgoing({ customer: { $attributes: { kind: '"<&' }, $value: '</customer>\u0000&' } }));
    expect(received[0]!.body).toMatch(/<(\w+:)?customer kind="&quot;&lt;&amp;">&lt;\/customer&gt;\ufffd&amp;<\//);
  });

  it.each([
    ['text', 'hello'],
    ['a list', [1]],
    ['nothing', null],
  ])('must be an object: not %s', async (_what, body) => {
    await expect((await client())(outgoing(JSON.stringify(body)))).rejects.toMatchObject({ code: 'invalid' });
    await expect((await client())(outgoing('no json'))).rejects.toMatchObject({ code: 'invalid' });
  });
});

describe('a SOAP step that is not right', () => {
  it('says so at start', async () => {
    await expect(client({ operation: 'Qoute' })).rejects.toThrow('soap: the WSDL has no operation Qoute; did you mean "Quote"?');
    await expect(client({ service: 'Other' })).rejects.toThrow('soap: the WSDL has no operation Other.Quote');
    await expect(client({ wsdl: '/nowhere.wsdl' })).rejects.toThrow('soap: there is no WSDL /nowhere.wsdl');
    await expect(client({ wsdl: '' })).rejects.toThrow('soap: a step with `use: soap` needs a wsdl and an operation');
    const folder = await mkdtemp(join(tmpdir(), 'hub-wsdl-'));
    await writeFile(join(folder, 'broken.wsdl'), '<definitions');
    await expect(client({ wsdl: join(folder, 'broken.wsdl') })).rejects.toThrow(/^soap: the WSDL .*broken\.wsdl cannot be read/);
    await rm(folder, { recursive: true });
  });

  it('waits for a WSDL of a server that comes up later', async () => {
    answer = says(503, 'later', 'text/plain');
    const call = await client({ wsdl: `${url}?wsdl` });
    await expect(call()).rejects.toThrow(/the WSDL .* cannot be read/);
    const { readFileSync } = await import('node:fs');
    answer = (response, body) => says(200, body === '' ? readFileSync(harbour, 'utf8') : reply)(response);
    expect(await call()).toEqual({ bank: 'harbour', rate: 4.25 });
  });
});
