/** Clients that ask and are held: each on a connection of its own, from several addresses, as many as there are descriptors for. */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { End } from './ends.js';

export interface HoldOrder {
  readonly url: string;
  readonly path: string;
  readonly count: number;
  /** How many of them come each second. */
  readonly perSecond: number;
}

/** By HTTP status; `0`: the connection was lost without an answer. */
export type Answered = Readonly<Record<string, number>>;

const addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '127.0.0.4'];

/** How many files this process may have open; undefined where that cannot be seen. */
export function openFilesLimit(): number | undefined {
  try {
    const [, soft] = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
    return soft === undefined ? undefined : Number(soft);
  } catch {
    return undefined;
  }
}

/** `hold` sends so many requests; `answered` tells what has come so far; `limit` how many descriptors there are. */
export async function holdEnd(): Promise<End> {
  const sockets = new Set<Socket>();
  const answered: Record<string, number> = {};
  const note = (status: string) => void (answered[status] = (answered[status] ?? 0) + 1);

  function ask({ url, path }: HoldOrder, from: string): void {
    const { hostname, port } = new URL(url);
    const socket = connect({ host: hostname, port: Number(port), localAddress: from, noDelay: true });
    sockets.add(socket);
    let status: string | undefined;
    socket.write(`POST ${path} HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n{}`);
    socket.once('data', (chunk) => note((status = chunk.toString('latin1', 9, 12))));
    socket.on('error', () => undefined);
    socket.once('close', () => {
      sockets.delete(socket);
      if (status === undefined) note('0');
    });
  }

  return {
    async tell(what, settings) {
      if (what === 'limit') return openFilesLimit();
      if (what === 'answered') return answered;
      const order = settings as unknown as HoldOrder;
      const began = performance.now();
      for (let sent = 0; sent < order.count; await sleep(5)) {
        const due = Math.min(order.count, Math.ceil(((performance.now() - began) * order.perSecond) / 1_000));
        for (; sent < due; sent++) ask(order, addresses[sent % addresses.length]!);
      }
      return undefined;
    },
    close: async () => sockets.forEach((socket) => socket.destroy()),
  };
}
