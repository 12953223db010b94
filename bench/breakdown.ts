/**
 * Where our part of the cost goes: differences of processor time per request between flows that differ in one thing, over
 * all processes together, and what encoding and decoding of the envelope takes by itself.
 */
import { deriveId, follow, newId, type Envelope } from '../broker/envelope.js';
import { decode, encode } from '../broker/wire.js';
import type { Bench, Case, Row } from './case.js';
import { runOnce, type Subject } from './compare.js';
import { median } from './statistics.js';
import { limit } from './request-reply.js';

const load = { outstanding: 64, bytes: 256 };

export const breakdown: Case = {
  name: 'breakdown',
  about: [
    'Processor time per request at 64 outstanding, 256 B, of all processes together (both ends, RabbitMQ, Redis; not the client of HTTP): differences',
    'of medians between runs that differ in one thing. The last rows are micro-measurements of what one call takes by itself.',
  ].join(' '),
  bars: {},
  async run(bench): Promise<readonly Row[]> {
    if (bench.quick) return [];
    const [workers, hub] = await Promise.all([bench.start('workers'), bench.start('hub', { http: true })]);
    const client = await bench.start('http.client');
    const url = await hub.tell<string>('url');
    const processes = { hub: hub.pid, worker: workers.pid, broker: bench.brokerPid, redis: bench.redisPid };
    const ours = (name: string, to: string): Subject => ({ name, to, requestor: hub, processes });
    const http = (name: string, flow: string): Subject => ({ name, to: `${url}/requests/${flow}`, requestor: client, processes });
    const base = 'plain';
    const subjects = {
      limit: await limit(bench, 'durable'),
      dressed: await limit(bench, 'durable', { dressed: true, namespace: `${bench.namespace}.dressed` }),
      base: ours('hub', base),
      journal: ours('hub with journal', 'journal'),
      keyed: ours('keyed', 'keyed'),
      http: http('http', base),
    };
    const costs = await costsOf(bench, subjects);
    const difference = (name: string, to: number, from: number): Row => ({ name: `breakdown: ${name}`, value: to - from, unit: 'µs' });
    const { encodeMicros, decodeMicros, deriveMicros } = wireCosts();
    const row = (name: string, value: number): Row => ({ name: `breakdown: ${name}`, value, unit: 'µs' });
    return [
      row('hand-written limit, all processes', costs.limit),
      difference('headers: our properties on the limit', costs.dressed, costs.limit),
      difference('all else of the hub without journal', costs.base, costs.dressed),
      difference('journal', costs.journal, costs.base),
      difference('store: record, key and outcome', costs.keyed, costs.journal),
      difference('HTTP', costs.http, costs.base),
      row('of it: one encode of an envelope (alone)', encodeMicros),
      row('of it: one decode of an envelope (alone)', decodeMicros),
      row('of it: one derived id (alone)', deriveMicros),
    ];
  },
};

/** Medians of the processor time per request, all processes but the load together, µs. */
async function costsOf<Name extends string>(bench: Bench, subjects: Readonly<Record<Name, Subject>>): Promise<Record<Name, number>> {
  const names = Object.keys(subjects) as Name[];
  const found = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  // The first round is not counted: processes that have just started are compiling themselves.
  for (let round = 0; round <= bench.rounds; round++) {
    for (const name of names) {
      const { cpu } = await runOnce(bench, subjects[name], load);
      const total = Object.values(cpu).reduce((sum: number, value) => sum + (value ?? 0), 0);
      if (round > 0) found[name].push(total);
    }
    bench.log(`breakdown, round ${round}: ${names.map((name) => `${name} ${Math.round(found[name].at(-1) ?? 0)}`).join(', ')} µs`);
  }
  return Object.fromEntries(names.map((name) => [name, median(found[name])])) as Record<Name, number>;
}

const times = 100_000;

function microsOf(what: () => unknown): number {
  for (let time = 0; time < times / 10; time++) what();
  const began = performance.now();
  for (let time = 0; time < times; time++) what();
  return ((performance.now() - began) * 1_000) / times;
}

function wireCosts(): { encodeMicros: number; decodeMicros: number; deriveMicros: number } {
  const now = Date.now();
  const id = newId();
  const first: Envelope = {
    journal: true,
    id,
    requestId: id,
    type: 'request',
    flow: 'hello',
    slip: ['hello'],
    step: 1,
    attempt: 1,
    deadline: Math.ceil(now / 1_000) * 1_000 + 60_000,
    replyTo: 'hub.reply.h1',
    groups: [],
    principal: 'anonymous',
    durable: true,
    recorded: false,
    at: now,
    body: Buffer.alloc(256),
    contentType: 'application/octet-stream',
  };
  const envelope = follow(first, { at: now, slip: ['hello'] });
  const message = encode(envelope);
  return {
    encodeMicros: microsOf(() => encode(envelope)),
    decodeMicros: microsOf(() => decode(message)),
    deriveMicros: microsOf(() => deriveId(id, 'hello', 0)),
  };
}
