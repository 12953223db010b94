/** A requestor that is called back, and the receiver that it is called at. */
import { createHmac, randomBytes } from 'node:crypto';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import type { End } from './ends.js';
import { percentile } from './statistics.js';

export interface CallOrder {
  /** Of the flow, whose answer is when it was given (ms since 1970). */
  readonly url: string;
  readonly perSecond: number;
  readonly forMs: number;
}

export interface Called {
  readonly asked: number;
  /** The hub had too much to do. */
  readonly refused: number;
  readonly missing: number;
  readonly again: number;
  /** With a signature that does not fit. */
  readonly unsigned: number;
  /** From the first to the last that was received. */
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly mostMs: number;
}

/** What is still on its way after this long is missing. */
const patienceMs = 30_000;
const tickMs = 5;

/** `where` tells its address and secret; `call` asks at a steady rate, whether or not anything comes back, and waits for all callbacks. */
export async function callbackEnd(): Promise<End> {
  const key = randomBytes(32);
  const dispatcher = new Agent({ connections: 64, pipelining: 1 });
  const received = new Map<string, number>();
  let late: number[] = [];
  let again = 0;
  let unsigned = 0;
  const server = createServer((call, response) => {
    const chunks: Buffer[] = [];
    call.on('data', (chunk: Buffer) => chunks.push(chunk));
    call.on('end', () => {
      took(call.headers, Buffer.concat(chunks));
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));

  function took(headers: IncomingHttpHeaders, body: Buffer): void {
    const id = String(headers['webhook-id']);
    const signed = createHmac('sha256', key)
      .update(`${id}.${String(headers['webhook-timestamp'])}.`)
      .update(body)
      .digest('base64');
    if (headers['webhook-signature'] !== `v1,${signed}`) unsigned++;
    if (received.has(id)) return void again++;
    received.set(id, performance.now());
    late.push(Date.now() - Number(body.toString()));
  }

  /** Resolves with whether it was taken. */
  async function ask(url: string): Promise<boolean> {
    const headers = { 'content-type': 'application/json', 'hub-callback': 'here' };
    const answer = await request(url, { method: 'POST', dispatcher, headers, body: '{}' });
    const text = await answer.body.text();
    // It may be answered by then.
    if (answer.statusCode === 202 || answer.statusCode === 200) return true;
    if (answer.statusCode === 503) return false;
    throw new Error(`${answer.statusCode} ${text}`);
  }

  async function call({ url, perSecond, forMs }: CallOrder): Promise<Called> {
    received.clear();
    late = [];
    [again, unsigned] = [0, 0];
    const asked: Promise<boolean>[] = [];
    const began = performance.now();
    for (let now = began; now < began + forMs; now = performance.now()) {
      while (asked.length < ((now - began) * perSecond) / 1_000) asked.push(ask(url));
      await sleep(tickMs);
    }
    const taken = (await Promise.all(asked)).filter((isTaken) => isTaken).length;
    for (const end = performance.now() + patienceMs; received.size < taken && performance.now() < end;) await sleep(tickMs);
    const times = [...received.values()];
    const sorted = Float64Array.from(late).sort();
    return {
      asked: asked.length,
      refused: asked.length - taken,
      missing: taken - received.size,
      again,
      unsigned,
      perSecond: Math.round((times.length / (times.at(-1)! - times[0]!)) * 1_000),
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
      mostMs: percentile(sorted, 1),
    };
  }

  return {
    async tell(what, settings) {
      if (what === 'call') return call(settings as unknown as CallOrder);
      return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, secret: `whsec_${key.toString('base64')}` };
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await dispatcher.destroy();
    },
  };
}
