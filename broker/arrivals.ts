/**
 * Requests that arrive in parts: opened, filled in any order, closed; then requests like any other. What was taken is in the store and the
 * journal before it is said so, and any hub goes on with it. The rules are in `opened.ts`.
 *
 * Part, count, answer: a part is kept first, and counts once the dossier of its request says so. Whoever dies in between has said nothing, and
 * the same part sent again is found and counted.
 */
import { createHash } from 'node:crypto';
import type { Principal } from './access.js';
import type { Aside } from './aside.js';
import { callbackAddress, callbackEnvelope, callbackStep } from './callback.js';
import { nameOf } from './dossiers.js';
import { deriveId, firstEnvelope, type Envelope } from './envelope.js';
import { Fault, isFault, messageOf } from './fault.js';
import type { Flow, PartsLimits } from './flow.js';
import type { Answer, Ask, GatewayOptions } from './gateway.js';
import {
  dueAt,
  ended,
  isArriving,
  mostOpen,
  nextOf,
  longestMs,
  opened,
  openedDocument,
  openedIn,
  openedKind,
  openedStatus,
  openOf,
  partIdOf,
  partKind,
  refusalOf,
  reminded,
  reopened,
  together,
  typeOf,
  withEnd,
  withPart,
  type Opened,
  type OpenedStatus,
  type PartData,
  type Sealed,
} from './opened.js';
import type { Dossier, ForwardAddress, Outcome } from './store.js';
import { workAddress } from './topology.js';
import type { HeaderValue } from './transport.js';
import { reachable, watchUntil } from './waiting.js';
import { encode, errorHeaders, faultMessage } from './wire.js';

interface Opening {
  readonly flow: string;
  readonly principal: Principal;
  /** Ask for this id: then it is opened once, however often it is asked. */
  readonly id?: string;
  /** The queue where its requestor is told how it stands. */
  readonly forward?: ForwardAddress;
  /** Where its requestor is called back for that, and with the outcome. */
  readonly callback?: string;
}

interface Whose {
  readonly id: string;
  readonly principal: Principal;
}

/** A part as it comes in. */
export interface NewPart extends Whose {
  /** 1, 2, 3, …, in any order. */
  readonly sequence: number;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
}

export interface Closing extends Whose {
  /** How many parts there are. */
  readonly total: number;
  /** All that a request says beside its body. */
  readonly ask: Omit<Ask, 'flow' | 'principal' | 'body' | 'contentType' | 'requestId' | 'forward' | 'contentEncoding'>;
}

/** A message of a foreign requestor: a part, the end, or both. Whatever comes first opens the request. */
export interface Taken extends Whose {
  readonly flow: string;
  readonly forward: ForwardAddress;
  readonly part?: Pick<NewPart, 'sequence' | 'body' | 'contentType' | 'contentEncoding'>;
  /** How many parts there are: it is closed once all have come. */
  readonly total?: number;
  readonly sealed: Sealed;
}

/** What happens to a request before it is one. */
export interface OpenedEvent {
  readonly name: 'opened' | 'reminder' | 'closed' | 'expired' | 'abandoned';
  readonly status: OpenedStatus;
}

/** Undefined everywhere: there is nothing of this id, or it is somebody else's, or it is forgotten. Rejections are Faults. */
export interface Arrivals {
  open(opening: Opening): Promise<OpenedStatus>;
  /** Resolves when the part is kept. The same again changes nothing and renews the lease. */
  append(part: NewPart): Promise<{ readonly status: OpenedStatus; readonly isNew: boolean } | undefined>;
  /** Makes it a request, and then as `Gateway.request`. A refusal leaves it open. Again: the same request. */
  close(closing: Closing): Promise<Answer | undefined>;
  /** Drops its parts. `closed`: it is a request, which can be cancelled. */
  abandon(whose: Whose): Promise<'abandoned' | 'closed' | undefined>;
  find(whose: Whose): Promise<OpenedStatus | undefined>;
  /** Calls `listener` with how it stands, and at each change, until it is closed or ended otherwise, or `signal` aborts. False: there is none. */
  follow(whose: Whose, listener: (event: OpenedEvent) => void, signal: AbortSignal): Promise<boolean>;
  take(taken: Taken): Promise<void>;
  /** Bytes of the largest part that any flow takes. */
  readonly largestPart: number;
}

/** For the sweeper: a request that arrives in parts must be looked at. May be called again. */
export interface LookedAfter {
  lookAfterOpened(dossier: Dossier): Promise<void>;
}

export interface ArrivalsOptions extends Pick<
  GatewayOptions,
  'flows' | 'store' | 'dossiers' | 'correlator' | 'transport' | 'callbacks' | 'clock' | 'newId' | 'names' | 'emit' | 'hub'
> {
  readonly aside: Aside;
  readonly flowFor: (name: string, principal: Principal) => Flow;
  readonly request: (ask: Ask) => Promise<Answer>;
  readonly collect: (id: string, principal: Principal, waitMs: number, signal?: Ask['signal']) => Promise<Answer | undefined>;
}

/** How many bodies are read or dropped at once. */
const atOnce = 20;

export function openArrivals(options: ArrivalsOptions): Arrivals & LookedAfter {
  const { flows, store, dossiers, correlator, aside, clock, names, emit, flowFor } = options;

  /** What a flow takes. Throws a Fault when it takes none, or not from this principal. */
  function limitsOf(name: string, principal: Principal): PartsLimits {
    const { parts } = flowFor(name, principal);
    if (parts === undefined)
      throw new Fault('invalid', `flow ${name} takes no requests in parts: hub.yaml says which do (parts: true)`, { reason: 'parts' });
    return parts;
  }

  async function owned({ id, principal }: Whose): Promise<Opened | undefined> {
    const dossier = await reachable(dossiers.get(openedKind, id));
    const data = dossier && openedIn(dossier);
    return data?.principal === principal.name ? data : undefined;
  }

  /** Changes it by a rule, which may throw a Fault; undefined when it is not this principal's. */
  async function change(whose: Whose, rule: (data: Opened, now: number) => Opened): Promise<Changed | undefined> {
    return reachable(
      dossiers.change<Changed | undefined>(openedKind, whose.id, (dossier, now) => {
        const before = openedIn(dossier);
        if (before.principal !== whose.principal.name) return { result: undefined };
        const data = rule(before, now);
        return data === before ? { result: { before, data } } : { next: nextOf(data), result: { before, data } };
      }),
    );
  }

  async function open({ flow: name, principal, id = options.newId(), callback, ...to }: Opening): Promise<OpenedStatus> {
    const limits = limitsOf(name, principal);
    const step = names.workQueue(callbackStep);
    const forward =
      callback === undefined ? to.forward : callbackAddress(options.callbacks, step, callback, principal, flowFor(name, principal));
    if ((await reachable(store.count(openOf(principal.name)))) >= mostOpen)
      throw new Fault('unavailable', `${principal.name} has ${mostOpen} requests open, the limit: close or abandon some`, {
        reason: 'too-many',
        retryAfterMs: 10_000,
      });
    const data = opened({ flow: name, principal: principal.name, ...(forward === undefined ? {} : { forward }) }, limits, clock.now());
    await reachable(dossiers.park(openedKind, envelopeOf(id, id, data, Buffer.alloc(0), 'application/octet-stream'), nextOf(data)));
    emit('request.opened', { requestId: id, flow: name });
    return openedStatus(id, data);
  }

  async function append({ id, principal, sequence, body, contentType: named, contentEncoding }: NewPart) {
    const found = await owned({ id, principal });
    if (found === undefined) return undefined;
    const limits = limitsOf(found.flow, principal);
    if (contentEncoding !== undefined)
      throw new Fault('invalid', 'a part has no Content-Encoding: parts are put together as they are', { reason: 'part' });
    if (!Number.isSafeInteger(sequence) || sequence < 1) throw new Fault('invalid', 'parts are numbered 1, 2, 3, …', { reason: 'part' });
    const contentType = typeOf(named);
    const part = { sequence, size: body.length, contentType };
    // Nothing is kept of what is refused.
    withPart(id, found, part, limits, clock.now());
    if (contentType === 'application/json') refuseUnlessJson(sequence, body);
    await keep(id, found, { sequence, digest: digestOf(contentType, body) }, body, contentType);
    const changed = await change({ id, principal }, (data, now) => withPart(id, data, part, limits, now)).catch(async (error: unknown) => {
      // It ended meanwhile, and whoever dropped its parts may have come before this one.
      const now = await owned({ id, principal });
      if (now !== undefined && !isArriving(now)) await reachable(dropPart({ id: partIdOf(id, sequence) }));
      throw error;
    });
    if (changed === undefined) return undefined;
    if (changed.data.state === 'closing' && changed.data.sealed !== undefined)
      await finish(id, principal, changed.data, changed.data.sealed, 'abandons');
    return { status: openedStatus(id, changed.data), isNew: typeof changed.before.sizes[sequence - 1] !== 'number' };
  }

  /** Keeps a part, once. Throws a Fault when another has its number. */
  async function keep(id: string, of: Opened, data: PartData, body: Buffer, contentType: string): Promise<void> {
    const partId = partIdOf(id, data.sequence);
    let kept = await reachable(dossiers.get(partKind, partId));
    if (kept === undefined) {
      await reachable(dossiers.park(partKind, envelopeOf(id, partId, of, body, contentType), { data }));
      kept = await reachable(dossiers.get(partKind, partId));
    } else if (kept.version === 1) {
      // Whoever kept it may have died before the journal had it.
      await reachable(dossiers.park(partKind, dossiers.envelopeOf(kept), { data: kept.data }));
    }
    if ((kept?.data as PartData | undefined)?.digest !== data.digest)
      throw new Fault('rejected', `part ${data.sequence} of request ${id} came before with another body: it stays as it was`, {
        reason: 'part-differs',
        requestId: id,
      });
  }

  async function close({ id, principal, total, ask }: Closing): Promise<Answer | undefined> {
    const found = await owned({ id, principal });
    if (found === undefined) return undefined;
    if (!Number.isSafeInteger(total) || total < 1)
      throw new Fault('invalid', 'say how many parts there are, 1 or more, as in `Hub-Parts: 3`', { reason: 'parts' });
    const limits = limitsOf(found.flow, principal);
    const closed = await change({ id, principal }, (data, now) => withEnd(id, data, total, limits, now));
    if (closed === undefined) return undefined;
    const { data } = closed;
    const { waitMs, maxWaitMs } = flowFor(data.flow, principal);
    const answer = data.state === 'closed' ? undefined : await finish(id, principal, data, ask, 'reopens');
    if (answer?.kind === 'outcome') return answer;
    const requestId = answer?.id ?? data.requestId ?? id;
    const collected = await options.collect(requestId, principal, Math.max(0, Math.min(ask.waitMs ?? waitMs, maxWaitMs)), ask.signal);
    return collected === undefined ? answer : { ...collected, replayed: answer?.replayed ?? true };
  }

  /** Makes a request of what is closed. */
  async function finish(
    id: string,
    principal: Principal,
    data: Opened,
    { hearsAmended, ...ask }: Partial<Closing['ask'] & Sealed>,
    refusal: 'reopens' | 'abandons',
  ): Promise<Answer> {
    const { flow, contentType = 'application/octet-stream', forward } = data;
    const callback = ask.callback ?? forward?.callback;
    try {
      const body = together(contentType, await bodiesOf(id, data.sizes.length));
      const answer = await options.request({
        ...ask,
        flow,
        principal,
        body,
        contentType,
        requestId: id,
        waitMs: 0,
        ...(callback === undefined ? {} : { callback }),
        ...(forward === undefined || forward.callback !== undefined
          ? {}
          : { forward: hearsAmended === true ? { ...forward, amended: true } : forward }),
      });
      // If this is lost, a repeat finds the request, and so does the end of the lease.
      await change({ id, principal }, (current, now) => (isArriving(current) ? ended(current, 'closed', now, answer.id) : current)).catch(
        (error: unknown) => emit('request.unclosed', { requestId: id, error: messageOf(error) }),
      );
      return answer;
    } catch (error) {
      if (isFault(error) && error.reason !== 'unknown') await refused(error);
      throw error;
    }

    /** Nothing was started. */
    async function refused({ code }: Fault): Promise<void> {
      // Who cannot be asked again is not refused for good while something is away.
      if (refusal === 'abandons' && code === 'unavailable') return;
      await change({ id, principal }, (current, now) => {
        if (current.state !== 'closing') return current;
        return refusal === 'reopens' ? reopened(current, now) : ended(current, 'abandoned', now);
      }).catch(() => undefined); // it is closing still, and can be closed again
    }
  }

  async function bodiesOf(id: string, count: number): Promise<Buffer[]> {
    const bodies: Buffer[] = [];
    while (bodies.length < count) {
      const numbers = Array.from({ length: Math.min(atOnce, count - bodies.length) }, (_, index) => bodies.length + index + 1);
      const parts = await reachable(Promise.all(numbers.map((sequence) => dossiers.get(partKind, partIdOf(id, sequence)))));
      for (const part of parts) {
        if (part?.isOpen !== true)
          throw new Fault('unavailable', `request ${id} is being closed by somebody else`, { reason: 'unknown', retryAfterMs: 1_000 });
        bodies.push(part.message.body);
      }
    }
    return bodies;
  }

  async function take({ id, principal, flow, forward, part, total, sealed }: Taken): Promise<void> {
    if ((await reachable(dossiers.get(openedKind, id))) === undefined) await open({ flow, principal, id, forward });
    try {
      await taken();
    } catch (error) {
      // The fault is its answer: nothing more will come of it.
      if (isFault(error) && error.code !== 'unavailable')
        await change({ id, principal }, (data, now) => (data.state === 'open' ? ended(data, 'abandoned', now) : data));
      throw error;
    }

    async function taken(): Promise<void> {
      if (part !== undefined) await append({ id, principal, ...part });
      if (total !== undefined) await seal({ id, principal, flow, sealed, total });
    }
  }

  async function seal({
    id,
    principal,
    flow,
    sealed,
    total,
  }: Pick<Taken, 'id' | 'principal' | 'flow' | 'sealed'> & { readonly total: number }) {
    if (!Number.isSafeInteger(total) || total < 1)
      throw new Fault('invalid', 'hub-parts says how many parts there are: 1 or more', { reason: 'parts' });
    const limits = limitsOf(flow, principal);
    const end = await change({ id, principal }, (data, now) => withEnd(id, data, total, limits, now, sealed));
    if (end?.data.state === 'closing') await finish(id, principal, end.data, sealed, 'abandons');
  }

  async function abandon(whose: Whose): Promise<'abandoned' | 'closed' | undefined> {
    const changed = await change(whose, (data, now) => {
      const refusal = data.state === 'expired' ? refusalOf(openedStatus(whose.id, data)) : undefined;
      if (refusal !== undefined) throw refusal;
      return data.state === 'open' ? ended(data, 'abandoned', now) : data;
    });
    return changed && (changed.data.state === 'abandoned' ? 'abandoned' : 'closed');
  }

  async function follow(whose: Whose, listener: (event: OpenedEvent) => void, signal: AbortSignal): Promise<boolean> {
    if ((await owned(whose)) === undefined) return false;
    let shown: Opened | undefined;
    const look = async () => {
      const data = await owned(whose);
      if (data === undefined) return true;
      const status = openedStatus(whose.id, data);
      const { state, remindedAt, updatedAt } = data;
      if (state === 'closed' || state === 'expired' || state === 'abandoned') listener({ name: state, status });
      else if (shown?.updatedAt !== updatedAt || shown.sizes.length !== data.sizes.length) listener({ name: 'opened', status });
      if (isArriving(data) && remindedAt !== undefined && remindedAt !== shown?.remindedAt) listener({ name: 'reminder', status });
      shown = data;
      return !isArriving(data);
    };
    await watchUntil(nameOf({ kind: openedKind, id: whose.id }), look, { correlator, clock, signal });
    return true;
  }

  async function lookAfterOpened({ id, data: kept }: Dossier): Promise<void> {
    const data = openedIn({ data: kept });
    if (!isArriving(data)) return drop(id, data);
    const due = dueAt(data, clock.now());
    if (due === 'remind') return remind(id, data);
    if (due !== 'expire') return;
    // Whoever was closing it may have died after the broker had the request, or before.
    const isRequest = data.state === 'closing' && (await store.get(id)) !== undefined;
    await dossiers.change(openedKind, id, (dossier, now) => {
      const current = openedIn(dossier);
      if (dueAt(current, now) !== 'expire' || current.state !== data.state) return { result: undefined };
      const next = isRequest
        ? ended(current, 'closed', now, id)
        : current.state === 'closing'
          ? reopened(current, now)
          : ended(current, 'expired', now);
      return { next: nextOf(next), result: undefined };
    });
  }

  /** Told, then noted: a reminder may come twice. */
  async function remind(id: string, data: Opened): Promise<void> {
    const next = reminded(data, clock.now());
    const body = Buffer.from(JSON.stringify(openedDocument(openedStatus(id, next))));
    await tell(id, next, { kind: 'reminder', body, contentType: 'application/json' }, {});
    await dossiers.change(openedKind, id, (dossier, now) => {
      const current = openedIn(dossier);
      return dueAt(current, now) === 'remind' ? { next: nextOf(reminded(current, now)), result: undefined } : { result: undefined };
    });
    emit('request.reminded', { requestId: id, flow: data.flow });
  }

  /** It has ended: who waits for its outcome is told, and its parts are let go. Each may be done again. */
  async function drop(id: string, data: Opened): Promise<void> {
    const fault = data.state === 'expired' ? refusalOf(openedStatus(id, data)) : undefined;
    if (fault !== undefined) {
      await tell(id, data, { kind: 'timeout', ...faultMessage(fault) }, errorHeaders(fault, 'gateway', clock.now()));
      emit('request.expired', { requestId: id, flow: data.flow });
    }
    for (let parts = await partsLeft(id); parts.length > 0; parts = await partsLeft(id)) await Promise.all(parts.map(dropPart));
    await dossiers.close({ kind: openedKind, id });
  }

  const partsLeft = async (id: string) =>
    (await store.dossiers(`of:${id}`, { limit: 2 * atOnce })).found.filter(({ kind }) => kind === partKind);

  const dropPart = ({ id }: Pick<Dossier, 'id'>) =>
    dossiers.change(partKind, id, ({ data, isOpen }) =>
      isOpen ? { next: { data, isOpen: false, isEmptied: true }, result: undefined } : { result: undefined },
    );

  /** To where its requestor wants to hear, if it said so. */
  async function tell(
    id: string,
    { flow, principal, forward, updatedAt, expiresAt }: Opened,
    said: Pick<Outcome, 'body' | 'contentType'> & { readonly kind: 'reminder' | 'timeout' },
    headers: Readonly<Record<string, HeaderValue>>,
  ): Promise<void> {
    if (forward === undefined) return;
    if (forward.callback === undefined) {
      const type = said.kind === 'reminder' ? 'progress' : 'fault';
      const event = { 'hub-event': said.kind === 'reminder' ? 'reminder' : 'expired' };
      return aside.opened({ requestId: id, aside: forward }, type, deriveId(id, type, updatedAt), said, { ...headers, ...event });
    }
    const until = said.kind === 'reminder' ? { until: expiresAt } : {};
    const envelope = callbackEnvelope({ id, flow, principal, forward }, { ...said, ...until, at: updatedAt });
    await options.transport.publish(workAddress(names, callbackStep, envelope), encode(envelope));
  }

  /** What its dossiers have for a message: nobody is sent it. */
  function envelopeOf(requestId: string, id: string, data: Opened, body: Buffer, contentType: string): Envelope {
    const { flow, principal, openedAt } = data;
    return firstEnvelope({
      id,
      requestId,
      type: 'part',
      flow,
      slip: flows.find(({ name }) => name === flow)?.steps.slice(0, 1) ?? [],
      // What is left of it then, after a crash, is nobody's.
      deadline: Math.ceil((openedAt + longestMs) / 1_000) * 1_000 + 60_000,
      replyTo: names.reply(options.hub),
      principal,
      at: clock.now(),
      body,
      contentType,
    });
  }

  return {
    open,
    append,
    close,
    abandon,
    follow,
    take,
    async find(whose) {
      const data = await owned(whose);
      return data && openedStatus(whose.id, data);
    },
    largestPart: Math.max(0, ...flows.map(({ parts }) => parts?.size ?? 0)),
    lookAfterOpened,
  };
}

interface Changed {
  readonly before: Opened;
  readonly data: Opened;
}

function refuseUnlessJson(sequence: number, body: Buffer): void {
  try {
    JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new Fault('invalid', `part ${sequence} is not JSON: ${messageOf(cause)}`, { cause, reason: 'part' });
  }
}

const digestOf = (contentType: string, body: Buffer): string =>
  createHash('sha256').update(contentType).update('\0').update(body).digest('base64url').slice(0, 22);
