/** A step that asks its requestor something, and goes on with the answer. On both sets of ports, and over HTTP. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { aggregator, ask, split, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import type { Answer } from '../../broker/gateway.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';
import { settings } from './http-server.js';

interface Claim {
  readonly claim: string;
}

/** Asks for the receipt, then whether the amount is right, and tells what it heard. */
const clerk = worker<Claim>({
  name: 'clerk',
  asks: true,
  retry: ['200ms'],
  handle({ claim }, { attempt }, { answers, kept }) {
    const [receipt, sure] = answers;
    if (receipt === undefined) return ask(`receipt of ${claim}?`, { schema: { type: 'integer' }, keep: { began: claim } });
    if (sure === undefined) return ask({ sure: receipt.answer }, { keep: kept });
    // Fails the first time it has everything.
    if (attempt === 1 && claim === 'shaky') throw new Error('not now');
    return { claim, kept, answers: answers.map(({ question, answer }) => [question, answer]) };
  },
});
const said = (answer: Answer | undefined) =>
  answer?.kind === 'outcome' ? (JSON.parse(answer.outcome.body.toString()) as unknown) : answer;

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('a question to the requestor %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: Partial<TestHubOptions> = {}) =>
    (hub = await openHub({ flows: { claim: ['clerk'] }, steps: [clerk], ...options }));
  afterEach(() => hub?.close());
  const isAsked = (id: string, question: unknown) =>
    eventually(async () =>
      expect(await hub.gateway.status(id, anonymous)).toMatchObject({ waitingOn: 'requestor', questions: [{ question }] }),
    );
  const answer = (id: string, value: unknown, question?: string) => hub.gateway.answer(id, anonymous, value, question);

  it('ends the hold, is answered, and the step goes on, once for each answer', async () => {
    await open();
    const asked = await hub.ask('claim', { claim: 'C-1' }, { waitMs: 10_000 });
    expect(asked).toMatchObject({
      kind: 'accepted',
      status: {
        state: 'waiting',
        step: 'clerk',
        waitingOn: 'requestor',
        questions: [{ question: 'receipt of C-1?', schema: { type: 'integer' } }],
      },
    });
    expect(await answer(asked.id, 24)).toBe('answered');
    await isAsked(asked.id, { sure: 24 });
    expect(await answer(asked.id, true)).toBe('answered');
    expect(said(await hub.gateway.collect(asked.id, anonymous, 10_000))).toEqual({
      claim: 'C-1',
      kept: { began: 'C-1' },
      answers: [
        ['receipt of C-1?', 24],
        [{ sure: 24 }, true],
      ],
    });
    await eventually(async () => expect((await hub.ports.store.dossiers(`of:${asked.id}`, { limit: 5 })).found).toEqual([]));
  });

  it('refuses an answer that does not fit, and says where', async () => {
    await open();
    const { id } = await hub.ask('claim', { claim: 'C-1' });
    await expect(answer(id, 'many')).rejects.toMatchObject({ code: 'invalid', reason: 'schema', errors: [{ pointer: '#' }] });
    await isAsked(id, 'receipt of C-1?');
  });

  it('may be answered again with the same, by a client that did not hear the first time; not otherwise', async () => {
    await open();
    const { id, ...asked } = await hub.ask('claim', { claim: 'C-1' });
    const [question] = asked.kind === 'accepted' ? (asked.status.questions ?? []) : [];
    expect(await answer(id, 24, question?.id)).toBe('answered');
    expect(await answer(id, 24, question?.id)).toBe('answered');
    expect(await answer(id, 25, question?.id)).toBe('none');
    expect(await answer(id, 24, 'another')).toBe('none');
    expect(await answer('nobody', 24)).toBeUndefined();
  });

  it('outlives the store, and a failure of the step after it', async () => {
    await open();
    const { id } = await hub.ask('claim', { claim: 'shaky' });
    await hub.lose();
    await eventually(async () => expect(await answer(id, 24)).toBe('answered'), { withinMs: 15_000 });
    await eventually(async () =>
      expect(await hub.gateway.status(id, anonymous)).toMatchObject({ questions: [{ question: { sure: 24 } }] }),
    );
    expect(await answer(id, true)).toBe('answered');
    expect(said(await hub.gateway.collect(id, anonymous, 10_000))).toMatchObject({ claim: 'shaky' });
  });

  it('of two parts at once is answered by its name', async () => {
    const apart = worker({
      name: 'apart',
      handle: () => split(['a', 'b'].map((claim) => ({ body: { claim }, name: claim, steps: ['short'] }))),
    });
    const short = worker<Claim>({
      name: 'short',
      asks: true,
      handle: ({ claim }, _envelope, { answers: [one] }) => (one === undefined ? ask(claim) : `${claim}:${String(one.answer)}`),
    });
    const all = aggregator<string>({ name: 'all', timeout: '30s', combine: (answers) => answers.map(({ body }) => body.toString()) });
    await open({ flows: { both: { steps: ['apart', 'all'], deadlineMs: 60_000 } }, steps: [apart, short, all] });
    const { id } = await hub.ask('both', {}, { waitMs: 0 });
    await eventually(async () => expect((await hub.gateway.status(id, anonymous))?.questions).toHaveLength(2));
    for (const { id: question, question: claim } of (await hub.gateway.status(id, anonymous))?.questions ?? [])
      expect(await answer(id, `for ${String(claim)}`, question)).toBe('answered');
    expect(said(await hub.gateway.collect(id, anonymous, 10_000))).toEqual(['a:for a', 'b:for b']);
  });

  it('is over with its request', async () => {
    await open();
    const { id } = await hub.ask('claim', { claim: 'C-1' });
    await hub.gateway.cancel(id, anonymous);
    expect(await answer(id, 24)).toBe('none');
  });

  it('of a step that does not say that it asks is a mistake of its author', async () => {
    await open({ flows: { hasty: ['hasty'] }, steps: [worker({ name: 'hasty', retry: [], handle: () => ask('what?') })] });
    expect(await hub.ask('hasty', {})).toMatchObject({ outcome: { kind: 'fault' } });
    expect(hub.events.find(({ event }) => event === 'step.dead')?.fields['error']).toMatch(/asks: true/);
  });

  it('is asked and answered over HTTP', async () => {
    await open();
    const { urls } = await hub.open(http, settings);
    const call = (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) =>
      fetch(`${urls[0]}${path}`, {
        method,
        headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    const asked = await call('POST', '/requests/claim', { claim: 'C-1' }, { prefer: 'wait=10' });
    expect(asked.status).toBe(202);
    const { id, questions, links } = (await asked.json()) as { id: string; questions: { id: string }[]; links: { answers: string } };
    expect(links.answers).toBe(`/requests/${id}/answers`);
    const wrong = await call('POST', links.answers, 'many');
    expect([wrong.status, await wrong.json()]).toMatchObject([
      400,
      { code: 'invalid', errors: [{ pointer: '#', detail: 'must be integer' }] },
    ]);
    const next = await call('POST', links.answers, 24, { prefer: 'wait=10', 'hub-question': questions[0]!.id });
    expect(next.status).toBe(202);
    expect(await next.json()).toMatchObject({ questions: [{ question: { sure: 24 } }] });
    const done = await call('POST', links.answers, true, { prefer: 'wait=10' });
    expect([done.status, await done.json()]).toMatchObject([200, { claim: 'C-1' }]);
    const late = await call('POST', links.answers, true, { 'hub-question': 'another' });
    expect([late.status, await late.json()]).toMatchObject([409, { code: 'not-asked' }]);
    const broken = await fetch(`${urls[0]}${links.answers}`, { method: 'POST', body: '{' });
    expect([broken.status, await broken.json()]).toMatchObject([400, { detail: expect.stringMatching(/must be JSON/) }]);
  });
});
