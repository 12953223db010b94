/**
 * Hubs and workers of a bench as the real commands in processes of their own (`answerback hub`, `answerback worker` on
 * `bench/project`), with a probe inside that tells of the event loop and of memory.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const command = at('../dist/cli/answerback.js');

export interface Probed {
  readonly loopP50Ms: number;
  readonly loopP99Ms: number;
  readonly loopMaxMs: number;
  /** Share of the time that the event loop was busy. */
  readonly utilization: number;
  readonly cpuMs: number;
  readonly rss: number;
  readonly heapUsed: number;
  readonly external: number;
}

export interface Command {
  readonly pid: number;
  /** Where its HTTP adapter listens (hubs). */
  readonly url: string;
  /** How long it took from the start of the process until it said that it is ready. */
  readonly readyMs: number;
  /** What happened since it was asked last; `collect`: after a garbage collection. */
  probe(what?: 'read' | 'collect'): Promise<Probed>;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves when the process says that it is ready; rejects with what it wrote when it ends before. */
export async function startCommand(role: 'hub' | 'worker', env: NodeJS.ProcessEnv): Promise<Command> {
  const began = performance.now();
  const child = spawn(process.execPath, ['--expose-gc', '--import', at('probe.mjs'), command, role, at('project')], {
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
          if (typeof message !== 'object' || message === null || !('probe' in message)) return;
          child.off('message', listener);
          resolve(message.probe as Probed);
        };
        child.on('message', listener);
      });
      child.send({ probe: what });
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
