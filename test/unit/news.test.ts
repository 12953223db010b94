/** Many who watch one request. */
import { describe, expect, it } from '@jest/globals';
import { systemClock } from '../../broker/clock.js';
import { openCorrelator } from '../../broker/correlator.js';
import { openNews } from '../../broker/news.js';
import type { RequestEvent, RequestRecord } from '../../broker/store.js';
import { eventually } from '../support/eventually.js';

const event = (sequence: number, name: RequestEvent['name'] = 'progress'): RequestEvent => ({ sequence, at: 0, name, data: {} });

/** A request of which `tell` tells, and which counts how often it is looked at. */
function watched() {
  const told: RequestEvent[] = [];
  const correlator = openCorrelator(systemClock);
  let looks = 0;
  const store = {
    get: async () => (looks++, { shown: false } as RequestRecord),
    events: async (_id: string, after: number) => told.filter(({ sequence }) => sequence > after),
  };
  return {
    news: openNews({ store, correlator, clock: systemClock }),
    looks: () => looks,
    tell(name?: RequestEvent['name']) {
      told.push(event(told.length + 1, name));
      correlator.wake('id');
    },
  };
}

describe('those who watch a request', () => {
  const never = new AbortController().signal;

  it('hear everything in its order, from where they are, and cost the store no more than one of them', async () => {
    const { news, looks, tell } = watched();
    tell();
    const heard = Array.from({ length: 100 }, (): number[] => []);
    const over = heard.map((its, n) => news.follow('id', n === 0 ? 1 : 0, ({ sequence }) => void its.push(sequence), never));
    for (let n = 2; n <= 20; n++) {
      tell();
      await eventually(() => expect(heard.every((its) => its.at(-1) === n)).toBe(true));
    }
    tell('outcome');
    await Promise.all(over);
    const all = Array.from({ length: 21 }, (_, n) => n + 1);
    expect(heard).toEqual(heard.map((_, n) => (n === 0 ? all.slice(1) : all)));
    // Twice for each event: of a wake-up during a look it is not known whether the look has seen what it is about.
    expect(looks()).toBeLessThan(50);
  });

  it('wait for nobody who is slow', async () => {
    const { news, tell } = watched();
    const slowly: (() => void)[] = [];
    const slow = news.follow('id', 0, () => new Promise<void>((resolve) => slowly.push(resolve)), never);
    const heard: number[] = [];
    const quick = news.follow('id', 0, ({ sequence }) => void heard.push(sequence), never);
    tell();
    await eventually(() => expect(heard).toEqual([1]));
    tell('outcome');
    await quick;
    expect([heard, slowly.length]).toEqual([[1, 2], 1]);
    slowly[0]!();
    await eventually(() => expect(slowly).toHaveLength(2));
    slowly[1]!();
    await slow;
  });

  it('leave when they hang up, at once', async () => {
    const { news } = watched();
    const hungUp = new AbortController();
    const over = news.follow('id', 0, () => undefined, hungUp.signal);
    hungUp.abort();
    await over;
  });
});
