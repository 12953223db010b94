/** A folder as a legacy system: the step writes a request file and waits for the answer file. */
import { readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { OutgoingCall } from '../../broker/adapter.js';
import { pause, systemClock } from '../../broker/clock.js';
import { deriveId } from '../../broker/envelope.js';
import { readFault } from '../../broker/fault.js';
import { raw, type Raw } from '../../broker/step.js';
import { contentTypeOf, exists, extensionOf, isMissing, looksOf, read, realFolder, still, writeWhole, type Seen } from './files.js';

export interface FileCallSettings {
  readonly requestFolder: string;
  readonly replyFolder: string;
  readonly timeout: number;
  readonly poll: number;
  readonly stable: number;
  readonly keep: number;
  readonly maxSize: number;
}

export class Outbox {
  readonly #requests: string;
  readonly #replies: string;
  readonly #settings: FileCallSettings;
  #swept = 0;

  constructor(requests: string, replies: string, settings: FileCallSettings) {
    this.#requests = requests;
    this.#replies = replies;
    this.#settings = settings;
  }

  /**
   * The file's name is the same when the step runs twice: the second run finds that it has asked (`.hub/<id>.asked`) and
   * waits, or finds the answer (`.hub/<id>.reply.json`).
   */
  async call({ body, contentType, envelope, context }: OutgoingCall): Promise<Raw> {
    const id = deriveId(envelope.id); // a UUID, whatever the message id is: it becomes a file's name
    const asked = await realFolder(join(this.#requests, '.hub'));
    const kept = await realFolder(join(this.#replies, '.hub'));
    await this.#sweep([...new Set([asked, kept])]);
    const name = `${id}${extensionOf(contentType)}`;
    const before = await this.#find(kept, id);
    if (before !== undefined) return this.#give(kept, before);

    if (!(await exists(join(asked, `${id}.asked`))) && !(await exists(join(this.#requests, name)))) {
      await writeWhole(join(asked, `${id}.tmp`), join(this.#requests, name), body);
    }
    await writeFile(join(asked, `${id}.asked`), '');
    const found = await this.#await(id, context);
    if (found === undefined) {
      if (context.remainingMs() <= 0) await rm(join(this.#requests, name), { force: true });
      throw new Error(`no answer to ${name} in ${this.#replies} within ${this.#settings.timeout} ms`);
    }
    await rm(join(this.#requests, name), { force: true });
    await rename(join(this.#replies, found), join(kept, found)).catch((error: unknown) => {
      if (!isMissing(error)) throw error; // The other run of this step has moved it.
    });
    return this.#give(kept, found);
  }

  /** `<id>.reply.json`, `<id>.json.reply.json` (from another hub's file adapter), `<id>.fault.json`. */
  async #find(folder: string, id: string): Promise<string | undefined> {
    const names = await readdir(folder);
    return names.find(
      (name) => name.startsWith(`${id}.`) && /^(?:\.[a-z]+)?\.(?:reply\.[a-z]{2,5}|fault\.json)$/.test(name.slice(id.length)),
    );
  }

  /** The answer's name, once it stands still. */
  async #await(id: string, { signal, remainingMs }: OutgoingCall['context']): Promise<string | undefined> {
    const end = performance.now() + Math.min(this.#settings.timeout, remainingMs());
    for (let seen: Seen | undefined; performance.now() < end && !signal.aborted;) {
      const name = await this.#find(this.#replies, id);
      const stats = name === undefined ? undefined : await stat(join(this.#replies, name)).catch(() => undefined);
      seen = stats === undefined ? undefined : still(seen, looksOf(stats));
      if (seen !== undefined && performance.now() - seen.since >= this.#settings.stable) return name;
      await pause(systemClock, Math.min(this.#settings.poll, Math.max(1, end - performance.now())), signal);
    }
    return undefined;
  }

  async #give(folder: string, name: string): Promise<Raw> {
    const body = await read(join(folder, name), this.#settings.maxSize);
    if (name.endsWith('.fault.json')) throw readFault(body, 'rejected');
    return raw(body, contentTypeOf(name));
  }

  /** Forgets answers and notes that are older than any second run. */
  async #sweep(folders: readonly string[]): Promise<void> {
    if (performance.now() - this.#swept < 60_000 && this.#swept > 0) return;
    this.#swept = performance.now();
    for (const folder of folders) {
      for (const name of await readdir(folder)) {
        const found = await stat(join(folder, name)).catch(() => undefined);
        if (found !== undefined && Date.now() - found.mtimeMs > this.#settings.keep) await rm(join(folder, name), { force: true });
      }
    }
  }
}
