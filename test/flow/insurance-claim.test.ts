/** The claim example, by the kit that its own authors would use. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { testHub, type Asked, type TestHub } from '../../testing.js';
import { eventually } from '../support/eventually.js';

const theft = { policy: 'P-20417', kind: 'theft', amount: 8_200, story: 'My bicycle was gone in the morning.' };

describe('a claim', () => {
  let hub: TestHub;
  beforeEach(async () => {
    hub = await testHub({ folder: resolve('examples/insurance-claim') });
  });
  afterEach(() => hub.close());

  /** The task that somebody has to do; the score before it is computed by a thread, which takes real time. */
  const taskOf = (person: string) =>
    eventually(async () => {
      await hub.advance('1s');
      const [task] = await hub.tasks(person);
      if (task === undefined) throw new Error(`${person} has no task`);
      return task;
    });
  const give = async (person: string, outcome: string, more: { readonly data?: unknown; readonly comment?: string } = {}) =>
    hub.decide((await taskOf(person)).id, outcome, { by: person, ...more });

  async function reported(): Promise<Asked> {
    const claim = await hub.ask('claim.settle', theft);
    expect((await claim.status()).questions).toMatchObject([{ question: 'What is the number of the police report?' }]);
    await expect(claim.answer('lost it')).rejects.toMatchObject({ code: 'invalid' });
    await claim.answer('AB-12345');
    return claim;
  }

  it('is completed by its requestor, scored, and paid when two of the board of three want it', async () => {
    const claim = await reported();
    await give('eva', 'plausible', { data: { worth: 8_000 } });
    await give('finn', 'plausible', { data: { worth: 7_000 } });
    await give('gil', 'pay');
    await give('hana', 'refuse', { comment: 'no lock' });
    await expect(claim.reply()).rejects.toThrow(/no answer yet/);
    await give('ivo', 'pay');
    expect(await claim.reply()).toMatchObject({ policy: 'P-20417', pays: 7_500, policeReport: 'AB-12345' });
  });

  it('is refused as soon as two of the board refuse it', async () => {
    const claim = await reported();
    await give('eva', 'doubtful', { data: { worth: 0 }, comment: 'it was seen later' });
    await give('finn', 'plausible', { data: { worth: 7_000 } });
    await give('gil', 'refuse', { comment: 'not his' });
    await give('ivo', 'refuse', { comment: 'not his either' });
    await expect(claim.reply()).rejects.toMatchObject({ code: 'rejected' });
  });

  it('that is withdrawn midway leaves nothing to do for anybody', async () => {
    const claim = await reported();
    await taskOf('eva');
    await claim.cancel();
    await expect(claim.reply()).rejects.toMatchObject({ code: 'cancelled' });
    expect(await hub.tasks('eva')).toEqual([]);
    expect(await hub.tasks('finn')).toEqual([]);
  });
});
