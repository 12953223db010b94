#!/usr/bin/env node
/** The `answerback` command. stdout is data, stderr is messages. Exit codes: 0 ok, 1 failed, 2 wrong usage, 5 not found, 7 unreachable. */
import { parseArgs } from 'node:util';
import { newKey } from '../broker/access.js';
import { messageOf } from '../broker/fault.js';
import { didYouMean } from '../broker/flow.js';
import { version } from '../broker/version.js';
import { formats } from '../config/formats.js';
import { ConfigError } from '../config/project.js';
import { adapters, load, start, withBroker, type Role } from '../main.js';
import { deadLetters, replay } from './dead.js';
import { dev } from './dev.js';
import { doctor, doctorOf } from './doctor.js';
import { reference } from './reference.js';
import { runUntilStopped } from './run.js';
import { storyOf } from './trace.js';
import { passwordFrom, userLine } from './user.js';
import { verify } from './verify.js';

const usage = `answerback ${version}: an enterprise integration hub on RabbitMQ

  answerback dev [folder] [--demo]   services, hub, workers and systems of a project, for trying out
  answerback hub [folder]            takes requests
  answerback worker [folder] [step…] serves steps (all, or those named)
  answerback config [folder]         every setting, its effective value and where it came from   [--json]
  answerback check [folder]          reads hub.yaml and workers/, says what is wrong
  answerback trace <request id> [folder]   the story of a request, from the journal              [--json]
  answerback journal verify [folder]       does the journal keep the promise?    [--since 1h] [-o json]
  answerback dead [folder]           dead letters by queue, and why                              [--json]
  answerback replay <step> [folder]  sends the dead letters of a step on their way again
  answerback key                     makes an API key and the line for hub.yaml
  answerback user <name>             makes the line of a user for hub.yaml; the password comes from stdin
  answerback reference               settings, adapters and fault codes as Markdown
  answerback doctor [folder]         what is missing on this machine, or in the services of a project, and the command that mends it

A project is a folder with hub.yaml and workers/; default is this folder.
`;

class Usage extends Error {}

const { values: flags, positionals } = (() => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean' },
        output: { type: 'string', short: 'o' },
        since: { type: 'string' },
        demo: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean' },
      },
    });
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n\n${usage}`);
    process.exit(2);
  }
})();

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const table = (rows: readonly (readonly string[])[]): void => {
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, i) => Math.max(cell.length, most[i] ?? 0)), []);
  for (const row of rows) print(row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0))).join('  '));
};

async function serve(role: Role, folder: string, only?: readonly string[]): Promise<void> {
  await runUntilStopped(() => start({ folder, role, ...(only === undefined || only.length === 0 ? {} : { only }) }));
}

const commands: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  hub: ([folder = '.']) => serve('hub', folder),
  worker: ([folder = '.', ...only]) => serve('worker', folder, only),
  dev: ([folder = '.']) => dev(folder, flags.demo === true),
  async config([folder = '.']) {
    const { project } = await load({ folder });
    const rows = project.effective();
    if (flags.json === true) return print(JSON.stringify(rows, null, 2));
    table([['SETTING', 'VALUE', 'FROM'], ...rows.map(({ name, value, source }) => [name, String(value), source])]);
  },
  async check([folder = '.']) {
    const { project, steps } = await load({ folder });
    print(`${project.title}: ${project.flows.length} flows, ${steps.length} steps, no problem found`);
  },
  async trace([id, folder = '.']) {
    if (id === undefined) throw new Usage('which request? answerback trace <request id> [folder]');
    const story = await withBroker({ folder }, async ({ journal, names }) => storyOf(await journal.read(id), names));
    if (story.length === 0) {
      process.stderr.write(
        `no request ${id} in the journal: it is kept for a while only; ids look like 01932c5e-7a0b-7f8e-9b6e-0a5b3c2d1e4f\n`,
      );
      process.exitCode = 5;
      return;
    }
    if (flags.json === true) return print(JSON.stringify(story, null, 2));
    const [first] = story;
    table(story.map(({ at, what }) => [new Date(at).toISOString().slice(11, 23), `+${at - first!.at} ms`, what]));
  },
  async journal([what, folder = '.']) {
    if (what !== 'verify') throw new Usage('answerback journal verify [folder]');
    const since = flags.since === undefined ? undefined : formats.duration.read(flags.since);
    if (since !== undefined && typeof since !== 'number') throw new Usage(`--since must be ${formats.duration.says}`);
    const now = Date.now();
    const verdict = await withBroker({ folder }, ({ journal, names, retentionMs }) =>
      verify({ journal, names, retentionMs, now, from: since === undefined ? 'first' : now - since }),
    );
    if (verdict.violations.length > 0) process.exitCode = 1;
    if (flags.json === true || flags.output === 'json') return print(JSON.stringify(verdict, null, 2));
    const { accepted, replied, faulted, timedOut, cancelled, pending, lost, oneWay, groups, violations } = verdict;
    print(
      `${verdict.entries} entries: ${accepted} accepted = ${replied} replied + ${faulted} faulted + ${timedOut} timed out + ${cancelled} cancelled + ${pending} pending${lost > 0 ? ` + ${lost} LOST` : ''}`,
    );
    print(`one-way: ${oneWay.sent} sent, ${oneWay.done} done, ${oneWay.dead} dead letters`);
    print(
      `groups completed: ${
        Object.entries(groups)
          .map(([by, count]) => `${count} by ${by}`)
          .join(', ') || 'none'
      }`,
    );
    if (verdict.amended > 0) print(`${verdict.amended} corrected results`);
    print(`${verdict.late} late, ${verdict.duplicates} duplicates, ${verdict.begunBefore} begun before what was read`);
    for (const { request, what } of violations) print(`✖ ${request} ${what}`);
    print(violations.length === 0 ? '✔ the promise is kept' : `${violations.length} violations`);
  },
  async dead([folder = '.']) {
    const rows = await withBroker({ folder }, ({ transport, names, steps }) => deadLetters(transport, names, steps));
    if (flags.json === true) return print(JSON.stringify(rows, null, 2));
    if (rows.length === 0) return print('No dead letters.');
    table([
      ['QUEUE', 'LETTERS', 'OLDEST', 'ERROR'],
      ...rows.map(({ queue, letters, oldest, error }) => [queue, String(letters), oldest, error]),
    ]);
  },
  async replay([step, folder = '.']) {
    if (step === undefined) throw new Usage('of which step? answerback replay <step> [folder]');
    const sent = await withBroker({ folder }, ({ transport, names, steps }) => {
      if (!steps.some(({ name }) => name === step))
        throw new Usage(
          `unknown step "${step}"${didYouMean(
            step,
            steps.map(({ name }) => name),
          )}`,
        );
      return replay(transport, names, step);
    });
    print(`${sent} sent again.`);
  },
  async key() {
    const { key, line } = newKey();
    print(`key (for the client, shown once): ${key}`);
    print(`line (for hub.yaml, principals.<name>.keys): "${line}"`);
  },
  async user([name]) {
    if (name === undefined) throw new Usage('who? answerback user <name>, with the password on stdin');
    print(await userLine(name, await passwordFrom(process.stdin)));
  },
  async reference() {
    print(reference(adapters));
  },
  async doctor([folder]) {
    const rows = folder === undefined ? await doctor() : await doctorOf(folder);
    table(rows.map(({ name, ok, found, mend }) => [ok ? '✔' : '✖', name, found, ok ? '' : mend]));
    if (rows.some(({ ok, needed }) => !ok && needed)) process.exitCode = 1;
  },
};

async function run(): Promise<void> {
  const [name, ...args] = positionals;
  if (flags.version === true) return print(version);
  if (flags.help === true || name === undefined) return print(usage);
  const command = commands[name];
  if (command === undefined) throw new Usage(`unknown command "${name}"${didYouMean(name, Object.keys(commands))}`);
  await command(args);
}

run().catch((error: unknown) => {
  if (error instanceof Usage) process.stderr.write(`${error.message}\n\n${usage}`);
  else if (error instanceof ConfigError) process.stderr.write(`${error.problems.join('\n')}\n`);
  else process.stderr.write(`${messageOf(error)}\n`);
  process.exit(error instanceof Usage ? 2 : 1);
});
