/**
 * A folder as an entrance. Taken exactly once, whoever watches it: a file is claimed by renaming it to
 * `.taken/<key>~<owner>~<name>`. Rename is atomic, so one hub wins. `key` is made for the claim and is the request's
 * idempotency key: who resumes the file joins its request instead of asking again. `owner` writes `.taken/<owner>.alive` as
 * long as it lives; when that stands still for `lease`, another hub renames the claim to itself. No clocks are compared, and
 * two owners at once do no harm.
 */
import { createHash, randomBytes } from 'node:crypto';
import { lstat, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Principal } from '../../broker/access.js';
import type { AdapterContext } from '../../broker/adapter.js';
import { pause, systemClock } from '../../broker/clock.js';
import { Fault, faultBody, faultCodes, isFault, messageOf } from '../../broker/fault.js';
import type { Answer } from '../../broker/gateway.js';
import type { Outcome } from '../../broker/store.js';
import {
  contentTypeOf,
  exists,
  extensionOf,
  isMissing,
  looksOf,
  read,
  realFolder,
  reserved,
  still,
  syncFolder,
  writeWhole,
  type Seen,
} from './files.js';

export interface FileSettings {
  readonly folder: string;
  readonly flow: string;
  readonly principal: string;
  readonly oneWay: boolean;
  readonly wait: number;
  readonly poll: number;
  readonly stable: number;
  readonly lease: number;
  readonly maxSize: number;
  readonly concurrency: number;
}

const claimName = /^([0-9a-f]{32})~([0-9a-f]{8})~(.+)$/s;
/** Owner of claims that a hub gave back when it stopped: anybody's, at once. */
const nobody = '00000000';
const notRequests = /^\.|\.(?:reply\.(?:json|xml|txt|csv|bin)(?:\.gz)?|fault\.json|accepted|tmp|part)$/i;
const unaskedMs = 1_000;
const longestBackOffMs = 30_000;

interface Claim {
  readonly key: string;
  readonly name: string;
  readonly path: string;
  /** Aborts when the hub stops, or when another one has taken the claim over. */
  readonly end: AbortController;
  /** Somebody had it before: its request may be under way. */
  readonly again: boolean;
  /** What was seen standing still; undefined on a take-over. */
  readonly seen: Seen | undefined;
}

interface Result {
  readonly to: 'done' | 'failed';
  readonly suffix?: string;
  readonly body?: Buffer;
}

export class Inbox {
  readonly #settings: FileSettings;
  readonly #principal: Principal;
  readonly #context: AdapterContext;
  readonly #taken: string;
  readonly #owner = randomBytes(4).toString('hex');
  readonly #held = new Map<string, Claim>();
  readonly #serving = new Set<Promise<void>>();
  #files = new Map<string, Seen>();
  #owners = new Map<string, Seen>();
  readonly #end = new AbortController();
  #asking = 0;
  /** Nothing is claimed before (monotonic ms): the hub could not take a request. */
  #awayUntil = 0;
  #beats = 0;
  #running: Promise<void>[] = [];

  constructor(settings: FileSettings, principal: Principal, context: AdapterContext) {
    this.#settings = settings;
    this.#principal = principal;
    this.#context = context;
    this.#taken = join(settings.folder, '.taken');
  }

  async start(): Promise<void> {
    for (const name of ['.taken', 'done', 'failed']) await realFolder(join(this.#settings.folder, name));
    await this.#sweep();
    await this.#beat();
    this.#running = [this.#every(this.#settings.poll, () => this.#scan()), this.#every(this.#settings.lease / 4, () => this.#beat())];
  }

  async close(): Promise<void> {
    this.#end.abort();
    for (const claim of this.#held.values()) claim.end.abort();
    await Promise.all(this.#running);
    // What is held sees the abort; a write that hangs (a dead network drive) must not hold up the stop.
    const enough = new AbortController();
    await Promise.race([Promise.all(this.#serving), pause(systemClock, 8_000, enough.signal)]);
    enough.abort();
    await rm(join(this.#taken, `${this.#owner}.alive`), { force: true });
  }

  async #every(ms: number, run: () => Promise<void>): Promise<void> {
    for (let failures = 0; !this.#end.signal.aborted;) {
      try {
        await run();
        failures = 0;
      } catch (error) {
        if (failures++ === 0) this.#context.log('file.failed', { folder: this.#settings.folder, error: messageOf(error) });
      }
      await pause(systemClock, failures === 0 ? ms : backOff(failures), this.#end.signal);
    }
  }

  #beat(): Promise<void> {
    return writeFile(join(this.#taken, `${this.#owner}.alive`), String(this.#beats++));
  }

  /** What hubs leave that die: notes and unfinished writes of concluded claims, signs of life (who lives writes it again). */
  async #sweep(): Promise<void> {
    const names = await readdir(this.#taken);
    const used = new Set(names.flatMap((name) => claimName.exec(name)?.slice(1, 3) ?? []));
    const left = names.filter((name) => /\.(?:tmp|id|alive)$/.test(name) && !used.has(name.split('.')[0]!));
    await Promise.all(left.map((name) => rm(join(this.#taken, name), { force: true })));
  }

  async #scan(): Promise<void> {
    // The folder first: a file that is dropped under the name of one in work is then sure to find that one in `.taken`.
    const names = await readdir(this.#settings.folder, { encoding: 'buffer' });
    const claims = (await readdir(this.#taken)).flatMap((name) => {
      const [, key, owner, of] = claimName.exec(name) ?? [];
      return key === undefined || owner === undefined || of === undefined || flawOf(of) !== undefined
        ? []
        : [{ key, owner, name: of, path: join(this.#taken, name) }];
    });
    const mine = new Set(claims.filter(({ owner }) => owner === this.#owner).map(({ key }) => key));
    for (const claim of this.#held.values()) if (!mine.has(claim.key)) claim.end.abort();
    const dead = await this.#dead(new Set(claims.map(({ owner }) => owner)));
    for (const claim of claims) {
      if (!this.#free()) return;
      if (dead.has(claim.owner)) await this.#claim(claim.path, claim.name, claim.key);
    }
    await this.#look(names, new Set(claims.map(({ name }) => name)));
  }

  #free(): boolean {
    return (
      this.#asking < this.#settings.concurrency &&
      performance.now() >= this.#awayUntil &&
      !this.#end.signal.aborted &&
      !this.#context.stopping.aborted
    );
  }

  /** Those owners that have not moved for the lease, as seen from here. */
  async #dead(owners: ReadonlySet<string>): Promise<ReadonlySet<string>> {
    const others = [...owners].filter((owner) => owner !== this.#owner && owner !== nobody);
    const seen = await Promise.all(
      others.map(async (owner) => [owner, still(this.#owners.get(owner), (await this.#pulse(owner)) ?? 'gone')] as const),
    );
    this.#owners = new Map(seen);
    return new Set([nobody, ...seen.filter(([, { since }]) => performance.now() - since >= this.#settings.lease).map(([owner]) => owner)]);
  }

  #pulse(owner: string): Promise<string | undefined> {
    return readFile(join(this.#taken, `${owner}.alive`), 'utf8').catch(() => undefined);
  }

  /** Claims what stands still; a name that is in work waits until that is over. */
  async #look(names: readonly Buffer[], busy: ReadonlySet<string>): Promise<void> {
    const before = this.#files;
    this.#files = new Map();
    for (const bytes of names) {
      const name = decoded(bytes);
      if (notRequests.test(name ?? bytes.toString('latin1')) || busy.has(name ?? '')) continue;
      const path =
        name === undefined ? Buffer.concat([Buffer.from(`${this.#settings.folder}/`), bytes]) : join(this.#settings.folder, name);
      const stats = await lstat(path).catch(() => undefined);
      if (stats === undefined || stats.isDirectory()) continue;
      const id = bytes.toString('hex');
      const seen = still(before.get(id), looksOf(stats));
      this.#files.set(id, seen);
      if (performance.now() - seen.since < this.#settings.stable || !this.#free()) continue;
      try {
        const flaw = name === undefined ? 'it is not UTF-8' : flawOf(name);
        if (name === undefined || flaw !== undefined) await this.#refuse(bytes, path, flaw ?? '');
        else await this.#claim(join(this.#settings.folder, name), name, randomBytes(16).toString('hex'), seen);
      } catch (error) {
        // A file that cannot be moved must not stand in the way of the others.
        this.#files.set(id, { ...seen, since: performance.now() + longestBackOffMs });
        this.#context.log('file.stuck', { file: name ?? id, error: messageOf(error) });
      }
    }
  }

  /** A name that cannot be used in the answer's: the file fails under a name of ours. Doing it twice does no harm. */
  async #refuse(bytes: Buffer, path: string | Buffer, flaw: string): Promise<void> {
    const name = `bad-name-${createHash('sha256').update(bytes).digest('hex').slice(0, 12)}`;
    const fault = new Fault('invalid', `the name of this file cannot be used: ${flaw}`, { reason: 'bad-name' });
    await this.#publish(randomBytes(16).toString('hex'), `${name}.fault.json`, Buffer.from(JSON.stringify(faultBody(fault))));
    await this.#move(path, name, 'failed');
    this.#context.log('file.refused', { file: name });
  }

  async #claim(from: string, name: string, key: string, seen?: Seen): Promise<void> {
    const path = join(this.#taken, `${key}~${this.#owner}~${name}`);
    try {
      await rename(from, path);
    } catch (error) {
      if (isMissing(error)) return; // Another hub was faster, or whoever dropped it has taken it back.
      throw error;
    }
    const claim: Claim = { key, name, path, end: new AbortController(), again: seen === undefined, seen };
    this.#held.set(key, claim);
    const serving = this.#serve(claim).finally(() => this.#serving.delete(serving));
    this.#serving.add(serving);
  }

  /** Until the file is concluded, another hub has it, or this one stops. Never rejects. */
  async #serve(claim: Claim): Promise<void> {
    const { signal } = claim.end;
    for (let failures = 0; !signal.aborted;) {
      this.#asking++;
      let asking = true;
      const asked = () => {
        if (asking) this.#asking--;
        asking = false;
      };
      try {
        await this.#conclude(claim, await this.#answer(claim, asked));
        this.#held.delete(claim.key);
        return;
      } catch (error) {
        if (signal.aborted) break;
        if (!(await exists(claim.path))) break;
        const ms = Math.max(backOff(++failures), isFault(error) ? (error.retryAfterMs ?? 0) : 0);
        if (isFault(error)) this.#awayUntil = performance.now() + ms;
        this.#context.log('file.again', { file: claim.name, error: messageOf(error), inMs: ms });
        asked();
        await pause(systemClock, ms, signal);
      } finally {
        asked();
      }
    }
    this.#held.delete(claim.key);
    // Given back when we stop. When another hub has it, it is not there any more.
    await rename(claim.path, join(this.#taken, `${claim.key}~${nobody}~${claim.name}`)).catch(() => undefined);
  }

  /** What becomes of the file. Throws what is worth another try; what is not becomes a fault file. */
  async #answer(claim: Claim, asked: () => void): Promise<Result> {
    try {
      const noted = await readFile(this.#note(claim), 'utf8').catch(() => undefined);
      if (noted !== undefined) {
        asked();
        return await this.#later(claim, noted);
      }
      return await this.#ask(claim, asked);
    } catch (error) {
      if (!isFault(error) || faultCodes[error.code].retriable) throw error;
      return { to: 'failed', suffix: '.fault.json', body: Buffer.from(JSON.stringify(faultBody(error))) };
    }
  }

  async #ask(claim: Claim, asked: () => void): Promise<Result> {
    const { flow, wait, maxSize, oneWay } = this.#settings;
    const { signal } = claim.end;
    await this.#settled(claim);
    // The claim must be on disk before anything happens, or a power cut would bring the file back as a new one.
    await syncFolder(this.#taken);
    const message = {
      flow,
      principal: this.#principal,
      body: await read(claim.path, maxSize),
      contentType: contentTypeOf(claim.name),
      idempotencyKey: `file-${claim.key}`,
    };
    if (oneWay) {
      await unlessAborted(this.#context.gateway.send(message), signal);
      return { to: 'done' };
    }
    const answer = await unlessAborted(this.#context.gateway.request({ ...message, waitMs: wait, again: claim.again, signal }), signal);
    if (answer.kind === 'outcome') return resultOf(answer.outcome);
    await this.#accepted(claim, answer);
    asked();
    return this.#later(claim, answer.id);
  }

  /** Waits while somebody still writes: the name was there already when it was claimed, or the writer paused. */
  async #settled({ path, seen, end: { signal } }: Claim): Promise<void> {
    if (seen?.looks === looksOf(await lstat(path))) return;
    for (let now = still(undefined, ''); performance.now() - now.since < this.#settings.stable || now.looks === '';) {
      await pause(systemClock, this.#settings.poll, signal);
      signal.throwIfAborted();
      now = still(now, looksOf(await lstat(path)));
    }
  }

  async #accepted(claim: Claim, { id, status }: Answer & { kind: 'accepted' }): Promise<void> {
    const { flow, state, acceptedAt, deadline } = status;
    const about = {
      requestId: id,
      flow,
      state,
      acceptedAt: new Date(acceptedAt).toISOString(),
      deadline: new Date(deadline).toISOString(),
    };
    await this.#publish(claim.key, `${claim.name}.accepted`, Buffer.from(`${JSON.stringify(about)}\n`));
    // From here on the request is never sent again, even when the hub has forgotten the key.
    await this.#publish(claim.key, join('.taken', `${claim.key}.id`), Buffer.from(id));
  }

  async #later({ name, end: { signal } }: Claim, id: string): Promise<Result> {
    for (;;) {
      const began = performance.now();
      const answer = await unlessAborted(this.#context.gateway.collect(id, this.#principal, 60_000, signal), signal);
      if (answer === undefined)
        throw new Fault('internal', `this hub no longer knows request ${id} of ${name}: its answer is lost, or was kept too long ago`, {
          reason: 'forgotten',
        });
      if (answer.kind === 'outcome') return resultOf(answer.outcome);
      if (performance.now() - began < unaskedMs) await pause(systemClock, unaskedMs, signal);
    }
  }

  /** The answer, then the request out of the way, then the notes: dying between them means that it is done again, alike. */
  async #conclude(claim: Claim, { to, suffix, body }: Result): Promise<void> {
    const { folder } = this.#settings;
    if (suffix !== undefined) await this.#publish(claim.key, `${claim.name}${suffix}`, body ?? Buffer.alloc(0));
    await rm(join(folder, `${claim.name}.accepted`), { force: true });
    await this.#move(claim.path, claim.name, to);
    await rm(this.#note(claim), { force: true });
    this.#context.log('file.answered', { file: claim.name, as: suffix ?? '', to });
  }

  #note({ key }: Claim): string {
    return join(this.#taken, `${key}.id`);
  }

  /** Atomic and on disk: a reader sees all of it or nothing, also after a power cut. A link of that name is replaced, never followed. */
  #publish(key: string, name: string, body: Buffer): Promise<void> {
    return writeWhole(join(this.#taken, `${key}.${this.#owner}.tmp`), join(this.#settings.folder, name), body);
  }

  async #move(from: string | Buffer, name: string, to: 'done' | 'failed'): Promise<void> {
    const folder = await realFolder(join(this.#settings.folder, to));
    const target = join(folder, await reserved(folder, name));
    try {
      await rename(from, target);
    } catch (error) {
      await rm(target, { force: true });
      if (!isMissing(error)) throw error; // Another hub has concluded it.
    }
  }
}

function resultOf({ kind, body, contentType, contentEncoding }: Outcome): Result {
  if (kind !== 'reply') return { to: 'failed', suffix: '.fault.json', body };
  if (contentEncoding === undefined) return { to: 'done', suffix: `.reply${extensionOf(contentType)}`, body };
  return { to: 'done', suffix: contentEncoding.toLowerCase() === 'gzip' ? `.reply${extensionOf(contentType)}.gz` : '.reply.bin', body };
}

/** What is wrong with a file's name; the answer's name is made of it. */
function flawOf(name: string): string | undefined {
  if (Buffer.byteLength(name) > 200) return 'it is longer than 200 bytes';
  if (/[\p{Cc}\p{Zl}\p{Zp}]/u.test(name)) return 'it has control characters';
  if (name.includes('..') || /[/\\]/.test(name)) return 'it could be a way to another folder';
  return undefined;
}

function decoded(bytes: Buffer): string | undefined {
  const name = bytes.toString('utf8');
  return Buffer.from(name).equals(bytes) ? name : undefined;
}

const backOff = (failures: number): number => Math.min(250 * 2 ** failures, longestBackOffMs);

/** The promise's value, unless `signal` aborts first; what becomes of it then is nobody's business here. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  promise.catch(() => undefined);
  let stop: () => void = () => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(new Error('no longer ours to wait for'));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
