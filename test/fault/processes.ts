/** Hubs and workers as processes of their own, from `dist/`, that a test may kill; and all that such a scenario needs. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { namesIn, topologyOf } from '../../broker/topology.js';
import { amqpTransport } from '../../broker/transport-amqp.js';
import type { Transport } from '../../broker/transport.js';
import { load } from '../../main.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, redisUrl } from '../support/hub.js';
import { removeKeys } from '../support/redis.js';
import { openClients, type Clients } from './clients.js';
import { broken, openHistory, readEffects, type Bounds, type Effect, type History } from './history.js';

const command = resolve('dist/cli/answerback.js');
const folderOfProject = resolve('test/fault/project');
const {
  project: { flows },
  steps,
} = await load({ folder: folderOfProject });

export interface Process {
  readonly name: string;
  readonly pid: number;
  /** Where its HTTP adapter listens (hubs). */
  readonly url: string;
  /** What it has logged, one JSON object per line. */
  log(): string;
  isRunning(): boolean;
  /** As a power cut does. Resolves when it is gone. */
  kill(): Promise<void>;
  /** Tells it to stop; resolves with its exit code and how long that took. */
  stop(): Promise<{ readonly code: number | null; readonly tookMs: number }>;
  /** Resolves when it has ended, by itself or not. */
  readonly ended: Promise<void>;
}

export interface Scenario {
  readonly namespace: string;
  readonly history: History;
  /** The hubs that clients go to: the first, and the next when that one breaks the line. */
  front: readonly Process[];
  readonly clients: Clients;
  hub(name: string): Promise<Process>;
  worker(name?: string): Promise<Process>;
  effects(): readonly Effect[];
  /** How often this step has begun. */
  begun(step: string): number;
  /** Lets the step `gated` go on, from now on; or stops it again. */
  gate(isOpen: boolean): void;
  /** What breaks the promise so far. */
  broken(bounds: Bounds): readonly string[];
  /** A connection of the test's own to the same broker. */
  readonly transport: Transport;
  readonly names: ReturnType<typeof namesIn>;
  /** Ends every process, removes what is on the broker and in Redis. Call it whatever happened. */
  close(): Promise<void>;
}

export interface ScenarioOptions {
  /** Where the hubs and workers find the services; several: the nodes of a cluster. The test itself looks at the broker by `rabbitmq`, too. */
  readonly rabbitmq?: string | readonly string[];
  readonly redis?: string;
  /** Way of the hubs and workers to RabbitMQ, when it is another one (a proxy). */
  readonly via?: string;
}

/** Runs a scenario; then, whatever happened, closes it. */
export async function inScenario(options: ScenarioOptions, run: (scenario: Scenario) => Promise<void>): Promise<void> {
  const scenario = await openScenario(options);
  try {
    await run(scenario);
  } catch (error) {
    await scenario.close().catch(() => undefined); // what went wrong first is what to tell
    throw error;
  }
  await scenario.close();
}

export async function openScenario({
  rabbitmq = rabbitmqUrl(),
  redis = redisUrl(),
  via = String(rabbitmq),
}: ScenarioOptions = {}): Promise<Scenario> {
  if (!existsSync(command)) throw new Error(`${command} is missing: npm run build`);
  const namespace = `f${randomBytes(4).toString('hex')}`;
  const folder = mkdtempSync(join(tmpdir(), 'hub-fault-'));
  const file = join(folder, 'effects.ndjson');
  writeFileSync(file, '');
  const names = namesIn(namespace);
  const history = openHistory();
  const processes: Process[] = [];
  const hubs = new Set<string>();
  const transport = await amqpTransport({ url: rabbitmq, name: 'fault test' });

  async function start(role: 'hub' | 'worker', name: string): Promise<Process> {
    const log = join(folder, `${name}-${processes.length}.log`);
    const env = {
      ...process.env,
      HUB_NAME: name,
      HUB_NAMESPACE: namespace,
      HUB_RABBITMQ_URL: via,
      HUB_REDIS_URL: redis,
      HUB_HTTP_PORT: '0',
      FAULT_EFFECTS: file,
    };
    const started = await startProcess([role, folderOfProject], { name, log, env });
    processes.push(started);
    return started;
  }

  async function cleanUp(): Promise<void> {
    const topologies = ['', ...hubs].map((hub) =>
      topologyOf({
        names,
        flows,
        steps: new Map(steps.map((step) => [step.name, step])),
        journalMaxAge: '1D',
        ...(hub === '' ? {} : { hub }),
      }),
    );
    for (const queue of new Set(topologies.flatMap(({ queues }) => queues.map(({ name }) => name)))) await transport.removeQueue(queue);
    await removeKeys(redis, namespace);
  }

  const self: Scenario = {
    namespace,
    history,
    front: [],
    clients: openClients({ history, hubs: () => self.front }),
    names,
    transport,
    hub: (name) => (hubs.add(name), start('hub', name)),
    worker: (name = 'worker') => start('worker', name),
    effects: () => readEffects(file),
    begun: (wanted) => readEffects(file).filter(({ what, step }) => what === 'start' && step === wanted).length,
    gate: (isOpen) => (isOpen ? writeFileSync(`${file}.open`, '') : rmSync(`${file}.open`, { force: true })),
    broken(bounds) {
      const found = broken(history.seen, readEffects(file), bounds);
      // For whoever wants to know how it came to that.
      if (found.length > 0)
        writeFileSync(
          join(tmpdir(), `hub-fault-${namespace}.ndjson`),
          [...history.seen, ...readEffects(file), ...processes.map((one) => ({ process: one.name, log: one.log() }))]
            .map((one) => JSON.stringify(one))
            .join('\n'),
        );
      return found;
    },
    async close() {
      await self.clients.close();
      await Promise.all(processes.map((one) => one.kill()));
      await cleanUp().finally(() => transport.close());
      rmSync(folder, { recursive: true, force: true });
    },
  };
  return self;
}

async function startProcess(
  args: readonly string[],
  { name, log, env }: { readonly name: string; readonly log: string; readonly env: NodeJS.ProcessEnv },
): Promise<Process> {
  const output = openSync(log, 'a');
  // The IPC channel: when the test dies, they do.
  const child = spawn(process.execPath, ['--enable-source-maps', command, ...args], { env, stdio: ['ignore', output, output, 'ipc'] });
  closeSync(output);
  const ended = once(child, 'exit').then(() => undefined);
  const read = () => (existsSync(log) ? readFileSync(log, 'utf8') : '');
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  await ready(child, ended, () => `${name} did not start:\n${read()}`);
  // What it wrote before it said "ready" may be on its way to the file.
  const urls = args[0] === 'hub' ? await eventually(() => urlsIn(read())) : [];
  return {
    name,
    pid: child.pid!,
    url: urls[0] ?? '',
    log: read,
    isRunning,
    ended,
    async kill() {
      if (isRunning()) child.kill('SIGKILL');
      await ended;
    },
    async stop() {
      const began = performance.now();
      child.kill('SIGTERM');
      await ended;
      return { code: child.exitCode, tookMs: performance.now() - began };
    },
  };
}

async function ready(child: ChildProcess, ended: Promise<void>, why: () => string): Promise<void> {
  const told = once(child, 'message').then(() => true);
  if (!(await Promise.race([told, ended.then(() => false)]))) throw new Error(why());
}

function urlsIn(log: string): readonly string[] {
  const started = log.split('\n').find((line) => line.includes('"event":"started"'));
  if (started === undefined) throw new Error(`no "started" in:\n${log}`);
  return (JSON.parse(started) as { urls: string[] }).urls;
}
