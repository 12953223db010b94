/** A broker that dies and comes back while hubs and workers go on running: what the clients hear. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import type { Load, Question } from './clients.js';
import { ownRabbitmq, type OwnRabbitmq } from './own-rabbitmq.js';
import { inScenario, type Scenario } from './processes.js';

/** How long a hub may take to say that it does not know (5 s for the confirm), and a little for a busy machine. */
const confirmMs = 6_000;

describe('when the broker', () => {
  let broker: OwnRabbitmq;
  beforeAll(async () => {
    broker = await ownRabbitmq();
    await broker.start();
  }, 60_000);
  afterAll(() => broker?.remove());

  const mixed = (n: number): Question => ({
    flow: n % 3 === 0 ? 'scatter' : 'plain',
    token: `t${n}`,
    ...(n % 2 === 0 ? {} : { key: `k${n}` }),
  });

  /** Load on a hub and two workers; then the promise is checked. */
  const underLoad = (what: (scenario: Scenario) => Promise<void>) =>
    inScenario({ rabbitmq: broker.url }, async (scenario) => {
      const [hub] = await Promise.all([scenario.hub('h1'), scenario.worker(), scenario.worker()]);
      scenario.front = [hub];
      const load = scenario.clients.load(20, mixed);
      await more(load, 100);
      await what(scenario);
      await more(load, 100);
      const told = await load.stop();
      expect(scenario.broken({ withinMs: 40_000 })).toEqual([]);
      expect(slowestRefusal(scenario)).toBeLessThan(confirmMs);
      // Who has a key comes back until it is answered; who has none may have been refused.
      expect(told.filter(({ kind }) => !['reply', 'refused', 'unknown'].includes(kind))).toEqual([]);
    });

  const more = (load: Load, count: number) => {
    const before = load.answered();
    return eventually(() => expect(load.answered()).toBeGreaterThan(before + count), { withinMs: 30_000 });
  };

  it(
    'closes all connections, every accepted request is answered',
    () => underLoad(async () => void (await broker.ctl('close_all_connections', 'by a test'))),
    60_000,
  );

  it(
    'is killed and started again under load, the hub accepts within 10 s of the port, and every accepted request is answered',
    () =>
      underLoad(async (scenario) => {
        const killedAt = Date.now();
        await broker.kill();
        // The others may all be on the line, for what the broker has.
        const newcomers = scenario.clients.load(5, (n) => ({ flow: 'plain', token: `new ${n}` }));
        await eventually(() => expect(ended(scenario, 'refused').filter(({ at }) => at > killedAt).length).toBeGreaterThan(20));
        const openedAt = await broker.start();
        const accepted = await eventually(
          () => {
            const asked = new Set(scenario.history.seen.filter(({ what, at }) => what === 'ask' && at > killedAt).map(({ op }) => op));
            const first = scenario.history.seen.find(({ what, op, at }) => what === 'accepted' && at >= openedAt && asked.has(op));
            expect(first).toBeDefined();
            return first!;
          },
          { withinMs: 30_000 },
        );
        process.stderr.write(`broker restart: accepting again after ${accepted.at - openedAt} ms\n`);
        expect(accepted.at - openedAt).toBeLessThan(10_000);
        await newcomers.stop();
      }),
    90_000,
  );
});

const ended = ({ history }: Scenario, how: 'refused' | 'unknown') => history.seen.filter(({ what }) => what === how);

/** How long the longest first try took that ended without the hub's promise. A repeat under a key is held, for it may be under way. */
function slowestRefusal(scenario: Scenario): number {
  const firstTries = new Map<string, { readonly op: number; readonly at: number }>();
  for (const one of scenario.history.seen) if (one.what === 'ask' && !firstTries.has(one.token)) firstTries.set(one.token, one);
  const began = new Map([...firstTries.values()].map(({ op, at }) => [op, at]));
  return Math.max(0, ...[...ended(scenario, 'refused'), ...ended(scenario, 'unknown')].map(({ op, at }) => at - (began.get(op) ?? at)));
}
