/**
 * Hubs and workers of a bench as the real commands in processes of their own (`answerback hub`, `answerback worker` on
 * `bench/project`), with a probe inside that tells of the event loop and of memory.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { namesIn, topologyOf } from '../broker/topology.js';
import { amqpTransport } from '../broker/transport-amqp.js';
import { load } from '../main.js';
import type { Probe, Probed } from './probe.js';
import { nodeFlags } from './processes.js';

/** From `dist/bench`, where this is when it runs. */
const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const command = at('../cli/answerback.js');
/** Not compiled: a project is what users write. */
export const projectFolder = at('../../bench/project');

export interface Command {
  readonly pid: number;
  /** Where its HTTP adapter listens (hubs). */
  readonly url: string;
  /** How long it took from the start of the process until it said that it is ready. */
  readonly readyMs: number;
  /** What happened since it was asked last. */
  probe(what?: Probe['probe']): Promise<Probed>;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves when the process says that it is ready; rejects with what it wrote when it ends before. */
export async function startCommand(role: 'hub' | 'worker', env: NodeJS.ProcessEnv, project = projectFolder): Promise<Command> {
  const began = performance.now();
  const child = spawn(process.execPath, [...nodeFlags, '--expose-gc', '--import', at('probe.js'), command, role, project], {
    env: { ...process.env, HUB_HTTP_PORT: '0', HUB_LOG_LEVEL: 'info', ...env },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let output = '';
  let url = '';
  // The log, as far as its end may tell why a process ended.
  child.stderr!.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-10_000);
    if (url === '') url = /"urls":\["(http:[^"]+)"/.exec(output)?.[1] ?? '';
  });
  const ended = once(child, 'exit');
  const told = new Promise<void>((resolve) => child.on('message', (message) => message === 'ready' && resolve()));
  await Promise.race([
    told,
    ended.then(() => {
      throw new Error(`${role} ended before it was ready: ${output}`);
    }),
  ]);
  const readyMs = performance.now() - began;
  while (role === 'hub' && url === '') await new Promise((resolve) => setTimeout(resolve, 5));
  return {
    pid: child.pid!,
    url,
    readyMs,
    async probe(what = 'read') {
      const answer = new Promise<Probed>((resolve) => {
        const listener = (message: unknown) => {
          if (typeof message !== 'object' || message === null || !('probed' in message)) return;
          child.off('message', listener);
          resolve(message.probed as Probed);
        };
        child.on('message', listener);
      });
      child.send({ probe: what } satisfies Probe);
      return answer;
    },
    async kill() {
      child.kill('SIGKILL');
      await ended;
    },
    async stop() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Removes the queues of a project. */
export async function removeQueues(rabbitmq: string, namespace: string, project = projectFolder): Promise<void> {
  const { project: found, steps } = await load({ folder: project });
  const { queues } = topologyOf({
    names: namesIn(namespace),
    flows: found.flows,
    steps: new Map(steps.map((step) => [step.name, step])),
    hub: 'bench',
    journalMaxAge: '1D',
  });
  const transport = await amqpTransport({ url: rabbitmq, name: 'bench' });
  for (const { name } of queues) await transport.removeQueue(name);
  await transport.close();
}
