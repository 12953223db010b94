/** Conversations, while the hubs that they go through are killed and Redis is emptied: what their client hears, on real processes. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from '../../support/eventually.js';
import { redisChild, removeKeys } from '../../support/redis.js';
import { talk, type Frame, type Talk } from '../../support/talk.js';
import { inScenario, type Scenario } from '../processes.js';

/** A client that goes on at the next hub whenever its channel is closed, and says again what has no outcome. */
function stubborn(scenario: Scenario, flow: string, count: number) {
  const placed: Frame[] = [];
  const accepted: string[] = [];
  const isDone = (ref: string) => placed.some(({ type, id }) => (type === 'reply' || type === 'fault') && id === ref);
  const refs = Array.from({ length: count }, (_, n) => `r${n}`);
  let conversation: string | undefined;
  let now: Talk | undefined;
  let channels = 0;

  async function through(one: Talk): Promise<void> {
    now = one;
    channels++;
    let read = 0;
    let isClosed = false;
    void one.closed.then(() => (isClosed = true));
    const said = new Set<string>();
    while (!isClosed && !refs.every(isDone)) {
      for (const frame of one.frames.slice(read)) {
        if (frame.type === 'open') conversation = String(frame['conversation']);
        if (frame.type === 'accepted' && !accepted.includes(frame.id!)) accepted.push(frame.id!);
        if (frame.at !== undefined) placed.push(frame);
        // It was not done, or nobody knows: it is said again.
        if (frame.type === 'refused') said.delete(frame.id!);
      }
      read = one.frames.length;
      const open = refs.filter((ref) => !isDone(ref)).slice(0, 10);
      for (const ref of open.filter((ref) => !said.has(ref))) {
        said.add(ref);
        if (one.socket.readyState === one.socket.OPEN) one.request(ref, { token: ref });
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  const done = (async () => {
    for (let tries = 0; !refs.every(isDone); tries++) {
      const at = scenario.front[tries % scenario.front.length]!;
      const after = placed.at(-1)?.at;
      const opening = { ...(conversation === undefined ? {} : { conversation }), ...(after === undefined ? {} : { after }) };
      await talk(at.url, flow, opening).then(through, () => new Promise((resolve) => setTimeout(resolve, 100)));
    }
    now?.drop();
  })();
  return { done, placed, accepted, refs, channels: () => channels };
}

describe('a conversation', () => {
  it('goes on at another hub when its hub is killed, and after Redis was emptied: every request has one outcome, in order', async () => {
    const redis = await redisChild();
    await redis.start();
    try {
      await inScenario({ redis: redis.url }, async (scenario) => {
        const [h1, h2] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker()]);
        scenario.front = [h1, h2];
        const clients = Array.from({ length: 5 }, () => stubborn(scenario, 'plain', 100));
        const told = (least: number) =>
          eventually(() => clients.forEach(({ placed }) => expect(placed.length).toBeGreaterThan(least)), { withinMs: 40_000 });
        await told(10);
        await h1.kill();
        scenario.front = [h2];
        await told(30);
        await removeKeys(redis.url, scenario.namespace);
        await told(50);
        scenario.front = [h2, await scenario.hub('h1')];
        await h2.kill();
        await Promise.all(clients.map(({ done }) => done));
        for (const { placed, accepted, refs, channels } of clients) {
          expect(channels()).toBeGreaterThan(1);
          expect(placed.map(({ type, at }) => `${type} ${at}`)).toEqual(refs.map((_, n) => `reply ${n + 1}.end`));
          expect(placed.map(({ id }) => id)).toEqual(accepted);
          expect([...accepted].sort()).toEqual([...refs].sort());
          for (const { id, body, request } of placed) expect(body).toMatchObject({ token: id, for: request });
        }
      });
    } finally {
      await redis.remove();
    }
  }, 120_000);
});
