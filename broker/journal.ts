/**
 * The journal (EIP: Message Store, Wire Tap): the stream `hub.journal`. Most of it writes itself, since the stream is bound
 * to the durable exchanges beside the work queues; what no message tells (outcomes that a hub decides, what came too
 * late) is noted here.
 */
import { timeOfId } from './envelope.js';
import type { Names } from './topology.js';
import type { Outcome } from './store.js';
import type { Delivery, Headers, Message, Transport } from './transport.js';

/**
 * - `recorded`: the request has a record from here on.  - `outcome`: a hub decided it.  - `done`: a one-way message got to the end of its slip.
 * - `late`: it came when there was an outcome.  - `undeliverable`: the requestor's queue is gone.
 */
export type Note = 'recorded' | 'outcome' | 'done' | 'late' | 'undeliverable';

export interface Journal {
  /** Resolves when the journal has it. */
  note(note: Note, requestId: string, message?: Partial<Message>, headers?: Headers): Promise<void>;
  outcome(requestId: string, outcome: Outcome): Promise<void>;
  /** Everything about a request, in order of the journal. Reads from the time in its id to now. */
  read(requestId: string): Promise<readonly Delivery[]>;
}

export function openJournal(transport: Transport, names: Names, now: () => number): Journal {
  const address = { exchange: '', routingKey: names.journal };
  const note: Journal['note'] = (kind, requestId, message = {}, headers = {}) =>
    transport.publish(address, {
      body: Buffer.alloc(0),
      type: 'event',
      timestamp: Math.floor(now() / 1_000),
      ...message,
      correlationId: requestId,
      headers: { ...headers, 'hub-note': kind, 'hub-note-at': now() },
    });
  return {
    note,
    outcome: (requestId, { kind, body, contentType, contentEncoding }) =>
      note(
        'outcome',
        requestId,
        { type: kind === 'reply' ? 'reply' : 'fault', body, contentType, ...(contentEncoding === undefined ? {} : { contentEncoding }) },
        { 'hub-outcome': kind },
      ),

    async read(requestId) {
      // The end of a stream cannot be asked for: a mark is written, and everything before it is what there was.
      const mark = `mark-${requestId}-${now()}-${Math.random()}`;
      const found: Delivery[] = [];
      let finish: () => void = () => undefined;
      const finished = new Promise<void>((resolve) => (finish = resolve));
      const began = timeOfId(requestId);
      const consumer = await transport.consume(
        names.journal,
        // The broker's offset by time is that of a chunk, and its clock may differ: begin a little before.
        { prefetch: 500, tag: 'trace', from: began === undefined ? 'first' : began - 5_000 },
        async (delivery) => {
          if (delivery.messageId === mark) finish();
          else if (delivery.correlationId === requestId || delivery.headers['hub-request-id'] === requestId) found.push(delivery);
        },
      );
      try {
        await transport.publish(address, { body: Buffer.alloc(0), type: 'event', messageId: mark, headers: { 'hub-note': 'mark' } });
        await finished;
      } finally {
        await consumer.close();
      }
      return found;
    },
  };
}
