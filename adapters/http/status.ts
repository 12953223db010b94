/** The status document of a request, and when to look again. */
import { createHash } from 'node:crypto';
import type { CallbackStatus } from '../../broker/callback.js';
import type { Status } from '../../broker/gateway.js';
import { openedDocument, type OpenedStatus } from '../../broker/opened.js';
import type { Story, StoryLine } from '../../broker/story.js';
import { statusOf } from '../../broker/waiting.js';

export interface StatusDocument extends Omit<
  Status,
  'acceptedAt' | 'updatedAt' | 'deadline' | 'endedAt' | 'amendableUntil' | 'questions' | 'conversation'
> {
  readonly questions?: readonly object[];
  readonly acceptedAt: string;
  readonly updatedAt: string;
  readonly deadline: string;
  readonly endedAt?: string;
  readonly amendableUntil?: string;
  readonly links: {
    readonly self: string;
    readonly reply: string;
    readonly events: string;
    readonly cancel: string;
    readonly answers?: string;
    readonly callback?: string;
  };
}

export function statusDocument(status: Status): StatusDocument {
  const self = `/requests/${status.id}`;
  const {
    id,
    flow,
    state,
    key,
    step,
    attempt,
    waitingOn,
    questions,
    progress,
    callback,
    deadline,
    acceptedAt,
    updatedAt,
    endedAt,
    version,
    amendableUntil,
  } = status;
  return {
    id,
    flow,
    state,
    ...(key === undefined ? {} : { key }),
    ...(step === undefined ? {} : { step }),
    ...(attempt === undefined ? {} : { attempt }),
    ...(waitingOn === undefined ? {} : { waitingOn }),
    ...(questions === undefined ? {} : { questions: questions.map((one) => ({ ...one, askedAt: iso(one.askedAt) })) }),
    ...(progress === undefined ? {} : { progress }),
    ...(callback === undefined ? {} : { callback }),
    deadline: iso(deadline),
    acceptedAt: iso(acceptedAt),
    updatedAt: iso(updatedAt),
    ...(endedAt === undefined ? {} : { endedAt: iso(endedAt) }),
    ...(version === undefined ? {} : { version }),
    ...(amendableUntil === undefined ? {} : { amendableUntil: iso(amendableUntil) }),
    links: {
      self,
      reply: `${self}/reply`,
      events: `${self}/events`,
      cancel: self,
      ...(questions === undefined ? {} : { answers: `${self}/answers` }),
      ...(callback === undefined ? {} : { callback: `${self}/callback` }),
    },
  };
}

/** How a request stands that arrives in parts. */
export function openedStatusDocument(status: OpenedStatus): object {
  const self = `/requests/${status.id}`;
  const links = { self, parts: `${self}/parts/{n}`, close: `${self}/close`, events: `${self}/events`, abandon: self };
  return { ...openedDocument(status), links };
}

/** How far calling back is, attempt by attempt. */
export function callbackDocument(requestId: string, { callback, webhookId, version, state, attempts, nextAt }: CallbackStatus): object {
  return {
    requestId,
    callback,
    webhookId,
    ...(version === undefined ? {} : { version }),
    state,
    attempts: attempts.map(({ at, ...attempt }) => ({ at: iso(at), ...attempt })),
    ...(nextAt === undefined ? {} : { nextAt: iso(nextAt) }),
  };
}

export interface StoryDocument extends Omit<StatusDocument, 'waitingOn'> {
  readonly waitingOn: Story['waitingOn'];
  readonly requestor: { readonly kind: Story['requestor']['kind']; readonly until?: string };
  readonly story: readonly (Omit<StoryLine, 'at'> & { readonly at: string })[];
  readonly parts: Story['parts'];
  readonly mayCancel: boolean;
}

/** The story of a request; `mayCancel`: whoever reads it may. */
export function storyDocument({ record, waitingOn, requestor, lines, parts }: Story, mayCancel: boolean): StoryDocument {
  const isOver = record.shown && record.outcome !== undefined;
  return {
    ...statusDocument(statusOf(record)),
    waitingOn,
    requestor: { kind: requestor.kind, ...(requestor.until === undefined ? {} : { until: iso(requestor.until) }) },
    story: lines.map((line) => ({ ...line, at: iso(line.at) })),
    parts,
    mayCancel: mayCancel && !isOver,
  };
}

/** Seconds until another look is worth it: a tenth of the age, so that what takes long is polled rarely. */
export function retryAfterSeconds(status: Status, now: number): number {
  return Math.min(60, Math.max(1, Math.round((now - status.acceptedAt) / 10_000)));
}

/** A strong entity tag of these bytes. */
export const etagOf = (body: Buffer): string => `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;

/** That of a version of a reply: two may have the same bytes. */
export const versionTag = (body: Buffer, version: number): string => etagOf(body).replace('"', `"${version}.`);

export const iso = (ms: number): string => new Date(ms).toISOString();
