/** Processes that leave and come back, stand still, or have the wrong time. */
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Question } from '../clients.js';
import type { Process } from '../processes.js';
import { more, until, unless, type Trial } from '../trial.js';
import { underLoad } from './load.js';

/** Half of them are on the line for a while, with and without a key. */
const held =
  () =>
  (n: number): Question => ({
    flow: n % 2 === 0 ? 'slow' : 'plain',
    token: `t${n}`,
    waitSeconds: 30,
    ...(n % 4 < 2 ? {} : { key: `k${n}` }),
  });

const rolling: Trial = {
  name: 'rolling restart of two hubs',
  sizes: ['quick', 'normal', 'long'],
  run: (context) =>
    underLoad('rolling restart of two hubs', context, { hubs: 2, clients: 40, ask: held }, async ({ scenario, hubs, load }) => {
      const restarts = context.size === 'quick' ? 2 : 20;
      const running: Process[] = [...hubs];
      const slow: number[] = [];
      for (let n = 0; n < restarts; n++) {
        const leaving = running[n % 2]!;
        await more(load.told, 30);
        const { code, tookMs } = await leaving.stop();
        if (code !== 0 || tookMs > 25_000) slow.push(tookMs);
        running[n % 2] = await scenario.hub(leaving.name);
        scenario.front = [...running];
      }
      const cut = scenario.history.seen.filter(({ what }) => what === 'unknown').length;
      const refusals = scenario.history.seen.flatMap((one) => (one.what === 'refused' ? [one.why] : []));
      const refused = refusals.filter((why) => !/stopping|nobody-listens/.test(why));
      context.say(`${restarts} restarts: ${refusals.length - refused.length} operations were sent on to another hub, ${cut} were cut off`);
      return {
        violations: [
          ...unless(cut === 0, `${cut} operations were cut off by a hub that was told to stop`),
          ...unless(
            refused.length === 0,
            `${refused.length} operations were refused by a hub that had no reason: ${[...new Set(refused)].join(', ')}`,
          ),
          ...unless(slow.length === 0, `${slow.length} hubs did not stop cleanly within 25 s`),
        ],
      };
    }),
};

const standing: Trial = {
  name: 'hubs and workers stand still',
  sizes: ['normal', 'long'],
  run: (context) =>
    underLoad('hubs and workers stand still', context, { hubs: 2, workers: 2 }, async ({ scenario, hubs, workers, load }) => {
      for (const one of [hubs[0]!, workers[0]!, hubs[1]!, workers[1]!]) {
        const from = Date.now();
        one.freeze();
        scenario.front = hubs.filter((hub) => hub !== one);
        await sleep(5_000); // it is the fault that it takes so long
        one.thaw();
        scenario.front = [...hubs];
        scenario.history.outage(`${one.name} stands still`, from);
        await more(load.told, 50);
      }
      // Longer than the broker waits for a heartbeat: when it wakes up, it is a stranger.
      const from = Date.now();
      hubs[0]!.freeze();
      workers[0]!.freeze();
      scenario.front = [hubs[1]!];
      await sleep(25_000);
      hubs[0]!.thaw();
      workers[0]!.thaw();
      scenario.front = [...hubs];
      scenario.history.outage('a hub and a worker stand still', from);
    }),
};

const clocks: Trial = {
  name: 'the clock of a hub jumps by an hour',
  sizes: ['normal', 'long'],
  run: (context) =>
    underLoad(
      'the clock of a hub jumps by an hour',
      context,
      { hubs: 1, ask: () => (n) => ({ ...asked[n % asked.length]!, token: `t${n}`, ...(n % 3 === 0 ? { key: `k${n}` } : {}) }) },
      async ({ scenario, load }) => {
        const file = join(scenario.folder, 'clock');
        writeFileSync(file, '0');
        const preload = `--import ${pathToFileURL(resolve('test/fault/clock-jump.mjs')).href}`;
        const wrong = await scenario.hub('h2', { NODE_OPTIONS: preload, FAULT_CLOCK: file });
        scenario.front = [...scenario.front, wrong];
        // Every client goes to the one with the wrong time, except the one that looks on.
        for (const hours of [1, -1, 0]) {
          scenario.front = [wrong];
          writeFileSync(file, String(hours * 3_600_000));
          await more(load.told, 60, 120_000);
        }
        const early = new Set(['timeout']);
        const timedOut = scenario.history.seen.filter((one) => one.what === 'outcome' && early.has(one.kind)).length;
        await until(() => wrong.isRunning(), 'the hub lives');
        context.say(`clock: ${timedOut} of ${load.told()} timed out`);
      },
    ),
};

/** What depends on dates: a hold, a poll, a group, a retry, a deadline. */
const asked: readonly Omit<Question, 'token'>[] = [
  { flow: 'plain', deadlineSeconds: 20 },
  { flow: 'plain', deadlineSeconds: 20, waitSeconds: 0 },
  { flow: 'scatter', deadlineSeconds: 20 },
  { flow: 'flaky', deadlineSeconds: 20 },
  { flow: 'silent', deadlineSeconds: 2 },
  { flow: 'silent', deadlineSeconds: 2, waitSeconds: 0 },
  { flow: 'partial', deadlineSeconds: 20 },
];

export const processes: readonly Trial[] = [rolling, standing, clocks];
