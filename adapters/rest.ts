/**
 * Calls of a REST service by a step. What the answer means:
 *
 * | Answer | The step |
 * |---|---|
 * | 2xx | replies with the body and its content type |
 * | 403 | Fault `forbidden`: asked, understood, not allowed |
 * | other 4xx | Fault `rejected`, with what the service says (`detail`, `title` or `message` of a JSON body) |
 * | 408, 425, 429, 503 with `Retry-After` | waits as long, if there is time, and asks again |
 * | 401, 407, 3xx, 5xx, no answer | an error: tried again by the step's own pauses; then a person must look (a wrong token is ours to mend, not the requestor's) |
 *
 * Every attempt of a step carries the same `Idempotency-Key`. A service that does not know that header gets `retry: false`:
 * then nothing that may have arrived is sent again, unless its method is idempotent anyway.
 */
import { Pool, type Dispatcher } from 'undici';
import { adapter, type OutgoingCall } from '../broker/adapter.js';
import { pause, systemClock } from '../broker/clock.js';
import { Fault } from '../broker/fault.js';
import { raw, type Raw } from '../broker/step.js';

export interface RestCallSettings {
  readonly url: string;
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly headers: Readonly<Record<string, string>>;
  readonly bearerEnv: string;
  readonly timeout: number;
  readonly retry: boolean;
  readonly maxSize: number;
  readonly connections: number;
}

export const rest = adapter<RestCallSettings>({
  name: 'rest',
  summary: 'A step that calls a REST service.',
  says: {
    reply: '2xx: the body with its content type',
    accepted: 'not at all: a call ends with its time-out, and is tried again',
    fault: '403 is `forbidden`, any other 4xx `rejected`; the rest is tried again',
    oneWay: 'not at all: whatever a step returns goes on',
  },
  settings: {},
  callSettings: {
    url: {
      doc: 'Where to call. `{field}` and `{field.inside}` are filled from the JSON body, in path and query.',
      format: 'String',
      default: '',
    },
    method: {
      doc: 'HTTP method. GET, HEAD and DELETE send no body.',
      format: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      default: 'POST',
    },
    headers: { doc: 'Further headers.', format: 'Object', default: {} },
    bearerEnv: { doc: 'Name of the environment variable that holds a bearer token.', format: 'String', default: '' },
    timeout: { doc: "How long one attempt may take, at most what is left of the request's life.", format: 'duration', default: 30_000 },
    retry: {
      doc: 'False: the service does not honour Idempotency-Key, so what may have arrived is not sent again.',
      format: 'bool',
      default: true,
    },
    maxSize: { doc: 'Largest answer.', format: 'size', default: 1_048_576 },
    connections: { doc: 'Connections to the service at once.', format: 'nat', default: 50 },
  },

  async call(settings: RestCallSettings) {
    const { origin } = checkedUrl(settings.url);
    const fixed = fixedHeaders(settings);
    const pool = new Pool(origin, { connections: settings.connections, pipelining: 1, connect: { timeout: 10_000 } });
    return { call: (outgoing: OutgoingCall) => callRest(pool, settings, fixed, outgoing), close: () => pool.destroy() };
  },
});

const idempotent = new Set(['GET', 'HEAD', 'PUT', 'DELETE']);
const withoutBody = new Set(['GET', 'HEAD', 'DELETE']);
const placeholder = /\{([^{}]+)\}/g;

/** The origin must be fixed: a body never decides whom we talk to. */
function checkedUrl(url: string): URL {
  const example = url.replace(placeholder, 'a');
  const parsed = URL.canParse(example) ? new URL(example) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol))
    throw new Error(`rest: a step with \`use: rest\` needs an http(s) url, not ${JSON.stringify(url)}`);
  if (!/^https?:\/\/[^/?#{}]+(?:[/?#]|$)/i.test(url))
    throw new Error(`rest: ${url} has a placeholder before its path: host and port cannot come from a body`);
  if (/[^!-~]/.test(example)) throw new Error(`rest: ${JSON.stringify(url)} has characters that a URL must have encoded`);
  if (parsed.username !== '' || parsed.password !== '')
    throw new Error('rest: the url has a user or a password: use bearerEnv, so that they are in no file and no log');
  return parsed;
}

const ours = /^(?:host|connection|content-length|transfer-encoding|upgrade|expect|idempotency-key|traceparent|tracestate)$/i;

function fixedHeaders({ headers, bearerEnv }: RestCallSettings): Readonly<Record<string, string>> {
  const names = Object.keys(headers);
  const wrong = names.find((name) => ours.test(name) || !/^[\w!#$%&'*+.^`|~-]+$/.test(name) || /[\r\n\0]/.test(String(headers[name])));
  if (wrong !== undefined) throw new Error(`rest: the header ${JSON.stringify(wrong)} cannot be set`);
  const given = Object.fromEntries(names.map((name) => [name.toLowerCase(), String(headers[name])]));
  if (bearerEnv === '') return given;
  const token = process.env[bearerEnv];
  if (token === undefined || token === '') throw new Error(`rest: the environment variable ${bearerEnv} is not set`);
  return { ...given, authorization: `Bearer ${token}` };
}

async function callRest(
  pool: Pool,
  settings: RestCallSettings,
  fixed: Readonly<Record<string, string>>,
  outgoing: OutgoingCall,
): Promise<Raw> {
  const { body, contentType, envelope, context } = outgoing;
  const sends = !withoutBody.has(settings.method);
  const { traceparent, tracestate, contentEncoding } = envelope;
  const headers = {
    'user-agent': 'answerback',
    ...(sends ? { 'content-type': contentType } : {}),
    ...(sends && contentEncoding !== undefined ? { 'content-encoding': contentEncoding } : {}),
    ...(traceparent === undefined ? {} : { traceparent }),
    ...(tracestate === undefined ? {} : { tracestate }),
    ...fixed,
    'idempotency-key': envelope.id,
  };
  const request = { path: filledPath(settings.url, body), method: settings.method, headers, ...(sends ? { body } : {}) };
  const end = performance.now() + Math.min(settings.timeout, context.remainingMs());
  for (;;) {
    const left = end - performance.now();
    if (left <= 0) throw new Error(`no time is left to call ${settings.method} ${settings.url}`);
    const answer = await attempt(pool, request, settings, context.signal, left);
    if (answer.kind === 'reply') return answer.reply;
    if (answer.afterMs >= end - performance.now()) throw answer.error;
    await pause(systemClock, answer.afterMs, context.signal);
    if (context.signal.aborted) throw new Error('the call was given up');
  }
}

// ---- The address

function filledPath(url: string, body: Buffer): string {
  const template = url.replace(/^https?:\/\/[^/?#]+/i, '').replace(/#.*$/s, '');
  let parsed: unknown;
  const filled = template.replace(placeholder, (_all, name: string) => {
    parsed ??= parse(body);
    return encodeURIComponent(valueAt(parsed, name));
  });
  // Some servers, and every URL parser, take these for a way up: `/customers/{id}/orders` must not become `/orders`.
  const path = filled.split('?')[0]!;
  if (path.split('/').some((segment) => /^(?:\.|%2e){1,2}$/i.test(segment)))
    throw new Fault('invalid', 'a value from the body would change the path', { reason: 'path' });
  return filled.startsWith('/') ? filled : `/${filled}`;
}

function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch (cause) {
    throw new Fault('invalid', 'the url needs values from a JSON body, and the body is none', { cause });
  }
}

function valueAt(body: unknown, name: string): string {
  const value = name
    .split('.')
    .reduce<unknown>(
      (node, key) =>
        typeof node === 'object' && node !== null && Object.hasOwn(node, key) ? (node as Record<string, unknown>)[key] : undefined,
      body,
    );
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  // Half of a surrogate pair cannot be encoded.
  if (typeof value === 'string' && value !== '' && Buffer.from(value).toString() === value) return value;
  const pointer = `#/${name.replaceAll('.', '/')}`;
  throw new Fault('invalid', `${pointer} is needed in the address and must be text, a number or a boolean`, {
    errors: [{ pointer, detail: 'must be text that is not empty, a number or a boolean' }],
  });
}

// ---- One attempt

type Attempt =
  { readonly kind: 'reply'; readonly reply: Raw } | { readonly kind: 'later'; readonly afterMs: number; readonly error: Error };

async function attempt(
  pool: Pool,
  request: Dispatcher.RequestOptions,
  settings: RestCallSettings,
  signal: AbortSignal,
  leftMs: number,
): Promise<Attempt> {
  const repeatable = settings.retry || idempotent.has(settings.method);
  const where = `${settings.method} ${settings.url}`;
  const end = new AbortController();
  const hangUp = () => end.abort(new Error('the call was given up'));
  const timer = setTimeout(() => end.abort(new Error(`${where} did not answer within ${Math.round(leftMs)} ms`)), leftMs);
  signal.addEventListener('abort', hangUp, { once: true });
  if (signal.aborted) hangUp();
  try {
    const response = await pool.request({ ...request, signal: end.signal, headersTimeout: 0, bodyTimeout: 0 });
    return judged(response, await readBody(response, settings.maxSize), where);
  } catch (error) {
    const cause = end.signal.aborted ? (end.signal.reason as Error) : (error as Error);
    if (cause instanceof Fault || repeatable || signal.aborted || neverSent(error)) throw cause;
    throw new Fault('unavailable', `it is not known whether ${where} was carried out: ${cause.message}`, { cause, reason: 'unknown' });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', hangUp);
  }
}

const neverSent = (error: unknown): boolean =>
  /^(?:ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT)$/.test(
    (error as NodeJS.ErrnoException).code ?? '',
  ) || error instanceof NotTaken;

/** The service says that it did nothing. */
class NotTaken extends Error {}

async function readBody({ body }: Dispatcher.ResponseData, maxSize: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxSize) throw new Error(`the answer is larger than ${maxSize} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function judged({ statusCode: status, headers }: Dispatcher.ResponseData, body: Buffer, where: string): Attempt {
  const contentType = one(headers['content-type']) ?? 'application/octet-stream';
  if (status >= 200 && status < 300) return { kind: 'reply', reply: raw(body, contentType, one(headers['content-encoding'])) };
  const said = `${where} answered ${status}`;
  if (status === 408 || status === 425 || status === 429 || status === 503) {
    const afterMs = retryAfterMs(one(headers['retry-after']));
    const error = status === 503 && afterMs === undefined ? new Error(said) : new NotTaken(said);
    if (afterMs === undefined) throw error;
    return { kind: 'later', afterMs, error };
  }
  if (status === 401 || status === 407) throw new NotTaken(`${said}: the credentials of this hub are not accepted`);
  if (status >= 300 && status < 400) throw new NotTaken(`${said}: redirects are not followed`);
  if (status >= 400 && status < 500)
    throw new Fault(status === 403 ? 'forbidden' : 'rejected', textOf(body, contentType) ?? `the service answered ${status}`, {
      reason: `http-${status}`,
    });
  throw new Error(said);
}

/** What the service says for people, as RFC 9457 or in a similar way. */
function textOf(body: Buffer, contentType: string): string | undefined {
  if (!/^\s*application\/(?:[\w.-]+\+)?json\b/i.test(contentType)) return undefined;
  try {
    const { detail, title, message } = JSON.parse(body.toString('utf8')) as Record<string, unknown>;
    return [detail, title, message].find((text): text is string => typeof text === 'string' && text !== '')?.slice(0, 500);
  } catch {
    // It says it is JSON and is not: the status alone must do.
    return undefined;
  }
}

/** Seconds or a date (RFC 9110). */
function retryAfterMs(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1_000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined;
}

const one = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);
