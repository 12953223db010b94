/**
 * HTTP load that does not wait (open loop): a request is due when it is due, whether or not those before are answered, and its
 * time counts from there (no coordinated omission). Raw sockets, since it shares the machine with what it measures: a
 * response is read as far as its status and length. As a closed loop it finds out what the hub can carry.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { End } from './ends.js';
import { percentile } from './statistics.js';

export interface LoadOrder {
  readonly url: string;
  readonly path: string;
  readonly bytes: number;
  /** Requests a second; absent: a closed loop of `connections`. */
  readonly perSecond?: number;
  /** As many as there may be: what is due then waits for one. */
  readonly connections: number;
  readonly measureMs: number;
  readonly warmUpMs: number;
}

export interface Times {
  readonly count: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface LoadReport {
  /** By HTTP status; `0`: no answer. */
  readonly statuses: Readonly<Record<string, Times>>;
  /** How late the generator itself was: p99 of sent after due. */
  readonly lateP99Ms: number;
  readonly connections: number;
}

interface Line {
  readonly socket: Socket;
  /** When the request under way was due; undefined: free. */
  due: number | undefined;
  text: string;
}

const tickMs = 2;

export async function generate(order: LoadOrder): Promise<LoadReport> {
  const { hostname, port } = new URL(order.url);
  const body = 'x'.repeat(order.bytes);
  const bytes = `POST ${order.path} HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/octet-stream\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const taken = new Map<number, number[]>();
  const late: number[] = [];
  const free: Line[] = [];
  /** Due, and no connection free. */
  const waiting: number[] = [];
  let served = 0;
  const lines = new Set<Line>();
  let measuring = false;
  let again: ((line: Line) => void) | undefined;

  const note = (status: number, due: number) => {
    if (!measuring) return;
    const times = taken.get(status);
    if (times === undefined) taken.set(status, [performance.now() - due]);
    else times.push(performance.now() - due);
  };
  const answered = (line: Line, status: number) => {
    if (line.due !== undefined) note(status, line.due);
    line.due = undefined;
    if (served < waiting.length) send(line, waiting[served++]!);
    else if (again === undefined) free.push(line);
    else again(line);
  };
  const send = (line: Line, due: number) => {
    line.due = due;
    line.socket.write(bytes);
  };
  const open = (due: number): Line => {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    const line: Line = { socket, due, text: '' };
    lines.add(line);
    socket.on('data', (chunk) => {
      line.text = line.text === '' ? chunk.toString('latin1') : line.text + chunk.toString('latin1');
      const end = line.text.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(line.text)?.[1] ?? 0);
      if (line.text.length < end + 4 + length) return;
      const status = Number(line.text.slice(9, 12));
      line.text = '';
      answered(line, status);
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      lines.delete(line);
      if (line.due !== undefined) note(0, line.due);
      const place = free.indexOf(line);
      if (place >= 0) free.splice(place, 1);
    });
    socket.write(bytes);
    return line;
  };
  const ask = (due: number) => {
    const line = free.pop();
    if (line !== undefined) send(line, due);
    else if (lines.size < order.connections) open(due);
    else waiting.push(due);
  };

  if (order.perSecond !== undefined) {
    // Node takes one new connection in a turn of its event loop (libuv 1.45): clients are connected before there is too much to do.
    for (let count = 1; count <= order.connections; count++) {
      open(performance.now());
      if (count % 5 === 0) await sleep(10);
    }
    while (free.length < lines.size) await sleep(10);
  }

  const began = performance.now();
  const warm = setTimeout(() => (measuring = true), order.warmUpMs);
  const until = began + order.warmUpMs + order.measureMs;
  if (order.perSecond === undefined) {
    again = (line) => (performance.now() < until ? send(line, performance.now()) : undefined);
    for (let count = 0; count < order.connections; count++) open(performance.now());
    await sleep(until - began);
    again = undefined;
  } else {
    let next = began;
    while (next < until) {
      const now = performance.now();
      for (; next <= now; next += 1_000 / order.perSecond) {
        if (measuring) late.push(now - next);
        ask(next);
      }
      await sleep(tickMs);
    }
  }
  const measuredMs = performance.now() - began - order.warmUpMs;
  // What is under way may still be answered, and counts; the rest counts as not answered.
  served = waiting.length;
  for (const end = performance.now() + 3_000; performance.now() < end && [...lines].some(({ due }) => due !== undefined);) await sleep(20);
  const connections = lines.size;
  for (const line of lines) line.socket.destroy();
  await sleep(20);
  clearTimeout(warm);
  return {
    statuses: Object.fromEntries([...taken].map(([status, times]) => [status, timesOf(times, measuredMs)])),
    lateP99Ms: percentile(Float64Array.from(late).sort(), 0.99),
    connections,
  };
}

function timesOf(times: readonly number[], measuredMs: number): Times {
  const sorted = Float64Array.from(times).sort();
  return {
    count: sorted.length,
    perSecond: (sorted.length / measuredMs) * 1_000,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    maxMs: percentile(sorted, 1),
  };
}

/** `generate` with a `LoadOrder` reports what came of it. */
export async function openLoopEnd(): Promise<End> {
  return {
    tell: (_what, order) => generate(order as unknown as LoadOrder),
    close: async () => undefined,
  };
}
