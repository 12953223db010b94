/** Urgent requests overtake what waits at their steps. On both sets of ports. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { anonymous } from '../../broker/access.js';
import { checkFlows } from '../../broker/flow.js';
import { worker } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { flowsOf, memoryHub, realHub, type TestHub } from '../support/hub.js';
import { gate, settings } from './http-server.js';

let opened = gate();
const order: Record<string, string[]> = {};
let atOnce = 0;
let most = 0;
const one = (name: string, gated: boolean) =>
  worker({
    name,
    concurrency: 1,
    retry: ['50ms'],
    async handle(given: unknown, { attempt }) {
      const body = String(given);
      (order[name] ??= []).push(body);
      most = Math.max(most, ++atOnce);
      if (gated) await opened.opened;
      atOnce--;
      if (body === 'fails' && attempt === 1 && name === 'second') throw new Error('the first time');
      return body;
    },
  });
const steps = [one('first', true), one('second', false)];

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('an urgent request %s', (_where, openHub) => {
  let hub: TestHub;
  beforeEach(() => {
    opened = gate();
    for (const name of Object.keys(order)) delete order[name];
    most = 0;
  });
  afterEach(() => hub?.close());

  it('is taken before those that wait, at each of its steps, and never beside more than the step does at once', async () => {
    hub = await openHub({ flows: { any: { steps: ['first', 'second'], urgent: true } }, steps });
    const [url = ''] = (await hub.open(http, settings)).urls;
    const ask = async (body: unknown, more: Record<string, string> = {}) => {
      const headers = { 'content-type': 'application/json', prefer: 'respond-async', ...more };
      const response = await fetch(`${url}/requests/any`, { method: 'POST', headers, body: JSON.stringify(body) });
      expect(response.status).toBe(202);
      return ((await response.json()) as { id: string }).id;
    };
    const ids = [await ask('running')];
    await eventually(() => expect(order['first']).toEqual(['running']));
    for (const body of ['a', 'b', 'c']) ids.push(await ask(body));
    for (const body of ['now', 'fails']) ids.push(await ask(body, { 'hub-priority': 'urgent' }));
    const urgent = hub.hub.names.urgentQueue('first');
    await eventually(async () => expect(await hub.ports.transport.inspect(urgent)).toMatchObject({ ready: 0 }));
    opened.open();
    for (const id of ids) expect(await hub.gateway.collect(id, anonymous, 20_000)).toMatchObject({ outcome: { kind: 'reply' } });
    expect(order['first']).toEqual(['running', 'now', 'fails', 'a', 'b', 'c']);
    expect(order['second']!.filter((body) => body === 'fails')).toHaveLength(2);
    expect(most).toBeLessThanOrEqual(2); // one at either step
  });

  it('is refused where its flow may not be', async () => {
    hub = await openHub({ flows: { any: ['second'] }, steps });
    const [url = ''] = (await hub.open(http, settings)).urls;
    const ask = (priority: string) =>
      fetch(`${url}/requests/any`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'hub-priority': priority },
        body: '1',
      });
    expect(await (await ask('urgent')).json()).toMatchObject({ code: 'invalid', reason: 'not-urgent' });
    expect(await (await ask('high')).json()).toMatchObject({ code: 'invalid' });
    expect((await ask('normal')).status).toBe(200);
    // As a plain AMQP program says it: taken, and not urgent.
    expect(await hub.reply('any', 2, { priority: 9 })).toBe(2);
  });

  it('comes back when its queue was deleted', async () => {
    hub = await openHub({ flows: { any: { steps: ['first'], urgent: true } }, steps, checkTopologyMs: 500 });
    const running = await hub.ask('any', 'running', { waitMs: 0 });
    await eventually(() => expect(order['first']).toEqual(['running']));
    const waiting = await Promise.all(['x', 'y', 'z'].map((body) => hub.ask('any', body, { waitMs: 0, priority: 9 })));
    await hub.ports.transport.removeQueue(hub.hub.names.urgentQueue('first'));
    opened.open();
    for (const { id } of [running, ...waiting])
      expect(await hub.gateway.collect(id, anonymous, 30_000)).toMatchObject({ outcome: { kind: 'reply' } });
  });
});

describe('a flow that may be urgent', () => {
  it('is durable, in the journal, and has no step with the name of a second queue', () => {
    const known = new Map([...steps, one('first.urgent', false)].map((step) => [step.name, step]));
    const messages = checkFlows(flowsOf({ a: { steps: ['first'], urgent: true, journal: false }, b: { steps: ['first'] } }), known);
    expect(messages.map(({ message }) => message)).toEqual([
      'flow a cannot be urgent: only what is durable and in the journal has a second queue',
      'flow a is urgent, and step first.urgent has the name of the second queue of first',
    ]);
  });
});
