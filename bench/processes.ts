/**
 * The processes of a benchmark: each runs one end (`ends.ts`) and is told over IPC what to do. What they cost is read from
 * /proc, since the broker's cost counts, too.
 */
import { fork } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { LoadResult, LoadSettings } from './load.js';

export interface Process {
  readonly pid: number;
  /** Has it ask and wait, as many at once as told, for as long as told. */
  load(settings: LoadSettings): Promise<LoadResult>;
  /** Has it do something else that its end knows by this name. */
  tell<T>(what: string, settings?: Readonly<Record<string, unknown>>): Promise<T>;
  stop(): Promise<void>;
}

/** What the child sends back: the answer to the one thing it was told. */
export type Answered = { readonly done: unknown } | { readonly failed: string };

const stopMs = 10_000;

/**
 * What our processes are started with, as in the Dockerfile, and the limits, too. What is under way outlives two collections of a young
 * generation of 16 MiB, Node's own, and is copied twice: a sixth of a busy worker's time.
 */
export const nodeFlags = ['--max-semi-space-size=32'] as const;

/** Resolves once the end is open. The limits are given what our own processes are given. */
export async function startProcess(end: string, settings: Readonly<Record<string, unknown>>): Promise<Process> {
  const execArgv = settings['profile'] === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${String(settings['profile'])}`];
  const child = fork(new URL('child.js', import.meta.url), [end, JSON.stringify(settings)], {
    stdio: ['ignore', 2, 2, 'ipc'],
    execArgv: [...nodeFlags, '--expose-gc', ...execArgv],
  });
  let answer: ((answered: Answered) => void) | undefined;
  child.on('message', (message: Answered) => answer?.(message));
  const exited = new Promise<void>((resolve) =>
    child.once('exit', (code, signal) => {
      answer?.({ failed: `${end} ended with ${signal ?? code}` });
      resolve();
    }),
  );
  const answered = (): Promise<unknown> =>
    new Promise((resolve, reject) => {
      answer = (given) => ('done' in given ? resolve(given.done) : reject(new Error(`${end}: ${given.failed}`)));
    });
  const tell = (what: string, given: unknown) => {
    const told = answered();
    child.send({ what, settings: given });
    return told;
  };
  await answered();
  return {
    pid: child.pid!,
    load: (given) => tell('load', given) as Promise<LoadResult>,
    tell: <T>(what: string, given = {}) => tell(what, given) as Promise<T>,
    async stop() {
      answer = undefined;
      if (child.connected) child.disconnect();
      const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** The processor time that a process has taken, µs; null where there is no /proc or no such process. Ticks of 10 ms. */
export function cpuMicros(pid: number | null): number | null {
  if (pid === null) return null;
  try {
    // The name of the program may hold spaces and parentheses: what follows its last one is fixed.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10_000;
  } catch {
    return null;
  }
}

/** The process that listens on this port of this machine, if we may see it. */
export function listenerOn(port: number): number | null {
  try {
    const inodes = new Set(['/proc/net/tcp', '/proc/net/tcp6'].flatMap((table) => listening(table, port)));
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      if (descriptors(pid).some((target) => inodes.has(target))) return Number(pid);
    }
  } catch {
    // Not Linux.
  }
  return null;
}

const listenState = '0A';

function listening(table: string, port: number): string[] {
  return readFileSync(table, 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local, , state]) => state === listenState && Number.parseInt(local?.split(':')[1] ?? '', 16) === port)
    .map((fields) => `socket:[${fields[9]}]`);
}

function descriptors(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`);
      } catch {
        return '';
      }
    });
  } catch {
    return [];
  }
}
