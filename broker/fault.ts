/**
 * The one error that travels. A handler throws a `Fault` for what the requestor did or must know; anything else that
 * is thrown is our own error and is tried again.
 */

/** Each code, what it means and whether asking again may help. Adapters map codes to their protocol. */
export const faultCodes = {
  invalid: { summary: 'The request does not have the shape that the flow asks for.', retriable: false },
  rejected: { summary: 'The request was understood and refused by the business.', retriable: false },
  forbidden: { summary: 'The principal may not do this.', retriable: false },
  timeout: { summary: 'No answer before the deadline.', retriable: true },
  cancelled: { summary: 'Somebody cancelled the request.', retriable: false },
  unavailable: { summary: 'A system that is needed is away or overloaded.', retriable: true },
  internal: { summary: 'A step failed for a reason of its own, after its last attempt.', retriable: false },
} as const;

export type FaultCode = keyof typeof faultCodes;

/** One thing that is wrong with the body. */
export interface Flaw {
  /** JSON Pointer (RFC 6901) as a URI fragment, `#/amount`. */
  readonly pointer: string;
  readonly detail: string;
}

export interface FaultDetails {
  readonly cause?: unknown;
  /** Every flaw that validation found. */
  readonly errors?: readonly Flaw[];
  /** The step that failed. */
  readonly step?: string;
  /** When it is worth to ask again, ms from now. */
  readonly retryAfterMs?: number;
  /** The request that this is about, when there may be one. */
  readonly requestId?: string;
  /** A finer, stable code below `code`, e.g. `idempotency-mismatch`. */
  readonly reason?: string;
}

const brand = Symbol.for('answerback.fault');

export class Fault extends Error {
  readonly code: FaultCode;
  readonly errors: readonly Flaw[] | undefined;
  readonly step: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly [brand] = true;

  constructor(code: FaultCode, message: string, details: FaultDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'Fault';
    this.code = code;
    this.errors = details.errors;
    this.step = details.step;
    this.retryAfterMs = details.retryAfterMs;
    this.reason = details.reason;
    this.requestId = details.requestId;
  }
}

/** True for a Fault of any copy of this module (a worker may have been loaded through another loader). */
export function isFault(error: unknown): error is Fault {
  return typeof error === 'object' && error !== null && (error as Record<symbol, unknown>)[brand] === true;
}

/** What a fault looks like as a message body (`application/json`). */
export interface FaultBody {
  readonly code: FaultCode;
  readonly message: string;
  readonly step?: string;
  readonly reason?: string;
  readonly errors?: readonly Flaw[];
}

export function faultBody(fault: Fault, step = fault.step): FaultBody {
  return {
    code: fault.code,
    message: fault.message,
    ...(step === undefined ? {} : { step }),
    ...(fault.reason === undefined ? {} : { reason: fault.reason }),
    ...(fault.errors === undefined ? {} : { errors: fault.errors }),
  };
}

/** Reads a fault from a body, whoever wrote it; never throws. */
export function readFault(body: Buffer, code?: unknown, message?: unknown): Fault {
  let found: Partial<FaultBody> = {};
  try {
    const parsed: unknown = JSON.parse(body.toString('utf8'));
    if (typeof parsed === 'object' && parsed !== null) found = parsed;
  } catch {
    // A foreign worker may send plain text as the fault's body: the headers or the text tell what they can.
  }
  const known = [found.code, code].find((c): c is FaultCode => typeof c === 'string' && Object.hasOwn(faultCodes, c));
  const text = [found.message, message].find((m): m is string => typeof m === 'string');
  return new Fault(known ?? 'internal', text ?? (body.toString('utf8').slice(0, 500) || 'the step failed and did not say why'), {
    ...(typeof found.step === 'string' ? { step: found.step } : {}),
    ...(typeof found.reason === 'string' ? { reason: found.reason } : {}),
    ...(Array.isArray(found.errors) ? { errors: found.errors } : {}),
  });
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
