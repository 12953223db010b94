/** Newer requests that take the place of older ones. On both sets of ports. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { anonymous, type KeyedPrincipal } from '../../broker/access.js';
import { worker } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { gate, settings } from './http-server.js';

let opened = gate();
const begun: unknown[] = [];
const steps = [
  worker({
    name: 'gated',
    async handle(body) {
      begun.push(body);
      await opened.opened;
      return body;
    },
  }),
];
const flows = { price: ['gated'], other: ['gated'] };

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a request that supersedes %s', (_where, openHub) => {
  let hub: TestHub;
  beforeEach(() => {
    opened = gate();
    begun.length = 0;
  });
  afterEach(() => hub?.close());
  const open = async (more: Partial<TestHubOptions> = {}) => (hub = await openHub({ flows, steps, ...more }));
  const ask = async (body: unknown, more: object = {}) => (await hub.ask('price', body, { supersedes: 'C-1042', waitMs: 0, ...more })).id;
  const outcome = async (id: string) => {
    const answer = await hub.gateway.collect(id, anonymous, 20_000);
    return answer?.kind === 'outcome' ? { kind: answer.outcome.kind, body: answer.outcome.body.toString() } : undefined;
  };

  it('cancels the older one, whose reply is too late, and is answered itself', async () => {
    await open();
    const [url = ''] = (await hub.open(http, settings)).urls;
    const post = (body: number) =>
      fetch(`${url}/requests/price`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'hub-supersedes': 'C-1042', prefer: 'wait=20' },
        body: String(body),
      });
    const held = post(1);
    await eventually(() => expect(begun).toEqual([1]));
    const newer = post(2);
    const cancelled = await held;
    expect(cancelled.status).toBe(409);
    expect(await cancelled.json()).toMatchObject({ code: 'cancelled', reason: 'superseded' });
    opened.open();
    expect(await (await newer).text()).toBe('2');
  });

  it('leaves alone what has another key, another flow, another principal, or an outcome', async () => {
    const principals: KeyedPrincipal[] = ['a', 'b'].map((name) => ({ name, flows: ['*'], topics: [], keys: [] }));
    const [a, b] = principals as [KeyedPrincipal, KeyedPrincipal];
    await open({ principals });
    opened.open();
    const ended = await hub.ask('price', 0, { supersedes: 'C-1042', principal: a });
    expect(ended.kind).toBe('outcome');
    opened = gate();
    const others = [
      await hub.ask('price', 1, { supersedes: 'C-1', waitMs: 0, principal: a }),
      await hub.ask('other', 2, { supersedes: 'C-1042', waitMs: 0, principal: a }),
      await hub.ask('price', 3, { supersedes: 'C-1042', waitMs: 0, principal: b }),
      await hub.ask('price', 4, { key: 'C-1042', waitMs: 0, principal: a }),
    ];
    const { id } = await hub.ask('price', 5, { supersedes: 'C-1042', waitMs: 0, principal: a });
    opened.open();
    for (const one of [...others, { id }])
      expect(await hub.gateway.collect(one.id, one === others[2] ? b : a, 20_000)).toMatchObject({ outcome: { kind: 'reply' } });
    expect(await hub.gateway.status(ended.id, a)).toMatchObject({ state: 'replied' });
  });

  it('is one that survives, of many that race at two hubs', async () => {
    await open();
    const other = await hub.another();
    const racers = await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        const { id } = await (n % 2 === 0 ? hub : other).ask('price', n, { supersedes: 'race', waitMs: 0 });
        return id;
      }),
    );
    opened.open();
    const kinds = await Promise.all(racers.map(async (id) => (await outcome(id))?.kind));
    expect(kinds.filter((kind) => kind === 'reply')).toHaveLength(1);
    expect(kinds.filter((kind) => kind === 'cancelled')).toHaveLength(19);
  });

  it('with an Idempotency-Key that comes twice is the same request, and cancels nothing newer', async () => {
    await open();
    const first = await ask(1, { idempotencyKey: 'one' });
    const second = await ask(2);
    expect(await ask(1, { idempotencyKey: 'one' })).toBe(first);
    opened.open();
    expect(await outcome(first)).toMatchObject({ kind: 'cancelled' });
    expect(await outcome(second)).toMatchObject({ kind: 'reply' });
  });

  it('takes the place of one that only the journal knew of', async () => {
    await open();
    const [, older] = [await ask(1), await ask(2)];
    await hub.lose();
    await eventually(async () => expect(await hub.ports.store.condition()).toMatchObject({ complete: true }), { withinMs: 20_000 });
    expect(await hub.gateway.status(older, anonymous)).toMatchObject({ state: 'running' });
    const newer = await ask(3);
    expect(await outcome(older)).toMatchObject({ kind: 'cancelled', body: expect.stringContaining('superseded') });
    await hub.lose();
    await eventually(async () => expect(await hub.ports.store.condition()).toMatchObject({ complete: true }), { withinMs: 20_000 });
    opened.open();
    expect(await outcome(older)).toMatchObject({ kind: 'cancelled' });
    expect(await outcome(newer)).toEqual({ kind: 'reply', body: '3' });
  });
});
