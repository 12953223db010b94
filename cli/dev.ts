/**
 * `answerback dev`: everything of a project on one machine. Services (or none, with `--demo`), the legacy systems of the
 * project (`<project>/systems/*`), a worker process, the hub. Ends everything that it started.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Flow } from '../broker/flow.js';
import { load, start, type Running } from '../main.js';
import { moveFromTakenPorts } from './ports.js';
import { runUntilStopped } from './run.js';

interface Services {
  readonly rabbitmq: { readonly url: string; readonly managementUrl: string | null; readonly from: string };
  readonly redis: { readonly url: string; readonly from: string };
  stop(): Promise<void>;
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const masked = (url: string): string => url.replace(/\/\/([^:@/]*):[^@/]*@/, '//$1:****@');

export function dev(folder: string, demo: boolean): Promise<void> {
  return runUntilStopped((signal) => (demo ? startDemo(folder) : startReal(folder, signal)));
}

async function startReal(folder: string, signal: AbortSignal): Promise<{ stop(): Promise<void> }> {
  const { project } = await load({ folder }); // what is wrong with the project is said before anything starts
  const { overrides, notes } = await moveFromTakenPorts(project);
  const { ensureServices } = (await import(new URL('../../scripts/services.mjs', import.meta.url).href)) as {
    ensureServices(options: object): Promise<Services>;
  };
  const services = await ensureServices({ log: say, signal });
  say(`RabbitMQ  ${masked(services.rabbitmq.url)}  (${services.rabbitmq.from})`);
  say(`Redis     ${masked(services.redis.url)}  (${services.redis.from})`);
  const env = {
    ...process.env,
    HUB_RABBITMQ_URL: services.rabbitmq.url,
    HUB_REDIS_URL: services.redis.url,
    ...(services.rabbitmq.managementUrl === null ? {} : { HUB_RABBITMQ_MANAGEMENT_URL: services.rabbitmq.managementUrl }),
    HUB_LOG_LEVEL: process.env['HUB_LOG_LEVEL'] ?? 'error',
  };
  const children: Child[] = [];
  let hub: Running | undefined;
  const stop = async () => {
    await hub?.stop();
    await Promise.all(children.map((child) => child.stop()));
    await services.stop();
    say('Stopped. Requests under way go on at the next start.');
  };
  try {
    children.push(...(await startSystems(folder, env)));
    children.push(await child('worker', [fileURLToPath(new URL('./answerback.js', import.meta.url)), 'worker', folder], env));
    hub = await start({ folder, role: 'hub', env, overrides });
    notes.forEach(say);
    banner(hub, services);
    return { stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function startDemo(folder: string): Promise<{ stop(): Promise<void> }> {
  const env = { ...process.env, HUB_LOG_LEVEL: process.env['HUB_LOG_LEVEL'] ?? 'error' };
  const { overrides, notes } = await moveFromTakenPorts((await load({ folder })).project);
  const systems = await startSystems(folder, env);
  const hub = await start({ folder, role: 'both', memory: true, env, overrides }).catch(async (error: unknown) => {
    await Promise.all(systems.map((system) => system.stop()));
    throw error;
  });
  say('DEMO: RabbitMQ and Redis are played in memory, in this one process. Nothing survives a restart: every request, answer');
  say('and dead letter is lost with it, and other programs cannot connect. Without --demo nothing of that is so.');
  notes.forEach(say);
  banner(hub, undefined);
  return {
    async stop() {
      await hub.stop();
      await Promise.all(systems.map((system) => system.stop()));
      say('Stopped. Everything in memory is gone.');
    },
  };
}

/** The legacy systems that a project plays for its own demonstration. */
async function startSystems(folder: string, env: NodeJS.ProcessEnv): Promise<Child[]> {
  const files = (await readdir(join(folder, 'systems')).catch(() => [])).filter((file) => /\.(m?js|ts)$/.test(file)).sort();
  return Promise.all(files.map((file) => child(file, ['--import', 'tsx', resolve(folder, 'systems', file)], env)));
}

interface Child {
  stop(): Promise<void>;
}

/** A child process that says `ready` over IPC, and ends when its channel closes: also when this process is killed. */
async function child(what: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Child> {
  // A process group of its own: Ctrl-C reaches only us, and we stop things in their order.
  const spawned: ChildProcess = spawn(process.execPath, ['--enable-source-maps', ...args], {
    env,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true,
  });
  const ended = new Promise<number | null>((done) => spawned.once('exit', done));
  await new Promise<void>((ready, failed) => {
    spawned.once('message', () => ready());
    spawned.once('error', failed);
    void ended.then((code) => failed(new Error(`${what} ended with exit code ${code ?? 'none'} before it was ready`)));
  });
  return {
    async stop() {
      if (spawned.exitCode !== null) return;
      spawned.kill('SIGTERM');
      const timer = setTimeout(() => spawned.kill('SIGKILL'), 20_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

function banner({ project, urls }: Running, services: Services | undefined): void {
  const http = urls.find(({ adapter }) => adapter === 'http')?.url ?? '';
  const example = project.flows.find((flow) => flow.example !== undefined);
  say('');
  say(`${project.title} is ready.`);
  say('');
  for (const { adapter, url } of urls) say(`  ${adapter.padEnd(10)}${url}`);
  if (http !== '') say(`  ${'OpenAPI'.padEnd(10)}${http}/openapi.json`);
  if (http !== '' && project.users.length > 0) {
    const demo = project.users.flatMap(({ name, demoPassword }) => (demoPassword === undefined ? [] : [`${name} / ${demoPassword}`]));
    say(`  ${'Inbox'.padEnd(10)}${http}/inbox${demo.length === 0 ? '' : `   ${demo.join(', ')}`}`);
  }
  if (services?.rabbitmq.managementUrl != null) say(`  ${'Queues'.padEnd(10)}${services.rabbitmq.managementUrl}/#/queues   guest / guest`);
  if (example !== undefined && http !== '') {
    say('');
    say('Try it:');
    say(`  ${curl(http, example)}`);
    if (example.exampleReply !== undefined) say(`answers:\n  ${JSON.stringify(example.exampleReply)}`);
  }
  say('');
  say('Ctrl-C stops everything that was started.');
}

const curl = (http: string, { name, example }: Flow): string =>
  `curl -s ${http}/requests/${name} -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'`;
