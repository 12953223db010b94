// @nestjs/microservices on RabbitMQ: a ClientProxy and a controller with one message pattern.

import 'reflect-metadata';
import { Controller } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ClientProxyFactory, MessagePattern, Payload, Transport } from '@nestjs/microservices';
import { firstValueFrom } from 'rxjs';

/** @typedef {{ rabbitmq: string, namespace: string }} Settings */

/** @param {Settings} settings */
const rmq = ({ rabbitmq, namespace }) => ({
  transport: Transport.RMQ,
  options: {
    urls: [rabbitmq],
    queue: `${namespace}.nestjs`,
    queueOptions: { durable: false, autoDelete: true },
    prefetchCount: 2_000,
    noAck: true,
    socketOptions: { connectionOptions: { noDelay: true } },
  },
});

/** @param {Settings} settings */
export async function replier(settings) {
  class Hello {
    /** @param {unknown} body */
    echo(body) {
      return body;
    }
  }
  // Decorators, written out: this file is not compiled.
  const method = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(Hello.prototype, 'echo'));
  Payload()(Hello.prototype, 'echo', 0);
  MessagePattern('hello')(Hello.prototype, 'echo', method);
  Controller()(Hello);
  class Module {}
  Reflect.defineMetadata('controllers', [Hello], Module);
  const app = await NestFactory.createMicroservice(Module, { ...rmq(settings), logger: false });
  await app.listen();
  return { close: () => app.close() };
}

/** @param {Settings} settings */
export async function requestor(settings) {
  const client = ClientProxyFactory.create(rmq(settings));
  await client.connect();
  return {
    /** @param {Buffer} body */
    request: (body) => firstValueFrom(client.send('hello', body.toString('latin1'))),
    close: async () => client.close(),
  };
}
