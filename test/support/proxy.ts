/** A TCP proxy that breaks connections on command: what a cable, a firewall or a dying broker does, without any of them. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

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
  /** Everything takes so long on its way, each way. 0: as fast as can be. */
  delay(ms: number): void;
  /** So many bytes a second and direction go through. Infinity: as many as there are. */
  slow(bytesPerSecond: number): void;
  /** Half-open: the target's ends of the present connections are gone, and the clients are not told. What they send vanishes. */
  forget(): void;
  /** Resets each of the present connections when so many more bytes have come from the client. */
  cutAfter(bytes: number): void;
  /** New connections go there. */
  retarget(url: string): void;
  /** Connections that are open through it. */
  connections(): number;
  close(): Promise<void>;
}

/** A connection: both ends, and how much its client may still send before it is cut. */
interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
  left: number;
}

export async function faultProxy(targetUrl: string): Promise<FaultProxy> {
  let target = new URL(targetUrl);
  const pairs = new Set<Pair>();
  /** Their other end is gone. */
  const forgotten = new Set<Socket>();
  let isPaused = false;
  let isRefusing = false;
  let delayMs = 0;
  let bytesPerMs = Infinity;

  const reset = (pair: Pair) => {
    pair.client.resetAndDestroy();
    pair.upstream.resetAndDestroy();
  };

  /** Hands on what comes, in order, as late and as slowly as it is told to. */
  function handOn(from: Socket, to: Socket): (chunk: Buffer) => void {
    let last = Promise.resolve();
    let waiting = 0;
    const write = (chunk: Buffer) => {
      if (!to.destroyed && !to.write(chunk)) from.pause();
    };
    return (chunk) => {
      if (waiting === 0 && delayMs === 0 && bytesPerMs === Infinity) return write(chunk);
      const dueAt = performance.now() + delayMs;
      waiting++;
      last = last.then(async () => {
        const tookMs = chunk.length / bytesPerMs;
        const restMs = Math.max(dueAt - performance.now(), 0) + tookMs;
        if (restMs >= 1) await sleep(restMs);
        write(chunk);
        waiting--;
      });
    };
  }

  const server = createServer({ noDelay: true }, (client) => {
    client.on('error', () => {});
    if (isRefusing) return void client.resetAndDestroy();
    const upstream = connect({ host: target.hostname, port: Number(target.port || 5672), noDelay: true });
    const pair: Pair = { client, upstream, left: Infinity };
    pairs.add(pair);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      const hand = handOn(from, to);
      from.on('error', () => to.resetAndDestroy());
      from.on('close', () => {
        if (forgotten.has(client) && from === upstream) return;
        pairs.delete(pair);
        forgotten.delete(client);
        to.destroy();
      });
      from.on('data', (chunk) => {
        if (forgotten.has(client)) return;
        if (from === client && (pair.left -= chunk.length) < 0) return reset(pair);
        hand(chunk);
      });
      to.on('drain', () => {
        if (!isPaused) from.resume();
      });
      from.on('end', () => void (forgotten.has(client) || to.end()));
      if (isPaused) from.pause();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(targetUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  const each = (act: (socket: Socket) => void) => {
    for (const { client, upstream } of pairs) [client, upstream].forEach(act);
  };
  const cut = () => [...pairs].forEach(reset);
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
    delay(ms) {
      delayMs = ms;
    },
    slow(bytesPerSecond) {
      bytesPerMs = bytesPerSecond / 1_000;
    },
    forget() {
      for (const { client, upstream } of pairs) {
        forgotten.add(client);
        upstream.destroy();
      }
    },
    cutAfter(bytes) {
      for (const pair of pairs) pair.left = bytes;
    },
    retarget(to) {
      target = new URL(to);
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
