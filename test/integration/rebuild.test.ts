/** Redis is emptied, or restored from an older copy, while requests are under way: the journal has everything. On both sets of ports. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { aggregator, foreign, split, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import { isFault } from '../../broker/fault.js';
import type { Answer, Ask } from '../../broker/gateway.js';
import { StoreError } from '../../broker/store.js';
import type { Delivery } from '../../broker/transport.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';

/** A step that answers when the test says so, with what it was given and a mark of its own. */
function gated(name: string) {
  let isOpen = false;
  const waiting: (() => void)[] = [];
  const handled: unknown[] = [];
  const step = worker({
    name,
    async handle(body) {
      if (!isOpen) await new Promise<void>((resolve) => waiting.push(resolve));
      handled.push(body);
      return { body, mark: Math.random() };
    },
  });
  return {
    step,
    handled,
    waiting,
    open() {
      isOpen = true;
      for (const resolve of waiting.splice(0)) resolve();
    },
  };
}

const echo = worker({ name: 'echo', handle: (body) => body });
const spread = worker({
  name: 'spread',
  handle: () => split(['bank.a', 'bank.b', 'bank.c'].map((name) => ({ body: name, steps: [name] }))),
});
const bank = (name: string) => worker({ name, handle: (body) => body });

const outcomeOf = (answer: Answer | undefined) => {
  if (answer?.kind !== 'outcome') throw new Error(`no outcome but ${answer?.kind}`);
  return { ...answer.outcome, text: answer.outcome.body.toString() };
};

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a state that is lost %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: TestHubOptions) => (hub = await openHub(options));
  afterEach(() => hub?.close());

  const isReady = () => eventually(async () => expect(await hub.gateway.ready()).toMatchObject({ ready: true }), { withinMs: 10_000 });
  /** Loses everything, and waits until it is noticed and mended. */
  async function lose(how: () => Promise<void> = hub.lose): Promise<void> {
    const before = rebuilds();
    await how();
    await eventually(() => expect(rebuilds()).toBeGreaterThan(before), { withinMs: 10_000 });
    await isReady();
  }
  const rebuilds = () => hub.events.filter(({ event }) => event === 'rebuild.done').length;
  const collect = async (id: string, waitMs = 10_000) => outcomeOf(await hub.gateway.collect(id, anonymous, waitMs));
  const later = (more: Partial<Ask> = {}): Partial<Ask> => ({ waitMs: 0, ...more });

  it('is refused to everybody until it is rebuilt, with how long to wait; nobody hears that a request is unknown', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const { id } = await hub.ask('slow', 1, later());
    const before = rebuilds();
    await hub.lose();
    const heard: unknown[] = [];
    await eventually(
      async () => {
        heard.push(await hub.gateway.status(id, anonymous).catch((fault: unknown) => fault));
        expect(rebuilds()).toBeGreaterThan(before);
      },
      { withinMs: 10_000 },
    );
    expect(heard).not.toContain(undefined);
    expect(heard.filter(isFault)).toContainEqual(
      expect.objectContaining({ code: 'unavailable', reason: 'rebuilding', retryAfterMs: 2_000 }),
    );
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ id, flow: 'slow' });
    gate.open();
    expect(await collect(id)).toMatchObject({ kind: 'reply' });
  });

  it('has its pending requests again, and they are answered', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['echo', 'slow'] }, steps: [echo, gate.step] });
    const asked = await Promise.all(Array.from({ length: 20 }, (_, n) => hub.ask('slow', { n }, later({ key: `C-${n}` }))));
    await eventually(() => expect(gate.waiting.length).toBe(20));
    await lose();
    expect(await hub.gateway.status(asked[3]!.id, anonymous)).toMatchObject({ state: 'running', step: 'slow', key: 'C-3' });
    gate.open();
    for (const [n, { id }] of asked.entries()) expect(JSON.parse((await collect(id)).text)).toMatchObject({ body: { n } });
  });

  it('has one request of a key when another one was lost on its way to the broker, and arrived after all', async () => {
    const gate = gated('once');
    await open({ flows: { once: ['once'] }, steps: [gate.step] });
    const ask = () => hub.ask('once', { n: 1 }, later({ idempotencyKey: 'k' }));
    const { id: lost } = await ask();
    // As after a rebuild that read the journal before the broker had it.
    await hub.ports.store.discard(lost);
    const { id } = await ask();
    expect(id).not.toBe(lost);
    await lose();
    expect(await hub.gateway.status(lost, anonymous)).toBeUndefined();
    expect(await ask()).toMatchObject({ id });
    gate.open();
    expect(await collect(id)).toMatchObject({ kind: 'reply' });
  });

  it('promises nothing to who asked first under a key that is another request’s since then', async () => {
    const gate = gated('once');
    await open({ flows: { once: ['once'] }, steps: [gate.step] });
    const { store, transport } = hub.ports;
    const { get, publish } = { get: store.get.bind(store), publish: transport.publish.bind(transport) };
    let arrive: () => void = () => undefined;
    const arrival = new Promise<void>((resolve) => (arrive = resolve));
    let first: string | undefined;
    transport.publish = async (to, message, options) => {
      if (to.exchange === hub.hub.names.work && (first ??= message.correlationId) === message.correlationId) await arrival;
      return publish(to, message, options);
    };
    const ask = (waitMs: number) => hub.ask('once', { n: 1 }, { waitMs, idempotencyKey: 'k' });
    const refused = expect(ask(100)).rejects.toMatchObject({ code: 'unavailable', reason: 'unknown' });
    await eventually(() => expect(first).toBeDefined());
    await lose();
    const { id } = await ask(0);
    expect(id).not.toBe(first);
    // Its hub has heard whose the key is, and cannot ask Redis when the hold is over.
    const refusals = async () => (await hub.hub.journal.read(first!)).filter(({ headers }) => headers['hub-note'] === 'refused').length;
    store.get = (one) => (one === first ? Promise.reject(new StoreError('away', 'Redis is away')) : get(one));
    arrive();
    await refused;
    await eventually(async () => expect(await refusals()).toBe(1));
    gate.open();
    expect(await collect(id)).toMatchObject({ kind: 'reply' });
  });

  it('knows its idempotency keys: the same answer byte for byte, another body refused, nothing done twice', async () => {
    const gate = gated('once');
    await open({ flows: { once: ['once'] }, steps: [gate.step] });
    gate.open();
    const first = await hub.ask('once', { n: 1 }, { idempotencyKey: 'k' });
    await lose();
    const again = await hub.ask('once', { n: 1 }, { idempotencyKey: 'k' });
    expect(again).toMatchObject({ id: first.id, replayed: true });
    expect(outcomeOf(again).text).toBe(outcomeOf(first).text);
    await expect(hub.ask('once', { n: 2 }, { idempotencyKey: 'k' })).rejects.toMatchObject({ reason: 'idempotency-mismatch' });
    expect(gate.handled.length).toBe(1);
  });

  it('keeps a request whose hold ran out, also when its answer was on the way then', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const [pending, answered] = await Promise.all([hub.ask('slow', 1, { waitMs: 100 }), hub.ask('slow', 2, { waitMs: 100 })]);
    expect([pending.kind, answered.kind]).toEqual(['accepted', 'accepted']);
    await eventually(() => expect(gate.waiting.length).toBe(2));
    gate.waiting.pop()!();
    const told = await Promise.any([collect(answered.id), collect(pending.id)]);
    await lose();
    gate.open();
    const both = [await collect(pending.id), await collect(answered.id)].map(({ text }) => text);
    expect(both).toContain(told.text);
    expect(new Set(both).size).toBe(2);
  });

  it('has its groups again, with their parts: each is complete once', async () => {
    const gate = gated('bank.c');
    const last = gated('last');
    last.open();
    await open({
      flows: { quote: ['spread', 'gather', 'last'] },
      steps: [spread, bank('bank.a'), bank('bank.b'), gate.step, aggregator({ name: 'gather', timeout: '20s' }), last.step],
    });
    const { id } = await hub.ask('quote', 1, later());
    const held = hub.reply('quote', 2);
    await eventually(async () => expect(await hub.gateway.status(id, anonymous)).toMatchObject({ waitingOn: 'parts: bank.c' }));
    await eventually(() => expect(gate.waiting.length).toBe(2));
    await lose();
    gate.open();
    const complete = { answered: ['bank.a', 'bank.b', 'bank.c'], missing: [], completedBy: 'all' };
    expect(JSON.parse((await collect(id)).text)).toMatchObject({ body: complete });
    expect(await held).toMatchObject({ body: complete });
    expect(last.handled.length).toBe(2);
  });

  it('completes a group at its deadline although the appointment was lost, too', async () => {
    const gate = gated('bank.c');
    await open({
      flows: { quote: ['spread', 'gather'] },
      steps: [spread, bank('bank.a'), bank('bank.b'), gate.step, aggregator({ name: 'gather', timeout: '3s' })],
    });
    const { id } = await hub.ask('quote', 1, later());
    await eventually(() => expect(gate.waiting.length).toBe(1));
    await eventually(async () => expect(await hub.gateway.status(id, anonymous)).toMatchObject({ waitingOn: 'parts: bank.c' }));
    await lose();
    expect(JSON.parse((await collect(id)).text)).toMatchObject({
      answered: ['bank.a', 'bank.b'],
      missing: ['bank.c'],
      completedBy: 'deadline',
    });
    gate.open();
  });

  it('completes a group that was quiet', async () => {
    const gate = gated('bank.c');
    await open({
      flows: { quote: ['spread', 'gather'] },
      steps: [spread, bank('bank.a'), bank('bank.b'), gate.step, aggregator({ name: 'gather', timeout: '50s', quiet: '2s' })],
    });
    const { id } = await hub.ask('quote', 1, later());
    await eventually(() => expect(gate.waiting.length).toBe(1));
    await lose();
    expect(JSON.parse((await collect(id)).text)).toMatchObject({ missing: ['bank.c'], completedBy: 'quiet' });
    gate.open();
  });

  it('stays with the outcome that a hub decided, whatever a worker says afterwards', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const cancelled = await hub.ask('slow', 1, later());
    const late = await hub.ask('slow', 2, later({ deadlineMs: 1_000 }));
    await eventually(() => expect(gate.waiting.length).toBe(2));
    expect(await hub.gateway.cancel(cancelled.id, anonymous)).toBe('cancelled');
    expect(await collect(late.id)).toMatchObject({ kind: 'timeout' });
    gate.open();
    await lose();
    expect(await collect(cancelled.id)).toMatchObject({ kind: 'cancelled' });
    expect(await collect(late.id)).toMatchObject({ kind: 'timeout' });
  });

  it('times out what is not answered, at its deadline', async () => {
    await open({ flows: { slow: ['slow'] }, steps: [gated('slow').step], idle: true });
    const { id } = await hub.ask('slow', 1, later({ deadlineMs: 4_000 }));
    const { deadline } = (await hub.gateway.status(id, anonymous))!;
    await lose();
    const { kind, at } = await collect(id);
    expect(kind).toBe('timeout');
    expect(at).toBeGreaterThanOrEqual(deadline);
  });

  it('does not forget what is forwarded, and forwards nothing twice', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'], fast: ['echo'] }, steps: [gate.step, echo] });
    const { transport } = hub.ports;
    const queue = `${hub.namespace}.theirs`;
    await transport.declare({ exchanges: [], queues: [{ name: queue, type: 'quorum', about: 'replies of a test' }], bindings: [] });
    const came: Delivery[] = [];
    const consumer = await transport.consume(queue, { prefetch: 10, tag: 'theirs' }, async (delivery) => void came.push(delivery));
    const ask = (flow: string, correlationId: string) =>
      transport.publish(
        { exchange: hub.hub.names.requests, routingKey: flow },
        { body: Buffer.from('1'), contentType: 'application/json', replyTo: queue, correlationId },
      );
    await Promise.all([ask('fast', 'first'), ask('slow', 'second')]);
    await eventually(() => expect(came.length).toBe(1));
    await eventually(() => expect(gate.waiting.length).toBe(1));
    await lose();
    gate.open();
    await eventually(() => expect(came.length).toBe(2));
    // What would be sent again would be sent before this one.
    await ask('fast', 'third');
    await eventually(() => expect(came.length).toBe(3));
    expect(came.map(({ correlationId }) => correlationId)).toEqual(['first', 'second', 'third']);
    await consumer.close();
    await transport.removeQueue(queue);
  });

  it('sends a keyed one-way message once', async () => {
    const gate = gated('once');
    gate.open();
    await open({ flows: { once: ['once'] }, steps: [gate.step] });
    const message = { flow: 'once', principal: anonymous, body: Buffer.from('1'), contentType: 'application/json', idempotencyKey: 'k' };
    const id = await hub.gateway.send(message);
    await eventually(() => expect(gate.handled.length).toBe(1));
    await lose();
    expect(await hub.gateway.send(message)).toBe(id);
    expect(gate.handled.length).toBe(1);
  });

  it('knows the last value of a topic', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    for (const text of ['1', '2'])
      await hub.gateway.publish('plant.temperature', anonymous, { body: Buffer.from(text), contentType: 'text/plain' });
    await eventually(async () => expect((await hub.gateway.last('plant.temperature', anonymous))?.body.toString()).toBe('2'));
    await lose();
    expect((await hub.gateway.last('plant.temperature', anonymous))?.body.toString()).toBe('2');
  });

  it('goes on when a foreign worker in the middle of a slip answers', async () => {
    await open({ flows: { mixed: ['theirs', 'echo'] }, steps: [foreign('theirs'), echo] });
    const { id } = await hub.ask('mixed', { n: 1 }, later());
    await lose();
    const { transport } = hub.ports;
    const consumer = await transport.consume(
      hub.hub.names.workQueue('theirs'),
      { prefetch: 1, tag: 'theirs' },
      async ({ replyTo, correlationId }) => {
        await transport.publish(
          { exchange: '', routingKey: replyTo! },
          {
            body: Buffer.from('{"by":"them"}'),
            contentType: 'application/json',
            ...(correlationId === undefined ? {} : { correlationId }),
          },
        );
      },
    );
    expect((await collect(id)).text).toBe('{"by":"them"}');
    await consumer.close();
  });

  it('that is only older than the journal is brought up to it', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'], once: ['once'] }, steps: [gate.step, worker({ name: 'once', handle: () => Math.random() })] });
    const before = await hub.ask('slow', 1, later());
    const restore = await hub.copy();
    const answered = await hub.ask('once', 1, { idempotencyKey: 'k' });
    const after = await hub.ask('slow', 2, later());
    expect(await hub.gateway.cancel(before.id, anonymous)).toBe('cancelled');
    await lose(restore);
    expect(hub.events.findLast(({ event }) => event === 'rebuild.started')?.fields).toMatchObject({ why: 'the last writes may be lost' });
    expect(outcomeOf(await hub.ask('once', 1, { idempotencyKey: 'k' })).text).toBe(outcomeOf(answered).text);
    expect(await collect(before.id)).toMatchObject({ kind: 'cancelled' });
    gate.open();
    expect(await collect(after.id)).toMatchObject({ kind: 'reply' });
  });

  it('is not rebuilt once more, over what others have begun to write, by who looked before it was complete', async () => {
    await open({ flows: { echo: ['echo'] }, steps: [echo] });
    await isReady();
    const { store } = hub.ports;
    const condition = store.condition.bind(store);
    let looks = 0;
    store.condition = async () => (looks++ === 0 ? { complete: false } : condition());
    const before = rebuilds();
    await eventually(() => expect(looks).toBeGreaterThan(3));
    expect(hub.events.filter(({ event }) => event === 'rebuild.started')).toHaveLength(before);
    expect(await store.lease('rebuild', 'another', 10)).toBe(true);
  });

  it('costs a step that needs the store neither attempts nor its message', async () => {
    const gate = gated('bank.c');
    await open({
      flows: { quote: ['spread', 'gather'] },
      steps: [spread, bank('bank.a'), bank('bank.b'), gate.step, aggregator({ name: 'gather', timeout: '20s' })],
    });
    const { store } = hub.ports;
    const { id } = await hub.ask('quote', 1, later());
    await eventually(() => expect(gate.waiting.length).toBe(1));
    // Somebody else is at it, and takes his time.
    await store.lease('rebuild', 'another', 4_000);
    await hub.lose();
    await store.lease('rebuild', 'another', 4_000);
    gate.open();
    await eventually(() => expect(hub.events.map(({ event }) => event)).toContain('step.waits'));
    await isReady();
    expect(JSON.parse((await collect(id, 20_000)).text)).toMatchObject({ answered: ['bank.a', 'bank.b', 'bank.c'] });
    expect(hub.events.filter(({ event }) => event === 'step.retry' || event === 'step.dead')).toEqual([]);
  });
});

describe('a request that is pending for days', () => {
  it('is carried forward, so that it is there again after a loss though the journal has forgotten its beginning', async () => {
    const ticking = testClock();
    let passed = 0;
    const clock = { ...ticking, now: () => ticking.now() + passed };
    const gate = gated('slow');
    const hour = 3_600_000;
    const hub = await memoryHub({
      flows: { slow: { steps: ['slow'], deadlineMs: 400 * hour, maxDeadlineMs: 400 * hour, waitMs: 10, maxWaitMs: 10 } },
      steps: [gate.step],
      clock,
      idle: true,
    });
    try {
      const { id } = await hub.ask('slow', 1, { waitMs: 0, idempotencyKey: 'k' });
      for (; passed < 80 * hour; passed += hour) await ticking.advance(600);
      await hub.lose();
      await ticking.advance(2_000);
      expect(await hub.gateway.status(id, anonymous)).toMatchObject({ id, flow: 'slow' });
      expect(await hub.ask('slow', 1, { waitMs: 0, idempotencyKey: 'k' })).toMatchObject({ id, replayed: true });
    } finally {
      await Promise.all([hub.close(), ticking.advance(10_000)]);
    }
  });
});
