import { describe, expect, it } from '@jest/globals';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { newKey } from '../../broker/access.js';
import { rawly, serve } from './http-server.js';

const ann = newKey();
const principals = [{ name: 'ann', flows: ['double', 'slow*'], topics: ['plant.*'], keys: [ann.line] }];

describe('API keys', () => {
  it('are asked for, in either header, everywhere but for the health of the hub', async () => {
    const served = await serve({}, { principals });
    try {
      for (const [method, path] of [
        ['POST', '/requests/double'],
        ['GET', '/requests/x'],
        ['GET', '/requests/x/reply'],
        ['GET', '/requests/x/events'],
        ['DELETE', '/requests/x'],
        ['POST', '/messages/double'],
        ['POST', '/events/a'],
        ['GET', '/events/a'],
        ['GET', '/events/a/last'],
        ['GET', '/openapi.json'],
        ['GET', '/asyncapi.json'],
        ['GET', '/metrics'],
        ['GET', '/'],
        ['GET', '/nothing'],
        ['PUT', '/requests/x'],
      ] as const) {
        const none = await served.fetch(path, { method });
        expect([path, none.status, none.headers.get('www-authenticate')]).toEqual([path, 401, 'Bearer realm="answerback"']);
        expect(await none.json()).toMatchObject({ code: 'unauthenticated', status: 401 });
        const wrong = await served.fetch(path, { method, headers: { authorization: `Bearer ${ann.key.slice(0, -1)}x` } });
        expect([path, wrong.status, wrong.headers.get('www-authenticate')]).toEqual([
          path,
          401,
          'Bearer realm="answerback", error="invalid_token"',
        ]);
      }
      for (const headers of [{ authorization: `Bearer ${ann.key}` }, { 'x-api-key': ann.key }])
        expect((await served.fetch('/requests/double', { json: { n: 1 }, headers })).status).toBe(200);
      expect((await served.fetch(`/requests/double?api_key=${ann.key}`, { json: { n: 1 } })).status).toBe(401);
      for (const path of ['/health/live', '/health/ready']) expect((await served.fetch(path)).status).toBe(200);
    } finally {
      await served.close();
    }
  });

  it('open the flows and topics of their principal only, in the documents as well', async () => {
    const served = await serve({}, { principals });
    try {
      const headers = { 'x-api-key': ann.key };
      const refused = await served.fetch('/requests/echo', { json: {}, headers });
      expect([refused.status, await refused.json()]).toEqual([403, expect.objectContaining({ code: 'forbidden' })]);
      expect((await served.fetch('/events/secret.x', { json: {}, headers })).status).toBe(403);
      expect((await served.fetch('/events/plant.x', { json: {}, headers })).status).toBe(202);
      const { paths } = (await (await served.fetch('/openapi.json', { headers })).json()) as { paths: object };
      expect(Object.keys(paths).filter((path) => /^\/requests\/[^{]/.test(path))).toEqual([
        '/requests/double',
        '/requests/slow',
        '/requests/slow.read',
      ]);
      const { operations } = (await (await served.fetch('/asyncapi.json', { headers })).json()) as { operations: object };
      expect(Object.keys(operations).filter((name) => name.startsWith('request.'))).toEqual([
        'request.double',
        'request.slow',
        'request.slow.read',
      ]);
    } finally {
      await served.close();
    }
  });
});

describe('a hub without authentication', () => {
  it('refuses to start on a public address, and says what to do', async () => {
    await expect(serve({ host: '0.0.0.0' })).rejects.toThrow(/principals.*HUB_HTTP_HOST=127\.0\.0\.1.*HUB_HTTP_OPEN=true/);
    await (await serve({ host: '0.0.0.0' }, { principals })).close();
    const open = await serve({ host: '0.0.0.0', open: true });
    expect(
      (
        await fetch(`http://127.0.0.1:${open.port}/requests/double`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', origin: 'https://app.example' },
          body: '{"n":1}',
        })
      ).status,
    ).toBe(200);
    await open.close();
  });

  it('takes nothing from web pages of other origins, nor under names that are not local', async () => {
    const served = await serve();
    try {
      const foreign = await served.fetch('/requests/double', { json: { n: 1 }, headers: { origin: 'https://evil.example' } });
      expect([foreign.status, await foreign.json()]).toEqual([403, expect.objectContaining({ code: 'cross-origin' })]);
      expect((await served.fetch('/requests/double', { json: { n: 1 }, headers: { origin: served.url } })).status).toBe(200);
      expect(await rawly(served.port, 'GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n')).toMatch(
        /^HTTP\/1\.1 421[^]*"code":"misdirected"/,
      );
      expect(await rawly(served.port, `GET / HTTP/1.1\r\nHost: localhost:${served.port}\r\nConnection: close\r\n\r\n`)).toMatch(
        /^HTTP\/1\.1 200/,
      );
    } finally {
      await served.close();
    }
  });
});

describe('a port', () => {
  it('that is taken is named, with what to do', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    await expect(serve({ port })).rejects.toThrow(
      `port ${port} on 127.0.0.1 is taken: stop what listens there, or choose another one with HUB_HTTP_PORT=${port + 1}`,
    );
    other.close();
  });

  it('can be any free one, and localhost is 127.0.0.1', async () => {
    const served = await serve({ host: 'localhost' });
    expect(served.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    await served.close();
  });

  it('of an address that this machine does not have is refused in words', async () => {
    await expect(serve({ host: '203.0.113.1', open: true })).rejects.toThrow(/this machine has no address 203\.0\.113\.1.*HUB_HTTP_HOST/);
  });
});

describe('every answer', () => {
  it('forbids browsers to guess types, and to run what a worker wrote', async () => {
    const served = await serve();
    try {
      const reply = await served.fetch('/requests/echo', {
        method: 'POST',
        headers: { 'content-type': 'text/html' },
        body: '<script>alert(1)</script>',
      });
      expect([reply.headers.get('x-content-type-options'), reply.headers.get('content-security-policy')]).toEqual([
        'nosniff',
        "default-src 'none'; sandbox",
      ]);
      expect((await served.fetch('/nothing')).headers.get('x-content-type-options')).toBe('nosniff');
    } finally {
      await served.close();
    }
  });
});
