import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { worker } from '../../index.js';
import { loadSteps } from '../../workers/index.js';
import { memoryHub, realHub, type TestHub } from '../support/hub.js';

const request = { customer: 'C-1042', amount: 24_000, termMonths: 36 };

/** Harbour Bank as the SOAP adapter would bring its answer; the adapter itself is tested in test/integration. */
const harbour = worker({ name: 'bank.harbour', handle: () => ({ bank: 'harbour', rate: 4.4 }) });

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('the loan broker %s', (_where, open) => {
  let hub: TestHub;
  beforeAll(async () => {
    const steps = [...(await loadSteps(resolve('examples/loan-broker'))), harbour];
    hub = await open({ flows: { 'loan.quote': ['credit.score', 'banks.ask', 'loan.best'], hello: ['hello'] }, steps });
  });
  afterAll(() => hub?.close());

  it('asks five banks and answers with the best offer of whoever has answered after 2 s', async () => {
    expect(await hub.reply('loan.quote', request)).toEqual({
      best: { bank: 'slow', rate: 3.88 },
      answered: ['bank.nordic', 'bank.harbour', 'bank.slow', 'bank.shaky'],
      failed: [],
      missing: ['bank.silent'],
    });
  });

  it('asks fewer banks when the amount or the history does not suit them', async () => {
    expect(await hub.reply('loan.quote', { customer: 'C-1005', amount: 80_000, termMonths: 12 })).toMatchObject({
      answered: ['bank.slow'],
      missing: ['bank.silent'],
    });
  });

  it('names a bank that refuses among the failed', async () => {
    expect(await hub.reply('loan.quote', { ...request, amount: 95_000 })).toMatchObject({ failed: ['bank.shaky'] });
  });

  it('hands a refusal of the credit bureau to the requestor', async () => {
    const answer = await hub.ask('loan.quote', { ...request, customer: 'C-0' });
    expect(answer).toMatchObject({ kind: 'outcome', outcome: { kind: 'fault' } });
  });

  it('says hello', async () => {
    expect(await hub.reply('hello', { name: 'Ada' })).toEqual({ greeting: 'Hello, Ada!' });
  });
});
