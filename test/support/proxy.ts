/** A TCP proxy that breaks connections on command: what a cable, a firewall or a dying broker does, without any of them. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface FaultProxy {
  /** The target's URL, by way of the proxy. */
  readonly url: string;
  /** Resets every connection that is open now. */
  cut(): void;
  /** Black hole: connections stay open, and nothing goes through. */
  pause(): void;
  resume(): void;
  /** New connections are reset at once. */
  refuse(on: boolean): void;
  /** Connections that are open through it. */
  connections(): number;
  close(): Promise<void>;
}

export async function faultProxy(targetUrl: string): Promise<FaultProxy> {
  const target = new URL(targetUrl);
  const pairs = new Set<readonly [Socket, Socket]>();
  let isPaused = false;
  let isRefusing = false;
  const server = createServer({ noDelay: true }, (client) => {
    client.on('error', () => {});
    if (isRefusing) return void client.resetAndDestroy();
    const upstream = connect({ host: target.hostname, port: Number(target.port || 5672), noDelay: true });
    const pair = [client, upstream] as const;
    pairs.add(pair);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.on('error', () => to.resetAndDestroy());
      from.on('close', () => {
        pairs.delete(pair);
        to.destroy();
      });
      from.on('data', (chunk) => {
        if (!to.write(chunk)) from.pause();
      });
      to.on('drain', () => {
        if (!isPaused) from.resume();
      });
      from.on('end', () => to.end());
      if (isPaused) from.pause();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(targetUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  const cut = () => {
    for (const pair of pairs) for (const socket of pair) socket.resetAndDestroy();
  };
  const each = (act: (socket: Socket) => void) => {
    for (const pair of pairs) pair.forEach(act);
  };
  return {
    url: url.href,
    cut,
    pause() {
      isPaused = true;
      each((socket) => socket.pause());
    },
    resume() {
      isPaused = false;
      each((socket) => socket.resume());
    },
    refuse(on) {
      isRefusing = on;
    },
    connections: () => pairs.size,
    async close() {
      isRefusing = true;
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The broker that the tests run on. A missing one is a failure, never a skip: nothing would be proven. */
export function rabbitUrl(): string {
  const url = process.env['HUB_RABBITMQ_URL'];
  if (url === undefined) throw new Error('HUB_RABBITMQ_URL is not set: run the tests by `npm test`, which brings a RabbitMQ up');
  return url;
}
