/** The purchase example, by the kit that its own authors would use. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { testHub, type TestHub } from '../../testing.js';

const desk = { what: 'Standing desk', amount: 1_450, supplier: 'Lignum', requestedBy: 'dora' };
const data = { costCentre: 'office' };

describe('a purchase', () => {
  let hub: TestHub;
  beforeEach(async () => {
    // A Monday morning in Berlin.
    hub = await testHub({ folder: resolve('examples/purchase-approval'), now: new Date('2026-03-02T08:00:00Z') });
  });
  afterEach(() => hub.close());
  const onlyTask = async (person: string) => {
    const [one, ...others] = await hub.tasks(person);
    expect([one?.title, others]).toEqual([expect.stringMatching(/^Approve /), []]);
    return one!.id;
  };

  it('of more than a thousand euros is ordered when two others have approved it, also three days later', async () => {
    const asked = await hub.ask('purchase.request', desk);
    const id = await onlyTask('ana');
    await hub.decide(id, 'approve', { by: 'ana', data });
    await expect(asked.reply()).rejects.toThrow(/waits for task: Approve Standing desk for 1450 €/);
    await hub.loseStore();
    await hub.advance('3d');
    await hub.decide(id, 'approve', { by: 'bo', data });
    expect(await asked.reply()).toEqual({
      order: expect.stringMatching(/^PO-[0-9a-f]{6}$/),
      what: 'Standing desk',
      approvedBy: ['ana', 'bo'],
      costCentre: 'office',
    });
  });

  it('is never decided by who asked for it, nor twice by the same', async () => {
    await hub.ask('purchase.request', desk);
    const id = await onlyTask('ana');
    await expect(hub.decide(id, 'approve', { by: 'dora', data })).rejects.toMatchObject({ code: 'forbidden' });
    await hub.decide(id, 'approve', { by: 'ana', data });
    await expect(hub.decide(id, 'approve', { by: 'ana', data })).rejects.toMatchObject({ code: 'forbidden' });
  });

  it('of less is ordered when one has approved it; a refusal is told with its reason', async () => {
    const lamp = await hub.ask('purchase.request', { ...desk, what: 'Lamp', amount: 80 });
    await hub.decide(await onlyTask('bo'), 'approve', { by: 'bo', data });
    expect(await lamp.reply()).toMatchObject({ what: 'Lamp', approvedBy: ['bo'] });
    const gold = await hub.ask('purchase.request', { ...desk, what: 'Gold lamp', amount: 900 });
    await hub.decide(await onlyTask('bo'), 'reject', { by: 'bo', data, comment: 'too shiny' });
    await expect(gold.reply()).rejects.toThrow('Gold lamp was not approved: too shiny');
  });

  it('that nobody decides on comes to the head after a working day', async () => {
    await hub.ask('purchase.request', desk);
    expect(await hub.tasks('cem')).toEqual([]);
    await hub.advance('25h');
    await onlyTask('cem');
  });

  it('from a supplier that is banned is refused at once', async () => {
    const asked = await hub.ask('purchase.request', { ...desk, supplier: 'Acme' });
    await expect(asked.reply()).rejects.toMatchObject({ code: 'rejected' });
  });
});
