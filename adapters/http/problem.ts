/**
 * Errors as `application/problem+json` (RFC 9457). `code` is stable: a fault's own, or one of HTTP's below. `type` is
 * `urn:answerback:error:<code>`.
 */
import type { FastifyReply } from 'fastify';
import { faultCodes, isFault, readFault, type Fault, type FaultCode, type Flaw } from '../../broker/fault.js';
import type { Outcome } from '../../broker/store.js';

/** The HTTP status of each fault. */
export const faultStatus: Readonly<Record<FaultCode, number>> = {
  invalid: 400,
  rejected: 422,
  forbidden: 403,
  timeout: 504,
  cancelled: 409,
  unavailable: 503,
  internal: 502,
};

/** What only HTTP can say, with its status. */
export const httpProblems = {
  'bad-request': [400, 'The HTTP request is malformed.'],
  unauthenticated: [401, 'This needs a valid API key.'],
  'cross-origin': [403, 'A web page of another origin may not use this hub.'],
  'not-permitted': [403, 'This person may not do this.'],
  'not-found': [404, 'There is nothing here.'],
  'method-not-allowed': [405, 'This cannot be done here.'],
  'request-timeout': [408, 'The request did not come in time.'],
  ended: [409, 'The request has its outcome already.'],
  'not-asked': [409, 'The request asks nothing of the kind.'],
  conflict: [409, 'This cannot be done as things are now.'],
  gone: [410, 'The request is forgotten.'],
  expired: [410, 'The request was not closed in time.'],
  'too-large': [413, 'The body is larger than this hub takes.'],
  'uri-too-long': [414, 'The address is too long.'],
  'unsupported-media-type': [415, 'The content type is not a media type.'],
  'expectation-failed': [417, 'The expectation cannot be met.'],
  misdirected: [421, 'This hub answers only to local names.'],
  'too-many': [429, 'Too many requests at once.'],
  'upgrade-required': [426, 'This is spoken over WebSocket.'],
  'header-too-large': [431, 'The headers are larger than this hub takes.'],
  error: [500, 'The hub failed.'],
  'unknown-method': [501, 'This hub does not know the method.'],
  stopping: [503, 'The hub is about to stop.'],
  overloaded: [503, 'The hub is busy.'],
} as const satisfies Readonly<Record<string, readonly [number, string]>>;

export type HttpProblem = keyof typeof httpProblems;

export interface Problem {
  /** The task as it is now. */
  readonly task?: unknown;
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: FaultCode | HttpProblem;
  /** The request that this is the outcome of. */
  readonly instance?: string;
  readonly requestId?: string;
  readonly step?: string;
  readonly reason?: string;
  readonly errors?: readonly Flaw[];
}

type More = Partial<Pick<Problem, 'instance' | 'requestId' | 'step' | 'reason' | 'errors'>>;

export function httpProblem(code: HttpProblem, detail: string, more: More = {}): Problem {
  const [status, title] = httpProblems[code];
  return { type: `urn:answerback:error:${code}`, title, status, detail, code, ...more };
}

/** A fault, as the door threw it or as it is the outcome of `requestId`. */
export function faultProblem(fault: Fault, requestId?: string): Problem {
  const more: More = {
    ...(requestId === undefined ? {} : { instance: `/requests/${requestId}`, requestId }),
    ...(fault.step === undefined ? {} : { step: fault.step }),
    ...(fault.reason === undefined ? {} : { reason: fault.reason }),
    ...(fault.errors === undefined ? {} : { errors: fault.errors }),
  };
  if (fault.reason === 'unknown-flow') return httpProblem('not-found', fault.message, more);
  if (fault.reason === 'too-many') return httpProblem('too-many', fault.message, more);
  const { code, message } = fault;
  const status = fault.reason === 'idempotency-mismatch' ? 422 : faultStatus[code];
  return { type: `urn:answerback:error:${code}`, title: faultCodes[code].summary, status, detail: message, code, ...more };
}

/** What is said of a request in parts (`broker/opened.ts`), by its reason. */
const partsProblems: Readonly<Record<string, HttpProblem>> = {
  'too-large': 'too-large',
  expired: 'expired',
  abandoned: 'gone',
  closed: 'conflict',
  parts: 'conflict',
  'part-differs': 'conflict',
  'missing-parts': 'conflict',
};

/** The problem that a Fault is which the hub itself threw. */
function refusalProblem(fault: Fault): Problem {
  const { code, message, reason, requestId } = fault;
  const found = reason === undefined ? undefined : partsProblems[reason];
  if (found === undefined || (reason === 'parts' && code === 'invalid')) return faultProblem(fault, requestId);
  return httpProblem(found, message, {
    ...(reason === undefined ? {} : { reason }),
    ...(requestId === undefined ? {} : { requestId, instance: `/requests/${requestId}` }),
  });
}

/** The problem that an outcome other than a reply is. */
export function outcomeProblem(outcome: Outcome, requestId: string): Problem {
  const code = outcome.kind === 'timeout' || outcome.kind === 'cancelled' ? outcome.kind : undefined;
  return faultProblem(readFault(outcome.body, code), requestId);
}

/** Anything that was thrown while an answer was being made: a fault, an error of Fastify with its status, or our own. `bodyLimit`: bytes. */
export function thrownProblem(error: unknown, bodyLimit?: number): Problem {
  if (isFault(error)) return refusalProblem(error);
  const { code = '', statusCode = 500, message } = error as { code?: string; statusCode?: number; message: string };
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return httpProblem(
      'too-large',
      `the body is larger than this hub takes${bodyLimit === undefined ? '' : `: ${bodyLimit} bytes at most`}`,
    );
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return httpProblem('unsupported-media-type', 'Content-Type is not a media type, like `application/json`');
  if (code === 'FST_ERR_MAX_PARAM_LENGTH') return httpProblem('uri-too-long', 'a part of the address is longer than 255 characters');
  if (code === 'FST_ERR_BAD_URL') return httpProblem('bad-request', 'the address is not a valid URL');
  if (statusCode >= 400 && statusCode < 500) return httpProblem('bad-request', message);
  return httpProblem('error', 'the hub failed; its log says why');
}

/** Answers with a problem. `retryAfterMs` is for those that may go better later. */
export function sendProblem(reply: FastifyReply, problem: Problem, retryAfterMs = defaultRetryMs(problem)): FastifyReply {
  if (retryAfterMs !== undefined) reply.header('retry-after', Math.max(1, Math.ceil(retryAfterMs / 1_000)));
  if (problem.requestId !== undefined) reply.header('hub-request-id', problem.requestId);
  return reply
    .code(problem.status)
    .header('content-type', 'application/problem+json')
    .header('cache-control', 'no-store')
    .send(Buffer.from(JSON.stringify(problem)));
}

const defaultRetryMs = ({ status }: Problem): number | undefined => (status === 503 ? 5_000 : status === 429 ? 1_000 : undefined);

/** A problem as a whole HTTP response, for sockets on which no request could be read. */
export function rawProblem(problem: Problem): string {
  const body = JSON.stringify(problem);
  return [
    `HTTP/1.1 ${problem.status} ${problem.code}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}
