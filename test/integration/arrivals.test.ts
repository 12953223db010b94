/** Requests that arrive in parts, over HTTP and AMQP. On both sets of ports, with the adapter on a real socket. */
import { createHash } from 'node:crypto';
import { afterEach, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { anonymous, newKey, type KeyedPrincipal } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import type { PartsLimits } from '../../broker/flow.js';
import { partIdOf } from '../../broker/opened.js';
import type { Delivery } from '../../broker/transport.js';
import { storyOf } from '../../cli/trace.js';
import { aggregator, raw, split, timer, worker } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { gate, readEvents, settings } from './http-server.js';

const limits: PartsLimits = { leaseMs: 600_000, count: 50, size: 1_000, total: 4_000 };
let go = gate();
const got: unknown[] = [];
const steps = [
  worker({ name: 'list', handle: (body) => (got.push(body), { got: body }) }),
  worker<Buffer>({
    name: 'digest',
    handle: (body, { contentType }) => ({ bytes: body.length, contentType, sha: createHash('sha256').update(body).digest('hex') }),
  }),
  worker<Buffer>({ name: 'same', handle: (body, { contentType }) => raw(body, contentType) }),
  worker({ name: 'slow', handle: (body) => go.opened.then(() => body) }),
  timer({ name: 'rest', wait: '1s' }),
];
const flows: TestHubOptions['flows'] = {
  list: { steps: ['list'], parts: limits },
  numbers: { steps: ['list'], parts: limits, request: { type: 'array', items: { type: 'integer' } } },
  digest: { steps: ['digest'], parts: { ...limits, size: 1_048_576, total: 8_388_608 } },
  same: { steps: ['same'], parts: limits },
  slow: { steps: ['slow'], parts: limits },
  rested: { steps: ['rest', 'list'], parts: limits },
  hasty: { steps: ['list'], parts: { ...limits, leaseMs: 1_200 } },
  whole: ['list'],
};

interface Opened {
  readonly id: string;
  readonly state: string;
  readonly received: number;
  readonly missing: readonly number[];
  readonly [other: string]: unknown;
}
const json = async (response: Response) => (await response.json()) as Opened;
const problem = async (response: Response) => {
  const { status, detail, code, reason } = (await response.json()) as Record<string, unknown>;
  return { status, detail, code, reason };
};

/** A client of one hub. */
function clientOf(url: string, key?: string) {
  const auth: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` };
  const call = (method: string, path: string, headers: Record<string, string> = {}, body?: string | Buffer) =>
    fetch(url + path, { method, headers: { ...auth, ...headers }, ...(body === undefined ? {} : { body }) });
  return {
    call,
    open: async (flow: string) => (await json(await call('POST', `/requests/${flow}/parts`))).id,
    put: (id: string, n: number | string, part: unknown) =>
      call('PUT', `/requests/${id}/parts/${n}`, { 'content-type': 'application/json' }, JSON.stringify(part)),
    close: (id: string, parts: number | string, headers: Record<string, string> = {}) =>
      call('POST', `/requests/${id}/close`, { 'hub-parts': String(parts), ...headers }),
    status: (id: string) => call('GET', `/requests/${id}`),
  };
}

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a request in parts %s', (_where, openHub) => {
  let hub: TestHub;
  let client: ReturnType<typeof clientOf>;
  const clientAt = async (on: TestHub, key?: string) => clientOf((await on.open(http, settings)).urls[0]!, key);
  const open = async (more: Partial<TestHubOptions> = {}) => {
    go = gate();
    got.length = 0;
    hub = await openHub({ flows, steps, ...more });
    client = await clientAt(hub);
  };
  afterEach(async () => {
    go.open();
    await hub?.close();
  });
  const openDossiers = async (id: string) =>
    (await hub.ports.store.dossiers(`of:${id}`, { limit: 100 })).found.filter(({ kind }) => kind !== 'timer');

  it('is the list of its JSON parts, in their order, however they came', async () => {
    await open();
    const opening = await client.call('POST', '/requests/list/parts');
    expect(opening.status).toBe(201);
    const { id, ...document } = await json(opening);
    expect(opening.headers.get('location')).toBe(`/requests/${id}`);
    expect(document).toMatchObject({ state: 'open', flow: 'list', received: 0, bytes: 0, missing: [] });
    const third = await client.put(id, 3, { n: 3 });
    expect([third.status, await json(third)]).toMatchObject([201, { received: 1, missing: [1, 2] }]);
    expect((await client.put(id, 1, 'one')).status).toBe(201);
    expect((await client.put(id, 2, [2])).status).toBe(201);
    expect(await json(await client.status(id))).toMatchObject({ state: 'open', received: 3, missing: [], contentType: 'application/json' });
    const answer = await client.close(id, 3);
    expect([answer.status, answer.headers.get('hub-request-id'), await answer.json()]).toEqual([200, id, { got: ['one', [2], { n: 3 }] }]);
    expect(await json(await client.status(id))).toMatchObject({ id, state: 'replied' });
    await eventually(async () => expect(await openDossiers(id)).toEqual([]));
    expect(await hub.ports.store.dossier('part', partIdOf(id, 3))).toMatchObject({ isOpen: false, message: { body: Buffer.alloc(0) } });
    const story = storyOf(await hub.hub.journal.read(id), hub.hub.names).map(({ what }) => what);
    expect(story.slice(0, 3)).toEqual([
      'in parts, for list by anonymous: open, 0 here, 0 B',
      'part 3 came',
      'in parts, for list by anonymous: open, 1 here, 7 B',
    ]);
    expect(story).toContain('in parts, for list by anonymous: closed, 3 here, 15 B');
  });

  it('of any other content type is its parts one after the other, byte for byte', async () => {
    await open();
    const parts = [Buffer.from([0, 255, 10]), Buffer.alloc(700_000, 7), Buffer.from('end')];
    const id = await client.open('digest');
    for (const [index, part] of parts.entries())
      await client.call('PUT', `/requests/${id}/parts/${index + 1}`, { 'content-type': 'application/x-claim' }, part);
    const sha = createHash('sha256').update(Buffer.concat(parts)).digest('hex');
    expect(await (await client.close(id, 3)).json()).toEqual({ bytes: 700_006, contentType: 'application/x-claim', sha });
  });

  it('takes a part again as long as it is the same, also when it is closed, and no other in its place', async () => {
    await open();
    const id = await client.open('list');
    expect((await client.put(id, 1, 'a')).status).toBe(201);
    expect((await client.put(id, 1, 'a')).status).toBe(200);
    expect(await problem(await client.put(id, 1, 'b'))).toMatchObject({ status: 409, reason: 'part-differs', code: 'conflict' });
    expect(await (await client.close(id, 1)).json()).toEqual({ got: ['a'] });
    expect((await client.put(id, 1, 'a')).status).toBe(200);
    await eventually(async () => expect(await openDossiers(id)).toEqual([]));
    expect((await client.put(id, 1, 'a')).status).toBe(200);
    expect((await client.put(id, 1, 'b')).status).toBe(409);
    expect(await problem(await client.put(id, 2, 'a'))).toMatchObject({ status: 409, reason: 'closed' });
  });

  it('says which parts are missing, and which are too many', async () => {
    await open();
    const id = await client.open('list');
    for (const n of [1, 3, 6]) await client.put(id, n, n);
    expect(await problem(await client.close(id, 9))).toEqual({
      status: 409,
      code: 'conflict',
      reason: 'missing-parts',
      detail: `request ${id} cannot be closed: parts 2, 4-5, 7-9 of 9 are missing: send what is missing, then close it again`,
    });
    expect(await problem(await client.close(id, 5))).toMatchObject({
      status: 409,
      reason: 'parts',
      detail: expect.stringContaining('has 6 parts, not 5'),
    });
    expect(await problem(await client.close(id, 'all'))).toMatchObject({ status: 400 });
    for (const n of [2, 4, 5]) await client.put(id, n, n);
    expect(await (await client.close(id, 6)).json()).toEqual({ got: [1, 2, 3, 4, 5, 6] });
  });

  it('is refused what is too large, with what is allowed, and keeps nothing of it', async () => {
    await open();
    const id = await client.open('list');
    expect(await problem(await client.put(id, 51, 1))).toMatchObject({
      status: 413,
      detail: expect.stringContaining('takes 50 parts at most'),
    });
    expect(await problem(await client.put(id, 1, 'x'.repeat(1_000)))).toMatchObject({
      status: 413,
      detail: expect.stringContaining('takes 1000 a part'),
    });
    for (const n of [1, 2, 3, 4]) expect((await client.put(id, n, 'x'.repeat(900))).status).toBe(201);
    expect(await problem(await client.put(id, 5, 'x'.repeat(900)))).toMatchObject({
      status: 413,
      detail: expect.stringContaining('takes 4000 in all'),
    });
    expect((await client.put(id, 5, 'small')).status).toBe(201);
    expect(await problem(await client.put(id, 0, 1))).toMatchObject({ status: 400 });
    expect(await problem(await client.put(id, 'x', 1))).toMatchObject({ status: 400 });
    const text = await client.call('PUT', `/requests/${id}/parts/6`, { 'content-type': 'text/plain' }, 'text');
    expect(await problem(text)).toMatchObject({ status: 400, detail: expect.stringContaining('one content type') });
    const broken = await client.call('PUT', `/requests/${id}/parts/6`, { 'content-type': 'application/json' }, '{');
    expect(await problem(broken)).toMatchObject({ status: 400, detail: expect.stringContaining('part 6 is not JSON') });
    expect((await openDossiers(id)).length).toBe(6);
    const huge = await client.call('PUT', `/requests/${id}/parts/6`, {}, Buffer.alloc(1_048_577));
    expect(await problem(huge)).toMatchObject({ status: 413, detail: expect.stringContaining('1048576 bytes at most') });
  });

  it('is refused at the close like any request, and stays open', async () => {
    await open();
    const id = await client.open('numbers');
    await client.put(id, 1, 'no number');
    expect(await problem(await client.close(id, 1))).toMatchObject({ status: 400, code: 'invalid' });
    expect(await json(await client.status(id))).toMatchObject({ state: 'open', received: 1 });
    expect((await client.call('DELETE', `/requests/${id}`)).status).toBe(204);
    expect(await problem(await client.status(id))).toMatchObject({ status: 410, code: 'gone' });
    expect(await problem(await client.put(id, 2, 1))).toMatchObject({ status: 410 });
    expect(await problem(await client.close(id, 1))).toMatchObject({ status: 410 });
    await eventually(async () => expect(await openDossiers(id)).toEqual([]));
    expect(await problem(await client.call('POST', '/requests/whole/parts'))).toMatchObject({
      status: 400,
      detail: 'flow whole takes no requests in parts: hub.yaml says which do (parts: true)',
    });
    expect(await problem(await client.call('POST', '/requests/unknown/parts'))).toMatchObject({ status: 404 });
  });

  it('takes at its close all that a request may say: a wait, a key, a deadline', async () => {
    await open();
    const id = await client.open('slow');
    await client.put(id, 1, 1);
    expect(await problem(await client.call('GET', `/requests/${id}/reply`))).toMatchObject({ status: 409, reason: 'open' });
    const accepted = await client.close(id, 1, {
      prefer: 'respond-async',
      'hub-key': 'C-1',
      'idempotency-key': 'k1',
      'hub-deadline': '30',
    });
    expect([accepted.status, accepted.headers.get('location')]).toEqual([202, `/requests/${id}`]);
    expect(await accepted.json()).toMatchObject({ id, key: 'C-1' });
    const again = await client.close(id, 1, { prefer: 'respond-async' });
    expect([again.status, again.headers.get('idempotency-replayed')]).toEqual([202, 'true']);
    expect(await problem(await client.close(id, 2))).toMatchObject({ status: 409, reason: 'closed' });

    const other = await client.open('slow');
    await client.put(other, 1, 1);
    const same = await client.close(other, 1, { prefer: 'respond-async', 'idempotency-key': 'k1' });
    expect([same.status, same.headers.get('location')]).toEqual([202, `/requests/${id}`]);
    expect(await json(await client.status(other))).toMatchObject({ state: 'closed', requestId: id });
    go.open();
    expect(await (await client.close(other, 1)).json()).toEqual([1]);
    expect(await (await client.call('GET', `/requests/${id}/reply`, { prefer: 'wait=5' })).json()).toEqual([1]);
  });

  it('is appended to at one hub and closed at another, in a flow that waits', async () => {
    await open();
    const other = await clientAt(await hub.another());
    const id = await client.open('rested');
    await Promise.all([client.put(id, 1, 'a'), other.put(id, 2, 'b'), client.put(id, 3, 'c'), other.put(id, 1, 'a')]);
    expect(await (await other.close(id, 3)).json()).toEqual({ got: ['a', 'b', 'c'] });
    expect(await (await client.close(id, 3)).json()).toEqual({ got: ['a', 'b', 'c'] });
    expect(got).toHaveLength(1);
  });

  it('is one request when it is closed at two hubs at once', async () => {
    await open();
    const other = await clientAt(await hub.another());
    const id = await client.open('list');
    await client.put(id, 1, 'a');
    const answers = await Promise.all([client.close(id, 1), other.close(id, 1), client.close(id, 1)]);
    for (const answer of answers) expect([answer.status, await answer.json()]).toEqual([200, { got: ['a'] }]);
  });

  it('outlives the store', async () => {
    await open();
    const id = await client.open('list');
    await client.put(id, 1, 'a');
    await client.put(id, 2, 'b');
    await hub.lose();
    await eventually(async () => expect((await client.put(id, 3, 'c')).status).toBe(201), { withinMs: 15_000 });
    expect((await client.put(id, 2, 'b')).status).toBe(200);
    expect(await (await client.close(id, 3)).json()).toEqual({ got: ['a', 'b', 'c'] });
    await eventually(async () => expect(await openDossiers(id)).toEqual([]));
    await hub.lose();
    await eventually(async () => expect((await client.status(id)).status).toBe(200), { withinMs: 15_000 });
    expect(await openDossiers(id)).toEqual([]);
    expect(await (await client.close(id, 3)).json()).toEqual({ got: ['a', 'b', 'c'] });
  });

  it('is only its opener’s', async () => {
    const [a, b] = [newKey(), newKey()];
    const principal = (name: string, line: string): KeyedPrincipal => ({ name, flows: ['*'], topics: [], keys: [line] });
    await open({ principals: [principal('ana', a.line), principal('ben', b.line)] });
    const [ana, ben] = [await clientAt(hub, a.key), await clientAt(hub, b.key)];
    const id = await ana.open('list');
    await ana.put(id, 1, 'a');
    const paths: readonly (readonly [string, string])[] = [
      ['GET', ''],
      ['PUT', '/parts/1'],
      ['PUT', '/parts/2'],
      ['POST', '/close'],
      ['GET', '/events'],
      ['DELETE', ''],
    ];
    for (const [method, path] of paths) expect((await ben.call(method, `/requests/${id}${path}`, { 'hub-parts': '1' })).status).toBe(404);
    expect(await (await ana.close(id, 1)).json()).toEqual({ got: ['a'] });
  });

  it('reminds its opener, then expires, and says how to mend it', async () => {
    await open();
    const id = await client.open('hasty');
    const watched = readEvents(await client.call('GET', `/requests/${id}/events`));
    await client.put(id, 2, 'b');
    const events = await watched;
    expect(events.map(({ event }) => event).filter((name) => name !== 'opened')).toEqual(['reminder', 'expired']);
    expect(events.find(({ event }) => event === 'reminder')?.data).toMatchObject({ state: 'open', received: 1, missing: [1] });
    for (const late of [await client.status(id), await client.put(id, 1, 'a'), await client.close(id, 2)])
      expect(await problem(late)).toMatchObject({
        status: 410,
        code: 'expired',
        detail: expect.stringMatching(/lease ended at 20.*part 1 is missing.*parts are dropped.*POST \/requests\/hasty\/parts/),
      });
    await eventually(async () => expect(await openDossiers(id)).toEqual([]));
    expect((await client.call('GET', `/requests/${id}/events`)).status).toBe(410);
  });

  it('is watched from its opening to its outcome', async () => {
    await open();
    const id = await client.open('list');
    const watched = readEvents(await client.call('GET', `/requests/${id}/events`));
    await client.put(id, 1, 'a');
    await client.close(id, 1);
    const names = (await watched).map(({ event }) => event);
    expect([names[0], names.at(-1)]).toEqual(['opened', 'outcome']);
    expect(names).toContain('closed');
  });

  describe('from a program of another language', () => {
    const heard: Delivery[] = [];
    let queue = '';
    /** Its own queue, and what it publishes. */
    const requestor = async () => {
      heard.length = 0;
      queue = `${hub.namespace}.own`;
      await hub.ports.transport.declare({ exchanges: [], bindings: [], queues: [{ name: queue, type: 'classic', about: 'test' }] });
      const consumer = await hub.ports.transport.consume(
        queue,
        { prefetch: 10, tag: 'own' },
        async (delivery) => void heard.push(delivery),
      );
      return {
        send: (flow: string, headers: Record<string, number | boolean>, body: unknown = '', correlationId = 'c-1') =>
          hub.ports.transport.publish(
            { exchange: hub.hub.names.requests, routingKey: flow },
            {
              body: body === '' ? Buffer.alloc(0) : Buffer.from(JSON.stringify(body)),
              contentType: 'application/json',
              type: 'part',
              replyTo: queue,
              correlationId,
              headers,
            },
          ),
        close: async () => {
          await consumer.close();
          await hub.ports.transport.removeQueue(queue);
        },
      };
    };
    const said = () => heard.map(({ type, correlationId, body }) => [type, correlationId, JSON.parse(body.toString()) as unknown]);

    it('comes in any order, its end among the parts', async () => {
      await open();
      const mine = await requestor();
      await mine.send('list', { 'hub-sequence': 2 }, 'b');
      await mine.send('list', { 'hub-parts': 3 });
      await mine.send('list', { 'hub-sequence': 3 }, 'c');
      await mine.send('list', { 'hub-sequence': 1 }, 'a');
      await eventually(() => expect(said()).toEqual([['reply', 'c-1', { got: ['a', 'b', 'c'] }]]));
      await mine.send('list', { 'hub-sequence': 2 }, 'b');
      await mine.send('list', { 'hub-sequence': 1, 'hub-parts': 1 }, 'only', 'c-2');
      await eventually(() => expect(said()).toHaveLength(2));
      expect(said()[1]).toEqual(['reply', 'c-2', { got: ['only'] }]);
      await mine.close();
    });

    it('hears corrected results, if the message says so that tells how many parts there are', async () => {
      const part = (name: string) => worker({ name, handle: () => (name === 'late' ? go.opened.then(() => [name]) : [name]) });
      const both = worker({ name: 'both', handle: () => split(['now', 'late'].map((step) => ({ body: 1, steps: [step] }))) });
      const join = aggregator<string[]>({ name: 'join', atLeast: 1, combine: (answers) => answers.flatMap(({ body }) => body) });
      await open({
        steps: [both, part('now'), part('late'), join],
        flows: { two: { steps: ['both', 'join'], late: 'amend', parts: limits } },
      });
      const mine = await requestor();
      await mine.send('two', { 'hub-sequence': 1 }, 'a');
      await mine.send('two', { 'hub-parts': 1, amended: true });
      await eventually(() => expect(said()).toEqual([['reply', 'c-1', ['now']]]));
      go.open();
      await eventually(() => expect(said().slice(1)).toEqual([['amended', 'c-1', ['now', 'late']]]));
      await mine.close();
    });

    it('is reminded, and hears that it has expired', async () => {
      await open();
      const mine = await requestor();
      await mine.send('hasty', { 'hub-sequence': 1 }, 'a');
      await mine.send('hasty', { 'hub-parts': 2 });
      await eventually(() => expect(heard).toHaveLength(2), { withinMs: 8_000 });
      expect(said()).toMatchObject([
        ['progress', 'c-1', { state: 'open', received: 1, missing: [2], total: 2 }],
        ['fault', 'c-1', { code: 'timeout', reason: 'expired', message: expect.stringContaining('part 2 of 2 is missing') }],
      ]);
      expect(heard.map(({ headers }) => headers['hub-event'])).toEqual(['reminder', 'expired']);
      await mine.close();
    });

    it('hears what is refused, and that is its answer', async () => {
      await open();
      const mine = await requestor();
      await mine.send('numbers', { 'hub-sequence': 1, 'hub-parts': 1 }, 'no number');
      await eventually(() => expect(said()).toMatchObject([['fault', 'c-1', { code: 'invalid' }]]));
      await mine.send('list', { 'hub-sequence': 99 }, 'far', 'c-2');
      await mine.send('whole', { 'hub-sequence': 1 }, 'whole', 'c-3');
      await mine.send('list', {}, 'neither', 'c-4');
      await eventually(() => expect(heard).toHaveLength(4));
      const byId = new Map(said().map(([, id, body]) => [id, body]));
      expect(byId.get('c-2')).toMatchObject({ reason: 'too-large' });
      expect(byId.get('c-3')).toMatchObject({ reason: 'parts' });
      expect(byId.get('c-4')).toMatchObject({ reason: 'part' });
      await mine.close();
    });
  });
});

describe('a request in parts by a test clock', () => {
  it('lives as long as parts come, but no longer than a week', async () => {
    const clock = testClock();
    const hub = await memoryHub({ clock, flows, steps });
    const minute = 60_000;
    const { arrivals } = hub.gateway;
    const running = async <T>(work: Promise<T>): Promise<T> => (await clock.advance(10), work);
    const { id } = await running(arrivals.open({ flow: 'list', principal: anonymous }));
    const put = (sequence: number) =>
      running(arrivals.append({ id, principal: anonymous, sequence, body: Buffer.from('1'), contentType: 'application/json' }));
    const find = () => running(arrivals.find({ id, principal: anonymous }));
    for (const n of [1, 2, 3]) {
      await clock.advance(9 * minute);
      expect((await find())?.remindedAt).toBeDefined();
      expect(await put(n)).toMatchObject({ isNew: true, status: { state: 'open' } });
      expect((await find())?.remindedAt).toBeUndefined();
    }
    const week = 7 * 24 * 60;
    for (let minutes = 27; minutes < week - 9; minutes += 9) {
      await clock.advance(9 * minute);
      await put(3);
    }
    expect(await find()).toMatchObject({ state: 'open' });
    await clock.advance(9 * minute);
    expect(await find()).toMatchObject({ state: 'expired' });
    await clock.advance(25 * 60 * minute);
    expect(await find()).toBeUndefined();
    await hub.close();
  });
});
