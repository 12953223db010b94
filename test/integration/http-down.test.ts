/** What clients hear while RabbitMQ or Redis is away: a 503 that says when to come back, soon, on every way in. Never a hang. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, realHub, type TestHub } from '../support/hub.js';
import { faultProxy, type FaultProxy } from '../support/proxy.js';
import { redisChild, type RedisChild } from '../support/redis.js';
import { flows, settings, steps } from './http-server.js';

interface Heard {
  readonly way: string;
  readonly status: number;
  readonly retryAfter: string | null;
  readonly tookMs: number;
}

describe('while a service is down', () => {
  let proxy: FaultProxy;
  let redis: RedisChild;
  let hub: TestHub;
  let url: string;
  let id: string;

  beforeAll(async () => {
    proxy = await faultProxy(rabbitmqUrl());
    redis = await redisChild();
    await redis.start();
    hub = await realHub({ flows, steps, rabbitmq: proxy.url, redis: redis.url });
    url = (await hub.open(http, settings)).urls[0]!;
    const accepted = await post('/requests/slow', { prefer: 'respond-async' });
    id = accepted.headers.get('hub-request-id')!;
    expect(accepted.status).toBe(202);
  }, 60_000);
  afterAll(async () => {
    proxy.resume();
    proxy.refuse(false);
    redis.thaw();
    await hub.close();
    await proxy.close();
    await redis.remove();
  }, 60_000);

  const post = (path: string, headers: Readonly<Record<string, string>> = {}) =>
    fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: '{}' });

  async function heard(way: string, response: () => Promise<Response>): Promise<Heard> {
    const began = performance.now();
    const { status, headers } = await response();
    return { way, status, retryAfter: headers.get('retry-after'), tookMs: performance.now() - began };
  }

  const bringing = () => [
    heard('request', () => post('/requests/echo')),
    heard('request with a key', () => post('/requests/echo', { 'idempotency-key': `k${Math.random()}` })),
    heard('request to be answered later', () => post('/requests/echo', { prefer: 'respond-async' })),
    heard('message', () => post('/messages/echo')),
    heard('message with a key', () => post('/messages/echo', { 'idempotency-key': `m${Math.random()}` })),
    heard('event', () => post('/events/a.b')),
  ];
  const reading = () => [
    heard('status', () => fetch(`${url}/requests/${id}`)),
    heard('reply', () => fetch(`${url}/requests/${id}/reply`, { headers: { prefer: 'wait=30' } })),
    heard('events', () => fetch(`${url}/requests/${id}/events`)),
    heard('last event', () => fetch(`${url}/events/a.b/last`)),
    heard('cancel', () => fetch(`${url}/requests/${id}`, { method: 'DELETE' })),
  ];

  function expectRefused(all: readonly Heard[], withinMs: number): void {
    expect(all.filter(({ status, retryAfter }) => status !== 503 || !/^[1-9]\d?$/.test(retryAfter ?? ''))).toEqual([]);
    expect(all.filter(({ tookMs }) => tookMs > withinMs)).toEqual([]);
  }

  const works = () =>
    eventually(async () => expect((await post('/requests/echo', { 'idempotency-key': `w${Math.random()}` })).status).toBe(200), {
      withinMs: 30_000,
    });

  it('refuses within a second what needs a RabbitMQ that is gone, and still reads', async () => {
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(hub.ports.transport.state()).toBe('disconnected'));
    expectRefused(await Promise.all(bringing()), 1_000);
    expect((await heard('status', () => fetch(`${url}/requests/${id}`))).status).toBe(200);
    proxy.refuse(false);
    await works();
  }, 60_000);

  it('tells within six seconds that a RabbitMQ that has gone silent may or may not have it', async () => {
    proxy.pause();
    expectRefused(await Promise.all(bringing()), 6_000);
    proxy.resume();
    await works();
  }, 60_000);

  it('refuses within a second what needs a Redis that is gone', async () => {
    await redis.kill();
    const [plain, ...rest] = await Promise.all([...bringing(), ...reading()]);
    expect(plain!.status).toBe(200);
    expectRefused(
      rest.filter(({ way }) => !['message', 'event'].includes(way)),
      1_000,
    );
    await redis.start();
    await works();
  }, 60_000);

  it('refuses within six seconds what needs a Redis that has gone silent', async () => {
    redis.freeze();
    const [plain, ...rest] = await Promise.all([...bringing(), ...reading()]);
    expect(plain!.status).toBe(200);
    expectRefused(
      rest.filter(({ way }) => !['message', 'event'].includes(way)),
      6_000,
    );
    redis.thaw();
    await works();
  }, 60_000);

  it('turns a hold that ends meanwhile into an answer, not into a hang', async () => {
    const began = performance.now();
    const held = heard('held', () => post('/requests/slow', { prefer: 'wait=1' }));
    await eventually(() => expect(hub.hub.holding()).toBe(1));
    await redis.kill();
    const { status, tookMs } = await held;
    expect([status, tookMs < 7_000]).toEqual([503, true]);
    expect(performance.now() - began).toBeGreaterThan(1_000);
    await redis.start();
    await works();
  }, 60_000);

  it('tells who is held that an outcome cannot be written down, when the deadline passes while RabbitMQ is gone', async () => {
    const held = heard('held', () => post('/requests/slow', { prefer: 'wait=30', 'hub-deadline': '2' }));
    await eventually(() => expect(hub.hub.holding()).toBe(1));
    proxy.refuse(true);
    proxy.cut();
    expectRefused([await held], 8_000);
    proxy.refuse(false);
    await works();
  }, 60_000);
});
