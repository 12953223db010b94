/** Jobs, and processes and services that die under them, on real services: judged by what clients and handlers wrote down. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { eventually } from '../../support/eventually.js';
import { redisUrl } from '../../support/hub.js';
import { redisChild, removeKeys, withClient } from '../../support/redis.js';
import { inScenario, openScenario, type Process, type Scenario } from '../processes.js';

describe('jobs', () => {
  let scenario: Scenario;
  let worker: Process;
  beforeEach(async () => {
    scenario = await openScenario();
    const [hub, first] = await Promise.all([scenario.hub('h1'), scenario.worker('first')]);
    scenario.front = [hub];
    worker = first;
  });
  afterEach(() => scenario?.close());

  const ask = (count: number, more: object = {}) =>
    Array.from({ length: count }, (_, n) => scenario.clients.ask({ flow: 'job.gated', token: `job-${n}`, waitSeconds: 0, ...more }));
  const starts = (pid: number) =>
    scenario.effects().filter((one) => one.what === 'start' && one.step === 'compute.gated' && one.pid === pid);
  const ends = () => scenario.effects().filter(({ what }) => what === 'end');
  /** They wait for the gate, with two of three pieces done. */
  const atTheGate = (count: number) => eventually(() => expect(scenario.begun('compute.gated.gate')).toBe(count));

  it('of a worker that dies are taken over by another one, from their checkpoints', async () => {
    const told = Promise.all(ask(8));
    await atTheGate(8);
    const other = await scenario.worker('second');
    const killedAt = Date.now();
    await worker.kill();
    await eventually(() => expect(starts(other.pid)).toHaveLength(8), { withinMs: 20_000 });
    const tookMs = starts(other.pid).map(({ at }) => at - killedAt);
    figure('takeover ms', tookMs);
    expect(Math.max(...tookMs)).toBeLessThan(10_000);
    expect(new Set(starts(other.pid).map(({ said }) => said))).toEqual(new Set([2]));
    expect(new Set(starts(other.pid).map(({ attempt }) => attempt))).toEqual(new Set([1]));
    scenario.gate(true);
    expect((await told).map(({ kind }) => kind)).toEqual(Array.from({ length: 8 }, () => 'reply'));
    expect(scenario.broken({ withinMs: 60_000 })).toEqual([]);
  }, 60_000);

  it('of a worker that stood still for longer than its lock lasts are finished once, by the one who took over', async () => {
    const told = Promise.all(ask(4));
    await atTheGate(4);
    worker.freeze();
    const other = await scenario.worker('second');
    await eventually(() => expect(starts(other.pid)).toHaveLength(4), { withinMs: 20_000 });
    // Both are let go at once.
    scenario.gate(true);
    worker.thaw();
    const all = await told;
    expect(new Set(all.map(({ body = '{}' }) => (JSON.parse(body) as { by: number }).by))).toEqual(new Set([other.pid]));
    await eventually(() =>
      expect(worker.log().match(/"event":"job.dropped".*"why":"superseded"|"why":"superseded".*"event":"job.dropped"/g)).toHaveLength(4),
    );
    expect(scenario.broken({ withinMs: 60_000 })).toEqual([]);
  }, 60_000);

  it('of a worker that stops are another one’s at once', async () => {
    const told = Promise.all(ask(4));
    await atTheGate(4);
    const other = await scenario.worker('second');
    const stoppedAt = Date.now();
    expect(await worker.stop()).toMatchObject({ code: 0 });
    await eventually(() => expect(starts(other.pid)).toHaveLength(4));
    expect(Math.max(...starts(other.pid).map(({ at }) => at)) - stoppedAt).toBeLessThan(2_000);
    scenario.gate(true);
    expect((await told).map(({ kind }) => kind)).toEqual(['reply', 'reply', 'reply', 'reply']);
    expect(scenario.broken({ withinMs: 60_000 })).toEqual([]);
  }, 60_000);

  it('come back when all that BullMQ knew of them is gone', async () => {
    const told = Promise.all(ask(14));
    await eventually(() => expect(starts(worker.pid)).toHaveLength(10));
    await worker.kill();
    await removeKeys(redisUrl(), `${scenario.namespace}:${scenario.namespace}.jobs.compute.gated`);
    scenario.gate(true);
    await scenario.worker('second');
    expect((await told).map(({ kind }) => kind)).toEqual(Array.from({ length: 14 }, () => 'reply'));
    expect(ends()).toHaveLength(14);
    expect(scenario.broken({ withinMs: 80_000 })).toEqual([]);
  }, 90_000);

  it('hear of a cancel within a second, wherever they run, and watchers hear within a second how far they are', async () => {
    await scenario.worker('second');
    const [{ url } = { url: '' }] = scenario.front;
    const cancelled = await Promise.all(
      Array.from({ length: 100 }, async (_, n) => {
        const response = await fetch(`${url}/requests/job.on`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', prefer: 'wait=0' },
          body: JSON.stringify({ token: `on-${n}` }),
        });
        return { token: `on-${n}`, id: response.headers.get('hub-request-id') ?? '' };
      }),
    );
    await eventually(() => expect(scenario.begun('compute.on')).toBe(100), { withinMs: 30_000 });
    const delays: number[] = [];
    const watching = new AbortController();
    const watched = watch(`${url}/requests/${cancelled[0]!.id}/events`, watching.signal, (message) =>
      delays.push(Date.now() - Number(message)),
    );
    await eventually(() => expect(delays.length).toBeGreaterThan(20));
    watching.abort();
    await watched;
    // The first ones tell what was before it watched.
    figure('progress delay ms', delays.slice(-15));
    expect(Math.max(...delays.slice(-15))).toBeLessThan(1_000);

    const askedAt = new Map<string, number>();
    for (const { token, id } of cancelled) {
      askedAt.set(token, Date.now());
      expect((await fetch(`${url}/requests/${id}`, { method: 'DELETE' })).status).toBe(200);
    }
    await eventually(() => expect(ends()).toHaveLength(100));
    const tookMs = ends().map(({ token, at }) => at - askedAt.get(token)!);
    figure('cancel ms', tookMs);
    expect(new Set(ends().map(({ pid }) => pid)).size).toBe(2);
    expect(percentile(tookMs, 0.99)).toBeLessThan(1_000);
    scenario.forget();
  }, 90_000);
});

describe('jobs on a Redis that is emptied', () => {
  it('are all answered, once', async () => {
    const redis = await redisChild();
    await redis.start();
    try {
      await inScenario({ redis: redis.url }, async (scenario) => {
        const [hub] = await Promise.all([scenario.hub('h1'), scenario.worker('first')]);
        scenario.front = [hub];
        const told = Promise.all(
          Array.from({ length: 20 }, (_, n) => scenario.clients.ask({ flow: 'job.gated', token: `job-${n}`, waitSeconds: 0 })),
        );
        await eventually(() => expect(scenario.begun('compute.gated')).toBe(10));
        await withClient(redis.url, (client) => client.flushall());
        scenario.gate(true);
        expect((await told).map(({ kind }) => kind)).toEqual(Array.from({ length: 20 }, () => 'reply'));
        expect(scenario.broken({ withinMs: 80_000 })).toEqual([]);
      });
    } finally {
      await redis.remove();
    }
  }, 100_000);
});

const percentile = (of: readonly number[], share: number): number =>
  [...of].sort((a, b) => a - b)[Math.min(of.length - 1, Math.floor(of.length * share))] ?? NaN;

/** For who asks for figures (HUB_FIGURES=1). */
function figure(name: string, of: readonly number[]): void {
  if (process.env['HUB_FIGURES'] === undefined) return;
  const at = (share: number) => percentile(of, share);
  process.stderr.write(`${name}: n ${of.length}, p50 ${at(0.5)}, p99 ${at(0.99)}, max ${Math.max(...of)}\n`);
}

/** Calls back with the message of each progress event. */
async function watch(url: string, signal: AbortSignal, said: (message: string) => void): Promise<void> {
  try {
    const response = await fetch(url, { signal, headers: { accept: 'text/event-stream' } });
    let text = '';
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const events = text.split('\n\n');
      text = events.pop() ?? '';
      for (const event of events) {
        const [, message] = /event: progress\ndata: .*"message":"(\d+)"/.exec(event) ?? [];
        if (message !== undefined) said(message);
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
