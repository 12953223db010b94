/** Readers of server-sent events: each on a connection of its own, read by hand, since a thousand of them share the machine with the hub. */
import { connect, type Socket } from 'node:net';
import type { End } from './ends.js';
import { percentile } from './statistics.js';

export interface WatchOrder {
  readonly url: string;
  /** Where jobs are asked for. */
  readonly path: string;
  readonly jobs: number;
  /** How many watch each of them. */
  readonly each: number;
}

/** Since `forget`. */
export interface Watched {
  /** How many were told of by all streams together, and by the one that told least. */
  readonly events: number;
  readonly fewest: number;
  /** Streams that ended, ever. */
  readonly lost: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly mostMs: number;
}

/** What a job says of itself is when it said so. */
const saidAt = /"message":"(\d+)"/g;

/** `watch` asks for the jobs and resolves when each stream has told something; then `forget` and `watched`. Closing cancels the jobs. */
export async function watchEnd(): Promise<End> {
  const sockets = new Set<Socket>();
  const told: number[] = [];
  let behind: number[] = [];
  let cancel: () => Promise<void> = async () => undefined;
  let lost = 0;

  function watch({ hostname, port }: URL, id: string, place: number): Promise<void> {
    told[place] = 0;
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    sockets.add(socket);
    socket.write(`GET /requests/${id}/events HTTP/1.1\r\nHost: ${hostname}\r\nAccept: text/event-stream\r\n\r\n`);
    socket.on('error', () => undefined);
    return new Promise((resolve, reject) => {
      // One chunk is one event, or several whole ones: the hub writes each at once.
      socket.on('data', (chunk) => {
        const now = Date.now();
        for (const [, at] of chunk.toString('latin1').matchAll(saidAt)) {
          behind.push(now - Number(at));
          told[place]!++;
        }
        if (told[place]! > 0) resolve();
      });
      socket.once('close', () => {
        if (sockets.delete(socket)) lost++;
        reject(new Error('the stream ended before it told anything'));
      });
    });
  }

  async function ask({ url, path, jobs, each }: WatchOrder): Promise<void> {
    const asked = await Promise.all(
      Array.from({ length: jobs }, () =>
        fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', prefer: 'wait=0' }, body: '{}' }),
      ),
    );
    const ids = asked.map(({ headers }) => headers.get('hub-request-id') ?? '');
    cancel = async () => void (await Promise.all(ids.map((id) => fetch(`${url}/requests/${id}`, { method: 'DELETE' }))));
    await Promise.all(ids.flatMap((id, job) => Array.from({ length: each }, (_, n) => watch(new URL(url), id, job * each + n))));
  }

  return {
    async tell(what, settings) {
      if (what === 'watch') return ask(settings as unknown as WatchOrder);
      if (what === 'forget') {
        behind = [];
        told.fill(0);
        return undefined;
      }
      const sorted = Float64Array.from(behind).sort();
      return {
        events: behind.length,
        fewest: Math.min(...told),
        lost,
        p50Ms: percentile(sorted, 0.5),
        p99Ms: percentile(sorted, 0.99),
        mostMs: percentile(sorted, 1),
      } satisfies Watched;
    },
    async close() {
      await cancel().catch(() => undefined); // the hub may be gone
      const open = [...sockets];
      sockets.clear();
      for (const socket of open) socket.destroy();
    },
  };
}
