import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { execFile } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { file } from '../../adapters/file.js';
import type { FileSettings } from '../../adapters/file/inbox.js';
import type { FileCallSettings } from '../../adapters/file/outbox.js';
import { newKey } from '../../broker/access.js';
import type { OutgoingCall } from '../../broker/adapter.js';
import { newId, type Envelope } from '../../broker/envelope.js';
import { Fault } from '../../broker/fault.js';
import { raw, worker, type Raw } from '../../broker/step.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, type TestHub, type TestHubOptions } from '../support/hub.js';

let folder: string;
let hub: TestHub;
let bodies: string[];
let gates: (() => void)[];

const settings = (more: Partial<FileSettings> = {}): FileSettings => ({
  folder,
  flow: 'work',
  principal: '',
  oneWay: false,
  wait: 150,
  poll: 20,
  stable: 60,
  lease: 400,
  maxSize: 10_000,
  concurrency: 50,
  ...more,
});

const text = (name: string) => readFile(join(folder, name), 'utf8');
const json = async (name: string): Promise<unknown> => JSON.parse(await text(name)) as unknown;
const appears = (name: string) => eventually(() => json(name), { withinMs: 15_000 });
const names = async (of = folder): Promise<string[]> => (await readdir(of)).filter((name) => !name.startsWith('.')).sort();
const inWork = async (): Promise<string[]> => (await readdir(join(folder, '.taken'))).filter((name) => name.includes('~'));

async function drop(name: string, body: string | Buffer = '{}'): Promise<void> {
  await writeFile(join(folder, '.dropping'), body);
  await rename(join(folder, '.dropping'), join(folder, name));
}

/** Replies with what it gets, by its content type; `wait` waits for its gate; `refuse` is refused. */
const work = worker({
  name: 'work',
  async handle(body: unknown, envelope: Envelope) {
    bodies.push(envelope.body.toString());
    const asked = envelope.body.toString();
    if (asked.includes('wait')) await new Promise<void>((go) => gates.push(go));
    if (asked.includes('refuse')) throw new Fault('rejected', 'no such customer');
    return raw(envelope.body, envelope.contentType);
  },
});

const start = (more: Partial<TestHubOptions> = {}) => memoryHub({ flows: { work: ['work'] }, steps: [work], ...more });

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hub-file-'));
  [bodies, gates] = [[], []];
});

afterEach(async () => {
  for (const go of gates) go();
  await hub?.close();
  await rm(folder, { recursive: true, force: true });
});

describe('a folder as an entrance', () => {
  it('writes the reply beside the file and moves the file to done', async () => {
    hub = await start();
    await hub.open(file, settings());
    await drop('loan.json', '{"amount":1}');
    expect(await appears('loan.json.reply.json')).toEqual({ amount: 1 });
    await eventually(async () => expect(await names(join(folder, 'done'))).toEqual(['loan.json']));
    await eventually(async () => expect(await readdir(join(folder, '.taken'))).toEqual([expect.stringMatching(/^[0-9a-f]{8}\.alive$/)]));
    expect(await names()).toEqual(['done', 'failed', 'loan.json.reply.json']);
  });

  it('writes a fault beside the file and moves the file to failed', async () => {
    hub = await start();
    await hub.open(file, settings());
    await drop('loan.json', '{"refuse":true}');
    expect(await appears('loan.json.fault.json')).toEqual({ code: 'rejected', message: 'no such customer', step: 'work' });
    await eventually(async () => expect(await names(join(folder, 'failed'))).toEqual(['loan.json']));
  });

  it('tells the content type by the extension, there and back', async () => {
    hub = await start();
    await hub.open(file, settings());
    for (const name of ['a.xml', 'b.csv', 'c.txt', 'd.dat', 'e']) await drop(name, '<a/>');
    await eventually(async () =>
      expect(await names()).toEqual([
        'a.xml.reply.xml',
        'b.csv.reply.csv',
        'c.txt.reply.txt',
        'd.dat.reply.bin',
        'done',
        'e.reply.bin',
        'failed',
      ]),
    );
  });

  it('takes an empty file as a request with an empty body', async () => {
    hub = await start();
    await hub.open(file, settings());
    await drop('empty.txt', '');
    expect(await eventually(() => text('empty.txt.reply.txt'))).toBe('');
    expect(bodies).toEqual(['']);
  });

  it('leaves alone what is no request: hidden files, unfinished files, its own answers, folders', async () => {
    hub = await start();
    await mkdir(join(folder, 'folder.json'));
    const others = ['.hidden.json', 'a.tmp', 'b.part', 'c.reply.json', 'd.fault.json', 'e.accepted', 'f.JSON.PART'];
    for (const name of others) await writeFile(join(folder, name), '{}');
    await hub.open(file, settings());
    await drop('g.json');
    await appears('g.json.reply.json');
    expect(bodies).toEqual(['{}']);
    expect(await readdir(folder)).toEqual(expect.arrayContaining([...others, 'folder.json']));
  });

  it('waits until a file stands still', async () => {
    hub = await start();
    await hub.open(file, settings({ stable: 150 }));
    const path = join(folder, 'slow.txt');
    for (let line = 0; line < 20; line++) {
      await appendFile(path, `${line}\n`);
      await new Promise((next) => setTimeout(next, 20)); // The pace of the slow writer that is tested.
      expect(bodies).toEqual([]);
    }
    await eventually(() => text('slow.txt.reply.txt'));
    expect(bodies[0]?.split('\n')).toHaveLength(21);
  });

  it('gives a file of a name that is done already a number', async () => {
    hub = await start();
    await hub.open(file, settings());
    for (const amount of [1, 2, 3]) {
      await drop('loan.json', `{"amount":${amount}}`);
      await eventually(async () => expect(await json('loan.json.reply.json')).toEqual({ amount }));
    }
    await eventually(async () => expect(await names(join(folder, 'done'))).toEqual(['loan.2.json', 'loan.3.json', 'loan.json']));
    // Its place is reserved before it moves there.
    await eventually(async () => expect(await json('done/loan.3.json')).toEqual({ amount: 3 }));
  });

  it('lets a file wait while another one of its name is in work', async () => {
    hub = await start();
    await hub.open(file, settings());
    await drop('loan.json', '{"wait":1}');
    await appears('loan.json.accepted');
    await drop('loan.json', '{"second":2}');
    await drop('other.json');
    await appears('other.json.reply.json');
    expect(await names()).toContain('loan.json');
    gates[0]!();
    await eventually(async () => expect(await json('loan.json.reply.json')).toEqual({ second: 2 }));
    await eventually(async () => expect(await names(join(folder, 'done'))).toEqual(['loan.2.json', 'loan.json', 'other.json']));
  });

  it('takes messages that want no answer', async () => {
    hub = await start();
    await hub.open(file, settings({ oneWay: true }));
    await drop('note.txt', 'hello');
    await eventually(async () => expect(await names(join(folder, 'done'))).toEqual(['note.txt']));
    await eventually(() => expect(bodies).toEqual(['hello']));
    expect(await names()).toEqual(['done', 'failed']);
  });

  it('asks as the principal of the folder, and wants one where there are principals', async () => {
    const principals = [{ name: 'mainframe', flows: ['other'], topics: [], keys: [newKey().line] }];
    hub = await start({ principals });
    await expect(hub.open(file, settings())).rejects.toThrow(
      'file: this hub has principals: say with adapters.file.principal who asks when a file comes',
    );
    await hub.open(file, settings({ principal: 'mainframe' }));
    await drop('loan.json');
    expect(await appears('loan.json.fault.json')).toMatchObject({ code: 'forbidden' });
  });
});

describe('a folder that somebody else can write to', () => {
  it('never follows a link', async () => {
    hub = await start();
    await writeFile(join(folder, '.secret'), 'secret');
    await symlink(join(folder, '.secret'), join(folder, 'link.txt'));
    await hub.open(file, settings());
    expect(await appears('link.txt.fault.json')).toMatchObject({ code: 'invalid', reason: 'not-a-file' });
    await eventually(async () => expect((await lstat(join(folder, 'failed/link.txt'))).isSymbolicLink()).toBe(true));
    expect(bodies).toEqual([]);
  });

  it('never waits for a pipe', async () => {
    hub = await start();
    await promisify(execFile)('mkfifo', [join(folder, 'pipe.txt')]);
    await hub.open(file, settings());
    expect(await appears('pipe.txt.fault.json')).toMatchObject({ code: 'invalid', reason: 'not-a-file' });
  });

  it('replaces a link that stands where the answer goes, and does not write through it', async () => {
    hub = await start();
    await writeFile(join(folder, '.victim'), 'untouched');
    await symlink(join(folder, '.victim'), join(folder, 'loan.json.reply.json'));
    await hub.open(file, settings());
    await drop('loan.json', '{"amount":1}');
    await eventually(async () => expect((await lstat(join(folder, 'loan.json.reply.json'))).isFile()).toBe(true));
    expect(await text('.victim')).toBe('untouched');
  });

  it.each(['done', 'failed'])('does not move files through a link in the place of %s, and clears it away', async (name) => {
    hub = await start();
    await hub.open(file, settings());
    await mkdir(join(folder, '.elsewhere'));
    await rm(join(folder, name), { recursive: true });
    await symlink(join(folder, '.elsewhere'), join(folder, name));
    await drop('loan.json', name === 'done' ? '{}' : '{"refuse":1}');
    await eventually(async () => expect(await names(join(folder, name))).toContain('loan.json'));
    expect(await readdir(join(folder, '.elsewhere'))).toEqual([]);
    expect((await lstat(join(folder, name))).isDirectory()).toBe(true);
    // The link fails as a file does, beside the other one: its place is reserved before it moves there.
    await eventually(async () => expect((await lstat(join(folder, 'failed', name))).isSymbolicLink()).toBe(true));
    expect(bodies).toHaveLength(1);
  });

  it.each([
    ['control characters', Buffer.from('a\nb.json')],
    ['a way up', Buffer.from('a..b.json')],
    ['bytes that are no text', Buffer.from([0x61, 0xff, 0xfe, 0x2e, 0x74])],
    ['more than 200 bytes', Buffer.from(`${'ä'.repeat(98)}.json`)],
  ])('refuses a name with %s, and answers under a safe one', async (_what, name) => {
    hub = await start();
    await writeFile(Buffer.concat([Buffer.from(`${folder}/`), name]), '{}');
    await hub.open(file, settings());
    const fault = await eventually(async () => {
      const found = (await names()).find((candidate) => /^bad-name-[0-9a-f]{12}\.fault\.json$/.test(candidate));
      return json(found!);
    });
    expect(fault).toMatchObject({ code: 'invalid', reason: 'bad-name' });
    await eventually(async () => expect(await names(join(folder, 'failed'))).toEqual([expect.stringMatching(/^bad-name-[0-9a-f]{12}$/)]));
    expect(bodies).toEqual([]);
  });

  it('keeps a name in another normal form of Unicode as it is', async () => {
    hub = await start();
    await hub.open(file, settings());
    const name = 'grüße.json'.normalize('NFD');
    await drop(name);
    await appears(`${name}.reply.json`);
  });

  it('fails a file that is too large without reading it', async () => {
    hub = await start();
    await hub.open(file, settings());
    await drop('big.json', Buffer.alloc(10_001, ' '));
    expect(await appears('big.json.fault.json')).toMatchObject({ code: 'invalid', reason: 'too-large' });
  });
});

describe('several hubs, and hubs that die', () => {
  it('takes each file once when two hubs watch the same folder', async () => {
    hub = await start();
    const other = await hub.another();
    await Promise.all([hub.open(file, settings()), other.open(file, settings())]);
    const all = Array.from({ length: 60 }, (_, i) => `f${i}.txt`);
    await Promise.all(all.map((name, i) => writeFile(join(folder, name), `${i}`)));
    await eventually(async () => expect((await names(join(folder, 'done'))).sort()).toEqual([...all].sort()), { withinMs: 15_000 });
    expect(bodies).toHaveLength(60);
    expect((await names()).filter((name) => name.endsWith('.reply.txt'))).toHaveLength(60);
  });

  it('resumes a file of a hub that was killed, under the same key', async () => {
    const child = spawn(process.execPath, ['--import', 'tsx', resolve('test/support/file-hub.mjs'), folder], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    expect((await lines.next()).value).toBe('open');
    await drop('loan.json', '{"amount":1}');
    const key = (await lines.next()).value as string;
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(await inWork()).toHaveLength(1);

    hub = await start();
    const keys: (string | undefined)[] = [];
    const gateway = {
      ...hub.gateway,
      request: (ask: Parameters<TestHub['gateway']['request']>[0]) => (keys.push(ask.idempotencyKey), hub.gateway.request(ask)),
    };
    const open = await file.open!(settings(), {
      gateway,
      access: { required: false, authenticate: () => undefined, byName: () => undefined },
      projectFolder: '/',
      log: () => undefined,
      metrics: async () => '',
      version: '',
      namespace: 'hub',
      retentionMs: 86_400_000,
      stopping: hub.hub.stopping,
    });
    expect(await appears('loan.json.reply.json')).toEqual({ amount: 1 });
    expect(keys).toEqual([key]);
    await open.close();
  });

  it('does not take over from a hub that lives, however long its request takes', async () => {
    hub = await start();
    const other = await hub.another();
    await hub.open(file, settings({ wait: 60_000, lease: 200 }));
    await drop('loan.json', '{"wait":1}');
    await eventually(() => expect(bodies).toHaveLength(1));
    const before = await inWork();
    await other.open(file, settings({ lease: 200 }));
    // Many leases go by, as the files that the other hub takes meanwhile show.
    for (let i = 0; i < 12; i++) {
      await drop(`f${i}.txt`, 'x');
      await eventually(() => text(`f${i}.txt.reply.txt`));
    }
    expect((await inWork()).filter((name) => name.endsWith('loan.json'))).toEqual(before);
    gates[0]!();
    expect(await appears('loan.json.reply.json')).toEqual({ wait: 1 });
    expect(bodies.filter((body) => body.includes('wait'))).toHaveLength(1);
  });

  it('answers late, after a restart, without asking again', async () => {
    hub = await start();
    const first = await hub.open(file, settings());
    await drop('loan.json', '{"wait":1}');
    expect(await appears('loan.json.accepted')).toMatchObject({ flow: 'work', requestId: expect.any(String) });
    await first.close();
    expect(await inWork()).toEqual([expect.stringMatching(/~00000000~loan\.json$/)]);
    await hub.open(file, settings());
    await eventually(async () => expect(await inWork()).toEqual([expect.not.stringMatching(/~00000000~/)]));
    gates[0]!();
    expect(await appears('loan.json.reply.json')).toEqual({ wait: 1 });
    await eventually(async () => expect(await names()).toEqual(['done', 'failed', 'loan.json.reply.json']));
    expect(bodies).toHaveLength(1);
  });

  it('says so when the answer is no longer kept, and does not ask again', async () => {
    hub = await start();
    const open = await hub.open(file, settings());
    await drop('loan.json', '{"wait":1}');
    await appears('loan.json.accepted');
    await open.close();
    await hub.close();
    hub = await start();
    await hub.open(file, settings());
    expect(await appears('loan.json.fault.json')).toMatchObject({ code: 'internal', reason: 'forgotten' });
    expect(bodies).toHaveLength(1);
  });

  it('writes the same answer again, and asks nobody, when it died after the reply and before the rest', async () => {
    hub = await start();
    const open = await hub.open(file, settings({ wait: 60_000 }));
    await drop('loan.json', '{"wait":1}');
    await eventually(() => expect(bodies).toHaveLength(1));
    const [key] = (await inWork())[0]!.split('~');
    gates[0]!();
    await appears('loan.json.reply.json');
    await eventually(async () => expect(await inWork()).toEqual([]));
    await open.close();
    // As it was before the move to done: claimed by an owner that is gone.
    await rename(join(folder, 'done/loan.json'), join(folder, `.taken/${key}~deadbeef~loan.json`));
    await rm(join(folder, 'loan.json.reply.json'));
    await hub.open(file, settings());
    expect(await appears('loan.json.reply.json')).toEqual({ wait: 1 });
    await eventually(async () => expect(await inWork()).toEqual([]));
    expect(await names(join(folder, 'done'))).toEqual(['loan.json']);
    expect(bodies).toHaveLength(1);
  });
});

describe('a folder as a legacy system', () => {
  let replies: string;

  const callSettings = (more: Partial<FileCallSettings> = {}): FileCallSettings => ({
    requestFolder: folder,
    replyFolder: replies,
    timeout: 5_000,
    poll: 10,
    stable: 0,
    keep: 60_000,
    maxSize: 1_000,
    ...more,
  });

  const outgoing = (more: Partial<OutgoingCall['context']> = {}, envelope: Partial<Envelope> = {}): OutgoingCall => ({
    body: Buffer.from('{"amount":1}'),
    contentType: 'application/json',
    envelope: { id: newId(), requestId: newId(), step: 1, slip: ['legacy'], groups: [], ...envelope } as Envelope,
    context: {
      signal: new AbortController().signal,
      progress: () => undefined,
      remainingMs: () => 60_000,
      answers: [],
      kept: undefined,
      ...more,
    },
    projectFolder: folder,
  });

  const requested = () =>
    eventually(
      async () => (await names()).find((name) => /^[0-9a-f-]{36}\.json$/.test(name)) ?? Promise.reject(new Error('no request file')),
    );
  const idOf = (name: string) => name.slice(0, 36);
  const bodyOf = (result: Raw) => [result.contentType, result.body.toString()];

  beforeEach(async () => void (replies = await mkdtemp(join(tmpdir(), 'hub-replies-'))));
  afterEach(() => rm(replies, { recursive: true, force: true }));

  it('writes the request and gives back the reply', async () => {
    const out = await file.call!(callSettings(), folder);
    const called = out.call(outgoing());
    const name = await requested();
    expect(await json(name)).toEqual({ amount: 1 });
    await writeFile(join(replies, `${idOf(name)}.reply.xml`), '<ok/>');
    expect(bodyOf(await called)).toEqual(['application/xml', '<ok/>']);
    expect(await names()).toEqual([]);
    expect(await names(replies)).toEqual([]);
  });

  it('gives the same reply again when the step runs twice, and asks nobody', async () => {
    const out = await file.call!(callSettings(), folder);
    const asked = outgoing();
    const called = out.call(asked);
    const name = await requested();
    await writeFile(join(replies, `${idOf(name)}.reply.json`), '{"rate":3}');
    const first = bodyOf(await called);
    expect(bodyOf(await out.call(asked))).toEqual(first);
    expect(await names()).toEqual([]);
  });

  it('waits on, and does not ask again, when the first attempt gave up and the request is taken', async () => {
    const out = await file.call!(callSettings({ timeout: 100 }), folder);
    const asked = outgoing();
    await expect(out.call(asked)).rejects.toThrow(/^no answer to .*\.json in .* within 100 ms$/);
    const name = await requested();
    await rm(join(folder, name)); // The legacy system has taken it.
    const again = out.call({ ...asked, envelope: { ...asked.envelope, attempt: 2 } });
    await writeFile(join(replies, `${idOf(name)}.reply.json`), '{"rate":3}');
    expect(bodyOf(await again)).toEqual(['application/json', '{"rate":3}']);
    expect(await names()).toEqual([]);
  });

  it('throws the fault that comes instead', async () => {
    const out = await file.call!(callSettings(), folder);
    const called = out.call(outgoing());
    const name = await requested();
    await writeFile(join(replies, `${idOf(name)}.fault.json`), '{"code":"rejected","message":"unknown customer"}');
    await expect(called).rejects.toMatchObject({ code: 'rejected', message: 'unknown customer' });
  });

  it('waits until an answer that is written slowly stands still', async () => {
    const out = await file.call!(callSettings({ stable: 150 }), folder);
    const called = out.call(outgoing());
    const reply = join(replies, `${idOf(await requested())}.reply.txt`);
    for (let i = 0; i < 10; i++) {
      await appendFile(reply, 'x');
      await new Promise((next) => setTimeout(next, 20)); // The pace of the slow writer that is tested.
    }
    expect(bodyOf(await called)).toEqual(['text/plain', 'xxxxxxxxxx']);
  });

  it('ends when its signal aborts, and takes the request back when its time is over', async () => {
    const out = await file.call!(callSettings(), folder);
    const end = new AbortController();
    const called = out.call(outgoing({ signal: end.signal, remainingMs: () => (end.signal.aborted ? 0 : 60_000) }));
    await requested();
    end.abort();
    await expect(called).rejects.toThrow('no answer');
    expect(await names()).toEqual([]);
  });

  it('talks to the folder of another hub', async () => {
    hub = await start();
    await hub.open(file, settings());
    const out = await file.call!(callSettings({ replyFolder: '' }), folder);
    expect(bodyOf(await out.call(outgoing()))).toEqual(['application/json', '{"amount":1}']);
    const refusing = { ...outgoing(), body: Buffer.from('{"refuse":1}') };
    await expect(out.call(refusing)).rejects.toMatchObject({ code: 'rejected' });
  });

  it('says at start what is missing', async () => {
    await expect(file.call!(callSettings({ requestFolder: '' }), folder)).rejects.toThrow(
      'file: a step with `use: file` needs a requestFolder',
    );
    await expect(file.call!(callSettings({ replyFolder: 'nowhere' }), folder)).rejects.toThrow(
      /there is no folder .*nowhere: create it .* or set replyFolder/,
    );
  });
});
