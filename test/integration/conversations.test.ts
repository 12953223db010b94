/** Conversations over WebSocket. On both sets of ports, on real sockets. */
import { once } from 'node:events';
import { afterEach, describe, expect, it } from '@jest/globals';
import { http, type HttpSettings } from '../../adapters/http/index.js';
import { ask, Fault, worker } from '../../index.js';
import { newKey } from '../../broker/access.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { open as openSocket, talk as openTalk, type Opening, type Talk } from '../support/talk.js';
import { gate, rawly, settings } from './http-server.js';

let gates = new Map<string, ReturnType<typeof gate>>();
const gateOf = (name: string) => {
  const known = gates.get(name) ?? gate();
  gates.set(name, known);
  return known;
};
let worked: string[] = [];

const work = worker<{ name: string; waits?: boolean; fails?: boolean; yields?: number }>({
  name: 'work',
  async *handle({ name, waits = false, fails = false, yields = 2 }, _envelope, { progress }) {
    worked.push(name);
    progress({ percent: 1 });
    if (fails) throw new Fault('rejected', `no ${name}`);
    for (let n = 1; n <= yields; n++) {
      if (waits && n === yields) await gateOf(name).opened;
      yield `${name}${n}`;
    }
  },
});
const steps = [
  work,
  worker<{ n: number }>({ name: 'double', handle: ({ n }) => ({ n: n * 2 }) }),
  worker<string>({
    name: 'claim',
    asks: true,
    handle: (claim, _envelope, { answers: [receipt] }) =>
      receipt === undefined ? ask(`receipt of ${claim}?`, { schema: { type: 'integer' } }) : { claim, receipt: receipt.answer },
  }),
];
const flows: TestHubOptions['flows'] = {
  work: ['work'],
  double: { steps: ['double'], request: { type: 'object', required: ['n'] } },
  claim: ['claim'],
  'volatile.double': { steps: ['double'], durable: false },
};

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a conversation %s', (_where, openHub) => {
  let hub: TestHub;
  let url = '';
  const talks: Talk[] = [];
  const open = async (more: Partial<TestHubOptions> = {}, limits: Partial<HttpSettings> = {}) => {
    gates = new Map();
    worked = [];
    hub = await openHub({ flows, steps, ...more });
    url = (await hub.open(http, { ...settings, ...limits })).urls[0]!;
  };
  const talk = async (flow: string, opening: Opening = {}, at = url) => {
    const one = await openTalk(at, flow, opening);
    talks.push(one);
    return one;
  };
  afterEach(async () => {
    for (const one of gates.values()) one.open();
    for (const one of talks.splice(0)) one.drop();
    await hub?.close();
  });
  /** What has a place: `3.1`, or `reply 3.end`. */
  const placed = (...all: readonly Talk[]) =>
    all.flatMap(({ frames }) => frames).flatMap(({ type, at }) => (at === undefined ? [] : [type === 'part' ? at : `${type} ${at}`]));

  it('takes several requests and answers them in the order in which they were accepted', async () => {
    await open();
    const mine = await talk('work');
    mine.request('first', { name: 'a', waits: true });
    mine.request('second', { name: 'b' });
    mine.request('third', { name: 'c', fails: true });
    await mine.heard('accepted', 'third');
    // The second is done, and waits for the first to be told.
    await eventually(() => expect(worked.length).toBe(3));
    await mine.heard('progress', 'second');
    await mine.heard('part', 'first');
    expect(placed(mine)).toEqual(['1.1']);
    gateOf('a').open();
    expect(await mine.heard('fault', 'third')).toMatchObject({ problem: { code: 'rejected', detail: 'no c' } });
    expect(placed(mine)).toEqual(['1.1', '1.2', 'reply 1.end', '2.1', '2.2', 'reply 2.end', 'fault 3.end']);
    expect(mine.frames.find(({ at }) => at === '2.2')).toEqual({ type: 'part', id: 'second', at: '2.2', sequence: 2, part: 'b2' });
  });

  it('goes on after a drop, on another hub, where its client says it was: nothing is lost, nothing comes twice', async () => {
    await open();
    const first = await talk('work');
    first.request('one', { name: 'a', waits: true, yields: 3 });
    first.request('two', { name: 'b' });
    await first.heard('accepted', 'two');
    await eventually(() => expect(placed(first)).toEqual(['1.1', '1.2']));
    first.drop();
    const other = await hub.another({ name: 'h2', idle: true });
    const { urls } = await other.open(http, settings);
    const second = await talk('work', { conversation: first.conversation, after: first.at }, urls[0]);
    // It may not know what was accepted, and says it again.
    second.request('two', { name: 'b' });
    second.request('three', { name: 'c' });
    gateOf('a').open();
    await second.heard('reply', 'three');
    expect(placed(first, second)).toEqual(['1.1', '1.2', '1.3', 'reply 1.end', '2.1', '2.2', 'reply 2.end', '3.1', '3.2', 'reply 3.end']);
    expect([...worked].sort()).toEqual(['a', 'b', 'c']);
    await second.close();
    const third = await talk('work', { conversation: first.conversation, after: '2.1' });
    await third.heard('reply', 'three');
    expect(placed(third)).toEqual(['2.2', 'reply 2.end', '3.1', '3.2', 'reply 3.end']);
  });

  it('outlives the store', async () => {
    await open();
    const first = await talk('work');
    first.request('one', { name: 'a' });
    await first.heard('reply', 'one');
    first.request('two', { name: 'b', waits: true });
    await first.heard('part', 'two');
    first.drop();
    await hub.lose();
    gateOf('b').open();
    let second: Talk | undefined;
    await eventually(
      async () => {
        second = await talk('work', { conversation: first.conversation, after: '1.1' });
        await Promise.race([second.heard('reply', 'two'), second.closed.then((code) => Promise.reject(new Error(`closed: ${code}`)))]);
      },
      { withinMs: 30_000 },
    );
    expect(placed(second!)).toEqual(['1.2', 'reply 1.end', '2.1', '2.2', 'reply 2.end']);
  });

  it('begins a request when the one before has ended, if it is to be ordered', async () => {
    await open();
    const mine = await talk('work', { ordered: true });
    mine.request('one', { name: 'a', waits: true });
    mine.request('two', { name: 'b' });
    await mine.heard('part', 'one');
    expect(worked).toEqual(['a']);
    gateOf('a').open();
    await mine.heard('reply', 'two');
    expect(mine.frames.map(({ type, id }) => `${type} ${id}`).indexOf('accepted two')).toBeGreaterThan(
      mine.frames.map(({ type, id }) => `${type} ${id}`).indexOf('reply one'),
    );
  });

  it('asks, is answered, and asks again after a drop what is not answered yet', async () => {
    await open();
    const first = await talk('claim');
    first.request('mine', 'C-1');
    const question = await first.heard('ask', 'mine');
    expect(question).toMatchObject({ text: 'receipt of C-1?', schema: { type: 'integer' } });
    first.drop();
    const second = await talk('claim', { conversation: first.conversation });
    expect(await second.heard('ask', 'mine')).toEqual(question);
    second.say({ type: 'answer', id: 'mine', question: question['question'], answer: 'many' });
    expect(await second.heard('refused', 'mine')).toMatchObject({ problem: { code: 'invalid', errors: [{ pointer: '#' }] } });
    second.say({ type: 'answer', id: 'mine', question: question['question'], answer: 24 });
    await second.heard('answered', 'mine');
    expect(await second.heard('reply', 'mine')).toMatchObject({ at: '1.end', body: { claim: 'C-1', receipt: 24 } });
    expect(second.frames.filter(({ type }) => type === 'ask').length).toBe(1);
  });

  it('cancels a request', async () => {
    await open();
    const mine = await talk('work');
    mine.request('one', { name: 'a', waits: true });
    await mine.heard('part', 'one');
    mine.say({ type: 'cancel', id: 'one' });
    expect(await mine.heard('fault', 'one')).toMatchObject({ at: '1.end', problem: { code: 'cancelled' } });
  });

  it('refuses what it does not understand, does not take, or has too much of, and goes on', async () => {
    await open({}, { maxOpenPerConversation: 1 });
    const mine = await talk('double');
    const refusals = () =>
      mine.frames.filter(({ type }) => type === 'refused').map(({ id, problem }) => [id, (problem as { code: string }).code]);
    mine.say('{');
    mine.say({ type: 'sing', id: 'x' });
    mine.say({ type: 'cancel', id: 'nobody' });
    mine.request('wrong', {});
    await mine.heard('refused', 'wrong');
    expect(refusals()).toEqual([
      [undefined, 'bad-request'],
      ['x', 'bad-request'],
      ['nobody', 'not-found'],
      ['wrong', 'invalid'],
    ]);
    mine.request('one', { n: 1 });
    mine.request('two', { n: 2 });
    expect(await mine.heard('refused', 'two')).toMatchObject({ problem: { code: 'too-many' } });
    expect(await mine.heard('reply', 'one')).toMatchObject({ at: '1.end', body: { n: 2 } });
    // The same id is the same request, also when it has ended.
    const before = mine.frames.length;
    mine.request('one', { n: 1 });
    await eventually(() =>
      expect(mine.frames.slice(before)).toMatchObject([
        { type: 'accepted', place: 1 },
        { type: 'reply', at: '1.end' },
      ]),
    );
  });

  it('is opened only by those who may, and tells others why not', async () => {
    const { key, line } = newKey();
    const other = newKey();
    await open(
      {
        principals: [
          { name: 'a', flows: ['work'], topics: [], keys: [line] },
          { name: 'b', flows: ['*'], topics: [], keys: [other.line] },
        ],
      },
      { maxConversationsPerPrincipal: 1 },
    );
    const headers = { authorization: `Bearer ${key}` };
    const closeOf = async (flow: string, opening: Opening) => (await once(openSocket(url, flow, opening), 'close'))[0] as number;
    expect(await closeOf('work', {})).toBe(4401);
    expect(await closeOf('double', { headers })).toBe(4403);
    expect(await closeOf('nothing', { headers })).toBe(4404);
    expect(await closeOf('work', { headers, after: 'x' })).toBe(4400);
    expect(await closeOf('volatile.double', { headers: { 'x-api-key': other.key } })).toBe(4400);
    const mine = await talk('work', { headers });
    expect(await closeOf('work', { headers })).toBe(4429);
    mine.request('one', { name: 'a' });
    await mine.heard('reply', 'one');
    // Somebody else's conversation of the same name is another one.
    const others = await talk('work', { headers: { 'x-api-key': other.key }, conversation: mine.conversation });
    others.request('one', { name: 'b', yields: 0 });
    await others.heard('reply', 'one');
    expect(placed(others)).toEqual(['reply 1.end']);
    const [, response] = (await once(
      openSocket(url, 'work', { headers: { ...headers, origin: 'https://elsewhere.example' } }),
      'unexpected-response',
    )) as [unknown, { statusCode: number }];
    expect(response.statusCode).toBe(403);
  });

  it('leaves plain HTTP as it is', async () => {
    await open();
    const plain = await fetch(`${url}/conversations/work`);
    expect([plain.status, plain.headers.get('upgrade'), await plain.json()]).toMatchObject([
      426,
      'websocket',
      { code: 'upgrade-required' },
    ]);
    // Java's client offers HTTP/2 with each request.
    const offered = `POST /requests/double HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"n":21}`;
    expect(await rawly(Number(new URL(url).port), offered)).toMatch(/^HTTP\/1.1 200 OK\r\n.*\r\n\r\n\{"n":42\}$/s);
    const wrong = `GET /requests HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`;
    expect(await rawly(Number(new URL(url).port), wrong)).toMatch(/^HTTP\/1.1 404 /);
  });

  it('notices clients that are gone, and tells the others when its hub stops', async () => {
    await open({}, { ping: 100 });
    const silent = openSocket(url, 'work');
    silent.on('ping', () => undefined);
    await once(silent, 'open');
    (silent as unknown as { _autoPong: boolean })._autoPong = false;
    await once(silent, 'close');
    const mine = await talk('work');
    mine.request('one', { name: 'a', waits: true });
    await mine.heard('accepted', 'one');
    const closing = hub.close();
    expect(await mine.closed).toBe(1001);
    gateOf('a').open();
    await closing;
  });
});
