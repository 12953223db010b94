/**
 * What others reach on the same machine in the same minute: request and reply of three well-known packages, beside the limit
 * and the hub. Their packages are in `bench/peers/` and are installed there by the first run that wants them.
 */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Bench, Case, Row } from './case.js';
import { compare, type Subject } from './compare.js';
import { peersFolder } from './ends.js';
import { label, limit } from './request-reply.js';

interface Peer {
  /** Its file in `bench/peers/`, and its package. */
  readonly end: string;
  readonly package: string;
  /** How it is set up here, and what a requestor is promised then: for the table in the docs. */
  readonly settings: string;
  readonly promise: string;
}

export const peers: readonly Peer[] = [
  {
    end: 'nestjs',
    package: '@nestjs/microservices',
    settings: 'Transport.RMQ, noAck, prefetch 2,000, noDelay, transient queue, direct reply-to',
    promise: 'no confirms; a message that is lost on either leg leaves its caller waiting',
  },
  {
    end: 'moleculer',
    package: 'moleculer',
    settings: 'AMQP transporter, prefetch 2,000, noDelay, queues that delete themselves',
    promise: 'no confirms; requests are acknowledged after the action',
  },
  {
    end: 'rabbitmq-client',
    package: 'rabbitmq-client',
    settings: 'RPCClient without confirms, direct reply-to; Consumer with noAck, prefetch 2,000, noDelay',
    promise: 'no confirms; callers are rejected after 30 s or when the channel closes',
  },
];

const versionOf = (name: string): string =>
  (JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, peersFolder), 'utf8')) as { version: string }).version;

async function install(bench: Bench): Promise<void> {
  if (peers.every((peer) => existsSync(new URL(`node_modules/${peer.package}/package.json`, peersFolder)))) return;
  bench.log('Installing the peers (npm ci in bench/peers) ...');
  await promisify(execFile)('npm', ['ci', '--no-audit', '--no-fund'], { cwd: fileURLToPath(peersFolder) });
}

export const peersCase: Case = {
  name: 'peers',
  about: [
    'Request and reply of 256 B between two processes; the ratio is to the volatile hand-written limit. None of the peers promises what the last row does.',
    '',
    ...peers.map((peer) => `- \`${peer.package}\`: ${peer.settings}. Promise: ${peer.promise}.`),
    '- hub, volatile: transient messages, no confirms; a caller gets a reply or a fault in time.',
    '- hub, durable with journal: persistent on quorum queues and in the journal, confirmed on every leg.',
  ].join('\n'),
  bars: {},
  async run(bench): Promise<readonly Row[]> {
    if (bench.quick) return [];
    await install(bench);
    const [workers, hub] = await Promise.all([bench.start('workers'), bench.start('hub')]);
    const processes = { hub: hub.pid, worker: workers.pid, broker: bench.brokerPid };
    const theirs: Subject[] = [];
    for (const { end, package: name } of peers) {
      const replier = await bench.start(`peer.${end}.replier`);
      const requestor = await bench.start(`peer.${end}.requestor`);
      theirs.push({
        name: `${name} ${versionOf(name)}`,
        requestor,
        processes: { hub: requestor.pid, worker: replier.pid, broker: bench.brokerPid },
      });
    }
    return compare(
      bench,
      {
        name: 'peers',
        limit: await limit(bench, 'volatile'),
        ours: [
          ...theirs,
          { name: 'hub, volatile', to: 'volatile', requestor: hub, processes },
          { name: 'hub, durable with journal', to: 'journal', requestor: hub, processes },
        ],
        loads: [1, 64, 1_024].map((outstanding) => ({ outstanding, bytes: 256 })),
      },
      label,
    );
  },
};
