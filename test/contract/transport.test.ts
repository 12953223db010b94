/** The contract suite on both implementations. RabbitMQ comes from HUB_RABBITMQ_URL; without it this fails, it is never skipped. */
import { expect, it } from '@jest/globals';
import { testClock } from '../../broker/clock.js';
import { amqpTransport } from '../../broker/transport-amqp.js';
import { memoryBroker } from '../../broker/transport-memory.js';
import type { Topology } from '../../broker/transport.js';
import { rabbitUrl } from '../support/proxy.js';
import { transportContract } from './transport.js';

transportContract('memory', async () => {
  const broker = memoryBroker();
  return { connect: async () => broker.connect(), close: async () => {} };
});

transportContract('AMQP', async () => {
  const url = rabbitUrl();
  return { connect: () => amqpTransport({ url, name: 'contract' }), close: async () => {} };
});

it('in memory, rests and lifetimes take as long as the clock says', async () => {
  const clock = testClock();
  const transport = memoryBroker({ clock }).connect();
  const topology: Topology = {
    exchanges: [{ name: 'work', type: 'direct' }],
    queues: [
      { name: 'retry', type: 'quorum', about: 'waits', ttlMs: 60_000, deadLetter: { exchange: 'work', routingKey: 'step' } },
      { name: 'step', type: 'quorum', about: 'works' },
    ],
    bindings: [{ exchange: 'work', queue: 'step', routingKey: 'step' }],
  };
  await transport.declare(topology);
  const at: number[] = [];
  const start = clock.now();
  await transport.consume('step', { prefetch: 1, tag: 'step' }, async () => {
    at.push(clock.now() - start);
    if (at.length === 1) throw new Error('once');
  });
  await transport.publish({ exchange: '', routingKey: 'retry' }, { body: Buffer.from('x') });
  await clock.advance(59_999);
  expect(at).toEqual([]);
  await clock.advance(1);
  expect(at).toEqual([60_000]);
  await clock.advance(10_000);
  expect(at).toEqual([60_000, 60_500]);
});
