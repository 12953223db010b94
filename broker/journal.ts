/**
 * The journal (EIP: Message Store, Wire Tap): the stream `hub.journal`. Most of it writes itself, since the stream is bound
 * to the durable exchanges beside the work queues; what no message tells (outcomes that a hub decides, what came too
 * late) is noted here.
 */
import { amendableHeaders, correctsHeaders, versionHeader } from './amendable.js';
import { timeOfId } from './envelope.js';
import type { Names } from './topology.js';
import { partsHeader } from './parts.js';
import type { Amendment, NewRecord, Outcome, OutcomeKind } from './store.js';
import type { Delivery, Headers, Message, Transport } from './transport.js';
import { recordHeader } from './wire.js';

/**
 * - `recorded`: the request has a record from here on.  - `carried`: it has been pending for long; its record, once more.
 * - `outcome`: a hub decided it.  - `done`: a one-way message got to the end of its slip.
 * - `forwarded`: the outcome is in the requestor's own queue.  - `undeliverable`: that queue is gone.
 * - `late`: it came when there was another outcome.  - `duplicate`: this very outcome came once more.
 * - `refused`: the broker refused the try that was accepted at `hub-tried-at` (ms): it never was.
 * - `amended`: a reply has a further version.
 * - `part`: an aggregator took a part that had waited for long.  - `dossier`: work that outlives its delivery, as it is now.
 */
export type Note =
  | 'recorded'
  | 'carried'
  | 'outcome'
  | 'amended'
  | 'done'
  | 'forwarded'
  | 'undeliverable'
  | 'late'
  | 'duplicate'
  | 'refused'
  | 'part'
  | 'dossier';

/** Of `refused`: the same request may be tried again, under the same id, and have been accepted before this is in the journal. */
export const triedHeader = 'hub-tried-at';

/** Which try a note `refused` is about: that one, and all before it. */
export const triedIn = ({ headers }: Delivery): number => (typeof headers[triedHeader] === 'number' ? headers[triedHeader] : Infinity);

export interface Journal {
  /** Resolves when the journal has it. */
  note(note: Note, requestId: string, message?: Partial<Message>, headers?: Headers): Promise<void>;
  /**
   * With the record, if there is one: it may be far back, or come later. `insteadOf`: an outcome of that kind was told before, and does not
   * count; this one does.
   */
  outcome(requestId: string, outcome: Outcome, record?: NewRecord, insteadOf?: OutcomeKind): Promise<void>;
  /** A corrected result of the group, and which version it is. */
  amended(requestId: string, group: string, amendment: Amendment): Promise<void>;
  /** Everything about a request, in order of the journal. Reads from the time in its id to now. */
  read(requestId: string): Promise<readonly Delivery[]>;
  /**
   * Hands everything from `from` (ms since 1970, or the first entry) to now to `entry`, in order, some hundred at once; what that
   * returns is awaited. Rejects at once with what `entry` rejects with, and when `signal` aborts.
   */
  replay(from: number | 'first', entry: (delivery: Delivery) => Promise<void> | void, signal?: AbortSignal): Promise<void>;
}

/**
 * How far the journal may be ahead of the state, ms. Who takes something from a queue that has waited longer tells the journal
 * again, since a rebuild that begins where the state was last known to be good may begin after it.
 */
export const freshMs = 10_000;

/** How many entries are read ahead. */
const readAhead = 2_000;

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
    outcome: (requestId, { kind, body, contentType, contentEncoding, parts, amendable }, record, insteadOf) =>
      note(
        'outcome',
        requestId,
        { type: kind === 'reply' ? 'reply' : 'fault', body, contentType, ...(contentEncoding === undefined ? {} : { contentEncoding }) },
        {
          'hub-outcome': kind,
          ...(insteadOf === undefined ? {} : { 'hub-instead-of': insteadOf }),
          ...(parts === undefined ? {} : partsHeader(parts)),
          ...(amendable === undefined ? {} : amendableHeaders(amendable)),
          ...(record === undefined ? {} : recordHeader(record)),
        },
      ),
    amended: (requestId, group, { version, rank, by, outcome: { body, contentType, contentEncoding, amendable } }) =>
      note(
        'amended',
        requestId,
        { type: 'reply', body, contentType, ...(contentEncoding === undefined ? {} : { contentEncoding }) },
        {
          ...versionHeader(version),
          ...correctsHeaders({ group, rank, by }),
          ...(amendable === undefined ? {} : amendableHeaders(amendable)),
        },
      ),

    async read(requestId) {
      const found: Delivery[] = [];
      const began = timeOfId(requestId);
      // The broker's offset by time is that of a chunk, and its clock may differ: begin a little before.
      await replay(began === undefined ? 'first' : began - 5_000, (delivery) => {
        const { 'hub-request-id': carried, 'hub-callback-of': calledBack } = delivery.headers;
        if ([delivery.correlationId, carried, calledBack].includes(requestId)) found.push(delivery);
      });
      return found;
    },
    replay,
  };

  async function replay(from: number | 'first', entry: (delivery: Delivery) => Promise<void> | void, signal?: AbortSignal): Promise<void> {
    // The end of a stream cannot be asked for: a mark is written, and everything before it is what there was.
    const mark = `mark-${now()}-${Math.random()}`;
    let finish: () => void = () => undefined;
    let fail: (error: unknown) => void = () => undefined;
    let isOver = false;
    const finished = new Promise<void>((resolve, reject) => ([finish, fail] = [resolve, reject]));
    finished
      .catch(() => undefined)
      .finally(() => (isOver = true))
      .catch(() => undefined);
    const abort = () => fail(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    const consumer = await transport.consume(names.journal, { prefetch: readAhead, tag: 'journal', from }, async (delivery) => {
      if (delivery.messageId === mark) finish();
      else if (!isOver) await Promise.resolve(entry(delivery)).catch(fail);
    });
    try {
      if (signal?.aborted === true) abort();
      await transport.publish(address, { body: Buffer.alloc(0), type: 'event', messageId: mark, headers: { 'hub-note': 'mark' } });
      await finished;
    } finally {
      signal?.removeEventListener('abort', abort);
      await consumer.close();
    }
  }
}
