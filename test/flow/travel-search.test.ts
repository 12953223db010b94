/** The travel example, by the kit that its own authors would use. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { worker } from '../../index.js';
import { testHub, type TestHub } from '../../testing.js';
import { stopped } from '../../examples/travel-search/workers/travel.js';
import { eventually } from '../support/eventually.js';

const trip = { from: 'Oslo', to: 'Lisbon', days: 7 };

describe('a search for a trip', () => {
  let hub: TestHub;
  beforeEach(async () => {
    hub = await testHub({ folder: resolve('examples/travel-search') });
  });
  afterEach(() => hub.close());

  it('finds offers one by one', async () => {
    const asked = await hub.ask('travel.offers', trip);
    await eventually(async () =>
      expect(await asked.reply()).toEqual([
        { airline: 'fjord', price: 227 },
        { airline: 'tagus', price: 187 },
      ]),
    );
  });

  it('prices a journey of several trips', async () => {
    const asked = await hub.ask('travel.journey', [trip, { from: 'Lisbon', to: 'Rome', days: 3 }]);
    await eventually(async () => expect(await asked.reply()).toEqual({ trips: 2, price: 370 }));
  });

  it('takes the cheaper of the first two, and stops the third', async () => {
    const asked = await hub.ask('travel.best', trip);
    await eventually(async () =>
      expect(await asked.reply()).toEqual({ best: { airline: 'tagus', price: 187 }, asked: 3, notWaitedFor: ['snail'] }),
    );
    await eventually(() => expect(stopped).toEqual(['snail']));
  });

  describe('that is watched', () => {
    const cheap = { best: { airline: 'snail', price: 97 }, asked: 3, notWaitedFor: [] };
    const soon = { best: { airline: 'tagus', price: 187 }, asked: 3, notWaitedFor: ['snail'] };
    /** It takes its time by the clock of the test. */
    const snail = worker<typeof trip>({ name: 'airline.snail', handle: ({ days }) => ({ airline: 'snail', price: 90 + days }) });
    beforeEach(async () => {
      await hub.close();
      hub = await testHub({ folder: resolve('examples/travel-search'), steps: [snail] });
    });

    it('is answered with the first two, and corrected by the third', async () => {
      hub.disturb('airline.snail', { takes: '5s' });
      const asked = await hub.ask('travel.watch', trip);
      await eventually(async () => expect(await asked.reply()).toEqual(soon));
      expect(await asked.status()).toMatchObject({ state: 'replied', version: 1 });
      await hub.advance('6s');
      expect(await asked.status()).toMatchObject({ state: 'replied', version: 2 });
      expect(await asked.reply()).toEqual(cheap);
      expect(await asked.reply(1)).toEqual(soon);
      await hub.loseStore();
      expect([await asked.reply(), await asked.reply(1)]).toEqual([cheap, soon]);
    });

    it('stays as it is when the third comes after half a minute', async () => {
      hub.disturb('airline.snail', { takes: '31s' });
      const asked = await hub.ask('travel.watch', trip);
      await eventually(async () => expect(await asked.reply()).toEqual(soon));
      await hub.advance('40s');
      expect(await asked.status()).toMatchObject({ state: 'replied', version: 1 });
      await expect(asked.reply(2)).rejects.toThrow('has no version 2');
    });
  });
});
