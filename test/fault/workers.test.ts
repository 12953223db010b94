/** Worker processes that die, on real services: what the clients hear, and what was done. Each test leaves one worker. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import type { Load, Question } from './clients.js';
import { openScenario, type Process, type Scenario } from './processes.js';

describe('when a worker dies', () => {
  let scenario: Scenario;
  let worker: Process;
  let n = 0;
  beforeAll(async () => {
    scenario = await openScenario();
    const [hub, first] = await Promise.all([scenario.hub('h1'), scenario.worker()]);
    scenario.front = [hub];
    worker = first;
  });
  afterAll(() => scenario?.close());

  const mixed = (): Question => ({
    flow: n % 3 === 0 ? 'scatter' : 'plain',
    token: `t${n++}`,
    ...(n % 2 === 0 ? {} : { key: `k${n}` }),
    waitSeconds: 40,
  });
  const more = (load: Load, count: number) => {
    const before = load.answered();
    return eventually(() => expect(load.answered()).toBeGreaterThan(before + count), { withinMs: 20_000 });
  };
  const kindsOf = async (load: Load) => new Set((await load.stop()).map(({ kind, status }) => `${kind} ${status}`));

  it('another one answers, once, what it had taken', async () => {
    const told = Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        scenario.clients.ask({ flow: 'gated', token: `gated-${i}`, ...(i % 2 === 0 ? {} : { key: `gated-${i}` }) }),
      ),
    );
    await eventually(() => expect(scenario.begun('gated')).toBe(20));
    const [other] = await Promise.all([scenario.worker(), worker.kill()]);
    await eventually(() => expect(scenario.begun('gated')).toBe(40));
    scenario.gate(true);
    expect((await told).map(({ kind, status }) => [kind, status])).toEqual(Array.from({ length: 20 }, () => ['reply', 200]));
    expect(
      scenario
        .effects()
        .filter(({ what }) => what === 'end')
        .every(({ pid }) => pid === other.pid),
    ).toBe(true);
    expect(scenario.broken({ withinMs: 20_000, once: true })).toEqual([]);
    worker = other;
  });

  it('nothing is lost and nothing is answered twice', async () => {
    const doomed = await Promise.all([scenario.worker(), scenario.worker()]);
    const load = scenario.clients.load(20, mixed);
    for (const one of doomed) {
      await more(load, 100);
      await one.kill();
    }
    await more(load, 100);
    expect(await kindsOf(load)).toEqual(new Set(['reply 200']));
    expect(scenario.broken({ withinMs: 20_000 })).toEqual([]);
  });

  it('by being told to stop, what it works on is finished or given back', async () => {
    const leaving = await scenario.worker();
    const load = scenario.clients.load(20, mixed);
    await more(load, 50);
    expect(await leaving.stop()).toMatchObject({ code: 0 });
    await more(load, 50);
    expect(await kindsOf(load)).toEqual(new Set(['reply 200']));
    expect(scenario.broken({ withinMs: 20_000 })).toEqual([]);
  });

  it('of a message, and the next one too, that message is given up, its requestor told, and the others are served', async () => {
    let deaths = 0;
    let isOver = false;
    // Whoever runs the workers starts another when one dies.
    const supervised = (async () => {
      while (!isOver) {
        await Promise.race([worker.ended, eventually(() => expect(isOver).toBe(true), { withinMs: 60_000 })]);
        for (; !worker.isRunning(); deaths++) worker = await scenario.worker().catch(() => worker); // it may die before it says that it is there
      }
    })();
    const poisoned = scenario.clients.ask({ flow: 'poison', token: 'deadly', waitSeconds: 40, body: { deadly: true } });
    const load = scenario.clients.load(3, mixed);
    expect(await poisoned).toMatchObject({ kind: 'fault', status: 502, body: expect.stringContaining('internal') });
    expect(scenario.begun('poison')).toBe(5);
    await more(load, 20);
    expect(await kindsOf(load)).toEqual(new Set(['reply 200']));
    isOver = true;
    await supervised;
    expect(deaths).toBe(5);
    expect(scenario.broken({ withinMs: 40_000 })).toEqual([]);

    const letters: unknown[] = [];
    const operator = await scenario.transport.consume(
      scenario.names.deadQueue('poison'),
      { prefetch: 1, tag: 'operator' },
      async ({ headers }) => void letters.push(headers),
    );
    const readable = {
      'hub-error-code': 'internal',
      'hub-error': expect.stringMatching(/handed out 5 times and never finished/),
      'hub-error-step': 'poison',
      'hub-error-at': expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      'hub-origin-queue': scenario.names.workQueue('poison'),
    };
    await eventually(() => expect(letters).toEqual([expect.objectContaining(readable)]));
    await operator.close();
  }, 60_000);
});
