/**
 * The store on Redis: each method is one Lua script (`store-scripts.ts`) or one command, over one connection, plus one
 * that listens for wake-ups. The only file of the hub that knows ioredis.
 *
 * A command whose connection breaks is rejected at once and never sent again by the driver: nothing may happen in Redis
 * long after its caller was told that it failed. Whoever calls may call again, since every script may run twice.
 */
import { createHash } from 'node:crypto';
import { Redis, type ChainableCommander, type RedisOptions } from 'ioredis';
import type { Emit } from './emit.js';
import { placeOf, reasonOf } from './redis-place.js';
import { incomplete, scripts } from './store-scripts.js';
import {
  StoreError,
  type Created,
  type Group,
  type GroupState,
  type NewRecord,
  type Outcome,
  type OutcomeKind,
  type Part,
  type Progress,
  type Report,
  type Restoring,
  type RequestEvent,
  type RequestRecord,
  type RequestState,
  type Settled,
  type Store,
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

const connectMs = 5_000;
const commandMs = 2_000;
const pingMs = 10_000;
const dayMs = 86_400_000;

/** Connects (rejects within 5 s, saying where, why, and how to mend it) and reconnects for ever. */
export async function redisStore({ url, namespace: ns, retentionMs = dayMs, log = () => undefined }: RedisStoreOptions): Promise<Store> {
  const where = placeOf(url);
  const { redis, server } = await connect(url, `${ns} store`, log);
  try {
    await refuseEviction(redis, where, log);
  } catch (error) {
    redis.disconnect();
    throw error;
  }
  const listener = wakeListener(url, ns, log);
  for (const [name, lua] of Object.entries(scripts)) redis.defineCommand(name, { lua });
  const commands = redis as unknown as Record<string, (...args: (string | number | Buffer)[]) => Promise<unknown>>;

  const key = (kind: string, name: string) => `${ns}:${kind}:${name}`;
  const retention = Math.round(retentionMs);
  const completeOnServer = () => key('complete', server());

  /** Runs one command; its error says which Redis it was. */
  async function on<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply;
    } catch (error) {
      throw storeError(where, error);
    }
  }

  const run = (script: keyof typeof scripts, keys: readonly string[], ...args: (string | number | Buffer)[]): Promise<unknown> =>
    on(commands[`${script}Buffer`]?.call(redis, keys.length, ...keys, ...args) ?? Promise.reject(new Error(`no script ${script}`)));

  /** What works as long as the key `gate` is there. */
  function behind(gate: () => string) {
    const through = (script: keyof typeof scripts, keys: readonly string[], ...args: (string | number | Buffer)[]) =>
      run(script, [...keys, gate()], ...args);
    /** A script about one request: its keys, then `id` and the namespace, are the first arguments of all of them. */
    const runOn = (id: string, script: keyof typeof scripts, args: readonly (string | number | Buffer)[] = [], ...keys: string[]) =>
      through(script, [key('request', id), key('events', id), `${ns}:deadlines`, `${ns}:owed`, ...keys], id, ns, ...args);
    const create = (record: NewRecord, takesClaim: boolean) => {
      const { claim } = record;
      const args = [retention, claim === undefined ? '' : '1', takesClaim ? '1' : '', Math.round(record.deadline)];
      return runOn(
        record.id,
        'create',
        [...args, JSON.stringify({ state: record.state }), ...recordFields(record)],
        key('claim', claim?.scope ?? ''),
      );
    };
    return {
      through,
      runOn,
      create,
      async report(id: string, report: Report, event?: Pick<RequestEvent, 'name' | 'data'>) {
        const { state = '', waitingOn } = report;
        const clear = waitingOn === null || (state === 'running' && waitingOn === undefined);
        const stateData = { state, ...(typeof waitingOn === 'string' ? { waitingOn } : {}) };
        const eventArgs = event === undefined ? ['', ''] : [event.name, JSON.stringify(event.data)];
        const found = await runOn(id, 'report', [
          state,
          JSON.stringify(stateData),
          clear ? '1' : '',
          ...eventArgs,
          ...reportFields(report),
        ]);
        return Number(found) === 1;
      },
      async discard(id: string) {
        await runOn(id, 'discard');
      },
      async forwarded(id: string) {
        await runOn(id, 'forwarded');
      },
      async openGroup(group: Group) {
        const members = JSON.stringify(group.members);
        const due = Math.round(group.deadline);
        const fields = fieldsOf({ req: group.requestId, members, size: group.members.length, due });
        await through('openGroup', [key('group', group.id)], retention, due, ...fields);
      },
      async addPart(groupId: string, part: Part, enough: number) {
        const meta = JSON.stringify({ kind: part.kind, contentType: part.contentType, at: part.at });
        return readGroup(await through('addPart', [key('group', groupId)], part.index, enough, meta, part.body));
      },
      async groupDone(groupId: string) {
        await through('groupDone', [key('group', groupId)]);
      },
      async remember(topic: string, { body, ...properties }: Message, at: number) {
        await through('remember', [key('topic', topic)], at, JSON.stringify(properties), body);
      },
      async park(name: string, value: Buffer, ttlMs: number) {
        await through('park', [key('parked', name)], value, atLeastOne(ttlMs));
      },
    };
  }

  const { through, runOn, create, ...methods } = behind(completeOnServer);

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
        async record(record) {
          await restoring.create(record, true);
        },
        async outcome(id, outcome, decided) {
          const { kind, body } = outcome;
          await restoring.runOn(id, 'restoreOutcome', [retention, decided ? '1' : '', kind, digestOf(body), ...outcomeFields(outcome)]);
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
    async show(id) {
      await runOn(id, 'show', [retention]);
    },
    due: (limit) => oldest('deadlines', 0, limit),
    owed: (olderThanMs, limit) => oldest('owed', olderThanMs, limit),
    async uncarried(olderThanMs, cursor, limit) {
      const from = Number(cursor);
      const [looked, ids] = (await through('uncarried', [`${ns}:deadlines`], ns, olderThanMs, from, limit)) as [number, Buffer[]];
      return { ids: texts(ids), cursor: looked < limit ? '' : String(from + looked) };
    },
    async carried(id, at) {
      await runOn(id, 'carried', [at]);
    },
    async events(id, sequence) {
      const [before, lines] = (await runOn(id, 'events', [sequence])) as [number, Buffer[]];
      return lines.map((line, index) => readEvent(line.toString(), Number(before) + index + 1));
    },
    watch: listener.watch,

    async closeGroup(groupId, reason) {
      return readGroup(await through('closeGroup', [key('group', groupId)], reason));
    },
    async group(groupId) {
      return groupOf(await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('group', groupId))));
    },
    async last(topic) {
      const { at, props, body } = await read<Hash>((pipeline) => pipeline.hgetallBuffer(key('topic', topic)));
      if (at === undefined || props === undefined || body === undefined) return undefined;
      return { at: Number(at), message: { ...(JSON.parse(props.toString()) as Omit<Message, 'body'>), body } };
    },
    async parked(name) {
      return (await read<Buffer | null>((pipeline) => pipeline.getBuffer(key('parked', name)))) ?? undefined;
    },
    async lease(name, holder, ttlMs) {
      return Number(await run('lease', [key('lease', name)], holder, atLeastOne(ttlMs))) === 1;
    },

    async close() {
      await Promise.all([end(redis), listener.close()]);
    },
  };
}

// The connection.

/** In our words where the driver speaks of its settings. */
function storeError(where: string, error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const said = reasonOf(error);
  if (said.startsWith(incomplete))
    return new StoreError('incomplete', `Redis at ${where}: its data was lost or is an older copy; it is rebuilt from the journal`, {
      cause: error,
    });
  const reason = /enableOfflineQueue|Connection is closed/.test(said)
    ? 'not connected'
    : /max retries per request/.test(said)
      ? 'the connection was lost'
      : said;
  return new StoreError('away', `Redis at ${where}: ${reason}`, { cause: error });
}

const options = {
  lazyConnect: true,
  commandTimeout: commandMs,
  // A command that times out leaves its connection as it is: one that is silently dead must not stay.
  socketTimeout: commandMs + 1_000,
  connectTimeout: 2_000,
  disconnectTimeout: 500,
  retryStrategy: (attempt: number) => Math.min(100 * 2 ** Math.min(attempt - 1, 5), 2_000),
  maxRetriesPerRequest: 0,
  enableOfflineQueue: false,
  autoResubscribe: false,
  // A replica that was a primary until now: the reconnect finds the new one.
  reconnectOnError: (error: Error) => error.message.includes('READONLY'),
} satisfies RedisOptions;

interface Connected {
  readonly redis: Redis;
  /** Run id of the Redis server that answers on this connection; another one after each of its restarts. Throws when there is none. */
  server(): string;
}

/** Resolves once Redis answers; tries for 5 s, since services often start together. */
async function connect(url: string, name: string, log: Emit): Promise<Connected> {
  const where = placeOf(url);
  const redis = new Redis(url, { ...options, connectionName: name.replaceAll(' ', '.') });
  let lastError: Error | undefined;
  let connected = false;
  redis.on('error', (error: Error) => (lastError = error));
  let runId: string | undefined;
  redis.on('close', () => {
    if (connected) log('redis.disconnected', { connection: name, where, error: lastError });
    connected = false;
    runId = undefined;
  });
  const identified = async () => {
    // Where INFO is forbidden, an emptied Redis is noticed, and a restarted one is not.
    const info = await redis.info('server').catch((error: Error) => (/NOPERM/.test(error.message) ? '' : Promise.reject(error)));
    runId = /^run_id:(\w+)/m.exec(info)?.[1] ?? 'unknown';
    connected = true;
    lastError = undefined;
    log('redis.connected', { connection: name, where });
    redis.emit('identified');
  };
  redis.on('ready', () => void identified().catch(() => redis.disconnect(true)));
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => refuse(lastError ?? new Error('no answer')), connectMs);
    const refuse = (error: Error) => {
      clearTimeout(timer);
      redis.disconnect();
      reject(new Error(`cannot use Redis at ${where}: ${reasonOf(error)}. ${howToMend(error)}`, { cause: error }));
    };
    // A wrong password is not going to be right in a second.
    redis.on('error', (error: Error) => /WRONGPASS|NOAUTH|NOPERM|invalid password/.test(error.message) && !connected && refuse(error));
    redis.once('identified', () => (clearTimeout(timer), resolve()));
    redis.connect().catch(() => undefined);
  });
  return {
    redis,
    server() {
      if (runId === undefined) throw new StoreError('away', `Redis at ${where}: not connected`);
      return runId;
    },
  };
}

function howToMend(error: Error): string {
  if (/WRONGPASS|NOAUTH|invalid password/.test(error.message))
    return 'Put user and password into the URL: redis://user:password@host:port/0';
  if (/NOPERM/.test(error.message)) return 'Give the user the rights: ACL SETUSER <user> ~* &* +@all';
  if (/LOADING/.test(error.message)) return 'It is still loading its data: start again in a moment';
  return 'Start it (redis-server, or docker compose up -d redis), or set the right URL';
}

/** A store that forgets by itself keeps no promise. INFO says it also where CONFIG is forbidden. */
async function refuseEviction(redis: Redis, where: string, log: Emit): Promise<void> {
  let policy: string | undefined;
  try {
    policy = /^maxmemory_policy:(\S+)/m.exec(await redis.info('memory'))?.[1];
  } catch (error) {
    log('redis.policy-unknown', { where, error });
  }
  if (policy === undefined || policy === 'noeviction') return;
  const [host, port] = where.split(/:(?=\d+$)/);
  throw new Error(
    `Redis at ${where} may drop requests when memory gets short (maxmemory-policy ${policy}). Mend it: redis-cli -h ${host} -p ${port} CONFIG SET maxmemory-policy noeviction`,
  );
}

/** Says goodbye, or hangs up when nobody listens. */
async function end(redis: Redis): Promise<void> {
  redis.removeAllListeners('close');
  if (redis.status === 'ready') await redis.quit().catch(() => undefined);
  redis.disconnect();
}

/** One connection for all watchers of this store, made when the first one comes, subscribed again after each reconnect. */
function wakeListener(url: string, ns: string, log: Emit) {
  const channel = `${ns}:wake`;
  const wakes = new Set<(id: string) => void>();
  let opening: Promise<Redis> | undefined;
  let pinging: NodeJS.Timeout | undefined;
  let closed = false;

  async function open(): Promise<Redis> {
    const { redis } = await connect(url, `${ns} wake`, log);
    redis.on('message', (_channel: string, id: string) => {
      for (const wake of wakes) {
        try {
          wake(id);
        } catch (error) {
          log('redis.watcher-failed', { error });
        }
      }
    });
    // The wake-ups of the gap are lost: they are hints, and who waits looks again by itself.
    redis.on('ready', () => void redis.subscribe(channel).catch(() => redis.disconnect(true)));
    try {
      await redis.subscribe(channel);
    } catch (error) {
      redis.disconnect();
      throw storeError(placeOf(url), error);
    }
    // Who only listens never notices that nobody speaks any more.
    pinging = setInterval(() => void redis.ping().catch(() => undefined), pingMs);
    return redis;
  }

  return {
    async watch(wake: (id: string) => void): Promise<() => Promise<void>> {
      if (closed) throw new Error('the store is closed');
      // A set member of its own, so that one function can watch twice.
      const own = (id: string) => wake(id);
      opening ??= open();
      try {
        await opening;
      } catch (error) {
        opening = undefined;
        throw error;
      }
      wakes.add(own);
      return async () => void wakes.delete(own);
    },
    async close(): Promise<void> {
      closed = true;
      wakes.clear();
      const redis = await opening?.catch(() => undefined);
      clearInterval(pinging);
      if (redis !== undefined) await end(redis);
    },
  };
}

// Records as hashes.

type Hash = Readonly<Record<string, Buffer | undefined>>;

const digestOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('base64url');
const atLeastOne = (ms: number): number => Math.max(1, Math.ceil(ms));
const texts = (reply: unknown): string[] => (reply as Buffer[]).map((text) => text.toString());

function hashOf(pairs: readonly Buffer[]): Hash {
  const hash: Record<string, Buffer> = Object.create(null) as Record<string, Buffer>;
  for (let at = 0; at + 1 < pairs.length; at += 2) hash[String(pairs[at])] = pairs[at + 1] as Buffer;
  return hash;
}

/** Names and values, without those that are undefined. */
function fieldsOf(values: Readonly<Record<string, string | number | Buffer | undefined>>): (string | number | Buffer)[] {
  return Object.entries(values).flatMap(([name, value]) => (value === undefined ? [] : [name, value]));
}

const recordFields = (record: NewRecord) =>
  fieldsOf({
    flow: record.flow,
    state: record.state,
    at: record.acceptedAt,
    due: Math.round(record.deadline),
    pub: record.published ? 1 : undefined,
    who: record.principal,
    key: record.key,
    fwdq: record.forward?.queue,
    fwdc: record.forward?.correlationId,
    claim: record.claim?.scope,
    print: record.claim?.fingerprint,
    det: record.detached === true ? 1 : undefined,
    carr: record.carriedAt,
  });

const reportFields = (report: Report) =>
  fieldsOf({
    pub: report.published === true ? 1 : undefined,
    step: report.step,
    try: report.attempt,
    wait: report.waitingOn ?? undefined,
    prog: report.progress === undefined ? undefined : JSON.stringify(report.progress),
  });

const outcomeFields = (outcome: Outcome) =>
  fieldsOf({ body: outcome.body, type: outcome.contentType, enc: outcome.contentEncoding, oat: outcome.at });

function readRecord(id: string, hash: Hash): RequestRecord {
  const text = (name: string) => hash[name]?.toString();
  return {
    id,
    flow: text('flow') ?? '',
    state: (text('state') ?? 'accepted') as RequestState,
    acceptedAt: Number(text('at')),
    updatedAt: Number(text('upd')),
    deadline: Number(text('due')),
    published: hash['pub'] !== undefined,
    shown: hash['shown'] !== undefined,
    ...given('principal', text('who')),
    ...given('key', text('key')),
    ...given('step', text('step')),
    ...given('attempt', hash['try'] && Number(text('try'))),
    ...given('waitingOn', text('wait')),
    ...given('progress', hash['prog'] && (JSON.parse(hash['prog'].toString()) as Progress)),
    ...given('forward', hash['fwdq'] && { queue: hash['fwdq'].toString(), ...given('correlationId', text('fwdc')) }),
    ...given('forwarded', hash['fwdd'] && true),
    ...given('claim', hash['claim'] && { scope: hash['claim'].toString(), fingerprint: text('print') ?? '' }),
    ...given('detached', hash['det'] && true),
    ...given('carriedAt', hash['carr'] && Number(text('carr'))),
    ...given('outcome', readOutcome(hash)),
  };
}

function readOutcome(hash: Hash): Outcome | undefined {
  const { kind, body, type, enc, oat } = hash;
  if (kind === undefined || body === undefined) return undefined;
  return {
    kind: kind.toString() as OutcomeKind,
    body,
    contentType: String(type),
    at: Number(oat),
    ...given('contentEncoding', enc?.toString()),
  };
}

/** `{ name: value }`, or nothing: an optional property is absent, never undefined. */
function given<Name extends string, Value>(name: Name, value: Value | undefined): { [N in Name]?: Value } {
  return value === undefined ? {} : ({ [name]: value } as { [N in Name]: Value });
}

function readEvent(line: string, sequence: number): RequestEvent {
  const [, at, name, data] = /^(\d+) (\S+) (.*)$/s.exec(line) ?? [];
  return { sequence, at: Number(at), name: name as RequestEvent['name'], data: JSON.parse(data ?? '{}') as RequestEvent['data'] };
}

const readGroup = (reply: unknown): GroupState => groupOf(hashOf(reply as Buffer[]));

function groupOf(hash: Hash): GroupState {
  const { state, members, due, touched, reason } = hash;
  if (state === undefined) return { state: 'unknown', parts: [], members: [], deadline: 0, touchedAt: 0 };
  return {
    state: state.toString() as GroupState['state'],
    parts: partsOf(hash),
    members: JSON.parse(String(members)) as string[],
    deadline: Number(due),
    touchedAt: Number(touched),
    ...given('reason', reason?.toString()),
  };
}

function partsOf(hash: Hash): Part[] {
  const parts = Object.keys(hash).flatMap((field) => {
    const index = /^m(\d+)$/.exec(field)?.[1];
    if (index === undefined) return [];
    const meta = JSON.parse(String(hash[field])) as Omit<Part, 'index' | 'body'>;
    return [{ index: Number(index), ...meta, body: hash[`b${index}`] ?? Buffer.alloc(0) }];
  });
  return parts.sort((a, b) => a.index - b.index);
}
