/** Callbacks: how soon after the outcome the receiver has it, at so many a second. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Called, CallOrder } from './call-back.js';
import type { Case, Row } from './case.js';
import { projectFolder, removeQueues, startCommand } from './commands.js';

const rates = [25, 50, 100, 200];
const lost = 'callbacks: not received once';

export const callbacks: Case = {
  name: 'callbacks',
  about: [
    'Requests that are not waited for, each called back once it is answered: a signed `POST` (Standard Webhooks) whose signature the receiver checks. From the',
    'moment at which the last step answers to that at which the receiver has the body. On the way there the outcome, the callback, and that an attempt is made are',
    'journalled. Requestor and receiver are one process; hub and worker one each.',
  ].join(' '),
  bars: { [lost]: 0 },
  async run(bench): Promise<readonly Row[]> {
    if (bench.isLate()) return [];
    const receiver = await bench.start('callback.receiver');
    const { url, secret } = await receiver.tell<{ readonly url: string; readonly secret: string }>('where');
    const folder = mkdtempSync(join(tmpdir(), 'answerback-bench-'));
    symlinkSync(join(projectFolder, 'workers'), join(folder, 'workers'));
    writeFileSync(join(folder, 'secret'), secret);
    const here = `callbacks:\n  here: { url: "${url}", secrets: [{ file: secret }], networks: [127.0.0.0/8] }\n`;
    writeFileSync(join(folder, 'hub.yaml'), readFileSync(join(projectFolder, 'hub.yaml'), 'utf8') + here);
    const env = { HUB_NAMESPACE: bench.namespace, HUB_RABBITMQ_URL: bench.rabbitmq, HUB_REDIS_URL: bench.redis, HUB_NAME: 'bench' };
    const worker = await startCommand('worker', env, folder);
    const hub = await startCommand('hub', env, folder);
    const rows: Row[] = [];
    const wrong = { missing: 0, again: 0, unsigned: 0 };
    try {
      const order = { url: `${hub.url}/requests/stamped`, forMs: bench.quick ? 1_000 : 15_000 };
      await receiver.tell('call', { ...order, perSecond: 20, forMs: order.forMs / 5 } satisfies CallOrder);
      for (const perSecond of bench.quick ? [50] : rates) {
        const called = await receiver.tell<Called>('call', { ...order, perSecond } satisfies CallOrder);
        wrong.missing += called.missing;
        wrong.again += called.again;
        wrong.unsigned += called.unsigned;
        rows.push({
          name: `callbacks: ${perSecond} a second, p99`,
          value: called.p99Ms,
          unit: 'ms',
          more: {
            'p50 ms': called.p50Ms,
            'most ms': called.mostMs,
            'received/s': called.perSecond,
            requests: called.asked,
            refused: called.refused,
          },
        });
        bench.log(JSON.stringify(rows.at(-1)));
      }
      return [...rows, { name: lost, value: wrong.missing + wrong.again + wrong.unsigned, unit: 'requests', more: wrong }];
    } finally {
      await hub.stop();
      await worker.stop();
      await removeQueues(bench.rabbitmq, bench.namespace, folder);
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
