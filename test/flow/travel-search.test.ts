/** The travel example, by the kit that its own authors would use. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
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
});
