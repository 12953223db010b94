/**
 * Our ends: a hub and workers as `main.ts` puts them together, with log and metrics, and the flows that are measured. The
 * hub's requestor calls the gateway, as the limit's requestor publishes in its own process.
 */
import { access, anonymous } from '../broker/access.js';
import type { Emit } from '../broker/emit.js';
import type { Flow } from '../broker/flow.js';
import { openHub, openWorkers, type Hub, type Ports, type Workers } from '../broker/hub.js';
import { bullmqLater } from '../broker/later-bullmq.js';
import { openLog } from '../broker/log.js';
import { openMetrics } from '../broker/metrics.js';
import { worker, type Step } from '../broker/step.js';
import { redisStore } from '../broker/store-redis.js';
import { namesIn } from '../broker/topology.js';
import { amqpTransport } from '../broker/transport-amqp.js';
import type { End, EndSettings } from './ends.js';

/** A worker echoes; each kind of flow has a step, and so a queue, of its own. */
const echo = (name: string): Step => worker({ name, concurrency: 2_000, handle: (body: Buffer) => body });
export const steps: readonly Step[] = [echo('hello.volatile'), echo('hello.journal'), echo('hello.plain')];

const second = 1_000;
const times = { waitMs: 30 * second, maxWaitMs: 60 * second, deadlineMs: 60 * second, maxDeadlineMs: 86_400 * second };

export const flows: readonly Flow[] = [
  { name: 'volatile', steps: ['hello.volatile'], durable: false, ...times },
  { name: 'journal', steps: ['hello.journal'], durable: true, ...times },
  // Not in the type before it is in the hub.
  { name: 'plain', steps: ['hello.plain'], durable: true, journal: false, ...times } as Flow,
];

/** Whether the hub can leave the journal out. */
export const canLeaveJournalOut = 'plainRetry' in namesIn('x');

export interface OurSettings extends EndSettings {
  /** Workers in the hub's process, too. */
  readonly both?: boolean;
  /** Of the hub; default `bench`. */
  readonly name?: string;
}

/** Logs and counts like the product. */
function emitter(role: string): Emit {
  const log = openLog('info', { role });
  const metrics = openMetrics();
  return (event, fields) => {
    log(event, fields);
    metrics.emit(event, fields);
  };
}

async function connect({ rabbitmq, redis, namespace }: EndSettings, role: string): Promise<Ports & { close(): Promise<void> }> {
  const transport = await amqpTransport({ url: rabbitmq, name: role });
  const store = await redisStore({ url: redis, namespace });
  const later = await bullmqLater({ url: redis, namespace, publish: (to, message) => transport.publish(to, message) });
  return { transport, store, later, close: async () => void (await later.close(), await transport.close(), await store.close()) };
}

export interface OpenedHub {
  readonly hub: Hub;
  readonly ports: Ports;
  close(): Promise<void>;
}

export async function openOurHub(settings: OurSettings): Promise<OpenedHub> {
  const name = settings.name ?? 'bench';
  const emit = emitter('hub');
  const ports = await connect(settings, `hub ${name}`);
  const common = { ports, project: { flows, steps }, namespace: settings.namespace, emit, place: `bench/${process.pid}` };
  const hub = await openHub({ ...common, name, access: access([]) });
  const workers: Workers | undefined = settings.both === true ? await openWorkers(common) : undefined;
  return {
    hub,
    ports,
    async close() {
      hub.letGo();
      await workers?.stop(second);
      await hub.close();
      await ports.close();
    },
  };
}

export async function hubEnd(settings: OurSettings): Promise<End> {
  const { hub, close } = await openOurHub(settings);
  return {
    async request(body, { flow = 'journal' }) {
      const answer = await hub.gateway.request({ flow, principal: anonymous, body, contentType: 'application/octet-stream' });
      if (answer.kind !== 'outcome' || answer.outcome.kind !== 'reply')
        throw new Error(`no reply but ${answer.kind === 'outcome' ? answer.outcome.body.toString() : answer.kind}`);
    },
    close,
  };
}

export async function workersEnd(settings: OurSettings): Promise<End> {
  const ports = await connect(settings, 'worker');
  const workers = await openWorkers({
    ports,
    project: { flows, steps },
    namespace: settings.namespace,
    emit: emitter('worker'),
    place: `bench/${process.pid}`,
  });
  return {
    async close() {
      await workers.stop(second);
      await ports.close();
    },
  };
}
