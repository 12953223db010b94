/**
 * Our ends: a hub and workers as `main.ts` puts them together, with log and metrics, and the flows that are measured. The
 * hub's requestor calls the gateway, as the limit's requestor publishes in its own process.
 */
import { randomUUID } from 'node:crypto';
import { access, anonymous } from '../broker/access.js';
import type { Open } from '../broker/adapter.js';
import type { Emit } from '../broker/emit.js';
import type { Flow } from '../broker/flow.js';
import { openHub, openWorkers, type Hub, type HubOptions, type Ports, type Workers } from '../broker/hub.js';
import { bullmqJobs } from '../broker/jobs-bullmq.js';
import { bullmqLater } from '../broker/later-bullmq.js';
import { openLog } from '../broker/log.js';
import { openMetrics } from '../broker/metrics.js';
import type { Step } from '../broker/step.js';
import { redisStore } from '../broker/store-redis.js';
import { amqpTransport } from '../broker/transport-amqp.js';
import { version } from '../broker/version.js';
import { aggregator, foreign, split, task, worker } from '../index.js';
import { adapters } from '../main.js';
import type { End, EndSettings } from './ends.js';

const concurrency = 2_000;
/** How many parts a scatter has. */
export const partCount = 10;

export const steps: readonly Step[] = [
  worker({ name: 'hello', concurrency, handle: (body: Buffer) => body }),
  worker({ name: 'split', concurrency, handle: (body: Buffer) => split(Array.from({ length: partCount }, () => ({ body }))) }),
  aggregator<Buffer>({ name: 'gather', combine: (answers) => Buffer.concat(answers.map(({ body }) => body)) }),
  foreign('nobody'),
];

const second = 1_000;
const times = { waitMs: 30 * second, maxWaitMs: 60 * second, deadlineMs: 60 * second, maxDeadlineMs: 86_400 * second };
const scattered = ['split', 'hello', 'gather'];

export const flows: readonly Flow[] = [
  { name: 'volatile', steps: ['hello'], durable: false, ...times },
  { name: 'batched', steps: ['hello'], durable: false, batch: true, ...times },
  { name: 'journal', steps: ['hello'], durable: true, ...times },
  { name: 'plain', steps: ['hello'], durable: true, journal: false, ...times },
  { name: 'scatter', steps: scattered, durable: true, ...times },
  { name: 'nobody', steps: ['nobody'], durable: true, ...times },
  { name: 'plain.scatter', steps: scattered, durable: true, journal: false, ...times },
];

/** Tasks for people: apart, since a hub that has any looks after them. */
export const taskSteps: readonly Step[] = [
  task<{ readonly n: number }>({
    name: 'approve',
    title: ({ n }) => `Approve order ${n}`,
    summary: 'Two chairs and a desk, from the usual supplier',
    form: { type: 'object', properties: { reason: { type: 'string', maxLength: 200 } } },
    candidates: ({ n }) => ({ groups: [`team-${n % teams.length}`] }),
    due: '20h',
  }),
];
export const taskFlows: readonly Flow[] = [{ name: 'approve', steps: ['approve'], durable: true, ...times }];
export const teams = Array.from({ length: 10 }, (_, n) => `team-${n}`);
/** Whoever measures signs in as this one, who is in all of the teams. */
export const decider = { name: 'ana', groups: teams, roles: ['task-user'], demoPassword: 'ana' } as const;

export interface OurSettings extends EndSettings {
  /** Tasks for people, too. */
  readonly tasks?: boolean;
  /** Workers in the hub's process, too. */
  readonly both?: boolean;
  /** The HTTP adapter in front. */
  readonly http?: boolean;
}

/** Logs and counts like the product. */
function watching(role: string) {
  const log = openLog('info', { role });
  const metrics = openMetrics();
  const emit: Emit = (event, fields) => {
    log(event, fields);
    metrics.emit(event, fields);
  };
  return { emit, metrics: () => metrics.text() };
}

async function connect({ rabbitmq, redis, namespace }: EndSettings, role: string): Promise<Ports & { close(): Promise<void> }> {
  const transport = await amqpTransport({ url: rabbitmq, name: role });
  const store = await redisStore({ url: redis, namespace });
  const later = await bullmqLater({ url: redis, namespace, publish: (to, message) => transport.publish(to, message) });
  const jobs = bullmqJobs({ url: redis, namespace });
  return {
    transport,
    store,
    later,
    jobs,
    close: async () => void (await later.close(), await jobs.close(), await transport.close(), await store.close()),
  };
}

export const hubName = 'bench';

export interface Ours {
  readonly hub: Hub;
  readonly ports: Ports;
  /** Where the HTTP adapter listens. */
  readonly url: string | undefined;
  close(): Promise<void>;
}

export async function openOurs(settings: OurSettings): Promise<Ours> {
  const { emit, metrics } = watching('hub');
  const ports = await connect(settings, `hub ${hubName}`);
  const project = settings.tasks === true ? { flows: [...flows, ...taskFlows], steps: [...steps, ...taskSteps] } : { flows, steps };
  const common = { ports, project, namespace: settings.namespace, emit, place: `bench/${process.pid}` };
  // Nobody is refused: the limit refuses nobody either. What refusing does is measured by `overload`.
  const options = { ...common, name: hubName, access: access([]), maxDelayMs: 0, users: settings.tasks === true ? [decider] : [] };
  const hub = await openHub(options);
  const workers: Workers | undefined = settings.both === true ? await openWorkers(common) : undefined;
  const http = settings.http === true ? await openHttp(hub, options, metrics) : undefined;
  return {
    hub,
    ports,
    url: http?.urls[0],
    async close() {
      hub.letGo();
      await http?.close();
      await workers?.stop(second);
      await hub.close();
      await ports.close();
    },
  };
}

/** A hub that is asked through its gateway: `to` is a flow, or `keyed` for flow `journal` with an idempotency key. */
export async function hubEnd(settings: OurSettings): Promise<End> {
  const { hub, url, close } = await openOurs(settings);
  return {
    async request(body, { to = 'journal' }) {
      const key = to === 'keyed' ? { idempotencyKey: randomUUID() } : {};
      const flow = to === 'keyed' ? 'journal' : to;
      const answer = await hub.gateway.request({ flow, principal: anonymous, body, contentType: 'application/octet-stream', ...key });
      if (answer.kind !== 'outcome' || answer.outcome.kind !== 'reply')
        throw new Error(`no reply but ${answer.kind === 'outcome' ? answer.outcome.body.toString() : answer.kind}`);
    },
    tell: async () => url,
    close,
  };
}

function openHttp(hub: Hub, { namespace, access, emit }: HubOptions, metrics: () => Promise<string>): Promise<Open> {
  const http = adapters.find(({ name }) => name === 'http');
  const settings = {
    port: 0,
    host: '127.0.0.1',
    open: false,
    bodyLimit: 1_048_576,
    maxHeaderSize: 16_384,
    maxConnections: 20_000,
    maxInFlight: 10_000,
    maxInFlightPerPrincipal: 5_000,
    headersTimeout: 10 * second,
    requestTimeout: 30 * second,
    ping: 15 * second,
    maxConversations: 1_000,
    maxConversationsPerPrincipal: 1_000,
    maxOpenPerConversation: 32,
    linger: 0,
    publicUrl: '',
  };
  return http!.open!(settings as never, {
    gateway: hub.gateway,
    inbox: { people: hub.people, tasks: hub.tasks },
    access,
    projectFolder: process.cwd(),
    log: emit,
    metrics,
    version,
    namespace,
    retentionMs: 86_400 * second,
    stopping: hub.stopping,
  });
}

export async function workersEnd(settings: OurSettings): Promise<End> {
  const ports = await connect(settings, 'worker');
  const { emit } = watching('worker');
  const project = { flows, steps };
  const workers = await openWorkers({ ports, project, namespace: settings.namespace, emit, place: `bench/${process.pid}` });
  return {
    async close() {
      await workers.stop(second);
      await ports.close();
    },
  };
}
