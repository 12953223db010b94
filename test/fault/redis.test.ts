/** Redis dies and comes back, with every write on disk, while hubs and workers go on running. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { redisChild } from '../support/redis.js';
import { inScenario } from './processes.js';

describe('when Redis', () => {
  it('is killed, held requests are answered all the same, those that need a record are refused, and nothing accepted is lost', async () => {
    const redis = await redisChild();
    await redis.start();
    try {
      await inScenario({ redis: redis.url }, async (scenario) => {
        const [hub] = await Promise.all([scenario.hub('h1'), scenario.worker()]);
        scenario.front = [hub];
        const { ask, load } = scenario.clients;
        const accepted = Promise.all(Array.from({ length: 10 }, (_, n) => ask({ flow: 'gated', token: `accepted ${n}`, waitSeconds: 0 })));
        const held = Promise.all(Array.from({ length: 10 }, (_, n) => ask({ flow: 'gated', token: `held ${n}`, waitSeconds: 30 })));
        await eventually(() => expect(scenario.begun('gated')).toBe(20));
        expect(await ask({ flow: 'plain', token: 'before', key: 'before' })).toMatchObject({ kind: 'reply', status: 200 });

        await redis.kill();
        const plain = load(5, (n) => ({ flow: 'plain', token: `plain ${n}` }));
        const keyed = load(5, (n) => ({ flow: 'plain', token: `keyed ${n}`, key: `k${n}` }));
        const scattered = ask({ flow: 'scatter', token: 'scattered', waitSeconds: 30 });
        await eventually(() => expect(plain.answered()).toBeGreaterThan(50));
        const refused = () => scenario.history.seen.filter(({ what }) => what === 'refused');
        await eventually(() => expect(refused().length).toBeGreaterThan(20));
        expect(new Set(refused().map((one) => 'why' in one && one.why))).toEqual(new Set(['503 unavailable store']));
        expect(keyed.answered()).toBe(0);
        // What was accepted before comes to its end while there is nowhere to write that down.
        scenario.gate(true);
        expect((await held).map(({ kind, status }) => `${kind} ${status}`)).toEqual(Array.from({ length: 10 }, () => 'reply 200'));

        await redis.start();
        await eventually(() => expect(keyed.answered()).toBeGreaterThan(50));
        expect((await accepted).map(({ kind, status }) => `${kind} ${status}`)).toEqual(Array.from({ length: 10 }, () => 'reply 202'));
        expect(await scattered).toMatchObject({ kind: 'reply', status: 200 });
        expect(await ask({ flow: 'plain', token: 'before', key: 'before' })).toMatchObject({ kind: 'reply', status: 200 });
        // Its last writes may be gone: for a moment everybody is told to wait until that is looked at.
        const told = new Set((await plain.stop()).map(({ kind, status }) => `${kind} ${status}`));
        expect([...told].filter((one) => one !== 'reply 200' && one !== 'refused 503')).toEqual([]);
        const whys = new Set(refused().map((one) => 'why' in one && one.why));
        expect([...whys].filter((why) => why !== '503 unavailable store' && why !== '503 unavailable rebuilding')).toEqual([]);
        expect(new Set((await keyed.stop()).map(({ kind }) => kind))).toEqual(new Set(['reply']));
        expect(scenario.broken({ withinMs: 30_000 })).toEqual([]);
      });
    } finally {
      await redis.remove();
    }
  }, 60_000);
});
