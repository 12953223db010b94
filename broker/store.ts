/**
 * Port to the current state (EIP: Message Store, Idempotent Receiver): requests that must be findable, groups, the
 * idempotency keys, the deadlines. Two implementations: `store-redis.ts` and `store-memory.ts`;
 * `test/contract/store.ts` runs on both. Every method is atomic and may be called twice with the same effect.
 * All times are ms since 1970 by the store's own clock (`time()`).
 */
import type { Address, Message } from './transport.js';

/**
 * What every method rejects with that could not be done.
 * - `away`: the store does not answer.
 * - `incomplete`: it answers, and may have lost something (it is empty, was restored from an older copy, or another server took
 *   over): nobody may go by it before it was rebuilt from the journal (`rebuild.ts`).
 */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly reason: 'away' | 'incomplete';
  constructor(reason: StoreError['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

export type RequestState = 'accepted' | 'running' | 'waiting' | 'replied' | 'faulted' | 'timed-out' | 'cancelled';

export type OutcomeKind = 'reply' | 'fault' | 'timeout' | 'cancelled';

/** The state that each outcome leads to. */
export const stateOf: Readonly<Record<OutcomeKind, RequestState>> = {
  reply: 'replied',
  fault: 'faulted',
  timeout: 'timed-out',
  cancelled: 'cancelled',
};

/** The one thing that becomes of a request. A body that is not a reply is a FaultBody as JSON. */
export interface Outcome {
  readonly kind: OutcomeKind;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
  /** The body is the list of so many parts, which were shown as they came. */
  readonly parts?: number;
  /** A reply that late parts may amend: absent where the flow leaves them to the journal. */
  readonly amendable?: Amendable;
  /** When it was decided. */
  readonly at: number;
}

export const isSameOutcome = (one: Outcome, other: Outcome): boolean => one.kind === other.kind && one.body.equals(other.body);

/** How a reply stands that was made before everybody had answered. */
export interface Amendable {
  /** How many have not answered. */
  readonly missing: number;
  /** A part that comes later is journalled and nothing more, ms since 1970. */
  readonly until: number;
}

/** A corrected result: the reply once more, with parts that came too late to count in it. */
export interface Amendment {
  /** 2, 3, 4, …; the reply itself is version 1. */
  readonly version: number;
  /** How many late parts count in it. */
  readonly rank: number;
  /** Whose part made it. */
  readonly by: string;
  /** Of kind `reply`. */
  readonly outcome: Outcome;
}

export type Correction = Omit<Amendment, 'version'>;

/**
 * - `amended`: this is a version now, or was before.
 * - `behind`: the version before is not shown: that comes first.
 * - `same`: its bytes are those of the newest version.
 * - `stale`: the newest version counts more late parts; or the request was not answered by a reply that may be amended.
 * - `early`: the request has no outcome that is shown.
 */
export type Amended =
  { readonly result: 'amended' | 'behind'; readonly amendment: Amendment } | { readonly result: 'same' | 'stale' | 'early' | 'unknown' };

/** Which request of a conversation this is (`adapters/http/conversation.ts`). */
export interface Turn {
  readonly id: string;
  /** 1, 2, 3, … in the order of acceptance. */
  readonly place: number;
  /** What its requestor calls it. */
  readonly ref: string;
}

/** A foreign requestor's return address, to which the hub forwards the outcome; or the step that calls requestors back. */
export interface ForwardAddress {
  readonly queue: string;
  readonly correlationId?: string;
  /** Where the requestor is called back: a registered name or an address (`callback.ts`). */
  readonly callback?: string;
  /** A foreign requestor that wants corrected results, too. */
  readonly amended?: boolean;
}

export interface RequestRecord {
  readonly id: string;
  readonly flow: string;
  readonly state: RequestState;
  readonly principal?: string;
  readonly key?: string;
  readonly acceptedAt: number;
  readonly updatedAt: number;
  readonly deadline: number;
  /** True once the broker is known to have the request. */
  readonly published: boolean;
  /** The step it is at, as far as reported, and which attempt of it. */
  readonly step?: string;
  readonly attempt?: number;
  /** What `waiting` waits for: `parts:bank.a,bank.b`, `retry:2/4 in 5s`, `foreign:legacy.price`. */
  readonly waitingOn?: string;
  readonly progress?: Progress;
  readonly conversation?: Turn;
  readonly forward?: ForwardAddress;
  /** True once the outcome is at its `forward` address (or cannot be). */
  readonly forwarded?: boolean;
  /** The idempotency key that is this request's. */
  readonly claim?: Claim;
  /** It takes the place of older ones with the same text here (principal, flow and business key, hashed). */
  readonly supersedes?: string;
  /** True when the record was made after the request: when its hold ran out. */
  readonly detached?: boolean;
  /** When the journal was last told the whole record; absent: when the request was accepted. */
  readonly carriedAt?: number;
  /** Set from `settle` on; shown only when `shown`. Always the first version. */
  readonly outcome?: Outcome;
  /** The newest version that is shown, and how many are missing in it. Absent: there is but the first. */
  readonly amended?: { readonly version: number; readonly missing: number };
  /** True once the journal has the outcome; until then nobody may see it. */
  readonly shown: boolean;
}

export interface Progress {
  readonly percent?: number;
  readonly message?: string;
  /** Jobs: how many of how many, and how long it takes still at the pace so far (ms). */
  readonly done?: number;
  readonly total?: number;
  readonly leftMs?: number;
  /** Jobs: a value that one yielded, and its number from 1: shown as a `part` event. */
  readonly part?: unknown;
  readonly sequence?: number;
}

export type NewRecord = Pick<RequestRecord, 'id' | 'flow' | 'state' | 'acceptedAt' | 'deadline' | 'published'> &
  Partial<Pick<RequestRecord, 'principal' | 'key' | 'conversation' | 'forward' | 'claim' | 'supersedes' | 'detached' | 'carriedAt'>>;

/** An idempotency key: `scope` already holds principal, flow and key (hashed); `fingerprint` is the hash of the body. */
export interface Claim {
  readonly scope: string;
  readonly fingerprint: string;
}

export type Created =
  | { readonly result: 'created' }
  /** The id or the key is taken: here is who has it, and whether it came with the same body. */
  | { readonly result: 'exists'; readonly record: RequestRecord; readonly sameBody: boolean };

/** What a step reports. Ignored once the request has an outcome or when there is no record. */
export type Report = Partial<Pick<RequestRecord, 'published' | 'step' | 'attempt' | 'progress'>> & {
  readonly state?: 'running' | 'waiting';
  /** `null` clears it. */
  readonly waitingOn?: string | null;
  /** What it must still be in for any of this to be noted. */
  readonly from?: RequestState;
};

/** `won`: this is the outcome now. `same`: this very outcome (kind and bytes) was there already. `late`: another was. */
export type Settled = 'won' | 'same' | 'late' | 'unknown';

/** Something that happened to a recorded request, for server-sent events. */
export interface RequestEvent {
  /** Rises within the request; a watcher resumes after it. */
  readonly sequence: number;
  readonly at: number;
  readonly name: 'state' | 'step' | 'progress' | 'part' | 'ask' | 'outcome' | 'amended';
  readonly data: Readonly<Record<string, unknown>>;
}

export interface Group {
  readonly id: string;
  readonly requestId: string;
  /** Who is asked, by index. */
  readonly members: readonly string[];
  /** When it is complete at the latest. */
  readonly deadline: number;
  /** Rung then. Absent: its result is with the broker already. */
  readonly bell?: Bell;
}

/** The message that makes an aggregator look at a group. It has no body. */
export interface Bell {
  readonly to: Address;
  readonly properties: Omit<Message, 'body'>;
}

/** What one member of a group said. */
export interface Part {
  readonly index: number;
  readonly kind: 'reply' | 'fault';
  readonly body: Buffer;
  readonly contentType: string;
  readonly at: number;
}

/**
 * - `open`: not complete; `parts` are those so far.
 * - `closed`: complete, for `reason`, with exactly these `parts` for ever, but its result is not known to be published.
 * - `done`: its result is with the broker: whatever comes now is late.
 * - `unknown`: no such group, or forgotten.
 */
export interface GroupState {
  readonly state: 'open' | 'closed' | 'done' | 'unknown';
  readonly parts: readonly Part[];
  readonly members: readonly string[];
  readonly deadline: number;
  readonly reason?: string;
  /** When the last part came (or it was opened). */
  readonly touchedAt: number;
  /** Parts that came when it was complete, and were kept, in the order in which they came. */
  readonly late?: readonly Part[];
}

/**
 * What is kept about work that outlives its delivery (EIP: Process Manager, Claim Check): a job, a task for a person, a question to the
 * requestor, a date. One versioned document; its rules are its kind's (`dossiers.ts` says how it is changed).
 */
export interface Dossier {
  /** `job`, `task`, …: with the id its name, unique. */
  readonly kind: string;
  readonly id: string;
  readonly requestId: string;
  /** The step whose queue is rung when something is to be done. */
  readonly step: string;
  /** 1, 2, 3, …: each change adds one. */
  readonly version: number;
  /** False once its work is done; then it is kept for the retention. */
  readonly isOpen: boolean;
  /** The kind's own, as JSON. */
  readonly data: unknown;
  /** What came to the step, as it came. */
  readonly message: Message;
  /** Lists in which it is found, and its place there: `group:credit-team` → when it is due. */
  readonly index: Readonly<Record<string, number>>;
  /** When somebody must look at it, ms since 1970. Absent: when something happens. */
  readonly wakeAt?: number;
}

/** Whoever keeps a dossier tells the journal; after this long (ms) somebody else does. */
export const untoldMs = 3_000;

/** What a list shows of a dossier. */
export type Listed = Omit<Dossier, 'message' | 'index'>;

export interface Page<T> {
  readonly found: readonly T[];
  /** Where to go on; absent: that was all. */
  readonly next?: string;
}

/** From this age on (ms) the outcome of a request is written to the journal with its record, which may be far back there. */
export const longPendingMs = 3_600_000;

/** Whether the state can be gone by. */
export interface Condition {
  /** Everything that the journal says is in the state, or on its way there by the one whose work it is. */
  readonly complete: boolean;
  /** If not: everything journalled before this (ms) is in the state; absent: nothing is known to be. */
  readonly since?: number;
}

/** A request may be tried by several, under one id. */
export interface Only {
  /** Nobody else has brought it to the broker meanwhile. */
  readonly unpublished?: boolean;
  /** No try that the journal has of it was accepted after this (ms). */
  readonly acceptedBy?: number;
}

/** Where a rebuild has an outcome from: a worker's reply, what a hub decided, or what a hub said that counts instead of that. */
export type OutcomeSource = 'reply' | 'decision' | 'correction';

/**
 * The store for whoever rebuilds it from the journal, under the lease `rebuild`: it works while everybody else is refused, and
 * is refused itself once the lease is gone. Every method may be called again for what is there already. What is called first
 * happens first, awaited or not.
 */
export interface Restoring extends Pick<
  Store,
  'discard' | 'report' | 'forwarded' | 'openGroup' | 'addPart' | 'addLatePart' | 'closeGroup' | 'groupDone' | 'remember' | 'park'
> {
  /**
   * Makes the record if there is none. Of two that have one claim it is that of the one that was accepted later: resolves with the other's
   * id, and with whose it is.
   */
  record(record: NewRecord): Promise<{ readonly ousted: string; readonly by: string } | undefined>;
  /**
   * The outcome, shown; but not the reply to a request that was `detached`, which is owed as after `settle`. One that a hub wrote down counts more than a reply that nobody is known to have settled, and of several of either
   * kind the first; a correction counts more than all before it. What the record has and never showed gives way, since nobody can have seen
   * it; what it showed does not. No-op without record.
   */
  outcome(id: string, outcome: Outcome, from: OutcomeSource): Promise<void>;
  /** The version, shown. No-op without a reply. */
  amendment(id: string, amendment: Amendment): Promise<void>;
  /** The dossier, unless a newer version is there. The journal is told of it again before long. */
  keep(dossier: Dossier): Promise<void>;
  /** The state is complete: from now on everybody may go by it. Rejects when the lease has another holder. */
  complete(): Promise<void>;
}

export interface ListOptions {
  readonly limit: number;
  readonly cursor?: string;
  readonly highestFirst?: boolean;
}

export interface Store {
  /** The one clock: Redis TIME. Also the health check. Rejects within 2 s when the store is away. */
  time(): Promise<number>;

  /** Whether the state can be gone by. Everything below rejects with StoreError `incomplete` while it cannot, but leases and wake-ups. */
  condition(): Promise<Condition>;
  /** Notes that everything journalled before this moment, less `rebuild.ts`' margin, is in the state. */
  mark(): Promise<void>;
  restoring(holder: string): Restoring;
  /** How long a request is kept after its outcome, ms. */
  readonly retentionMs: number;

  /** Creates the record and claims its idempotency key, or says who has it. Both or nothing. */
  create(record: NewRecord): Promise<Created>;
  get(id: string): Promise<RequestRecord | undefined>;
  /** Takes back a `create` whose request certainly never reached the broker; frees its key. Not after an outcome. */
  discard(id: string, only?: Only): Promise<void>;
  /** Notes where the request is; `event` is appended for watchers. No-op without record (then false) or after the outcome. */
  report(id: string, report: Report, event?: Pick<RequestEvent, 'name' | 'data'>): Promise<boolean>;
  /**
   * First wins. With `shown: false` nobody sees it until `show`; nor with `true`, if the record was made after the request, is
   * older than an hour, or was asked for again before anybody was known to have brought it to the broker: then the journal must be told the
   * outcome, and the record with it. Removes the deadline; arms the retention.
   */
  settle(id: string, outcome: Outcome, shown: boolean): Promise<Settled>;
  /**
   * The journal has the outcome now: makes it visible, appends the `outcome` event. False, and nothing is done, when it is not the request's
   * outcome (any more): the state was lost meanwhile.
   */
  show(id: string, outcome: Outcome): Promise<boolean>;
  /** Ids of the requests without outcome whose place this one takes: same `supersedes`, created before it. None once it has an outcome itself. */
  superseded(id: string): Promise<readonly string[]>;
  /** Makes a correction the next version of a reply. Nobody sees it until `showAmendment`. The same rank again is the version that it was. */
  amend(id: string, correction: Correction): Promise<Amended>;
  /** The journal has this version now: makes it visible, appends the `amended` event. */
  showAmendment(id: string, version: number): Promise<void>;
  /** A version from 2 on that is shown, or the newest of those. */
  amendment(id: string, version?: number): Promise<Amendment | undefined>;
  /** The outcome has been forwarded to its `forward` address (or cannot be). */
  forwarded(id: string): Promise<void>;
  /** Ids whose deadline has passed without outcome, oldest first. */
  due(limit: number): Promise<readonly string[]>;
  /** Ids settled more than `olderThanMs` ago whose outcome is not shown, or not forwarded though it must be. */
  owed(olderThanMs: number, limit: number): Promise<readonly string[]>;
  /** Pending requests that the journal was last told of more than `olderThanMs` ago; `cursor` is where the last page ended. */
  uncarried(olderThanMs: number, cursor: string, limit: number): Promise<{ readonly ids: readonly string[]; readonly cursor: string }>;
  /** The journal was told the whole record, at `at`. */
  carried(id: string, at: number): Promise<void>;
  /** Events after `sequence` (0: from the start), in order. After more than there are: from the start, since they were lost. */
  events(id: string, sequence: number): Promise<readonly RequestEvent[]>;
  /** Calls `wake` with the id of a request that changed, on any hub. A hint: it may be missing or come twice. */
  watch(wake: (id: string) => void): Promise<() => Promise<void>>;

  /** Opens a group; opening it again changes nothing. */
  openGroup(group: Group): Promise<void>;
  /**
   * Adds a part to an open group (the first one of an index stays) and closes it once it has `enough` parts: reason `all` when that is
   * every member, else `at-least`. Undefined: it is open still, which whoever does not `look` need not see. The parts of one turn of
   * the event loop go to the store together; what closes the group is the last of them that counts, and only its caller hears so.
   */
  addPart(groupId: string, part: Part, enough: number, looks: boolean): Promise<GroupState | undefined>;
  /** Keeps a part of a group that is complete, beside those that it was completed with (the first one of an index stays). */
  addLatePart(groupId: string, part: Part): Promise<GroupState>;
  /** Closes an open group with the parts it has; the first reason stays. */
  closeGroup(groupId: string, reason: string): Promise<GroupState>;
  /** The group's result is with the broker: its bell is not rung any more. */
  groupDone(groupId: string): Promise<void>;
  /** Ids and bells of the groups whose deadline has come, oldest first, and in how many ms the next one's does, if there is one. */
  bells(limit: number): Promise<{ readonly due: readonly (readonly [groupId: string, bell: Bell])[]; readonly nextMs?: number }>;
  /** Their bells were rung, and are not rung again. */
  rung(groupIds: readonly string[]): Promise<void>;
  group(groupId: string): Promise<GroupState>;

  /** Keeps the next version of a dossier, the first one being 1. `conflict`: another version is there. Wakes watchers with `<kind>/<id>`. */
  keep(dossier: Dossier): Promise<'kept' | 'conflict'>;
  dossier(kind: string, id: string): Promise<Dossier | undefined>;
  /** Those in a list, by their place, lowest first (or highest), from `cursor` on (a `next` of before). */
  dossiers(index: string, options: ListOptions): Promise<Page<Listed>>;
  /** How many a list has, or has up to a place. */
  count(index: string, upTo?: number): Promise<number>;
  /** Those whose `wakeAt` has passed, oldest first; without those whose version the journal does not have. */
  wakeable(limit: number): Promise<readonly Dossier[]>;
  /**
   * For whoever is about to call somebody about this version: true when they are to, since it is wakeable or nobody has said so yet. If it
   * stays as it is, it is wakeable again after `againMs`.
   */
  calling(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): Promise<boolean>;
  /** Somebody was called about this version: if it stays as it is, it is wakeable again after `againMs`. */
  called(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): Promise<void>;
  /** The journal has this version. An open one is untold again after `againMs`. */
  told(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): Promise<void>;
  /** Those that whoever kept them has not told the journal of in time (`untoldMs`), and those whose time to be told again has come; oldest first. */
  untold(limit: number): Promise<readonly Dossier[]>;

  /** Keeps the last message of a topic; an older one (`at`) never replaces a newer one. */
  remember(topic: string, message: Message, at: number): Promise<void>;
  last(topic: string): Promise<{ readonly message: Message; readonly at: number } | undefined>;

  /** Keeps a value for `ttlMs` under `name` (continuations of foreign steps); putting it again replaces it. */
  park(name: string, value: Buffer, ttlMs: number): Promise<void>;
  parked(name: string): Promise<Buffer | undefined>;

  /**
   * True when `holder` has the lease `name` for the next `ttlMs` (new, or renewed). `renews`: not when nobody has it: who had it lost it,
   * with all that is in the store.
   */
  lease(name: string, holder: string, ttlMs: number, how?: { readonly renews?: boolean }): Promise<boolean>;
  close(): Promise<void>;
}
