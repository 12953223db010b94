/** Worker processes that die, on real services: what the clients hear, and what was done. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { inScenario } from './processes.js';

describe('when a worker dies', () => {
  it('another one answers, once, what it had taken', () =>
    inScenario({}, async (scenario) => {
      const [hub, doomed] = await Promise.all([scenario.hub('h1'), scenario.worker()]);
      scenario.front = [hub];
      const told = Promise.all(Array.from({ length: 20 }, (_, n) => scenario.clients.ask({ flow: 'gated', token: `t${n}`, ...(n % 2 === 0 ? {} : { key: `k${n}` }) })));
      await eventually(() => expect(scenario.begun('gated')).toBe(20));
      const [other] = await Promise.all([scenario.worker(), doomed.kill()]);
      await eventually(() => expect(scenario.begun('gated')).toBe(40));
      scenario.gate(true);
      expect((await told).map(({ kind, status }) => [kind, status])).toEqual(Array.from({ length: 20 }, () => ['reply', 200]));
      expect(scenario.effects().filter(({ what }) => what === 'end').every(({ pid }) => pid === other.pid)).toBe(true);
      expect(scenario.broken({ withinMs: 20_000, once: true })).toEqual([]);
    }));

  it('nothing is lost and nothing answered twice under load', () =>
    inScenario({}, async (scenario) => {
      const [hub, ...workers] = await Promise.all([scenario.hub('h1'), scenario.worker(), scenario.worker(), scenario.worker()]);
      scenario.front = [hub];
      const load = scenario.clients.load(20, (n) => ({ flow: n % 3 === 0 ? 'scatter' : 'plain', token: `t${n}`, ...(n % 2 === 0 ? {} : { key: `k${n}` }) }));
      for (const doomed of workers.slice(1)) {
        const before = load.answered();
        await eventually(() => expect(load.answered()).toBeGreaterThan(before + 100));
        await doomed.kill();
      }
      const before = load.answered();
      await eventually(() => expect(load.answered()).toBeGreaterThan(before + 100));
      expect(new Set((await load.stop()).map(({ kind }) => kind))).toEqual(new Set(['reply']));
      expect(scenario.broken({ withinMs: 20_000 })).toEqual([]);
    }));

  it('of a message again and again, that message is given up, its requestor told, and the others are served', () =>
    inScenario({}, async (scenario) => {
      scenario.front = [await scenario.hub('h1')];
      // Whoever runs the workers starts another when one dies.
      let workers = 0;
      let isOver = false;
      const supervised = (async () => {
        for (; !isOver; workers++) {
          const worker = await scenario.worker().catch(() => undefined); // it may die before it says that it is there
          if (worker !== undefined) await Promise.race([worker.ended, eventually(() => expect(isOver).toBe(true), { withinMs: 60_000 })]);
        }
      })();
      const poisoned = scenario.clients.ask({ flow: 'poison', token: 'deadly', waitSeconds: 40, body: { deadly: true } });
      const load = scenario.clients.load(3, (n) => ({ flow: 'plain', token: `t${n}`, waitSeconds: 40 }));
      expect(await poisoned).toMatchObject({ kind: 'fault', status: 502, body: expect.stringContaining('internal') });
      expect(scenario.begun('poison')).toBe(5);
      const before = load.answered();
      await eventually(() => expect(load.answered()).toBeGreaterThan(before + 20));
      expect(new Set((await load.stop()).map(({ kind }) => kind))).toEqual(new Set(['reply']));
      isOver = true;
      await supervised;
      expect(workers).toBe(6);
      expect(scenario.broken({ withinMs: 40_000 })).toEqual([]);
      const letters: unknown[] = [];
      const operator = await scenario.transport.consume(scenario.names.deadQueue('poison'), { prefetch: 1, tag: 'operator' }, async ({ headers }) => void letters.push(headers));
      await eventually(() =>
        expect(letters).toEqual([
          expect.objectContaining({
            'hub-error-code': 'internal',
            'hub-error': expect.stringMatching(/handed out 5 times and never finished/),
            'hub-error-step': 'poison',
            'hub-error-at': expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
            'hub-origin-queue': scenario.names.workQueue('poison'),
          }),
        ]),
      );
      await operator.close();
    }), 60_000);

  it('by being told to stop, what it works on is finished or given back, and nobody waits for that', () =>
    inScenario({}, async (scenario) => {
      const [hub, leaving] = await Promise.all([scenario.hub('h1'), scenario.worker(), scenario.worker()]);
      scenario.front = [hub];
      const load = scenario.clients.load(20, (n) => ({ flow: n % 3 === 0 ? 'scatter' : 'plain', token: `t${n}` }));
      await eventually(() => expect(load.answered()).toBeGreaterThan(50));
      expect(await leaving.stop()).toMatchObject({ code: 0 });
      const before = load.answered();
      await eventually(() => expect(load.answered()).toBeGreaterThan(before + 50));
      expect(new Set((await load.stop()).map(({ kind, status }) => `${kind} ${status}`))).toEqual(new Set(['reply 200']));
      expect(scenario.broken({ withinMs: 20_000 })).toEqual([]);
    }));
});
