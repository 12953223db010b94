/**
 * Hubs for tests: on the ports in memory, or on the real services under a namespace of their own. What they listen to is
 * real either way.
 */
import { randomBytes } from 'node:crypto';
import { access as accessOf, anonymous, type KeyedPrincipal, type Principal } from '../../broker/access.js';
import type { Adapter, AdapterContext, Open } from '../../broker/adapter.js';
import type { Callbacks } from '../../broker/callback.js';
import { systemClock, type Clock } from '../../broker/clock.js';
import type { Emit, Fields } from '../../broker/emit.js';
import type { Flow } from '../../broker/flow.js';
import type { Answer, Ask, Gateway } from '../../broker/gateway.js';
import { openHub, openWorkers, type Hub, type Ports, type Workers } from '../../broker/hub.js';
import { bullmqJobs } from '../../broker/jobs-bullmq.js';
import { memoryJobs } from '../../broker/jobs-memory.js';
import { bullmqLater } from '../../broker/later-bullmq.js';
import { memoryLater } from '../../broker/later-memory.js';
import type { User } from '../../broker/people.js';
import type { Step } from '../../broker/step.js';
import { memoryState } from '../../broker/store-memory.js';
import { redisStore } from '../../broker/store-redis.js';
import { topologyOf, type Names } from '../../broker/topology.js';
import { amqpTransport } from '../../broker/transport-amqp.js';
import { memoryBroker } from '../../broker/transport-memory.js';
import { copyKeys, removeKeys } from './redis.js';

export interface TestHubOptions {
  /** Names of steps, or a flow with more than that. */
  readonly flows: Readonly<Record<string, readonly string[] | (Partial<Flow> & Pick<Flow, 'steps'>)>>;
  readonly steps: readonly Step[];
  readonly principals?: readonly KeyedPrincipal[];
  readonly users?: readonly User[];
  readonly callbacks?: Callbacks;
  readonly clock?: Clock;
  readonly name?: string;
  readonly maxInFlight?: number;
  readonly maxDelayMs?: number;
  readonly checkTopologyMs?: number;
  readonly retentionMs?: number;
  /** Serve no steps: whoever tests does the work. */
  readonly idle?: boolean;
}

export interface TestHub {
  readonly hub: Hub;
  readonly gateway: Gateway;
  readonly ports: Ports;
  readonly namespace: string;
  readonly events: readonly { readonly event: string; readonly fields: Fields }[];
  /** Sends JSON and holds; see `Ask` for the rest. */
  ask(flow: string, body: unknown, more?: Partial<Ask>): Promise<Answer>;
  /** The same, with the answer's body parsed; throws when it is not a reply. */
  reply(flow: string, body: unknown, more?: Partial<Ask>): Promise<unknown>;
  /** Opens an adapter in front of this hub. */
  open<Settings>(adapter: Adapter<Settings>, settings: Settings, projectFolder?: string): Promise<Open>;
  /** Everything in the store is lost. */
  lose(): Promise<void>;
  /** Remembers the store as it is now; the returned function restores that older copy. */
  copy(): Promise<() => Promise<void>>;
  /** Another hub (and workers) on the same broker and store. */
  another(more?: Partial<TestHubOptions>): Promise<TestHub>;
  /** Stops like a process that is told to: holds become 202. */
  close(): Promise<void>;
}

const second = 1_000;

/** Flows with defaults for tests. */
export function flowsOf(flows: TestHubOptions['flows']): Flow[] {
  return Object.entries(flows).map(([name, flow]) => ({
    name,
    waitMs: 10 * second,
    maxWaitMs: 60 * second,
    deadlineMs: 60 * second,
    maxDeadlineMs: 3_600 * second,
    durable: true,
    ...('steps' in flow ? flow : { steps: flow }),
  }));
}

/** A namespace that nobody else uses. */
export const ownNamespace = (): string => `t${randomBytes(4).toString('hex')}`;

/** A hub with its workers on the ports in memory. */
export async function memoryHub(options: TestHubOptions): Promise<TestHub> {
  const clock = options.clock ?? systemClock;
  const broker = memoryBroker({ clock });
  const state = memoryState({ clock, ...(options.retentionMs === undefined ? {} : { retentionMs: options.retentionMs }) });
  const allJobs = memoryJobs({ clock });
  const connect = async (): Promise<Connected> => {
    const transport = broker.connect();
    const store = state.connect();
    const later = memoryLater({ clock, publish: (to, message) => transport.publish(to, message) });
    const jobs = allJobs.connect();
    return {
      transport,
      store,
      later,
      jobs,
      clock,
      close: async () => void (await later.close(), await jobs.close(), await transport.close(), await store.close()),
    };
  };
  const losing = {
    lose: async () => (state.lose(), allJobs.lose()),
    copy: async () => {
      const restore = state.copy();
      return async () => restore();
    },
  };
  return assemble(options, ownNamespace(), connect, losing, async () => undefined);
}

interface Connected extends Ports {
  close(): Promise<void>;
}

export const rabbitmqUrl = (): string => required('HUB_RABBITMQ_URL');
export const redisUrl = (): string => required('HUB_REDIS_URL');

function required(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '') throw new Error(`${name} is not set: run the tests with "npm test", which brings the services`);
  return value;
}

/** A hub with its workers on RabbitMQ and Redis, under a namespace of its own; its queues are removed at the end. */
export async function realHub(options: TestHubOptions & { readonly rabbitmq?: string; readonly redis?: string }): Promise<TestHub> {
  const namespace = ownNamespace();
  const [rabbitmq, redis] = [options.rabbitmq ?? rabbitmqUrl(), options.redis ?? redisUrl()];
  const connect = async (): Promise<Connected> => {
    const transport = await amqpTransport({ url: rabbitmq, name: 'test' });
    const store = await redisStore({ url: redis, namespace, retentionMs: options.retentionMs ?? 600 * second });
    const later = await bullmqLater({ url: redis, namespace, publish: (to, message) => transport.publish(to, message) });
    const jobs = bullmqJobs({ url: redis, namespace });
    return {
      transport,
      store,
      later,
      jobs,
      clock: systemClock,
      close: async () => void (await later.close(), await jobs.close(), await transport.close(), await store.close()),
    };
  };
  const losing = { lose: () => removeKeys(redis, namespace), copy: () => copyKeys(redis, namespace) };
  return assemble(options, namespace, connect, losing, ({ hub }) =>
    removeQueues(hub.names, flowsOf(options.flows), options.steps, options.name ?? 'h1'),
  );
}

/** Removes every queue of a namespace that these flows and steps have. */
export async function removeQueues(names: Names, flows: readonly Flow[], steps: readonly Step[], hub: string): Promise<void> {
  const transport = await amqpTransport({ url: rabbitmqUrl(), name: 'test cleanup' });
  const { queues } = topologyOf({ names, flows, steps: new Map(steps.map((step) => [step.name, step])), hub, journalMaxAge: '1D' });
  for (const { name } of queues) await transport.removeQueue(name);
  await transport.close();
}

async function assemble(
  options: TestHubOptions,
  namespace: string,
  connect: () => Promise<Connected>,
  losing: Pick<TestHub, 'lose' | 'copy'>,
  cleanUp: (hub: TestHub) => Promise<void>,
): Promise<TestHub> {
  const ports = await connect();
  const events: { event: string; fields: Fields }[] = [];
  const emit: Emit = (event, fields = {}) => void events.push({ event, fields });
  const project = { flows: flowsOf(options.flows), steps: options.steps };
  const common = { ports, project, namespace, emit, place: `test/${process.pid}`, journalMaxAge: '1D' };
  const access = accessOf(options.principals ?? []);
  const hub = await openHub({
    ...common,
    name: options.name ?? 'h1',
    access,
    ...(options.users === undefined ? {} : { users: options.users }),
    ...(options.callbacks === undefined ? {} : { callbacks: options.callbacks }),
    ...(options.maxInFlight === undefined ? {} : { maxInFlight: options.maxInFlight }),
    ...(options.maxDelayMs === undefined ? {} : { maxDelayMs: options.maxDelayMs }),
    ...(options.checkTopologyMs === undefined ? {} : { checkTopologyMs: options.checkTopologyMs }),
  });
  const workers: Workers | undefined = options.idle === true ? undefined : await openWorkers(common);
  const opened: Open[] = [];
  const others: TestHub[] = [];
  let closed: Promise<void> | undefined;

  const self: TestHub = {
    ...losing,
    hub,
    gateway: hub.gateway,
    ports,
    namespace,
    events,
    ask: (flow, body, more = {}) =>
      hub.gateway.request({
        flow,
        principal: principalOf(),
        body: Buffer.from(JSON.stringify(body)),
        contentType: 'application/json',
        ...more,
      }),
    async reply(flow, body, more) {
      const answer = await self.ask(flow, body, more);
      if (answer.kind !== 'outcome' || answer.outcome.kind !== 'reply')
        throw new Error(
          `no reply but ${answer.kind === 'outcome' ? `${answer.outcome.kind} ${answer.outcome.body.toString()}` : answer.kind}`,
        );
      return JSON.parse(answer.outcome.body.toString()) as unknown;
    },
    async open(adapter, settings, projectFolder = process.cwd()) {
      const context: AdapterContext = {
        gateway: hub.gateway,
        access,
        inbox: { people: hub.people, tasks: hub.tasks },
        projectFolder,
        log: (event, fields) => emit(event, fields),
        metrics: async () => '',
        version: 'test',
        namespace,
        retentionMs: options.retentionMs ?? 86_400_000,
        stopping: hub.stopping,
      };
      const open = await adapter.open!(settings, context);
      opened.push(open);
      return open;
    },
    async another(more = {}) {
      const other = await assemble(
        { ...options, ...more, name: more.name ?? `h${others.length + 2}` },
        namespace,
        connect,
        losing,
        async (its) => {
          await its.ports.transport.removeQueue(its.hub.names.reply(more.name ?? `h${others.length + 1}`)).catch(() => undefined);
        },
      );
      others.push(other);
      return other;
    },
    close: () => (closed ??= close()),
  };
  const principalOf = (): Principal => options.principals?.[0] ?? anonymous;

  async function close(): Promise<void> {
    await Promise.all(others.map((other) => other.close()));
    hub.letGo();
    await Promise.all(opened.map((open) => open.close()));
    await workers?.stop(1_000);
    await hub.close();
    await ports.close();
    await cleanUp(self);
  }
  return self;
}
