/** When a callback is posted, and what each attempt means: rules over its dossier's data, without effects. */
import type { CallbackAttempt, CallbackData } from '../../broker/callback.js';
import { deriveId } from '../../broker/envelope.js';
import type { Answered } from './post.js';

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** How long after the one before each attempt is due (Standard Webhooks 1.0): 75 hours in all. */
export const scheduleMs = [0, 5 * second, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour] as const;
/** Whoever posts has ended after this long, or has died. */
export const leaseMs = 40 * second;
/** The hub that rings and the worker that is rung may differ by so much. */
const skewMs = second;
const longestRetryAfterMs = 24 * hour;

/** What becomes of the dossier: its data, and when to look again. */
export interface Turn {
  readonly data: CallbackData;
  readonly wakeAt?: number;
}

/** An attempt begins, by `by`, which nobody else is; undefined: it is not its time, somebody is at it, or it is over. */
export function begun(
  { data, wakeAt }: { readonly data: CallbackData; readonly wakeAt?: number },
  by: string,
  now: number,
): Turn | undefined {
  if (data.state === 'delivered' || data.state === 'failed' || (wakeAt ?? 0) > now + skewMs) return undefined;
  const { since, by: _before, ...rest } = data;
  // Whoever posted last time died over it, or was away for long: that attempt counts.
  const attempts = since === undefined ? data.attempts : [...data.attempts, { at: since }];
  return { data: { ...rest, attempts, state: 'posting', since: now, by }, wakeAt: now + leaseMs };
}

/** What an attempt that began at `data.since` came to. `id` spreads what is due again; nothing is due after `until`. */
export function ended(data: CallbackData, { status, error, retryAfterMs = 0 }: Answered, id: string, now: number, until: number): Turn {
  const { since = now, by: _by, ...rest } = data;
  const attempt: CallbackAttempt = {
    at: since,
    tookMs: now - since,
    ...(status === undefined ? {} : { status }),
    ...(error === undefined ? {} : { error }),
  };
  const attempts = [...data.attempts, attempt];
  if (status !== undefined && status >= 200 && status < 300) return { data: { ...rest, attempts, state: 'delivered' } };
  const planned = scheduleMs[attempts.length];
  const dueAt = now + Math.max(spread(planned ?? 0, id, attempts.length), Math.min(retryAfterMs, longestRetryAfterMs));
  // 410: the receiver wants no more of it.
  if (status === 410 || planned === undefined || dueAt >= until) return { data: { ...rest, attempts, state: 'failed' } };
  return { data: { ...rest, attempts, state: 'waiting' }, wakeAt: dueAt };
}

/** Up to a tenth longer: whoever was away is not called by all at once when it is back. */
const spread = (ms: number, id: string, n: number): number =>
  Math.round(ms * (1 + Number.parseInt(deriveId(id, 'spread', n).slice(0, 4), 16) / 0xffff / 10));

/** In one sentence, for people. */
export function saidOf({ status, error }: CallbackAttempt): string {
  if (status === 410) return 'answered 410: it wants no more callbacks';
  if (status !== undefined && status >= 300 && status < 400) return `answered ${status}: redirects are not followed`;
  return status === undefined ? (error ?? 'it is not known what came of it: whoever posted it died') : `answered ${status}`;
}
