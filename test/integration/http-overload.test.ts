import { afterEach, describe, expect, it } from '@jest/globals';
import { newKey } from '../../broker/access.js';
import { eventually } from '../support/eventually.js';
import { letSlowGo, rawly, serve, type Served } from './http-server.js';

const accepted = ({ hub }: Served) => hub.events.filter(({ event }) => event === 'request.accepted').length;

/** A hub that has too much to do, whatever the load. */
async function overloaded(): Promise<Served> {
  const served = await serve();
  Object.assign(served.hub.gateway, { busy: () => ({ over: 'hub', detail: 'too much', retryAfterMs: 1_700 }) });
  return served;
}

describe('a hub that has too much to do', () => {
  let served: Served | undefined;
  afterEach(async () => {
    letSlowGo();
    await served?.close();
  });

  it('refuses what brings work, before it reads it, and says when to come back', async () => {
    served = await overloaded();
    for (const path of ['/requests/echo', '/messages/echo', '/events/a.b']) {
      // The body never comes: nobody waits for it.
      const text = await rawly(
        served.port,
        `POST ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 50000\r\n\r\n`,
        { endAfterMs: 2_000 },
      );
      expect(text).toMatch(/^HTTP\/1\.1 503 /);
      expect(text).toMatch(/\r\nretry-after: 2\r\n/i);
      expect(text).toContain('"code":"overloaded"');
    }
    expect(accepted(served)).toBe(0);
  });

  it('keeps the connection of a client that it refuses', async () => {
    served = await overloaded();
    const post = 'POST /requests/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}';
    const get = 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';
    const text = await rawly(served.port, post + post + get);
    expect([...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => status)).toEqual(['503', '503', '200']);
  });

  it('still tells where requests are, gives their replies and cancels them', async () => {
    served = await serve({ maxInFlight: 2 });
    const asked = async () => {
      const response = await served!.fetch('/requests/slow', { json: {}, headers: { prefer: 'respond-async' } });
      return response.headers.get('location')!;
    };
    const [one, other] = [await asked(), await asked()];
    const held = [1, 2].map(() => served!.fetch('/requests/slow', { json: {} }));
    await eventually(() => expect(served!.hub.hub.holding()).toBe(2));
    expect((await served.fetch('/requests/echo', { json: {} })).status).toBe(503);
    expect((await served.fetch(one)).status).toBe(200);
    expect((await served.fetch(other, { method: 'DELETE' })).status).toBe(200);
    const reply = served.fetch(`${one}/reply`, { headers: { prefer: 'wait=5' } });
    await eventually(() => expect(served!.hub.hub.holding()).toBe(3));
    letSlowGo();
    expect((await reply).status).toBe(200);
    await Promise.all(held);
  });

  it('answers 429 to a principal that is over its quota, and not to the others', async () => {
    const [ann, bob] = [newKey(), newKey()];
    const principals = [
      { name: 'ann', flows: ['*'], topics: ['*'], keys: [ann.line], limits: { perSecond: 1 } },
      { name: 'bob', flows: ['*'], topics: ['*'], keys: [bob.line], limits: { inFlight: 1 } },
    ];
    served = await serve({}, { principals });
    const ask = (flow: string, { key }: { key: string }) => served!.fetch(`/requests/${flow}`, { json: {}, headers: { 'x-api-key': key } });
    const statuses = [];
    for (let i = 0; i < 3; i++) statuses.push((await ask('echo', ann)).status);
    expect(statuses).toEqual([200, 200, 429]);
    const held = ask('slow', bob);
    await eventually(() => expect(served!.hub.hub.holding()).toBe(1));
    const second = await ask('echo', bob);
    expect([second.status, await second.json()]).toEqual([429, expect.objectContaining({ code: 'too-many' })]);
    letSlowGo();
    expect((await held).status).toBe(200);
    expect((await ask('echo', bob)).status).toBe(200);
  });
});
