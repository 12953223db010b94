/** A Redis of a bench's own, that it may kill, start again and empty. As we tell operators to run it: append-only, synced each second. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface PrivateRedis {
  readonly url: string;
  /** Starts it (again), with the data that it has. It may still be loading them. */
  start(): void;
  /** As a power cut does. */
  kill(): Promise<void>;
  remove(): Promise<void>;
}

export async function privateRedis(): Promise<PrivateRedis> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  const folder = mkdtempSync(join(tmpdir(), 'answerback-bench-redis-'));
  const settings = ['--port', `${port}`, '--dir', folder, '--save', '', '--appendonly', 'yes', '--appendfsync', 'everysec'];
  let child: ChildProcess | undefined;
  const kill = async () => {
    if (child === undefined) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    child = undefined;
  };
  return {
    url: `redis://127.0.0.1:${port}`,
    start: () => void (child = spawn('redis-server', [...settings, '--maxmemory-policy', 'noeviction'], { stdio: 'ignore' })),
    kill,
    async remove() {
      await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
