/**
 * Reads the journal and says what in it breaks the promise (design §9). In bounded memory: when too many requests are in sight,
 * half of them (by a hash of their ids) is left to a later pass over the stream.
 */
import { createHash } from 'node:crypto';
import { amendmentIn, correctsIn } from '../broker/amendable.js';
import type { Envelope } from '../broker/envelope.js';
import { triedIn, type Journal } from '../broker/journal.js';
import type { OutcomeKind } from '../broker/store.js';
import type { Names } from '../broker/topology.js';
import type { Delivery } from '../broker/transport.js';
import { decode, isUndecodable, outcomeOf, recordIn } from '../broker/wire.js';

export interface Violation {
  readonly request: string;
  readonly what: string;
}

export interface Verdict {
  readonly entries: number;
  readonly accepted: number;
  readonly replied: number;
  readonly faulted: number;
  readonly timedOut: number;
  readonly cancelled: number;
  /** Not at its deadline yet. */
  readonly pending: number;
  /** Accepted, over its deadline, and without outcome. */
  readonly lost: number;
  /** One-way: sent = done + dead + under way. */
  readonly oneWay: { readonly sent: number; readonly done: number; readonly dead: number };
  /** Groups by what completed them. */
  readonly groups: Readonly<Record<string, number>>;
  readonly late: number;
  readonly duplicates: number;
  /** Further versions of replies. */
  readonly amended: number;
  /** Requests of which only a later part was read: nothing but contradictions is looked for. */
  readonly begunBefore: number;
  readonly violations: readonly Violation[];
}

export interface VerifyOptions {
  readonly journal: Pick<Journal, 'replay'>;
  readonly names: Names;
  readonly from: number | 'first';
  readonly now: number;
  /** A key may be used again when its request has been over for so long (ms). */
  readonly retentionMs: number;
  /** Requests in memory at once. */
  readonly most?: number;
}

/** An outcome may come so much later than the deadline: the sweeper looks every half second, brokers and stores may be away. */
const graceMs = 5_000;
/** Clocks of several machines. */
const skewMs = 1_000;
const mostViolations = 1_000;

interface Said {
  readonly kind: OutcomeKind;
  readonly hash: string;
  readonly at: number;
}

interface Seen {
  deadline: number;
  isAccepted: boolean;
  isOneWay: boolean;
  /** The last try that was refused. */
  refusedAt: number;
  isDone: boolean;
  isDead: boolean;
  late: number;
  duplicates: number;
  acceptedAt: number;
  /** What a hub decided. */
  readonly decided: Said[];
  /** What counts instead of that. */
  corrected?: Said;
  /** What came through the replies. */
  readonly replies: Said[];
  /** The steps that the request was sent to as its last one. */
  readonly lastSteps: Set<string>;
  readonly repliedBy: Set<string>;
  /** `group index` → ids of the parts. */
  readonly parts: Map<string, Set<string>>;
  /** group → what completed it. */
  readonly completed: Map<string, Set<string>>;
  /** Versions of the reply from 2 on, in the order in which they were journalled first. */
  readonly amendments: Map<number, { readonly rank: number; readonly at: number; readonly hashes: Set<string> }>;
  /** What aggregators sent as corrections. */
  readonly corrections: Set<string>;
}

export async function verify(options: VerifyOptions): Promise<Verdict> {
  const total = empty();
  for (let share: Share | undefined = { from: 0, to: 2 ** 32 }; share !== undefined;) share = await pass(options, share, total);
  return total;
}

type Tally = { -readonly [Name in keyof Verdict]: Verdict[Name] } & {
  oneWay: { sent: number; done: number; dead: number };
  groups: Record<string, number>;
  violations: Violation[];
};

const empty = (): Tally => ({
  entries: 0,
  accepted: 0,
  replied: 0,
  faulted: 0,
  timedOut: 0,
  cancelled: 0,
  pending: 0,
  lost: 0,
  oneWay: { sent: 0, done: 0, dead: 0 },
  groups: {},
  late: 0,
  duplicates: 0,
  amended: 0,
  begunBefore: 0,
  violations: [],
});

/** Which ids a pass looks at: those whose hash is in this range. */
interface Share {
  readonly from: number;
  to: number;
}

const placeOf = (id: string): number => createHash('sha256').update(id).digest().readUInt32BE(0);
const hashOf = (...parts: (string | Buffer)[]): string => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('base64url').slice(0, 16);
};

/** Reads it once; returns what is left for the next pass. */
async function pass(
  { journal, names, from, now, retentionMs, most = 200_000 }: VerifyOptions,
  share: Share,
  total: Tally,
): Promise<Share | undefined> {
  const requests = new Map<string, Seen>();
  /** Key → the request that had it last. Kept by the key's own hash, so that the requests of one key meet. */
  const claims = new Map<string, { readonly id: string; readonly acceptedAt: number }>();
  const isOurs = (id: string) => {
    const place = placeOf(id);
    return place >= share.from && place < share.to;
  };
  let entries = 0;

  const violation = (request: string, what: string) => {
    if (total.violations.length < mostViolations) total.violations.push({ request, what });
  };

  function halve(): void {
    while (requests.size + claims.size > most && share.to - share.from > 1) {
      share.to = Math.floor((share.from + share.to) / 2);
      for (const kept of [requests, claims]) for (const id of kept.keys()) if (!isOurs(id)) kept.delete(id);
    }
  }

  function seen(id: string): Seen | undefined {
    if (!isOurs(id)) return undefined;
    const found = requests.get(id) ?? unseen();
    requests.set(id, found);
    return found;
  }

  function entry(delivery: Delivery): void {
    entries++;
    // Anybody may write headers elsewhere: notes are what is in the stream itself.
    const note = delivery.exchange === '' ? delivery.headers['hub-note'] : undefined;
    const record = note !== undefined || delivery.exchange === names.work ? recordIn(delivery) : undefined;
    if (record !== undefined) {
      if (record.claim !== undefined) claimed(record.claim.scope, record.id, record.acceptedAt);
      const request = seen(record.id);
      if (request !== undefined) accept(request, record.deadline, record.acceptedAt);
    }
    if (typeof note === 'string' && note !== 'part') noted(note, delivery);
    else if (delivery.exchange !== names.events) hop(delivery);
    if (requests.size + claims.size > most) halve();
  }

  function claimed(claim: string, id: string, acceptedAt: number): void {
    if (!isOurs(claim)) return;
    const before = claims.get(claim);
    if (before !== undefined && before.id !== id && acceptedAt < before.acceptedAt + retentionMs)
      violation(id, `has the idempotency key of request ${before.id}`);
    if (before === undefined || acceptedAt >= before.acceptedAt) claims.set(claim, { id, acceptedAt });
  }

  function noted(note: string, delivery: Delivery): void {
    const request = seen(delivery.correlationId ?? '');
    if (request === undefined) return;
    const at = Number(delivery.headers['hub-note-at'] ?? 0);
    if (note === 'outcome') {
      const said = { ...saidIn(delivery, at), kind: delivery.headers['hub-outcome'] as OutcomeKind };
      if (delivery.headers['hub-instead-of'] === undefined) request.decided.push(said);
      else request.corrected = said;
    } else if (note === 'refused') request.refusedAt = Math.max(request.refusedAt, triedIn(delivery));
    else if (note === 'done') request.isDone = true;
    else if (note === 'late') request.late++;
    else if (note === 'duplicate') request.duplicates++;
    else if (note === 'amended') amended(request, delivery, at);
  }

  function amended(request: Seen, delivery: Delivery, at: number): void {
    const found = amendmentIn(delivery, outcomeOf(delivery, at));
    if (found === undefined) return;
    const { version, rank, outcome } = found;
    const known = request.amendments.get(version) ?? { rank, at, hashes: new Set<string>() };
    known.hashes.add(`${rank} ${hashOf(outcome.body)}`);
    request.amendments.set(version, known);
  }

  function hop(delivery: Delivery): void {
    const requestId = delivery.headers['hub-request-id'];
    const envelope = decode(typeof requestId === 'string' ? { ...delivery, correlationId: requestId } : delivery);
    if (isUndecodable(envelope)) return;
    const request = seen(envelope.requestId);
    if (request === undefined) return;
    const completed = envelope.extra?.['hub-group'];
    if (typeof completed === 'string') addTo(request.completed, completed, String(envelope.extra?.['hub-completed-by']));
    if (delivery.exchange === names.replies && correctsIn(delivery) !== undefined) request.corrections.add(hashOf(envelope.body));
    else if (delivery.exchange === names.replies) {
      request.replies.push(saidIn(delivery, envelope.at));
      if (envelope.type !== 'fault' && envelope.from !== undefined) request.repliedBy.add(envelope.from);
    } else if (delivery.exchange === names.dead) request.isDead = true;
    else if (delivery.exchange === names.work || delivery.exchange === '') worked(request, envelope, delivery);
  }

  function worked(request: Seen, envelope: Envelope, delivery: Delivery): void {
    const { id, slip, step, groups, deadline, at, replyTo } = envelope;
    const [member] = groups;
    if (step === 1 && envelope.attempt === 1) {
      accept(request, deadline, at);
      request.isOneWay = replyTo === undefined;
    }
    if (slip.length === 1 && slip[0] !== undefined) request.lastSteps.add(slip[0]);
    if (member !== undefined && member.at === slip[0] && envelope.type !== 'event' && delivery.exchange === names.work)
      addTo(request.parts, `${member.id} ${member.index}`, `${envelope.type === 'fault' ? 'fault' : 'part'} ${id}`);
  }

  await journal.replay(from, entry);
  for (const [id, request] of requests) judge(id, request, now, total, violation);
  total.entries = Math.max(total.entries, entries);
  return share.to < 2 ** 32 ? { from: share.to, to: 2 ** 32 } : undefined;
}

const unseen = (): Seen => ({
  deadline: 0,
  isAccepted: false,
  isOneWay: false,
  refusedAt: -Infinity,
  isDone: false,
  isDead: false,
  late: 0,
  duplicates: 0,
  acceptedAt: 0,
  decided: [],
  replies: [],
  lastSteps: new Set(),
  repliedBy: new Set(),
  parts: new Map(),
  completed: new Map(),
  amendments: new Map(),
  corrections: new Set(),
});

function accept(request: Seen, deadline: number, at: number): void {
  request.isAccepted = true;
  request.deadline = deadline;
  request.acceptedAt = at;
}

function addTo(sets: Map<string, Set<string>>, key: string, value: string): void {
  const found = sets.get(key) ?? new Set<string>();
  found.add(value);
  sets.set(key, found);
}

function saidIn(delivery: Delivery, at: number): Said {
  const { kind, body } = outcomeOf(delivery, at);
  return { kind, hash: hashOf(body), at };
}

function judge(id: string, request: Seen, now: number, total: Tally, violation: (request: string, what: string) => void): void {
  const { replies, deadline } = request;
  const decided = request.corrected === undefined ? request.decided : [request.corrected];
  const [decision] = decided;
  total.late += request.late;
  total.duplicates += request.duplicates;
  for (const [group, by] of request.completed) {
    for (const what of by) total.groups[what] = (total.groups[what] ?? 0) + 1;
    if (by.size > 1) violation(id, `group ${group} was completed ${by.size} times: by ${[...by].join(', ')}`);
  }
  for (const [part, ids] of request.parts) {
    const parts = [...ids].filter((one) => one.startsWith('part'));
    if (parts.length > 1) violation(id, `part ${part} came ${parts.length} times, as different messages`);
  }
  if (new Set(decided.map(({ kind, hash }) => `${kind} ${hash}`)).size > 1)
    violation(id, `has ${decided.length} outcomes that differ: ${decided.map(({ kind }) => kind).join(', ')}`);
  if (decision?.kind === 'reply' && replies.length > 0 && !replies.some(({ hash }) => hash === decision.hash))
    violation(id, 'was given a reply that no worker sent for it');
  total.amended += request.amendments.size;
  judgeAmendments(id, request, violation);
  if (!request.isAccepted) {
    if (decided.length + replies.length > 0) total.begunBefore++;
    return;
  }
  const strangers = [...request.repliedBy].filter((step) => !request.lastSteps.has(step));
  if (strangers.length > 0)
    violation(id, `was answered by ${strangers.join(', ')}, which is not its last step (${[...request.lastSteps].join(', ')})`);
  if (request.acceptedAt <= request.refusedAt) return;
  if (request.isOneWay) return judgeOneWay(id, request, now, total, violation);
  total.accepted++;
  // What a hub decided counts; where nothing had to be decided, the first reply.
  const outcome = decision ?? replies[0];
  if (outcome === undefined && now <= deadline + graceMs) total.pending++;
  else if (outcome === undefined) {
    total.lost++;
    violation(id, `has no outcome, ${Math.round((now - deadline) / 1_000)} s after its deadline`);
  } else {
    total[countOf[outcome.kind]]++;
    if (outcome.at > deadline + graceMs)
      violation(id, `had its outcome (${outcome.kind}) ${Math.round((outcome.at - deadline) / 1_000)} s after its deadline`);
    if (outcome.kind === 'timeout' && outcome.at < deadline - skewMs && !replies.some(({ kind }) => kind === 'timeout'))
      violation(id, `timed out ${deadline - outcome.at} ms before its deadline`);
  }
}

/** Versions belong to a reply, ascend without holes, count ever more late parts, and are what an aggregator sent; each has one body. */
function judgeAmendments(id: string, request: Seen, violation: (request: string, what: string) => void): void {
  const { amendments, corrections, corrected, decided, replies, isAccepted } = request;
  let last = { version: 1, rank: 0 };
  for (const [version, { rank, hashes }] of amendments) {
    // Of one that was begun before, the first ones may be further back.
    const follows = version === last.version + 1 || (!isAccepted && last.version === 1);
    if (!follows) violation(id, `has version ${version} of its reply after version ${last.version}`);
    if (rank <= last.rank) violation(id, `version ${version} of its reply counts ${rank} late parts, and the one before ${last.rank}`);
    if (hashes.size > 1) violation(id, `version ${version} of its reply is told in ${hashes.size} ways`);
    if (isAccepted && ![...hashes].every((one) => corrections.has(one.slice(one.indexOf(' ') + 1))))
      violation(id, `version ${version} of its reply was sent by no aggregator`);
    last = { version, rank };
  }
  const outcome = corrected ?? decided[0] ?? replies[0];
  if (amendments.size > 0 && isAccepted && outcome?.kind !== 'reply')
    violation(id, `has versions of a reply, and its outcome is ${outcome === undefined ? 'not there' : `a ${outcome.kind}`}`);
}

function judgeOneWay(
  id: string,
  { isDone, isDead, deadline }: Seen,
  now: number,
  { oneWay }: Tally,
  violation: (request: string, what: string) => void,
): void {
  oneWay.sent++;
  if (isDone) oneWay.done++;
  else if (isDead) oneWay.dead++;
  else if (now > deadline + graceMs) violation(id, 'one-way: neither done nor a dead letter');
}

const countOf = { reply: 'replied', fault: 'faulted', timeout: 'timedOut', cancelled: 'cancelled' } as const satisfies Record<
  OutcomeKind,
  string
>;
