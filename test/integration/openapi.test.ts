/** The documents that the hub serves, judged by tools of others: @redocly/cli and @asyncapi/parser, each in a process of its own. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { asyncApi, openApi } from '../../adapters/http/index.js';
import type { Flow } from '../../broker/flow.js';
import type { Delivery, Message } from '../../broker/transport.js';
import { eventually } from '../support/eventually.js';
import { flowsOf } from '../support/hub.js';
import { serve, type Served } from './http-server.js';

const run = promisify(execFile);
let folder: string;
let served: Served;

/** Flows with everything that a schema may have. */
const odd: readonly Flow[] = flowsOf({
  'loan.quote': {
    steps: ['credit.score', 'loan.best'],
    summary: 'The best of five offers: "quoted", <escaped> & more.',
    example: { customer: 'C-1042', amount: 24_000, termMonths: 36 },
    request: {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      $id: 'https://example.com/loan.json',
      type: 'object',
      required: ['customer', 'amount'],
      properties: {
        customer: { $ref: '#/$defs/id' },
        amount: { type: 'number', exclusiveMinimum: 0 },
        termMonths: { type: ['integer', 'null'] },
        guarantor: { $ref: 'https://example.com/loan.json#/$defs/id' },
        previous: { $ref: '#' },
        pair: { type: 'array', prefixItems: [{ type: 'string' }], items: false },
      },
      unevaluatedProperties: false,
      $defs: { id: { type: 'string', pattern: '^C-\\d+$' } },
    },
    reply: { type: 'object', properties: { best: true, missing: { type: 'array', items: { type: 'string' } } } },
  },
  plain: ['a'],
  anything: { steps: ['a'], request: true, reply: false, example: 'text' },
  fast: { steps: ['a'], durable: false },
  parted: { steps: ['a'], parts: { leaseMs: 1_000, count: 3, size: 10, total: 20 } },
});

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'answerback-documents-'));
  served = await serve();
});
afterAll(async () => {
  await served.close();
  await rm(folder, { recursive: true });
});

async function lint(name: string, document: unknown): Promise<void> {
  const path = join(folder, name);
  await writeFile(path, JSON.stringify(document));
  const env = { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true', NO_COLOR: '1', NODE_OPTIONS: '' };
  const { stdout } = await run(process.execPath, ['node_modules/@redocly/cli/bin/cli.js', 'lint', '--format=json', path], { env }).catch(
    (error: { stdout: string }) => error,
  );
  const { totals, problems } = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    totals: { errors: number; warnings: number };
    problems: { message: string }[];
  };
  expect({ ...totals, problems: problems.map(({ message }) => message) }).toMatchObject({ errors: 0, warnings: 0, problems: [] });
}

async function parse(name: string, document: unknown): Promise<void> {
  const path = join(folder, name);
  await writeFile(path, JSON.stringify(document));
  const script = `
    import { readFileSync } from 'node:fs';
    import parser from '@asyncapi/parser';
    const { document, diagnostics } = await new parser.Parser().parse(readFileSync(process.argv[1], 'utf8'));
    const operations = document?.operations().all().map((operation) => [operation.id(), operation.reply()?.address()?.location() ?? null]);
    console.log(JSON.stringify({ errors: diagnostics.filter(({ severity }) => severity === 0).map(({ message, path }) => path.join('/') + ': ' + message), operations }));`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script, path], {
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  const { errors, operations } = JSON.parse(stdout) as { errors: string[]; operations: [string, string | null][] };
  expect(errors).toEqual([]);
  for (const [id, location] of operations) expect(location).toBe(id.startsWith('request.') ? '$message.header#/replyTo' : null);
}

describe('the OpenAPI document', () => {
  it('is valid to @redocly/cli, of this hub, of odd flows, of none, with keys and without', async () => {
    const response = await served.fetch('/openapi.json');
    expect(response.headers.get('content-type')).toMatch(/^application\/json/);
    await Promise.all([
      lint('served.json', await response.json()),
      lint('odd.json', openApi(odd, { version: '1', authenticated: true })),
      lint('none.json', openApi([], { version: '1', authenticated: false })),
    ]);
  }, 60_000);

  it('has a path per flow with its schemas, example and limits', async () => {
    const document = (await (await served.fetch('/openapi.json')).json()) as {
      openapi: string;
      paths: Record<string, { post?: { requestBody: object; description: string; responses: object } }>;
      components: { schemas: object };
    };
    expect(document.openapi).toBe('3.1.0');
    const { post } = document.paths['/requests/double']!;
    expect(post!.requestBody).toEqual({
      required: true,
      content: {
        'application/json': { schema: { $ref: '#/components/schemas/double.request' }, examples: { example: { value: { n: 21 } } } },
      },
    });
    expect(post!.description).toContain('Held for 10 s');
    for (const status of ['200', '202', '400', '404', '413', '422', '429', '431', '502', '503', '504'])
      expect(post!.responses).toHaveProperty(status);
    expect(document.components.schemas).toHaveProperty(['double.request', 'properties', 'n'], { type: 'integer' });
  });

  it('keeps the references inside of a schema working', () => {
    const { components } = openApi(odd, { version: '1', authenticated: false }) as {
      components: { schemas: Record<string, { properties: object }> };
    };
    expect(components.schemas['loan.quote.request']!.properties).toMatchObject({
      customer: { $ref: '#/components/schemas/loan.quote.request/$defs/id' },
      guarantor: { $ref: '#/components/schemas/loan.quote.request/$defs/id' },
      previous: { $ref: '#/components/schemas/loan.quote.request' },
    });
    expect(components.schemas['loan.quote.request']).not.toHaveProperty('$id');
  });

  it('is true: what the hub answers fits what it promises', async () => {
    const document = (await (await served.fetch('/openapi.json')).json()) as { components: { schemas: object } };
    const ajv = new Ajv2020({ strict: false });
    addFormats.default(ajv);
    ajv.addSchema({ $id: 'hub', ...document });
    const fits = async (schema: string, response: Response) => {
      const check = ajv.getSchema(`hub#/components/schemas/${schema}`)!;
      expect([check(await response.json()), check.errors]).toEqual([true, null]);
    };
    await fits('double.reply', await served.fetch('/requests/double', { json: { n: 1 } }));
    const accepted = await served.fetch('/requests/double', { json: { n: 1 }, headers: { prefer: 'respond-async' } });
    await fits('Status', accepted);
    await fits('Status', await served.fetch(accepted.headers.get('location')!));
    const opened = await served.fetch('/requests/parted/parts', { method: 'POST' });
    const at = opened.headers.get('location')!;
    await fits('Opened', opened);
    await fits('Opened', await served.fetch(`${at}/parts/1`, { method: 'PUT', body: 'part' }));
    await fits('Opened', await served.fetch(at));
    await fits('Problem', await served.fetch(`${at}/close`, { method: 'POST', headers: { 'hub-parts': '2' } }));
    await fits('Problem', await served.fetch('/requests/double', { json: {} }));
    await fits('Problem', await served.fetch('/requests/fail', { json: { code: 'rejected' } }));
    await fits('Problem', await served.fetch('/nothing'));
    await fits('Health', await served.fetch('/health/ready'));
  });
});

describe('the AsyncAPI document', () => {
  it('is valid to @asyncapi/parser, with the reply objects of every flow', async () => {
    const response = await served.fetch('/asyncapi.json');
    expect(response.headers.get('content-type')).toMatch(/^application\/json/);
    await Promise.all([
      parse('served.json', await response.json()),
      parse('odd.json', asyncApi(odd, { version: '1', namespace: 'hub' })),
      parse('none.json', asyncApi([], { version: '1', namespace: 'hub' })),
    ]);
  }, 60_000);

  it('says where requests go, and how their answers come back', async () => {
    const document = (await (await served.fetch('/asyncapi.json')).json()) as { asyncapi: string; channels: object; operations: object };
    expect(document.asyncapi).toBe('3.0.0');
    expect(document.channels).toHaveProperty(['request.double', 'bindings', 'amqp'], {
      is: 'routingKey',
      exchange: { name: `${served.hub.namespace}.requests`, type: 'topic', durable: true, autoDelete: false },
      bindingVersion: '0.3.0',
    });
    expect(document.channels).toHaveProperty(['reply.double', 'address'], null);
    expect(document.channels).toHaveProperty(
      ['request.double', 'messages', 'request', 'correlationId', 'location'],
      '$message.header#/correlationId',
    );
    expect(document.operations).toHaveProperty(['request.double', 'action'], 'receive');
  });

  it('tells of requests in parts where a flow takes them', async () => {
    const { channels, operations } = (await (await served.fetch('/asyncapi.json')).json()) as {
      channels: Record<string, { messages: object }>;
      operations: Record<string, { messages: object; reply: { messages: object } }>;
    };
    const messagesOf = (flow: string) => [`request.${flow}`, `reply.${flow}`].map((channel) => Object.keys(channels[channel]!.messages));
    expect(messagesOf('parted')).toEqual([
      ['request', 'part'],
      ['reply', 'fault', 'part', 'reminder', 'ask'],
    ]);
    expect(messagesOf('double')).toEqual([['request'], ['reply', 'fault', 'part', 'ask']]);
    expect(operations['request.parted']!.messages).toContainEqual({ $ref: '#/channels/request.parted/messages/part' });
    expect(operations['request.parted']!.reply.messages).toContainEqual({ $ref: '#/channels/reply.parted/messages/reminder' });
  });

  it('is true: what a program sends in parts, and what it hears, is in there', async () => {
    const parts = { leaseMs: 1_200, count: 10, size: 1_000, total: 10_000 };
    const { hub, fetch, close } = await serve({}, { flows: { parted: { steps: ['echo'], parts } } });
    const document = (await (await fetch('/asyncapi.json')).json()) as {
      channels: Record<string, { messages: Record<string, { $ref?: string; bindings?: { amqp: { messageType: string } } }> }>;
    };
    const ajv = new Ajv2020({ strict: false });
    addFormats.default(ajv);
    ajv.addSchema({ $id: 'hub', ...document });
    const flawsOf = (at: string, value: unknown) => {
      const check = ajv.getSchema(`hub${at}`)!;
      return check(value) === true ? [] : check.errors;
    };
    const fits = (channel: string, { type = '', body, headers = {}, replyTo, correlationId }: Message) => {
      const [name, message] = Object.entries(document.channels[channel]!.messages).find(
        ([key, { bindings }]) => (bindings?.amqp.messageType ?? key) === type,
      )!;
      const at = message.$ref ?? `#/channels/${channel}/messages/${name}`;
      expect([type, flawsOf(`${at}/payload`, JSON.parse(body.toString()))]).toEqual([type, []]);
      const properties = { ...headers, correlationId, ...(replyTo === undefined ? {} : { replyTo }) };
      // Of a fault's it says nothing.
      if (type !== 'fault') expect([type, flawsOf(`${at}/headers`, properties)]).toEqual([type, []]);
    };

    const heard: Delivery[] = [];
    const { transport } = hub.ports;
    await transport.declare({ exchanges: [], bindings: [], queues: [{ name: 'own', type: 'classic', about: 'test' }] });
    const consumer = await transport.consume('own', { prefetch: 1, tag: 'own' }, async (delivery) => void heard.push(delivery));
    const send = async (correlationId: string, headers: Record<string, number>) => {
      const message = { body: Buffer.from('"one"'), contentType: 'application/json', type: 'part', replyTo: 'own', correlationId, headers };
      fits('request.parted', message);
      await transport.publish({ exchange: hub.hub.names.requests, routingKey: 'parted' }, message);
    };
    await send('c-1', { 'hub-sequence': 1 });
    await send('c-1', { 'hub-sequence': 2, 'hub-parts': 2 });
    await send('c-2', { 'hub-parts': 2 });
    const types = () => new Set(heard.map(({ type }) => type));
    await eventually(() => expect(types()).toEqual(new Set(['reply', 'progress', 'fault'])), { withinMs: 8_000 });
    for (const delivery of heard) fits('reply.parted', delivery);
    expect(flawsOf('#/channels/request.parted/messages/part/headers', { replyTo: 'own', correlationId: 'c-3' })).not.toEqual([]);
    await consumer.close();
    await close();
  }, 20_000);
});

describe('the page at /', () => {
  it('shows a browser the flows with a curl to paste, and nothing from outside', async () => {
    const response = await served.fetch('/', { headers: { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } });
    const html = await response.text();
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(response.headers.get('content-security-policy')).toMatch(/^default-src 'none'; style-src 'sha256-[^']+'/);
    expect(html).not.toMatch(/<script|src=|url\(|@import|href="http/);
    const curl = /<pre>(curl [^<]*double[^<]*)<\/pre>/
      .exec(html)![1]!
      .replace(/&#(\d+);/g, (_, code: string) => String.fromCharCode(Number(code)));
    expect(curl).toBe(`curl -i ${served.url}/requests/double -H 'content-type: application/json' -d '{"n":21}'`);
  });

  it('escapes what flows say', async () => {
    const { page } = await import('../../adapters/http/page.js');
    expect(page({ flows: odd, version: '<1>', origin: 'http://x' })).not.toMatch(/<escaped>|<1>/);
  });

  it('tells programs the same as JSON', async () => {
    expect(await (await served.fetch('/')).json()).toMatchObject({
      name: 'answerback',
      links: { openapi: '/openapi.json' },
      flows: expect.arrayContaining([{ name: 'double', summary: 'Twice as much.', href: '/requests/double' }]),
    });
  });
});

describe('health and metrics', () => {
  it('are there for a Prometheus and a load balancer', async () => {
    const metrics = await served.fetch('/metrics');
    expect([metrics.status, metrics.headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    const ready = await served.fetch('/health/ready');
    expect([ready.status, await ready.json()]).toEqual([200, { ready: true, checks: { rabbitmq: 'ok', redis: 'ok' } }]);
    expect((await served.fetch('/health/live')).status).toBe(200);
  });
});
