/** The contract suite on both implementations. RabbitMQ comes from HUB_RABBITMQ_URL; without it this fails, it is never skipped. */
import { amqpTransport } from '../../broker/transport-amqp.js';
import { memoryBroker } from '../../broker/transport-memory.js';
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
