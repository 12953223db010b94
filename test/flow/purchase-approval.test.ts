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
    const refused = await onlyTask('bo');
    await expect(hub.decide(refused, 'reject', { by: 'bo' })).rejects.toThrow(/#\/comment is missing/);
    await hub.decide(refused, 'reject', { by: 'bo', comment: 'too shiny' });
    await expect(gold.reply()).rejects.toThrow('Gold lamp was not approved: too shiny');
  });

  it('needs a cost centre when it is approved, and only then', async () => {
    await hub.ask('purchase.request', { ...desk, amount: 80 });
    const id = await onlyTask('ana');
    await expect(hub.decide(id, 'approve', { by: 'ana', data: { remark: 'soon' } })).rejects.toThrow(/#\/costCentre is missing/);
    await hub.decide(id, 'reject', { by: 'ana', comment: 'not this year' });
  });

  it('calls back who asked for it, once it is over, with what they would have read', async () => {
    const [lamp, gold] = ['Lamp', 'Gold lamp'].map((what) => ({ ...desk, what, amount: 80 }));
    const bought = await hub.ask('purchase.request', lamp, { callback: 'desk' });
    await hub.decide(await onlyTask('bo'), 'approve', { by: 'bo', data });
    await hub.advance('1s');
    const about = { 'hub-flow': 'purchase.request', 'webhook-signature': expect.stringMatching(/^v1,/) };
    expect(hub.posted).toEqual([
      {
        url: 'http://127.0.0.1:9876/purchases',
        headers: expect.objectContaining({ ...about, 'hub-state': 'replied', 'hub-request-id': bought.id }),
        body: await bought.reply(),
      },
    ]);
    await hub.ask('purchase.request', gold, { callback: 'desk' });
    await hub.decide(await onlyTask('bo'), 'reject', { by: 'bo', comment: 'too shiny' });
    await hub.advance('1s');
    expect(hub.posted[1]).toMatchObject({
      headers: { ...about, 'hub-state': 'faulted', 'content-type': 'application/problem+json' },
      body: { code: 'rejected', detail: 'Gold lamp was not approved: too shiny' },
    });
  });

  it('calls back again when nobody was there', async () => {
    hub.disturbCallbacks(503, 'unreachable');
    const lamp = await hub.ask('purchase.request', { ...desk, amount: 80 }, { callback: 'desk' });
    await hub.decide(await onlyTask('bo'), 'approve', { by: 'bo', data });
    await hub.advance('1s');
    expect(hub.posted).toHaveLength(1);
    await hub.advance('10m');
    expect(hub.posted.map(({ headers }) => headers['webhook-id'])).toEqual(
      Array.from({ length: 3 }, () => hub.posted[0]!.headers['webhook-id']),
    );
    await hub.advance('3d');
    expect(hub.posted).toHaveLength(3);
    expect(hub.posted[2]!.body).toEqual(await lamp.reply());
  });

  it('calls back nobody whom hub.yaml does not name', async () => {
    await expect(hub.ask('purchase.request', desk, { callback: 'somebody' })).rejects.toMatchObject({ code: 'forbidden' });
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
