/**
 * The store on Redis: each method is one Lua script (`store-scripts.ts`) or one command, over one connection, plus one
 * that listens for wake-ups (`redis-connection.ts`).
 */
import type { Emit } from './emit.js';
import { connect, end, refuseEviction, storeError, wakeListener, type ChainableCommander } from './redis-connection.js';
import { placeOf } from './redis-place.js';
import {
  atLeastOne,
  correctionMeta,
  dossierFields,
  digestOf,
  fieldsOf,
  given,
  groupOf,
  hashOf,
  nameOf,
  outcomeFields,
  partFields,
  readAmended,
  readDossier,
  readEvent,
  readGroup,
  readListed,
  readRecord,
  recordFields,
  reportFields,
  texts,
  type Hash,
} from './redis-records.js';
import { incomplete, scripts } from './store-scripts.js';
import { amendScripts } from './store-scripts-amend.js';
import { dossierScripts } from './store-scripts-dossiers.js';
import type {
  Amended,
  Amendment,
  Bell,
  Correction,
  Created,
  Dossier,
  Group,
  GroupState,
  NewRecord,
  Only,
  Part,
  Report,
  Restoring,
  RequestEvent,
  Settled,
  Store,
} from './store.js';
import type { Message } from './transport.js';

export interface RedisStoreOptions {
  /** `redis://` or `rediss://`, with user, password and database as usual. */
  readonly url: string;
  /** First word of every key: `hub`. */
  readonly namespace: string;
  /** How long a request is kept after its outcome (ms). Default 24 h. */
  readonly retentionMs?: number;
  readonly log?: Emit;
}

const dayMs = 86_400_000;
const all = { ...scripts, ...amendScripts, ...dossierScripts };

const correctionArgs = (correction: Correction) => {
  const { body } = correction.outcome;
  return [correction.rank, digestOf(body), correctionMeta(correction), body] as const;
};

/** Connects (rejects within 5 s, saying where, why, and how to mend it) and reconnects for ever. */
export async function redisStore({ url, namespace: ns, retentionMs = dayMs, log = () => undefined }: RedisStoreOptions): Promise<Store> {
  const where = placeOf(url);
  const { redis, server, coalesce } = await connect(url, `${ns} store`, log);
  try {
    await refuseEviction(redis, where, log);
  } catch (error) {
    redis.disconnect();
    throw error;
  }
  const listener = wakeListener(url, ns, log);
  for (const [name, lua] of Object.entries(all)) redis.defineCommand(name, { lua });
  const commands = redis as unknown as Record<string, (...args: (string | number | Buffer)[]) => Promise<unknown>>;

  const key = (kind: string, name: string) => `${ns}:${kind}:${name}`;
  const retention = Math.round(retentionMs);
  const wakeable = `${ns}:dossiers:wakeable`;
  const untold = `${ns}:dossiers:untold`;
  const bells = `${ns}:bells`;
  const completeOnServer = () => key('complete', server());

  /** Runs one command; its error says which Redis it was. */
  async function on<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply;
    } catch (error) {
      throw storeError(where, error);
    }
  }

  const run = (script: keyof typeof all, keys: readonly string[], ...args: (string | number | Buffer)[]): Promise<unknown> => {
    coalesce();
    return on(commands[`${script}Buffer`]?.call(redis, keys.length, ...keys, ...args) ?? Promise.reject(new Error(`no script ${script}`)));
  };

  /** What works as long as the key `gate` is there. */
  function behind(gate: () => string) {
    const through = (script: keyof typeof all, keys: readonly string[], ...args: (string | number | Buffer)[]) =>
      run(script, [...keys, gate()], ...args);
    /** A script about one request: its keys, then `id` and the namespace, are the first arguments of all of them. */
    const runOn = (id: string, script: keyof typeof all, args: readonly (string | number | Buffer)[] = [], ...keys: string[]) =>
      through(script, [key('request', id), key('events', id), `${ns}:deadlines`, `${ns}:owed`, ...keys], id, ns, ...args);
    const create = (record: NewRecord, isRestored: boolean) => {
      const { claim } = record;
      const args = [retention, claim === undefined ? '' : '1', isRestored ? record.acceptedAt : '', Math.round(record.deadline)];
      return runOn(
        record.id,
        'create',
        [...args, JSON.stringify({ state: record.state }), ...recordFields(record)],
        key('claim', claim?.scope ?? ''),
      );
    };
    const runOnDossier = (
      dossier: Pick<Dossier, 'kind' | 'id' | 'version'>,
      script: 'keep' | 'calling' | 'called' | 'told',
      ...args: (string | number | Buffer)[]
    ) => {
      const name = nameOf(dossier);
      return through(script, [key('dossier', name), wakeable, untold], ns, name, dossier.version, ...args);
    };
    const keep = async (dossier: Dossier, restores: boolean) => {
      const { isOpen, wakeAt = '', index } = dossier;
      const lists = JSON.stringify(index);
      const fields = dossierFields(dossier);
      const digest = digestOf(Buffer.from(JSON.stringify([isOpen, wakeAt, lists, fields.map(String)])));
      const args = [restores ? '1' : '', digest, isOpen ? '1' : '', wakeAt, lists, retention, ...fields];
      return Number(await runOnDossier(dossier, 'keep', ...args)) === 1 ? 'kept' : 'conflict';
    };
    return {
      through,
      runOn,
      create,
      runOnDossier,
      keep,
      async report(id: string, report: Report, event?: Pick<RequestEvent, 'name' | 'data'>) {
        const { state = '', waitingOn, from = '' } = report;
        const clear = waitingOn === null || (state === 'running' && waitingOn === undefined);
        const stateData = { state, ...(typeof waitingOn === 'string' ? { waitingOn } : {}) };
        const eventArgs = event === undefined ? ['', ''] : [event.name, JSON.stringify(event.data)];
        const found = await runOn(id, 'report', [
          state,
          JSON.stringify(stateData),
          clear ? '1' : '',
          ...eventArgs,
          from,
          ...reportFields(report),
        ]);
        return Number(found) === 1;
      },
      async discard(id: string, { unpublished = false, acceptedBy }: Only = {}) {
        await runOn(id, 'discard', [unpublished ? '1' : '', acceptedBy ?? '']);
      },
      async forwarded(id: string) {
        await runOn(id, 'forwarded');
      },
      async openGroup(group: Group) {
        const members = JSON.stringify(group.members);
        const due = Math.round(group.deadline);
        const bell = group.bell && JSON.stringify(group.bell);
        const fields = fieldsOf({ req: group.requestId, members, size: group.members.length, due, bell });
        await through('openGroup', [key('group', group.id), bells], group.id, retention, due, ...fields);
      },
      async addParts(groupId: string, parts: readonly Part[], enough: number, looks: boolean) {
        const [taken, isOpen, found] = (await through(
          'addParts',
          [key('group', groupId)],
          enough,
          looks ? '1' : '',
          ...parts.flatMap(partFields),
        )) as [number, number, Buffer[] | undefined];
        return { taken, isOpen: isOpen === 1, state: found === undefined ? undefined : readGroup(found) };
      },
      async addLatePart(groupId: string, part: Part) {
        return readGroup(await through('addLatePart', [key('group', groupId)], ...partFields(part)));
      },
      async closeGroup(groupId: string, reason: string) {
        return readGroup(await through('closeGroup', [key('group', groupId)], reason));
      },
      async groupDone(groupId: string) {
        await through('groupDone', [key('group', groupId), bells], groupId);
      },
      async remember(topic: string, { body, ...properties }: Message, at: number) {
        await through('remember', [key('topic', topic)], at, JSON.stringify(properties), body);
      },
      async park(name: string, value: Buffer, ttlMs: number) {
        await through('park', [key('parked', name)], value, atLeastOne(ttlMs));
      },
    };
  }

  const { through, runOn, create, runOnDossier, keep, addParts, ...methods } = behind(completeOnServer);
  const addPart = together(addParts);

  /** Reads, then looks whether what was read could be gone by: whatever emptied Redis in between is noticed. */
  async function read<T>(what: (pipeline: ChainableCommander) => unknown): Promise<T> {
    const pipeline = redis.pipeline();
    what(pipeline);
    const [[failed, found], [away, there]] = (await on(pipeline.exists(completeOnServer()).exec())) as [
      [Error | null, T],
      [Error | null, number],
    ];
    if (failed !== null || away !== null) throw storeError(where, failed ?? away);
    if (there === 0) throw storeError(where, new Error(incomplete));
    return found;
  }

  const oldest = async (set: string, olderThanMs: number, limit: number) =>
    texts(await through('oldest', [`${ns}:${set}`], ns, olderThanMs, limit));

  const dossiersBefore = async (set: string, limit: number, toldOnly: boolean) =>
    ((await through('dossiersBefore', [set], ns, limit, toldOnly ? '1' : '')) as [Buffer, Buffer[]][]).map(([name, pairs]) =>
      readDossier(name.toString(), hashOf(pairs)),
    );

  return {
    ...methods,
    retentionMs,
    async time() {
      const [seconds, micros] = await on(redis.time());
      return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
    },
    async condition() {
      const [complete, position] = await on(redis.mget(completeOnServer(), `${ns}:position`));
      return { complete: complete !== null && complete !== undefined, ...given('since', position ? Number(position) : undefined) };
    },
    async mark() {
      await through('mark', [`${ns}:position`]);
    },
    restoring(holder): Restoring {
      const restoring = behind(() => key('lease', 'rebuild'));
      return {
        ...restoring,
        async addPart(groupId, part, enough, looks) {
          return (await restoring.addParts(groupId, [part], enough, looks)).state;
        },
        async record(record) {
          const found = await restoring.create(record, true);
          if (!Array.isArray(found)) return undefined;
          const [other, keeps] = (found as Buffer[]).map(String);
          return keeps === '1' ? { ousted: record.id, by: other! } : { ousted: other!, by: record.id };
        },
        async outcome(id, outcome, from) {
          const { kind, body } = outcome;
          await restoring.runOn(id, 'restoreOutcome', [retention, from, kind, digestOf(body), ...outcomeFields(outcome)]);
        },
        async amendment(id, { version, ...correction }) {
          await restoring.runOn(id, 'restoreAmendment', [version, ...correctionArgs(correction)], key('amended', id));
        },
        async keep(dossier) {
          await restoring.keep(dossier, true);
        },
        async complete() {
          await run('complete', [`${ns}:complete`, `${ns}:position`, key('lease', 'rebuild')], ns, server(), holder);
        },
      };
    },

    async create(record): Promise<Created> {
      const found = await create(record, false);
      if (!Array.isArray(found)) return { result: 'created' };
      const [holder, pairs] = found as [Buffer, Buffer[]];
      const held = readRecord(holder.toString(), hashOf(pairs));
      const sameBody = record.claim === undefined || held.claim === undefined || held.claim.fingerprint === record.claim.fingerprint;
      return { result: 'exists', record: held, sameBody };
    },
    async get(id) {
      const hash = await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('request', id)));
      return hash['flow'] === undefined ? undefined : readRecord(id, hash);
    },
    async settle(id, outcome, shown) {
      const settled = await runOn(id, 'settle', [
        retention,
        shown ? '1' : '',
        outcome.kind,
        digestOf(outcome.body),
        ...outcomeFields(outcome),
      ]);
      return String(settled) as Settled;
    },
    async show(id, { kind, body }) {
      return (await runOn(id, 'show', [retention, kind, digestOf(body)])) === 1;
    },
    async amend(id, correction): Promise<Amended> {
      return readAmended(await runOn(id, 'amend', correctionArgs(correction), key('amended', id))) ?? { result: 'unknown' };
    },
    async showAmendment(id, version) {
      await runOn(id, 'showAmendment', [version], key('amended', id));
    },
    async amendment(id, version): Promise<Amendment | undefined> {
      const found = readAmended(await runOn(id, 'amendment', [version ?? ''], key('amended', id)));
      return found !== undefined && 'amendment' in found ? found.amendment : undefined;
    },
    due: (limit) => oldest('deadlines', 0, limit),
    owed: (olderThanMs, limit) => oldest('owed', olderThanMs, limit),
    async uncarried(olderThanMs, cursor, limit) {
      const from = Number(cursor);
      const [looked, ids] = (await through('uncarried', [`${ns}:deadlines`], ns, olderThanMs, from, limit)) as [number, Buffer[]];
      return { ids: texts(ids), cursor: looked < limit ? '' : String(from + looked) };
    },
    async superseded(id) {
      return texts(await runOn(id, 'superseded'));
    },
    async carried(id, at) {
      await runOn(id, 'carried', [at]);
    },
    async events(id, sequence) {
      const [before, lines] = (await runOn(id, 'events', [sequence])) as [number, Buffer[]];
      return lines.map((line, index) => readEvent(line.toString(), Number(before) + index + 1));
    },
    watch: listener.watch,

    addPart,
    async group(groupId) {
      return groupOf(await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('group', groupId))));
    },
    async bells(limit) {
      const [due, nextMs] = (await through('bells', [bells], ns, limit)) as [[Buffer, Buffer][], number | null];
      return {
        due: due.map(([id, bell]) => [id.toString(), JSON.parse(bell.toString()) as Bell] as const),
        ...given('nextMs', nextMs ?? undefined),
      };
    },
    async rung(groupIds) {
      await through('rung', [bells], ...groupIds);
    },
    keep: (dossier) => keep(dossier, false),
    async dossier(kind, id) {
      const name = nameOf({ kind, id });
      const hash = await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('dossier', name)));
      return hash['v'] === undefined ? undefined : readDossier(name, hash);
    },
    async dossiers(index, { limit, cursor = '', highestFirst = false }) {
      const [place = '', last = ''] = cursor === '' ? [] : cursor.split(/ (.*)/s);
      const listed = (await through('list', [key('index', index)], ns, limit, highestFirst ? '1' : '', last, place)) as [
        Buffer,
        Buffer,
        Buffer[],
      ][];
      const end = listed.length < limit ? undefined : listed.at(-1);
      return {
        found: listed.map(([name, , fields]) => readListed(name.toString(), fields.map(String))),
        ...given('next', end && `${String(end[1])} ${String(end[0])}`),
      };
    },
    async count(index, upTo) {
      return Number(await through('count', [key('index', index)], upTo ?? '+inf'));
    },
    wakeable: (limit) => dossiersBefore(wakeable, limit, true),
    async calling(dossier, againMs) {
      return Number(await runOnDossier(dossier, 'calling', againMs)) === 1;
    },
    async called(dossier, againMs) {
      await runOnDossier(dossier, 'called', againMs);
    },
    async told(dossier, againMs) {
      await runOnDossier(dossier, 'told', againMs);
    },
    untold: (limit) => dossiersBefore(untold, limit, false),
    async last(topic) {
      const { at, props, body } = await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('topic', topic)));
      if (at === undefined || props === undefined || body === undefined) return undefined;
      return { at: Number(at), message: { ...(JSON.parse(props.toString()) as Omit<Message, 'body'>), body } };
    },
    async parked(name) {
      return (await read<Buffer | null>((pipeline) => pipeline.getBuffer(key('parked', name)))) ?? undefined;
    },
    async lease(name, holder, ttlMs, { renews = false } = {}) {
      return Number(await run('lease', [key('lease', name)], holder, atLeastOne(ttlMs), renews ? '1' : '')) === 1;
    },

    async close() {
      await Promise.all([end(redis), listener.close()]);
    },
  };
}

interface AddedParts {
  /** How many came while the group was open. */
  readonly taken: number;
  readonly isOpen: boolean;
  readonly state: GroupState | undefined;
}

/** One call for the parts of a group that come in one turn of the event loop: what was published together mostly comes together. */
function together(
  addParts: (groupId: string, parts: readonly Part[], enough: number, looks: boolean) => Promise<AddedParts>,
): Store['addPart'] {
  const gathering = new Map<string, { readonly parts: Part[]; readonly added: Promise<AddedParts> }>();
  return async (groupId, part, enough, looks) => {
    // What whoever looks sees is as of its own part.
    if (looks) return (await addParts(groupId, [part], enough, true)).state;
    const name = `${enough} ${groupId}`;
    let one = gathering.get(name);
    if (one === undefined) {
      const parts: Part[] = [];
      const added = new Promise<void>((resolve) => process.nextTick(resolve)).then(() => {
        gathering.delete(name);
        return addParts(groupId, parts, enough, false);
      });
      gathering.set(name, (one = { parts, added }));
    }
    const place = one.parts.push(part);
    const { taken, isOpen, state } = await one.added;
    return isOpen || place < taken ? undefined : state;
  };
}
