/** Hubs and workers as processes of their own, from `dist/`, that a test may kill; and all that such a scenario needs. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { appendFileSync, closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { namesIn, topologyOf } from '../../broker/topology.js';
import { amqpTransport } from '../../broker/transport-amqp.js';
import type { Transport } from '../../broker/transport.js';
import { load } from '../../main.js';
import { eventually } from '../support/eventually.js';
import { rabbitmqUrl, redisUrl } from '../support/hub.js';
import { removeKeys } from '../support/redis.js';
import { openClients, type Clients } from './clients.js';
import { judge, openHistory, readEffects, type Bounds, type Effect, type History, type Violation } from './history.js';
import { openLegacy, openRequestors, removed, type Requestors } from './systems.js';

const command = resolve('dist/cli/answerback.js');
export const folderOfProject = resolve('test/fault/project');

export interface Process {
  readonly name: string;
  readonly pid: number;
  /** Where its HTTP adapter listens (hubs). */
  readonly url: string;
  /** What it has logged, one JSON object per line. */
  log(): string;
  isRunning(): boolean;
  /** Resolves when it is ready, or has died before: `false`. */
  readonly ready: Promise<boolean>;
  /** The signal that ended it, if one did. */
  diedOf(): NodeJS.Signals | null;
  /** As a power cut does. Resolves when it is gone. */
  kill(): Promise<void>;
  /** It keeps its connections and does nothing any more, until it thaws. */
  freeze(): void;
  thaw(): void;
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
  hub(name: string, env?: NodeJS.ProcessEnv): Promise<Process>;
  worker(name?: string, env?: NodeJS.ProcessEnv): Promise<Process>;
  /** Begins to start one that may die before it is ready. */
  begin(role: Role, name: string, env?: NodeJS.ProcessEnv): Process;
  effects(): readonly Effect[];
  /** How often this step has begun. */
  begun(step: string): number;
  /** Lets the step `gated` go on, from now on; or stops it again. */
  gate(isOpen: boolean): void;
  /** Programs of somebody else: those that serve foreign steps from now on, and requestors on plain AMQP. */
  legacy(): Promise<void>;
  requestors(): Promise<Requestors>;
  /** What breaks the promise so far. */
  broken(bounds: Bounds): readonly string[];
  /** The same when everything has come to rest: also what is still in a queue, and one-way messages that are nowhere. */
  atRest(bounds: Bounds): Promise<readonly Violation[]>;
  /** Forgets what has been judged. */
  forget(): void;
  /** Clients' history, effects, logs. Kept after `close` when something is broken. */
  readonly folder: string;
  /** A connection of the test's own to the same broker, by the straight way. */
  readonly transport: Transport;
  readonly names: ReturnType<typeof namesIn>;
  /** Ends every process, removes what is on the broker and in Redis. Call it whatever happened. */
  close(options?: { readonly keep?: boolean }): Promise<void>;
}

export type Role = 'hub' | 'worker';

export interface ScenarioOptions {
  /** Where the hubs and workers find the services; several: the nodes of a cluster. The test itself looks at the broker by `rabbitmq`, too. */
  readonly rabbitmq?: string | readonly string[];
  readonly redis?: string;
  /** Way of the hubs and workers to RabbitMQ, when it is another one (a proxy). */
  readonly via?: string;
  /**
   * How long clients come back for their answer before they give up: for longer than services are away, one after the other. What
   * hangs is for the checker to say, which does not count outages.
   */
  readonly patienceMs?: number;
  /** What they start. Default: `test/fault/project`. */
  readonly project?: string;
  /** Written into the folder of a run that fails, so that it can be had again. */
  readonly about?: Readonly<Record<string, unknown>>;
}

/** Runs a scenario; then, whatever happened, closes it. */
export async function inScenario<T>(options: ScenarioOptions, run: (scenario: Scenario) => Promise<T>): Promise<T> {
  const scenario = await openScenario(options);
  let result: T;
  try {
    result = await run(scenario);
  } catch (error) {
    process.stderr.write(`history: ${scenario.folder}\n`);
    await scenario.close({ keep: true }).catch(() => undefined); // what went wrong first is what to tell
    throw error;
  }
  await scenario.close();
  return result;
}

export async function openScenario({
  rabbitmq = rabbitmqUrl(),
  redis = redisUrl(),
  via = String(rabbitmq),
  patienceMs = 240_000,
  project: projectFolder = folderOfProject,
  about = {},
}: ScenarioOptions = {}): Promise<Scenario> {
  if (!existsSync(command)) throw new Error(`${command} is missing: npm run build`);
  const {
    project: { flows },
    steps,
  } = await load({ folder: projectFolder });
  const namespace = `f${randomBytes(4).toString('hex')}`;
  const folder = mkdtempSync(join(tmpdir(), 'hub-fault-'));
  const file = join(folder, 'effects.ndjson');
  writeFileSync(file, '');
  writeFileSync(join(folder, 'about.json'), JSON.stringify({ namespace, ...about }));
  const names = namesIn(namespace);
  const history = openHistory({ file: join(folder, 'clients.ndjson') });
  const processes: Process[] = [];
  const others: { close(): Promise<void> }[] = [];
  const hubs = new Set<string>();
  const transport = await amqpTransport({ url: rabbitmq, name: 'fault test' });
  let isBroken = false;

  function begin(role: Role, name: string, env: NodeJS.ProcessEnv = {}): Process {
    if (role === 'hub') hubs.add(name);
    const log = join(folder, `${name}-${processes.length}.log`);
    const started = startProcess([role, projectFolder], {
      log,
      name,
      env: {
        ...process.env,
        HUB_NAME: name,
        HUB_NAMESPACE: namespace,
        HUB_RABBITMQ_URL: via,
        HUB_REDIS_URL: redis,
        HUB_HTTP_PORT: '0',
        FAULT_EFFECTS: file,
        ...env,
      },
    });
    processes.push(started);
    return started;
  }

  async function start(role: Role, name: string, env?: NodeJS.ProcessEnv): Promise<Process> {
    const started = begin(role, name, env);
    if (!(await started.ready)) throw new Error(`${name} did not start:\n${started.log()}`);
    return started;
  }

  const topology = (hub?: string) =>
    topologyOf({
      names,
      flows,
      steps: new Map(steps.map((step) => [step.name, step])),
      journalMaxAge: '1D',
      ...(hub === undefined ? {} : { hub }),
    });
  const queues = () => new Set([undefined, ...hubs].flatMap((hub) => topology(hub).queues.map(({ name }) => name)));

  async function cleanUp(): Promise<void> {
    for (const queue of queues()) await removed(transport, queue);
    await removeKeys(redis, namespace);
  }

  /** Everything that must be empty when nothing goes on: all but the journal and the letters for people. */
  const passing = () => [...queues()].filter((queue) => queue !== names.journal && !queue.startsWith(`${names.dead}.`));

  async function notEmpty(): Promise<readonly string[]> {
    const left: string[] = [];
    for (const queue of passing()) {
      const ready = (await transport.inspect(queue))?.ready ?? 0;
      if (ready > 0) left.push(`${queue} still holds ${ready} messages`);
    }
    return left;
  }

  /** Takes every dead letter, and tells whose they are. */
  async function deadTokens(): Promise<ReadonlySet<string>> {
    const tokens = new Set<string>();
    const letters = [...queues()].filter((queue) => queue.startsWith(`${names.dead}.`));
    const consumers = await Promise.all(
      letters.map((queue) =>
        transport.consume(queue, { prefetch: 200, tag: 'checker' }, async ({ body }) => {
          if (body.length > 0) tokens.add((JSON.parse(body.toString()) as { token: string }).token);
        }),
      ),
    );
    for (const queue of letters) await eventually(async () => assertEmpty((await transport.inspect(queue))?.ready ?? 0));
    await Promise.all(consumers.map((consumer) => consumer.close()));
    return tokens;
  }

  const found = (violations: readonly Violation[]) => {
    if (violations.length > 0 && !isBroken) process.stderr.write(`history: ${folder}\n`);
    isBroken ||= violations.length > 0;
    return violations;
  };

  const self: Scenario = {
    namespace,
    history,
    folder,
    front: [],
    clients: openClients({ history, hubs: () => self.front, patienceMs }),
    names,
    transport,
    begin,
    hub: (name, env) => start('hub', name, env),
    worker: (name = 'worker', env) => start('worker', name, env),
    effects: () => readEffects(file),
    begun: (wanted) => readEffects(file).filter(({ what, step }) => what === 'start' && step === wanted).length,
    gate: (isOpen) => (isOpen ? writeFileSync(`${file}.open`, '') : rmSync(`${file}.open`, { force: true })),
    async legacy() {
      others.push(await openLegacy({ transport, names, note: (effect) => appendFileSync(file, `${JSON.stringify(effect)}\n`) }));
    },
    async requestors() {
      const requestors = await openRequestors({ transport, names, history, patienceMs });
      others.push(requestors);
      return requestors;
    },
    broken: (bounds) => found(judge(history.seen, readEffects(file), bounds)).map(({ sentence }) => sentence),
    async atRest(bounds) {
      let left: readonly string[] = [];
      await eventually(async () => assertEmpty((left = await notEmpty()).length), { withinMs: 30_000 }).catch(() => undefined);
      const dead = await deadTokens();
      return found([
        ...judge(history.seen, readEffects(file), { ...bounds, dead, atRest: true }),
        ...left.map((sentence) => ({ breach: 'hung', sentence }) as const),
      ]);
    },
    forget() {
      history.forget();
      // When something is broken, all of it is looked into later.
      if (isBroken) appendFileSync(join(folder, 'effects-judged.ndjson'), readFileSync(file));
      writeFileSync(file, '');
    },
    async close({ keep = isBroken } = {}) {
      await self.clients.close();
      await Promise.all(processes.map((one) => one.kill()));
      await Promise.all(others.map((one) => one.close().catch(() => undefined)));
      await cleanUp().finally(() => transport.close());
      await history.close();
      if (!keep) rmSync(folder, { recursive: true, force: true });
    },
  };
  return self;
}

function assertEmpty(count: number): void {
  if (count > 0) throw new Error(`${count} are left`);
}

/** Keeps a process running: starts it again whenever it has ended, as whoever runs processes does. */
export interface Supervised {
  now(): Process | undefined;
  /** How often it was started. */
  starts(): number;
  stop(): Promise<void>;
}

export function supervise(start: () => Promise<Process>): Supervised {
  let now: Process | undefined;
  let isOver = false;
  let starts = 0;
  const over = (async () => {
    while (!isOver) {
      const started = await start().catch(() => undefined); // a service is away: the next start finds it
      starts++;
      if (isOver) await started?.kill();
      else if (started === undefined) await sleep(500);
      else await (now = started).ended;
      now = undefined;
    }
  })();
  return {
    now: () => now,
    starts: () => starts,
    async stop() {
      isOver = true;
      await now?.kill();
      await over;
    },
  };
}

function startProcess(
  args: readonly string[],
  { name, log, env }: { readonly name: string; readonly log: string; readonly env: NodeJS.ProcessEnv },
): Process {
  const output = openSync(log, 'a');
  // The IPC channel: when the test dies, they do.
  const child = spawn(process.execPath, ['--enable-source-maps', command, ...args], { env, stdio: ['ignore', output, output, 'ipc'] });
  closeSync(output);
  const ended = once(child, 'exit').then(() => undefined);
  const read = () => (existsSync(log) ? readFileSync(log, 'utf8') : '');
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  let url = '';
  const ready = (async () => {
    if (!(await toldReady(child, ended))) return false;
    // What it wrote before it said "ready" may be on its way to the file.
    if (args[0] === 'hub') url = (await eventually(() => urlsIn(read())))[0] ?? '';
    return true;
  })();
  return {
    name,
    pid: child.pid!,
    get url() {
      return url;
    },
    log: read,
    isRunning,
    ready,
    ended,
    diedOf: () => child.signalCode,
    freeze: () => void child.kill('SIGSTOP'),
    thaw: () => void child.kill('SIGCONT'),
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

async function toldReady(child: ChildProcess, ended: Promise<void>): Promise<boolean> {
  const told = once(child, 'message').then(() => true);
  return Promise.race([told, ended.then(() => false)]);
}

function urlsIn(log: string): readonly string[] {
  const started = log.split('\n').find((line) => line.includes('"event":"started"'));
  if (started === undefined) throw new Error(`no "started" in:\n${log}`);
  return (JSON.parse(started) as { urls: string[] }).urls;
}
