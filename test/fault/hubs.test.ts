/**
 * Hub processes that die, on real services: what their clients hear at another one. A reply waits 10 s for its own hub, so
 * these run side by side.
 */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { inScenario } from './processes.js';

describe('when a hub dies', () => {
  it.concurrent(
    'every client that it held is answered by another one, once, and the work is done once',
    () =>
      inScenario({}, async (scenario) => {
        const count = 100;
        const [doomed, other] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker()]);
        scenario.front = [doomed];
        const told = Promise.all(
          Array.from({ length: count }, (_, n) => scenario.clients.ask({ flow: 'gated', token: `t${n}`, key: `k${n}`, waitSeconds: 30 })),
        );
        await eventually(() => expect(scenario.begun('gated')).toBe(count));
        // An answer to a request that came after them: by then the hub knows that the broker has theirs.
        expect(await scenario.clients.ask({ flow: 'plain', token: 'after them' })).toMatchObject({ kind: 'reply' });
        scenario.front = [other];
        await doomed.kill();
        const asked = () => scenario.history.seen.filter(({ what }) => what === 'ask').length;
        await eventually(() => expect(asked()).toBe(2 * count + 1));
        scenario.gate(true);
        expect((await told).map(({ kind, status }) => [kind, status])).toEqual(Array.from({ length: count }, () => ['reply', 0]));
        expect(scenario.broken({ withinMs: 30_000, once: true })).toEqual([]);
        expect(scenario.effects().filter(({ what, step }) => what === 'end' && step === 'gated').length).toBe(count);
      }),
    60_000,
  );

  it.concurrent(
    'while it takes requests, every client is answered by another one, once',
    () =>
      inScenario({}, async (scenario) => {
        const [doomed, other] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker()]);
        scenario.front = [doomed];
        const load = scenario.clients.load(50, (n) => ({
          flow: n % 3 === 0 ? 'scatter' : 'plain',
          token: `t${n}`,
          key: `k${n}`,
          waitSeconds: 30,
        }));
        await eventually(() => expect(load.answered()).toBeGreaterThan(100));
        scenario.front = [other];
        await doomed.kill();
        expect(new Set((await load.stop()).map(({ kind }) => kind))).toEqual(new Set(['reply']));
        expect(scenario.broken({ withinMs: 30_000 })).toEqual([]);
      }),
    60_000,
  );

  it.concurrent(
    'by being told to stop, everyone that it held is told to come back, and another one has the answers',
    () =>
      inScenario({}, async (scenario) => {
        const [leaving, other] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker()]);
        scenario.front = [leaving];
        const told = Promise.all(
          Array.from({ length: 50 }, (_, n) =>
            scenario.clients.ask({ flow: 'gated', token: `t${n}`, ...(n % 2 === 0 ? {} : { key: `k${n}` }), waitSeconds: 30 }),
          ),
        );
        await eventually(() => expect(scenario.begun('gated')).toBe(50));
        scenario.front = [other];
        const { code, tookMs } = await leaving.stop();
        expect(code).toBe(0);
        expect(tookMs).toBeLessThan(25_000);
        scenario.gate(true);
        expect((await told).map(({ kind, status }) => [kind, status])).toEqual(Array.from({ length: 50 }, () => ['reply', 202]));
        expect(scenario.broken({ withinMs: 40_000, once: true })).toEqual([]);
      }),
    60_000,
  );
});
