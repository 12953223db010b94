/** The way to the broker breaks while everybody lives: what the clients hear. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl } from '../support/hub.js';
import { faultProxy } from '../support/proxy.js';
import { inScenario } from './processes.js';

describe('when the connections to the broker', () => {
  it('are cut again and again, and for a while cannot be made, every accepted request is answered once', async () => {
    const proxy = await faultProxy(rabbitmqUrl());
    try {
      await inScenario({ via: proxy.url }, async (scenario) => {
        const [hub] = await Promise.all([scenario.hub('h1'), scenario.worker(), scenario.worker()]);
        scenario.front = [hub];
        const load = scenario.clients.load(20, (n) => ({
          flow: n % 3 === 0 ? 'scatter' : 'plain',
          token: `t${n}`,
          ...(n % 2 === 0 ? {} : { key: `k${n}` }),
        }));
        const more = async (count: number) => {
          const before = load.answered();
          await eventually(() => expect(load.answered()).toBeGreaterThan(before + count), { withinMs: 20_000 });
        };
        for (let round = 0; round < 5; round++) {
          await more(30);
          proxy.cut();
        }
        await more(30);
        proxy.refuse(true);
        proxy.cut();
        const refused = () => scenario.history.seen.filter(({ what }) => what === 'refused').length;
        const before = refused();
        // All others may be waiting for the reply to what was accepted before.
        const probe = scenario.clients.load(5, (n) => ({ flow: 'plain', token: `meanwhile ${n}` }));
        await eventually(() => expect(refused()).toBeGreaterThan(before + 50));
        proxy.refuse(false);
        const mendedAt = performance.now();
        await more(1);
        process.stderr.write(`connections: accepting again after ${Math.round(performance.now() - mendedAt)} ms\n`);
        await more(50);
        const told = [...(await load.stop()), ...(await probe.stop())];
        expect(told.filter(({ kind }) => !['reply', 'refused', 'unknown'].includes(kind))).toEqual([]);
        expect(scenario.broken({ withinMs: 40_000 })).toEqual([]);
      });
    } finally {
      await proxy.close();
    }
  }, 60_000);
});
