/** The kit with which users of the hub test their own flows. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { aggregator, ask, Fault, split, task, timer, worker } from '../../index.js';
import { perform, testHub, type TestHub, type TestHubOptions } from '../../testing.js';

const score = worker<{ customer: string }>({ name: 'score', handle: (body) => ({ ...body, score: body.customer.length }) });
const rest = timer({ name: 'rest', wait: '3d' });

describe('a flow in a test', () => {
  let hub: TestHub;
  const open = async (options: TestHubOptions) => (hub = await testHub(options));
  afterEach(() => hub?.close());

  it('is answered without a service, without waiting', async () => {
    await open({ flows: { rate: ['score'] }, steps: [score] });
    const asked = await hub.ask('rate', { customer: 'Ada' });
    expect(await asked.reply()).toEqual({ customer: 'Ada', score: 3 });
  });

  it('goes on when the test lets time go by, and says before what it waits for', async () => {
    await open({ flows: { rate: ['rest', 'score'] }, steps: [score, rest] });
    const asked = await hub.ask('rate', { customer: 'Ada' });
    await expect(asked.reply()).rejects.toThrow(/no answer yet: the request is waiting at rest, waits for timer until 2026-01-04/);
    await hub.advance('2d');
    expect(await asked.outcome()).toBeUndefined();
    await hub.advance('1d');
    expect(await asked.reply()).toEqual({ customer: 'Ada', score: 3 });
    expect(hub.now().toISOString()).toMatch(/^2026-01-04/);
  });

  it('ends at its deadline', async () => {
    await open({
      flows: { rate: { steps: ['rest', 'score'], deadlineMs: 4 * 86_400_000 } },
      steps: [score, timer({ name: 'rest', wait: '89h' })],
    });
    const asked = await hub.ask('rate', { customer: 'Ada' }, { deadlineMs: 89 * 3_600_000 + 20_000 });
    hub.disturb('score', 'hangs');
    await hub.advance('4d');
    await expect(asked.reply()).rejects.toMatchObject({ code: 'timeout' });
  });

  it('goes through failures that the test orders', async () => {
    await open({ flows: { rate: ['score'] }, steps: [score] });
    hub.disturb('score', new Error('not now'), 'dies');
    const asked = await hub.ask('rate', { customer: 'Ada' });
    await expect(asked.reply()).rejects.toThrow(/no answer yet/);
    await hub.advance('1s');
    expect(await asked.reply()).toEqual({ customer: 'Ada', score: 3 });
    hub.disturb('score', new Fault('rejected', 'no credit'));
    await expect((await hub.ask('rate', { customer: 'Ada' })).reply()).rejects.toMatchObject({ code: 'rejected' });
    expect(() => hub.disturb('sore', 'dies')).toThrow(/no step "sore"/);
  });

  it('is cancelled', async () => {
    await open({ flows: { rate: ['rest', 'score'] }, steps: [score, rest] });
    const asked = await hub.ask('rate', { customer: 'Ada' });
    await asked.cancel();
    await expect(asked.reply()).rejects.toMatchObject({ code: 'cancelled' });
    await hub.advance('5d');
    await expect(asked.reply()).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('is decided by people, who may do what they may do in the inbox', async () => {
    const approve = task<{ amount: number }>({
      name: 'approve',
      title: ({ amount }) => `Approve ${amount} €`,
      candidates: { groups: ['buyers'] },
      approvals: { needed: 2 },
    });
    const buyer = (name: string) => ({ name, groups: ['buyers'], roles: ['task-user'] as const });
    await open({ flows: { order: ['approve'] }, steps: [approve], users: [buyer('ana'), buyer('bo')] });
    const asked = await hub.ask('order', { amount: 5 });
    const [{ id, title } = { id: '', title: '' }] = await hub.tasks('ana');
    expect(title).toBe('Approve 5 €');
    await hub.decide(id, 'approve', { by: 'ana' });
    await expect(hub.decide(id, 'approve', { by: 'ana' })).rejects.toMatchObject({ code: 'forbidden' });
    await expect(asked.reply()).rejects.toThrow(/waits for task: Approve 5 €/);
    await hub.decide(id, 'approve', { by: 'bo' });
    expect(await asked.reply()).toMatchObject({ outcome: 'approve', votes: [{ by: 'ana' }, { by: 'bo' }] });
  });

  it('is a conversation', async () => {
    const clerk = worker({ name: 'clerk', asks: true, handle: (_body, _envelope, { answers: [one] }) => one?.answer ?? ask('how many?') });
    await open({ flows: { claim: ['clerk'] }, steps: [clerk] });
    const asked = await hub.ask('claim', {});
    expect(await asked.status()).toMatchObject({ waitingOn: 'requestor', questions: [{ question: 'how many?' }] });
    await asked.answer(7);
    expect(await asked.reply()).toBe(7);
    await expect(asked.answer(8)).rejects.toThrow(/asks nothing/);
  });

  it('outlives the store', async () => {
    await open({ flows: { rate: ['rest', 'score'] }, steps: [score, rest] });
    const asked = await hub.ask('rate', { customer: 'Ada' });
    await hub.advance('1d');
    await hub.loseStore();
    await hub.advance('2d');
    expect(await asked.reply()).toEqual({ customer: 'Ada', score: 3 });
  });

  it('hears the refusal of a request that fits no flow, and a project that cannot run says why', async () => {
    await open({ flows: { rate: ['score'] }, steps: [score] });
    await expect(hub.ask('rat', {})).rejects.toMatchObject({ code: 'invalid' });
    await expect(testHub({ flows: { rate: ['scor'] }, steps: [score] })).rejects.toThrow(/did you mean "score"/);
  });

  it('is that of a project folder, with a step replaced', async () => {
    const harbour = worker({ name: 'bank.harbour', handle: () => ({ bank: 'harbour', rate: 1.1 }) });
    await open({ folder: resolve('examples/loan-broker'), steps: [harbour] });
    const asked = await hub.ask('loan.quote', { customer: 'C-1042', amount: 24_000, termMonths: 36 });
    await hub.advance('2s');
    expect(await asked.reply()).toMatchObject({ best: { bank: 'harbour' }, missing: expect.arrayContaining(['bank.silent']) });
  });
});

describe('a step alone', () => {
  it('is run once, and what it returned is there to look at', async () => {
    expect(await perform(score, { customer: 'Ada' })).toEqual({
      body: { customer: 'Ada', score: 3 },
      contentType: 'application/json',
      progress: [],
    });
  });

  it('shows its parts and its progress', async () => {
    const apart = worker<number[]>({
      name: 'apart',
      handle(body, _envelope, { progress }) {
        progress({ percent: 50 });
        return split(body.map((one) => ({ body: one, steps: ['score'] })));
      },
    });
    expect(await perform(apart, [1, 2])).toEqual({
      parts: [
        { body: 1, steps: ['score'] },
        { body: 2, steps: ['score'] },
      ],
      progress: [{ percent: 50 }],
    });
  });

  it('throws what its handler throws; other kinds want their flow', async () => {
    const failing = worker({ name: 'failing', handle: () => Promise.reject(new Fault('rejected', 'no')) });
    await expect(perform(failing, {})).rejects.toMatchObject({ code: 'rejected' });
    await expect(perform(aggregator({ name: 'all' }), {})).rejects.toThrow(/run its flow with testHub/);
  });
});
