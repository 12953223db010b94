/** Requests that arrive in parts, while the hubs that take them are killed and Redis is emptied: what was said to be taken is there, on real processes. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { redisChild, removeKeys } from '../support/redis.js';
import { inScenario, type Scenario } from './processes.js';

const partsEach = 30;

/** A client that sends its parts one after the other, each until it is taken, and never again. Its hub is the next one when that fails. */
function sender(scenario: Scenario, token: string) {
  let taken = 0;
  let failures = 0;

  /** Until somebody says that it is done. */
  async function insist(method: string, path: string, headers: Record<string, string> = {}, body?: string): Promise<Response> {
    for (let tries = 0; ; tries++) {
      const { url } = scenario.front[tries % scenario.front.length]!;
      const init = { method, headers: { 'content-type': 'application/json', ...headers }, ...(body === undefined ? {} : { body }) };
      const answer = await fetch(url + path, init).catch(() => undefined);
      if (answer !== undefined && answer.status < 300 && answer.status !== 202) return answer;
      if (answer !== undefined && answer.status < 500 && answer.status !== 202)
        throw new Error(`${method} ${path}: ${await answer.text()}`);
      failures++;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  const done = (async () => {
    const { id } = (await (await insist('POST', '/requests/parted/parts')).json()) as { id: string };
    for (let n = 1; n <= partsEach; n++) {
      await insist('PUT', `/requests/${id}/parts/${n}`, {}, JSON.stringify(`${token}.${n}`));
      taken++;
    }
    return await (await insist('POST', `/requests/${id}/close`, { 'hub-parts': String(partsEach), prefer: 'wait=10' })).json();
  })();
  return { done, token, taken: () => taken, failures: () => failures };
}

describe('a request in parts', () => {
  it('has every part that was said to be taken, once and in order, whichever hub was killed, and after Redis was emptied', async () => {
    const redis = await redisChild();
    await redis.start();
    try {
      await inScenario({ redis: redis.url }, async (scenario) => {
        const [h1, h2] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker()]);
        scenario.front = [h1, h2];
        const senders = Array.from({ length: 10 }, (_, n) => sender(scenario, `t${n}`));
        const taken = (least: number) =>
          eventually(() => expect(senders.reduce((sum, one) => sum + one.taken(), 0)).toBeGreaterThan(least), { withinMs: 60_000 });
        await taken(40);
        await h1.kill();
        await taken(100);
        await removeKeys(redis.url, scenario.namespace);
        await taken(180);
        scenario.front = [h2, await scenario.hub('h1')];
        await h2.kill();
        for (const { done, token } of senders)
          expect(await done).toEqual({ parts: Array.from({ length: partsEach }, (_, n) => `${token}.${n + 1}`) });
        expect(senders.reduce((sum, one) => sum + one.failures(), 0)).toBeGreaterThan(0);
      });
    } finally {
      await redis.remove();
    }
  }, 120_000);
});
