/** Hubs and workers that die between an outcome and its callback: the receiver has each, at least once, always as the same bytes under one id. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Webhook } from 'standardwebhooks';
import { eventually } from '../../support/eventually.js';
import { openReceiver, type Receiver } from '../../support/receiver.js';
import { folderOfProject, inScenario, type Process } from '../processes.js';

const secret = `whsec_${randomBytes(32).toString('base64')}`;
let receiver: Receiver;
let project: string;

beforeAll(async () => {
  receiver = await openReceiver();
  project = mkdtempSync(join(tmpdir(), 'hub-callbacks-'));
  symlinkSync(join(folderOfProject, 'workers'), join(project, 'workers'));
  writeFileSync(join(project, 'secret'), secret);
  const callback = `callbacks:\n  here: { url: "${receiver.url}/", secrets: [{ file: secret }], networks: [127.0.0.0/8] }\n`;
  writeFileSync(join(project, 'hub.yaml'), readFileSync(join(folderOfProject, 'hub.yaml'), 'utf8') + callback);
});
afterAll(async () => {
  await receiver.close();
  rmSync(project, { recursive: true });
});

/** Asks without holding; a line that breaks is asked again with the same key. */
async function ask(hub: () => Process, token: string): Promise<string> {
  const response = await eventually(
    async () => {
      const answer = await fetch(`${hub().url}/requests/plain`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'hub-callback': 'here', 'idempotency-key': token },
        body: JSON.stringify({ token }),
      });
      expect([200, 202]).toContain(answer.status);
      return answer;
    },
    { withinMs: 30_000 },
  );
  return response.headers.get('hub-request-id')!;
}

/** What came for each request: every id, and every body. */
const came = (id: string) => receiver.received.filter(({ headers }) => headers['hub-request-id'] === id);

function check(ids: readonly string[]): void {
  for (const id of ids) {
    const got = came(id);
    expect(got.length).toBeGreaterThanOrEqual(1);
    expect(new Set(got.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(new Set(got.map(({ body }) => body.toString())).size).toBe(1);
    for (const { headers, body } of got) new Webhook(secret).verify(body, headers as Record<string, string>);
  }
}

const tokens = (name: string, count: number) => Array.from({ length: count }, (_, n) => `${name}-${n}`);

describe('a callback', () => {
  it(
    'is posted though the hub dies before and after it hands the outcome on',
    () =>
      inScenario({ project }, async (scenario) => {
        await scenario.worker();
        let hub: Process;
        const ids: string[] = [];
        for (const point of ['settle.after-store', 'settle.before-forward', 'settle.after-forward'] as const) {
          const doomed = (hub = await scenario.hub('h1', { HUB_FAILPOINT: `${point}:3:kill` }));
          const asked = Promise.all(tokens(point, 6).map((token) => ask(() => hub, token)));
          await doomed.ended;
          expect(doomed.diedOf()).toBe('SIGKILL');
          hub = await scenario.hub('h1');
          ids.push(...(await asked));
          await eventually(() => check(ids), { withinMs: 40_000 });
          await hub.stop();
        }
      }),
    150_000,
  );

  it(
    'is posted though the worker dies at every place between the outcome and the post',
    () =>
      inScenario({ project }, async (scenario) => {
        const hub = await scenario.hub('h1');
        const ids: string[] = [];
        for (const point of [
          'dossier.before-keep',
          'dossier.after-keep',
          'dossier.after-journal',
          'dossier.before-ring',
          'dossier.after-ring',
        ] as const) {
          const doomed = await scenario.worker('doomed', { HUB_FAILPOINT: `${point}:2:kill` });
          ids.push(...(await Promise.all(tokens(point, 4).map((token) => ask(() => hub, token)))));
          await doomed.ended;
          expect(doomed.diedOf()).toBe('SIGKILL');
          const next = await scenario.worker();
          await eventually(() => check(ids), { withinMs: 70_000 });
          await next.stop();
        }
      }),
    400_000,
  );

  it(
    'is posted again when the worker dies over it, as the same message',
    () =>
      inScenario({ project }, async (scenario) => {
        const [hub, doomed] = await Promise.all([scenario.hub('h1'), scenario.worker('doomed')]);
        receiver.answer((got) => (came(String(got.headers['hub-request-id'])).length === 1 ? void doomed.kill() : { status: 204 }));
        const id = await ask(() => hub, 'over-it');
        await doomed.ended;
        await scenario.worker();
        await eventually(() => expect(came(id)).toHaveLength(2), { withinMs: 70_000 });
        check([id]);
        await eventually(async () => {
          const log = (await (await fetch(`${hub.url}/requests/${id}/callback`)).json()) as object;
          expect(log).toMatchObject({ state: 'delivered', attempts: [{ at: expect.any(String) }, { status: 204 }] });
        });
        receiver.answer({ status: 204 });
      }),
    150_000,
  );
});
