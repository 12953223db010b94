/** A held HTTP request over one step that echoes, against bare Fastify in front of the hand-written durable limit. */
import type { Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';
import type { Process } from './processes.js';

export const http: Case = {
  name: 'http',
  about: [
    'A `POST` held over the same flow, by keep-alive connections from a process of its own that writes and reads HTTP by hand. The limit is',
    'Fastify as it comes, with one route that takes the body as it is and awaits the durable hand-written requestor in the same process. Neither refuses',
    'anybody: admission control is off (`limits.delay: 0`).',
  ].join(' '),
  bars: {
    'http: hub without journal, 64 connections': 0.9,
    'http: hub without journal, 256 connections': 0.9,
    'http: hub with journal, 64 connections': 0.7,
    'http: hub with journal, 256 connections': 0.7,
  },
  async run(bench): Promise<readonly Row[]> {
    const [workers, hub] = await Promise.all([bench.start('workers'), bench.start('hub', { http: true })]);
    const replier = await bench.start('limit.durable.replier');
    const fastify = await bench.start('limit.http.requestor');
    const client = await bench.start('http.client');
    const subject = async (name: string, server: Process, worker: Process, path: string): Promise<Subject> => ({
      name,
      requestor: client,
      to: `${await server.tell<string>('url')}${path}`,
      processes: { hub: server.pid, worker: worker.pid, broker: bench.brokerPid, client: client.pid },
    });
    return compare(
      bench,
      {
        name: 'http',
        limit: await subject('limit', fastify, replier, '/'),
        ours: [
          await subject('hub without journal', hub, workers, '/requests/plain'),
          await subject('hub with journal', hub, workers, '/requests/journal'),
        ],
        loads: [64, 256].map((outstanding) => ({ outstanding, bytes: 256 })),
      },
      ({ outstanding }) => `${outstanding} connections`,
    );
  },
};
