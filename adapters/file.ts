/**
 * The file adapter. In (`file/inbox.ts`): a file dropped into a folder is a request; its answer appears beside it. Out
 * (`file/outbox.ts`): a step drops a request file into a folder and waits for the answer file.
 */
import { constants } from 'node:fs';
import { access as accessible, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { anonymous, type Principal } from '../broker/access.js';
import { adapter, type AdapterContext, type Open, type OutgoingCall } from '../broker/adapter.js';
import { didYouMean, type Flow } from '../broker/flow.js';
import { Inbox, type FileSettings } from './file/inbox.js';
import { Outbox, type FileCallSettings } from './file/outbox.js';

const megabyte = 1_048_576;

export const file = adapter<FileSettings | FileCallSettings>({
  name: 'file',
  summary: 'Requests from a folder, answers beside them; out: a request file for a legacy program that watches a folder.',
  says: {
    reply: '`<name>.reply.json` (`.xml`, `.txt`, `.csv`, `.bin` by content type); the request moves to `done/`',
    accepted: '`<name>.accepted` with the request id; it goes when the outcome comes',
    fault: '`<name>.fault.json` with code and message; the request moves to `failed/`',
    oneWay: 'with `oneWay: true` the request moves to `done/` once the broker has it',
  },
  settings: {
    folder: { doc: 'Folder to watch.', format: 'String', default: 'inbox', env: 'HUB_FILE_FOLDER' },
    flow: { doc: 'Flow that each file is a request for.', format: 'String', default: '', env: 'HUB_FILE_FLOW' },
    principal: {
      doc: 'Who asks: a principal of hub.yaml. Empty: anonymous, where no principals are configured.',
      format: 'String',
      default: '',
      env: 'HUB_FILE_PRINCIPAL',
    },
    oneWay: { doc: 'The files are messages: no answer is written.', format: 'bool', default: false, env: 'HUB_FILE_ONE_WAY' },
    wait: { doc: 'How long before `<name>.accepted` appears.', format: 'duration', default: 5_000, env: 'HUB_FILE_WAIT' },
    poll: { doc: 'How often the folder is looked at.', format: 'duration', default: 250, env: 'HUB_FILE_POLL' },
    stable: {
      doc: 'How long size and time of a file must stand still before it is taken.',
      format: 'duration',
      default: 500,
      env: 'HUB_FILE_STABLE',
    },
    lease: {
      doc: 'How long a hub must be silent before another one takes over its files.',
      format: 'duration',
      default: 10_000,
      env: 'HUB_FILE_LEASE',
    },
    maxSize: { doc: 'Largest file; larger ones fail.', format: 'size', default: megabyte, env: 'HUB_FILE_MAX_SIZE' },
    concurrency: {
      doc: 'Files that are asked for at once; those that were accepted do not count.',
      format: 'nat',
      default: 100,
      env: 'HUB_FILE_CONCURRENCY',
    },
  },
  callSettings: {
    requestFolder: {
      doc: 'Folder in which the request appears as `<id>.json` (or `.xml`, … by content type).',
      format: 'String',
      default: '',
    },
    replyFolder: {
      doc: 'Folder in which `<id>.reply.*` or `<id>.fault.json` is expected. Empty: the same.',
      format: 'String',
      default: '',
    },
    timeout: { doc: 'How long one attempt waits; the next one goes on waiting for the same file.', format: 'duration', default: 30_000 },
    poll: { doc: 'How often it is looked for.', format: 'duration', default: 100 },
    stable: {
      doc: 'How long the answer must stand still; 0 when it is always written to another name and renamed.',
      format: 'duration',
      default: 200,
    },
    keep: { doc: 'How long answers are kept in `.hub/`, for a step that runs twice.', format: 'duration', default: 86_400_000 },
    maxSize: { doc: 'Largest answer.', format: 'size', default: megabyte },
  },

  async open(settings: FileSettings, context: AdapterContext): Promise<Open> {
    const flow = flowOf(settings, context.gateway.flows);
    const principal = principalOf(settings, context.access);
    const folder = resolve(context.projectFolder, settings.folder);
    await usable(folder, 'adapters.file.folder');
    const inbox = new Inbox({ ...settings, folder, flow: flow.name }, principal, context);
    await inbox.start();
    return { urls: [pathToFileURL(folder).href], close: () => inbox.close() };
  },

  async call(settings: FileCallSettings, projectFolder: string) {
    if (settings.requestFolder === '') throw new Error('file: a step with `use: file` needs a requestFolder');
    const requests = resolve(projectFolder, settings.requestFolder);
    const replies = settings.replyFolder === '' ? requests : resolve(projectFolder, settings.replyFolder);
    await usable(requests, 'requestFolder');
    await usable(replies, 'replyFolder');
    const outbox = new Outbox(requests, replies, settings);
    return { call: (outgoing: OutgoingCall) => outbox.call(outgoing), close: async () => undefined };
  },
});

function flowOf({ flow: name }: FileSettings, flows: readonly Flow[]): Flow {
  const flow = flows.find((known) => known.name === name);
  if (flow === undefined)
    throw new Error(
      `file: ${name === '' ? 'name a flow for the folder with adapters.file.flow' : `there is no flow "${name}"`}${didYouMean(
        name,
        flows.map((known) => known.name),
      )}`,
    );
  if (!flow.durable) throw new Error(`file: flow ${name} is volatile (durable: false), and a file must not be lost: choose a durable flow`);
  return flow;
}

function principalOf({ principal: name }: FileSettings, access: AdapterContext['access']): Principal {
  const principal = access.required || (name !== '' && name !== anonymous.name) ? access.byName(name) : anonymous;
  if (principal !== undefined) return principal;
  throw new Error(
    name === ''
      ? 'file: this hub has principals: say with adapters.file.principal who asks when a file comes'
      : `file: there is no principal "${name}" in hub.yaml`,
  );
}

async function usable(folder: string, setting: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (found === undefined) throw new Error(`file: there is no folder ${folder}: create it (mkdir -p ${folder}) or set ${setting}`);
  if (!found.isDirectory()) throw new Error(`file: ${folder} is not a folder: set ${setting}`);
  await accessible(folder, constants.R_OK | constants.W_OK | constants.X_OK).catch(() => {
    throw new Error(`file: this user may not read and write in ${folder}: mend its rights or set ${setting}`);
  });
}
