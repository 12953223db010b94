/** Hands an outcome on to where its requestor wants it, once the journal has it: a queue of the requestor's own, or the step that calls back. */
import { versionHeader } from './amendable.js';
import { callbackEnvelope, callbackStep } from './callback.js';
import { deriveId } from './envelope.js';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import type { Journal } from './journal.js';
import { partsHeader } from './parts.js';
import { stateOf, type Amendment, type Outcome, type RequestRecord, type Store } from './store.js';
import { workAddress, type Names } from './topology.js';
import { PublishError, type Transport } from './transport.js';
import { version } from './version.js';
import { encode } from './wire.js';

interface Needs {
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly names: Names;
  /** Names of the flows that leave the journal out. */
  readonly leftOut: ReadonlySet<string>;
  readonly emit: Emit;
}

/** Both may be done again: then the same message goes there again. */
export interface Forward {
  outcome(record: RequestRecord, outcome: Outcome): Promise<void>;
  /** A further version of the reply: to who is called back, and to a queue whose owner asked for it. */
  amendment(record: RequestRecord, amendment: Amendment): Promise<void>;
}

export function openForward({ transport, store, journal, names, leftOut, emit }: Needs): Forward {
  /** One after the other for each request: where two copies of a reply come at once, the second finds that it is forwarded. */
  const forwarding = new Map<string, Promise<void>>();

  async function forwardOutcome(record: RequestRecord, outcome: Outcome): Promise<void> {
    const { id } = record;
    if (record.forward === undefined || record.forwarded === true) return;
    // Whether it failed is the business of who began it.
    for (let other = forwarding.get(id); other !== undefined; other = forwarding.get(id)) await other.catch(() => undefined);
    const forwarded = (async () => {
      // Since the record was read.
      if ((await store.get(id))?.forwarded !== true) await handOn(record, outcome);
    })().finally(() => forwarding.delete(id));
    forwarding.set(id, forwarded);
    return forwarded;
  }

  async function handOn(record: RequestRecord, outcome: Outcome): Promise<void> {
    failpoint('settle.before-forward');
    const { callback } = record.forward ?? {};
    const how = callback === undefined ? await toQueue(record, outcome) : await toStep(record, outcome);
    failpoint('settle.after-forward');
    // So that a rebuild does not send it again.
    if (!leftOut.has(record.flow)) await journal.note(how, record.id, {}, callback === undefined ? {} : { 'hub-callback': callback });
    await store.forwarded(record.id);
  }

  async function forwardAmendment(record: RequestRecord, { version, outcome }: Amendment): Promise<void> {
    const { callback, amended } = record.forward ?? {};
    if (callback !== undefined) await toStep(record, outcome, version);
    else if (amended === true) await toQueue(record, outcome, version);
  }

  /** To the step that calls back, which keeps it until it is delivered. */
  async function toStep(record: RequestRecord, outcome: Outcome, which?: number): Promise<'forwarded'> {
    const envelope = callbackEnvelope(record, outcome, which);
    await transport.publish(workAddress(names, callbackStep, envelope), encode(envelope));
    return 'forwarded';
  }

  /** To the foreign requestor's own queue, under its own correlation id. */
  async function toQueue({ id, forward: address }: RequestRecord, outcome: Outcome, which = 1): Promise<'forwarded' | 'undeliverable'> {
    const { queue = '', correlationId = id } = address ?? {};
    const direct = queue.startsWith('amq.rabbitmq.reply-to');
    const message = {
      body: outcome.body,
      contentType: outcome.contentType,
      messageId: which === 1 ? id : deriveId(id, 'amended', which),
      correlationId,
      type: which > 1 ? 'amended' : outcome.kind === 'reply' ? 'reply' : 'fault',
      appId: `answerback/${version}`,
      timestamp: Math.floor(outcome.at / 1_000),
      headers: {
        'hub-request-id': id,
        'hub-state': stateOf[outcome.kind],
        ...(outcome.parts === undefined ? {} : partsHeader(outcome.parts)),
        ...(outcome.amendable === undefined ? {} : versionHeader(which)),
      },
      ...(outcome.contentEncoding === undefined ? {} : { contentEncoding: outcome.contentEncoding }),
    };
    try {
      // A mandatory message to direct reply-to is returned even when it arrives (RabbitMQ 3.10, 4.0).
      await transport.publish({ exchange: '', routingKey: queue }, message, { mandatory: !direct });
      return 'forwarded';
    } catch (error) {
      if (!(error instanceof PublishError) || error.failure !== 'unroutable') throw error;
      emit('request.undeliverable', { requestId: id, queue });
      return 'undeliverable';
    }
  }

  return { outcome: forwardOutcome, amendment: forwardAmendment };
}
