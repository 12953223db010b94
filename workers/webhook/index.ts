/**
 * The built-in step that calls requestors back (EIP: Channel Adapter). What comes to it is the outcome of a request, as a message of its own
 * (`broker/callback.ts`). It is kept as a dossier, and each ring is an attempt: journalled that it begins, posted, journalled what came of
 * it. A process that dies in between leaves an attempt of which nothing is known, and the next one posts again: at least once, always with the
 * same `webhook-id`.
 */
import { randomUUID } from 'node:crypto';
import { calledBack, callbackKind, callbacksOf, callbackStep, type CallbackData } from '../../broker/callback.js';
import { pause } from '../../broker/clock.js';
import { onwardsFrom } from '../../broker/dossiers.js';
import type { Envelope } from '../../broker/envelope.js';
import { Fault, messageOf } from '../../broker/fault.js';
import type { Step, StepTools, Verdict } from '../../broker/step.js';
import { stateOf, type Dossier, type Outcome } from '../../broker/store.js';
import { version } from '../../broker/version.js';
import { decode, isUndecodable } from '../../broker/wire.js';
import { begun, ended, saidOf } from './attempts.js';
import { poster, type Answered, type Outgoing, type Post } from './post.js';
import { signed } from './signature.js';
import type { Target, Targets } from './targets.js';

export { keyOf } from './signature.js';
export { targetsOf, type Target, type Targets } from './targets.js';

export interface WebhookOptions {
  readonly targets: Targets;
  /** What a requestor reads in place of a reply: problem+json (RFC 9457). */
  readonly problemOf: (outcome: Outcome, requestId: string) => object;
  readonly post?: Post;
}

/** How many attempts one process makes at a time at one target: one that hangs must not keep the others waiting. */
const atOncePerTarget = 20;
/** How long an attempt waits for its turn there, and how often it looks. */
const patienceMs = 2_000;
const lookMs = 20;

export function webhook({ targets, problemOf, post = poster() }: WebhookOptions): Step {
  const busy = new Map<string, number>();

  async function run(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    return envelope.type === 'event' ? rung(envelope, tools) : parked(envelope, tools);
  }

  async function parked(envelope: Envelope, { dossiers, clock }: StepTools): Promise<Verdict> {
    const about = calledBack(envelope);
    if (about === undefined) throw new Fault('invalid', `only the hub sends to ${callbackStep}`);
    const { principal } = envelope;
    const data: CallbackData = { ...about, ...(principal === undefined ? {} : { principal }), state: 'waiting', attempts: [] };
    await dossiers.park(callbackKind, envelope, { data, index: indexOf(data, envelope.at), wakeAt: clock.now() });
    return { go: 'nowhere' };
  }

  async function rung(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    const { dossiers } = tools;
    const dossier = await dossiers.rung(envelope);
    const parkedEnvelope = dossier && envelopeIn(dossier);
    if (dossier === undefined || parkedEnvelope === undefined) return { go: 'nowhere' };
    const { callback, principal, state } = dossier.data as CallbackData;
    // Whoever posted it died before this was said.
    if (state === 'delivered') return done(dossier);
    const found = targets.find(callback, principal);
    const place = found?.target.name ?? '';
    const leave = await enter(place, tools);
    // Not begun: it is rung again before long.
    if (leave === undefined) return { go: 'nowhere' };
    try {
      return await attempt(dossier, parkedEnvelope, found, tools, leave);
    } finally {
      leave();
    }
  }

  /** Counted, when there is room at this target soon, until what it returns is called; undefined where somebody hangs. */
  async function enter(place: string, { clock, signal }: StepTools): Promise<(() => void) | undefined> {
    for (let waitedMs = 0; (busy.get(place) ?? 0) >= atOncePerTarget; waitedMs += lookMs) {
      if (waitedMs >= patienceMs) return undefined;
      await pause(clock, lookMs, signal);
    }
    let isIn = true;
    busy.set(place, (busy.get(place) ?? 0) + 1);
    return () => {
      if (isIn) busy.set(place, (busy.get(place) ?? 1) - 1);
      isIn = false;
    };
  }

  async function attempt(
    dossier: Dossier,
    envelope: Envelope,
    found: ReturnType<Targets['find']>,
    tools: StepTools,
    posted: () => void,
  ): Promise<Verdict> {
    const { dossiers, clock } = tools;
    const { id } = dossier;
    const index = indexOf(dossier.data as CallbackData, envelope.at);
    const by = randomUUID();
    const posting = await dossiers.change(callbackKind, id, ({ isOpen, data, wakeAt }, now) => {
      const turn = isOpen ? begun({ data: data as CallbackData, ...(wakeAt === undefined ? {} : { wakeAt }) }, by, now) : undefined;
      return turn === undefined ? { result: undefined } : { next: { ...turn, index }, result: turn.data };
    });
    if (posting === undefined) return { go: 'nowhere' };
    const answered =
      found === undefined ? { error: 'hub.yaml allows this callback no more' } : await postTo(found.target, found.url, envelope, tools);
    // The next one need not wait until this one is written down.
    posted();
    const { state, attempts } = ended(posting, answered, id, clock.now(), envelope.deadline).data;
    const last = attempts.at(-1);
    if (state === 'failed')
      await dossiers.bury(dossier, new Fault('unavailable', `${attempts.length} attempts: ${last === undefined ? '' : saidOf(last)}`));
    await dossiers.change(callbackKind, id, ({ isOpen, data }, now) => {
      const current = data as CallbackData;
      // Somebody else may have begun meanwhile: then only what was delivered counts.
      const isOurs = current.by === by;
      if (!isOpen || (!isOurs && state !== 'delivered')) return { result: undefined };
      const turn = ended(isOurs ? current : posting, answered, id, now, envelope.deadline);
      return { next: { ...turn, index, isOpen: turn.data.state === 'waiting' }, result: undefined };
    });
    return state === 'delivered' ? done(dossier) : { go: 'nowhere' };
  }

  async function postTo(target: Target, url: URL, envelope: Envelope, { clock, signal }: StepTools): Promise<Answered> {
    const { body, headers } = written(envelope);
    try {
      const signature = signed(target.keys(), envelope.requestId, clock.now(), body);
      return await post({ url, headers: { ...target.headers(), ...headers, ...signature }, body, networks: target.networks }, signal);
    } catch (error) {
      return { error: `a secret of callback ${target.name} cannot be had: ${messageOf(error)}` };
    }
  }

  /** The reply as it is, or the problem that the requestor would read in its place; and what it is about. */
  function written(envelope: Envelope): Pick<Outgoing, 'body' | 'headers'> {
    const { of = '', outcome: kind = 'reply', version: which } = calledBack(envelope) ?? {};
    const { body, contentType, contentEncoding, at, key, flow } = envelope;
    const about = {
      'user-agent': `answerback/${version}`,
      'hub-request-id': of,
      'hub-flow': flow,
      'hub-state': kind === 'reminder' ? 'open' : stateOf[kind],
      ...(key === undefined ? {} : { 'hub-key': key }),
      ...(which === undefined
        ? {}
        : { 'hub-reply-version': String(which), 'hub-event': which === 1 ? 'request.replied' : 'request.amended' }),
    };
    if (kind !== 'reply' && kind !== 'reminder') {
      const problem = Buffer.from(JSON.stringify(problemOf({ kind, body, contentType, at }, of)));
      return { body: problem, headers: { ...about, 'content-type': 'application/problem+json' } };
    }
    const encoded = contentEncoding === undefined ? {} : { 'content-encoding': contentEncoding };
    return { body, headers: { ...about, 'content-type': contentType, ...encoded } };
  }

  return {
    kind: 'webhook',
    name: callbackStep,
    summary: 'Answers on their way to requestors that are called back',
    timeoutMs: 30_000,
    retry: ['1s', '5s', '30s'],
    concurrency: 100,
    parks: true,
    run,
  };
}

/** Nobody waits for what follows: the journal hears that it is done. */
const done = (dossier: Dossier): Verdict =>
  onwardsFrom(dossier, { body: Buffer.alloc(0), contentType: 'application/octet-stream' }, async () => undefined);

const indexOf = ({ of }: CallbackData, at: number) => ({ [callbacksOf(of)]: at });

function envelopeIn({ message }: Dossier): Envelope | undefined {
  const envelope = decode(message);
  return isUndecodable(envelope) ? undefined : envelope;
}
