/** Hands an outcome on to where its requestor wants it, once the journal has it: a queue of the requestor's own, or the step that calls back. */
import { callbackEnvelope, callbackStep } from './callback.js';
import { failpoint } from './failpoint.js';
import { partsHeader } from './parts.js';
import type { SettlerOptions } from './settle.js';
import { stateOf, type Outcome, type RequestRecord } from './store.js';
import { workAddress } from './topology.js';
import { PublishError } from './transport.js';
import { version } from './version.js';
import { encode } from './wire.js';

type Needs = Pick<SettlerOptions, 'transport' | 'store' | 'journal' | 'names' | 'leftOut' | 'emit'>;

/** May be done again: then the same message goes there again. */
export function openForward({ transport, store, journal, names, leftOut, emit }: Needs) {
  return async function forward(record: RequestRecord, outcome: Outcome): Promise<void> {
    if (record.forward === undefined || record.forwarded === true) return;
    failpoint('settle.before-forward');
    const { callback } = record.forward;
    const how = callback === undefined ? await toQueue(record, outcome) : await toStep(record, outcome);
    failpoint('settle.after-forward');
    // So that a rebuild does not send it again.
    if (!leftOut.has(record.flow)) await journal.note(how, record.id, {}, callback === undefined ? {} : { 'hub-callback': callback });
    await store.forwarded(record.id);
  };

  /** To the step that calls back, which keeps it until it is delivered. */
  async function toStep(record: RequestRecord, outcome: Outcome): Promise<'forwarded'> {
    const envelope = callbackEnvelope(record, outcome);
    await transport.publish(workAddress(names, callbackStep, envelope), encode(envelope));
    return 'forwarded';
  }

  /** To the foreign requestor's own queue, under its own correlation id. */
  async function toQueue({ id, forward: address }: RequestRecord, outcome: Outcome): Promise<'forwarded' | 'undeliverable'> {
    const { queue = '', correlationId = id } = address ?? {};
    const direct = queue.startsWith('amq.rabbitmq.reply-to');
    const message = {
      body: outcome.body,
      contentType: outcome.contentType,
      messageId: id,
      correlationId,
      type: outcome.kind === 'reply' ? 'reply' : 'fault',
      appId: `answerback/${version}`,
      timestamp: Math.floor(outcome.at / 1_000),
      headers: {
        'hub-request-id': id,
        'hub-state': stateOf[outcome.kind],
        ...(outcome.parts === undefined ? {} : partsHeader(outcome.parts)),
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
}
