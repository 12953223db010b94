/** A hub that dies between its record and its publish leaves a request that nobody works on. The repeat of the request mends it. */
import { expect, it } from '@jest/globals';
import { foreign, worker, type Fault } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import type { Outcome } from '../../broker/store.js';
import { PublishError, type Transport } from '../../broker/transport.js';
import { memoryHub, type TestHub } from '../support/hub.js';

it('publishes again, once, what a dead hub had recorded and not published, before it promises an answer', async () => {
  const clock = testClock();
  let runs = 0;
  const hub = await memoryHub({ clock, flows: { count: ['count'] }, steps: [worker({ name: 'count', handle: () => ++runs })], idle: true });
  // This hub gets as far as the publish, and no further.
  (hub.ports.transport as { publish: Transport['publish'] }).publish = () => new Promise(() => undefined);
  void hub.ask('count', {}, { idempotencyKey: 'k' }).catch(() => undefined);
  const other = await hub.another({ idle: false });

  const repeats = [other.ask('count', {}, { idempotencyKey: 'k', waitMs: 0 }), other.ask('count', {}, { idempotencyKey: 'k', waitMs: 0 })];
  let promised = 0;
  for (const repeat of repeats) void repeat.then(() => promised++);
  await clock.advance(5_000);
  expect(promised).toBe(0);
  await clock.advance(2_000);
  const [answer] = await Promise.all(repeats);
  const collected = other.gateway.collect(answer!.id, anonymous, 10_000);
  await clock.advance(5_000);
  expect(await collected).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  expect(runs).toBeGreaterThan(0);
  await other.close();
});

it('does so, too, where the first step is a program of somebody else', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { price: ['price'] }, steps: [foreign('price')] });
  (hub.ports.transport as { publish: Transport['publish'] }).publish = () => new Promise(() => undefined);
  void hub.ask('price', {}, { idempotencyKey: 'k' }).catch(() => undefined);
  const other = await hub.another();
  await servePrice(other);

  const repeat = other.ask('price', {}, { idempotencyKey: 'k', waitMs: 20_000 });
  await clock.advance(10_000);
  expect(await repeat).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  await other.close();
});

it('forgets a request of a program of somebody else that RabbitMQ refused, so that its key is free', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { price: ['price'] }, steps: [foreign('price')] });
  const transport = hub.ports.transport as { publish: Transport['publish'] };
  const publish = transport.publish.bind(hub.ports.transport);
  transport.publish = (to, message, options) =>
    to.exchange === hub.hub.names.work ? Promise.reject(new PublishError('nacked', 'full')) : publish(to, message, options);
  const refused = hub.ask('price', {}, { idempotencyKey: 'k' }).catch((error: Fault) => error.reason);
  await clock.advance(1_000);
  expect(await refused).toBe('broker');
  transport.publish = publish;
  await servePrice(hub);
  const again = hub.ask('price', {}, { idempotencyKey: 'k' });
  await clock.advance(1_000);
  expect(await again).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' }, replayed: false });
});

/** A program that knows nothing of the hub answers what it is asked. */
const servePrice = ({ hub: { names }, ports: { transport } }: TestHub) =>
  transport.consume(names.workQueue('price'), { prefetch: 1, tag: 'price' }, ({ replyTo = '', correlationId = '' }) =>
    transport.publish({ exchange: '', routingKey: replyTo }, { body: Buffer.from('{"price":1}'), correlationId }),
  );

it('tells nobody that a one-way message is accepted which timed out before the broker had it', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { note: ['note'] }, steps: [worker({ name: 'note', handle: () => null })] });
  const transport = hub.ports.transport as { publish: Transport['publish'] };
  const publish = transport.publish.bind(hub.ports.transport);
  let letGo: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (letGo = resolve));
  transport.publish = async (to, message, options) => {
    if (to.exchange === hub.hub.names.work) await gate;
    return publish(to, message, options);
  };
  const body = Buffer.from('{}');
  const sending = hub.gateway
    .send({ flow: 'note', principal: anonymous, body, contentType: 'application/json', idempotencyKey: 'k', deadlineMs: 2_000 })
    .then(
      () => 'accepted',
      (error: Fault) => error.code,
    );
  await clock.advance(5_000);
  letGo();
  await clock.advance(1_000);
  expect(await sending).toBe('timeout');
});

it('promises nobody an outcome that only the store has', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { count: ['count'] }, steps: [worker({ name: 'count', handle: () => 1 })], idle: true });
  (hub.ports.transport as { publish: Transport['publish'] }).publish = () => new Promise(() => undefined);
  void hub.ask('count', {}, { idempotencyKey: 'k' }).catch(() => undefined);
  const other = await hub.another({ idle: true });
  await clock.advance(100);
  const id = String(hub.events.find(({ event }) => event === 'request.accepted')?.fields['requestId']);
  const timeout: Outcome = { kind: 'timeout', body: Buffer.from('{}'), contentType: 'application/json', at: clock.now() };
  await hub.ports.store.settle(id, timeout, false);

  const repeat = () => other.ask('count', {}, { idempotencyKey: 'k', waitMs: 0 });
  const told = repeat().then(
    () => 'promised',
    (error: Fault) => error.reason,
  );
  await clock.advance(10_000);
  expect(await told).toBe('unknown');
  await hub.ports.store.show(id, timeout);
  expect(await repeat()).toMatchObject({ kind: 'outcome', id, outcome: { kind: 'timeout' } });
  await other.close();
});
