/**
 * Being called back (EIP: Return Address): the outcome of a request is posted to an address of its requestor's. The settler forwards it to
 * the built-in step `webhook` (`workers/webhook/`), as a one-way message of its own: neither a cancel nor the deadline of the request ends
 * it, and what cannot be delivered becomes a dead letter, as with any one-way message.
 */
import type { Principal } from './access.js';
import { deriveId, firstEnvelope, type Envelope } from './envelope.js';
import { Fault } from './fault.js';
import type { Flow } from './flow.js';
import { isJournalled } from './flow.js';
import type { ForwardAddress, Listed, Outcome, OutcomeKind, RequestRecord, Store } from './store.js';

export const callbackStep = 'webhook';
/** Kind of its dossiers. */
export const callbackKind = 'callback';

/** Where requestors may be called back. */
export interface Callbacks {
  /** The callback as it is kept: a registered name, or an address in its normal form. Throws a Fault when this principal may not use it. */
  check(callback: string, principal: Principal): string;
}

/** Longer than all attempts take, with what receivers may ask for. */
const lifeMs = 7 * 86_400_000;

/** Where the outcome of a request with this callback goes. Throws a Fault when it cannot. */
export function callbackAddress(
  callbacks: Callbacks | undefined,
  queue: string,
  callback: string,
  principal: Principal,
  flow: Flow,
): ForwardAddress {
  if (callbacks === undefined) throw new Fault('invalid', 'this hub calls nobody back: hub.yaml has no callbacks', { reason: 'callback' });
  if (!isJournalled(flow))
    throw new Fault('invalid', `flow ${flow.name} leaves the journal out, and a callback must be in it`, { reason: 'callback' });
  return { queue, callback: callbacks.check(callback, principal) };
}

/** What a requestor is called back for: the outcome, or since parts of its request are waited for (`opened.ts`). */
export type CalledFor = OutcomeKind | 'reminder';

/** What it is told; `until`: when it is of no use any more (ms). */
type Saying = Omit<Outcome, 'kind'> & { readonly kind: CalledFor; readonly until?: number };

/** The message to the step: the body is the outcome's, or that of a further version, byte for byte. Each version is a message of its own. */
export function callbackEnvelope(
  { id, flow, principal, key, forward }: Pick<RequestRecord, 'id' | 'flow' | 'principal' | 'key' | 'forward'>,
  outcome: Saying,
  version = 1,
): Envelope {
  const ownId = outcome.kind === 'reminder' ? deriveId(id, 'callback', 'reminder', outcome.at) : callbackId(id, version);
  return firstEnvelope({
    id: ownId,
    flow,
    slip: [callbackStep],
    deadline: Math.ceil((outcome.until ?? outcome.at + lifeMs) / 1_000) * 1_000,
    key,
    principal,
    at: outcome.at,
    body: outcome.body,
    contentType: outcome.contentType,
    contentEncoding: outcome.contentEncoding,
    extra: {
      'hub-callback': forward?.callback ?? '',
      'hub-callback-of': id,
      'hub-callback-outcome': outcome.kind,
      ...(outcome.amendable === undefined ? {} : { 'hub-callback-version': version }),
    },
  });
}

/** The `webhook-id`. */
const callbackId = (requestId: string, version: number): string =>
  version === 1 ? deriveId(requestId, 'callback') : deriveId(requestId, 'callback', version);

/** What such a message says of itself; undefined for any other. */
export function calledBack({ extra = {} }: Pick<Envelope, 'extra'>) {
  const { 'hub-callback': callback, 'hub-callback-of': of, 'hub-callback-outcome': outcome, 'hub-callback-version': version } = extra;
  if (typeof callback !== 'string' || typeof of !== 'string' || typeof outcome !== 'string') return undefined;
  return { callback, of, outcome: outcome as CalledFor, ...(typeof version === 'number' ? { version } : {}) };
}

/** One attempt. Neither status nor error: it is not known what became of it. */
export interface CallbackAttempt {
  /** ms since 1970. */
  readonly at: number;
  readonly tookMs?: number;
  readonly status?: number;
  readonly error?: string;
}

/** What a callback's dossier says. */
export interface CallbackData {
  readonly callback: string;
  /** The request. */
  readonly of: string;
  readonly outcome: CalledFor;
  /** Of the reply, where it may be amended. */
  readonly version?: number;
  readonly principal?: string;
  readonly state: 'waiting' | 'posting' | 'delivered' | 'failed';
  readonly attempts: readonly CallbackAttempt[];
  /** When the attempt began that is being made. */
  readonly since?: number;
  /** Who makes it: two that begin in the same moment would otherwise write the same, and the store take them for one. */
  readonly by?: string;
}

/** List of the callbacks of a request, the newest last. */
export const callbacksOf = (requestId: string): string => `callback:${requestId}`;

/** What its requestor may know. */
export interface CallbackStatus {
  readonly callback: string;
  /** Its `webhook-id`, the same in each attempt. */
  readonly webhookId: string;
  /** Which version of the reply it brings, where that may be amended; the newest that there is. */
  readonly version?: number;
  /** `pending`: the request has no outcome yet. `failed`: for good; it is in `hub.dead.webhook`. */
  readonly state: 'pending' | CallbackData['state'];
  readonly attempts: readonly CallbackAttempt[];
  /** When the next attempt is due, ms since 1970. */
  readonly nextAt?: number;
}

/** Where the callback of a request is; undefined when it has none, is forgotten, or is somebody else's. */
export async function callbackStatus(store: Store, requestId: string, principal: Principal): Promise<CallbackStatus | undefined> {
  const [found] = (await store.dossiers(callbacksOf(requestId), { limit: 1, highestFirst: true })).found;
  if (found !== undefined) return statusIn(found, principal);
  const record = await store.get(requestId);
  const callback = record?.principal === principal.name ? record.forward?.callback : undefined;
  return callback === undefined ? undefined : { callback, webhookId: callbackId(requestId, 1), state: 'pending', attempts: [] };
}

function statusIn({ requestId, data, wakeAt }: Listed, { name }: Principal): CallbackStatus | undefined {
  const { callback, version, state, attempts, principal } = data as CallbackData;
  if (principal !== name) return undefined;
  const which = version === undefined ? {} : { version };
  return {
    callback,
    webhookId: requestId,
    ...which,
    state,
    attempts,
    ...(state === 'waiting' && wakeAt !== undefined ? { nextAt: wakeAt } : {}),
  };
}
