/**
 * A request that arrives in parts (EIP: Message Sequence), from its opening until it is closed: rules over its dossier's data, without
 * effects. The dossier says which parts count; each part is a dossier of its own, so that no body is written twice.
 */
import type { Next } from './dossiers.js';
import { deriveId } from './envelope.js';
import { Fault } from './fault.js';
import type { PartsLimits } from './flow.js';
import type { Ask } from './gateway.js';
import type { Dossier, ForwardAddress } from './store.js';

/** Kinds of dossiers. */
export const openedKind = 'opened';
export const partKind = 'part';

/** However often its lease is renewed: then it ends. */
export const longestMs = 7 * 86_400_000;
/** The share of the lease after which its requestor is reminded. */
const remindAfter = 1 / 2;
/** How many a principal may have open at once. */
export const mostOpen = 1_000;

/** `closing`: it is being made a request. The last three are for ever. */
export type OpenedState = 'open' | 'closing' | 'closed' | 'expired' | 'abandoned';

/** What the request will say beside its parts, when its end was told before they were all there. */
export interface Sealed extends Pick<Ask, 'priority' | 'traceparent' | 'tracestate' | 'hearsParts'> {
  readonly hearsAmended?: boolean;
}

export interface Opened {
  readonly flow: string;
  readonly principal: string;
  readonly state: OpenedState;
  /** That of all its parts. Absent: there is none yet. */
  readonly contentType?: string;
  /** Of each part, by its number less 1; `null`: it has not come. */
  readonly sizes: readonly (number | null)[];
  readonly openedAt: number;
  /** Of the last change. */
  readonly updatedAt: number;
  readonly expiresAt: number;
  /** Its requestor is reminded then; absent: it was, or there is no need. */
  readonly remindAt?: number;
  /** When its requestor was reminded, since the last part. */
  readonly remindedAt?: number;
  /** How many parts it has. */
  readonly total?: number;
  /** It is closed as soon as all are there. */
  readonly sealed?: Sealed;
  /** The request that it is; not its own id when that came before with the same Idempotency-Key. */
  readonly requestId?: string;
  /** Where its requestor hears of it. */
  readonly forward?: ForwardAddress;
}

/** A part, as its own dossier tells of it. */
export interface PartData {
  readonly sequence: number;
  /** Of content type and body. */
  readonly digest: string;
}

/** A part that arrives. */
export interface Arriving {
  /** 1, 2, 3, … */
  readonly sequence: number;
  readonly size: number;
  readonly contentType: string;
}

export const openedIn = ({ data }: Pick<Dossier, 'data'>): Opened => data as Opened;
export const partIdOf = (id: string, sequence: number): string => deriveId(id, partKind, sequence);

/** List of those that a principal has open. */
export const openOf = (principal: string): string => `opened:${principal}`;

export const isArriving = ({ state }: Pick<Opened, 'state'>): boolean => state === 'open' || state === 'closing';

/** The next version of its dossier. One that has ended is looked at once more, for its parts to be dropped. */
export const nextOf = (data: Opened): Next =>
  isArriving(data)
    ? { data, index: { [openOf(data.principal)]: data.openedAt }, wakeAt: data.remindAt ?? data.expiresAt }
    : { data, wakeAt: data.updatedAt };

/** Nobody wants it any more, or its request has ended. */
export const withdrawnOpened = (_id: string, data: unknown): Pick<Next, 'data'> => ({
  data: isArriving(data as Opened) ? { ...(data as Opened), state: 'expired' } : data,
});
export const withdrawnPart = (_id: string, data: unknown): Pick<Next, 'data' | 'isEmptied'> => ({ data, isEmptied: true });

export function opened(about: Pick<Opened, 'flow' | 'principal' | 'forward'>, limits: PartsLimits, now: number): Opened {
  return renewed({ ...about, state: 'open', sizes: [], openedAt: now, updatedAt: now, expiresAt: now }, limits, now);
}

/** Its requestor was heard of: the lease begins anew. */
function renewed({ remindAt: _due, remindedAt: _before, ...data }: Opened, { leaseMs }: Pick<PartsLimits, 'leaseMs'>, now: number): Opened {
  const expiresAt = Math.min(now + leaseMs, data.openedAt + longestMs);
  const remindAt = now + Math.round(leaseMs * remindAfter);
  return { ...data, updatedAt: now, expiresAt, ...(data.state === 'open' && remindAt < expiresAt ? { remindAt } : {}) };
}

const total = (sizes: Opened['sizes']): number => sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
const hasPart = ({ sizes }: Opened, sequence: number): boolean => typeof sizes[sequence - 1] === 'number';
const isJson = (contentType: string): boolean => contentType === 'application/json';

/** The content type by which parts are put together: all JSON is one. */
export const typeOf = (contentType: string): string =>
  /^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(contentType) ? 'application/json' : contentType;

/**
 * With one part more, or the same when that part is counted already. Throws a Fault when it cannot be taken; then nothing changes.
 */
export function withPart(id: string, data: Opened, part: Arriving, limits: PartsLimits, now: number): Opened {
  const { sequence, size, contentType } = part;
  const isCounted = hasPart(data, sequence);
  if (isCounted && (data.state === 'closing' || data.state === 'closed')) return data;
  refuseUnlessOpen(id, data);
  if (!isCounted) refuseTooMuch(data, part, limits);
  if (!isCounted && data.contentType !== undefined && data.contentType !== contentType)
    throw new Fault(
      'invalid',
      `part ${sequence} is ${contentType}, and those before it are ${data.contentType}: all parts of a request have one content type`,
      { reason: 'part' },
    );
  const sizes = Array.from({ length: Math.max(data.sizes.length, sequence) }, (_, index) =>
    index === sequence - 1 ? size : (data.sizes[index] ?? null),
  );
  const isAll = data.sealed !== undefined && missingOf(sizes, data.total).length === 0;
  const counted = isCounted ? {} : { contentType, sizes };
  return renewed({ ...data, ...counted, ...(isAll ? { state: 'closing' } : {}) }, limits, now);
}

function refuseTooMuch({ flow, sizes, total: said }: Opened, { sequence, size }: Arriving, limits: PartsLimits): void {
  const tooLarge = (detail: string) => new Fault('invalid', detail, { reason: 'too-large' });
  if (sequence > limits.count) throw tooLarge(`there can be no part ${sequence}: flow ${flow} takes ${limits.count} parts at most`);
  if (said !== undefined && sequence > said)
    throw new Fault('invalid', `there can be no part ${sequence}: the request was said to have ${said}`, { reason: 'part' });
  if (size > limits.size) throw tooLarge(`part ${sequence} has ${size} bytes: flow ${flow} takes ${limits.size} a part at most`);
  if (total(sizes) + size > limits.total)
    throw tooLarge(`with part ${sequence} the request has ${total(sizes) + size} bytes: flow ${flow} takes ${limits.total} in all at most`);
}

const refuseUnlessOpen = (id: string, data: Opened): void => {
  const refusal = refusalOf(openedStatus(id, data));
  if (refusal !== undefined) throw refusal;
};

/** Why nothing more can be added, and how to mend it; undefined while it is open. */
export function refusalOf({ id, state, flow, expiresAt, missing, total: said }: OpenedStatus): Fault | undefined {
  const details = { requestId: id };
  const otherwise = `open another one at POST /requests/${flow}/parts`;
  if (state === 'closing' || state === 'closed')
    return new Fault('rejected', `request ${id} is closed with ${said} parts: it takes no others`, { ...details, reason: 'closed' });
  if (state === 'abandoned') return new Fault('rejected', `request ${id} was abandoned: ${otherwise}`, { ...details, reason: 'abandoned' });
  if (state === 'expired')
    return new Fault(
      'timeout',
      `request ${id} was not closed before its lease ended at ${new Date(expiresAt).toISOString()}${missingText(missing, said)}: its parts are dropped. ` +
        `To mend it, ${otherwise} and send them again; each part renews the lease`,
      { ...details, reason: 'expired' },
    );
  return undefined;
}

/** Its end was told: it has so many parts. Says whether all are there; `sealed`: it waits for those that are not. */
export function withEnd(id: string, data: Opened, count: number, limits: PartsLimits, now: number, sealed?: Sealed): Opened {
  if (data.total === count && (data.state === 'closing' || data.state === 'closed')) return data;
  refuseUnlessOpen(id, data);
  const { length } = data.sizes;
  if (length > count || (data.total !== undefined && data.total !== count && data.sealed !== undefined))
    throw new Fault('rejected', `request ${id} has ${Math.max(length, data.total ?? 0)} parts, not ${count}`, {
      reason: 'parts',
      requestId: id,
    });
  const missing = missingOf(data.sizes, count);
  if (missing.length === 0)
    return renewed({ ...data, state: 'closing', total: count, ...(sealed === undefined ? {} : { sealed }) }, limits, now);
  if (sealed !== undefined) return renewed({ ...data, total: count, sealed }, limits, now);
  throw new Fault('rejected', `request ${id} cannot be closed${missingText(missing, count)}: send what is missing, then close it again`, {
    reason: 'missing-parts',
    requestId: id,
  });
}

/** It is no request yet, since that was refused, or nobody knows why: more can be done about it. What was sealed stays so. */
export function reopened({ total: said, ...data }: Opened, now: number, leaseMs = data.expiresAt - data.updatedAt): Opened {
  const sealed = data.sealed === undefined || said === undefined ? {} : { total: said };
  return renewed({ ...data, ...sealed, state: 'open' }, { leaseMs }, now);
}

export function ended(data: Opened, state: 'closed' | 'expired' | 'abandoned', now: number, requestId?: string): Opened {
  const { remindAt: _due, ...rest } = data;
  return { ...rest, state, updatedAt: now, ...(requestId === undefined ? {} : { requestId }) };
}

/** What its time has come for. Nobody's lease ends who was not reminded: the hubs may have been away for longer than that. */
export function dueAt(data: Opened, now: number): 'expire' | 'remind' | undefined {
  if (!isArriving(data)) return undefined;
  if (now >= data.openedAt + longestMs) return 'expire';
  if (data.remindAt !== undefined) return data.remindAt <= now ? 'remind' : undefined;
  return data.expiresAt <= now ? 'expire' : undefined;
}

/** Now it has as long as it would have had in time. */
export function reminded({ remindAt, ...data }: Opened, now: number): Opened {
  const expiresAt = Math.min(Math.max(data.expiresAt, now + data.expiresAt - (remindAt ?? now)), data.openedAt + longestMs);
  return { ...data, expiresAt, remindedAt: now };
}

/** The numbers up to `count` that are not there. */
export const missingOf = (sizes: Opened['sizes'], count = sizes.length): number[] =>
  Array.from({ length: count }, (_, index) => index + 1).filter((sequence) => typeof sizes[sequence - 1] !== 'number');

/** `: parts 3, 7-9 of 12 are missing`, or nothing. */
function missingText(missing: readonly number[], count?: number): string {
  if (missing.length === 0) return '';
  const runs: [number, number][] = [];
  for (const sequence of missing) {
    const last = runs.at(-1);
    if (last?.[1] === sequence - 1) last[1] = sequence;
    else runs.push([sequence, sequence]);
  }
  const shown = runs.slice(0, 20).map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`));
  const of = count === undefined ? '' : ` of ${count}`;
  return `: ${missing.length === 1 ? 'part' : 'parts'} ${shown.join(', ')}${runs.length > shown.length ? ', …' : ''}${of} ${missing.length === 1 ? 'is' : 'are'} missing`;
}

/** The body of the request: of JSON parts the list, of any others one after the other, byte for byte. */
export function together(contentType: string, parts: readonly Buffer[]): Buffer {
  if (!isJson(contentType)) return Buffer.concat(parts);
  const comma = Buffer.from(',');
  const between = parts.flatMap((part, index) => (index === 0 ? [part] : [comma, part]));
  return Buffer.concat([Buffer.from('['), ...between, Buffer.from(']')]);
}

/** What its requestor may know. Times are ms since 1970. */
export interface OpenedStatus {
  readonly id: string;
  readonly flow: string;
  readonly state: OpenedState;
  readonly contentType?: string;
  /** How many parts are here, and their bytes in all. */
  readonly received: number;
  readonly bytes: number;
  /** Numbers that have not come, up to the end, or to the highest that has. */
  readonly missing: readonly number[];
  /** How many parts it has, once that was said. */
  readonly total?: number;
  readonly openedAt: number;
  readonly updatedAt: number;
  /** When it ends unless it is heard of. */
  readonly expiresAt: number;
  readonly remindedAt?: number;
  /** Where its requestor is called back. */
  readonly callback?: string;
  /** The request that it is, once it is closed. */
  readonly requestId?: string;
}

export function openedStatus(id: string, data: Opened): OpenedStatus {
  const { flow, state, contentType, sizes, total: said, openedAt, updatedAt, expiresAt, remindedAt, forward, requestId } = data;
  const missing = missingOf(sizes, said);
  return {
    id,
    flow,
    state,
    ...(contentType === undefined ? {} : { contentType }),
    received: sizes.length - missingOf(sizes).length,
    bytes: total(sizes),
    missing,
    ...(said === undefined ? {} : { total: said }),
    openedAt,
    updatedAt,
    expiresAt,
    ...(remindedAt === undefined ? {} : { remindedAt }),
    ...(forward?.callback === undefined ? {} : { callback: forward.callback }),
    ...(requestId === undefined ? {} : { requestId }),
  };
}

/** The same as JSON for others. */
export const openedDocument = ({ openedAt, updatedAt, expiresAt, remindedAt, ...status }: OpenedStatus) => ({
  ...status,
  openedAt: new Date(openedAt).toISOString(),
  updatedAt: new Date(updatedAt).toISOString(),
  expiresAt: new Date(expiresAt).toISOString(),
  ...(remindedAt === undefined ? {} : { remindedAt: new Date(remindedAt).toISOString() }),
});
