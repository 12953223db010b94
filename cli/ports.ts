/** Ports that are taken when something is tried out: the next free one is as good, unless somebody asked for that very port. */
import { createServer } from 'node:net';
import type { Project } from '../config/project.js';

export interface Moved {
  /** For `overrides` of `load` and `start`. */
  readonly overrides: Readonly<Record<string, unknown>>;
  /** What to tell. */
  readonly notes: readonly string[];
}

/** Finds free ports for adapters whose own is taken, and another name for the hub: two of one name would share a reply queue. */
export async function moveFromTakenPorts(project: Project): Promise<Moved> {
  const overrides: Record<string, unknown> = {};
  const notes: string[] = [];
  const settings = project.effective();
  for (const [adapter, { port, host }] of project.adapters) {
    if (typeof port !== 'number' || port === 0 || (await isFree(port, String(host)))) continue;
    const name = `adapters.${adapter}.port`;
    if (settings.find((setting) => setting.name === name)?.source.startsWith('environment') === true) continue; // opening it says what is wrong
    let free = port + 10;
    while (!(await isFree(free, String(host)))) free += 10;
    overrides[name] = free;
    overrides['name'] = `${project.settings.name}-${free}`;
    notes.push(`${adapter}: port ${port} is taken, using ${free}`);
  }
  return { overrides, notes };
}

function isFree(port: number, host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, host, () => probe.close(() => resolve(true)));
  });
}
