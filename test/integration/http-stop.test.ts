import { afterEach, describe, expect, it } from '@jest/globals';
import { connect } from 'node:net';
import { once } from 'node:events';
import { Agent, fetch as fetchBy } from 'undici';
import { eventually } from '../support/eventually.js';
import { letSlowGo, rawly, readEvents, serve, type Served } from './http-server.js';

let served: Served | undefined;
afterEach(() => served?.close());

describe('a hub that stops', () => {
  it('answers who is held with 202, ends streams, and is gone within a moment', async () => {
    served = await serve();
    const held = served.fetch('/requests/slow', { json: {} });
    const watched = await served.fetch('/events/a');
    const id = (await served.fetch('/requests/slow', { json: {}, headers: { prefer: 'respond-async' } })).headers.get('hub-request-id');
    const told = await served.fetch(`/requests/${id}/events`);
    const silent = connect(served.port, '127.0.0.1');
    await once(silent, 'connect');
    await eventually(() => expect(served!.hub.hub.holding()).toBe(1));
    const began = performance.now();
    await served.close();
    // A test hub gives its workers 1 s; the adapter itself needs no time.
    expect(performance.now() - began).toBeLessThan(4_000);
    const response = await held;
    expect([response.status, response.headers.get('connection')]).toEqual([202, 'close']);
    expect(response.headers.get('location')).toBe(`/requests/${response.headers.get('hub-request-id')}`);
    await readEvents(watched);
    await readEvents(told);
    await expect(fetch(`${served.url}/health/live`)).rejects.toThrow();
    letSlowGo();
  });

  it('refuses what is new with 503 on connections that are open still, and is not ready', async () => {
    served = await serve();
    const agent = new Agent({ connections: 1, keepAliveTimeout: 10_000 });
    expect((await fetchBy(`${served.url}/health/ready`, { dispatcher: agent })).status).toBe(200);
    served.hub.hub.letGo();
    const refused = await fetchBy(`${served.url}/requests/double`, {
      dispatcher: agent,
      method: 'POST',
      body: '{"n":1}',
      headers: { 'content-type': 'application/json' },
    });
    expect([refused.status, refused.headers.get('retry-after'), refused.headers.get('connection')]).toEqual([503, '5', 'close']);
    expect(await refused.json()).toMatchObject({ code: 'stopping' });
    const ready = await fetchBy(`${served.url}/health/ready`, { dispatcher: agent });
    expect([ready.status, await ready.json()]).toEqual([503, { ready: false, checks: { hub: 'about to stop' } }]);
    expect((await fetchBy(`${served.url}/health/live`, { dispatcher: agent })).status).toBe(200);
    await agent.close();
  });

  it('lets an answer that is on its way reach its client', async () => {
    served = await serve();
    const bytes = 30_000_000;
    const socket = connect(served.port, '127.0.0.1');
    const body = JSON.stringify({ bytes });
    socket.write(
      `POST /requests/fill HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await once(socket, 'readable');
    let received = 0;
    const closing = served.close();
    socket.on('data', (chunk: Buffer) => (received += chunk.length));
    await Promise.all([once(socket, 'close'), closing]);
    expect(received).toBeGreaterThan(bytes);
  });

  it('answers or refuses everybody who comes while it leaves, on old connections and on new ones, and cuts nobody off', async () => {
    served = await serve({ linger: 10_000 });
    const { url } = served;
    const agent = new Agent({ keepAliveTimeout: 60_000 });
    const heard: string[] = [];
    /** Asks one thing after the other until it is refused, as it should: then it would go to another hub. */
    const client = async (): Promise<void> => {
      const response = await fetchBy(`${url}/requests/double`, {
        dispatcher: agent,
        method: 'POST',
        body: '{"n":1}',
        headers: { 'content-type': 'application/json' },
      });
      await response.arrayBuffer();
      const { status, headers } = response;
      heard.push(`${status} ${headers.get('connection')}`);
      if (status !== 503) await client();
    };
    const clients = Promise.all(Array.from({ length: 40 }, client));
    await eventually(() => expect(heard.length).toBeGreaterThan(200));
    const closing = served.close();
    await clients;
    // Nobody had come there before.
    await expect(rawly(served.port, 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n')).resolves.toMatch(
      /^HTTP\/1\.1 503[^]*\r\nconnection: close\r\n/i,
    );
    await closing;
    expect(heard.filter((what) => what === '503 close')).toHaveLength(40);
    await expect(fetch(`${url}/health/live`)).rejects.toThrow();
    await agent.close();
  });

  it('can be stopped twice, and started again on the same port', async () => {
    served = await serve();
    const { port } = served;
    await Promise.all([served.close(), served.close()]);
    served = await serve({ port });
    expect(await rawly(port, 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')).toMatch(/^HTTP\/1\.1 200/);
  });
});
