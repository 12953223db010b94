/**
 * Messages that come twice, late, or not at all: on the real services, in this process. What clients and workers saw is
 * judged by the same checker.
 */
import { afterEach, describe, expect, it } from '@jest/globals';
import { anonymous } from '../../broker/access.js';
import { Fault } from '../../broker/fault.js';
import type { Answer, Ask } from '../../broker/gateway.js';
import { PublishError, type Delivery, type Message, type PublishFailure, type Transport } from '../../broker/transport.js';
import { amqpTransport } from '../../broker/transport-amqp.js';
import { aggregator, foreign, split, worker, type Envelope } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { broken, openHistory, type Effect, type History } from './history.js';

interface Body {
  readonly token: string;
}

describe('when a message', () => {
  let hub: TestHub;
  let history: History;
  let effects: Effect[];
  const open = async (options: Omit<TestHubOptions, 'flows'> & { readonly flows: TestHubOptions['flows'] }) => {
    history = openHistory();
    effects = [];
    return (hub = await realHub(options));
  };
  afterEach(() => hub?.close());

  const noted = (name: string, work: (body: Body, envelope: Envelope) => unknown = (body) => body) =>
    worker<Body>({
      name,
      async handle(body, envelope) {
        const note = (what: 'start' | 'end', said?: unknown) =>
          void effects.push({
            what,
            step: name,
            token: body.token,
            id: envelope.requestId,
            attempt: envelope.attempt,
            pid: process.pid,
            at: Date.now(),
            said,
          });
        note('start');
        const said = await work(body, envelope);
        note('end', said);
        return said;
      },
    });
  /** Says something else whenever it runs. */
  const answer = noted('answer', ({ token }, { requestId }) => ({ token, for: requestId, mark: Math.random() }));

  /** Asks, and reads the outcome wherever it can be read. */
  async function ask(flow: string, token: string, more: Partial<Ask> = {}, readers: readonly TestHub[] = []): Promise<Answer> {
    const operation = history.ask(token, more.idempotencyKey === undefined ? {} : { key: more.idempotencyKey });
    const first = await hub.ask(flow, { token }, more);
    operation.accepted(first.id);
    const told = first.kind === 'outcome' ? first : (await hub.gateway.collect(first.id, anonymous, 30_000))!;
    if (told.kind === 'outcome') operation.outcome(told.id, told.outcome.kind, told.outcome.body);
    if (first.kind === 'accepted' || more.idempotencyKey !== undefined) for (const reader of readers) await read(reader, told.id, token);
    return told;
  }

  async function read(reader: TestHub, id: string, token: string): Promise<void> {
    const again = await reader.gateway.collect(id, anonymous, 0);
    if (again?.kind === 'outcome') history.ask(token).outcome(id, again.outcome.kind, again.outcome.body);
  }

  const notes = async (id: string, what: string) => (await hub.hub.journal.read(id)).filter(({ headers }) => headers['hub-note'] === what);

  /** From now on each durable message is published twice. */
  function everythingTwice(): () => number {
    let count = 0;
    change(hub.ports.transport, (publish) => async (to, message, options) => {
      await publish(to, message, options);
      if (options?.durable === false) return;
      count++;
      await publish(to, message, options);
    });
    return () => count;
  }

  it('is published twice, each one, every request has one outcome and every group one result', async () => {
    const spread = worker<Body>({ name: 'spread', handle: (body) => split(['a', 'b', 'c'].map((name) => ({ body, name }))) });
    const gather = aggregator<Body>({ name: 'gather', combine: (answers, manifest) => ({ ...answers[0]!.body, manifest }) });
    const refuse = noted('refuse', () => {
      throw new Fault('rejected', `no: ${Math.random()}`);
    });
    await open({
      flows: { plain: ['one', 'two', 'answer'], scatter: ['spread', 'part', 'gather', 'answer'], refused: ['one', 'refuse'] },
      steps: [noted('one'), noted('two'), noted('part'), spread, gather, answer, refuse],
    });
    const other = await hub.another({ idle: true });
    const repeated = everythingTwice();
    const told = await Promise.all(
      Array.from({ length: 24 }, (_, n) =>
        ask(
          ['plain', 'scatter', 'refused'][n % 3]!,
          `t${n}`,
          { ...(n % 2 === 0 ? {} : { idempotencyKey: `k${n}` }), ...(n % 4 < 2 ? {} : { waitMs: 0 }) },
          [hub, other],
        ),
      ),
    );
    expect(told.map((one) => (one.kind === 'outcome' ? one.outcome.kind : one.kind))).toEqual(
      told.map((_, n) => (n % 3 === 2 ? 'fault' : 'reply')),
    );
    expect(repeated()).toBeGreaterThan(24 * 3);
    // Until every copy has been worked off, there may be another outcome.
    const { names } = hub.hub;
    for (const queue of [
      ...['one', 'two', 'part', 'spread', 'gather', 'answer', 'refuse'].map(names.workQueue),
      names.reply('h1'),
      names.late,
    ])
      await eventually(async () => expect(await hub.ports.transport.inspect(queue)).toMatchObject({ ready: 0 }));
    for (const [n, { id }] of told.entries()) for (const reader of [hub, other]) await read(reader, id, `t${n}`);
    expect(broken(history.seen, effects, { withinMs: 30_000 })).toEqual([]);
    const results = told.flatMap((one) =>
      one.kind === 'outcome' && one.outcome.kind === 'reply' ? [effects.filter(({ id, step }) => id === one.id && step === 'answer')] : [],
    );
    expect(results.length).toBe(16);
  });

  it('is not known to have arrived, and its repeat is refused, a client that comes back with its key has one request', async () => {
    await open({ flows: { plain: ['answer'] }, steps: [answer] });
    const failures: PublishFailure[] = ['unknown', 'unavailable'];
    let arrive: () => Promise<void> = async () => undefined;
    const restore = change(hub.ports.transport, (publish) => async (to, message, options) => {
      const failure = to.exchange === hub.hub.names.work ? failures.shift() : undefined;
      if (failure === undefined) return publish(to, message, options);
      // The first one does arrive in the end; only nobody knows.
      if (failure === 'unknown') arrive = () => publish(to, message, options);
      throw new PublishError(failure, 'by the test');
    });
    const again = () => hub.ask('plain', { token: 't' }, { idempotencyKey: 'k', again: true });
    await expect(again()).rejects.toMatchObject({ reason: 'unknown' });
    await expect(again()).rejects.toMatchObject({ reason: 'unknown' });
    await arrive();
    restore();
    const told = await ask('plain', 't', { idempotencyKey: 'k' });
    expect(told).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
    expect(new Set(effects.map(({ id }) => id)).size).toBe(1);
    expect(broken(history.seen, effects, { withinMs: 30_000 })).toEqual([]);
  });

  it('is with the broker when the store goes away, its client is told to come back, for it will be worked on', async () => {
    await open({ flows: { plain: ['answer'] }, steps: [answer] });
    const { store } = hub.ports;
    const get = store.get.bind(store);
    store.get = () => Promise.reject(new Error('away, by the test'));
    const { id, kind } = await hub.ask('plain', { token: 't' }, { waitMs: 0 });
    expect(kind).toBe('accepted');
    store.get = get;
    expect(await hub.gateway.collect(id, anonymous, 10_000)).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  });

  describe('of a foreign worker', () => {
    /** A program that takes from the queue of `legacy`, and answers as the test says. */
    const program = async (work: (delivery: Delivery, reply: (text: string) => Promise<void>) => Promise<void>) =>
      hub.ports.transport.consume(hub.hub.names.workQueue('legacy'), { prefetch: 10, tag: 'legacy' }, (delivery) => {
        const said = (text: string): Message => ({
          body: Buffer.from(text),
          contentType: 'text/plain',
          ...(delivery.correlationId === undefined ? {} : { correlationId: delivery.correlationId }),
        });
        return work(delivery, (text) => hub.ports.transport.publish({ exchange: '', routingKey: delivery.replyTo! }, said(text)));
      });
    const textOf = (told: Answer | undefined) =>
      told?.kind === 'outcome' ? `${told.outcome.kind} ${told.outcome.body.toString()}` : told?.kind;

    it.each([
      ['held', {}],
      ['recorded', { idempotencyKey: 'k' }],
      ['not waited for', { waitMs: 0 }],
    ] as const)('comes twice, the first one wins and the second is late: %s', async (_how, more) => {
      await open({ flows: { legacy: ['legacy'] }, steps: [foreign('legacy')] });
      const legacy = await program(async (_delivery, reply) => void (await Promise.all([reply('first'), reply('second')])));
      const told = await ask('legacy', 't', more, [hub]);
      expect(textOf(told)).toBe('reply first');
      await eventually(async () => expect((await notes(told.id, 'late')).map(({ headers }) => headers['hub-outcome'])).toEqual(['reply']));
      // What counts may be told again beside what is late, never anything else.
      const outcomes = await notes(told.id, 'outcome');
      expect(new Set(outcomes.map(({ body }) => body.toString()))).toEqual(new Set(['first']));
      await legacy.close();
    });

    it.each([
      ['held', {}],
      ['recorded', { idempotencyKey: 'k' }],
    ] as const)('comes after the deadline, the timeout stays and the reply is in the journal: %s', async (_how, more) => {
      await open({ flows: { legacy: ['legacy'] }, steps: [foreign('legacy')] });
      let answerNow: () => void = () => undefined;
      const legacy = await program(async (_delivery, reply) => {
        await new Promise<void>((resolve) => (answerNow = resolve));
        await reply('too late');
      });
      const told = await ask('legacy', 't', { ...more, deadlineMs: 1_000 }, [hub]);
      expect(textOf(told)).toMatch(/^timeout /);
      answerNow();
      await eventually(async () => expect((await notes(told.id, 'late')).length).toBe(1));
      expect(new Set((await notes(told.id, 'outcome')).map(({ headers }) => headers['hub-outcome']))).toEqual(new Set(['timeout']));
      await read(hub, told.id, 't');
      expect(broken(history.seen, effects, { withinMs: 10_000 })).toEqual([]);
      await legacy.close();
    });

    it('comes while the hold ends, it is not lost', async () => {
      await open({ flows: { legacy: ['legacy'] }, steps: [foreign('legacy')] });
      const legacy = await program((_delivery, reply) => reply('in time'));
      // The journal takes longer than the hold.
      const { journal } = hub.hub.names;
      let written = false;
      const holdMs = 100;
      const began = performance.now();
      change(hub.ports.transport, (publish) => async (to, message, options) => {
        await publish(to, message, options);
        if (to.routingKey !== journal || message.headers?.['hub-note'] !== 'outcome') return;
        await eventually(() => expect(performance.now() - began).toBeGreaterThan(2 * holdMs));
        written = true;
      });
      // Whoever holds hears it when the journal has it, a little after the hold.
      const first = await hub.ask('legacy', { token: 't' }, { waitMs: holdMs });
      expect(textOf(first)).toBe('reply in time');
      expect(written).toBe(true);
      expect((await notes(first.id, 'late')).length).toBe(0);
      await legacy.close();
    });
  });

  it('is deleted with its queue, the journal has it: every request is answered, and new ones are worked on within 2 s', async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const slow = worker<Body>({
      ...noted('slow'),
      name: 'slow',
      concurrency: 5,
      async handle(body, envelope) {
        effects.push({ what: 'start', step: 'slow', token: body.token, id: envelope.requestId, attempt: 1, pid: 1, at: Date.now() });
        await gate;
        const said = { token: body.token };
        effects.push({ what: 'end', step: 'slow', token: body.token, id: envelope.requestId, attempt: 1, pid: 1, at: Date.now(), said });
        return said;
      },
    });
    await open({ flows: { slow: ['slow'] }, steps: [slow] });
    const asked = Promise.all(
      Array.from({ length: 30 }, (_, n) =>
        ask('slow', `t${n}`, { deadlineMs: 20_000, ...(n % 2 === 0 ? {} : { idempotencyKey: `k${n}` }) }),
      ),
    );
    const queue = hub.hub.names.workQueue('slow');
    await eventually(async () => expect(await hub.ports.transport.inspect(queue)).toMatchObject({ ready: 25 }));
    expect(effects.length).toBe(5);
    const operator = await amqpTransport({ url: rabbitmqUrl(), name: 'operator' });
    await operator.removeQueue(queue);
    const deletedAt = performance.now();
    release();
    await eventually(async () => expect(await operator.inspect(queue)).toMatchObject({ consumers: 1 }));
    const tookMs = performance.now() - deletedAt;
    process.stderr.write(`deleted queue: consumed again after ${Math.round(tookMs)} ms\n`);
    expect(tookMs).toBeLessThan(2_000);
    expect(await ask('slow', 'new')).toMatchObject({ outcome: { kind: 'reply' } });
    const kinds = (await asked).map((told) => (told.kind === 'outcome' ? told.outcome.kind : told.kind));
    expect(kinds.filter((kind) => kind === 'reply').length).toBe(30);
    expect(broken(history.seen, effects, { withinMs: 10_000 })).toEqual([]);
    await operator.close();
  });
});

/** Puts another `publish` in place of a transport's own; returns how to take it back. */
function change(transport: Transport, by: (publish: Transport['publish']) => Transport['publish']): () => void {
  const open = transport as { publish: Transport['publish'] };
  const publish = transport.publish.bind(transport);
  open.publish = by(publish);
  return () => void (open.publish = publish);
}
