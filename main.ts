/**
 * The composition root: the only file that may import everything. What is started in which order, and stopped in the
 * reverse one: adapters first, holds into 202, consumers, connections.
 */
import { hostname } from 'node:os';
import { outcomeProblem } from './adapters/http/index.js';
import { adapters } from './adapters/index.js';
import { access } from './broker/access.js';
import type { Adapter, Callee, Open } from './broker/adapter.js';
import { followingClock, systemClock } from './broker/clock.js';
import type { Emit } from './broker/emit.js';
import { checkFlows } from './broker/flow.js';
import { messageOf } from './broker/fault.js';
import { openHub, openWorkers, type Hub, type Ports, type Workers } from './broker/hub.js';
import { memoryJobs } from './broker/jobs-memory.js';
import { openJournal, type Journal } from './broker/journal.js';
import { memoryLater } from './broker/later-memory.js';
import { openLog } from './broker/log.js';
import { openMetrics } from './broker/metrics.js';
import { foreign, worker, type Step } from './broker/step.js';
import { memoryState } from './broker/store-memory.js';
import { redisStore } from './broker/store-redis.js';
import { namesIn, topologyOf, type Names } from './broker/topology.js';
import { amqpTransport } from './broker/transport-amqp.js';
import { memoryBroker } from './broker/transport-memory.js';
import type { Topology, Transport } from './broker/transport.js';
import { version } from './broker/version.js';
import { checkCallSettings, ConfigError, loadProject, secretOf, type Project } from './config/project.js';
import { loadSteps } from './workers/index.js';
import { keyOf, targetsOf, webhook, type Target, type Targets } from './workers/webhook/index.js';
import type { Post } from './workers/webhook/post.js';

export { adapters };

export interface StartOptions {
  /** Folder of the project: `hub.yaml`, `workers/`. */
  readonly folder: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly overrides?: Readonly<Record<string, unknown>>;
}

export interface LoadedProject {
  readonly project: Project;
  readonly steps: readonly Step[];
  /** Where requestors may be called back; absent: nowhere. */
  readonly targets?: Targets;
}

/** Reads and checks everything of a project. Rejects with a ConfigError that lists all that is wrong, with file and line. */
export async function load({ folder, env = process.env, overrides }: StartOptions): Promise<LoadedProject> {
  const project = loadProject(folder, { env, adapters, ...(overrides === undefined ? {} : { overrides }) });
  const targets = project.callbacks.length === 0 ? undefined : targetsOf(targetsIn(project, env));
  const steps = [
    ...(await loadSteps(project.folder)),
    ...(await configuredSteps(project)),
    ...(targets === undefined ? [] : [callingBack(targets)]),
  ];
  const flaws = checkFlows(project.flows, new Map(steps.map((step) => [step.name, step])));
  if (flaws.length > 0) throw new ConfigError(flaws.map(({ path, message }) => `${project.locate(path)}: ${message}`));
  return { project, steps, ...(targets === undefined ? {} : { targets }) };
}

/** The step that calls requestors back; `post`: instead of over HTTP. */
export const callingBack = (targets: Targets, post?: Post): Step =>
  webhook({ targets, problemOf: outcomeProblem, ...(post === undefined ? {} : { post }) });

/** The callbacks of a project, with secrets that are read when they are needed: a file may change meanwhile, and only who posts must have them. */
const targetsIn = ({ callbacks, folder }: Project, env: NodeJS.ProcessEnv): readonly Target[] =>
  callbacks.map(({ secrets, headers, ...target }) => ({
    ...target,
    keys: () => secrets.map((source) => keyOf(secretOf(source, folder, env))),
    headers: () =>
      Object.fromEntries(
        Object.entries(headers).map(([name, value]) => [name, typeof value === 'string' ? value : secretOf(value, folder, env)]),
      ),
  }));

/** Whoever posts callbacks must be able to sign. */
function checkSecrets({ callbacks, folder, locate }: Project, env: NodeJS.ProcessEnv): void {
  const flaws = callbacks.flatMap(({ name, secrets, headers }) => {
    const sources = [...secrets, ...Object.values(headers).filter((value) => typeof value !== 'string')];
    return sources.flatMap((source, index) => {
      try {
        const secret = secretOf(source, folder, env);
        if (index < secrets.length) keyOf(secret);
        return [];
      } catch (error) {
        return [`${locate(['callbacks', name, 'secrets'])}: callback ${name}: secret ${index + 1} ${messageOf(error)}`];
      }
    });
  });
  if (flaws.length > 0) throw new ConfigError(flaws);
}

/** The steps that `hub.yaml` defines: foreign ones, and calls of legacy systems through an adapter. */
async function configuredSteps(project: Project): Promise<readonly Step[]> {
  return Promise.all(
    project.steps.map(async ({ name, summary, foreign: isForeign, use, settings }): Promise<Step> => {
      if (isForeign || use === undefined) return foreign(name, summary);
      const found: Adapter<never> | undefined = adapters.find((candidate) => candidate.name === use);
      if (found?.call === undefined)
        throw new ConfigError([
          `${project.locate(['steps', name, 'use'])}: there is no outbound adapter "${use}"; there is ${adapters
            .filter(({ call }) => call !== undefined)
            .map((each) => each.name)
            .join(', ')}`,
        ]);
      const resolved = checkCallSettings(found.callSettings ?? {}, settings, `${project.locate(['steps', name])}: step ${name}`);
      if (resolved.problems.length > 0) throw new ConfigError(resolved.problems);
      // Opened at the first call, so that a hub that does not work never connects to the legacy system.
      let opened: Promise<Callee> | undefined;
      const callee = found.call.bind(found);
      const step = worker<never>({
        name,
        summary: summary ?? `Requests on their way to a system, by ${use}`,
        async handle(_body, envelope, context) {
          opened ??= callee(resolved.settings as never, project.folder);
          opened.catch(() => (opened = undefined));
          return (await opened).call({
            body: envelope.body,
            contentType: envelope.contentType,
            envelope,
            context,
            projectFolder: project.folder,
          });
        },
      });
      return { ...step, close: async () => (await opened)?.close() };
    }),
  );
}

interface Connected extends Ports {
  close(): Promise<void>;
}

/** The real ports: RabbitMQ, Redis, BullMQ. BullMQ is loaded here, since it takes a third of a second, which no other command needs to wait for. */
async function connect(project: Project, role: string, emit: Emit): Promise<Connected> {
  const { settings } = project;
  const log = (event: string, fields: Record<string, unknown> = {}) => emit(event, fields);
  const [{ bullmqLater }, { bullmqJobs }] = await Promise.all([import('./broker/later-bullmq.js'), import('./broker/jobs-bullmq.js')]);
  const transport = await amqpTransport({ url: settings.rabbitmq.url, name: role, confirmMs: settings.rabbitmq.confirm, log });
  const store = await redisStore({ url: settings.redis.url, namespace: settings.namespace, retentionMs: settings.retention, log }).catch(
    async (error: unknown) => {
      await transport.close();
      throw error;
    },
  );
  const later = await bullmqLater({
    url: settings.redis.url,
    namespace: settings.namespace,
    publish: (to, message) => transport.publish(to, message),
    log,
  });
  const jobs = bullmqJobs({ url: settings.redis.url, namespace: settings.namespace, log });
  transport.onState((state) => emit(`transport.${state}`));
  const clock = await followingClock(() => store.time());
  const { close, ...ports } = connected({ transport, store, later, jobs, clock });
  return { ...ports, close: () => (clock.close(), close()) };
}

/** The ports in memory: nothing survives the process. */
function inMemory(): Connected {
  const transport = memoryBroker().connect();
  return connected({
    transport,
    store: memoryState().connect(),
    later: memoryLater({ clock: systemClock, publish: (to, message) => transport.publish(to, message) }),
    jobs: memoryJobs({ clock: systemClock }).connect(),
    clock: systemClock,
  });
}

function connected({
  transport,
  store,
  later,
  jobs,
  clock,
}: Required<Pick<Ports, 'transport' | 'store' | 'later' | 'jobs' | 'clock'>>): Connected {
  return {
    transport,
    store,
    later,
    jobs,
    clock,
    async close() {
      await Promise.all([later.close(), jobs.close()]);
      await transport.close();
      await store.close();
    },
  };
}

export interface Running {
  readonly project: Project;
  /** Where each adapter listens. */
  readonly urls: readonly { readonly adapter: string; readonly url: string }[];
  /** Stops cleanly: nothing is lost, every requestor on the line hears something. */
  stop(): Promise<void>;
}

/** `hub`: takes requests. `worker`: serves steps. `both`: one process. `memory`: both, on the ports in memory. */
export type Role = 'hub' | 'worker' | 'both';

export async function start(
  options: StartOptions & { readonly role: Role; readonly memory?: boolean; readonly only?: readonly string[] },
): Promise<Running> {
  const loaded = await load(options);
  const { project, steps, targets } = loaded;
  const { settings } = project;
  if (options.role !== 'hub') checkSecrets(project, options.env ?? process.env);
  const metrics = openMetrics();
  const log = openLog(settings.log.level, { hub: settings.name, role: options.role, pid: process.pid });
  const emit: Emit = (event, fields) => {
    log(event, fields);
    metrics.emit(event, fields);
  };
  for (const warning of project.unknownEnv) emit('config.unknown.failed', { warning });
  const ports =
    options.memory === true ? inMemory() : await connect(project, options.role === 'worker' ? 'worker' : `hub ${settings.name}`, emit);
  const opened: { adapter: string; open: Open }[] = [];
  let hub: Hub | undefined;
  let workers: Workers | undefined;

  async function stop(): Promise<void> {
    hub?.letGo();
    await Promise.all(opened.map(({ open }) => open.close()));
    await workers?.stop(settings.stopWithin / 2);
    await hub?.close();
    await ports.close();
  }

  try {
    const common = {
      ports,
      project: { flows: project.flows, steps },
      namespace: settings.namespace,
      emit,
      place: `${hostname()}/${process.pid}`,
      journalMaxAge: settings.journal.maxAge,
    };
    if (options.role !== 'worker')
      hub = await openHub({
        ...common,
        name: settings.name,
        access: access(project.principals),
        users: project.users,
        ...(targets === undefined ? {} : { callbacks: targets }),
        maxInFlight: settings.limits.inFlight,
        maxDelayMs: settings.limits.delay,
      });
    if (options.role !== 'hub') workers = await openWorkers({ ...common, ...(options.only === undefined ? {} : { only: options.only }) });
    if (hub !== undefined) {
      metrics.watch({ holding: hub.holding, transport: () => ports.transport.state() });
      opened.push(...(await openAdapters(hub, project, emit, () => metrics.text())));
    }
  } catch (error) {
    await stop().catch(() => undefined);
    throw error;
  }
  const urls = opened.flatMap(({ adapter, open }) => open.urls.map((url) => ({ adapter, url })));
  emit('started', { project: project.title, flows: project.flows.length, steps: steps.length, urls: urls.map(({ url }) => url) });
  return { project, urls, stop };
}

async function openAdapters(
  hub: Hub,
  project: Project,
  emit: Emit,
  metrics: () => Promise<string>,
): Promise<{ adapter: string; open: Open }[]> {
  const opened: { adapter: string; open: Open }[] = [];
  try {
    for (const each of adapters) {
      const settings = project.adapters.get(each.name);
      if (settings === undefined || each.open === undefined) continue;
      const open = await each.open(settings as never, {
        gateway: hub.gateway,
        access: access(project.principals),
        inbox: { people: hub.people, tasks: hub.tasks },
        projectFolder: project.folder,
        log: (event, fields) => emit(`${each.name}.${event}`, fields),
        metrics,
        version,
        namespace: project.settings.namespace,
        retentionMs: project.settings.retention,
        stopping: hub.stopping,
      });
      opened.push({ adapter: each.name, open });
    }
    return opened;
  } catch (error) {
    await Promise.all(opened.map(({ open }) => open.close()));
    throw error;
  }
}

/** What the command line looks at and mends, without a hub. */
export interface Broker {
  readonly transport: Transport;
  readonly journal: Journal;
  readonly names: Names;
  readonly steps: readonly Step[];
  /** How long an answer, and its idempotency key, is kept. */
  readonly retentionMs: number;
}

export async function withBroker<T>(options: StartOptions, use: (broker: Broker) => Promise<T>): Promise<T> {
  const { project, steps } = await load(options);
  const transport = await amqpTransport({ url: project.settings.rabbitmq.url, name: 'command line' });
  try {
    const names = namesIn(project.settings.namespace);
    return await use({
      transport,
      names,
      steps,
      retentionMs: project.settings.retention,
      journal: openJournal(transport, names, () => Date.now()),
    });
  } finally {
    await transport.close();
  }
}

/** One thing that a hub of a project needs of its services, and why it would not start for it. */
export interface Examined {
  readonly name: string;
  readonly problem?: string;
}

/** Looks for all that a start would refuse, instead of the first. Exchanges and queues that are missing in RabbitMQ are declared, as a start does. */
export async function examine(options: StartOptions): Promise<readonly Examined[]> {
  const { project, steps } = await load(options);
  const { settings } = project;
  const { exchanges, queues } = topologyOf({
    names: namesIn(settings.namespace),
    flows: project.flows,
    steps: new Map(steps.map((step) => [step.name, step])),
    hub: settings.name,
    journalMaxAge: settings.journal.maxAge,
  });
  const examined = async (name: string, work: () => Promise<void>): Promise<readonly Examined[]> => {
    try {
      await work();
      return [{ name }];
    } catch (error) {
      return [{ name, problem: messageOf(error) }];
    }
  };
  const rabbitmq = async (): Promise<readonly Examined[]> => {
    const problems: Examined[] = [];
    const connected = await examined('RabbitMQ', async () => {
      const transport = await amqpTransport({ url: settings.rabbitmq.url, name: 'doctor' });
      const none: Topology = { exchanges: [], queues: [], bindings: [] };
      const pieces = [
        ...exchanges.map((exchange) => ({ ...none, exchanges: [exchange] })),
        ...queues.map((queue) => ({ ...none, queues: [queue] })),
      ];
      try {
        for (const piece of pieces) {
          const [name = ''] = [...piece.exchanges, ...piece.queues].map((each) => each.name);
          problems.push(...(await examined(name, () => transport.declare(piece))).filter(({ problem }) => problem !== undefined));
        }
      } finally {
        await transport.close();
      }
    });
    return [...connected, ...problems];
  };
  const redis = () =>
    examined('Redis', async () => {
      const store = await redisStore({ url: settings.redis.url, namespace: settings.namespace, retentionMs: settings.retention });
      await store.close();
    });
  return (await Promise.all([rabbitmq(), redis()])).flat();
}
