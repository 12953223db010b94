/**
 * The load of the HTTP benchmarks: keep-alive connections, one request at a time on each, written and read by hand, so that
 * the client takes as little as possible of the processors that it shares with the servers.
 */
import { connect, type Socket } from 'node:net';
import type { End } from './ends.js';

const endOfHead = Buffer.from('\r\n\r\n');

/** Posts to the address that the load names; rejects on any status but 200. */
export async function httpClient(): Promise<End> {
  const free = new Map<string, Connection[]>();
  const all = new Set<Connection>();
  return {
    async request(body, { to = '' }) {
      const idle = free.get(to) ?? [];
      free.set(to, idle);
      let connection = idle.pop();
      if (connection === undefined) all.add((connection = await openConnection(new URL(to))));
      await connection.post(body);
      idle.push(connection);
    },
    async close() {
      for (const { close } of all) close();
    },
  };
}

interface Connection {
  /** Resolves once the whole answer is there. */
  post(body: Buffer): Promise<void>;
  close(): void;
}

async function openConnection({ hostname, port, host, pathname }: URL): Promise<Connection> {
  const socket = await connected(connect({ host: hostname, port: Number(port), noDelay: true }));
  let answered: ((error?: Error) => void) | undefined;
  let received = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
    const head = received.indexOf(endOfHead);
    if (head < 0) return;
    const text = received.toString('latin1', 0, head);
    const length = Number(/^content-length: *(\d+)/im.exec(text)?.[1] ?? NaN);
    if (!(received.length >= head + endOfHead.length + length)) return;
    received = Buffer.alloc(0);
    answered?.(text.startsWith('HTTP/1.1 200 ') ? undefined : new Error(`answered ${text.split('\r\n')[0]}`));
  });
  socket.on('close', () => answered?.(new Error('the connection was closed')));
  socket.on('error', () => undefined);
  return {
    post: (body) =>
      new Promise((resolve, reject) => {
        answered = (error) => (error === undefined ? resolve() : reject(error));
        const head = `POST ${pathname} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/octet-stream\r\ncontent-length: ${body.length}\r\n\r\n`;
        socket.write(Buffer.concat([Buffer.from(head, 'latin1'), body]));
      }),
    close: () => void socket.destroy(),
  };
}

const connected = (socket: Socket): Promise<Socket> =>
  new Promise((resolve, reject) => {
    socket.once('connect', () => resolve(socket));
    socket.once('error', reject);
  });
