/**
 * The store in memory, for tests of one's own flows and for `--demo`: the same behaviour as the one on Redis, gone with the process.
 * Two hubs in one process share it: `memoryState()`, and a `connect()` for each.
 */
import { nextTurn, systemClock, type Clock, type Soon } from './clock.js';
import {
  isSameOutcome,
  longPendingMs,
  stateOf,
  StoreError,
  type Amended,
  type Amendment,
  type Correction,
  type Created,
  type Dossier,
  type Group,
  type GroupState,
  type NewRecord,
  type Only,
  type Outcome,
  type OutcomeSource,
  type Part,
  type Report,
  type Restoring,
  type RequestEvent,
  type RequestRecord,
  type Settled,
  type Store,
} from './store.js';
import { memoryDossiers } from './store-memory-dossiers.js';
import type { Message } from './transport.js';

export interface MemoryStoreOptions {
  readonly clock?: Clock;
  /** How long a request is kept after its outcome (ms). Default 24 h. */
  readonly retentionMs?: number;
  /** When watchers are told. Default: the next turn of the event loop. */
  readonly soon?: Soon;
}

export interface MemoryState {
  /** A store of its own that shows the same state; closing it closes no other. */
  connect(): Store;
  /** Everything is lost, as when Redis is emptied. */
  lose(): void;
  /** Remembers everything as it is now; the returned function makes it so again, as when Redis is restored from an older copy. */
  copy(): () => void;
}

const maxEvents = 500;
const sweepMs = 60_000;

type Writable<T> = { -readonly [Name in keyof T]: T[Name] };

interface Kept {
  readonly record: Writable<RequestRecord>;
  readonly events: RequestEvent[];
  sequence: number;
  settledAt: number | undefined;
  expiresAt: number;
  /** The outcome was found in the journal. */
  found?: OutcomeSource;
  /** Several may have brought it to the broker: the journal does not have the replies in the order in which their hubs settle them. */
  repeated?: boolean;
  /** When the last try was accepted, if a rebuild found several. */
  again?: number;
  /** Versions from 2 on, by number, and whether they are shown. */
  amendments?: Map<number, { readonly amendment: Amendment; shown: boolean }>;
}

const lastTry = ({ again, record }: Kept): number => again ?? record.acceptedAt;

interface KeptGroup {
  state: 'open' | 'closed' | 'done';
  reason: string | undefined;
  touchedAt: number;
  readonly parts: Map<number, Part>;
  readonly late: Map<number, Part>;
  readonly group: Group;
  readonly expiresAt: number;
  /** When its bell is to be rung. */
  bellAt: number;
}

export function memoryState({ clock = systemClock, retentionMs = 86_400_000, soon = nextTurn }: MemoryStoreOptions = {}): MemoryState {
  const requests = new Map<string, Kept>();
  const claims = new Map<string, string>();
  const groups = new Map<string, KeptGroup>();
  const topics = new Map<string, { message: Message; at: number }>();
  const parked = new Map<string, { value: Buffer; expiresAt: number }>();
  const leases = new Map<string, { holder: string; expiresAt: number }>();
  const watchers = new Set<(id: string) => void>();
  let sweptAt = clock.now();
  let complete = false;
  let position: number | undefined;

  function live<T extends { readonly expiresAt: number }>(map: Map<string, T>, name: string): T | undefined {
    const entry = map.get(name);
    if (entry === undefined || entry.expiresAt > clock.now()) return entry;
    map.delete(name);
    return undefined;
  }

  /** What has expired and is never asked for again would stay for ever. */
  function sweep(): void {
    if (clock.now() - sweptAt < sweepMs) return;
    sweptAt = clock.now();
    const maps: readonly Map<string, { readonly expiresAt: number }>[] = [requests, groups, parked, leases];
    for (const map of maps) for (const name of [...map.keys()]) live(map, name);
    for (const [scope, id] of claims) if (!requests.has(id)) claims.delete(scope);
  }

  const wake = (id: string) => soon(() => watchers.forEach((watcher) => watcher(id)));
  const dossiers = memoryDossiers(clock, retentionMs, wake);

  function append(kept: Kept, name: RequestEvent['name'], data: RequestEvent['data']): void {
    const last = kept.events.at(-1);
    const told = JSON.stringify(data);
    // An event that says what the last one said is the same one, told again.
    if (last?.name === name && JSON.stringify(last.data) === told) return;
    kept.events.push({ sequence: ++kept.sequence, at: clock.now(), name, data: JSON.parse(told) as RequestEvent['data'] });
    if (kept.events.length > maxEvents) kept.events.shift();
  }

  function show(kept: Kept): void {
    const { record } = kept;
    if (record.outcome === undefined || record.shown) return;
    record.shown = true;
    record.state = stateOf[record.outcome.kind];
    record.updatedAt = clock.now();
    delete record.waitingOn;
    append(kept, 'outcome', { state: record.state, kind: record.outcome.kind });
    kept.expiresAt = clock.now() + retentionMs;
    wake(record.id);
  }

  function create(record: NewRecord): Created {
    sweep();
    const { claim } = record;
    const holder = claims.get(claim?.scope ?? '');
    const found = live(requests, record.id) ?? (holder === undefined ? undefined : live(requests, holder));
    if (found !== undefined) {
      const { claim: held, published, state, outcome } = found.record;
      if (!published && state === 'accepted' && outcome === undefined) found.repeated = true;
      const sameBody = claim === undefined || held === undefined || held.fingerprint === claim.fingerprint;
      return { result: 'exists', record: { ...found.record }, sameBody };
    }
    const now = clock.now();
    const deadline = Math.round(record.deadline);
    const kept: Kept = {
      record: { ...record, deadline, updatedAt: now, shown: false },
      events: [],
      sequence: 0,
      settledAt: undefined,
      expiresAt: Math.max(deadline, now) + retentionMs,
    };
    requests.set(record.id, kept);
    clock.expect?.(deadline);
    if (claim !== undefined) claims.set(claim.scope, record.id);
    append(kept, 'state', { state: record.state });
    wake(record.id);
    return { result: 'created' };
  }

  /** Makes the record if there is none. The claim is that of the one that was accepted later. */
  function restore(record: NewRecord): Awaited<ReturnType<Restoring['record']>> {
    const { id, claim, acceptedAt } = record;
    const scope = claim?.scope ?? '';
    const holder = live(requests, claims.get(scope) ?? '')?.record;
    claims.delete(scope);
    create(record);
    const kept = live(requests, id);
    if (kept !== undefined && acceptedAt > lastTry(kept)) kept.again = acceptedAt;
    if (claim === undefined) return undefined;
    const isLater = holder !== undefined && holder.acceptedAt > acceptedAt;
    claims.set(scope, isLater ? holder.id : id);
    if (holder === undefined || holder.id === id) return undefined;
    return isLater ? { ousted: id, by: holder.id } : { ousted: holder.id, by: id };
  }

  function discard(id: string, { unpublished = false, acceptedBy = Infinity }: Only = {}): void {
    const kept = live(requests, id);
    if (kept === undefined || kept.record.outcome !== undefined || lastTry(kept) > acceptedBy) return;
    if (unpublished && (kept.record.published || kept.record.state !== 'accepted')) return;
    requests.delete(id);
    const { claim } = kept.record;
    if (claim !== undefined && claims.get(claim.scope) === id) claims.delete(claim.scope);
    wake(id);
  }

  function report(
    id: string,
    { published, state, waitingOn, from, ...rest }: Report,
    event: Pick<RequestEvent, 'name' | 'data'> | undefined,
  ): boolean {
    const kept = live(requests, id);
    if (kept?.record.outcome !== undefined) return true;
    if (kept === undefined) return false;
    const { record } = kept;
    if (from !== undefined && from !== record.state) return true;
    if (published === true) record.published = true;
    for (const [name, value] of Object.entries(rest)) if (value !== undefined) Object.assign(record, { [name]: value });
    record.updatedAt = clock.now();
    if (typeof waitingOn === 'string') record.waitingOn = waitingOn;
    else if (waitingOn === null || state === 'running') delete record.waitingOn;
    if (state !== undefined && state !== record.state) {
      record.state = state;
      append(kept, 'state', { state, ...(typeof waitingOn === 'string' ? { waitingOn } : {}) });
    }
    if (event !== undefined) append(kept, event.name, event.data);
    wake(id);
    return true;
  }

  function settle(id: string, outcome: Outcome, shown: boolean): Settled {
    const kept = live(requests, id);
    if (kept === undefined) return 'unknown';
    const known = kept.record.outcome;
    if (known !== undefined && (known.kind !== outcome.kind || !known.body.equals(outcome.body))) return 'late';
    if (known === undefined) decide(kept, outcome);
    const isUntold = kept.record.detached === true || kept.repeated === true || clock.now() - kept.record.acceptedAt >= longPendingMs;
    if (shown && !isUntold) show(kept);
    return known === undefined ? 'won' : 'same';
  }

  function decide(kept: Kept, outcome: Outcome): void {
    kept.record.outcome = outcome;
    kept.settledAt = clock.now();
    kept.expiresAt = clock.now() + retentionMs;
  }

  function restoreOutcome(id: string, outcome: Outcome, from: OutcomeSource): void {
    const kept = live(requests, id);
    if (kept === undefined) return;
    const { outcome: known, shown } = kept.record;
    const isSame = known !== undefined && isSameOutcome(known, outcome);
    const givesWay = kept.found === undefined ? !shown : from === 'correction' || (kept.found === 'reply' && from !== 'reply');
    if (givesWay) kept.found = from;
    if (givesWay && !isSame) {
      decide(kept, outcome);
      kept.record.shown = false;
    }
    // Of a request that got its record after it was asked, the journal must be told the record with the outcome: so it is owed.
    if ((givesWay || isSame) && !(from === 'reply' && kept.record.detached === true)) show(kept);
  }

  function amend(id: string, correction: Correction): Amended {
    const kept = live(requests, id);
    if (kept === undefined) return { result: 'unknown' };
    const { outcome, shown } = kept.record;
    if (outcome === undefined || !shown) return { result: 'early' };
    if (outcome.kind !== 'reply' || outcome.amendable === undefined) return { result: 'stale' };
    const versions = (kept.amendments ??= new Map());
    const newest = [...versions.values()].at(-1);
    if (newest !== undefined && correction.rank <= newest.amendment.rank) {
      const known = [...versions.values()].find(({ amendment }) => amendment.rank === correction.rank);
      return known === undefined ? { result: 'stale' } : { result: 'amended', amendment: known.amendment };
    }
    if (newest?.shown === false) return { result: 'behind', amendment: newest.amendment };
    if ((newest?.amendment.outcome ?? outcome).body.equals(correction.outcome.body)) return { result: 'same' };
    const amendment = { ...correction, version: (newest?.amendment.version ?? 1) + 1 };
    versions.set(amendment.version, { amendment, shown: false });
    return { result: 'amended', amendment };
  }

  function showAmendment(id: string, version: number): void {
    const kept = live(requests, id);
    const found = kept?.amendments?.get(version);
    if (kept === undefined || found === undefined || found.shown) return;
    found.shown = true;
    const { by, outcome } = found.amendment;
    const missing = outcome.amendable?.missing ?? 0;
    if (version > (kept.record.amended?.version ?? 1)) kept.record.amended = { version, missing };
    kept.record.updatedAt = clock.now();
    append(kept, 'amended', { version, by, missing });
    wake(id);
  }

  function restoreAmendment(id: string, amendment: Amendment): void {
    const kept = live(requests, id);
    if (kept?.record.outcome?.kind !== 'reply') return;
    const versions = (kept.amendments ??= new Map());
    if (versions.get(amendment.version)?.shown !== true) versions.set(amendment.version, { amendment, shown: false });
    showAmendment(id, amendment.version);
  }

  function amendment(id: string, version: number | undefined): Amendment | undefined {
    const shown = [...(live(requests, id)?.amendments?.values() ?? [])].filter((one) => one.shown).map((one) => one.amendment);
    return version === undefined ? shown.at(-1) : shown.find((one) => one.version === version);
  }

  /** Ids after `cursor`, in the order in which they came. */
  function uncarried(olderThanMs: number, cursor: string, limit: number): { ids: readonly string[]; cursor: string } {
    const pending = [...alive()].map(({ record }) => record).filter(({ outcome }) => outcome === undefined);
    const page = pending.slice(Number(cursor), Number(cursor) + limit);
    const old = page.filter(({ carriedAt, acceptedAt }) => (carriedAt ?? acceptedAt) <= clock.now() - olderThanMs);
    return { ids: old.map(({ id }) => id), cursor: page.length < limit ? '' : String(Number(cursor) + limit) };
  }

  function lose(): void {
    for (const map of [requests, claims, groups, topics, parked, leases]) map.clear();
    dossiers.clear();
    complete = false;
    position = undefined;
  }

  function copy(): () => void {
    const before = {
      requests: [...requests].map(([id, kept]) => [id, copyOf(kept)] as const),
      groups: [...groups].map(([id, kept]) => [id, copyOfGroup(kept)] as const),
      claims: [...claims],
      topics: [...topics],
      parked: [...parked],
      position,
    };
    const dossiersAgain = dossiers.copy();
    return () => {
      lose();
      dossiersAgain();
      for (const [id, kept] of before.requests) requests.set(id, copyOf(kept));
      for (const [id, kept] of before.groups) groups.set(id, copyOfGroup(kept));
      for (const [scope, id] of before.claims) claims.set(scope, id);
      for (const [topic, message] of before.topics) topics.set(topic, message);
      for (const [name, value] of before.parked) parked.set(name, value);
      ({ position } = before);
    };
  }

  const copyOf = (kept: Kept): Kept => ({
    ...kept,
    record: { ...kept.record },
    events: [...kept.events],
    ...(kept.amendments === undefined ? {} : { amendments: new Map([...kept.amendments].map(([version, one]) => [version, { ...one }])) }),
  });
  const copyOfGroup = (kept: KeptGroup): KeptGroup => ({ ...kept, parts: new Map(kept.parts), late: new Map(kept.late) });

  function* alive(): Iterable<Kept> {
    for (const id of [...requests.keys()]) {
      const kept = live(requests, id);
      if (kept !== undefined) yield kept;
    }
  }

  /** Ids of those that `since` gives a time for that is `olderThanMs` ago or more, oldest first. */
  const oldest = (since: (kept: Kept) => number | undefined, olderThanMs: number, limit: number) =>
    [...alive()]
      .map((kept) => ({ id: kept.record.id, since: since(kept) ?? Infinity }))
      .filter((entry) => entry.since <= clock.now() - olderThanMs)
      .sort((a, b) => a.since - b.since)
      .slice(0, limit)
      .map(({ id }) => id);

  const isOwed = ({ record }: Kept) =>
    record.outcome !== undefined && (!record.shown || (record.forward !== undefined && record.forwarded !== true));

  function groupState(id: string): GroupState {
    const kept = live(groups, id);
    if (kept === undefined) return { state: 'unknown', parts: [], members: [], deadline: 0, touchedAt: 0 };
    const { state, parts, late, touchedAt, reason, group } = kept;
    return {
      state,
      parts: [...parts.values()].sort((a, b) => a.index - b.index),
      members: group.members,
      deadline: group.deadline,
      touchedAt,
      ...(reason === undefined ? {} : { reason }),
      ...(late.size === 0 ? {} : { late: [...late.values()] }),
    };
  }

  function openGroup(group: Group): void {
    sweep();
    if (live(groups, group.id) !== undefined) return;
    const now = clock.now();
    groups.set(group.id, {
      state: 'open',
      reason: undefined,
      touchedAt: now,
      parts: new Map(),
      late: new Map(),
      group,
      expiresAt: Math.max(group.deadline, now) + retentionMs,
      bellAt: group.bell === undefined ? Infinity : group.deadline,
    });
  }

  function bells(limit: number): Awaited<ReturnType<Store['bells']>> {
    const now = clock.now();
    const byTime = [...groups]
      .filter(([, { state, bellAt }]) => state !== 'done' && bellAt < Infinity)
      .sort(([, a], [, b]) => a.bellAt - b.bellAt);
    const due = byTime.filter(([, { bellAt }]) => bellAt <= now).slice(0, limit);
    const next = byTime.find(([, { bellAt }]) => bellAt > now)?.[1];
    return {
      due: due.flatMap(([id, { group }]) => (group.bell === undefined ? [] : [[id, group.bell] as const])),
      ...(next === undefined ? {} : { nextMs: next.bellAt - now }),
    };
  }

  function addPart(groupId: string, part: Part, enough: number, looks: boolean): GroupState | undefined {
    const kept = live(groups, groupId);
    if (kept?.state === 'open') {
      if (!kept.parts.has(part.index)) {
        kept.parts.set(part.index, part);
        kept.touchedAt = clock.now();
      }
      if (kept.parts.size >= enough) close(kept, kept.parts.size >= kept.group.members.length ? 'all' : 'at-least');
    }
    return kept?.state === 'open' && !looks ? undefined : groupState(groupId);
  }

  function addLatePart(groupId: string, part: Part): GroupState {
    const kept = live(groups, groupId);
    if (kept !== undefined && kept.state !== 'open' && !kept.parts.has(part.index) && !kept.late.has(part.index))
      kept.late.set(part.index, part);
    return groupState(groupId);
  }

  function close(kept: KeptGroup, reason: string): void {
    kept.state = 'closed';
    kept.reason = reason;
  }

  return {
    lose,
    copy,
    connect() {
      const own = new Set<(id: string) => void>();
      let closed = false;
      /** Every method is asynchronous, and rejects once this connection is closed. */
      const anyway = async <T>(act: () => T): Promise<T> => {
        if (closed) throw new StoreError('away', 'the store is closed');
        return act();
      };
      const incomplete = () => new StoreError('incomplete', 'the state was lost or is an older copy; it is rebuilt from the journal');
      /** What works as long as `isOpen`. */
      const behind = (isOpen: () => boolean) => {
        const open = <T>(act: () => T): Promise<T> =>
          anyway(() => {
            if (!isOpen()) throw incomplete();
            return act();
          });
        const methods = {
          report: (id: string, what: Report, event?: Pick<RequestEvent, 'name' | 'data'>) => open(() => report(id, what, event)),
          discard: (id: string, only?: Only) => open(() => discard(id, only)),
          forwarded: (id: string) =>
            open(() => {
              const kept = live(requests, id);
              if (kept?.record.outcome !== undefined) kept.record.forwarded = true;
            }),
          openGroup: (group: Group) => open(() => openGroup(group)),
          addPart: (groupId: string, part: Part, enough: number, looks: boolean) => open(() => addPart(groupId, part, enough, looks)),
          addLatePart: (groupId: string, part: Part) => open(() => addLatePart(groupId, part)),
          closeGroup: (groupId: string, reason: string) =>
            open(() => {
              const kept = live(groups, groupId);
              if (kept?.state === 'open') close(kept, reason);
              return groupState(groupId);
            }),
          groupDone: (groupId: string) =>
            open(() => {
              const kept = live(groups, groupId);
              if (kept !== undefined) kept.state = 'done';
            }),
          remember: (topic: string, message: Message, at: number) =>
            open(() => {
              if ((topics.get(topic)?.at ?? -Infinity) <= at) topics.set(topic, { message, at });
            }),
          park: (name: string, value: Buffer, ttlMs: number) =>
            open(() => void parked.set(name, { value, expiresAt: clock.now() + Math.max(1, Math.ceil(ttlMs)) })),
        };
        return { open, methods };
      };
      const { open, methods } = behind(() => complete);
      return {
        ...methods,
        retentionMs,
        time: () => anyway(() => clock.now()),
        condition: () => anyway(() => ({ complete, ...(position === undefined ? {} : { since: position }) })),
        mark: () => open(() => void (position = clock.now())),
        restoring(holder): Restoring {
          const restoring = behind(() => live(leases, 'rebuild') !== undefined);
          return {
            ...restoring.methods,
            record: (record) => restoring.open(() => restore(record)),
            outcome: (id, outcome, from) => restoring.open(() => restoreOutcome(id, outcome, from)),
            amendment: (id, one) => restoring.open(() => restoreAmendment(id, one)),
            keep: (dossier) => restoring.open(() => void dossiers.keep(dossier, true)),
            complete: () =>
              anyway(() => {
                if (live(leases, 'rebuild')?.holder !== holder) throw incomplete();
                complete = true;
                position = clock.now();
                leases.delete('rebuild');
              }),
          };
        },
        create: (record) => open(() => create(record)),
        get: (id) =>
          open(() => {
            const kept = live(requests, id);
            return kept && { ...kept.record };
          }),
        settle: (id, outcome, shown) => open(() => settle(id, outcome, shown)),
        show: (id, outcome) =>
          open(() => {
            const kept = live(requests, id);
            if (kept?.record.outcome === undefined || !isSameOutcome(kept.record.outcome, outcome)) return false;
            show(kept);
            return true;
          }),
        amend: (id, correction) => open(() => amend(id, correction)),
        showAmendment: (id, version) => open(() => showAmendment(id, version)),
        amendment: (id, version) => open(() => amendment(id, version)),
        due: (limit) => open(() => oldest(({ record }) => (record.outcome === undefined ? record.deadline : undefined), 0, limit)),
        owed: (olderThanMs, limit) => open(() => oldest((kept) => (isOwed(kept) ? kept.settledAt : undefined), olderThanMs, limit)),
        uncarried: (olderThanMs, cursor, limit) => open(() => uncarried(olderThanMs, cursor, limit)),
        superseded: (id) =>
          open(() => {
            const { record } = live(requests, id) ?? {};
            if (record?.supersedes === undefined || record.outcome !== undefined) return [];
            const line = [...alive()].map((kept) => kept.record).filter((one) => one.supersedes === record.supersedes);
            const before = line.slice(
              0,
              line.findIndex((one) => one.id === id),
            );
            return before.filter(({ outcome }) => outcome === undefined).map((one) => one.id);
          }),
        carried: (id, at) =>
          open(() => {
            const kept = live(requests, id);
            if (kept !== undefined) kept.record.carriedAt = at;
          }),
        events: (id, sequence) =>
          open(() => {
            const kept = live(requests, id);
            // After more than there are: they were lost, and counted anew.
            const after = kept !== undefined && sequence > kept.sequence ? 0 : sequence;
            return kept?.events.filter((event) => event.sequence > after) ?? [];
          }),
        watch: (wakeUp) =>
          anyway(() => {
            // A set member of its own, so that one function can watch twice.
            const watcher = (id: string) => wakeUp(id);
            watchers.add(watcher);
            own.add(watcher);
            return async () => {
              watchers.delete(watcher);
              own.delete(watcher);
            };
          }),
        group: (groupId) => open(() => groupState(groupId)),
        bells: (limit) => open(() => bells(limit)),
        rung: (groupIds) =>
          open(() => {
            for (const id of groupIds) {
              const kept = live(groups, id);
              if (kept !== undefined) kept.bellAt = Infinity;
            }
          }),
        keep: (dossier: Dossier) => open(() => dossiers.keep(dossier, false)),
        dossier: (kind, id) => open(() => dossiers.dossier(kind, id)),
        dossiers: (index, options) => open(() => dossiers.dossiers(index, options)),
        count: (index, upTo) => open(() => dossiers.count(index, upTo)),
        wakeable: (limit) => open(() => dossiers.wakeable(limit)),
        calling: (dossier, againMs) => open(() => dossiers.calling(dossier, againMs)),
        called: (dossier, againMs) => open(() => dossiers.called(dossier, againMs)),
        told: (dossier, againMs) => open(() => dossiers.told(dossier, againMs)),
        untold: (limit) => open(() => dossiers.untold(limit)),
        last: (topic) => open(() => topics.get(topic)),
        parked: (name) => open(() => live(parked, name)?.value),
        lease: (name, holder, ttlMs, { renews = false } = {}) =>
          anyway(() => {
            const held = live(leases, name);
            if (held === undefined ? renews : held.holder !== holder) return false;
            leases.set(name, { holder, expiresAt: clock.now() + Math.max(1, Math.ceil(ttlMs)) });
            return true;
          }),
        async close() {
          closed = true;
          own.forEach((watcher) => watchers.delete(watcher));
          own.clear();
        },
      };
    },
  };
}
