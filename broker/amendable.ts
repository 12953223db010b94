/**
 * What messages and records say of results that late parts may amend (`amend.ts`): a result how many are missing and which parts count in it,
 * so that a rebuild knows; a correction of which group it is, and how many late parts count in it.
 */
import type { Envelope } from './envelope.js';
import type { Amendable, Amendment, Outcome, RequestRecord } from './store.js';
import type { Delivery, HeaderValue, Headers, Message } from './transport.js';

/** What a flow says of parts that come late. */
interface Amends {
  readonly late?: 'journal' | 'amend';
  readonly amendForMs?: number;
}

/** Until when the result of this aggregator's group may be amended, ms since 1970; undefined when its late parts are journalled and nothing more. */
export function amendsUntil(flow: Amends | undefined, envelope: Envelope, now: number): number | undefined {
  const { slip, groups, replyTo, recorded, deadline } = envelope;
  // What follows the last step is the reply; and without a record there is nothing to amend.
  if (flow?.late !== 'amend' || slip.length !== 1 || groups.length !== 1 || replyTo === undefined || !recorded) return undefined;
  return Math.min(deadline, now + (flow.amendForMs ?? Infinity));
}

/** What a result says of its group where it may be amended. `counted`: indexes of the parts that count, late ones last, in their order. */
export interface Counted {
  readonly amendable: Amendable;
  readonly counted: readonly number[];
}

export const countedHeaders = ({ amendable, counted }: Counted): Record<string, HeaderValue> => ({
  ...amendableHeaders(amendable),
  'hub-counted': counted.join(' '),
});

export const amendableHeaders = ({ missing, until }: Amendable): Record<string, HeaderValue> => ({
  'hub-missing': missing,
  'hub-amend-until': until,
});

export function amendableIn(headers: Headers | undefined): Amendable | undefined {
  const { 'hub-missing': missing, 'hub-amend-until': until } = headers ?? {};
  return typeof missing === 'number' && typeof until === 'number' ? { missing, until } : undefined;
}

export function countedIn(headers: Headers | undefined): Counted | undefined {
  const amendable = amendableIn(headers);
  const text = headers?.['hub-counted'];
  if (amendable === undefined || typeof text !== 'string') return undefined;
  return { amendable, counted: text === '' ? [] : text.split(' ').map(Number) };
}

export interface Corrects {
  readonly group: string;
  readonly rank: number;
  /** Whose part made it. */
  readonly by: string;
}

/** Says of a result that it is a correction. */
export const correctsHeaders = ({ group, rank, by }: Corrects): Record<string, HeaderValue> => ({
  'hub-amended-group': group,
  'hub-amends': rank,
  'hub-amended-by': by,
});

/** What a message says that is a correction; undefined for any other. */
export function correctsIn({ headers = {} }: Pick<Message, 'headers'>): Corrects | undefined {
  const { 'hub-amended-group': group, 'hub-amends': rank, 'hub-amended-by': by } = headers;
  if (typeof group !== 'string' || typeof rank !== 'number' || typeof by !== 'string') return undefined;
  return { group, rank, by };
}

/** Says in the journal which version a correction became. */
export const versionHeader = (version: number): Record<string, HeaderValue> => ({ 'hub-reply-version': version });

/** The version that a journal entry tells of, whose body is `outcome`; undefined when it tells of none. */
export function amendmentIn(delivery: Delivery, outcome: Outcome): Amendment | undefined {
  const { 'hub-note': note, 'hub-reply-version': version } = delivery.headers;
  const corrects = correctsIn(delivery);
  if (note !== 'amended' || typeof version !== 'number' || corrects === undefined) return undefined;
  return { version, rank: corrects.rank, by: corrects.by, outcome };
}

/** Until when a further version may come, ms since 1970; undefined when this is the last, whatever comes. */
export function amendableUntil({ outcome, amended }: Pick<RequestRecord, 'outcome' | 'amended'>): number | undefined {
  if (outcome?.amendable === undefined) return undefined;
  return (amended ?? outcome.amendable).missing > 0 ? outcome.amendable.until : undefined;
}

export const mayBeAmended = (record: Pick<RequestRecord, 'outcome' | 'amended'>, now: number): boolean =>
  now < (amendableUntil(record) ?? -Infinity);
