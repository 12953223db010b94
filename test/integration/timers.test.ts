/** Steps that wait for a date, and the dossiers that carry them. On both sets of ports. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { aggregator, foreign, split, timer, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import type { Answer } from '../../broker/gateway.js';
import { PublishError, type Transport } from '../../broker/transport.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';

const ran: unknown[] = [];
const note = worker({
  name: 'note',
  handle(body) {
    ran.push(body);
    return { noted: body };
  },
});
const textOf = (answer: Answer | undefined) => (answer?.kind === 'outcome' ? answer.outcome.body.toString() : answer);
const day = 86_400_000;

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a timer %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: TestHubOptions) => (hub = await openHub(options));
  afterEach(() => hub?.close());
  const dossiers = (requestId: string) => hub.ports.store.dossiers(`of:${requestId}`, { limit: 10 });
  const collect = (id: string) => hub.gateway.collect(id, anonymous, 10_000);

  it('lets a request go on when its time has come, once, with the body as it was', async () => {
    await open({ flows: { remind: ['rest', 'note'] }, steps: [timer({ name: 'rest', wait: '200ms' }), note] });
    const began = Date.now();
    const body = { token: Math.random() };
    expect(await hub.reply('remind', body)).toEqual({ noted: body });
    expect(Date.now() - began).toBeGreaterThanOrEqual(200);
    expect(ran.filter((one) => JSON.stringify(one) === JSON.stringify(body))).toHaveLength(1);
  });

  it('waits until the date that the body names, and a date that has passed is no wait', async () => {
    const rest = timer<{ at: string }>({ name: 'rest', wait: ({ at }) => new Date(at) });
    await open({ flows: { remind: ['rest', 'note'] }, steps: [rest, note] });
    const at = new Date(Date.now() + 700).toISOString();
    expect(await hub.reply('remind', { at })).toEqual({ noted: { at } });
    expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(at));
    expect(await hub.reply('remind', { at: '2001-01-01' })).toEqual({ noted: { at: '2001-01-01' } });
  });

  it('holds no delivery meanwhile, and says what is waited for', async () => {
    await open({ flows: { remind: ['rest', 'note'] }, steps: [timer({ name: 'rest', wait: '30s' }), note] });
    const { id } = await hub.ask('remind', 1, { waitMs: 0 });
    await eventually(async () =>
      expect(await hub.gateway.status(id, anonymous)).toMatchObject({
        state: 'waiting',
        step: 'rest',
        waitingOn: expect.stringMatching(/^timer until 20/),
      }),
    );
    expect(await hub.ports.transport.inspect(hub.hub.names.workQueue('rest'))).toMatchObject({ ready: 0 });
  });

  it('is over with its request', async () => {
    await open({ flows: { remind: ['rest', 'note'] }, steps: [timer({ name: 'rest', wait: '30s' }), note] });
    const { id } = await hub.ask('remind', 1, { waitMs: 0 });
    await eventually(async () => expect((await dossiers(id)).found).toHaveLength(1));
    const [{ id: dossierId } = { id: '' }] = (await dossiers(id)).found;
    expect(await hub.gateway.cancel(id, anonymous)).toBe('cancelled');
    expect((await dossiers(id)).found).toEqual([]);
    expect(await hub.ports.store.dossier('timer', dossierId)).toMatchObject({ isOpen: false, data: { ended: 'withdrawn' } });
  });

  it('is over with its group', async () => {
    const spread = worker({
      name: 'spread',
      handle: () =>
        split([
          { body: 1, steps: ['rest'] },
          { body: 2, steps: ['note'] },
        ]),
    });
    const first = aggregator({ name: 'first', atLeast: 1, timeout: '30s' });
    await open({ flows: { race: ['spread', 'first'] }, steps: [timer({ name: 'rest', wait: '40s' }), note, spread, first] });
    const { id } = await hub.ask('race', 1, { waitMs: 0 });
    expect(textOf(await collect(id))).toContain('"completedBy":"at-least"');
    await eventually(async () => expect((await dossiers(id)).found).toEqual([]));
  });

  it('outlives the store', async () => {
    await open({ flows: { remind: ['rest', 'note'] }, steps: [timer({ name: 'rest', wait: '4s' }), note] });
    const body = Math.random();
    const { id } = await hub.ask('remind', body, { waitMs: 0 });
    await eventually(async () => expect((await dossiers(id)).found).toHaveLength(1));
    await hub.lose();
    await eventually(async () => expect((await dossiers(id)).found).toHaveLength(1), { withinMs: 15_000 });
    expect(textOf(await collect(id))).toBe(`{"noted":${body}}`);
    expect(ran.filter((one) => one === body)).toHaveLength(1);
  });

  it('that would go on after the deadline is refused at once', async () => {
    await open({ flows: { remind: { steps: ['rest', 'note'], deadlineMs: 10_000 } }, steps: [timer({ name: 'rest', wait: '2d' }), note] });
    expect(await hub.ask('remind', 1)).toMatchObject({ outcome: { kind: 'fault' } });
  });
});

describe('a timer by a test clock', () => {
  it('goes on after months, to the second, and is carried in the journal meanwhile', async () => {
    const clock = testClock();
    const hub = await memoryHub({
      clock,
      flows: { renew: { steps: ['rest', 'note'], deadlineMs: 100 * day, maxDeadlineMs: 100 * day } },
      steps: [timer({ name: 'rest', wait: '90d' }), note],
    });
    const asked = hub.ask('renew', 'in spring', { waitMs: 0 });
    await clock.advance(100);
    const { id } = await asked;
    await clock.advance(89 * day);
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'waiting' });
    const [dossier] = (await hub.ports.store.dossiers(`of:${id}`, { limit: 1 })).found;
    expect(dossier).toMatchObject({ version: 1 });
    const told: number[] = [];
    await hub.hub.journal.replay(
      'first',
      ({ headers }) => void (headers['hub-note'] === 'dossier' && told.push(Number(headers['hub-note-at']))),
    );
    expect(Math.max(...told)).toBeGreaterThan(clock.now() - 21 * 3_600_000);
    await clock.advance(day + 2_000);
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'replied' });
    await hub.close();
  });

  it('whose ring RabbitMQ does not confirm makes no deadline of another request wait', async () => {
    const clock = testClock();
    const hub = await memoryHub({
      clock,
      flows: { remind: ['rest'], price: ['price'] },
      steps: [timer({ name: 'rest', wait: '1s' }), foreign('price')],
    });
    const asked = [hub.ask('remind', 1, { waitMs: 0 }), hub.ask('price', 1, { waitMs: 0, deadlineMs: 5_000 })] as const;
    await clock.advance(500);
    const { id } = await asked[1];
    const transport = hub.ports.transport as { publish: Transport['publish'] };
    const publish = transport.publish.bind(transport);
    let rings = 0;
    let letGo: () => void = () => undefined;
    const confirmed = new Promise<void>((resolve) => (letGo = resolve));
    transport.publish = async (to, message, options) => {
      if (to.routingKey === 'rest' && ++rings > 0) await confirmed;
      return publish(to, message, options);
    };
    await clock.advance(7_000);
    expect(rings).toBe(1);
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'timed-out' });
    letGo();
    await clock.advance(1_000);
    await hub.close();
  });
});

it('an outcome that RabbitMQ does not confirm is not begun again beside it because another one failed', async () => {
  const clock = testClock();
  const hub = await memoryHub({ clock, flows: { price: ['price'] }, steps: [foreign('price')] });
  const asked = [1, 2].map((body) => hub.ask('price', body, { waitMs: 0 }));
  await clock.advance(500);
  const [stuck, refused] = (await Promise.all(asked)).map(({ id }) => id);
  const { store } = hub.ports;
  const transport = hub.ports.transport as { publish: Transport['publish'] };
  const publish = transport.publish.bind(transport);
  const told: unknown[] = [];
  let letGo: () => void = () => undefined;
  const confirmed = new Promise<void>((resolve) => (letGo = resolve));
  transport.publish = async (to, message, options) => {
    if (message.headers?.['hub-note'] === 'outcome') {
      told.push(message.correlationId);
      if (message.correlationId === refused) throw new PublishError('nacked', 'not now');
      await confirmed;
    }
    return publish(to, message, options);
  };
  // A hub settled them, and died before it told the journal.
  const outcome = { kind: 'reply', body: Buffer.from('42'), contentType: 'application/json', at: clock.now() } as const;
  for (const id of [stuck!, refused!]) await store.settle(id, outcome, false);
  for (let n = 0; n < 20; n++) await clock.advance(500);
  expect(told.filter((id) => id === stuck)).toHaveLength(1);
  letGo();
  await clock.advance(1_000);
  expect(await store.get(stuck!)).toMatchObject({ shown: true });
  const closing = hub.close();
  await clock.advance(5_000);
  await closing;
});
