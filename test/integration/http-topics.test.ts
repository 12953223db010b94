import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { connect } from 'node:net';
import { eventually } from '../support/eventually.js';
import { readEvents, serve, type Served } from './http-server.js';

let served: Served;
beforeAll(async () => {
  served = await serve({ ping: 20 });
});
afterAll(() => served.close());

const publish = (topic: string, body: string | Buffer, contentType: string) =>
  served.fetch(`/events/${topic}`, { method: 'POST', headers: { 'content-type': contentType }, body: body });

describe('events', () => {
  it('reach who watches a pattern: JSON parsed, text as text, anything else in base64', async () => {
    const watching = await served.fetch('/events/plant.*.temperature');
    expect([watching.status, watching.headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8']);
    const bytes = Buffer.from([255, 0, 1]);
    for (const [topic, body, type] of [
      ['plant.a.temperature', '{"celsius":21.5}', 'application/json'],
      ['plant.b.humidity', '1', 'application/json'],
      ['plant.b.temperature', 'wärm\r\n\nwarm', 'text/plain'],
      ['plant.c.temperature', bytes, 'application/octet-stream'],
      ['plant.d.temperature', '{"broken', 'application/json'],
    ] as const) {
      const response = await publish(topic, body, type);
      expect([response.status, await response.text()]).toEqual([202, '']);
    }
    const events = await readEvents(watching, (soFar) => soFar.length === 4);
    expect(events.map(({ id, event }) => [id, event])).toEqual([
      [1, 'message'],
      [2, 'message'],
      [3, 'message'],
      [4, 'message'],
    ]);
    expect(events.map(({ data }) => data)).toEqual([
      { topic: 'plant.a.temperature', contentType: 'application/json', at: expect.stringMatching(/Z$/), data: { celsius: 21.5 } },
      { topic: 'plant.b.temperature', contentType: 'text/plain', at: expect.any(String), data: 'wärm\r\n\nwarm' },
      { topic: 'plant.c.temperature', contentType: 'application/octet-stream', at: expect.any(String), base64: bytes.toString('base64') },
      { topic: 'plant.d.temperature', contentType: 'application/json', at: expect.any(String), data: '{"broken' },
    ]);
  });

  it('match any number of words by #', async () => {
    const watching = await served.fetch('/events/ship.%23');
    await publish('ship.deck.light', 'on', 'text/plain');
    expect(await readEvents(watching, (soFar) => soFar.length === 1)).toMatchObject([{ data: { topic: 'ship.deck.light', data: 'on' } }]);
  });

  it('leave their last value for who comes later', async () => {
    expect((await served.fetch('/events/never.published/last')).status).toBe(404);
    const began = Date.now();
    for (const value of ['<a>1</a>', '<a>2</a>']) await publish('stock.acme', value, 'application/xml; x=y');
    await eventually(async () => {
      const last = await served.fetch('/events/stock.acme/last');
      expect([last.status, last.headers.get('content-type'), await last.text()]).toEqual([200, 'application/xml; x=y', '<a>2</a>']);
      expect(Date.parse(last.headers.get('hub-published-at')!)).toBeGreaterThanOrEqual(began);
    });
  });

  it('are refused on topics that are none', async () => {
    for (const topic of ['a b', 'a..b', 'a.%23', '%2a']) expect((await publish(topic, 'x', 'text/plain')).status).toBe(400);
    expect((await served.fetch('/events/a..b')).status).toBe(400);
  });

  it('come with a comment now and then, so that a silent stream stays open', async () => {
    const watching = await served.fetch('/events/silence');
    let text = '';
    for await (const chunk of watching.body!) {
      text += Buffer.from(chunk).toString();
      if (text.split(':\n\n').length > 3) break;
    }
    expect(text).toMatch(/^retry: 3000\n\n(:\n\n)+/);
  });

  it('stop when the watcher leaves', async () => {
    const hangUp = new AbortController();
    const watching = await served.fetch('/events/leave.me', { signal: hangUp.signal });
    await publish('leave.me', '1', 'text/plain');
    await readEvents(watching, (soFar) => soFar.length === 1);
    hangUp.abort();
    expect((await publish('leave.me', '2', 'text/plain')).status).toBe(202);
  });

  it('are cut off from a watcher that does not read', async () => {
    const socket = connect(served.port, '127.0.0.1');
    socket.write('GET /events/flood HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await new Promise((resolve) => socket.once('data', resolve));
    socket.pause();
    const body = Buffer.alloc(1_000_000, 'x');
    // The kernel takes some megabytes before anything is left over here.
    for (let i = 0; i < 40; i++) await publish('flood', body, 'text/plain');
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.resume();
    socket.on('error', () => undefined);
    await closed;
    expect((await served.fetch('/health/ready')).status).toBe(200);
  });
});
