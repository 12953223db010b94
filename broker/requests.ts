/**
 * A request's way in: checked, recorded if its answer must be kept, expected, published; then held until the outcome or the
 * end of the hold.
 */
import { createHash } from 'node:crypto';
import { mayUse, type Principal } from './access.js';
import { publisher } from './batches.js';
import { callbackAddress, callbackStep } from './callback.js';
import { endsBy, pause } from './clock.js';
import type { Wait } from './correlator.js';
import { messageFor, waitingAt } from './dispatch.js';
import { firstEnvelope, isHigh, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import { Fault, isFault, messageOf, readFault } from './fault.js';
import { didYouMean, isJournalled, type Flow } from './flow.js';
import type { Answer, Ask, GatewayOptions, OneWay } from './gateway.js';
import { triedHeader } from './journal.js';
import { validator } from './schema.js';
import { outcomeOfFault } from './settle.js';
import { StoreError, type Claim, type ForwardAddress, type NewRecord, type Outcome, type RequestRecord } from './store.js';
import { supersede } from './supersede.js';
import { workAddress } from './topology.js';
import { PublishError } from './transport.js';
import { openWaiting, reachable, unwritten } from './waiting.js';
import { recordHeader, recordIn } from './wire.js';

/** A publish that is not known to have reached the broker may be repeated after this long. */
const unpublishedMs = 6_000;
/** How long a requestor whose hold is over waits for a place where its answer can be kept. Nobody shall wait for 6 s to hear that there is none. */
const noPlaceMs = 4_000;
/** How long a refusal waits until the journal knows of it. */
const notedMs = 500;

export interface Requests {
  /** The flow of this name, if this principal may use it. Throws a Fault. */
  flowFor(name: string, principal: Principal): Flow;
  request(ask: Ask): Promise<Answer>;
  send(message: OneWay): Promise<string>;
}

/** On what terms a request is taken. */
type Terms = Pick<Envelope, 'id' | 'deadline' | 'recorded' | 'replyTo'>;

/** Whether the store knows a request that it was told of: not when it was lost since then, until it knows it again, if ever. */
interface InStore {
  isSure: boolean;
}

export function openRequests(options: GatewayOptions): Requests {
  const { flows, store, correlator, settler, admission, clock, newId, names, control, journal, emit, line } = options;
  const publish = publisher(options.transport);
  const { recordedWithin, accepted } = openWaiting(options);
  const byName = new Map(flows.map((flow) => [flow.name, flow]));
  const validate = validator(flows);
  /** Flows whose requests may wait for longer than anybody holds the line. */
  const parking = new Set(flows.filter((flow) => flow.steps.some((name) => options.steps.get(name)?.parks)).map(({ name }) => name));
  /** Flows whose requests have a record from the start: those, and the ones whose replies may be amended. */
  const recording = new Set([...parking, ...flows.filter(({ late }) => late === 'amend').map(({ name }) => name)]);

  async function request(asked: Ask): Promise<Answer> {
    const flow = checked(asked);
    const ask = asked.callback === undefined ? asked : { ...asked, forward: calledBackAt(asked.callback, asked, flow) };
    const waitMs = Math.max(0, Math.min(ask.waitMs ?? flow.waitMs, flow.maxWaitMs));
    if (!flow.durable && (waitMs === 0 || ask.idempotencyKey !== undefined || ask.forward !== undefined || ask.supersedes !== undefined))
      throw new Fault('invalid', `flow ${flow.name} is volatile: it is answered at once on the line, or not at all`, {
        reason: 'volatile',
      });
    const id = ask.requestId ?? newId();
    const deadline = untilDeadline(ask, flow);
    const recorded =
      waitMs === 0 ||
      recording.has(flow.name) ||
      ask.idempotencyKey !== undefined ||
      ask.forward !== undefined ||
      ask.supersedes !== undefined ||
      ask.requestId !== undefined;
    const envelope = envelopeOf(ask, flow, { id, deadline, recorded, replyTo: names.reply(options.hub) });
    if (recorded) {
      failpoint('accept.before-record');
      const created = await reachable(store.create(recordOf(envelope, ask)));
      failpoint('accept.after-record');
      if (created.result === 'exists') return join(created.record, created.sameBody, ask, envelope, waitMs);
    }
    emit('request.accepted', { requestId: id, flow: flow.name, recorded });
    const began = clock.now();
    const letGo = line.hold(flow.name, id, waitMs);
    const wait = correlator.expect(id, !recorded, envelope.journal); // expect, then publish: the reply may be faster than the confirm
    try {
      const inStore = await enterRecorded(envelope, recorded ? recordOf(envelope, ask) : undefined, true);
      const life = Math.min(waitMs, deadline - clock.now());
      const outcome = recorded ? await recordedWithin(id, wait, life, ask.signal) : await wait.within(life, ask.signal);
      const heldMs = clock.now() - began;
      failpoint('accept.before-answer');
      if (outcome !== undefined) return { kind: 'outcome', id, outcome, heldMs, replayed: false };
      // Its key may be another's by now, and nobody hears of it: then no promise by what is known here alone.
      if (recorded) return await accepted(id, heldMs, false, () => (inStore.isSure ? knownOf(envelope, ask) : undefined));
      return await detach(envelope, ask, wait, heldMs);
    } finally {
      wait.close();
      letGo();
    }
  }

  /** `isFirst`: nobody has tried before. After an earlier try, which may have arrived, a refusal of this one proves nothing. */
  async function enterRecorded(envelope: Envelope, record: NewRecord | undefined, isFirst: boolean): Promise<InStore> {
    try {
      await enter(record === undefined ? envelope : withRecord(envelope, record), isFirst);
    } catch (error) {
      failpoint('accept.before-discard');
      if (envelope.recorded && isFault(error) && error.reason !== 'unknown')
        await store.discard(envelope.requestId, { unpublished: true }).catch(() => undefined);
      throw error;
    }
    const inStore = { isSure: true };
    if (record === undefined) return inStore;
    await supersede(record, options);
    // Not awaited by the requestor: if it is lost, a repeat of the request publishes the same message again.
    void entered(record, inStore);
    return inStore;
  }

  /** The broker has the request. A store that was lost and rebuilt since it was recorded cannot know of it: then it is told again. */
  async function entered(record: NewRecord, inStore: InStore): Promise<void> {
    while (!options.stopping.aborted) {
      try {
        const { id, flow } = record;
        // Not before it is there: what waits for a foreign worker has arrived. Whoever works on it may have told of more by now.
        const [waiting, event] = waitingAt(options.steps.get(byName.get(flow)!.steps[0]!)) ?? [];
        if (await store.report(id, { ...waiting, published: true, from: 'accepted' }, event)) return void (inStore.isSure = true);
        inStore.isSure = false;
        const created = await store.create({ ...toldAgain(record), published: true });
        inStore.isSure = created.result === 'created' || created.record.id === id;
        // Its key was lost with the state, and is another's by now, who has its requestor, too: no rebuild shall take this one for the request.
        if (!inStore.isSure && isJournalled(byName.get(flow)!)) await journal.note('refused', id, {}, { [triedHeader]: record.acceptedAt });
        return;
      } catch (error) {
        if (!(error instanceof StoreError && error.reason === 'incomplete')) return;
        inStore.isSure = false;
        await pause(clock, 500, options.stopping);
      }
    }
  }

  /** Hands a request to the broker, once. The Fault says whether it may have arrived all the same. */
  async function enter(envelope: Envelope, isFirst = true): Promise<void> {
    const entered = admission.entering();
    try {
      failpoint('accept.before-publish');
      await publish(workAddress(names, envelope.slip[0]!, envelope), await messageFor(envelope, options), envelope);
      failpoint('accept.after-publish');
    } catch (cause) {
      // The work queue refused it, and the journal, which is under the same confirm, may have it. It may be the next that confirms nothing.
      if (envelope.journal && cause instanceof PublishError && cause.failure === 'nacked') {
        const noted = journal.note('refused', envelope.requestId, {}, { [triedHeader]: envelope.at }).catch(() => undefined);
        await endsBy(clock, clock.now() + notedMs, noted);
      }
      const unknown = !isFirst || (cause instanceof PublishError && cause.failure === 'unknown');
      emit('request.refused', {
        requestId: envelope.requestId,
        flow: envelope.flow,
        failure: cause instanceof PublishError ? cause.failure : messageOf(cause),
      });
      throw unknown
        ? unconfirmed(envelope.requestId, cause)
        : new Fault('unavailable', 'RabbitMQ does not take requests at the moment; nothing was started', {
            cause,
            reason: 'broker',
            retryAfterMs: 2_000,
          });
    } finally {
      entered();
    }
  }

  /** The hold is over before the answer: from here on there is a record. Journal, record, then 202. */
  async function detach(envelope: Envelope, ask: Ask, wait: Wait, heldMs: number): Promise<Answer> {
    const id = envelope.requestId;
    const giveUpAt = clock.now() + noPlaceMs;
    const timedOut = envelope.deadline <= clock.now();
    if (timedOut || !envelope.durable) {
      const fault = new Fault(
        'timeout',
        timedOut ? 'no answer before the deadline' : 'no answer in time, and a volatile request is not kept',
        { step: 'gateway' },
      );
      const outcome = outcomeOfFault('timeout', fault, clock.now());
      if (!envelope.durable) wait.catch(outcome);
      else if (!(await endsBy(clock, giveUpAt, reachable(settler.settle(id, outcome, false))))) throw unwritten();
      return { kind: 'outcome', id, outcome: wait.caught!, heldMs, replayed: false };
    }
    if (!(await endsBy(clock, giveUpAt, settler.idle(id)))) throw noPlace(id);
    if (wait.caught !== undefined) return { kind: 'outcome', id, outcome: wait.caught, heldMs, replayed: false };
    const record: NewRecord = { ...recordOf(envelope, ask), state: 'running', published: true, detached: true };
    // Without RabbitMQ the record alone must do; the journal is told as soon as it can be.
    const carriedAt = envelope.journal ? await noteRecorded(record) : undefined;
    const isKept = await makeRecord({ ...record, ...(carriedAt === undefined ? {} : { carriedAt }) }, wait, giveUpAt);
    if (!(await endsBy(clock, giveUpAt, settler.idle(id)))) {
      // The journal may have that outcome already: a record would let another one win.
      await store.discard(id).catch(() => undefined);
      throw noPlace(id);
    }
    if (wait.caught !== undefined) {
      wait.close();
      const kept = await keepCaught(wait.caught, record, isKept, envelope.journal, giveUpAt);
      return kept
        ? { kind: 'outcome', id, outcome: wait.caught, heldMs, replayed: false }
        : accepted(id, heldMs, false, () => knownOf(envelope, ask));
    }
    if (carriedAt === 0) void tellJournal(record);
    wait.close();
    await control.watch(id);
    emit('request.detached', { requestId: id, flow: envelope.flow, heldMs });
    return accepted(id, heldMs, false, () => knownOf(envelope, ask));
  }

  /** Makes the record of a request whose hold is over; false: its outcome came first, and nothing was tried. */
  async function makeRecord(record: NewRecord, wait: Wait, giveUpAt: number): Promise<boolean> {
    for (let tries = 0; wait.caught === undefined || tries > 0; tries++) {
      try {
        failpoint('detach.before-record');
        await store.create(record);
        failpoint('detach.after-record');
        return true;
      } catch (cause) {
        // From now on it is not known whether there is one.
        if (clock.now() >= giveUpAt) throw noPlace(record.id, cause);
        await (wait.caught === undefined ? wait.within(500) : pause(clock, 500));
      }
    }
    return false;
  }

  /**
   * The outcome came in the very moment in which the request got its record: store and journal, told of the record, are told how it
   * ended before anybody else. False: it ended otherwise. Where no record was made here, a rebuild may have made it from what the journal was told, and
   * read nothing of how it ended: so the store must be there to say so, or nobody is told.
   */
  async function keepCaught(
    outcome: Outcome,
    record: NewRecord,
    isKept: boolean,
    isJournalled: boolean,
    giveUpAt: number,
  ): Promise<boolean> {
    for (let isTold = !isJournalled; ;) {
      try {
        if (isKept) {
          if ((await settler.settle(record.id, outcome, false)) !== 'late') return true;
          // The journal had it first, and hears that it does not count.
          return isJournalled && (await settler.seat(record.id, outcome));
        }
        if (!isTold) await journal.outcome(record.id, outcome, record);
        isTold = true;
        return await settler.seat(record.id, outcome);
      } catch (cause) {
        if (clock.now() >= giveUpAt) throw noPlace(record.id, cause);
        await pause(clock, 500);
      }
    }
  }

  /** Tells the journal of a record; when that was, or 0 if it could not be. */
  const noteRecorded = (record: NewRecord): Promise<number> =>
    journal.note('recorded', record.id, {}, recordHeader(record)).then(
      () => clock.now(),
      () => 0,
    );

  /** What only the store knows is lost with it. If this hub dies first, the sweeper does it. */
  async function tellJournal(record: NewRecord): Promise<void> {
    for (let at = 0; at === 0 && !options.stopping.aborted;) {
      await pause(clock, 1_000, options.stopping);
      at = await noteRecorded(record);
      if (at > 0) await store.carried(record.id, at).catch(() => undefined);
    }
  }

  /** The id or the key is taken: the same request goes on, and this requestor waits with the first. */
  async function join(record: RequestRecord, sameBody: boolean, ask: Ask, envelope: Envelope, waitMs: number): Promise<Answer> {
    if (ask.conversation !== undefined && record.conversation?.ref !== ask.conversation.ref)
      throw new Fault('unavailable', `another request has place ${ask.conversation.place} of the conversation`, { reason: 'place-taken' });
    if (!sameBody) throw new Fault('invalid', 'this Idempotency-Key was used with another body', { reason: 'idempotency-mismatch' });
    const began = clock.now();
    const { id } = record;
    const wait = correlator.expect(id, false);
    const letGo = line.hold(record.flow, id, waitMs);
    const again = async (found: RequestRecord): Promise<boolean> => {
      if (found.published || found.state !== 'accepted' || found.shown) return true;
      // An outcome that is not shown may be nowhere but in Redis.
      if (found.outcome !== undefined) return false;
      if (ask.again !== true && clock.now() - found.acceptedAt < unpublishedMs) return false;
      failpoint('accept.before-repeat');
      await enterRecorded({ ...envelope, id, requestId: id, deadline: found.deadline }, found, false);
      return true;
    };
    try {
      const outcome = await recordedWithin(id, wait, waitMs, ask.signal, async (found) => void (await again(found)));
      if (outcome !== undefined) return { kind: 'outcome', id, outcome, heldMs: clock.now() - began, replayed: true };
      // A 202 promises an outcome. Whoever asked first may have died before RabbitMQ had the request: until that is known, or is mended, no promise.
      let found = await reachable(store.get(id));
      const giveUpAt = clock.now() + unpublishedMs;
      while (found !== undefined && !(await again(found))) {
        if (clock.now() > giveUpAt) throw unconfirmed(id);
        await pause(clock, 200);
        found = await reachable(store.get(id));
      }
      return await accepted(id, clock.now() - began, true, () => found);
    } finally {
      wait.close();
      letGo();
    }
  }

  async function send(message: OneWay): Promise<string> {
    const flow = checked(message);
    const id = message.requestId ?? newId();
    const keyed = message.idempotencyKey !== undefined || message.requestId !== undefined;
    const envelope = envelopeOf(message, flow, { id, deadline: untilDeadline(message, flow), recorded: keyed });
    if (keyed) {
      const record = recordOf(envelope, message);
      failpoint('send.before-record');
      const created = await reachable(store.create(record));
      if (created.result === 'exists' && !created.sameBody)
        throw new Fault('invalid', 'this Idempotency-Key was used with another body', { reason: 'idempotency-mismatch' });
      if (created.result === 'exists' && (await sentBefore(created.record))) return created.record.id;
      // Whoever asked first may have died before the broker had it: the same message again does no harm.
      const first = created.result === 'exists' ? created.record : record;
      await enterRecorded({ ...envelope, id: first.id, requestId: first.id }, first, created.result === 'created');
      failpoint('send.before-done');
      await reachable(sent(first));
      return first.id;
    }
    await enter(envelope);
    emit('request.accepted', { requestId: id, flow: flow.name, oneWay: true });
    return id;
  }

  /** The broker has the message; an earlier try of it, refused and taken back late, may have taken the record with it. */
  async function sent(record: NewRecord): Promise<void> {
    const outcome: Outcome = { kind: 'reply', body: Buffer.alloc(0), contentType: 'text/plain', at: clock.now() };
    const settled = await store.settle(record.id, outcome, true);
    // Its deadline came before that was known: what is under way is stopped, so nobody may be told that it is accepted.
    const ended = settled === 'late' ? (await store.get(record.id))?.outcome : undefined;
    if (ended !== undefined) throw readFault(ended.body);
    if (settled !== 'unknown') return;
    await store.create({ ...toldAgain(record), published: true });
    await store.settle(record.id, outcome, true);
  }

  /** Is this message known to be with the broker? Somebody may be sending it at this very moment. */
  async function sentBefore(record: RequestRecord): Promise<boolean> {
    for (let found: RequestRecord | undefined = record; found !== undefined; found = await reachable(store.get(record.id))) {
      if (found.outcome?.kind === 'reply') return true;
      // Whoever asked first died, and the deadline came before anybody knew.
      if (found.outcome !== undefined) throw readFault(found.outcome.body);
      if (clock.now() - found.acceptedAt >= unpublishedMs) return false;
      await pause(clock, 50);
    }
    return false;
  }

  /** The flow, if this principal may use it and the body fits. */
  function checked(ask: Ask | OneWay): Flow {
    const flow = flowFor(ask.flow, ask.principal);
    validate(flow, ask);
    return flow;
  }

  function flowFor(named: string, principal: Principal): Flow {
    const flow = byName.get(named);
    if (flow === undefined)
      throw new Fault(
        'invalid',
        `there is no flow "${named.slice(0, 100)}"${didYouMean(
          named.slice(0, 100),
          flows.filter(({ name }) => mayUse(principal, 'flows', name)).map(({ name }) => name),
        )}`,
        { reason: 'unknown-flow' },
      );
    if (!mayUse(principal, 'flows', flow.name)) throw new Fault('forbidden', `${principal.name} may not use flow ${flow.name}`);
    return flow;
  }

  function calledBackAt(callback: string, { principal, forward }: Ask, flow: Flow): ForwardAddress {
    if (forward !== undefined)
      throw new Fault('invalid', 'an answer goes to a queue or to a callback, not to both', { reason: 'callback' });
    return callbackAddress(options.callbacks, names.workQueue(callbackStep), callback, principal, flow);
  }

  function envelopeOf(ask: Ask | OneWay, flow: Flow, { id, deadline, recorded, replyTo }: Terms): Envelope {
    return firstEnvelope({
      id,
      flow: flow.name,
      slip: flow.steps,
      deadline,
      durable: flow.durable,
      batch: flow.batch,
      journal: isJournalled(flow),
      recorded,
      at: clock.now(),
      body: ask.body,
      contentType: ask.contentType,
      key: ask.key,
      principal: ask.principal.name,
      conversation: 'conversation' in ask ? ask.conversation?.id : undefined,
      aside: asideOf(ask, parking.has(flow.name)),
      replyTo,
      contentEncoding: ask.contentEncoding,
      traceparent: ask.traceparent,
      tracestate: ask.tracestate,
      priority: 'priority' in ask ? ask.priority : undefined,
      urgent: flow.urgent === true && 'priority' in ask && isHigh(ask.priority) ? true : undefined,
    });
  }

  const untilDeadline = (ask: { readonly deadlineMs?: number }, flow: Flow): number =>
    Math.ceil((clock.now() + Math.min(ask.deadlineMs ?? flow.deadlineMs, flow.maxDeadlineMs)) / 1_000) * 1_000;

  return { flowFor, request, send };
}

const unconfirmed = (id: string, cause?: unknown): Fault =>
  new Fault(
    'unavailable',
    `RabbitMQ did not confirm request ${id} in time: it may or may not be under way; send it again with the same Idempotency-Key`,
    { cause, reason: 'unknown', requestId: id, retryAfterMs: 5_000 },
  );

const noPlace = (id: string, cause?: unknown): Fault =>
  new Fault(
    'unavailable',
    `request ${id} is under way, but there is no place to keep its answer now: Redis or RabbitMQ is away. Send it again with the same Idempotency-Key`,
    { cause, reason: 'unknown', requestId: id, retryAfterMs: 5_000 },
  );

/** Of foreign requestors that want parts, or may be asked something. */
const asideOf = (ask: Ask | OneWay, mayBeAsked: boolean): Envelope['aside'] =>
  'forward' in ask && ask.forward !== undefined && (mayBeAsked || ask.hearsParts === true)
    ? { queue: ask.forward.queue, correlationId: ask.forward.correlationId, parts: ask.hearsParts === true }
    : undefined;

/** A record as the journal would tell it: without what became of it. */
const toldAgain = (record: NewRecord): NewRecord =>
  recordIn({ body: Buffer.alloc(0), correlationId: record.id, headers: recordHeader(record) }) ?? record;

/** The first message of a recorded request tells the journal of the record. */
const withRecord = (envelope: Envelope, record: NewRecord): Envelope =>
  envelope.journal ? { ...envelope, extra: recordHeader(record) } : envelope;

function recordOf({ requestId, flow, at, deadline, principal, key }: Envelope, ask: Ask | OneWay): NewRecord {
  const claim = claimOf(ask);
  const { conversation, forward } = ask as Partial<Ask>;
  return {
    id: requestId,
    flow,
    state: 'accepted',
    published: false,
    acceptedAt: at,
    deadline,
    ...(principal === undefined ? {} : { principal }),
    ...(key === undefined ? {} : { key }),
    ...(conversation === undefined ? {} : { conversation }),
    ...(forward === undefined ? {} : { forward }),
    ...(claim === undefined ? {} : { claim }),
    ...('supersedes' in ask && ask.supersedes !== undefined ? { supersedes: sha256(ask.principal.name, ask.flow, ask.supersedes) } : {}),
  };
}

/** The record of a request that is under way, without asking the store: it was accepted, whatever becomes of the store. */
const knownOf = (envelope: Envelope, ask: Ask): RequestRecord => ({
  ...recordOf(envelope, ask),
  published: true,
  updatedAt: envelope.at,
  shown: false,
});

const sha256 = (...parts: (string | Buffer)[]): string => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('base64url');
};

const claimOf = (ask: Ask | OneWay): Claim | undefined =>
  ask.idempotencyKey === undefined
    ? undefined
    : { scope: sha256(ask.principal.name, ask.flow, ask.idempotencyKey), fingerprint: sha256(ask.contentType, ask.body) };
