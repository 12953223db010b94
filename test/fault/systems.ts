/**
 * Programs of somebody else, on plain AMQP: legacy systems that work on steps of the hub's flows, and requestors that have never heard
 * of the hub. They write down what they saw, as everybody does.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PublishError, type Delivery, type Message, type Transport } from '../../broker/transport.js';
import type { namesIn } from '../../broker/topology.js';
import { eventually } from '../support/eventually.js';
import { outcomeOfFault } from './clients.js';
import type { Effect, History, Operation } from './history.js';

type Names = ReturnType<typeof namesIn>;

export interface LegacyOptions {
  readonly transport: Transport;
  readonly names: Names;
  readonly note: (effect: Effect) => void;
}

/** Serves the foreign steps of the project: `legacy` and `legacy.last` answer (twice, when the request says so), `silent` never does. */
export async function openLegacy({ transport, names, note }: LegacyOptions): Promise<{ close(): Promise<void> }> {
  const effect = (what: 'start' | 'end', step: string, delivery: Delivery, said?: unknown): Effect => {
    const { correlationId = '', headers } = delivery;
    const { token } = JSON.parse(delivery.body.toString()) as { token: string };
    return {
      what,
      step,
      id: String(headers['hub-request-id'] ?? correlationId),
      token,
      pid: process.pid,
      attempt: 1,
      at: Date.now(),
      said,
    };
  };
  async function answer(step: string, delivery: Delivery): Promise<void> {
    const asked = JSON.parse(delivery.body.toString()) as { token: string; again?: boolean };
    const said = { ...asked, for: delivery.correlationId, by: step, mark: Math.random() };
    note(effect('end', step, delivery, said));
    const correlation = delivery.correlationId === undefined ? {} : { correlationId: delivery.correlationId };
    const reply = (body: object) =>
      transport.publish(
        { exchange: '', routingKey: delivery.replyTo! },
        { body: Buffer.from(JSON.stringify(body)), contentType: 'application/json', ...correlation },
      );
    await reply(said);
    // A system that changes its mind: the first answer counts.
    if (asked.again === true) await reply({ ...said, mark: 'second thoughts' });
  }
  const consumers = [
    ...(await Promise.all(
      ['legacy', 'legacy.last'].map((step) =>
        transport.consume(names.workQueue(step), { prefetch: 50, tag: step }, (delivery) => answer(step, delivery)),
      ),
    )),
    await transport.consume(names.workQueue('silent'), { prefetch: 50, tag: 'silent' }, async (delivery) =>
      note(effect('start', 'silent', delivery)),
    ),
  ];
  return { close: async () => void (await Promise.all(consumers.map((consumer) => consumer.close()))) };
}

export interface Requestors {
  /** Publishes a request until the broker has it; resolves with the kind of outcome that comes back. */
  ask(flow: string, token: string): Promise<string>;
  close(): Promise<void>;
}

export interface RequestorsOptions {
  readonly transport: Transport;
  readonly names: Names;
  readonly history: History;
  readonly patienceMs?: number;
}

/** Requestors with one reply queue of their own. Each asks under its own message id, so that asking again is the same request. */
export async function openRequestors({ transport, names, history, patienceMs = 90_000 }: RequestorsOptions): Promise<Requestors> {
  const queue = `${names.namespace}.requestors`;
  const waiting = new Map<string, { readonly operation: Operation; readonly done: (kind: string) => void }>();
  await transport.declare({
    exchanges: [],
    queues: [{ name: queue, type: 'quorum', about: 'Answers for the fault test' }],
    bindings: [],
  });
  const consumer = await transport.consume(
    queue,
    { prefetch: 100, tag: 'requestors' },
    async ({ correlationId = '', headers, type, body }) => {
      const id = String(headers['hub-request-id']);
      const { kind, body: told } = type === 'fault' ? faultIn(body) : { kind: 'reply', body };
      const first = waiting.get(correlationId);
      // It may come more than once, and then says the same.
      const operation = first?.operation ?? history.ask(correlationId, { key: `amqp ${correlationId}` });
      operation.accepted(id);
      operation.outcome(id, kind, told);
      waiting.delete(correlationId);
      first?.done(kind);
    },
  );

  return {
    async ask(flow, token) {
      const giveUpAt = Date.now() + patienceMs;
      const message: Message = {
        body: Buffer.from(JSON.stringify({ token })),
        contentType: 'application/json',
        messageId: token,
        correlationId: token,
        replyTo: queue,
      };
      const operation = history.ask(token, { key: `amqp ${token}` });
      const told = new Promise<string>((done) => waiting.set(token, { operation, done }));
      for (;;) {
        try {
          await transport.publish({ exchange: names.requests, routingKey: flow }, message);
          break;
        } catch (error) {
          if (!(error instanceof PublishError)) throw error;
          if (Date.now() > giveUpAt) return 'gave up';
          await sleep(100);
        }
      }
      const patience = new AbortController();
      const kind = await Promise.race([told, sleep(patienceMs, 'gave up', { signal: patience.signal }).catch(() => 'gave up')]);
      patience.abort();
      return kind;
    },
    close: async () => {
      await consumer.close();
      await removed(transport, queue);
    },
  };
}

function faultIn(body: Buffer): { readonly kind: string; readonly body: Buffer } {
  const { code, message } = JSON.parse(body.toString()) as { code: string; message: string };
  return outcomeOfFault(code, message);
}

/** A broker whose nodes were killed may take its time to delete. */
export const removed = (transport: Transport, queue: string): Promise<void> =>
  eventually(() => transport.removeQueue(queue), { withinMs: 20_000 });
