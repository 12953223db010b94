/** An outcome that the journal does not take, since RabbitMQ is away, is shown to nobody; and nobody waits for it for as long as that lasts. */
import { describe, expect, it } from '@jest/globals';
import { foreign } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { pause, testClock } from '../../broker/clock.js';
import { StoreError, type NewRecord } from '../../broker/store.js';
import { PublishError, type Message, type Transport } from '../../broker/transport.js';
import { recordIn } from '../../broker/wire.js';
import { memoryHub } from '../support/hub.js';

/** A hub whose messages to the journal are refused until `mend` is called. */
async function withoutJournal() {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { ask: ['oracle'] }, steps: [foreign('oracle')] });
  const { transport } = hub.ports;
  const { publish } = transport;
  const own = transport as { publish: Transport['publish'] };
  own.publish = (to, message, options) =>
    to.routingKey === hub.hub.names.journal
      ? Promise.reject(new PublishError('unavailable', 'it is away'))
      : publish.call(transport, to, message, options);
  return { clock, hub, publish: publish.bind(transport), mend: () => void (own.publish = publish) };
}

describe('while the journal takes nothing', () => {
  it('a hold that ends while a reply is being written down ends without a promise, and nobody can decide the request otherwise', async () => {
    const { clock, hub, publish, mend } = await withoutJournal();
    let refusal: unknown;
    void hub.ask('ask', {}, { waitMs: 1_000 }).catch((error: unknown) => (refusal = error));
    await clock.advance(100);
    const requestId = String(hub.events.find(({ event }) => event === 'request.accepted')?.fields['requestId']);
    // By the default exchange, as foreign workers do: the journal has not seen it.
    const address = { exchange: '', routingKey: hub.hub.names.reply('h1') };
    await publish(address, { body: Buffer.from('42'), contentType: 'application/json', correlationId: requestId });
    await clock.advance(5_500);
    expect(refusal).toMatchObject({ code: 'unavailable', reason: 'unknown', requestId, retryAfterMs: 5_000 });
    expect(await hub.gateway.cancel(requestId, anonymous)).toBeUndefined();
    mend();
    await clock.advance(1_000);
    expect(hub.events).toContainEqual({ event: 'request.settled', fields: { requestId, kind: 'reply', settled: 'unknown' } });
    const closing = hub.close();
    await clock.advance(5_000);
    await closing;
  });

  it('a requestor whose deadline passes is told that nobody may know the outcome yet', async () => {
    const { clock, hub, mend } = await withoutJournal();
    let refusal: unknown;
    void hub.ask('ask', {}, { waitMs: 10_000, deadlineMs: 2_000 }).catch((error: unknown) => (refusal = error));
    await clock.advance(7_500);
    expect(refusal).toMatchObject({ code: 'unavailable', reason: 'unknown', retryAfterMs: 2_000 });
    mend();
    const closing = hub.close();
    await clock.advance(5_000);
    await closing;
  });
});

it('hears that an outcome does not count, which it had, when the record got another one first', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { ask: ['oracle'] }, steps: [foreign('oracle')] });
  const { transport, store } = hub.ports;
  const { create, settle } = { create: store.create.bind(store), settle: store.settle.bind(store) };
  const publish = transport.publish.bind(transport);
  const told: (Message['headers'] & { readonly body: string })[] = [];
  transport.publish = (to, message, options) => {
    if (to.routingKey === hub.hub.names.journal) told.push({ ...message.headers, body: message.body.toString() });
    return publish(to, message, options);
  };
  const away = () => Promise.reject(new StoreError('away', 'Redis is away'));
  store.create = away;
  const answer = hub.ask('ask', {}, { waitMs: 1_000 });
  await clock.advance(1_100);
  const requestId = String(hub.events.find(({ event }) => event === 'request.accepted')?.fields['requestId']);
  const reply = (body: string) =>
    publish(
      { exchange: '', routingKey: hub.hub.names.reply('h1') },
      { body: Buffer.from(body), contentType: 'application/json', correlationId: requestId },
    );
  await reply('1');
  await clock.advance(100);
  // Redis has the record, and not how it ended.
  store.create = create;
  store.settle = away;
  await clock.advance(500);
  store.settle = settle;
  await reply('2');
  await clock.advance(1_000);
  expect(await answer).toMatchObject({ id: requestId });
  expect((await store.get(requestId))?.outcome?.body.toString()).toBe('2');
  const outcomes = told.filter((one) => one['hub-note'] === 'outcome');
  expect(outcomes[0]).toMatchObject({ body: '1' });
  expect(outcomes).toContainEqual(expect.objectContaining({ body: '2', 'hub-instead-of': 'reply' }));
  const closing = hub.close();
  await clock.advance(5_000);
  await closing;
});

it('tells nobody an outcome that came while the record was being told, if Redis is away: a rebuild may have made the record of it', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { ask: ['oracle'] }, steps: [foreign('oracle')] });
  const { transport, store } = hub.ports;
  const settle = store.settle.bind(store);
  const publish = transport.publish.bind(transport);
  let record: NewRecord | undefined;
  let outcomes = 0;
  transport.publish = async (to, message, options) => {
    await publish(to, message, options);
    if (message.headers?.['hub-note'] === 'outcome' && message.headers['hub-record'] !== undefined) outcomes++;
    if (message.headers?.['hub-note'] !== 'recorded') return;
    // The journal has it, a rebuild reads it, and the confirm never comes.
    record = recordIn(message);
    await pause(clock, 2_000);
    throw new PublishError('unknown', 'not confirmed');
  };
  let refusal: unknown;
  const asked = hub.ask('ask', {}, { waitMs: 1_000, deadlineMs: 9_000 }).catch((error: unknown) => (refusal = error));
  await clock.advance(1_100);
  const requestId = String(hub.events.find(({ event }) => event === 'request.accepted')?.fields['requestId']);
  await store.create(record!);
  store.settle = () => Promise.reject(new StoreError('away', 'Redis is away'));
  await publish(
    { exchange: '', routingKey: hub.hub.names.reply('h1') },
    { body: Buffer.from('42'), contentType: 'application/json', correlationId: requestId },
  );
  await clock.advance(5_000);
  await asked;
  expect(refusal).toMatchObject({ code: 'unavailable', reason: 'unknown', requestId });
  // Asked of Redis again and again, told to the journal once.
  expect(outcomes).toBe(1);
  store.settle = settle;
  await clock.advance(1_000);
  expect((await store.get(requestId))?.outcome?.body.toString()).toBe('42');
  const closing = hub.close();
  await clock.advance(5_000);
  await closing;
});
