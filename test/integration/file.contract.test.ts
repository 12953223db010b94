import { afterAll } from '@jest/globals';
import { mkdtemp, open as openFile, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { file } from '../../adapters/file.js';
import type { FileSettings } from '../../adapters/file/inbox.js';
import { adapterContract, contractFlow, type Driver, type Heard, type Work } from '../contract/adapter.js';
import { eventually } from '../support/eventually.js';

const folders: string[] = [];
const maxSize = 10_000;

async function drop(folder: string, name: string, body: Buffer): Promise<void> {
  await writeFile(join(folder, `.${name}`), body);
  await rename(join(folder, `.${name}`), join(folder, name));
}

/** What appears beside a file. */
const beside = (folder: string, name: string, suffixes: readonly string[]): Promise<Heard> =>
  eventually(
    async () => {
      for (const suffix of suffixes) {
        const text = await readFile(join(folder, `${name}${suffix}`), 'utf8').catch(() => undefined);
        if (text === undefined) continue;
        if (suffix === '.reply.json') return { kind: 'reply', body: JSON.parse(text) as unknown };
        if (suffix === '.fault.json') return { kind: 'fault', code: (JSON.parse(text) as { code: string }).code };
        return { kind: 'accepted', later: () => beside(folder, name, ['.reply.json', '.fault.json']) };
      }
      throw new Error(`nothing beside ${name}`);
    },
    { withinMs: 15_000 },
  );

const driver: Driver<FileSettings> = {
  adapter: file,
  patient: true,
  repeats: true,
  async settings() {
    const folder = await mkdtemp(join(tmpdir(), 'hub-file-'));
    folders.push(folder);
    return {
      folder,
      flow: contractFlow,
      principal: '',
      oneWay: false,
      wait: 300,
      poll: 20,
      stable: 60,
      lease: 1_000,
      maxSize,
      concurrency: 50,
    };
  },
  async connect(_open, { folder }) {
    const listen = (name: string) => beside(folder, name, ['.reply.json', '.fault.json', '.accepted']);
    const code = async (name: string) => {
      const heard = await listen(name);
      return heard.kind === 'fault' ? heard.code : heard.kind;
    };
    const bytes = (work: Work) => Buffer.from(JSON.stringify(work));
    return {
      async send(name, work) {
        await drop(folder, `${name}.json`, bytes(work));
        return listen(`${name}.json`);
      },
      async sendGarbage(name, garbage) {
        await drop(folder, `${name}.json`, garbage);
        return code(`${name}.json`);
      },
      async sendHuge(name) {
        await drop(folder, `${name}.json`, Buffer.alloc(maxSize + 1, ' '));
        return code(`${name}.json`);
      },
      async sendTwice(name, work, second) {
        await second();
        await drop(folder, `${name}.json`, bytes(work));
        return [await listen(`${name}.json`)];
      },
      async vanish(name, work) {
        await drop(folder, `${name}.json`, bytes(work));
        return async () => undefined;
      },
      async stall(name) {
        const handle = await openFile(join(folder, `${name}.json`), 'w');
        let writing = handle.write('{"do": "echo", ');
        const timer = setInterval(() => void (writing = handle.write(' ')), 20);
        return async () => {
          clearInterval(timer);
          await writing;
          await rm(join(folder, `${name}.json`));
          await handle.close();
        };
      },
      close: async () => undefined,
    };
  },
  refuses: [
    {
      what: 'no such folder',
      says: /there is no folder .*nowhere: create it \(mkdir -p .*nowhere\) or set adapters\.file\.folder/,
      settings: async (good) => ({ settings: { ...good, folder: join(good.folder, 'nowhere') } }),
    },
    {
      what: 'a file instead of a folder',
      says: /is not a folder/,
      async settings(good) {
        await writeFile(join(good.folder, '.notes'), '');
        return { settings: { ...good, folder: join(good.folder, '.notes') } };
      },
    },
    {
      what: 'no flow',
      says: /name a flow for the folder with adapters\.file\.flow/,
      settings: async (good) => ({ settings: { ...good, flow: '' } }),
    },
    {
      what: 'a flow that is not there',
      says: /there is no flow "contract.wrok"; did you mean "contract.work"\?/,
      settings: async (good) => ({ settings: { ...good, flow: 'contract.wrok' } }),
    },
    {
      what: 'an unknown principal',
      says: /there is no principal "nobody" in hub\.yaml/,
      settings: async (good) => ({ settings: { ...good, principal: 'nobody' } }),
    },
  ],
};

adapterContract(driver);

afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));
