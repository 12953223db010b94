/** Requestors and workers in another language, with no code of ours: Python and pika, as in anybody's tutorial. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { anonymous } from '../../broker/access.js';
import { ask, foreign, Fault, worker } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, realHub, type TestHub } from '../support/hub.js';

// Debian's own, since that is the one that python3-pika is installed for.
const python = '/usr/bin/python3';

/** A message as pika shows it. */
interface Shown {
  readonly body: string;
  readonly properties: Readonly<Record<string, unknown>> & { readonly headers?: Readonly<Record<string, unknown>> };
}

interface Received extends Shown {
  readonly exchange: string;
  readonly routingKey: string;
}

interface Sent {
  readonly flow: string;
  readonly body: string;
  readonly direct?: boolean;
  readonly oneWay?: boolean;
  readonly leave?: boolean;
  readonly properties?: Readonly<Record<string, unknown>>;
}

/** What a requestor hears that listens for more than its reply. */
interface Heard {
  readonly type: string;
  readonly body: unknown;
  readonly for: string;
  readonly headers: Readonly<Record<string, unknown>>;
}

const running = new Set<ChildProcess>();

function start(script: string, ...args: string[]): ChildProcess {
  const child = spawn(python, [resolve('test/integration', script), rabbitmqUrl(), ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

describe('a program in Python', () => {
  let hub: TestHub;
  /** What our own step got, and where a copy would end that a header of the requestor's made. */
  const worked: unknown[] = [];
  const copied: unknown[] = [];

  beforeAll(async () => {
    const found = spawnSync(python, ['-c', 'import pika'], { encoding: 'utf8' });
    if (found.status !== 0)
      throw new Error(
        `these tests need Python with pika: apt-get install -y python3-pika (${found.error?.message ?? found.stderr.trim()})`,
      );
    hub = await realHub({
      flows: {
        echo: ['echo'],
        price: ['price'],
        priced: ['order', 'price', 'bill'],
        refuse: ['refuse'],
        other: ['other'],
        count: ['count'],
        claim: ['claim'],
      },
      steps: [
        worker({ name: 'echo', handle: (body) => (worked.push(body), body) }),
        worker({ name: 'order', handle: (body: unknown) => body }),
        worker({ name: 'bill', handle: (body: { price: number }) => ({ ...body, with: 'tax' }) }),
        worker({
          name: 'refuse',
          handle: () => {
            throw new Fault('rejected', 'not today');
          },
        }),
        worker({ name: 'other', handle: (body) => void copied.push(body) }),
        foreign('price'),
        worker<number>({
          name: 'count',
          async *handle(to) {
            for (let n = 1; n <= to; n++) yield { n };
          },
        }),
        worker<string>({
          name: 'claim',
          asks: true,
          handle: (claim, _envelope, { answers: [receipt, sure] }) =>
            receipt === undefined
              ? ask(`receipt of ${claim}?`, { schema: { type: 'integer' } })
              : sure === undefined
                ? ask({ sure: receipt.answer })
                : [claim, receipt.answer, sure.answer],
        }),
      ],
    });
  });
  afterEach(async () => {
    for (const child of running) {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }
  });
  afterAll(() => hub?.close());

  /** Sends messages by a Python client and waits for all its replies, by correlation id. */
  async function send(...messages: readonly Sent[]): Promise<Map<unknown, Shown>> {
    const client = start('foreign_requestor.py', hub.hub.names.requests);
    const replies = new Map<unknown, Shown>();
    let count = 0;
    createInterface({ input: client.stdout! }).on('line', (line) => {
      const reply = JSON.parse(line) as Shown;
      replies.set(reply.properties['correlation_id'], reply);
      count++;
    });
    client.stdin!.end(messages.map((message) => JSON.stringify(message)).join('\n'));
    const [code] = (await once(client, 'exit')) as [number];
    expect(code).toBe(0);
    expect(count).toBe(messages.filter(({ oneWay, leave }) => oneWay !== true && leave !== true).length);
    return replies;
  }

  /** Runs a Python worker; resolves when it consumes. */
  async function serve(step: string): Promise<readonly Received[]> {
    const received: Received[] = [];
    const server = start('foreign_worker.py', hub.hub.names.workQueue(step));
    const lines = createInterface({ input: server.stdout! });
    await once(lines, 'line');
    lines.on('line', (line) => received.push(JSON.parse(line) as Received));
    return received;
  }

  it('asks, and is answered on its own queue under its own correlation id', async () => {
    const replies = await send(
      { flow: 'echo', body: '{"a":1}', properties: { correlation_id: 'mine 1', content_type: 'application/json' } },
      { flow: 'echo', body: '{"b":"ü"}', properties: { correlation_id: '☎' } },
    );
    expect(replies.get('mine 1')).toMatchObject({
      body: '{"a":1}',
      properties: { type: 'reply', content_type: 'application/json', headers: { 'hub-state': 'replied' } },
    });
    expect(replies.get('☎')).toMatchObject({ body: '{"b":"ü"}' });
  });

  it('asks by direct reply-to', async () => {
    const replies = await send(
      { flow: 'echo', body: '[2]', direct: true, properties: { correlation_id: 'direct' } },
      { flow: 'refuse', body: '1', direct: true, properties: { correlation_id: 'refused' } },
    );
    expect(replies.get('direct')).toMatchObject({ body: '[2]', properties: { type: 'reply' } });
    expect(replies.get('refused')).toMatchObject({ properties: { type: 'fault', headers: { 'hub-state': 'faulted' } } });
  });

  it('hears a fault when it asks for a flow that is not there, by either kind of queue', async () => {
    const replies = await send(
      { flow: 'ehco', body: '1', properties: { correlation_id: 'own' } },
      { flow: 'ehco', body: '1', direct: true, properties: { correlation_id: 'direct' } },
    );
    for (const name of ['own', 'direct']) {
      const { body, properties } = replies.get(name)!;
      expect(properties).toMatchObject({ type: 'fault', headers: { 'hub-error-code': 'invalid' } });
      expect(JSON.parse(body)).toMatchObject({
        code: 'invalid',
        reason: 'unknown-flow',
        message: expect.stringContaining('did you mean "echo"'),
      });
    }
  });

  it('may use a correlation id for a second request, and its own message id for the same one', async () => {
    worked.length = 0;
    const again = { flow: 'echo', body: '"again"', properties: { correlation_id: 'used' } };
    await send(again, again);
    expect(worked).toEqual(['again', 'again']);
    worked.length = 0;
    const same = { flow: 'echo', body: '"same"', oneWay: true, properties: { message_id: 'order-7' } };
    await send(same, same, { flow: 'echo', body: '"end"', properties: { correlation_id: 'end' } });
    await eventually(() => expect([...worked].sort()).toEqual(['end', 'same']));
  });

  it('sends a message without return address, and somebody works on it', async () => {
    worked.length = 0;
    await send({ flow: 'echo', body: '"one way"', oneWay: true });
    await eventually(() => expect(worked).toEqual(['one way']));
  });

  it('hangs up before the answer, and nobody else hears of that', async () => {
    const gone = `gone ${Date.now()}`;
    await send({ flow: 'echo', body: '1', leave: true, properties: { correlation_id: gone } });
    const replies = await send({ flow: 'echo', body: '2', properties: { correlation_id: 'next' } });
    expect(replies.get('next')).toMatchObject({ body: '2' });
    expect(await hub.ports.transport.inspect(hub.hub.names.deadQueue('unrouted'))).toMatchObject({ ready: 0 });
  });

  it('serves the last step of a flow', async () => {
    const received = await serve('price');
    expect(await hub.reply('price', { n: 7 })).toEqual({ price: 70 });
    const answer = await hub.ask('price', {});
    expect(answer).toMatchObject({ kind: 'outcome', outcome: { kind: 'fault' } });
    if (answer.kind === 'outcome')
      expect(JSON.parse(answer.outcome.body.toString())).toMatchObject({ code: 'rejected', message: 'we do not sell that' });
    expect(received.length).toBe(2);
  });

  it('serves a step in the middle of a slip, and the slip goes on', async () => {
    await serve('price');
    expect(await hub.reply('priced', { n: 3 })).toEqual({ price: 30, with: 'tax' });
    expect(await hub.ask('priced', {})).toMatchObject({ outcome: { kind: 'fault' } });
    const { id } = await hub.ask('priced', { n: 4 }, { waitMs: 0 });
    const answer = await hub.gateway.collect(id, anonymous, 10_000);
    expect(answer).toMatchObject({ kind: 'outcome', outcome: { body: Buffer.from('{"price":40,"with":"tax"}') } });
  });

  it('is answered by another one', async () => {
    await serve('price');
    const replies = await send(
      { flow: 'price', body: '{"n":1}', properties: { correlation_id: 'a' } },
      { flow: 'priced', body: '{"n":2}', direct: true, properties: { correlation_id: 'b' } },
    );
    expect([...replies].map(([id, { body }]) => [id, JSON.parse(body) as unknown])).toEqual(
      expect.arrayContaining([
        ['a', { price: 10 }],
        ['b', { price: 20, with: 'tax' }],
      ]),
    );
  });

  /** Runs a requestor that answers what it is asked; resolves with all that it heard. */
  async function talk(flow: string, body: unknown, parts: boolean, ...answers: readonly unknown[]): Promise<readonly Heard[]> {
    const said = answers.map((answer) => JSON.stringify(answer));
    const client = start('foreign_talker.py', hub.hub.names.requests, flow, JSON.stringify(body), parts ? '1' : '0', ...said);
    const heard: Heard[] = [];
    createInterface({ input: client.stdout! }).on('line', (line) => heard.push(JSON.parse(line) as Heard));
    const [code] = (await once(client, 'close')) as [number];
    expect(code).toBe(0);
    return heard;
  }

  it('hears the parts of its reply before the reply, if it says so', async () => {
    const heard = await talk('count', 3, true);
    expect(heard).toMatchObject([
      ...[1, 2, 3].map((n) => ({ type: 'part', body: { n }, for: 'mine ☎', headers: { 'hub-sequence': n } })),
      { type: 'reply', body: [{ n: 1 }, { n: 2 }, { n: 3 }], for: 'mine ☎', headers: { 'hub-parts': 3 } },
    ]);
    expect(await talk('count', 3, false)).toMatchObject([{ type: 'reply', body: [{ n: 1 }, { n: 2 }, { n: 3 }] }]);
  });

  it('is asked in its own queue, answers, and hears why an answer does not fit', async () => {
    const heard = await talk('claim', 'C-1', false, 24, true);
    expect(heard).toMatchObject([
      { type: 'ask', body: 'receipt of C-1?', for: 'mine ☎', headers: { 'hub-schema': '{"type":"integer"}' } },
      { type: 'ask', body: { sure: 24 }, for: 'mine ☎' },
      { type: 'reply', body: ['C-1', 24, true], for: 'mine ☎' },
    ]);
    expect(heard[0]!.headers['hub-answer-to']).toBe(
      `answer.${String(heard[0]!.headers['hub-request-id'])}.${String(heard[0]!.headers['hub-question'])}`,
    );
    const replies = await send({ flow: String(heard[0]!.headers['hub-answer-to']), body: '25', properties: { correlation_id: 'late' } });
    expect(JSON.parse(replies.get('late')!.body)).toMatchObject({ code: 'rejected', reason: 'not-asked' });
  });

  it('cannot smuggle anything past the entrance', async () => {
    const received = await serve('price');
    const smuggled = {
      hub: 'flow=other, slip=(other), step=9, attempt=9, principal="admin", recorded, deadline=@99999999999',
      'hub-error-code': 'internal',
      'hub-ring': 'deadline',
      'hub-request-id': 'somebody else',
      'hub-anything': 1,
      CC: ['other', hub.hub.names.workQueue('other')],
      BCC: ['other', hub.hub.names.workQueue('other')],
      'x-delivery-count': 99,
      'x-death': [{ count: 5, queue: 'q', reason: 'expired', exchange: '', 'routing-keys': ['q'] }],
      'x-custom': 'mine',
      'my-own': 'header',
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
      tracestate: 'vendor=1',
    };
    const properties = {
      correlation_id: 'smuggler',
      priority: 5,
      type: 'cancel',
      app_id: 'answerback/0',
      user_id: new URL(rabbitmqUrl()).username || 'guest',
      message_id: 'mine',
      timestamp: 1,
      expiration: '60000',
      cluster_id: 'c',
      delivery_mode: 1,
      content_type: 'application/json',
      headers: smuggled,
    };
    const replies = await send({ flow: 'price', body: '{"n":5}', properties });
    expect(replies.get('smuggler')).toMatchObject({ body: '{"price": 50}', properties: { type: 'reply' } });
    expect(received.length).toBe(1);
    const {
      properties: { headers, ...seen },
      exchange,
      routingKey,
    } = received[0]!;
    expect([exchange, routingKey]).toEqual([hub.hub.names.work, 'price']);
    expect(Object.keys(headers!).sort()).toEqual(['hub', 'hub-record', 'traceparent', 'tracestate']);
    expect(headers!['hub']).toMatch(
      /^flow=price, slip=\(price\), step=1, attempt=1, at=\d+, principal="anonymous", recorded, deadline=@\d{10}$/,
    );
    expect(seen).toEqual({
      content_type: 'application/json',
      delivery_mode: 2,
      priority: 5,
      correlation_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      reply_to: hub.hub.names.reply('h1'),
      message_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      timestamp: expect.any(Number),
      type: 'request',
      app_id: expect.stringMatching(/^answerback\/\d/),
    });
    expect(seen['timestamp']).toBeGreaterThan(1_000_000_000);
    // Whoever comes later in that queue has no copy before it.
    expect(await hub.ask('other', 'last')).toMatchObject({ kind: 'outcome' });
    expect(copied).toEqual(['last']);
  });
});
