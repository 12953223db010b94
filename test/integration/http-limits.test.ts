import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { connect } from 'node:net';
import { once } from 'node:events';
import { newKey } from '../../broker/access.js';
import { eventually } from '../support/eventually.js';
import { letSlowGo, rawly, serve, type Served } from './http-server.js';

/** The responses that came by a raw socket, and the last one's problem. */
function told(text: string): { readonly statuses: readonly number[]; readonly code: string | undefined } {
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status));
  return { statuses, code: /"code":"([\w-]+)"/.exec(text)?.[1] };
}

const head = (line: string, ...headers: string[]): string => [line, 'Host: localhost', ...headers, '', ''].join('\r\n');
const close = 'Connection: close';

describe('limits, before anything is published', () => {
  let served: Served;
  beforeAll(async () => {
    served = await serve({
      bodyLimit: 100_000,
      maxHeaderSize: 8_192,
      headersTimeout: 1_000,
      requestTimeout: 1_500,
      maxInFlight: 3,
      maxInFlightPerPrincipal: 2,
    });
  });
  afterAll(() => served.close());
  const published = () => served.hub.events.filter(({ event }) => event === 'request.accepted').length;

  it('answers 413 to a body that is too large, in one piece or in chunks, and the client gets to read it', async () => {
    const before = published();
    const whole = await served.fetch('/requests/echo', { method: 'POST', body: Buffer.alloc(3_000_000) });
    expect([whole.status, await whole.json()]).toEqual([413, expect.objectContaining({ code: 'too-large' })]);
    const chunks = (function* () {
      for (let i = 0; i < 30; i++) yield Buffer.alloc(100_000);
    })();
    const chunked = await served.fetch('/requests/echo', { method: 'POST', body: ReadableStream.from(chunks), duplex: 'half' });
    expect(chunked.status).toBe(413);
    expect(published()).toBe(before);
    expect((await served.fetch('/requests/echo', { method: 'POST', body: Buffer.alloc(100_000) })).status).toBe(200);
  });

  it('answers 431 to headers that are too large', async () => {
    expect(told(await rawly(served.port, head('GET / HTTP/1.1', `X-Long: ${'x'.repeat(9_000)}`)))).toEqual({
      statuses: [431],
      code: 'header-too-large',
    });
    expect(told(await rawly(served.port, `GET /${'x'.repeat(9_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`))).toEqual({
      statuses: [431],
      code: 'header-too-large',
    });
  });

  it('answers 408 to headers and bodies that do not come, and closes', async () => {
    const [headers, body, nothing] = await Promise.all([
      rawly(served.port, 'GET / HTTP/1.1\r\nHost: local'),
      rawly(served.port, head('POST /requests/echo HTTP/1.1', 'Content-Length: 10') + 'abc'),
      rawly(served.port, ''),
    ]);
    expect(told(headers)).toEqual({ statuses: [408], code: 'request-timeout' });
    expect(told(body)).toEqual({ statuses: [408], code: 'request-timeout' });
    expect(told(nothing).statuses).toEqual([408]);
  });

  it('holds a request for longer than it may take to send one', async () => {
    const response = await served.fetch('/requests/slow', { json: {}, headers: { prefer: 'wait=4' } });
    expect([response.status, response.headers.get('preference-applied')]).toEqual([202, 'wait=4']);
    letSlowGo();
    await served.fetch(`${response.headers.get('location')}/reply`, { headers: { prefer: 'wait=5' } });
  });

  it('answers 429 to the principal, and 503 to everybody, that has too much in flight', async () => {
    const [ann, bob] = [newKey(), newKey()];
    const principals = [ann, bob].map(({ line }, n) => ({ name: `p${n}`, flows: ['*'], topics: ['*'], keys: [line] }));
    const shared = await serve({ maxInFlight: 3, maxInFlightPerPrincipal: 2 }, { principals });
    try {
      const ask = (flow: string, { key }: { key: string }) =>
        shared.fetch(`/requests/${flow}`, { json: {}, headers: { 'x-api-key': key } });
      const held = [ask('slow', ann), ask('slow', ann)];
      await eventually(() => expect(shared.hub.hub.holding()).toBe(2));
      const before = shared.hub.events.length;
      const tooMany = await ask('echo', ann);
      expect([tooMany.status, tooMany.headers.get('retry-after'), await tooMany.json()]).toEqual([
        429,
        '1',
        expect.objectContaining({ code: 'too-many' }),
      ]);
      expect((await ask('echo', bob)).status).toBe(200);
      held.push(ask('slow', bob));
      await eventually(() => expect(shared.hub.hub.holding()).toBe(3));
      const busy = await ask('echo', bob);
      expect([busy.status, busy.headers.get('retry-after'), await busy.json()]).toEqual([
        503,
        '5',
        expect.objectContaining({ code: 'overloaded' }),
      ]);
      expect(
        shared.hub.events.slice(before).filter(({ event, fields }) => event === 'request.accepted' && fields['flow'] === 'echo'),
      ).toHaveLength(1);
      // What is answered at once is not refused: a client can still ask where its request is.
      expect((await shared.fetch('/health/ready')).status).toBe(200);
      expect((await shared.fetch('/openapi.json', { headers: { 'x-api-key': ann.key } })).status).toBe(200);
      letSlowGo();
      expect((await Promise.all(held)).map(({ status }) => status)).toEqual([200, 200, 200]);
      expect((await ask('echo', ann)).status).toBe(200);
    } finally {
      await shared.close();
    }
  });

  it('frees the places of clients that hang up', async () => {
    for (let round = 0; round < 5; round++) {
      const sockets = [1, 2].map(() => connect(served.port, '127.0.0.1'));
      for (const socket of sockets)
        socket.write(head('POST /requests/slow HTTP/1.1', 'Content-Type: application/json', 'Content-Length: 2') + '{}');
      await eventually(() => expect(served.hub.hub.holding()).toBe(2));
      for (const socket of sockets) socket.destroy();
      await eventually(() => expect(served.hub.hub.holding()).toBe(0));
    }
    letSlowGo();
    expect((await served.fetch('/requests/echo', { method: 'POST' })).status).toBe(200);
  });

  it('refuses connections above the limit and takes new ones when others have gone', async () => {
    const small = await serve({ maxConnections: 2 });
    try {
      const sockets = [connect(small.port, '127.0.0.1'), connect(small.port, '127.0.0.1')];
      await Promise.all(sockets.map((socket) => once(socket, 'connect')));
      await eventually(async () => expect(await rawly(small.port, head('GET /health/live HTTP/1.1', close))).toBe(''));
      for (const socket of sockets) socket.destroy();
      await eventually(async () => expect(told(await rawly(small.port, head('GET /health/live HTTP/1.1', close))).statuses).toEqual([200]));
    } finally {
      await small.close();
    }
  });
});

describe('what is not quite HTTP', () => {
  let served: Served;
  beforeAll(async () => {
    served = await serve({ headersTimeout: 1_000, requestTimeout: 1_000 });
  });
  afterAll(() => served.close());

  it.each<readonly [number, string, string, string]>([
    [400, 'a line that is no request', 'hello\r\n\r\n', 'bad-request'],
    [400, 'an invalid method', head('F@O / HTTP/1.1', close), 'bad-request'],
    [501, 'a method that Node knows and the hub does not', head('PROPFIND /requests/echo HTTP/1.1', close), 'unknown-method'],
    [400, 'malformed percent-encoding', head('GET /requests/%zz HTTP/1.1', close), 'bad-request'],
    [414, 'a part of the address that is too long', head(`POST /requests/${'x'.repeat(256)} HTTP/1.1`, close), 'uri-too-long'],
    [404, 'an address that there is not', head('GET /nothing HTTP/1.1', close), 'not-found'],
    [400, 'no Host', 'GET / HTTP/1.1\r\nConnection: close\r\n\r\n', 'bad-request'],
    [400, 'a line break in a header', head('GET / HTTP/1.1', 'X: a\nb\r c', close), 'bad-request'],
    [400, 'a NUL in a header', head('GET / HTTP/1.1', 'X: a\0b', close), 'bad-request'],
    [400, 'a space before the colon', head('GET / HTTP/1.1', 'X : a', close), 'bad-request'],
    [400, 'two lengths', head('POST /requests/echo HTTP/1.1', 'Content-Length: 1', 'Content-Length: 2', close) + 'ab', 'bad-request'],
    [
      400,
      'a length and chunks',
      head('POST /requests/echo HTTP/1.1', 'Content-Length: 4', 'Transfer-Encoding: chunked', close) + '0\r\n\r\n',
      'bad-request',
    ],
    [400, 'a negative length', head('POST /requests/echo HTTP/1.1', 'Content-Length: -1', close), 'bad-request'],
    [400, 'a broken chunk', head('POST /requests/echo HTTP/1.1', 'Transfer-Encoding: chunked', close) + 'zz\r\n', 'bad-request'],
    [400, 'an unknown transfer coding', head('POST /requests/echo HTTP/1.1', 'Transfer-Encoding: zip', close), 'bad-request'],
    [
      415,
      'a content type that is none',
      head('POST /requests/echo HTTP/1.1', 'Content-Type: garbage', 'Content-Length: 1', close) + 'a',
      'unsupported-media-type',
    ],
    [
      417,
      'an expectation that cannot be met',
      head('POST /requests/echo HTTP/1.1', 'Expect: a miracle', 'Content-Length: 0', close),
      'expectation-failed',
    ],
  ])('answers %s to %s', async (status, _what, bytes, code) => {
    const text = await rawly(served.port, bytes);
    expect(told(text)).toEqual({ statuses: [status], code });
    expect(text).toMatch(/content-type: application\/problem\+json/i);
    expect(text).not.toMatch(/\.ts|node_modules|at .*:\d+/);
  });

  it('answers 405 with Allow, and tells OPTIONS what there is', async () => {
    const put = await served.fetch('/requests/echo', { method: 'PUT', body: 'x' });
    expect([put.status, put.headers.get('allow'), ((await put.json()) as { code: string }).code]).toEqual([
      405,
      'POST, GET, HEAD, DELETE',
      'method-not-allowed',
    ]);
    const options = await served.fetch('/requests/x/events', { method: 'OPTIONS' });
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'GET']);
    expect((await served.fetch('/health/live', { method: 'HEAD' })).status).toBe(200);
    expect((await served.fetch('/requests/x/events', { method: 'HEAD' })).status).toBe(405);
  });

  it('answers Expect: 100-continue and HTTP/1.0', async () => {
    expect(
      told(await rawly(served.port, head('POST /requests/echo HTTP/1.1', 'Expect: 100-continue', 'Content-Length: 2', close) + 'hi'))
        .statuses,
    ).toEqual([100, 200]);
    expect(await rawly(served.port, 'GET /health/live HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 200/);
  });

  it('answers pipelined requests in order', async () => {
    const bodies = ['one', 'two', 'three'];
    const bytes = bodies
      .map((body, n) => head('POST /requests/echo HTTP/1.1', `Content-Length: ${body.length}`, ...(n === 2 ? [close] : [])) + body)
      .join('');
    const text = await rawly(served.port, bytes);
    expect(told(text).statuses).toEqual([200, 200, 200]);
    expect(bodies.map((body) => text.indexOf(`\r\n\r\n${body}`))).toEqual(
      [...bodies.map((body) => text.indexOf(`\r\n\r\n${body}`))].sort((a, b) => a - b),
    );
  });

  it('says nothing on a socket whose request the hub acts on: it would pass for its answer', async () => {
    const socket = connect(served.port, '127.0.0.1');
    let text = '';
    socket.on('data', (chunk) => (text += chunk.toString()));
    socket.write(head('POST /requests/slow HTTP/1.1', 'Content-Type: application/json', 'Content-Length: 2') + '{}');
    await eventually(() => expect(served.hub.hub.holding()).toBe(1));
    socket.write('garbage\r\n\r\n');
    await once(socket, 'close');
    expect(text).toBe('');
    letSlowGo();
  });

  it('does nothing for a request that it refused together with the garbage behind it', async () => {
    const before = served.hub.events.length;
    const text = await rawly(
      served.port,
      head('POST /requests/slow HTTP/1.1', 'Content-Type: application/json', 'Content-Length: 2') + '{}' + 'garbage\r\n\r\n',
    );
    expect(told(text)).toEqual({ statuses: [400], code: 'bad-request' });
    expect((await served.fetch('/requests/double', { json: { n: 1 } })).status).toBe(200);
    expect(
      served.hub.events
        .slice(before)
        .filter(({ event }) => event === 'request.accepted')
        .map(({ fields }) => fields['flow']),
    ).toEqual(['double']);
  });

  it('lives through hundreds of malformed inputs, each of which gets a 4xx, a 5xx of its own making, or a closed socket', async () => {
    const random = mulberry32(20_260_101);
    const inputs = Array.from({ length: 400 }, () => malformed(random));
    const wrong: string[] = [];
    for (let i = 0; i < inputs.length; i += 200) {
      await Promise.all(
        inputs.slice(i, i + 200).map(async (input) => {
          const { statuses } = told(await rawly(served.port, input, { endAfterMs: 5_000 }));
          // A mutation may leave a valid request, and the second half of a cut one is a request of its own.
          if (statuses.some((status) => status >= 500 && status !== 501))
            wrong.push(`${statuses.join()} ${JSON.stringify(input.toString('latin1'))}`);
        }),
      );
    }
    expect(wrong).toEqual([]);
    expect(served.hub.events.filter(({ event }) => event === 'failed')).toEqual([]);
    expect(await (await served.fetch('/requests/double', { json: { n: 21 } })).json()).toEqual({ n: 42 });
    await eventually(() => expect(served.hub.hub.holding()).toBe(0));
  }, 60_000);
});

function mulberry32(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A valid request with something broken in it, or plain noise. Never one that waits for an answer. */
function malformed(random: () => number): Buffer {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const noise = (length: number) => Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)));
  const valid = pick([
    head('POST /requests/echo HTTP/1.1', 'Content-Type: application/json', 'Content-Length: 7', close) + '{"a":1}',
    head('POST /requests/double HTTP/1.1', 'Content-Type: application/json', 'Transfer-Encoding: chunked', close) +
      '7\r\n{"n":1}\r\n0\r\n\r\n',
    head('GET /requests/01890000-0000-7000-8000-000000000000/reply HTTP/1.1', 'Prefer: wait=1', close),
    head('POST /events/a.b HTTP/1.1', 'Content-Length: 1', close) + 'x',
    head('GET /openapi.json HTTP/1.1', 'Accept: */*', close),
  ]);
  const bytes = Buffer.from(valid, 'latin1');
  const at = Math.floor(random() * bytes.length);
  switch (pick(['noise', 'flip', 'cut', 'insert', 'repeat', 'swap', 'line'] as const)) {
    case 'noise':
      return noise(1 + Math.floor(random() * 600));
    case 'flip':
      for (let n = 0; n < 1 + random() * 6; n++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      return bytes;
    case 'cut':
      return bytes.subarray(0, at);
    case 'insert':
      return Buffer.concat([bytes.subarray(0, at), noise(1 + Math.floor(random() * 30)), bytes.subarray(at)]);
    case 'repeat':
      return Buffer.concat([bytes.subarray(0, at), bytes]);
    case 'swap':
      return Buffer.from(
        valid.replace(pick(['\r\n', ':', ' ', 'HTTP/1.1', '/', 'Host']), pick(['\n', '\0', '', 'HTTP/9.9', '\r', '%', '//', '::'])),
        'latin1',
      );
    case 'line':
      return Buffer.from(
        valid.replace(
          '\r\n',
          `\r\n${pick(['Content-Length: x', 'Content-Length: 99999999999999999999', 'Transfer-Encoding: chunked, chunked', 'Connection: upgrade\r\nUpgrade: websocket', 'Idempotency-Key: "', 'Authorization: Bearer', 'Prefer: wait=99999999999999999', 'Host: evil.example', ' folded', 'Expect: x', 'Hub-Deadline: NaN'])}\r\n`,
        ),
        'latin1',
      );
  }
}
