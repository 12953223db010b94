/**
 * Work that outlives its delivery (EIP: Process Manager, Claim Check): RabbitMQ takes back what is held for half an hour, so a step that waits
 * for a person, a long computation or a date keeps what came to it as a dossier, and lets the delivery go.
 *
 * A dossier changes one version at a time: compare and set in the store, a note with all of it in the journal, so that Redis can be
 * rebuilt, then whoever asked hears of it. When its work is to go on, its step is rung: a message of type `event` comes to the step's own
 * queue, and what the step returns then leaves by the runner, as from any other step. Who is not rung (a process died, a queue was
 * deleted) is rung again by the sweeper, for as long as `wakeAt` is in the past.
 */
import { mayBeAmended } from './amendable.js';
import type { Clock } from './clock.js';
import type { Emit } from './emit.js';
import { deriveId, ringFor, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import { Fault, messageOf } from './fault.js';
import type { Journal } from './journal.js';
import { openedKind, partKind, withdrawnOpened, withdrawnPart } from './opened.js';
import type { Step, Verdict } from './step.js';
import type { Dossier, Store } from './store.js';
import { deadAddress, workAddress, type Names } from './topology.js';
import type { Delivery, Message, Transport } from './transport.js';
import { decode, encode, errorHeaders, isUndecodable } from './wire.js';

/** What becomes of a dossier. */
export interface Next {
  /** JSON. */
  readonly data: unknown;
  /** Default: true. False ends its work. */
  readonly isOpen?: boolean;
  /** Lists to be found in, and the place there. An open one is also found by its request and by its groups. */
  readonly index?: Readonly<Record<string, number>>;
  /** When its step is rung, ms since 1970: now or before means at once. */
  readonly wakeAt?: number;
  /** True: the body of what was parked is not kept any longer. */
  readonly isEmptied?: boolean;
}

export interface Dossiers {
  /** Keeps what came to a step; once, however often it comes. Afterwards the delivery may go. */
  park(kind: string, envelope: Envelope, next: Next): Promise<void>;
  get(kind: string, id: string): Promise<Dossier | undefined>;
  /** The envelope that was parked. Throws when it cannot be read, which was written here. */
  envelopeOf(dossier: Dossier): Envelope;
  /** The dossier that a ring is about. */
  rung(envelope: Envelope): Promise<Dossier | undefined>;
  /**
   * Changes a dossier. `decide` is a pure function, called again when somebody else was faster; without `next` nothing changes. Resolves
   * with its result when store and journal have it; undefined without dossier. Rejects with a StoreError or PublishError when it is not known
   * to be journalled: then the sweeper does that, so a repeat finds it done.
   */
  change<T>(kind: string, id: string, decide: (current: Dossier, now: number) => Decided<T>): Promise<T | undefined>;
  /** Its work is done: for `onwardsFrom`, or with other data. */
  close(dossier: Pick<Dossier, 'kind' | 'id'>, data?: (data: never) => unknown): Promise<void>;
  /** What was parked becomes a dead letter, for a person, with this reason. */
  bury(dossier: Dossier, why: Fault): Promise<void>;
  /** Closes what is open of this request or group, since (`why`) nobody wants its work any more. */
  withdraw(requestOrGroup: string, why: string): Promise<void>;
  /** One round of looking after them: rings, tells, closes what is over. */
  lookAfter(stopping: AbortSignal): Promise<void>;
}

export interface Decided<T> {
  readonly next?: Next;
  readonly result: T;
}

export interface DossiersOptions {
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly clock: Clock;
  readonly names: Names;
  readonly emit: Emit;
  /** Kinds that no step is rung for: the hub looks after them itself, when the sweeper finds that their time has come. May be called again. */
  readonly own?: Readonly<Record<string, (dossier: Dossier) => Promise<void>>>;
  /** Those that bring what becomes of their dossiers. */
  readonly steps: Iterable<Pick<Step, 'withdrawn'>>;
}

/** What becomes of a dossier when nobody wants its work any more. Pure. Default: its data says `ended: 'withdrawn'`. */
export type Withdrawn = (id: string, data: unknown, why: string, now: number) => Pick<Next, 'data' | 'index' | 'isEmptied'>;

/** Those that belong to no step. */
const withdrawnOpens: Readonly<Record<string, Withdrawn>> = { [openedKind]: withdrawnOpened, [partKind]: withdrawnPart };

/** Whoever was rung and has done nothing is rung again. */
const ringAgainMs = 10_000;
/** Who is being rung is not rung by anybody else as well: a dead letter would be there twice. Died, or failed: so much later. */
const ringingMs = 2_000;
/** A rebuild reads a day of the journal (`rebuild.ts`). */
const carryAfterMs = 20 * 3_600_000;
const atOnce = 50;

export const nameOf = ({ kind, id }: Pick<Dossier, 'kind' | 'id'>): string => `${kind}/${id}`;

/** List of the open dossiers of a request or group. */
const listOf = (requestOrGroup: string): string => `of:${requestOrGroup}`;

export function openDossiers({ transport, store, journal, clock, names, emit, steps, own = {} }: DossiersOptions): Dossiers {
  const withdrawnOf = new Map([{ withdrawn: withdrawnOpens }, ...steps].flatMap(({ withdrawn = {} }) => Object.entries(withdrawn)));

  async function park(kind: string, envelope: Envelope, next: Next): Promise<void> {
    const [step = ''] = envelope.slip;
    const about = { kind, id: envelope.id, requestId: envelope.requestId, step, message: encode(envelope) };
    const dossier = versionOf(about, 1, next);
    failpoint('dossier.before-keep');
    // Whoever kept it before may have died before it told the journal.
    const kept = (await store.keep(dossier)) === 'kept' ? dossier : await store.dossier(kind, envelope.id);
    if (kept?.version === 1) await spread(kept);
  }

  async function change<T>(kind: string, id: string, decide: (current: Dossier, now: number) => Decided<T>): Promise<T | undefined> {
    for (;;) {
      const current = await store.dossier(kind, id);
      if (current === undefined) return undefined;
      const { next, result } = decide(current, clock.now());
      if (next === undefined) return result;
      const dossier = versionOf(current, current.version + 1, next);
      failpoint('dossier.before-keep');
      if ((await store.keep(dossier)) === 'conflict') continue;
      failpoint('dossier.after-keep');
      await spread(dossier);
      return result;
    }
  }

  /** What everybody must know before anybody may go by it. */
  async function spread(dossier: Dossier): Promise<void> {
    await tell(dossier);
    failpoint('dossier.after-journal');
    // Not known to be rung: then the sweeper rings.
    const isRung = own[dossier.kind] === undefined && dossier.wakeAt !== undefined && dossier.wakeAt <= clock.now();
    if (isRung) await ring(dossier).catch(() => undefined);
  }

  async function tell(dossier: Dossier): Promise<void> {
    const of = dossier.message.headers?.['hub-callback-of'];
    const about = { 'hub-dossier': nameOf(dossier), ...(of === undefined ? {} : { 'hub-callback-of': of }) };
    await journal.note('dossier', dossier.requestId, { body: Buffer.from(textOf(dossier)) }, about);
    const { deadline = Infinity } = envelopeOf(dossier) ?? {};
    await store.told(dossier, Math.min(carryAfterMs, Math.max(0, deadline - clock.now()) + 1_000));
  }

  async function ring(dossier: Dossier): Promise<void> {
    const envelope = envelopeOf(dossier);
    if (envelope === undefined) return;
    const bell = ringFor(envelope, envelope.groups, envelope.slip, `wake-${dossier.version}`, clock.now());
    if (!(await store.calling(dossier, ringingMs))) return;
    failpoint('dossier.before-ring');
    await transport.publish(
      workAddress(names, dossier.step, envelope),
      encode({ ...bell, extra: { ...bell.extra, 'hub-dossier': nameOf(dossier) } }),
    );
    failpoint('dossier.after-ring');
    await store.called(dossier, ringAgainMs);
  }

  /** Its time has come. Where that fails, it has come again after a while. */
  async function rouse(dossier: Dossier): Promise<void> {
    const look = own[dossier.kind];
    if (look === undefined) return ring(dossier);
    await store.called(dossier, ringAgainMs);
    await look(dossier);
  }

  async function withdraw(requestOrGroup: string, why: string): Promise<void> {
    for (let found = await open(requestOrGroup); found.length > 0; found = await open(requestOrGroup))
      await Promise.all(found.map((dossier) => withdrawOne(dossier, why)));
  }

  const open = async (requestOrGroup: string) => (await store.dossiers(listOf(requestOrGroup), { limit: atOnce })).found;

  const withdrawOne = ({ kind, id }: Pick<Dossier, 'kind' | 'id'>, why: string) =>
    change(kind, id, ({ isOpen, data }, now) => {
      if (!isOpen) return { result: undefined };
      const next = withdrawnOf.get(kind)?.(id, data, why, now) ?? { data: { ...(data as object), ended: 'withdrawn' } };
      return { next: { ...next, isOpen: false }, result: undefined };
    });

  const close: Dossiers['close'] = ({ kind, id }, next = (data) => data) =>
    change(kind, id, ({ isOpen, data }) =>
      isOpen ? { next: { data: next(data as never), isOpen: false }, result: undefined } : { result: undefined },
    );

  async function lookAfter(stopping: AbortSignal): Promise<void> {
    const all = async (page: () => Promise<readonly Dossier[]>, look: (dossier: Dossier) => Promise<void>) => {
      for (let found = await page(); found.length > 0 && !stopping.aborted; found = found.length < atOnce ? [] : await page())
        await Promise.all(found.map(look));
    };
    await all(() => store.untold(atOnce), settle);
    await all(() => store.wakeable(atOnce), rouse);
  }

  /** One that the journal must be told of (again): unless nobody wants its work any more. */
  async function settle(dossier: Dossier): Promise<void> {
    if (!dossier.isOpen || !(await isOver(dossier))) return tell(dossier);
    const { replyTo, messageId } = dossier.message;
    // For a one-way message nobody waits: it must not vanish.
    if (replyTo === undefined) await bury(dossier, new Fault('timeout', 'not done before its deadline'));
    emit('dossier.over', { kind: dossier.kind, id: dossier.id, messageId });
    await withdrawOne(dossier, 'its request is over');
  }

  async function isOver(dossier: Dossier): Promise<boolean> {
    const envelope = envelopeOf(dossier);
    const isLate = envelope === undefined || envelope.deadline <= clock.now();
    if (dossier.message.replyTo === undefined) return isLate;
    const record = await store.get(dossier.requestId);
    return record === undefined ? isLate : record.outcome !== undefined && !mayBeAmended(record, clock.now());
  }

  const bury: Dossiers['bury'] = ({ step, message }, why) =>
    transport.publish(deadAddress(names, step, { journal: true }), {
      ...message,
      headers: { ...message.headers, ...errorHeaders(why, step, clock.now()), 'hub-origin-queue': names.workQueue(step) },
    });

  /** The envelope that was parked. */
  function envelopeOf({ kind, id, message }: Dossier): Envelope | undefined {
    const envelope = decode(message);
    if (!isUndecodable(envelope)) return envelope;
    emit('dossier.unreadable.failed', { kind, id, why: envelope.undecodable });
    return undefined;
  }

  /** The version that follows. */
  function versionOf(about: Omit<Dossier, 'version' | 'isOpen' | 'data' | 'index' | 'wakeAt'>, version: number, next: Next): Dossier {
    const { kind, id, requestId, step, message } = about;
    const { data, isOpen = true, index = {}, wakeAt, isEmptied = false } = next;
    const envelope = decode(message);
    const groups = isUndecodable(envelope) ? [] : envelope.groups;
    const of = isOpen ? Object.fromEntries([requestId, ...groups.map((group) => group.id)].map((one) => [listOf(one), 0])) : {};
    return {
      kind,
      id,
      requestId,
      step,
      version,
      isOpen,
      data,
      message: isEmptied ? { ...message, body: Buffer.alloc(0) } : message,
      index: { ...index, ...of },
      ...(wakeAt === undefined ? {} : { wakeAt }),
    };
  }

  return {
    park,
    change,
    close,
    bury,
    withdraw,
    lookAfter,
    get: (kind, id) => store.dossier(kind, id),
    envelopeOf(dossier) {
      const envelope = envelopeOf(dossier);
      if (envelope === undefined) throw new Error(`dossier ${nameOf(dossier)} cannot be read`);
      return envelope;
    },
    async rung({ extra }) {
      const [, kind, id] = /^([^/]+)\/(.+)$/s.exec(String(extra?.['hub-dossier'] ?? '')) ?? [];
      return kind === undefined || id === undefined ? undefined : store.dossier(kind, id);
    },
  };
}

/** The verdict by which a dossier's work goes on: the same message, whoever was rung, however often. `afterwards`: closes it. */
export const onwardsFrom = (
  { id, step }: Dossier,
  written: Pick<Extract<Verdict, { go: 'on' }>, 'body' | 'contentType' | 'contentEncoding'>,
  afterwards: () => Promise<void>,
): Verdict => ({ go: 'on', ...written, change: { id: deriveId(id, step, 0) }, afterwards });

/** A dossier as the journal has it. */
function textOf({ message: { body, ...properties }, ...dossier }: Dossier): string {
  return JSON.stringify({ ...dossier, properties, body: body.toString('base64') });
}

/** The dossier that a note tells of; undefined for any other entry. */
export function dossierIn({ headers, body }: Delivery | Message): Dossier | undefined {
  if (headers?.['hub-note'] !== 'dossier') return undefined;
  try {
    const told = JSON.parse(body.toString('utf8')) as Omit<Dossier, 'message'> & { properties: Omit<Message, 'body'>; body: string };
    const { properties, body: text, ...dossier } = told;
    return { ...dossier, message: { ...properties, body: Buffer.from(text, 'base64') } };
  } catch (error) {
    throw new Error(`a dossier in the journal cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
