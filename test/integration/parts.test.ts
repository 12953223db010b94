/** Replies in parts, as lines over HTTP. On both sets of ports, with the adapter on a real socket. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { Fault, raw, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { gate, settings } from './http-server.js';

interface Line {
  readonly sequence?: number;
  readonly part?: unknown;
  readonly end?: string;
  readonly next?: string;
  readonly [other: string]: unknown;
}

/** Reads lines as they come. */
async function* linesOf(response: Response): AsyncGenerator<Line> {
  let text = '';
  for await (const chunk of response.body!) {
    text += Buffer.from(chunk).toString('utf8');
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) yield JSON.parse(line) as Line;
  }
  if (text.trim() !== '') throw new Error(`half a line: ${text}`);
}
const all = async (response: Response) => {
  const lines: Line[] = [];
  for await (const line of linesOf(response)) lines.push(line);
  return lines;
};
const numbered = (...parts: readonly unknown[]) => parts.map((part, index) => ({ sequence: index + 1, part }));

let go = gate();
let begun = 0;

const count = worker<{ to: number }>({
  name: 'count',
  async *handle({ to }) {
    for (let n = 1; n <= to; n++) yield n;
  },
});
/** Yields `a`, waits for the test, yields `b`. */
const halting = worker({
  name: 'halting',
  async *handle() {
    begun++;
    yield 'a';
    await go.opened;
    yield 'b';
  },
});
/** Yields two values and dies, the first time. */
const shaky = worker({
  name: 'shaky',
  retry: ['200ms'],
  async *handle(_body, { attempt }) {
    yield 'one';
    yield 'two';
    if (attempt === 1) throw new Error('not now');
    yield 'three';
  },
});
const refusing = worker<{ at: number }>({
  name: 'refusing',
  async *handle({ at }) {
    for (let n = 1; n < at; n++) yield n;
    throw new Fault('rejected', `no more than ${at - 1}`);
  },
});
const steps = [
  count,
  halting,
  shaky,
  refusing,
  worker({ name: 'plain', handle: () => raw(Buffer.from('{"long":\n12345678901234567890}'), 'application/json') }),
  worker({ name: 'bytes', handle: () => Buffer.from('bytes') }),
  worker<readonly number[]>({ name: 'sum', handle: (numbers) => numbers.reduce((sum, n) => sum + n, 0) }),
];
const flows: TestHubOptions['flows'] = {
  count: ['count'],
  halting: ['halting'],
  'halting.short': { steps: ['halting'], maxWaitMs: 300, waitMs: 300 },
  shaky: ['shaky'],
  refusing: ['refusing'],
  plain: ['plain'],
  bytes: ['bytes'],
  summed: ['count', 'sum'],
};

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a reply in parts %s', (_where, openHub) => {
  let hub: TestHub;
  let url = '';
  const open = async (more: Partial<TestHubOptions> = {}) => {
    go = gate();
    begun = 0;
    hub = await openHub({ flows, steps, ...more });
    url = (await hub.open(http, settings)).urls[0]!;
  };
  afterEach(async () => {
    go.open();
    await hub?.close();
  });
  const inLines = { accept: 'application/x-ndjson' };
  const ask = (flow: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${url}/requests/${flow}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...inLines, ...headers },
      body: JSON.stringify(body),
    });

  it('comes line by line, each as soon as it is there, and then says that it has ended', async () => {
    await open();
    const response = await ask('halting', {});
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/x-ndjson']);
    const lines = linesOf(response);
    expect((await lines.next()).value).toEqual({ sequence: 1, part: 'a' });
    go.open();
    expect((await lines.next()).value).toEqual({ sequence: 2, part: 'b' });
    expect((await lines.next()).value).toEqual({ end: 'replied', parts: 2 });
    expect((await lines.next()).done).toBe(true);
  });

  it('goes on after the last part that a client has, on another hub', async () => {
    await open();
    const lines = linesOf(await ask('halting', {}, { 'idempotency-key': 'k' }));
    expect((await lines.next()).value).toEqual({ sequence: 1, part: 'a' });
    await lines.return(undefined); // hangs up
    const other = await hub.another({ name: 'h2', idle: true });
    const { urls } = await other.open(http, settings);
    const again = await fetch(`${urls[0]}/requests/halting`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/jsonl', 'idempotency-key': 'k', prefer: 'wait=0' },
      body: '{}',
    });
    const { id } = (await again.json()) as { id: string };
    const resumed = fetch(`${urls[0]}/requests/${id}/reply`, { headers: { accept: 'application/jsonl', 'last-event-id': '1' } });
    go.open();
    expect(await all(await resumed)).toEqual([
      { sequence: 2, part: 'b' },
      { end: 'replied', parts: 2 },
    ]);
    expect(begun).toBe(1);
    expect(await all(await fetch(`${urls[0]}/requests/${id}/reply?after=2`, { headers: inLines }))).toEqual([{ end: 'replied', parts: 2 }]);
    expect(await all(await fetch(`${url}/requests/${id}/reply`, { headers: inLines }))).toEqual([
      ...numbered('a', 'b'),
      { end: 'replied', parts: 2 },
    ]);
  });

  it('has each part once, though its step was tried twice', async () => {
    await open();
    expect(await all(await ask('shaky', {}))).toEqual([...numbered('one', 'two', 'three'), { end: 'replied', parts: 3 }]);
  });

  it('has the parts that nobody kept, and those that the store lost', async () => {
    await open();
    const { id } = await hub.ask('count', { to: 800 }, { waitMs: 0 });
    await hub.gateway.collect(id, anonymous, 10_000);
    const reply = () => fetch(`${url}/requests/${id}/reply`, { headers: inLines });
    const whole = [...numbered(...Array.from({ length: 800 }, (_, n) => n + 1)), { end: 'replied', parts: 800 }];
    expect(await all(await reply())).toEqual(whole);
    await hub.lose();
    await eventually(async () => expect(await all(await reply())).toEqual(whole), { withinMs: 20_000 });
  });

  it('is not held for longer than its flow allows, and says where it goes on', async () => {
    await open();
    const lines = await all(await ask('halting.short', {}));
    expect(lines).toMatchObject([
      { sequence: 1, part: 'a' },
      { end: 'later', after: 1, next: expect.stringMatching(/^\/requests\/[\w-]+\/reply\?after=1$/), status: { state: 'running' } },
    ]);
    go.open();
    expect(await all(await fetch(url + lines[1]!.next!, { headers: inLines }))).toEqual([
      { sequence: 2, part: 'b' },
      { end: 'replied', parts: 2 },
    ]);
  });

  it('whose hub stops says where it goes on', async () => {
    await open();
    const other = await hub.another({ name: 'h2' });
    const { urls } = await other.open(http, settings);
    const lines = linesOf(await fetch(`${urls[0]}/requests/halting`, { method: 'POST', headers: inLines, body: '{}' }));
    expect((await lines.next()).value).toEqual({ sequence: 1, part: 'a' });
    const closing = other.close();
    const last = (await lines.next()).value as Line;
    expect(last).toMatchObject({ end: 'later', after: 1 });
    go.open();
    await closing;
    expect(await all(await fetch(url + last.next!, { headers: inLines }))).toEqual([
      { sequence: 2, part: 'b' },
      { end: 'replied', parts: 2 },
    ]);
  });

  it('that fails says so with its status, or, once it has begun, in its last line', async () => {
    await open();
    const at = await ask('refusing', { at: 1 });
    expect([at.status, await at.json()]).toMatchObject([422, { code: 'rejected' }]);
    const [first, second, last, ...more] = await all(await ask('refusing', { at: 3 }));
    expect([first, second]).toEqual(numbered(1, 2));
    expect(last).toMatchObject({ end: 'faulted', problem: { status: 422, code: 'rejected', detail: 'no more than 2' } });
    expect(more).toEqual([]);
  });

  it('of one piece is in the last line, as it is', async () => {
    await open();
    expect(await (await ask('plain', {})).text()).toBe('{"end":"replied","reply":{"long": 12345678901234567890}}\n');
    expect(await all(await ask('bytes', {}))).toEqual([
      { end: 'replied', contentType: 'application/octet-stream', base64: Buffer.from('bytes').toString('base64') },
    ]);
    // What a step on the way yields is not the reply.
    expect(await all(await ask('summed', { to: 4 }))).toEqual([{ end: 'replied', reply: 10 }]);
  });

  it('comes in one to whoever does not ask for lines', async () => {
    await open();
    const response = await ask('count', { to: 3 }, { accept: 'application/json, application/x-ndjson;q=0' });
    expect([response.headers.get('content-type'), await response.json()]).toEqual(['application/json', [1, 2, 3]]);
    expect((await ask('count', { to: 3 }, { prefer: 'respond-async' })).status).toBe(202);
    expect((await ask('nobody', {})).status).toBe(404);
    expect((await fetch(`${url}/requests/nobody/reply`, { headers: inLines })).status).toBe(404);
  });

  it('waits for a reader that is slow, and loses nothing', async () => {
    const large = worker<{ of: number }>({
      name: 'large',
      async *handle({ of }) {
        for (let n = 1; n <= of; n++) yield `${n}`.padEnd(200_000, '.');
      },
    });
    await open({ flows: { large: ['large'] }, steps: [large] });
    const response = await ask('large', { of: 40 });
    await eventually(async () => {
      const done = hub.events.find(({ event }) => event === 'request.settled');
      expect(done).toBeDefined();
    });
    const lines = await all(response);
    expect(lines.slice(0, -1).map(({ sequence, part }) => [sequence, Number.parseInt(String(part), 10)])).toEqual(
      Array.from({ length: 40 }, (_, n) => [n + 1, n + 1]),
    );
    expect(lines.at(-1)).toEqual({ end: 'replied', parts: 40 });
  });
});
