/**
 * Makes the state whole again from the journal, when Redis was emptied, restored from an older copy, or restarted, so that its last
 * writes may be gone (EIP: Message Store). Until then everybody is refused (`StoreError` `incomplete`), new requests hear 503, and
 * what comes to queues waits there. One hub at a time, under the lease `rebuild`; whoever dies over it is followed by another one
 * that begins anew, since everything here may be done twice.
 *
 * What is read tells all: the first message of a recorded request carries its record; so do the notes `recorded`, `carried` and
 * `outcome`, and `dossier` the whole of it. A part that is addressed to its aggregator is in the group; the aggregator's result says that the group is done;
 * and where late parts may amend it, which parts count in it, so that the others are late.
 */
import { amendmentIn, correctsIn, countedIn } from './amendable.js';
import type { Clock } from './clock.js';
import { bellOf, parkingOf, unforeign } from './dispatch.js';
import { dossierIn } from './dossiers.js';
import type { Emit } from './emit.js';
import { ringFor, type Envelope } from './envelope.js';
import type { Flow } from './flow.js';
import { triedIn, type Journal } from './journal.js';
import type { Later } from './later.js';
import type { Step } from './step.js';
import type { Outcome, OutcomeKind, OutcomeSource, Part, Report, Store } from './store.js';
import { workAddress, type Names } from './topology.js';
import type { Delivery, HeaderValue, Message } from './transport.js';
import { decode, encode, isUndecodable, outcomeOf, recordIn } from './wire.js';

/** How far before the moment at which the state was last known to be good it is read: clocks of several machines, work under way. */
const marginMs = 30_000;
/** How far at least when nothing is known. What is pending for longer was carried forward. */
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const leaseMs = 10_000;
/** The journal tells a record two or three times, soon after one another, and each step of a request: of so many the last is remembered. */
const remembered = 20_000;

export interface RebuildOptions {
  readonly store: Store;
  readonly journal: Journal;
  readonly later: Later;
  readonly clock: Clock;
  readonly names: Names;
  readonly flows: readonly Flow[];
  readonly steps: ReadonlyMap<string, Step>;
  readonly emit: Emit;
  readonly hub: string;
}

export interface Rebuild {
  /** False while the state cannot be gone by, as far as is known. */
  isComplete(): boolean;
  /** Looks whether it can; if not, and nobody else is at it, makes it so. Rejects when the store or the broker is away: ask again. */
  check(stopping: AbortSignal): Promise<void>;
}

export function openRebuild(options: RebuildOptions): Rebuild {
  const { store, clock, emit, hub } = options;
  const windowMs = windowOf(options);
  let isComplete = true;

  async function check(stopping: AbortSignal): Promise<void> {
    isComplete = (await store.condition()).complete;
    if (isComplete || !(await store.lease('rebuild', hub, leaseMs))) return;
    // Somebody else may have ended it before we had the lease: what others go by is not written over.
    const { complete, since } = await store.condition();
    isComplete = complete;
    // Lets go of the lease.
    if (complete) return void (await store.lease('rebuild', hub, 1));
    const began = clock.now();
    const from = since === undefined ? began - windowMs : since - marginMs;
    emit('rebuild.started', {
      from: new Date(from).toISOString(),
      why: since === undefined ? 'nothing is there' : 'the last writes may be lost',
    });
    const lost = new AbortController();
    const renewing = keepLease(lost);
    try {
      const restored = await restore(options, from, AbortSignal.any([stopping, lost.signal]));
      isComplete = true;
      emit('rebuild.done', { ...restored, tookMs: clock.now() - began });
    } finally {
      renewing();
    }
  }

  /** Renews the lease until it is stopped; without it, `lost` aborts. When the state is lost once more the lease is lost with it. */
  function keepLease(lost: AbortController): () => void {
    let cancel: () => void = () => undefined;
    const again = () => {
      if (lost.signal.aborted) return;
      cancel = clock.after(leaseMs / 4, () => {
        const giveUp = (cause?: unknown) => lost.abort(new Error('the rebuild has lost its lease', { cause }));
        store.lease('rebuild', hub, leaseMs, { renews: true }).then((isOurs) => (isOurs ? again() : giveUp()), giveUp);
      });
    };
    again();
    return () => {
      lost.abort(new Error('the rebuild is over'));
      cancel();
    };
  }

  return { isComplete: () => isComplete, check };
}

/** How far back anything may be that is still needed: outcomes that are kept, groups that are open or amended, foreign workers that have not answered. */
function windowOf({ store, flows, steps }: RebuildOptions): number {
  const gathers = [...steps.values()].map(({ gatherMs }) => gatherMs ?? 0);
  const foreigns = flows
    .filter((flow) => flow.steps.some((name) => steps.get(name)?.kind === 'foreign'))
    .map(({ maxDeadlineMs }) => maxDeadlineMs);
  const amended = flows.filter(({ late }) => late === 'amend').map(({ maxDeadlineMs }) => maxDeadlineMs);
  return Math.max(dayMs, store.retentionMs, ...gathers, ...foreigns, ...amended) + hourMs;
}

/** A group that was opened and is not known to be done; or one whose result may be amended. */
interface OpenGroup {
  readonly sample: Envelope;
  readonly members: string[];
  readonly parts: Map<number, Part>;
  /** The messages that brought them, where late ones may amend the result. */
  readonly messages: Map<number, Envelope>;
  /** Of a result that may be amended: what completed it, and which parts count in it. */
  completedBy?: string;
  counted?: readonly number[];
  /** Those that came late and count in a correction, in their order. */
  late?: readonly number[];
}

interface Restored {
  readonly entries: number;
  readonly records: number;
  readonly groups: number;
}

async function restore(
  { store, journal, later, clock, names, flows, steps, hub }: RebuildOptions,
  from: number,
  signal: AbortSignal,
): Promise<Restored> {
  const restoring = store.restoring(hub);
  const groups = new Map<string, OpenGroup>();
  const done = new Map<string, number>();
  const amended = new Set(flows.filter(({ late }) => late === 'amend').map(({ name }) => name));
  const topics = new Map<string, { readonly message: Message; readonly at: number }>();
  /** Requests that lost their key to another one, and to which. */
  const ousted = new Map<string, string>();
  /** The record that was restored last, as the journal has it; by request. */
  const told = new Map<string, HeaderValue>();
  /** Where those are that have no outcome yet. */
  const reports = new Map<string, Report>();
  /** Keyed one-way messages: they have their outcome once the broker has them. */
  const sent = new Map<string, number>();
  let entries = 0;
  let records = 0;

  function entry(delivery: Delivery): Promise<unknown> {
    entries++;
    const writes: Promise<unknown>[] = [];
    // Only what we publish ourselves is believed: by exchange, since anybody may write headers elsewhere.
    const note = delivery.exchange === '' ? delivery.headers['hub-note'] : undefined;
    const text = note !== undefined || delivery.exchange === names.work ? delivery.headers['hub-record'] : undefined;
    const isTold = text !== undefined && told.get(delivery.correlationId ?? '') === text;
    const record = text === undefined || isTold ? undefined : recordIn(delivery);
    if (record !== undefined) {
      records++;
      told.set(record.id, text!);
      if (told.size > remembered) told.delete(told.keys().next().value!);
      // It may have been at work already, and a status only moves forward.
      writes.push(
        restoring
          .record({ ...record, published: true, state: 'running' })
          .then((claimed) => claimed !== undefined && ousted.set(claimed.ousted, claimed.by)),
      );
    }
    if (typeof note === 'string') noted(note, delivery, writes);
    else if (delivery.exchange === names.events) event(delivery);
    // The first message of a request that will be answered here says no more than its record does.
    else if ((record === undefined && !isTold) || delivery.replyTo === undefined || delivery.replyTo === names.continuation)
      if (delivery.exchange !== names.dead) message(delivery, writes);
    return Promise.all(writes);
  }

  function noted(note: string, delivery: Delivery, writes: Promise<unknown>[]): void {
    const id = delivery.correlationId ?? '';
    const at = Number(delivery.headers['hub-note-at'] ?? 0);
    if (note === 'outcome')
      writes.push(
        decided(
          id,
          { ...outcomeOf(delivery, at), kind: delivery.headers['hub-outcome'] as OutcomeKind },
          delivery.headers['hub-instead-of'] === undefined ? 'decision' : 'correction',
        ),
      );
    const amendment = amendmentIn(delivery, outcomeOf(delivery, at));
    if (amendment !== undefined) writes.push(restoring.amendment(id, amendment));
    if (note === 'forwarded' || note === 'undeliverable') writes.push(restoring.forwarded(id));
    if (note === 'refused') {
      const acceptedBy = triedIn(delivery);
      if ((sent.get(id) ?? 0) <= acceptedBy) sent.delete(id);
      told.delete(id);
      writes.push(restoring.discard(id, { acceptedBy }));
    }
    if (note === 'part') message(delivery, writes);
    const dossier = dossierIn(delivery);
    if (dossier !== undefined) writes.push(restoring.keep(dossier));
  }

  function event({ routingKey, body, contentType, headers, timestamp }: Delivery): void {
    const at = typeof headers['hub-at'] === 'number' ? headers['hub-at'] : (timestamp ?? 0) * 1_000;
    if ((topics.get(routingKey)?.at ?? 0) <= at)
      topics.set(routingKey, { message: { body, ...(contentType === undefined ? {} : { contentType }) }, at });
  }

  function message(delivery: Delivery, writes: Promise<unknown>[]): void {
    const original = unforeign(delivery, names);
    const envelope = decode(original ?? delivery);
    if (isUndecodable(envelope)) return;
    const {
      requestId,
      slip,
      step,
      groups: [member],
      at,
    } = envelope;
    if (original !== undefined && envelope.deadline > clock.now())
      writes.push(restoring.park(...parkingOf(original, envelope.deadline, clock.now())));
    const completed = envelope.extra?.['hub-group'];
    const counts = countedIn(envelope.extra);
    const corrects = correctsIn({ headers: envelope.extra ?? {} });
    if (corrects !== undefined) {
      const group = groups.get(corrects.group);
      if (group !== undefined && counts !== undefined && corrects.rank > (group.late ?? []).length)
        group.late = counts.counted.slice(-corrects.rank);
      // Which version it became is in a note.
      return;
    }
    if (typeof completed === 'string' && counts !== undefined && groups.has(completed))
      Object.assign(groups.get(completed)!, { counted: counts.counted, completedBy: String(envelope.extra?.['hub-completed-by']) });
    else if (typeof completed === 'string') {
      groups.delete(completed);
      done.set(completed, envelope.deadline);
      // Whose deadline has passed is not opened again anyway.
      if (done.size % 50_000 === 0) for (const [id, until] of done) if (until <= clock.now()) done.delete(id);
      writes.push(restoring.groupDone(completed));
    }
    if (delivery.exchange === names.replies) return void writes.push(decided(requestId, outcomeOf(delivery, at), 'reply'));
    if (envelope.recorded && envelope.replyTo === undefined && step === 1) sent.set(requestId, at);
    if (member !== undefined && envelope.type !== 'event') part(envelope);
    else if (envelope.recorded && step > 1 && slip[0] !== undefined)
      reached(requestId, { state: 'running', step: slip[0], attempt: envelope.attempt }, writes);
  }

  function decided(id: string, outcome: Outcome, from: OutcomeSource): Promise<void> {
    reports.delete(id);
    return restoring.outcome(id, outcome, from);
  }

  /** Not written before many others have gone on: mostly the next step, or the outcome, comes soon. */
  function reached(id: string, report: Report, writes: Promise<unknown>[]): void {
    reports.set(id, report);
    if (reports.size <= remembered) return;
    for (const [oldest, where] of reports) {
      reports.delete(oldest);
      return void writes.push(restoring.report(oldest, where));
    }
  }

  function part(envelope: Envelope): void {
    const [member] = envelope.groups;
    if (member === undefined || done.has(member.id) || envelope.deadline <= clock.now()) return;
    const group = groups.get(member.id) ?? {
      sample: envelope,
      members: Array.from({ length: member.size }, (_, index) => String(index)),
      parts: new Map<number, Part>(),
      messages: new Map<number, Envelope>(),
    };
    groups.set(member.id, group);
    group.members[member.index] = member.name;
    if (envelope.slip[0] !== member.at || group.parts.has(member.index)) return;
    const { body, contentType, at } = envelope;
    if (amended.has(envelope.flow)) group.messages.set(member.index, envelope);
    group.parts.set(member.index, { index: member.index, kind: envelope.type === 'fault' ? 'fault' : 'reply', body, contentType, at });
  }

  /** The parts that are known; whether they are enough the aggregator decides, when the next one comes or the bell rings. */
  async function reopen(id: string, { sample, members, parts }: OpenGroup): Promise<void> {
    const [member, ...outer] = sample.groups;
    if (member === undefined) return;
    const { at, deadline } = member;
    const to = workAddress(names, at, sample);
    const onwards = sample.slip.slice(sample.slip.indexOf(at));
    const ring = (reason: string, when: number) => encode(ringFor(sample, [{ ...member, index: 0 }, ...outer], onwards, reason, when));
    const bell = bellOf(to, ring('deadline', deadline));
    await restoring.openGroup({ id, requestId: sample.requestId, members, deadline, bell });
    await Promise.all([...parts.values()].map((one) => restoring.addPart(id, one, Number.MAX_SAFE_INTEGER, false)));
    const now = clock.now();
    const quietMs = steps.get(at)?.quietMs;
    if (quietMs !== undefined) await later.schedule({ id: `${id}-rebuilt-quiet`, at: now + quietMs, to, message: ring('quiet', now) });
  }

  /** A group whose result is there: the parts that count in it, those that count in a correction; and the others come again. */
  async function complete(
    id: string,
    { sample, members, parts, messages, counted = [], late = [], completedBy = '' }: OpenGroup,
  ): Promise<void> {
    const [member] = sample.groups;
    if (member === undefined || sample.deadline <= clock.now()) return;
    const those = (indexes: readonly number[]) => indexes.flatMap((index) => parts.get(index) ?? []);
    await restoring.openGroup({ id, requestId: sample.requestId, members, deadline: member.deadline });
    await Promise.all(those(counted).map((one) => restoring.addPart(id, one, Number.MAX_SAFE_INTEGER, false)));
    await restoring.closeGroup(id, completedBy);
    await restoring.groupDone(id);
    for (const one of those(late)) await restoring.addLatePart(id, one);
    for (const [index, envelope] of messages) {
      if (counted.includes(index) || late.includes(index)) continue;
      const to = workAddress(names, member.at, envelope);
      await later.schedule({ id: `${envelope.id}-rebuilt`, at: clock.now(), to, message: encode(envelope) });
    }
  }

  /**
   * Who asked twice under a key has one request, the one that was accepted later: the other was lost with the state before the journal had it,
   * so that nobody was promised anything, and reached the broker, or came back with an older copy, when the key was another's. What has an
   * outcome stays.
   */
  async function takeBack(): Promise<void> {
    // Unless the other one was refused.
    for (const [id, by] of ousted) if (await restoring.report(by, {})) await restoring.discard(id);
  }

  await journal.replay(from, async (delivery) => void (await entry(delivery)), signal);
  await Promise.all([...reports].map(([id, report]) => restoring.report(id, report)));
  for (const [topic, { message: last, at }] of topics) await restoring.remember(topic, last, at);
  for (const [id, at] of sent)
    await restoring.outcome(id, { kind: 'reply', body: Buffer.alloc(0), contentType: 'text/plain', at }, 'decision');
  for (const [id, group] of groups) await (group.counted === undefined ? reopen : complete)(id, group);
  await takeBack();
  signal.throwIfAborted();
  await restoring.complete();
  return { entries, records, groups: groups.size };
}
