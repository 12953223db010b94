/** What a client says in the other headers, read strictly: what is wrong is refused before anything happens. */
import type { IncomingHttpHeaders } from 'node:http';
import { parseItem } from 'structured-headers';
import type { OneWay } from '../../broker/gateway.js';
import { Fault } from '../../broker/fault.js';

type Said = Pick<OneWay, 'contentType' | 'contentEncoding' | 'idempotencyKey' | 'key' | 'deadlineMs' | 'traceparent' | 'tracestate'>;

/**
 * `curl -d` calls whatever it sends a form. A body that is JSON and comes under that name is JSON: else a schema would pass it
 * unseen, and the worker get bytes where it wants an object.
 */
export function unformed(contentType: string, body: Buffer): string {
  if (!/^application\/x-www-form-urlencoded\b/i.test(contentType) || !/^\s*[{[]/.test(body.toString('latin1', 0, 64))) return contentType;
  try {
    JSON.parse(body.toString('utf8'));
    return 'application/json';
  } catch {
    return contentType; // a form after all
  }
}

/** Everything that a request or a one-way message may carry in headers. Throws a Fault `invalid`. */
export function readHeaders(headers: IncomingHttpHeaders): Said {
  const traceparent = one(headers['traceparent']);
  const tracestate = one(headers['tracestate']);
  const traced =
    traceparent !== undefined && /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}/.test(traceparent) && traceparent.length <= 255;
  return {
    contentType: contentType(headers['content-type']),
    ...present('contentEncoding', contentEncoding(headers['content-encoding'])),
    ...present('idempotencyKey', idempotencyKey(one(headers['idempotency-key']))),
    ...present('key', businessKey(one(headers['hub-key']), 'Hub-Key')),
    ...present('deadlineMs', deadline(one(headers['hub-deadline']))),
    // A broken traceparent is ignored, and its tracestate with it (W3C Trace Context §4.3).
    ...(traced ? present('traceparent', traceparent) : {}),
    ...(traced && tracestate !== undefined && /^[\x20-\x7e]{1,512}$/.test(tracestate) ? present('tracestate', tracestate) : {}),
  };
}

/** The media type of the body. AMQP has 255 bytes for it. */
export function contentType(text: string | undefined): string {
  if (text === undefined) return 'application/octet-stream';
  if (!/^[\x20-\x7e]{1,255}$/.test(text)) throw new Fault('invalid', 'Content-Type must be at most 255 printable ASCII characters');
  return text;
}

function contentEncoding(text: string | undefined): string | undefined {
  if (text === undefined || text.toLowerCase() === 'identity') return undefined;
  if (!/^[\w!#$%&'*+.^`|~-]+(?:[ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*$/.test(text) || text.length > 255) {
    throw new Fault('invalid', 'Content-Encoding must be a list of codings, like `gzip`');
  }
  return text;
}

/** A structured-field String (RFC 9651), as the IETF draft has it, or a bare token, as most clients send it. */
function idempotencyKey(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const key = text.startsWith('"') ? quoted(text) : text;
  if (key === undefined || !(text.startsWith('"') ? /^[\x20-\x7e]{1,255}$/ : /^[\w!#$%&'*+.^`|~:/=-]{1,255}$/).test(key)) {
    throw new Fault('invalid', 'Idempotency-Key must be a quoted string or a bare token of 1 to 255 characters');
  }
  return key;
}

function quoted(text: string): string | undefined {
  try {
    const item: unknown = parseItem(text);
    const value: unknown = Array.isArray(item) ? item[0] : undefined;
    return typeof value === 'string' ? value : undefined;
  } catch {
    // Not a structured field: the caller says what is expected.
    return undefined;
  }
}

function businessKey(text: string | undefined, header: string): string | undefined {
  if (text !== undefined && !/^[\x20-\x7e]{1,255}$/.test(text))
    throw new Fault('invalid', `${header} must be 1 to 255 printable ASCII characters`);
  return text;
}

/** `Hub-Supersedes`: a business key. */
export const supersedes = (headers: IncomingHttpHeaders): string | undefined =>
  businessKey(one(headers['hub-supersedes']), 'Hub-Supersedes');

/** `Hub-Priority: urgent`; or `normal`, which need not be said. */
export function isUrgent(headers: IncomingHttpHeaders): boolean {
  const text = one(headers['hub-priority'])?.toLowerCase() ?? 'normal';
  if (text !== 'urgent' && text !== 'normal') throw new Fault('invalid', 'Hub-Priority must be urgent or normal');
  return text === 'urgent';
}

/** `Hub-Callback`: a registered name or an address. */
export function callback(headers: IncomingHttpHeaders): string | undefined {
  const text = one(headers['hub-callback']);
  if (text !== undefined && !/^[\x21-\x7e]{1,2000}$/.test(text))
    throw new Fault('invalid', 'Hub-Callback must be the name of a callback or an https address');
  return text;
}

/** `Hub-Parts`: how many parts a request has. */
export function partCount(headers: IncomingHttpHeaders): number {
  const text = one(headers['hub-parts']) ?? '';
  if (!/^[1-9]\d{0,8}$/.test(text))
    throw new Fault('invalid', 'say how many parts the request has, as in `Hub-Parts: 3`', { reason: 'parts' });
  return Number(text);
}

function deadline(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = /^\d{1,9}(?:\.\d{1,6})?$/.test(text) ? Math.round(Number(text) * 1_000) : 0;
  if (ms < 1) throw new Fault('invalid', 'Hub-Deadline must be a positive number of seconds');
  return ms;
}

/** True when `If-None-Match` names this entity tag (weak comparison, RFC 9110 §13.1.2). */
export function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  return (ifNoneMatch ?? '').split(',').some((tag) => tag.trim() === '*' || tag.trim().replace(/^W\//, '') === etag);
}

/** The key of `Authorization: Bearer …` or `X-API-Key`; never from the URL, which ends up in logs. */
export function apiKey(headers: IncomingHttpHeaders): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1] ?? one(headers['x-api-key']);
}

/** A value from a worker or a topic as a header of ours: anything that could not be one (a line break) becomes `otherwise`. */
export function headerValue(text: string | undefined, otherwise: string): string {
  return text !== undefined && /^[\x20-\x7e]+$/.test(text) ? text : otherwise;
}

function one(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' ? header : header?.join(', ');
}

function present<Name extends string, Value>(name: Name, value: Value | undefined): { readonly [N in Name]?: Value } {
  return (value === undefined ? {} : { [name]: value }) as { readonly [N in Name]?: Value };
}
