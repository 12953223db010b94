/** What the hub promises its requestors, on both sets of ports. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { aggregator, Fault, route, split, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { systemClock } from '../../broker/clock.js';
import type { RequestEvent } from '../../broker/store.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { eventually } from '../support/eventually.js';

/** A step that answers when the test says so. */
function gated(name: string) {
  const started: string[] = [];
  const aborted: string[] = [];
  const gates: ((body: unknown) => void)[] = [];
  const step = worker({
    name,
    handle: (_body, { requestId }, { signal }) =>
      new Promise((resolve) => {
        started.push(requestId);
        signal.addEventListener('abort', () => aborted.push(requestId));
        gates.push(resolve);
      }),
  });
  return { step, started, aborted, open: (body: unknown) => gates.splice(0).forEach((gate) => gate(body)) };
}

const echo = worker({ name: 'echo', handle: (body) => body });
/** One part for each name, to the step of that name. */
const spread = worker({ name: 'spread', handle: (names: string[]) => split(names.map((name) => ({ body: name, steps: [name] }))) });
const never = worker({
  name: 'never',
  handle: (_b, _e, { signal }) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
});

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a hub %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: TestHubOptions) => (hub = await openHub(options));
  afterEach(() => hub?.close());

  it('answers a held request without touching the store', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    const answer = await hub.ask('echo', { n: 1 });
    expect(answer).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply', contentType: 'application/json' } });
    expect(await hub.ports.store.get(answer.id)).toBeUndefined();
  });

  it('passes a body of any content type through untouched', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [worker({ name: 'echo', handle: (body: Buffer) => Buffer.from(body) })] });
    const body = Buffer.from([0, 255, 10, 13, 0]);
    const answer = await hub.gateway.request({ flow: 'echo', principal: anonymous, body, contentType: 'image/x-test' });
    expect(answer.kind === 'outcome' && answer.outcome.body.equals(body)).toBe(true);
  });

  it('turns a hold that takes too long into accepted, and keeps the late reply for the next visit', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const answer = await hub.ask('slow', 1, { waitMs: 100 });
    expect(answer).toMatchObject({ kind: 'accepted', status: { flow: 'slow', state: 'running' } });
    gate.open({ done: true });
    expect(await hub.gateway.collect(answer.id, anonymous, 5_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
    expect(await hub.gateway.status(answer.id, anonymous)).toMatchObject({ state: 'replied' });
  });

  it('shows at which step a request is that was turned into 202 while it ran', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['echo', 'slow'] }, steps: [echo, gate.step] });
    const { id } = await hub.ask('slow', 1, { waitMs: 100 });
    await eventually(async () =>
      expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'running', step: 'slow', attempt: 1 }),
    );
    gate.open(1);
  });

  it('gives the same answer for the same idempotency key, and runs the steps once', async () => {
    let runs = 0;
    await open({ flows: { count: ['count'] }, steps: [worker({ name: 'count', handle: () => ++runs })] });
    const answers = await Promise.all(Array.from({ length: 50 }, () => hub.ask('count', { a: 1 }, { idempotencyKey: 'k1' })));
    expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
    expect(answers.every((answer) => answer.kind === 'outcome' && answer.outcome.body.toString() === '1')).toBe(true);
    expect(await hub.ask('count', { a: 1 }, { idempotencyKey: 'k1' })).toMatchObject({ kind: 'outcome', replayed: true });
    expect(runs).toBe(1);
  });

  it('refuses another body under a used idempotency key', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    await hub.ask('echo', 1, { idempotencyKey: 'k2' });
    await expect(hub.ask('echo', 2, { idempotencyKey: 'k2' })).rejects.toMatchObject({ code: 'invalid', reason: 'idempotency-mismatch' });
  });

  it('hands the fault of a step to the requestor', async () => {
    await open({
      flows: { no: ['no'] },
      steps: [
        worker({
          name: 'no',
          handle: () => {
            throw new Fault('rejected', 'we do not do that');
          },
        }),
      ],
    });
    const answer = await hub.ask('no', 1);
    expect(answer).toMatchObject({ kind: 'outcome', outcome: { kind: 'fault' } });
    if (answer.kind === 'outcome')
      expect(JSON.parse(answer.outcome.body.toString())).toMatchObject({ code: 'rejected', message: 'we do not do that', step: 'no' });
  });

  it('tries an error again with the attempt counted, and gives up into the dead letter queue and an internal fault', async () => {
    const attempts: number[] = [];
    const ids = new Set<string>();
    await open({
      flows: { bad: ['bad'] },
      steps: [
        worker({
          name: 'bad',
          retry: ['50ms', '100ms'],
          handle: (_b, { attempt, id }) => {
            attempts.push(attempt);
            ids.add(id);
            throw new Error('secret detail');
          },
        }),
      ],
    });
    const answer = await hub.ask('bad', { a: 1 });
    expect(attempts).toEqual([1, 2, 3]);
    expect(ids.size).toBe(1); // the key for effects outside
    expect(answer.kind === 'outcome' && JSON.parse(answer.outcome.body.toString())).toEqual({
      code: 'internal',
      message: 'step bad failed after its last attempt',
      step: 'bad',
    });
    await eventually(async () => expect(await hub.ports.transport.inspect(hub.hub.names.deadQueue('bad'))).toMatchObject({ ready: 1 }));
    let headers: unknown;
    const consumer = await hub.ports.transport.consume(
      hub.hub.names.deadQueue('bad'),
      { prefetch: 1, tag: 'operator' },
      async (delivery) => void (headers = delivery.headers),
    );
    await eventually(() =>
      expect(headers).toMatchObject({
        'hub-error': 'secret detail',
        'hub-error-step': 'bad',
        'hub-error-code': 'internal',
        'hub-origin-queue': hub.hub.names.workQueue('bad'),
      }),
    );
    await consumer.close();
  });

  it('times a request out at its deadline, not before, and keeps what comes later from the requestor', async () => {
    const gate = gated('never');
    await open({ flows: { never: ['never'] }, steps: [gate.step] });
    const answer = await hub.ask('never', 1, { waitMs: 0, deadlineMs: 1_000 });
    const deadline = answer.kind === 'accepted' ? answer.status.deadline : 0;
    const collected = await hub.gateway.collect(answer.id, anonymous, 10_000);
    expect(collected).toMatchObject({ kind: 'outcome', outcome: { kind: 'timeout' } });
    expect(Date.now()).toBeGreaterThanOrEqual(deadline - 50);
    gate.open('too late');
    const late = async () => (await hub.hub.journal.read(answer.id)).filter(({ headers }) => headers['hub-note'] === 'outcome');
    await eventually(async () => expect((await late()).length).toBe(1));
    expect(await hub.gateway.collect(answer.id, anonymous, 0)).toMatchObject({ outcome: { kind: 'timeout' } });
  });

  it('cancels once, tells the worker, and refuses to cancel what has an outcome', async () => {
    const gate = gated('long');
    await open({ flows: { long: ['long'] }, steps: [gate.step] });
    const { id } = await hub.ask('long', 1, { waitMs: 0 });
    await eventually(() => expect(gate.started).toEqual([id]));
    expect(await hub.gateway.cancel(id, anonymous)).toBe('cancelled');
    await eventually(() => expect(gate.aborted).toEqual([id]));
    expect(await hub.gateway.cancel(id, anonymous)).toBe('ended');
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'cancelled' });
  });

  it("does not show a principal somebody else's request", async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo], principals: [{ name: 'ana', keys: [], flows: ['*'], topics: [] }] });
    const { id } = await hub.ask('echo', 1, { idempotencyKey: 'mine' });
    expect(await hub.gateway.status(id, anonymous)).toBeUndefined();
    expect(await hub.gateway.collect(id, anonymous, 0)).toBeUndefined();
    expect(await hub.gateway.cancel(id, anonymous)).toBeUndefined();
  });

  it('tells a watcher the story in order, and resumes after what was seen', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['echo', 'slow'] }, steps: [echo, gate.step] });
    const { id } = await hub.ask('slow', 1, { waitMs: 0 });
    const seen: RequestEvent[] = [];
    const watching = hub.gateway.events(id, anonymous, 0, (event) => seen.push(event), new AbortController().signal);
    await eventually(() => expect(seen.some(({ name, data }) => name === 'step' && data['step'] === 'slow')).toBe(true));
    gate.open(1);
    expect(await watching).toBe(true);
    expect(seen.map(({ sequence }) => sequence)).toEqual([...seen].map(({ sequence }) => sequence).sort((a, b) => a - b));
    expect(seen.at(-1)).toMatchObject({ name: 'outcome', data: { state: 'replied' } });
    const rest: RequestEvent[] = [];
    await hub.gateway.events(id, anonymous, seen.at(-2)!.sequence, (event) => rest.push(event), new AbortController().signal);
    expect(rest).toEqual([seen.at(-1)]);
  });

  it('answers at another hub what one hub accepted', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const other = await hub.another({ idle: true });
    const { id } = await hub.ask('slow', 1, { waitMs: 0 });
    const collected = other.gateway.collect(id, anonymous, 10_000);
    await eventually(() => expect(gate.started).toEqual([id]));
    gate.open('here');
    expect(await collected).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply', body: Buffer.from('here') } });
  });

  it('turns holds into accepted when it stops, and another hub has the answer', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step], idle: true });
    const other = await hub.another({ idle: false });
    const held = hub.ask('slow', 1, { waitMs: 30_000 });
    await eventually(() => expect(gate.started.length).toBe(1));
    hub.hub.letGo();
    const answer = await held;
    expect(answer.kind).toBe('accepted');
    gate.open('later');
    expect(await other.gateway.collect(answer.id, anonymous, 20_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  });

  it('collects the parts of a split, in groups within groups', async () => {
    const halves = worker({
      name: 'halves',
      handle: (list: number[]) =>
        split(
          [
            { body: list.slice(0, 2), name: 'left' },
            { body: list.slice(2), name: 'right' },
          ],
          { into: 'outer' },
        ),
    });
    const ones = worker({ name: 'ones', handle: (list: number[]) => split(list.map((n) => ({ body: n }))) });
    const double = worker({ name: 'double', handle: (n: number) => n * 2 });
    const inner = aggregator<number>({ name: 'inner', combine: (answers) => answers.map(({ body }) => body) });
    const outer = aggregator<number[]>({
      name: 'outer',
      combine: (answers, { completedBy }) => ({ all: answers.map(({ from, body }) => [from, body]), completedBy }),
    });
    await open({ flows: { nested: ['halves', 'ones', 'double', 'inner', 'outer'] }, steps: [halves, ones, double, inner, outer] });
    expect(await hub.reply('nested', [1, 2, 3, 4])).toEqual({
      all: [
        ['left', [2, 4]],
        ['right', [6, 8]],
      ],
      completedBy: 'all',
    });
  });

  it('completes a group at the number that is enough, by a predicate, after a quiet period, and without any part', async () => {
    const fast = ['a', 'b'].map((name) => worker({ name, handle: () => name }));
    const tell = (answers: readonly { from: string }[], { completedBy, missing }: { completedBy: string; missing: readonly string[] }) => ({
      completedBy,
      missing,
      answered: answers.map(({ from }) => from).sort(),
    });
    const two = aggregator({ name: 'two', atLeast: 2, combine: tell });
    const when = aggregator<string>({ name: 'when', completeWhen: (answers) => answers.some(({ from }) => from === 'a'), combine: tell });
    const quiet = aggregator({ name: 'quiet', quiet: '300ms', combine: tell });
    const steps = [spread, ...fast, never, two, when, quiet];
    await open({ flows: { two: ['spread', 'two'], when: ['spread', 'when'], quiet: ['spread', 'quiet'] }, steps });
    expect(await hub.reply('two', ['a', 'b', 'never'])).toEqual({ completedBy: 'at-least', missing: ['never'], answered: ['a', 'b'] });
    expect(await hub.reply('when', ['a', 'never'])).toEqual({ completedBy: 'predicate', missing: ['never'], answered: ['a'] });
    expect(await hub.reply('quiet', ['a', 'b', 'never'])).toEqual({ completedBy: 'quiet', missing: ['never'], answered: ['a', 'b'] });
    expect(await hub.reply('two', [])).toEqual({ completedBy: 'all', missing: [], answered: [] });
  });

  it('completes a group shortly before the deadline of its request, where that comes before its own', async () => {
    const gather = aggregator({ name: 'gather', combine: (answers, { completedBy, missing }) => [answers.length, completedBy, missing] });
    // Seven milliseconds past a hundredth: nine tenths of what is left of a whole second are no whole number.
    const clock = { ...systemClock, now: () => Date.now() - (Date.now() % 10) + 7 };
    await open({ flows: { some: ['spread', 'gather'] }, steps: [spread, worker({ name: 'a', handle: () => 'a' }), never, gather], clock });
    expect(await hub.reply('some', ['a', 'never'], { deadlineMs: 3_000 })).toEqual([1, 'deadline', ['never']]);
  });

  it('follows a route that a step chooses', async () => {
    const choose = worker({ name: 'choose', handle: (n: number) => route(n, n > 10 ? ['big'] : ['small']) });
    await open({
      flows: { sized: ['choose', 'small'] },
      steps: [choose, worker({ name: 'big', handle: () => 'big' }), worker({ name: 'small', handle: () => 'small' })],
    });
    expect((await hub.ask('sized', 50)) as unknown).toMatchObject({ outcome: { body: Buffer.from('big') } });
    expect((await hub.ask('sized', 5)) as unknown).toMatchObject({ outcome: { body: Buffer.from('small') } });
  });

  it('shows the values of a generator as parts while they come, and answers with all of them', async () => {
    const gate = gated('wait');
    const stream = worker({
      name: 'stream',
      async *handle() {
        yield 'one';
        yield 'two';
      },
    });
    await open({ flows: { stream: ['wait', 'stream'] }, steps: [gate.step, stream] });
    const { id } = await hub.ask('stream', 1, { waitMs: 0 });
    const seen: RequestEvent[] = [];
    const watching = hub.gateway.events(id, anonymous, 0, (event) => seen.push(event), new AbortController().signal);
    await eventually(() => expect(gate.started.length).toBe(1));
    gate.open(1);
    await watching;
    expect(seen.filter(({ name }) => name === 'part').map(({ data }) => data['part'])).toEqual(['one', 'two']);
    expect(await hub.gateway.collect(id, anonymous, 0)).toMatchObject({ outcome: { body: Buffer.from('["one","two"]') } });
  });

  it('takes a one-way message, once per key, and carries it to the end of its slip', async () => {
    const done: unknown[] = [];
    await open({ flows: { note: ['note'] }, steps: [worker({ name: 'note', handle: (body) => void done.push(body) })] });
    const send = (n: number, idempotencyKey?: string) =>
      hub.gateway.send({
        flow: 'note',
        principal: anonymous,
        body: Buffer.from(String(n)),
        contentType: 'application/json',
        ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
      });
    await send(1);
    const ids = [await send(2, 'k'), await send(2, 'k')];
    expect(ids[0]).toBe(ids[1]);
    await eventually(() => expect([...done].sort()).toEqual([1, 2]));
    await expect(send(3, 'k')).rejects.toMatchObject({ reason: 'idempotency-mismatch' });
  });

  it('publishes events to whoever listens, and remembers the last of a topic', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    const heard: string[] = [];
    const stop = await hub.gateway.subscribe('plant.*.temperature', anonymous, ({ topic, body }) =>
      heard.push(`${topic}=${body.toString()}`),
    );
    const publish = (topic: string, value: number) =>
      hub.gateway.publish(topic, anonymous, { body: Buffer.from(String(value)), contentType: 'application/json' });
    await publish('plant.a.temperature', 20);
    await publish('plant.a.pressure', 1);
    await publish('plant.b.temperature', 30);
    await eventually(() => expect(heard).toEqual(['plant.a.temperature=20', 'plant.b.temperature=30']));
    await eventually(async () => expect((await hub.gateway.last('plant.b.temperature', anonymous))?.body.toString()).toBe('30'));
    expect(await hub.gateway.last('plant.c', anonymous)).toBeUndefined();
    await stop();
  });

  it('answers a volatile flow at once, and never with accepted', async () => {
    const gate = gated('never');
    await open({
      flows: { quick: { steps: ['echo'], durable: false }, stuck: { steps: ['never'], durable: false } },
      steps: [echo, gate.step],
    });
    expect(await hub.reply('quick', { a: 1 })).toEqual({ a: 1 });
    expect(await hub.ask('stuck', 1, { waitMs: 200 })).toMatchObject({ kind: 'outcome', outcome: { kind: 'timeout' } });
    await expect(hub.ask('stuck', 1, { waitMs: 0 })).rejects.toMatchObject({ code: 'invalid', reason: 'volatile' });
    gate.open(1);
  });

  it('lets requests that come at once share messages, each with its own answer, and no more handlers run than the step says', async () => {
    let running = 0;
    let most = 0;
    const some = worker<number>({
      name: 'some',
      concurrency: 3,
      async handle(n) {
        most = Math.max(most, ++running);
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        if (n === 7) throw new Fault('rejected', 'not this one');
        return { n };
      },
    });
    await open({ flows: { many: { steps: ['some', 'echo'], durable: false, batch: true } }, steps: [some, echo] });
    const answers = await Promise.all(Array.from({ length: 150 }, (_, n) => hub.ask('many', n)));
    const told = answers.map((answer) => answer.kind === 'outcome' && `${answer.outcome.kind} ${answer.outcome.body.toString()}`);
    expect(told.filter((one, n) => one !== `reply {"n":${n}}`)).toEqual([expect.stringMatching(/^fault .*not this one/)]);
    expect(most).toBe(3);
  });

  it('goes on with the slip when a foreign worker in the middle has answered, and in a group', async () => {
    const spread = worker({ name: 'spread', handle: () => split([{ body: 1 }, { body: 2 }]) });
    const sum = aggregator<number>({ name: 'sum', combine: (answers) => answers.reduce((total, { body }) => total + body, 0) });
    const { foreign } = await import('../../index.js');
    await open({ flows: { priced: ['spread', 'legacy.price', 'sum'] }, steps: [spread, foreign('legacy.price'), sum] });
    const { transport } = hub.ports;
    const program = await transport.consume(
      hub.hub.names.workQueue('legacy.price'),
      { prefetch: 10, tag: 'foreign' },
      async ({ replyTo, correlationId, body }) =>
        transport.publish(
          { exchange: '', routingKey: replyTo! },
          { body: Buffer.from(String(Number(body.toString()) * 10)), correlationId: correlationId!, contentType: 'application/json' },
        ),
    );
    expect(await hub.reply('priced', 0)).toBe(30);
    await program.close();
  });

  it('answers a foreign requestor on its own queue, under its own correlation id', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    const { transport } = hub.ports;
    const queue = `${hub.namespace}.foreign`;
    await transport.declare({ exchanges: [], queues: [{ name: queue, type: 'quorum', about: 'a foreign requestor' }], bindings: [] });
    const heard: unknown[] = [];
    const consumer = await transport.consume(
      queue,
      { prefetch: 1, tag: 'foreign' },
      async ({ body, correlationId, type }) => void heard.push([type, correlationId, body.toString()]),
    );
    const call = (flow: string, correlationId: string, body: string) =>
      transport.publish({ exchange: hub.hub.names.requests, routingKey: flow }, { body: Buffer.from(body), replyTo: queue, correlationId });
    await call('echo', 'mine-1', '{"a":1}');
    await eventually(() => expect(heard).toEqual([['reply', 'mine-1', '{"a":1}']]));
    await call('ehco', 'mine-2', '1');
    await eventually(() => expect(heard[1]).toEqual(['fault', 'mine-2', expect.stringContaining('did you mean')]));
    await consumer.close();
    await transport.removeQueue(queue);
  });

  it('answers a foreign requestor once when its reply comes twice', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    const { transport } = hub.ports;
    const publish = transport.publish.bind(transport);
    transport.publish = async (to, message, options) => {
      await Promise.all((to.exchange === hub.hub.names.replies ? [1, 2] : [1]).map(() => publish(to, message, options)));
    };
    const queue = `${hub.namespace}.theirs`;
    await transport.declare({ exchanges: [], queues: [{ name: queue, type: 'quorum', about: 'replies of a test' }], bindings: [] });
    const ask = (n: number) =>
      publish(
        { exchange: hub.hub.names.requests, routingKey: 'echo' },
        { body: Buffer.from(`${n}`), replyTo: queue, correlationId: `${n}` },
      );
    const asked = Array.from({ length: 20 }, (_, n) => n);
    await Promise.all(asked.map(ask));
    const settled = () => hub.events.filter(({ event }) => event === 'request.settled').map((one) => one.fields['settled']);
    await eventually(() => expect(settled()).toHaveLength(40));
    expect(settled().filter((how) => how === 'same')).toHaveLength(20);
    const came: string[] = [];
    const consumer = await transport.consume(queue, { prefetch: 50, tag: 'theirs' }, async ({ body }) => void came.push(body.toString()));
    // What was sent twice is there before this one.
    await ask(20);
    await eventually(() => expect(came).toContain('20'));
    expect(came.map(Number).sort((a, b) => a - b)).toEqual([...asked, 20]);
    await consumer.close();
    await transport.removeQueue(queue);
  });

  it('refuses what it has no room for before anything is published', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step], maxInFlight: 2 });
    const held = [hub.ask('slow', 1), hub.ask('slow', 2)];
    await expect(hub.ask('slow', 3)).rejects.toMatchObject({ code: 'unavailable', reason: 'busy' });
    await eventually(() => expect(gate.started.length).toBe(2));
    gate.open(1);
    await Promise.all(held);
  });

  it('tells the whole story of a request from the journal', async () => {
    await open({ flows: { echo: ['echo', 'echo2'] }, steps: [echo, worker({ name: 'echo2', handle: (body) => body })] });
    const { id } = await hub.ask('echo', { n: 1 });
    const { names } = hub.hub;
    expect((await hub.hub.journal.read(id)).map(({ exchange, routingKey }) => [exchange, routingKey])).toEqual([
      [names.work, 'echo'],
      [names.work, 'echo2'],
      [names.replies, names.reply('h1')],
    ]);
  });

  it('writes nothing into the journal about flows that leave it out, whatever becomes of their requests', async () => {
    let attempts = 0;
    const gate = gated('slow');
    const steps = [
      echo,
      gate.step,
      worker({ name: 'spread', handle: (body) => split([{ body }, { body }]) }),
      aggregator<number>({ name: 'sum', combine: (answers) => answers.reduce((total, { body }) => total + body, 0) }),
      worker({ name: 'flaky', retry: ['50ms'], handle: (body) => (++attempts < 2 ? Promise.reject(new Error('once')) : body) }),
      worker({ name: 'bad', retry: [], handle: () => Promise.reject(new Error('always')) }),
    ];
    const plain = (...names: string[]) => ({ steps: names, journal: false });
    await open({
      flows: {
        echo: plain('echo', 'flaky'),
        sum: plain('spread', 'echo', 'sum'),
        bad: plain('bad'),
        slow: plain('slow'),
        quick: { steps: ['echo'], durable: false },
      },
      steps,
    });
    const { journal, names } = hub.hub;
    const ids: string[] = [];
    const ask = async (...asked: Parameters<TestHub['ask']>) => {
      const answer = await hub.ask(...asked);
      ids.push(answer.id);
      return answer.kind === 'outcome' ? answer.outcome : answer;
    };
    expect(await ask('echo', 1)).toMatchObject({ kind: 'reply', body: Buffer.from('1') });
    expect(attempts).toBe(2);
    expect(await ask('sum', 2)).toMatchObject({ kind: 'reply', body: Buffer.from('4') });
    expect(await ask('bad', 3)).toMatchObject({ kind: 'fault' });
    await eventually(async () => expect(await hub.ports.transport.inspect(names.deadQueue('bad'))).toMatchObject({ ready: 1 }));
    expect(await ask('quick', 4)).toMatchObject({ kind: 'reply' });
    expect(await ask('slow', 5, { waitMs: 50 })).toMatchObject({ kind: 'accepted' });
    expect(await hub.gateway.cancel(ids.at(-1)!, anonymous)).toBe('cancelled');
    expect(await ask('slow', 6, { waitMs: 50 })).toMatchObject({ kind: 'accepted' });
    gate.open(1);
    expect(await hub.gateway.collect(ids.at(-1)!, anonymous, 5_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
    expect(await ask('slow', 7, { deadlineMs: 500 })).toMatchObject({ kind: 'timeout' });
    gate.open(1);
    ids.push(await hub.gateway.send({ flow: 'echo', principal: anonymous, body: Buffer.from('8'), contentType: 'application/json' }));
    await eventually(() =>
      expect(hub.events.filter(({ event, fields }) => event === 'step.done' && fields['step'] === 'flaky').length).toBe(2),
    );
    for (const id of ids) expect(await journal.read(id)).toEqual([]);
  });

  it('hands a reply to any hub when the queue of the one that waits is gone', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: { steps: ['slow'], journal: false } }, steps: [gate.step] });
    const { id } = await hub.ask('slow', 1, { waitMs: 50 });
    await hub.ports.transport.removeQueue(hub.hub.names.reply('h1'));
    gate.open({ done: true });
    expect(await hub.gateway.collect(id, anonymous, 5_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  });

  it('leaves nothing behind in its queues', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    await Promise.all(Array.from({ length: 20 }, (_, n) => hub.ask('echo', n)));
    const { names } = hub.hub;
    for (const queue of [names.workQueue('echo'), names.reply('h1'), names.late, names.continuation, names.deadQueue('echo')]) {
      await eventually(async () => expect(await hub.ports.transport.inspect(queue)).toMatchObject({ ready: 0 }));
    }
  });
});
