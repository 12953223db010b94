// Moleculer with its AMQP transporter: a node that calls and a node that has the action.

import { ServiceBroker } from 'moleculer';

/** @typedef {{ rabbitmq: string, namespace: string }} Settings */

/** @param {Settings} settings @param {string} nodeID */
const broker = ({ rabbitmq, namespace }, nodeID) =>
  new ServiceBroker({
    namespace,
    nodeID,
    logger: false,
    transporter: { type: 'AMQP', options: { url: rabbitmq, prefetch: 2_000, autoDeleteQueues: true, socketOptions: { noDelay: true } } },
  });

/** @param {Settings} settings */
export async function replier(settings) {
  const node = broker(settings, 'replier');
  node.createService({ name: 'hello', actions: { echo: (/** @type {{ params: { body: string } }} */ { params }) => params.body } });
  await node.start();
  return { close: () => node.stop() };
}

/** @param {Settings} settings */
export async function requestor(settings) {
  const node = broker(settings, 'requestor');
  await node.start();
  await node.waitForServices('hello');
  return {
    /** @param {Buffer} body */
    request: (body) => node.call('hello.echo', { body: body.toString('latin1') }),
    close: () => node.stop(),
  };
}
