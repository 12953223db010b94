/**
 * A reply in parts: one JSON object per line (NDJSON), each part as soon as it is there. Lines are `{"sequence": n, "part": …}`, and the last
 * one has `end`. A stream without that one was cut: it goes on with `GET /requests/{id}/reply` after the last part that was read.
 */
import { once } from 'node:events';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Principal } from '../../broker/access.js';
import { pause, systemClock } from '../../broker/clock.js';
import { isFault } from '../../broker/fault.js';
import type { Answer, Gateway } from '../../broker/gateway.js';
import { listOf, partsAfter, type Sequel } from '../../broker/parts.js';
import { stateOf, type Outcome, type RequestEvent } from '../../broker/store.js';
import { headerValue } from './headers.js';
import { faultProblem, outcomeProblem } from './problem.js';
import { statusDocument } from './status.js';

const lineTypes = ['application/x-ndjson', 'application/ndjson', 'application/jsonl'] as const;

/** Whoever takes nothing for so long is cut. */
const slowReaderMs = 30_000;
/** How soon is looked again for what happened to a request, while the store is away. */
const lookAgainMs = 1_000;

/** The type of lines that this client names in `Accept`; undefined when it wants the reply in one. */
export function lineType({ method, headers: { accept = '' } }: FastifyRequest): string | undefined {
  if (method === 'HEAD') return undefined;
  const named = accept.split(',').filter((range) => !/;\s*q=0(?:\.0*)?\s*(?:;|$)/i.test(range));
  const types = named.map((range) => range.replace(/;.*/s, '').trim().toLowerCase());
  return lineTypes.find((type) => types.includes(type));
}

/** The number of the last part that this client has. */
export function lastPart({ headers, query }: FastifyRequest): number {
  const said = (query as Readonly<Record<string, unknown>>)['after'] ?? headers['last-event-id'];
  return typeof said === 'string' && /^\d{1,15}$/.test(said) ? Number(said) : 0;
}

interface Streaming {
  readonly gateway: Gateway;
  readonly principal: Principal;
  readonly id: string;
  /** The type of the lines. */
  readonly type: string;
  readonly holdMs: number;
  readonly after: number;
  readonly pingMs: number;
  readonly gone: AbortSignal;
}

/**
 * Streams a reply until the outcome, or the end of the hold. Resolves with the answer when no line was sent: it is then said as
 * always; undefined: there is no such request. `streamed`: everything is said.
 */
export async function streamReply(reply: FastifyReply, streaming: Streaming): Promise<Answer | 'streamed' | undefined> {
  const { gateway, principal, id, holdMs, gone } = streaming;
  const lines = lineStream(reply, streaming);
  const parts = partsAfter(streaming.after);
  const over = new AbortController();
  const following = follow(streaming, AbortSignal.any([over.signal, lines.signal]), async (event) => {
    const part = parts.next(event);
    if (part !== undefined) await lines.send(part);
  });
  try {
    const answer = await gateway.collect(id, principal, holdMs, gone);
    // Of a fault nothing but the events tells which parts came before it.
    if (answer?.kind !== 'outcome' || listOf(answer.outcome) !== undefined) over.abort();
    await Promise.race([following, pause(systemClock, 2 * lookAgainMs, over.signal)]);
    over.abort();
    await following;
    if (answer === undefined) return undefined;
    const isPlain = answer.kind === 'accepted' || answer.outcome.kind !== 'reply';
    if (!lines.begun && isPlain) return answer;
    if (answer.kind === 'outcome') for (const part of parts.rest(answer.outcome)) await lines.send(part);
    await lines.send(endOf(answer, parts));
    return 'streamed';
  } catch (error) {
    over.abort();
    await following;
    if (!lines.begun) throw error;
    const problem = isFault(error) ? { problem: faultProblem(error, id) } : {};
    await lines.send({ end: 'later', ...onwards(id, parts), ...problem });
    return 'streamed';
  } finally {
    lines.end();
  }
}

/** Everything that happens to a request until its outcome (or the last version of its reply), or until `signal` aborts, also over outages of the store. */
export async function follow(
  { gateway, principal, id }: Pick<Streaming, 'gateway' | 'principal' | 'id'>,
  signal: AbortSignal,
  listener: (event: RequestEvent) => Promise<void>,
  toTheLast?: 'toTheLast',
): Promise<void> {
  while (!signal.aborted) {
    try {
      await gateway.events(id, principal, 0, listener, signal, toTheLast);
      return;
    } catch {
      await pause(systemClock, lookAgainMs, signal); // the store is away
    }
  }
}

const onwards = (id: string, { seen }: Sequel) => ({ after: seen, next: `/requests/${id}/reply?after=${seen}` });

/** The last line. */
function endOf(answer: Answer, parts: Sequel): object | string {
  if (answer.kind === 'accepted') return { end: 'later', ...onwards(answer.id, parts), status: statusDocument(answer.status) };
  const { outcome, id } = answer;
  const end = stateOf[outcome.kind];
  if (outcome.kind !== 'reply') return { end, problem: outcomeProblem(outcome, id) };
  if (listOf(outcome) !== undefined) return { end, parts: outcome.parts };
  const text = jsonText(outcome);
  const { version } = answer;
  const which = version === undefined ? {} : { version };
  return text === undefined ? { end, ...which, ...bytesOf(outcome) } : `${JSON.stringify({ end, ...which }).slice(0, -1)},"reply":${text}}`;
}

/** A JSON body as it is, on one line; undefined when it is something else. Read and written again, long numbers would change. */
export function jsonText({ body, contentType, contentEncoding }: Outcome): string | undefined {
  if (contentEncoding !== undefined || !/^application\/(?:[\w.+-]+\+)?json\b/i.test(contentType)) return undefined;
  const text = body.toString('utf8');
  try {
    JSON.parse(text);
  } catch {
    return undefined;
  }
  // Outside of strings, where JSON has no line breaks.
  return text.replace(/[\r\n]+/g, ' ');
}

/** Any body within JSON. */
export const bytesOf = ({ body, contentType, contentEncoding }: Outcome) => ({
  contentType,
  ...(contentEncoding === undefined ? {} : { contentEncoding }),
  base64: body.toString('base64'),
});

interface LineStream {
  /** Aborts when nobody reads any more, or when the stream has ended. */
  readonly signal: AbortSignal;
  /** True once the headers are sent. */
  readonly begun: boolean;
  /** Sends a line: an object, or its JSON. Resolves when the client has taken enough of what was sent before. */
  send(line: object | string): Promise<void>;
  end(): void;
}

function lineStream(reply: FastifyReply, { type, id, pingMs, gone }: Pick<Streaming, 'type' | 'id' | 'pingMs' | 'gone'>): LineStream {
  const { raw } = reply;
  const over = new AbortController();
  const signal = AbortSignal.any([over.signal, gone]);
  let begun = false;

  const begin = () => {
    if (begun || signal.aborted) return;
    begun = true;
    reply.hijack();
    for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) raw.setHeader(name, value);
    raw.writeHead(200, {
      'content-type': headerValue(type, lineTypes[0]),
      'hub-request-id': id,
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
      'x-content-type-options': 'nosniff',
    });
    raw.flushHeaders();
  };
  // Before a JSON text white space means nothing: whoever reads lines does not see it.
  const ping = setInterval(() => (begin(), !signal.aborted && !raw.writableNeedDrain && raw.write(' ')), pingMs);

  return {
    signal,
    get begun() {
      return begun;
    },
    async send(line) {
      begin();
      if (signal.aborted || raw.write(`${typeof line === 'string' ? line : JSON.stringify(line)}\n`)) return;
      const tooSlow = AbortSignal.timeout(slowReaderMs);
      await once(raw, 'drain', { signal: AbortSignal.any([signal, tooSlow]) }).catch(() => undefined);
      if (tooSlow.aborted && !signal.aborted) raw.destroy();
    },
    end() {
      clearInterval(ping);
      over.abort();
      if (begun) raw.end();
    },
  };
}
