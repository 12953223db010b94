import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { Agent, request } from 'undici';
import { soap, type SoapSettings } from '../../adapters/soap/index.js';
import { newKey } from '../../broker/access.js';
import type { Adapter } from '../../broker/adapter.js';
import { Fault } from '../../broker/fault.js';
import type { JsonSchema } from '../../broker/flow.js';
import { worker } from '../../broker/step.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { startZeep, type Zeep } from '../support/zeep.js';

const inbound = soap as unknown as Adapter<SoapSettings>;
const namespace = 'urn:answerback:flows';
const agent = new Agent();
const keys = newKey();
const owner = { name: 'till', flows: ['*'], topics: [], keys: [keys.line] };

const settings = (more: Partial<SoapSettings> = {}): SoapSettings => ({
  port: 0,
  host: '127.0.0.1',
  path: '/soap',
  flows: [],
  principal: '',
  open: false,
  wait: 0,
  maxSize: 100_000,
  maxInFlight: 100,
  namespace,
  address: '',
  ...more,
});

/** A reply with everything that a JSON Schema can say, in another order than the schema's. */
const everything = {
  type: 'object',
  required: ['text', 'list', 'count'],
  properties: {
    text: { type: 'string', description: 'Any <text> & more' },
    count: { type: 'integer' },
    rate: { type: 'number' },
    price: { type: 'number', multipleOf: 0.01 },
    sure: { type: 'boolean' },
    colour: { enum: ['red', 'green'] },
    maybe: { type: ['string', 'null'] },
    none: { anyOf: [{ type: 'integer' }, { type: 'null' }] },
    list: { type: 'array', items: { type: 'string' } },
    people: { type: 'array', items: { $ref: '#/$defs/person' } },
    matrix: { type: 'array', items: { type: 'array', items: { type: 'number' } } },
    nested: { type: 'object', required: ['a'], properties: { a: { type: 'object', properties: { b: { type: 'integer' } } } } },
    free: { type: 'object', additionalProperties: { type: 'number' } },
    either: { oneOf: [{ type: 'string' }, { type: 'object', properties: { x: { type: 'integer' } } }] },
    tree: { $ref: '#/$defs/tree' },
    'odd name!': { type: 'string' },
    id: { type: 'string' },
  },
  $defs: {
    person: {
      allOf: [
        { type: 'object', required: ['name'], properties: { name: { type: 'string' } } },
        { properties: { age: { type: 'integer' } } },
      ],
    },
    tree: { type: 'object', properties: { value: { type: 'integer' }, children: { type: 'array', items: { $ref: '#/$defs/tree' } } } },
  },
} satisfies JsonSchema;

const loan = (name: string): JsonSchema =>
  JSON.parse(readFileSync(resolve(`examples/loan-broker/schemas/${name}.json`), 'utf8')) as JsonSchema;

let seen: unknown[];
let gates: (() => void)[];

const steps = [
  worker({
    name: 'echo',
    handle(body: unknown) {
      seen.push(body);
      return body;
    },
  }),
  worker({
    name: 'quote',
    handle(body: { amount: number }) {
      seen.push(body);
      if (body.amount === 666) throw new Fault('rejected', 'no such customer');
      return { missing: [], best: { rate: 3.9, bank: 'nordic' }, extra: 'not in the schema', answered: ['a', 'b'], failed: ['c'] };
    },
  }),
  worker({ name: 'broken', retry: [], handle: () => Promise.reject(new Error('disk on fire')) }),
  worker({
    name: 'slow',
    async handle(body: { text: string }) {
      seen.push(body);
      await new Promise<void>((go) => gates.push(go));
      return { ...body, list: [], count: 1 };
    },
  }),
];

const flows: TestHubOptions['flows'] = {
  'loan.quote': { steps: ['quote'], request: loan('loan.quote.request'), reply: loan('loan.quote.reply') },
  everything: { steps: ['echo'], request: everything, reply: everything },
  numbers: { steps: ['echo'], request: { type: 'array', items: { type: 'number' } }, reply: { type: 'array', items: { type: 'number' } } },
  'no-reply-schema': { steps: ['echo'], request: { type: 'object', properties: { a: { type: 'integer' } } } },
  'it.breaks': { steps: ['broken'], request: { type: 'object', properties: { a: { type: 'integer' } } } },
  'takes.long': { steps: ['slow'], request: everything, reply: everything, waitMs: 200, maxWaitMs: 200 },
  plain: ['echo'],
};

let zeep: Zeep;
let hub: TestHub;
let wsdl: string;

beforeAll(() => void (zeep = startZeep()));
afterAll(() => Promise.all([zeep?.close(), agent.close()]));
beforeEach(() => void ([seen, gates] = [[], []]));
afterEach(async () => {
  for (const go of gates) go();
  await eventually(() => expect(hub.events.filter(({ event }) => event === 'request.settled').length).toBeGreaterThanOrEqual(gates.length));
  await hub.close();
});

async function start(more: Partial<SoapSettings> = {}, options: Partial<TestHubOptions> = {}): Promise<void> {
  hub = await memoryHub({ flows, steps, ...options });
  wsdl = (await hub.open(inbound, settings(more))).urls[0]!;
}

async function post(body: string | Buffer, headers: Record<string, string> = {}) {
  const response = await request(wsdl.replace('?wsdl', ''), {
    dispatcher: agent,
    method: 'POST',
    body,
    headers: { 'content-type': 'text/xml', ...headers },
  });
  return { status: response.statusCode, headers: response.headers, text: await response.body.text() };
}

const envelope = (body: string, version = 'http://schemas.xmlsoap.org/soap/envelope/', header = '') =>
  `<e:Envelope xmlns:e="${version}">${header}<e:Body>${body}</e:Body></e:Envelope>`;
const quote = envelope(
  `<LoanQuote xmlns="${namespace}"><customer>C-1</customer><amount>1000</amount><termMonths>12</termMonths></LoanQuote>`,
);
const soap12 = 'http://www.w3.org/2003/05/soap-envelope';
const request1042 = { customer: 'C-1042', amount: 24_000, termMonths: 36 };

describe.each(['HubSoap11', 'HubSoap12'] as const)('python3-zeep, strict, at %s', (port) => {
  const client = port === 'HubSoap11' ? 'soap:Client' : 'soap:Sender';
  const server = port === 'HubSoap11' ? 'soap:Server' : 'soap:Receiver';
  const call = (operation: string, args: unknown) => zeep.call({ wsdl, port, operation, args });

  it('reads the WSDL: one operation for each flow that has a schema, and Collect', async () => {
    await start();
    const { operations } = (await zeep.call({ wsdl, describe: true })) as { operations: Record<string, Record<string, string>> };
    expect(Object.keys(operations[port]!).sort()).toEqual([
      'Collect',
      'Everything',
      'ItBreaks',
      'LoanQuote',
      'NoReplySchema',
      'Numbers',
      'TakesLong',
    ]);
    expect(operations[port]!['LoanQuote']).toBe('customer: xsd:string, amount: xsd:double, termMonths: xsd:long');
  });

  it('gets a loan quote, in the order of the schema and without what the schema does not name', async () => {
    await start();
    expect(await call('LoanQuote', request1042)).toEqual({
      reply: { best: { bank: 'nordic', rate: 3.9 }, answered: ['a', 'b'], failed: ['c'], missing: [] },
    });
    expect(seen).toEqual([request1042]);
  });

  it('hands the flow the same JSON as HTTP would, whatever the schema says', async () => {
    await start();
    const body = {
      text: 'grüß <dich> & 世界 "x"',
      count: 3,
      rate: 0.1,
      price: 12.5,
      sure: false,
      colour: 'green',
      maybe: null,
      list: ['one'],
      people: [{ name: 'Ada', age: 36 }, { name: 'Bob' }],
      matrix: [[1, 2], [3]],
      nested: { a: { b: 7 } },
      free: { x: 1.5 },
      either: { x: 1 },
      tree: { value: 1, children: [{ value: 2, children: [{ value: 3 }] }] },
      'odd name!': 'odd',
      id: 'x',
    };
    const { maybe: _nil, price: _price, matrix, free, either, tree, 'odd name!': odd, ...same } = body;
    // The tree contains itself: from the second level on it is JSON text.
    const asXml = {
      ...same,
      maybe: 'xsi:nil',
      price: '12.50',
      matrix: matrix.map((item) => ({ item })),
      free: JSON.stringify(free),
      either: JSON.stringify(either),
      tree: { value: 1, children: tree.children.map((child) => JSON.stringify(child)) },
      odd_x0020_name_x0021_: odd,
    };
    const answer = (await call('Everything', asXml)) as { reply: unknown };
    expect(seen).toEqual([body]);
    expect(answer.reply).toMatchObject({
      ...same,
      maybe: null,
      price: { decimal: '12.5' },
      matrix: matrix.map((item) => ({ item })),
      none: null,
      free: JSON.stringify(free),
      odd_x0020_name_x0021_: 'odd',
    });
  });

  it('keeps empty, missing and single lists what they are', async () => {
    await start();
    await call('Everything', { text: '', count: 0, list: [], people: [] });
    expect(seen).toEqual([{ text: '', count: 0, list: [] }]);
  });

  it('calls a flow whose body is no object', async () => {
    await start();
    expect(await call('Numbers', { value: [1.5, 2] })).toEqual({ reply: [1.5, 2] });
    expect(seen).toEqual([[1.5, 2]]);
  });

  it('gets a reply without a schema as JSON text', async () => {
    await start();
    expect(await call('NoReplySchema', { a: 1 })).toEqual({ reply: { contentType: 'application/json', value: '{"a":1}' } });
  });

  it('is told every flaw of a wrong body', async () => {
    await start();
    const { fault } = (await call('LoanQuote', { customer: 'X', amount: 1, termMonths: 36 })) as { fault: Record<string, unknown> };
    expect(fault).toMatchObject({ code: client, typed: true, detail: { code: 'invalid', reason: 'schema' } });
    expect(fault['errors']).toEqual([
      { pointer: '#/customer', detail: expect.stringContaining('pattern') as unknown as string },
      { pointer: '#/amount', detail: expect.stringContaining('>= 500') as unknown as string },
    ]);
    expect(seen).toEqual([]);
  });

  it('is told a refusal of the business as its own fault, with the request id', async () => {
    await start();
    expect(await call('LoanQuote', { ...request1042, amount: 666 })).toMatchObject({
      fault: {
        code: client,
        message: 'no such customer',
        typed: true,
        detail: { code: 'rejected', step: 'quote', requestId: expect.any(String) as unknown as string },
      },
    });
  });

  it("is told a failure as the server's fault, and nothing of the inside", async () => {
    await start();
    expect(await call('ItBreaks', { a: 1 })).toMatchObject({ fault: { code: server, detail: { code: 'internal' } } });
  });

  it('collects later what takes long', async () => {
    await start();
    const { fault } = (await call('TakesLong', { text: 'late', count: 1, list: ['x'] })) as {
      fault: { code: string; detail: { code: string; requestId: string } };
    };
    expect(fault).toMatchObject({ code: server, typed: true, detail: { code: 'accepted' } });
    const { requestId } = fault.detail;
    expect(await call('Collect', { requestId, waitSeconds: 0 })).toMatchObject({ fault: { detail: { code: 'accepted', requestId } } });
    gates[0]!();
    const collected = await eventually(async () => {
      const answer = (await call('Collect', { requestId })) as { reply: Record<string, unknown> };
      expect(answer.reply).toBeDefined();
      return answer.reply;
    });
    expect(collected).toMatchObject({ requestId, TakesLongResponse: { text: 'late', count: 1, list: [] }, LoanQuoteResponse: null });
    expect(seen).toHaveLength(1);
  });

  it('is told that there is no such request', async () => {
    await start();
    expect(await call('Collect', { requestId: 'nothing' })).toMatchObject({
      fault: { code: client, detail: { code: 'invalid', reason: 'unknown-request' } },
    });
  });
});

describe('who may call', () => {
  const secured = { principals: [owner, { name: 'other', flows: ['everything'], topics: [], keys: [] }] };
  const call = (more: object) => zeep.call({ wsdl, operation: 'LoanQuote', args: request1042, ...more });

  it('takes an API key as the password of HTTP Basic, as a bearer token, or in its own header', async () => {
    await start({}, secured);
    expect(await call({ auth: ['anything', keys.key] })).toHaveProperty('reply');
    expect(await call({ bearer: keys.key })).toHaveProperty('reply');
    expect((await post(quote, { 'x-api-key': keys.key })).status).toBe(200);
  });

  it('refuses everybody else with a fault and 401', async () => {
    await start({}, secured);
    const { status, headers, text } = await post(quote, { authorization: `Bearer ${newKey().key}` });
    expect([status, headers['www-authenticate']]).toEqual([401, 'Basic realm="answerback", Bearer realm="answerback"']);
    expect(text).toContain('<code>unauthenticated</code>');
    expect(seen).toEqual([]);
  });

  it('lets a static principal ask without a key, within its flows', async () => {
    await start({ principal: 'other' }, secured);
    expect(await call({})).toMatchObject({ fault: { detail: { code: 'forbidden' } } });
    expect(await call({ auth: ['x', keys.key] })).toHaveProperty('reply');
  });

  it('never shows a request to somebody else', async () => {
    await start({ principal: 'other' }, secured);
    const answer = (await zeep.call({ wsdl, operation: 'TakesLong', args: { text: 'x', count: 1, list: [] }, bearer: keys.key })) as {
      fault: { detail: { requestId: string } };
    };
    const { requestId } = answer.fault.detail;
    expect(await zeep.call({ wsdl, operation: 'Collect', args: { requestId } })).toMatchObject({
      fault: { detail: { code: 'invalid', reason: 'unknown-request' } },
    });
  });

  it('does not open a public address to everybody because a static principal is set', async () => {
    hub = await memoryHub({ flows, steps, ...secured });
    await expect(hub.open(inbound, settings({ host: '0.0.0.0', principal: 'other' }))).rejects.toThrow(
      'soap: adapters.soap.principal makes everybody who reaches 0.0.0.0 "other"',
    );
  });

  it('keeps web pages out while it is open: other hosts, other origins, content types that need no preflight', async () => {
    await start();
    expect((await post(quote, { host: 'evil.example' })).status).toBe(421);
    expect((await post(quote, { origin: 'http://evil.example' })).status).toBe(403);
    expect((await post(quote, { 'content-type': 'text/plain' })).status).toBe(415);
    expect(seen).toEqual([]);
  });
});

describe('XML from strangers', () => {
  const fault = (code: string) => expect.stringMatching(new RegExp(`<code>${code}</code>`)) as unknown as string;

  it.each([
    ['a DOCTYPE', `<!DOCTYPE x [<!ENTITY a "b">]>${quote}`, 'a DOCTYPE is not accepted'],
    [
      'a DOCTYPE behind a comment',
      `<?xml version="1.0"?><!-- x --> \n<!DOCTYPE x SYSTEM "file:///etc/passwd">${quote}`,
      'a DOCTYPE is not accepted',
    ],
    ['a DOCTYPE far away', `${' \n'.repeat(20_000)}<!-- - -->${' '.repeat(20_000)}<!DOCTYPE x>${quote}`, 'a DOCTYPE is not accepted'],
    ['an entity of nobody', quote.replace('C-1', '&xxe;'), 'not well-formed'],
    ['a nest that is too deep', envelope('<a>'.repeat(100) + '</a>'.repeat(100)), 'nested deeper than 64'],
    ['a swarm of elements', envelope(`<x>${'<a/>'.repeat(24_000)}${'<a/>'.repeat(0)}</x>`), 'of the namespace'],
    [
      'a swarm of attributes',
      envelope(`<x ${Array.from({ length: 9_000 }, (_, i) => `a${i}=""`).join(' ')}/>`),
      'more than 100 attributes',
    ],
    [
      'an undeclared prefix',
      quote.replace('<customer>', '<z:customer>').replace('</customer>', '</z:customer>'),
      'the namespace prefix z is not declared',
    ],
    ['a prefix that JavaScript knows', envelope('<constructor:x/>'), 'the namespace prefix constructor is not declared'],
    ['a name of many parts', envelope('<a:b:c/>'), 'colon too many'],
    ['characters that XML does not know', quote.replace('C-1', '\u0001'), 'characters that XML does not allow'],
    ['something that is not an envelope', '<html/>', 'not a SOAP Envelope'],
    ['an empty body', envelope(''), 'Body of the Envelope is empty'],
    ['another namespace', envelope('<LoanQuote xmlns="urn:other"/>'), 'of the namespace'],
    ['an unknown operation', envelope(`<Steal xmlns="${namespace}"/>`), 'there is no operation Steal; there is LoanQuote'],
    ['an unknown element', quote.replace('<customer>', '<__proto__>1</__proto__><customer>'), 'has no element __proto__'],
    ['an element that stands there twice', quote.replace('<amount>', '<amount>1</amount><amount>'), 'stands there 2 times'],
    ['a character set of nobody', `<?xml version="1.0" encoding="ebcdic"?>${quote}`, 'character set ebcdic'],
  ])('refuses %s', async (_what, body, why) => {
    await start();
    const { status, text } = await post(body);
    expect([status, text]).toEqual([500, fault('invalid')]);
    expect(text).toContain(why);
    expect(text).toContain('<faultcode>soap:Client</faultcode>');
    expect(seen).toEqual([]);
  });

  it('refuses more elements than it counts', async () => {
    await start({ maxSize: 1_000_000 });
    expect((await post(envelope(`<x>${'<a/>'.repeat(60_000)}</x>`))).text).toContain('more than 50000 elements');
  });

  it('lists at most 100 flaws, and reads long lists in no time', async () => {
    await start({ maxSize: 1_000_000 });
    const { text } = await post(
      envelope(`<f:Everything xmlns:f="${namespace}"><text/>${'<list>x</list>'.repeat(30_000)}${'<z/>'.repeat(500)}</f:Everything>`),
    );
    expect(text.match(/<error>/g)).toHaveLength(100);
  });

  it('refuses more namespaces than it keeps', async () => {
    await start({ maxSize: 1_000_000 });
    const many = Array.from({ length: 90 }, (_, i) => `xmlns:a${i}="u"`).join(' ');
    expect((await post(envelope(`<x ${many}>${'<a xmlns:b="u"/>'.repeat(20_000)}</x>`))).text).toContain('too many namespaces');
  });

  it('refuses what is too large with 413, also when it does not say its size', async () => {
    await start({ maxSize: 1_000 });
    const big = Buffer.alloc(200_000, ' ');
    expect(await post(big)).toMatchObject({ status: 413, text: fault('too-large') });
    async function* chunks() {
      for (let i = 0; i < 200; i++) yield big.subarray(0, 1_000);
    }
    const response = await request(wsdl.replace('?wsdl', ''), {
      dispatcher: agent,
      method: 'POST',
      body: Readable.from(chunks()),
      headers: { 'content-type': 'text/xml' },
    });
    expect([response.statusCode, await response.body.text()]).toEqual([413, fault('too-large')]);
  });

  it('answers in the version that it was asked in, as far as it can be known', async () => {
    await start();
    const asked = await post(envelope(`<Steal xmlns="${namespace}"/>`, soap12), { 'content-type': 'application/soap+xml' });
    expect(asked).toMatchObject({
      status: 400,
      text: expect.stringContaining('<soap:Value>soap:Sender</soap:Value>') as unknown as string,
    });
    expect(asked.headers['content-type']).toBe('application/soap+xml; charset=utf-8');
    expect((await post('nothing', { 'content-type': 'application/soap+xml' })).text).toContain(soap12);
    expect((await post(envelope('<x/>', 'urn:soap:9'))).text).toContain('soap:VersionMismatch');
  });

  it('says that it does not understand a header that must be understood, and ignores the others', async () => {
    await start();
    const header = (must: string) => `<e:Header><w:Security xmlns:w="urn:w" ${must}/></e:Header>`;
    expect((await post(quote.replace('<e:Body>', `${header('e:mustUnderstand="1"')}<e:Body>`))).text).toContain('soap:MustUnderstand');
    expect((await post(quote.replace('<e:Body>', `${header('')}<e:Body>`))).status).toBe(200);
  });

  it('reads Latin-1 that says so, CDATA, character references, children without a namespace', async () => {
    await start();
    const body = envelope(
      `<f:Everything xmlns:f="${namespace}"><text>grün <![CDATA[<b>]]>&#228;</text><count> 7 </count><list>a</list></f:Everything>`,
    );
    const { status } = await post(Buffer.from(`<?xml version="1.0" encoding="ISO-8859-1"?>${body}`, 'latin1'), {
      'content-type': 'text/xml',
    });
    expect([status, seen]).toEqual([200, [{ text: 'grün <b>ä', count: 7, list: ['a'] }]]);
  });

  it('joins a request that is sent again with the same Idempotency-Key', async () => {
    await start();
    const [first, second] = [await post(quote, { 'idempotency-key': '"k1"' }), await post(quote, { 'idempotency-key': 'k1' })];
    expect(first.text).toBe(second.text);
    expect(seen).toHaveLength(1);
    expect((await post(quote.replace('1000', '2000'), { 'idempotency-key': 'k1' })).text).toContain(
      '<reason>idempotency-mismatch</reason>',
    );
  });

  it("names a WSDL address that the client can reach, and no other header's content", async () => {
    await start({ open: true });
    const at = async (host: string) =>
      /address location="([^"]*)"/.exec(await (await request(wsdl, { dispatcher: agent, headers: { host } })).body.text())![1];
    expect(await at('hub.example:81')).toBe('http://hub.example:81/soap');
    expect(await at('x"/><evil')).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/soap$/);
  });

  it('refuses two flows that would be one operation', async () => {
    hub = await memoryHub({
      flows: { 'a.b': { steps: ['echo'], request: everything }, 'a-b': { steps: ['echo'], request: everything } },
      steps,
    });
    await expect(hub.open(inbound, settings())).rejects.toThrow('soap: flows a.b and a-b would both be the SOAP operation AB');
  });
});
