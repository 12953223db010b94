/**
 * The rules of a job's dossier, as pure functions for `dossiers.change`. Each start of an attempt takes the next token; whoever has an older
 * one (its process stood still while another one took over) may change nothing any more (fencing token).
 */
import type { Decided, Next } from '../broker/dossiers.js';
import type { Envelope } from '../broker/envelope.js';
import { Fault, faultBody, readFault, type FaultBody } from '../broker/fault.js';
import { raw, written, type SplitPart, type Verdict } from '../broker/step.js';
import type { Dossier } from '../broker/store.js';

export interface JobData {
  /** `finished`: it has its outcome, which is on its way. `done`: it has left. */
  readonly state: 'waiting' | 'running' | 'finished' | 'done';
  /** Which attempt runs, or is the next one; from 1. */
  readonly attempt: number;
  /** Of the latest start. */
  readonly token: number;
  /** Who runs it. */
  readonly by?: string;
  /** The next attempt is not begun before (ms since 1970). */
  readonly notBefore?: number;
  /** How many starts one after the other came to no end, nor to a checkpoint: their processes died. */
  readonly unfinished: number;
  /** What the last checkpoint said. */
  readonly checkpoint?: { readonly state: unknown };
  readonly outcome?: JobOutcome;
  /** Only of a step whose jobs may be interrupted: whether it interrupts, or is interrupted. */
  readonly rank?: Rank;
  /** When it was begun, or wrote its last checkpoint: what it did since is lost when it is interrupted. */
  readonly savedAt?: number;
  /** The urgent one that it is to give way to. */
  readonly givesWayTo?: string;
  /** It gave way and has written no checkpoint since: it is left alone until it does, so that it comes to an end. */
  readonly gaveWay?: true;
  /** When one that is urgent last had another one interrupted. */
  readonly overtookAt?: number;
}

export type Rank = 'urgent' | 'interruptible';

interface Bytes {
  /** Base64. */
  readonly body: string;
  readonly contentType: string;
  readonly contentEncoding?: string;
}

/** What a job came to, as JSON. */
export type JobOutcome =
  | ({ readonly go: 'on'; readonly slip?: readonly string[]; readonly extra?: Envelope['extra'] } & Bytes)
  | { readonly go: 'apart'; readonly parts: readonly (Omit<SplitPart, 'body'> & Bytes)[]; readonly into?: string }
  | { readonly go: 'fault'; readonly fault: FaultBody; readonly isDead: boolean };

/** While nothing happens, somebody looks as often as this whether a job is where jobs are handed out. */
export const lookEveryMs = 30_000;
/** So soon somebody looks whether an urgent one was begun: whoever is free begins it within milliseconds. */
export const lookSoonMs = 250;
/** Whoever takes it dies. */
const unfinishedLimit = 5;

export const newJob = (rank: Rank | undefined): JobData => ({
  state: 'waiting',
  attempt: 1,
  token: 0,
  unfinished: 0,
  ...(rank === undefined ? {} : { rank }),
});

/** How long one that waits is left alone. */
export const lookMs = ({ rank }: JobData): number => (rank === 'urgent' ? lookSoonMs : lookEveryMs);

/** List of the running jobs of a step that may be interrupted: the one that loses least by it has the highest place. */
export const interruptibleOf = (step: string): string => `job:interruptible:${step}`;

const mayBeInterrupted = ({ state, rank, givesWayTo, gaveWay }: JobData): boolean =>
  state === 'running' && rank === 'interruptible' && givesWayTo === undefined && gaveWay === undefined;

/** What a dossier becomes: found in the list above for as long as it is to be. */
const nextOf = ({ step }: Pick<Dossier, 'step'>, data: JobData, wakeAt: number): Next => ({
  data,
  wakeAt,
  ...(mayBeInterrupted(data) ? { index: { [interruptibleOf(step)]: data.savedAt ?? 0 } } : {}),
});

const dataOf = ({ data }: Pick<Dossier, 'data'>): JobData => data as JobData;

export type Begun =
  | { readonly go: 'on'; readonly dossier: Dossier; readonly data: JobData }
  | { readonly go: 'later'; readonly inMs: number }
  /** There is nothing to do, or nothing any more. */
  | { readonly go: 'nowhere' };

/** Somebody starts an attempt. `by` names this start: asked again, it is the same one. */
export const begin =
  (by: string, deadline: number) =>
  (current: Dossier, now: number): Decided<Begun> => {
    const data = dataOf(current);
    const nowhere: Decided<Begun> = { result: { go: 'nowhere' } };
    if (!current.isOpen || data.outcome !== undefined || deadline <= now) return nowhere;
    if (data.by === by) return { result: { go: 'on', dossier: current, data } };
    const { notBefore = 0, state, token, unfinished } = data;
    if (notBefore > now) return { result: { go: 'later', inMs: notBefore - now } };
    if (state === 'running' && unfinished + 1 >= unfinishedLimit) {
      const fault = new Fault('internal', `begun ${unfinished + 1} times and never ended: whoever takes it dies`);
      const dead: JobData = { ...data, state: 'finished', outcome: { go: 'fault', fault: faultBody(fault), isDead: true } };
      return { next: nextOf(current, dead, now), result: nowhere.result };
    }
    // One that was told to give way, and whose process died over it, has given way.
    const { givesWayTo, overtookAt: _overtookAt, ...rest } = data;
    const begun: JobData = {
      ...rest,
      state: 'running',
      by,
      token: token + 1,
      unfinished: state === 'running' ? unfinished + 1 : 0,
      savedAt: now,
      ...(givesWayTo === undefined ? {} : { gaveWay: true }),
    };
    return { next: nextOf(current, begun, now + lookEveryMs), result: { go: 'on', dossier: current, data: begun } };
  };

/** `withdrawn`: nobody wants it any more. `superseded`: somebody else has begun it since. */
export type Kept = 'kept' | 'withdrawn' | 'superseded';

/** A change that only the latest start may make. */
const byLatest =
  (token: number, change: (data: JobData, now: number) => { readonly data: JobData; readonly wakeAt: number }) =>
  (current: Dossier, now: number): Decided<Kept> => {
    const data = dataOf(current);
    if (data.token !== token) return { result: 'superseded' };
    if (!current.isOpen) return { result: data.state === 'done' ? 'kept' : 'withdrawn' };
    // It was kept already by the same one, who was not told so.
    if (data.outcome !== undefined) return { result: 'kept' };
    const { data: next, wakeAt } = change(data, now);
    return { next: nextOf(current, next, wakeAt), result: 'kept' };
  };

export const checkpointed = (token: number, state: unknown) =>
  byLatest(token, ({ gaveWay: _gaveWay, ...data }, now) => ({
    data: { ...data, unfinished: 0, checkpoint: { state }, savedAt: now },
    wakeAt: now + lookEveryMs,
  }));

/** It has come to its end: its step is rung at once. */
export const finished = (token: number, outcome: JobOutcome) =>
  byLatest(token, (data, now) => ({ data: { ...data, state: 'finished', outcome }, wakeAt: now }));

/** The attempt failed; the next one begins after `pauseMs`. */
export const failed = (token: number, pauseMs: number) =>
  byLatest(token, ({ by: _by, givesWayTo: _givesWayTo, ...data }, now) => ({
    data: { ...data, state: 'waiting', attempt: data.attempt + 1, notBefore: now + pauseMs },
    wakeAt: now + pauseMs + lookMs(data),
  }));

/** Its process stops: somebody else goes on, with the same attempt. */
export const givenBack = (token: number) =>
  byLatest(token, ({ by: _by, givesWayTo: _givesWayTo, ...data }, now) => ({
    data: { ...data, state: 'waiting' },
    wakeAt: now + lookMs(data),
  }));

/** It was interrupted: somebody goes on once the urgent ones are begun, with the same attempt. */
export const gaveWay = (token: number) =>
  byLatest(token, ({ by: _by, givesWayTo: _givesWayTo, ...data }, now) => ({
    data: { ...data, state: 'waiting', gaveWay: true },
    wakeAt: now + lookEveryMs,
  }));

/**
 * Nobody was free for this urgent one: may it have another one interrupted? Once in `againMs`, in which that one ends or its
 * process is dead.
 */
export const overtakes =
  (againMs: number) =>
  (current: Dossier, now: number): Decided<boolean> => {
    const data = dataOf(current);
    const { state, rank, notBefore = 0, overtookAt = -Infinity } = data;
    if (!current.isOpen || state !== 'waiting' || rank !== 'urgent' || notBefore > now || overtookAt + againMs > now)
      return { result: false };
    return { next: nextOf(current, { ...data, overtookAt: now }, now + againMs), result: true };
  };

/** This one is to give way to an urgent one; false: it is not to any more. */
export const toldToGiveWay =
  (urgent: string) =>
  (current: Dossier, now: number): Decided<boolean> => {
    const data = dataOf(current);
    if (!current.isOpen || !mayBeInterrupted(data)) return { result: false };
    return { next: nextOf(current, { ...data, givesWayTo: urgent }, now + lookEveryMs), result: true };
  };

/** Is whoever has this token still to go on? */
export function standing({ isOpen, data }: Pick<Dossier, 'isOpen' | 'data'>, token: number): Kept | 'interrupted' {
  const { token: latest, givesWayTo } = dataOf({ data });
  if (latest !== token) return 'superseded';
  if (!isOpen) return 'withdrawn';
  return givesWayTo === undefined ? 'kept' : 'interrupted';
}

/** What is left of it once its outcome has gone. */
export const gone = ({ outcome: _outcome, checkpoint: _checkpoint, ...data }: JobData): JobData => ({ ...data, state: 'done' });

/** What a handler returned, to be kept. */
export function outcomeOf(verdict: Verdict): JobOutcome {
  switch (verdict.go) {
    case 'on': {
      const { slip, change } = verdict;
      return {
        go: 'on',
        ...kept(verdict),
        ...(slip === undefined ? {} : { slip }),
        ...(change?.extra === undefined ? {} : { extra: change.extra }),
      };
    }
    case 'apart': {
      const { parts, into } = verdict;
      return {
        go: 'apart',
        parts: parts.map(({ body, ...part }) => ({ ...part, ...kept(written(body)) })),
        ...(into === undefined ? {} : { into }),
      };
    }
    default:
      throw new Error(`a job cannot end as "${verdict.go}"`);
  }
}

/** How an outcome leaves by the runner. */
export function verdictFor(dossier: Dossier, id: (index: string | number) => string, afterwards: () => Promise<void>): Verdict | undefined {
  const { outcome } = dataOf(dossier);
  switch (outcome?.go) {
    case undefined:
      return undefined;
    case 'on': {
      const { slip, extra } = outcome;
      return { go: 'on', ...bytesOf(outcome), ...(slip === undefined ? {} : { slip }), change: { id: id(0), extra }, afterwards };
    }
    case 'apart': {
      const { parts, into } = outcome;
      return {
        go: 'apart',
        of: dossier.id,
        parts: parts.map(({ name, steps, ...bytes }) => {
          const { body, contentType, contentEncoding } = bytesOf(bytes);
          return {
            body: raw(body, contentType, contentEncoding),
            ...(name === undefined ? {} : { name }),
            ...(steps === undefined ? {} : { steps }),
          };
        }),
        ...(into === undefined ? {} : { into }),
        afterwards,
      };
    }
    case 'fault': {
      const fault = readFault(Buffer.from(JSON.stringify(outcome.fault)));
      return { go: 'fault', fault, id: id('fault'), ...(outcome.isDead ? { dead: dossier.message } : {}), afterwards };
    }
  }
}

const kept = ({ body, contentType, contentEncoding }: ReturnType<typeof written>): Bytes => ({
  body: body.toString('base64'),
  contentType,
  ...(contentEncoding === undefined ? {} : { contentEncoding }),
});

const bytesOf = ({ body, contentType, contentEncoding }: Bytes): ReturnType<typeof written> => ({
  body: Buffer.from(body, 'base64'),
  contentType,
  ...(contentEncoding === undefined ? {} : { contentEncoding }),
});
