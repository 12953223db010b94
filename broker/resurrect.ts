/**
 * A step's queue was deleted, by whoever, with work in it. The journal has every message that went there: those from which nothing
 * has followed yet are sent to the queue again, under their own ids, so that what was done meanwhile only happens twice.
 */
import { amendableIn, countedIn } from './amendable.js';
import { pause, type Clock } from './clock.js';
import type { Emit } from './emit.js';
import { deriveId } from './envelope.js';
import { messageOf } from './fault.js';
import type { Flow } from './flow.js';
import type { Journal } from './journal.js';
import type { Store } from './store.js';
import { isKeyOf, type Names } from './topology.js';
import type { Delivery, Message, Transport } from './transport.js';
import { decode, isUndecodable } from './wire.js';

const againMs = 5_000;
/** Several processes notice that a queue was deleted: one of them mends it. */
const leaseMs = 60_000;

export interface ResurrectOptions {
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly clock: Clock;
  readonly names: Names;
  readonly emit: Emit;
  readonly flows: readonly Flow[];
  /** `<host>/<pid>` */
  readonly place: string;
}

/** Brings back what was in the queue of a step. Goes on until it is done or `stopping` aborts; never rejects. */
export function openResurrect(options: ResurrectOptions, stopping: AbortSignal): (step: string) => Promise<void> {
  const { transport, store, journal, clock, names, emit, flows, place } = options;
  /** Nothing that is pending was accepted before. */
  const windowMs = Math.max(0, ...flows.map(({ maxDeadlineMs }) => maxDeadlineMs));

  async function resurrect(step: string): Promise<void> {
    if (!(await store.lease(`resurrect.${step}`, place, leaseMs))) return;
    const pending = pendingAt(step, names, clock);
    await journal.replay(clock.now() - windowMs, pending.entry, stopping);
    const lost = pending.left();
    for (const message of lost) await transport.publish({ exchange: '', routingKey: names.workQueue(step) }, message);
    emit('queue.resurrected', { step, messages: lost.length });
  }

  return async (step) => {
    emit('queue.deleted.failed', { step, queue: names.workQueue(step) });
    while (!stopping.aborted) {
      try {
        return await resurrect(step);
      } catch (error) {
        if (stopping.aborted) return;
        emit('queue.resurrect.failed', { step, error: messageOf(error) });
        await pause(clock, againMs, stopping);
      }
    }
  };
}

/** Reads the journal for messages that wait at a step. */
function pendingAt(step: string, names: Names, clock: Clock): { entry(delivery: Delivery): void; left(): readonly Message[] } {
  const waiting = new Map<string, Message>();
  /** What may follow from a message, and groups that it is a part of: whose turn has come is not waiting any more. */
  const ends = new Map<string, Set<string>>();
  const end = (what: string) => {
    for (const id of ends.get(what) ?? []) waiting.delete(id);
    ends.delete(what);
  };
  const endsWith = (what: string, id: string) => ends.set(what, (ends.get(what) ?? new Set()).add(id));

  return {
    entry(delivery) {
      const { messageId, correlationId, exchange, routingKey, headers } = delivery;
      if (messageId !== undefined) end(messageId);
      // Parts that do not count in a result that may be amended are still wanted.
      if (typeof headers['hub-group'] === 'string' && countedIn(headers) === undefined) end(headers['hub-group']);
      const isOver = exchange === names.replies || headers['hub-note'] === 'outcome';
      if (correlationId !== undefined && isOver && !((amendableIn(headers)?.missing ?? 0) > 0)) end(correlationId);
      // What came to the step is kept elsewhere by now.
      if (headers['hub-note'] === 'dossier') waiting.delete(String(headers['hub-dossier']).replace(/^[^/]*\//, ''));
      if (exchange !== names.work || !isKeyOf(step, routingKey)) return;
      const envelope = decode(delivery);
      if (isUndecodable(envelope) || envelope.deadline <= clock.now()) return;
      const {
        id,
        requestId,
        groups: [group],
      } = envelope;
      const { exchange: _exchange, routingKey: _key, redelivered: _again, deliveries: _count, offset: _offset, ...message } = delivery;
      const { 'x-stream-offset': _position, ...own } = headers;
      waiting.set(id, { ...message, headers: own });
      for (const index of [0, 'fault', 'ring-all']) endsWith(deriveId(id, step, index), id);
      endsWith(requestId, id);
      if (group?.at === step) endsWith(group.id, id);
    },
    left: () => [...waiting.values()],
  };
}
