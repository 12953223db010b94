/**
 * A hub that cannot keep the promise on the services that it finds does not start. It says what is wrong, and the command that
 * it prints is pasted here as it stands. Hubs are processes; what they find wrong is in a RabbitMQ and a Redis of the test's own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { connect } from 'amqplib';
import { ownRabbitmq, type OwnRabbitmq } from '../fault/own-rabbitmq.js';
import { inScenario, type Scenario } from '../fault/processes.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, redisUrl } from '../support/hub.js';
import { redisChild, withClient } from '../support/redis.js';

interface Refusal {
  readonly code: number | null;
  /** What it wrote for people. */
  readonly said: string;
  readonly tookMs: number;
}

/** Runs a command on the project of the fault tests until it has ended by itself, and with it every process that it began. */
async function refusal(command: 'hub' | 'worker' | 'doctor', env: NodeJS.ProcessEnv): Promise<Refusal> {
  const began = performance.now();
  const child = spawn(process.execPath, [resolve('dist/cli/answerback.js'), command, resolve('test/fault/project')], {
    env: { ...process.env, HUB_HTTP_PORT: '0', HUB_LOG_LEVEL: 'silent', ...env },
    stdio: ['ignore', command === 'doctor' ? 'pipe' : 'ignore', 'pipe'],
    // A process group of its own, so that whatever it leaves behind is found.
    detached: true,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => (said += text));
  const [code] = (await once(child, 'close')) as [number | null];
  const tookMs = performance.now() - began;
  await eventually(() => expect(() => process.kill(-child.pid!, 0)).toThrow('ESRCH'));
  return { code, said, tookMs };
}

/** The command in the message: up to the bracket that closes after it, or to the end. */
const commandIn = (said: string): string => /((?:sleep|rabbitmqctl|redis-cli) .*?)(?:\) and start again|$)/m.exec(said)![1]!;

const where = ({ namespace }: Scenario, rabbitmq: string, redis = redisUrl(), name = 'h1'): NodeJS.ProcessEnv => ({
  HUB_NAME: name,
  HUB_NAMESPACE: namespace,
  HUB_RABBITMQ_URL: rabbitmq,
  HUB_REDIS_URL: redis,
});

async function sameNameTwice(): Promise<void> {
  await inScenario({}, async (scenario) => {
    const first = await scenario.hub('h1');
    const { code, said, tookMs } = await refusal('hub', where(scenario, rabbitmqUrl()));
    expect(said).toContain(`queue ${scenario.names.reply('h1')} has another consumer: does a second process run under the same name?`);
    expect(code).toBe(1);
    expect(tookMs).toBeLessThan(30_000);
    expect(first.isRunning()).toBe(true);
    await first.kill();
    const since = performance.now();
    await scenario.hub('h1');
    expect(performance.now() - since).toBeLessThan(20_000);
  });
}

describe('a hub refuses to start', () => {
  let broker: OwnRabbitmq;
  /** It takes 20 s, so it goes on beside the others. */
  let twins: Promise<void>;
  beforeAll(async () => {
    twins = sameNameTwice();
    twins.catch(() => undefined); // told to the test that waits for it
    // As a node is that was updated step by step from a RabbitMQ without streams.
    broker = await ownRabbitmq({ env: { RABBITMQ_FEATURE_FLAGS: 'quorum_queue' } });
    await broker.start();
  }, 60_000);
  afterAll(() => broker?.remove());

  /** Somebody has made a queue of this name before us. */
  async function made(queue: string, type: 'classic' | 'quorum' | 'stream', messages: number): Promise<void> {
    const connection = await connect(broker.url);
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': type } });
    for (let i = 0; i < messages; i++) channel.sendToQueue(queue, Buffer.from('theirs'));
    await channel.waitForConfirms();
    await connection.close();
  }

  it('where streams are switched off, a worker too, and the doctor says it; it starts when the command that it prints was run', async () => {
    await inScenario({ rabbitmq: broker.url }, async (scenario) => {
      const roles = ['hub', 'worker'] as const;
      const found = await refusal('doctor', where(scenario, broker.url));
      expect(found.said).toContain(`streams are switched off there; to mend it, rabbitmqctl enable_feature_flag stream_queue`);
      expect([found.code, found.said.split('✖').length - 1]).toEqual([1, 1]);
      for (const { code, said } of await Promise.all(roles.map((role) => refusal(role, where(scenario, broker.url))))) {
        expect(said).toContain(`RabbitMQ refuses queue ${scenario.names.journal}: streams are switched off there`);
        expect([commandIn(said), code]).toEqual(['rabbitmqctl enable_feature_flag stream_queue', 1]);
      }
      await broker.paste('rabbitmqctl enable_feature_flag stream_queue');
      await scenario.hub('h1');
    });
  });

  it('where a queue of ours is of another type; the command that it prints deletes that when it is empty, and only then', async () => {
    const cases = [
      { type: 'classic', queue: 'requests', command: (name: string) => `rabbitmqctl delete_queue ${name} --if-empty` },
      {
        type: 'quorum',
        queue: 'journal',
        command: (name: string) =>
          `sleep 10 && rabbitmqctl -q list_queues name messages | grep -E '^${name}\\s0$' && rabbitmqctl delete_queue ${name}`,
      },
    ] as const;
    await Promise.all(
      cases.map(({ type, queue, command }) =>
        inScenario({ rabbitmq: broker.url }, async (scenario) => {
          const name = scenario.names[queue];
          await made(name, type, 1);
          const { code, said } = await refusal('hub', where(scenario, broker.url));
          expect(said).toContain(`RabbitMQ refuses queue ${name}: PRECONDITION_FAILED - inequivalent arg 'x-queue-type'`);
          expect([commandIn(said), code]).toEqual([command(name), 1]);
          await expect(broker.paste(commandIn(said))).rejects.toThrow();
          expect(await scenario.transport.inspect(name)).toMatchObject({ ready: 1 });
          await broker.ctl('purge_queue', name);
          await broker.paste(commandIn(said));
          await scenario.hub('h1');
        }),
      ),
    );
  }, 60_000);

  it('where the journal is there with another age or other segments; it starts when the command that it prints has deleted that', async () => {
    await inScenario({ rabbitmq: broker.url }, async (scenario) => {
      await made(scenario.names.journal, 'stream', 1);
      const { code, said } = await refusal('hub', where(scenario, broker.url));
      expect(said).toContain(`RabbitMQ refuses queue ${scenario.names.journal}: PRECONDITION_FAILED`);
      expect(said).toContain('set what it had before, if that is a setting; or, if all that is in it may go, delete it');
      expect([commandIn(said), code]).toEqual([`rabbitmqctl delete_queue ${scenario.names.journal}`, 1]);
      await broker.paste(commandIn(said));
      await scenario.hub('h1');
    });
  });

  it('on a Redis that may drop requests; it starts when the command that it prints was run', async () => {
    const redis = await redisChild('--maxmemory-policy', 'allkeys-lru');
    try {
      await redis.start();
      await inScenario({ redis: redis.url }, async (scenario) => {
        const { code, said } = await refusal('hub', where(scenario, rabbitmqUrl(), redis.url));
        expect(said).toContain('may drop requests when memory gets short (maxmemory-policy allkeys-lru)');
        expect([commandIn(said), code]).toEqual([`redis-cli -h 127.0.0.1 -p ${redis.port} CONFIG SET maxmemory-policy noeviction`, 1]);
        await broker.paste(commandIn(said));
        await scenario.hub('h1');
      });
      await withClient(redis.url, async (client) => expect(await client.config('GET', 'maxmemory-policy')).toContain('noeviction'));
    } finally {
      await redis.remove();
    }
  });

  it('whose name another one has, and starts at once when that one was killed', async () => {
    await twins;
  }, 60_000);
});
