/**
 * What every Transport does, memory and AMQP alike. Two connections to one broker stand for two processes. All names carry
 * a prefix of the run, so that runs side by side do not meet; what was declared is removed.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type Delivery,
  type Message,
  type PublishError,
  type Queue,
  type Topology,
  TopologyError,
  type Transport,
} from '../../broker/transport.js';
import { eventually } from '../support/eventually.js';

/** One broker: each connection is what one process would have. */
export interface TransportUnderTest {
  connect(): Promise<Transport>;
  close(): Promise<void>;
}

export function transportContract(name: string, open: () => Promise<TransportUnderTest>): void {
  describe(`${name}: a transport`, () => {
    const prefix = `test.${randomBytes(4).toString('hex')}`;
    const created = new Set<string>();
    let broker: TransportUnderTest;
    let one: Transport;
    let two: Transport;

    beforeAll(async () => {
      broker = await open();
    });

    afterAll(async () => {
      if (broker === undefined) return;
      const janitor = await broker.connect();
      for (const queue of created) await janitor.removeQueue(queue);
      await janitor.close();
      await broker.close();
    });

    let opened: Transport[] = [];
    const connect = async () => {
      const transport = await broker.connect();
      opened.push(transport);
      return transport;
    };
    const bothConnected = async () => {
      [one, two] = [await connect(), await connect()];
    };
    afterEach(async () => {
      await Promise.all(opened.map((transport) => transport.close()));
      opened = [];
    });

    let sequence = 0;
    const fresh = (what: string) => `${prefix}.${what}.${sequence++}`;
    const queueOf = (more: Partial<Queue> = {}): Queue => {
      const queue: Queue = { name: fresh('queue'), type: 'quorum', about: 'made by the contract suite', ...more };
      created.add(queue.name);
      return queue;
    };
    const only = (queue: Queue, more: Partial<Topology> = {}): Topology => ({
      exchanges: [],
      bindings: [],
      ...more,
      queues: [queue, ...(more.queues ?? [])],
    });
    const declared = async (more: Partial<Queue> = {}): Promise<string> => {
      const queue = queueOf(more);
      await one.declare(only(queue));
      return queue.name;
    };
    const to = (queue: string) => ({ exchange: '', routingKey: queue });
    const text = (body: string, more: Partial<Message> = {}): Message => ({ body: Buffer.from(body), ...more });
    /** Everything that arrives, in order. */
    const collect = async (transport: Transport, queue: string, more: Partial<Parameters<Transport['consume']>[1]> = {}) => {
      const deliveries: Delivery[] = [];
      const consumer = await transport.consume(
        queue,
        { prefetch: 100, tag: 'collector', ...more },
        async (delivery) => void deliveries.push(delivery),
      );
      return { deliveries, consumer, bodies: () => deliveries.map(({ body }) => body.toString()) };
    };
    const failureOf = (publishing: Promise<void>) =>
      publishing.then(
        () => 'stored',
        (error: PublishError) => error.failure,
      );
    const hold = () => {
      let release = () => {};
      const held = new Promise<void>((resolve) => (release = resolve));
      return { held, release };
    };

    describe('a message', () => {
      it('arrives with every property, nested headers and its bytes as they were', async () => {
        await bothConnected();
        const queue = await declared();
        const message: Message = {
          body: Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
          messageId: 'm-1',
          correlationId: 'c-1',
          replyTo: 'somewhere.else',
          type: 'request',
          contentType: 'application/octet-stream',
          contentEncoding: 'identity',
          timestamp: 1_767_225_600,
          expirationMs: 60_000,
          priority: 3,
          appId: 'answerback/test',
          userId: 'guest',
          headers: {
            hub: 'flow=loan.quote, slip=(bank.offer loan.best), key="Ünïcode ☎"',
            number: 42,
            negative: -1,
            big: 2 ** 40,
            fraction: 0.5,
            yes: true,
            no: false,
            nothing: null,
            list: ['a', 1, null, ['deep']],
            table: { inner: { deepest: [1, 2] }, flag: true },
          },
        };
        const { deliveries } = await collect(two, queue);
        await one.publish(to(queue), message);
        await eventually(() => expect(deliveries).toHaveLength(1));
        expect(deliveries[0]).toMatchObject({ ...message, exchange: '', routingKey: queue, redelivered: false, deliveries: 0 });
        expect(deliveries[0]?.body.equals(message.body)).toBe(true);
      });

      it('has no property that it was not given', async () => {
        await bothConnected();
        const queue = await declared();
        const { deliveries } = await collect(two, queue);
        await one.publish(to(queue), { body: Buffer.alloc(0) });
        await eventually(() => expect(deliveries).toHaveLength(1));
        expect(Object.keys(deliveries[0] ?? {}).sort()).toEqual(['body', 'deliveries', 'exchange', 'headers', 'redelivered', 'routingKey']);
        expect(deliveries[0]?.body).toHaveLength(0);
      });

      it('is as it was when it was published, whatever its publisher does to it later', async () => {
        await bothConnected();
        const queue = await declared();
        const body = Buffer.from('before');
        const headers = { stage: 'before' };
        const publishing = one.publish(to(queue), { body, headers });
        headers.stage = 'after';
        await publishing;
        body.fill('x');
        const { deliveries, bodies } = await collect(two, queue);
        await eventually(() => expect(bodies()).toEqual(['before']));
        expect(deliveries[0]?.headers.stage).toBe('before');
      });

      it('leaves no header behind for the next one', async () => {
        await bothConnected();
        const queue = await declared();
        const { deliveries } = await collect(two, queue);
        await one.publish(to(queue), text('1', { headers: { first: 1, both: 1 } }));
        await one.publish(to(queue), text('2', { headers: { both: 2 } }));
        await one.publish(to(queue), text('3'));
        await eventually(() => expect(deliveries).toHaveLength(3));
        // Some versions of RabbitMQ add counters of their own.
        const given = ({ headers }: Delivery) => Object.fromEntries(Object.entries(headers).filter(([header]) => !header.startsWith('x-')));
        expect(deliveries.map(given)).toEqual([{ first: 1, both: 1 }, { both: 2 }, {}]);
      });

      it('of a mebibyte arrives whole', async () => {
        await bothConnected();
        const queue = await declared();
        const { deliveries } = await collect(two, queue);
        const body = randomBytes(1 << 20);
        await one.publish(to(queue), { body });
        await eventually(() => expect(deliveries[0]?.body.equals(body)).toBe(true));
      });

      it('that cannot be written on the wire is refused, and the next one goes', async () => {
        await bothConnected();
        const queue = await declared();
        await expect(one.publish(to(queue), text('bad', { messageId: 'x'.repeat(300) }))).rejects.toThrow(/255|out of range/i);
        await one.publish(to(queue), text('good'));
        const { bodies } = await collect(two, queue);
        await eventually(() => expect(bodies()).toEqual(['good']));
      });
    });

    describe('publishing', () => {
      it('keeps the order', async () => {
        await bothConnected();
        const queue = await declared();
        const { bodies } = await collect(two, queue);
        const sent = Array.from({ length: 500 }, (_, index) => String(index));
        await Promise.all(sent.map((body) => one.publish(to(queue), text(body))));
        await eventually(() => expect(bodies()).toEqual(sent));
      });

      it('rejects as unroutable when no queue takes it, and only then', async () => {
        await bothConnected();
        const queue = await declared();
        const missing = fresh('missing');
        // The same message id everywhere: what was returned must not be taken for what was not.
        const message = text('x', { messageId: 'same' });
        const outcomes = await Promise.all([queue, missing, queue, missing].map((name) => failureOf(one.publish(to(name), message))));
        expect(outcomes).toEqual(['stored', 'unroutable', 'stored', 'unroutable']);
      });

      it('rejects as unroutable when there is no such exchange, and goes on', async () => {
        await bothConnected();
        const queue = await declared();
        expect(await failureOf(one.publish({ exchange: fresh('no-exchange'), routingKey: 'x' }, text('x')))).toBe('unroutable');
        await eventually(() => one.publish(to(queue), text('y')));
      });

      it('without mandatory accepts that nobody listens', async () => {
        await bothConnected();
        const exchange = fresh('events');
        await one.declare({ exchanges: [{ name: exchange, type: 'topic' }], queues: [], bindings: [] });
        await one.publish({ exchange, routingKey: 'a.b' }, text('x'), { mandatory: false });
        await one.publish({ exchange, routingKey: 'a.b' }, text('x'), { durable: false });
      });

      it('of a volatile message arrives, too', async () => {
        await bothConnected();
        const queue = await declared({ type: 'classic' });
        const { bodies } = await collect(two, queue);
        await one.publish(to(queue), text('volatile'), { durable: false });
        await eventually(() => expect(bodies()).toEqual(['volatile']));
      });

      it('tells that a volatile message found no queue when it is asked to', async () => {
        await bothConnected();
        expect(await failureOf(one.publish(to(fresh('missing')), text('x'), { durable: false, mandatory: true }))).toBe('unroutable');
      });

      it('to an exchange with an alternate goes there when nothing else is bound', async () => {
        await bothConnected();
        const [entrance, unrouted] = [fresh('requests'), fresh('unrouted')];
        const [bound, rest] = [queueOf(), queueOf()];
        await one.declare({
          exchanges: [
            { name: unrouted, type: 'fanout' },
            { name: entrance, type: 'topic', alternate: unrouted },
          ],
          queues: [bound, rest],
          bindings: [
            { exchange: entrance, queue: bound.name, routingKey: 'known' },
            { exchange: unrouted, queue: rest.name, routingKey: '' },
          ],
        });
        await one.publish({ exchange: entrance, routingKey: 'known' }, text('1'));
        await one.publish({ exchange: entrance, routingKey: 'unknown' }, text('2'));
        const [inBound, inRest] = [await collect(two, bound.name), await collect(two, rest.name)];
        await eventually(() => expect([inBound.bodies(), inRest.bodies()]).toEqual([['1'], ['2']]));
        expect(inRest.deliveries[0]).toMatchObject({ routingKey: 'unknown' });
      });

      it('routes by topic: * is one word, # any number', async () => {
        await bothConnected();
        const exchange = fresh('topic');
        const patterns = ['a.*', 'a.#', '#', '*.b', 'a.*.c', '#.c', 'a.b'];
        const queues = patterns.map(() => queueOf({ type: 'classic' }));
        await one.declare({
          exchanges: [{ name: exchange, type: 'topic' }],
          queues,
          bindings: patterns.map((routingKey, index) => ({ exchange, queue: queues[index]?.name ?? '', routingKey })),
        });
        const keys = ['a', 'a.b', 'a.b.c', 'b.c', 'c', ''];
        const got = await Promise.all(queues.map(({ name: queue }) => collect(two, queue)));
        for (const routingKey of keys) await one.publish({ exchange, routingKey }, text(routingKey));
        await eventually(() =>
          expect(Object.fromEntries(patterns.map((pattern, index) => [pattern, got[index]?.bodies()]))).toEqual({
            'a.*': ['a.b'],
            'a.#': ['a', 'a.b', 'a.b.c'],
            '#': keys,
            '*.b': ['a.b'],
            'a.*.c': ['a.b.c'],
            '#.c': ['a.b.c', 'b.c', 'c'],
            'a.b': ['a.b'],
          }),
        );
      });

      it('by a direct exchange goes to each queue that is bound under the key, once', async () => {
        await bothConnected();
        const exchange = fresh('direct');
        const [first, second] = [queueOf(), queueOf()];
        await one.declare({
          exchanges: [{ name: exchange, type: 'direct' }],
          queues: [first, second],
          bindings: [
            { exchange, queue: first.name, routingKey: 'k' },
            { exchange, queue: first.name, routingKey: 'other' },
            { exchange, queue: second.name, routingKey: 'k' },
          ],
        });
        await one.publish({ exchange, routingKey: 'k' }, text('x'));
        const got = await Promise.all([first, second].map(({ name: queue }) => collect(two, queue)));
        await eventually(() => expect(got.map(({ bodies }) => bodies())).toEqual([['x'], ['x']]));
      });
    });

    describe('consuming', () => {
      it('never calls a handler from within a publish', async () => {
        await bothConnected();
        const queue = await declared();
        let isPublishing = false;
        let calledWithin = 0;
        let calls = 0;
        await one.consume(queue, { prefetch: 10, tag: 'aside' }, async () => {
          calls++;
          if (isPublishing) calledWithin++;
        });
        isPublishing = true;
        const publishing = one.publish(to(queue), text('x'));
        isPublishing = false;
        await publishing;
        await eventually(() => expect(calls).toBe(1));
        expect(calledWithin).toBe(0);
      });

      it('acknowledges only when the handler is done: before, a lost connection gives the message back', async () => {
        await bothConnected();
        const queue = await declared();
        const never = hold();
        const first: Delivery[] = [];
        await one.consume(queue, { prefetch: 10, tag: 'dies' }, async (delivery) => {
          first.push(delivery);
          await never.held;
        });
        await two.publish(to(queue), text('survivor'));
        await eventually(() => expect(first).toHaveLength(1));
        await one.close();
        const { deliveries } = await collect(two, queue);
        await eventually(() => expect(deliveries).toHaveLength(1));
        expect(deliveries[0]).toMatchObject({ redelivered: true });
        expect(deliveries[0]?.deliveries).toBeGreaterThanOrEqual(1);
        never.release();
        await eventually(async () => expect(await two.inspect(queue)).toMatchObject({ ready: 0 }));
      });

      it('does not give back what the handler had done', async () => {
        await bothConnected();
        const queue = await declared();
        const { deliveries } = await collect(one, queue);
        await two.publish(to(queue), text('x'));
        await eventually(() => expect(deliveries).toHaveLength(1));
        await one.close();
        await eventually(async () => expect(await two.inspect(queue)).toEqual({ ready: 0, consumers: 0 }));
      });

      it('delivers again what a handler rejected, counts, and goes on with the others', async () => {
        await bothConnected();
        const queue = await declared();
        const failed: Delivery[] = [];
        const done: string[] = [];
        await one.consume(queue, { prefetch: 10, tag: 'flaky' }, async (delivery) => {
          const body = delivery.body.toString();
          if (body === 'bad' && failed.push(delivery) <= 2) throw new Error('not yet');
          done.push(body);
        });
        await two.publish(to(queue), text('bad'));
        await two.publish(to(queue), text('good'));
        await eventually(() => expect(done).toEqual(['good', 'bad']));
        expect(failed.map(({ deliveries }) => deliveries)).toEqual([0, 1, 2]);
        expect(failed.map(({ redelivered }) => redelivered)).toEqual([false, true, true]);
      });

      it('takes a handler that throws at once like one that rejects', async () => {
        await bothConnected();
        const queue = await declared();
        let calls = 0;
        await one.consume(queue, { prefetch: 1, tag: 'throws' }, () => {
          if (calls++ === 0) throw new Error('at once');
          return Promise.resolve();
        });
        await two.publish(to(queue), text('x'));
        await eventually(() => expect(calls).toBe(2));
      });

      it('rests before it delivers again, so that nothing spins', async () => {
        await bothConnected();
        const queue = await declared();
        const at: number[] = [];
        await one.consume(queue, { prefetch: 1, tag: 'rests' }, async () => {
          if (at.push(performance.now()) < 3) throw new Error('no');
        });
        await two.publish(to(queue), text('x'));
        await eventually(() => expect(at).toHaveLength(3));
        expect((at[1] ?? 0) - (at[0] ?? 0)).toBeGreaterThan(300);
        expect((at[2] ?? 0) - (at[1] ?? 0)).toBeGreaterThan((at[1] ?? 0) - (at[0] ?? 0));
      });

      it('hands out no more than prefetch at once', async () => {
        await bothConnected();
        const queue = await declared();
        const gate = hold();
        let running = 0;
        let most = 0;
        let done = 0;
        await one.consume(queue, { prefetch: 3, tag: 'narrow' }, async () => {
          most = Math.max(most, ++running);
          await gate.held;
          running--;
          done++;
        });
        await Promise.all(Array.from({ length: 10 }, (_, index) => two.publish(to(queue), text(String(index)))));
        await eventually(async () => {
          expect(running).toBe(3);
          expect((await two.inspect(queue))?.ready).toBe(7);
        });
        gate.release();
        await eventually(() => expect(done).toBe(10));
        expect(most).toBe(3);
      });

      it('shares a queue among its consumers', async () => {
        await bothConnected();
        const queue = await declared();
        const got = await Promise.all([one, two].map((transport) => collect(transport, queue, { prefetch: 1 })));
        await Promise.all(Array.from({ length: 40 }, (_, index) => two.publish(to(queue), text(String(index)))));
        await eventually(() => expect(got.flatMap(({ deliveries }) => deliveries)).toHaveLength(40));
        for (const { deliveries } of got) expect(deliveries.length).toBeGreaterThan(5);
      });

      it('with single active has one consumer at a time; the next takes over', async () => {
        await bothConnected();
        const queue = await declared({ singleActive: true });
        const [active, standby] = [await collect(one, queue), await collect(two, queue)];
        await Promise.all(Array.from({ length: 20 }, (_, index) => two.publish(to(queue), text(String(index)))));
        await eventually(() => expect(active.deliveries).toHaveLength(20));
        expect(standby.deliveries).toHaveLength(0);
        await active.consumer.close();
        await two.publish(to(queue), text('after'));
        await eventually(() => expect(standby.bodies()).toEqual(['after']));
      });

      it('exclusively is refused while another does, and had when that one has gone', async () => {
        await bothConnected();
        const queue = await declared();
        const first = await collect(one, queue, { exclusive: true });
        await expect(one.consume(queue, { prefetch: 1, tag: 'second', exclusive: true }, async () => {})).rejects.toThrow(TopologyError);
        await first.consumer.close();
        const second = await collect(two, queue, { exclusive: true });
        await one.publish(to(queue), text('x'));
        await eventually(() => expect(second.bodies()).toEqual(['x']));
      });

      it('from a queue that is not there is refused', async () => {
        await bothConnected();
        await expect(one.consume(fresh('missing'), { prefetch: 1, tag: 'nobody' }, async () => {})).rejects.toThrow(TopologyError);
      });

      it('goes on when the queue was deleted: it is declared again', async () => {
        await bothConnected();
        const exchange = fresh('work');
        const queue = queueOf();
        await one.declare(
          only(queue, { exchanges: [{ name: exchange, type: 'direct' }], bindings: [{ exchange, queue: queue.name, routingKey: 'k' }] }),
        );
        const { bodies } = await collect(one, queue.name);
        await two.removeQueue(queue.name);
        await eventually(async () => expect(await two.inspect(queue.name)).toMatchObject({ consumers: 1 }));
        await two.publish({ exchange, routingKey: 'k' }, text('again'));
        await eventually(() => expect(bodies()).toEqual(['again']));
      });

      it('closes when the running handlers have ended, and takes nothing more', async () => {
        await bothConnected();
        const queue = await declared();
        const gate = hold();
        const got: string[] = [];
        const consumer = await one.consume(queue, { prefetch: 1, tag: 'leaves' }, async ({ body }) => {
          await gate.held;
          got.push(body.toString());
        });
        await two.publish(to(queue), text('1'));
        await two.publish(to(queue), text('2'));
        await eventually(async () => expect((await two.inspect(queue))?.ready).toBe(1));
        let isClosed = false;
        const closing = consumer.close().then(() => (isClosed = true));
        // Round trips in which it could have closed, or taken the second message.
        for (let trip = 0; trip < 5; trip++) expect((await two.inspect(queue))?.ready).toBe(1);
        expect(isClosed).toBe(false);
        gate.release();
        await closing;
        await consumer.close();
        expect(got).toEqual(['1']);
        await eventually(async () => expect(await two.inspect(queue)).toEqual({ ready: 1, consumers: 0 }));
      });

      it('gives back at once what rests after a failure when it closes', async () => {
        await bothConnected();
        const queue = await declared();
        let calls = 0;
        const consumer = await one.consume(queue, { prefetch: 1, tag: 'fails' }, async () => {
          calls++;
          throw new Error('always');
        });
        await two.publish(to(queue), text('x'));
        await eventually(() => expect(calls).toBeGreaterThanOrEqual(1));
        await consumer.close();
        await eventually(async () => expect(await two.inspect(queue)).toEqual({ ready: 1, consumers: 0 }));
      });
    });

    describe('time to live', () => {
      it('moves a message to where dead letters go, under its own routing key: a retry queue', async () => {
        await bothConnected();
        const [retry, work] = [fresh('retry'), fresh('work')];
        const waiting = queueOf({ ttlMs: 200, deadLetter: { exchange: work } });
        const due = queueOf();
        await one.declare({
          exchanges: [
            { name: retry, type: 'fanout' },
            { name: work, type: 'direct' },
          ],
          queues: [waiting, due],
          bindings: [
            { exchange: retry, queue: waiting.name, routingKey: '' },
            { exchange: work, queue: due.name, routingKey: 'step.one' },
          ],
        });
        const { deliveries } = await collect(two, due.name);
        const start = performance.now();
        await one.publish({ exchange: retry, routingKey: 'step.one' }, text('x', { messageId: 'm', headers: { hub: 'attempt=2' } }));
        expect(await two.inspect(waiting.name)).toMatchObject({ ready: 1 });
        await eventually(() => expect(deliveries).toHaveLength(1));
        expect(performance.now() - start).toBeGreaterThan(150);
        expect(deliveries[0]).toMatchObject({ exchange: work, routingKey: 'step.one', messageId: 'm', deliveries: 0, redelivered: false });
        expect(deliveries[0]?.headers).toMatchObject({ hub: 'attempt=2' });
        await eventually(async () => expect(await two.inspect(waiting.name)).toMatchObject({ ready: 0 }));
      });

      it('may move it under another key', async () => {
        await bothConnected();
        const target = queueOf();
        await one.declare(only(target));
        const source = await declared({ ttlMs: 50, deadLetter: { exchange: '', routingKey: target.name } });
        const { bodies } = await collect(two, target.name);
        await one.publish(to(source), text('late'));
        await eventually(() => expect(bodies()).toEqual(['late']));
      });

      it('of a message ends it where there is no dead letter exchange', async () => {
        await bothConnected();
        const queue = await declared();
        await one.publish(to(queue), text('short', { expirationMs: 50 }));
        await one.publish(to(queue), text('long', { expirationMs: 60_000 }));
        await eventually(async () => expect(await two.inspect(queue)).toMatchObject({ ready: 1 }));
        const { bodies } = await collect(two, queue);
        await eventually(() => expect(bodies()).toEqual(['long']));
      });

      it('of a message beyond what the broker can count is no error', async () => {
        await bothConnected();
        const queue = await declared();
        await one.publish(to(queue), text('x', { expirationMs: 90 * 86_400_000 }));
        const { bodies } = await collect(two, queue);
        await eventually(() => expect(bodies()).toEqual(['x']));
      });
    });

    describe('a stream', () => {
      const filled = async (bodies: readonly string[]) => {
        const queue = await declared({ type: 'stream', maxAge: '1D' });
        for (const body of bodies) await one.publish(to(queue), text(body));
        return queue;
      };

      it('is read from its beginning by everybody, with offsets', async () => {
        await bothConnected();
        const queue = await filled(['a', 'b', 'c']);
        for (const reader of [await collect(one, queue, { from: 'first' }), await collect(two, queue, { from: 'first' })]) {
          await eventually(() => expect(reader.bodies()).toEqual(['a', 'b', 'c']));
          expect(reader.deliveries.map(({ offset }) => offset)).toEqual([0, 1, 2]);
        }
      });

      it('is read from now on', async () => {
        await bothConnected();
        const queue = await filled(['old']);
        const { bodies } = await collect(two, queue, { from: 'next' });
        await one.publish(to(queue), text('new'));
        await eventually(() => expect(bodies()).toEqual(['new']));
      });

      it('is read from a time on', async () => {
        await bothConnected();
        const queue = await filled(['a', 'b']);
        const { bodies } = await collect(two, queue, { from: Date.now() - 3_600_000 });
        await eventually(() => expect(bodies()).toEqual(['a', 'b']));
      });

      it('is read further than the prefetch, and keeps what was read', async () => {
        await bothConnected();
        const sent = Array.from({ length: 50 }, (_, index) => String(index));
        const queue = await filled(sent);
        const first = await collect(two, queue, { from: 'first', prefetch: 5 });
        await eventually(() => expect(first.bodies()).toEqual(sent));
        const second = await collect(two, queue, { from: 'first', prefetch: 5 });
        await eventually(() => expect(second.bodies()).toEqual(sent));
      });

      it('hands the handler again what it rejected, before what comes behind with prefetch 1', async () => {
        await bothConnected();
        const queue = await filled(['a', 'b']);
        const got: string[] = [];
        await two.consume(queue, { prefetch: 1, tag: 'stumbles', from: 'first' }, async ({ body, deliveries }) => {
          got.push(`${body.toString()}${deliveries}`);
          if (got.length === 1) throw new Error('once more');
        });
        await eventually(() => expect(got).toEqual(['a0', 'a1', 'b0']));
      });

      it('that was deleted is declared again, and read from its new beginning', async () => {
        await bothConnected();
        const queue = await filled(['a', 'b', 'c']);
        const { deliveries, bodies } = await collect(one, queue, { from: 'first' });
        await eventually(() => expect(bodies()).toEqual(['a', 'b', 'c']));
        await two.removeQueue(queue);
        await eventually(() => two.publish(to(queue), text('d')));
        await eventually(() => expect(bodies()).toEqual(['a', 'b', 'c', 'd']));
        expect(deliveries[3]).toMatchObject({ offset: 0 });
      });

      it('gets a message under the same confirm as the queue beside it', async () => {
        await bothConnected();
        const exchange = fresh('work');
        const [journal, work] = [queueOf({ type: 'stream', maxAge: '7D' }), queueOf()];
        const bindings = [journal, work].map(({ name: queue }) => ({ exchange, queue, routingKey: 'k' }));
        await one.declare({ exchanges: [{ name: exchange, type: 'direct' }], queues: [journal, work], bindings });
        await one.publish({ exchange, routingKey: 'k' }, text('x'));
        const got = [await collect(two, journal.name, { from: 'first' }), await collect(two, work.name)];
        await eventually(() => expect(got.map(({ bodies }) => bodies())).toEqual([['x'], ['x']]));
      });
    });

    describe('a subscription', () => {
      it('gets a copy of each message while it listens, and nothing from before', async () => {
        await bothConnected();
        const exchange = fresh('events');
        await one.declare({ exchanges: [{ name: exchange, type: 'topic' }], queues: [], bindings: [] });
        const publish = (routingKey: string) => one.publish({ exchange, routingKey }, text(routingKey), { durable: false });
        await publish('a.before');
        const got: string[][] = [[], []];
        const subscriptions = await Promise.all(
          [one, two].map((transport, index) =>
            transport.subscribe(exchange, ['a.#', '*.b'], ({ routingKey }) => void got[index]?.push(routingKey)),
          ),
        );
        for (const key of ['a.x', 'c.x', 'c.b', 'a.b']) await publish(key);
        await eventually(() =>
          expect(got).toEqual([
            ['a.x', 'c.b', 'a.b'],
            ['a.x', 'c.b', 'a.b'],
          ]),
        );
        await subscriptions[0]?.close();
        await publish('a.after');
        await eventually(() => expect(got[1]).toContain('a.after'));
        expect(got[0]).not.toContain('a.after');
      });

      it('goes on after its listener has thrown', async () => {
        await bothConnected();
        const exchange = fresh('events');
        await one.declare({ exchanges: [{ name: exchange, type: 'fanout' }], queues: [], bindings: [] });
        const got: string[] = [];
        await two.subscribe(exchange, [''], ({ body }) => {
          got.push(body.toString());
          throw new Error('a bad listener');
        });
        for (const body of ['1', '2']) await one.publish({ exchange, routingKey: '' }, text(body));
        await eventually(() => expect(got).toEqual(['1', '2']));
      });

      it('to an exchange that is not there is refused', async () => {
        await bothConnected();
        await expect(one.subscribe(fresh('missing'), ['#'], () => {})).rejects.toThrow(TopologyError);
      });
    });

    describe('declaring', () => {
      it('twice, and from two sides, is fine; the sentence about a queue may change', async () => {
        await bothConnected();
        const exchange = fresh('work');
        const queue = queueOf({ ttlMs: 60_000, deadLetter: { exchange, routingKey: 'dead' }, singleActive: true });
        const stream = queueOf({ type: 'stream', maxAge: '7D' });
        const topology: Topology = {
          exchanges: [{ name: exchange, type: 'direct', alternate: fresh('unrouted') }],
          queues: [queue, stream],
          bindings: [{ exchange, queue: queue.name, routingKey: 'k' }],
        };
        await one.declare(topology);
        await one.declare(topology);
        await two.declare({ ...topology, queues: topology.queues.map((each) => ({ ...each, about: 'said otherwise' })) });
        await one.publish({ exchange, routingKey: 'k' }, text('x'));
        expect(await two.inspect(queue.name)).toMatchObject({ ready: 1 });
      });

      it('refuses a queue that is there with other properties, by name, and leaves the rest alone', async () => {
        await bothConnected();
        const name = await declared();
        await expect(two.declare(only(queueOf({ name, ttlMs: 1_000 })))).rejects.toThrow(TopologyError);
        await expect(two.declare(only(queueOf({ name, type: 'classic' })))).rejects.toThrow(name);
        await two.publish(to(name), text('x'));
        const { bodies } = await collect(two, name);
        await eventually(() => expect(bodies()).toEqual(['x']));
      });

      it('refuses an exchange of another type, and a binding to nothing', async () => {
        await bothConnected();
        const name = fresh('exchange');
        await one.declare({ exchanges: [{ name, type: 'direct' }], queues: [], bindings: [] });
        await expect(two.declare({ exchanges: [{ name, type: 'topic' }], queues: [], bindings: [] })).rejects.toThrow(TopologyError);
        await expect(
          two.declare({ exchanges: [], queues: [], bindings: [{ exchange: name, queue: fresh('missing'), routingKey: '' }] }),
        ).rejects.toThrow(TopologyError);
      });
    });

    describe('a connection', () => {
      it('looks at queues and removes them, there or not', async () => {
        await bothConnected();
        const queue = await declared();
        expect(await two.inspect(queue)).toEqual({ ready: 0, consumers: 0 });
        await two.publish(to(queue), text('x'));
        expect(await two.inspect(queue)).toEqual({ ready: 1, consumers: 0 });
        await two.removeQueue(queue);
        await two.removeQueue(queue);
        expect(await two.inspect(queue)).toBeUndefined();
      });

      it('is connected until it is closed, and says so', async () => {
        await bothConnected();
        const states: string[] = [];
        const forgotten: string[] = [];
        one.onState((state) => states.push(state));
        const forget = one.onState((state) => forgotten.push(state));
        forget();
        expect(one.state()).toBe('connected');
        await one.close();
        await one.close();
        expect(one.state()).toBe('disconnected');
        expect(states).toEqual(['disconnected']);
        expect(forgotten).toEqual([]);
      });

      it('refuses everything once it is closed', async () => {
        await bothConnected();
        const queue = await declared();
        await one.close();
        expect(await failureOf(one.publish(to(queue), text('x')))).toBe('unavailable');
        await expect(one.declare({ exchanges: [], queues: [], bindings: [] })).rejects.toThrow(/closed/);
        await expect(one.consume(queue, { prefetch: 1, tag: 'late' }, async () => {})).rejects.toThrow(/closed/);
        await expect(one.subscribe('amq.topic', ['#'], () => {})).rejects.toThrow(/closed/);
        await expect(one.inspect(queue)).rejects.toThrow(/closed/);
        await expect(one.removeQueue(queue)).rejects.toThrow(/closed/);
      });

      it('closes without waiting for a handler that hangs', async () => {
        await bothConnected();
        const queue = await declared();
        let calls = 0;
        await one.consume(queue, { prefetch: 1, tag: 'hangs' }, () => {
          calls++;
          return new Promise(() => {});
        });
        await two.publish(to(queue), text('x'));
        await eventually(() => expect(calls).toBe(1));
        await one.close();
        await eventually(async () => expect(await two.inspect(queue)).toEqual({ ready: 1, consumers: 0 }));
      });
    });
  });
}
