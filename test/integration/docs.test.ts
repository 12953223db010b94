/** Every command in the documents is run, and its output compared; every file that they show is the file. */
import { spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { namesIn } from '../../broker/topology.js';
import { load } from '../../main.js';
import { ownNamespace, rabbitmqUrl, redisUrl, removeQueues } from '../support/hub.js';
import { patternOf, readDocument, runInShell } from '../support/console.js';
import { freePort } from '../support/ports.js';

const documents = [
  'README.md',
  'examples/loan-broker/README.md',
  'examples/purchase-approval/README.md',
  'examples/travel-search/README.md',
  'docs/foreign-programs.md',
  'docs/callbacks.md',
  'docs/conversations.md',
].map((path) => ({
  path,
  ...readDocument(path, path.startsWith('examples/') ? dirname(path) : 'examples/loan-broker'),
}));

describe.each(documents.filter(({ files }) => files.length > 0))('$path', ({ files }) => {
  it.each(files)('shows $path as it is', ({ path, text }) => {
    expect(text).toBe(readFileSync(path, 'utf8'));
  });
});

/** Every document's commands by the project that they need, so that each is started once. */
const projects = [...new Set(documents.flatMap(({ sessions }) => [...sessions.keys()]))].map((project) => ({
  project,
  shown: documents.flatMap(({ path, sessions }) => (sessions.get(project) ?? []).map((one) => ({ ...one, path }))),
}));

describe.each(projects)('with $project running', ({ project, shown }) => {
  const inbox = join(project, 'inbox');
  const clearInbox = () => {
    for (const name of project === 'examples/loan-broker' ? readdirSync(inbox) : [])
      if (name !== '.gitignore') rmSync(join(inbox, name), { recursive: true });
  };
  let dev: ChildProcess;
  let env: NodeJS.ProcessEnv;
  let printed: readonly string[] = [];

  beforeAll(async () => {
    clearInbox();
    const [http, soap] = [await freePort(), await freePort()];
    const namespace = ownNamespace();
    env = {
      ...process.env,
      HUB_HTTP_PORT: String(http),
      HUB_SOAP_PORT: String(soap),
      HUB_NAMESPACE: namespace,
      HUB_RABBITMQ_URL: rabbitmqUrl(),
      HUB_REDIS_URL: redisUrl(),
    };
    dev = spawn(process.execPath, ['--enable-source-maps', resolve('dist/cli/answerback.js'), 'dev', project], {
      env,
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    });
    await new Promise<void>((ready, failed) => {
      dev.once('message', () => ready());
      dev.once('exit', (code) => failed(new Error(`answerback dev ended with ${code}`)));
    });
    // The documents show the standard ports and names; a test has its own.
    const here = (command: string) =>
      command
        .replaceAll('localhost:8080', `127.0.0.1:${http}`)
        .replaceAll('localhost:8081', `127.0.0.1:${soap}`)
        .replace(/^python3 (\S+)/, `sed "s/'hub\\./'${namespace}./" $1 | python3 -`);
    // Debian's Python, which has Debian's packages, whatever else is on the path.
    const prelude = `answerback() { node ${resolve('dist/cli/answerback.js')} "$@"; }; python3() { /usr/bin/python3 "$@"; }`;
    printed = (
      await runInShell(
        shown.map(({ command }) => here(command)),
        prelude,
        env,
      )
    ).map((text) => text.replaceAll(`${namespace}.`, 'hub.'));
  }, 90_000);

  afterAll(async () => {
    const ended = new Promise((resolve) => dev.once('exit', resolve));
    dev.kill('SIGTERM');
    await ended;
    clearInbox();
    const loaded = await load({ folder: project, env });
    await removeQueues(namesIn(loaded.project.settings.namespace), loaded.project.flows, loaded.steps, loaded.project.settings.name);
  }, 40_000);

  it.each(shown.map((one, index) => ({ ...one, index })).filter(({ expected }) => expected !== ''))(
    'prints what $path shows for: $command',
    ({ expected, index }) => {
      // Columns are as wide as the names, and names in a test's namespace are longer.
      const folded = (text: string) => text.replace(/ {2,}/g, ' ');
      expect(folded(printed[index] ?? '')).toMatch(patternOf(folded(expected)));
    },
  );
});
