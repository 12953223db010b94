/** What only a real network and a real broker can do to a transport: connections cut, blackholed, refused; two who want one queue. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { connect as connectPlainly } from 'amqplib';
import {
  type PublishError,
  type Queue,
  type Topology,
  TopologyError,
  type Transport,
  type TransportState,
} from '../../broker/transport.js';
import { amqpTransport, type AmqpTransportOptions } from '../../broker/transport-amqp.js';
import { eventually } from '../support/eventually.js';
import { type FaultProxy, faultProxy, rabbitUrl } from '../support/proxy.js';

const prefix = `test.${randomBytes(4).toString('hex')}`;
const created = new Set<string>();
/** Reaches the broker without the proxy: the rest of the world. */
let direct: Transport;
let proxy: FaultProxy;
let opened: Transport[] = [];
let events: { readonly event: string; readonly fields: Record<string, unknown> }[] = [];

let sequence = 0;
function queueOf(more: Partial<Queue> = {}): Queue {
  const queue: Queue = { name: `${prefix}.queue.${sequence++}`, type: 'quorum', about: 'made by the AMQP suite', ...more };
  created.add(queue.name);
  return queue;
}

const only = (queue: Queue): Topology => ({ exchanges: [], queues: [queue], bindings: [] });
const to = (queue: string) => ({ exchange: '', routingKey: queue });
const message = (body: string) => ({ body: Buffer.from(body) });

async function throughProxy(more: Partial<AmqpTransportOptions> = {}): Promise<Transport> {
  const transport = await amqpTransport({
    url: proxy.url,
    name: 'fault test',
    log: (event, fields) => void events.push({ event, fields }),
    ...more,
  });
  opened.push(transport);
  return transport;
}

async function declared(transport: Transport, more: Partial<Queue> = {}): Promise<string> {
  const queue = queueOf(more);
  await transport.declare(only(queue));
  return queue.name;
}

const outcomeOf = (publishing: Promise<void>): Promise<string> =>
  publishing.then(
    () => 'stored',
    (error: PublishError) => error.failure,
  );

function statesOf(transport: Transport): TransportState[] {
  const states: TransportState[] = [];
  transport.onState((state) => states.push(state));
  return states;
}

const connectedAgain = (transport: Transport) => eventually(() => expect(transport.state()).toBe('connected'));

/** What takes a second exclusive consumer and a start without RabbitMQ so long that they give up; the other tests go on meanwhile. */
let refusedTwin: Promise<void>;
let nobodyThere: Promise<unknown>;

beforeAll(async () => {
  direct = await amqpTransport({ url: rabbitUrl(), name: 'fault test beside the proxy' });
  refusedTwin = exclusiveTwice();
  nobodyThere = startWithNobodyThere();
  // Each is told to the test that waits for it.
  for (const one of [refusedTwin, nobodyThere]) one.catch(() => undefined);
});

afterAll(async () => {
  await Promise.allSettled([refusedTwin, nobodyThere]);
  for (const queue of created) await direct?.removeQueue(queue);
  await direct?.close();
});

beforeEach(async () => {
  events = [];
  proxy = await faultProxy(rabbitUrl());
});

afterEach(async () => {
  await Promise.all(opened.map((transport) => transport.close()));
  opened = [];
  await proxy.close();
  // amqplib has caught something that one of our listeners threw: that must not happen in any test.
  expect(events.filter(({ event }) => event === 'amqp.listener.failed')).toEqual([]);
});

async function exclusiveTwice(): Promise<void> {
  const queue = await declared(direct);
  const first = await direct.consume(queue, { prefetch: 1, tag: 'first', exclusive: true }, async () => {});
  const second = await amqpTransport({ url: rabbitUrl(), name: 'the second' });
  try {
    await expect(second.consume(queue, { prefetch: 1, tag: 'second', exclusive: true }, async () => {})).rejects.toThrow(TopologyError);
    await first.close();
    const consumer = await second.consume(queue, { prefetch: 1, tag: 'second', exclusive: true }, async () => {});
    await consumer.close();
  } finally {
    await second.close();
  }
}

async function startWithNobodyThere(): Promise<Transport> {
  const away = await faultProxy(rabbitUrl());
  try {
    away.refuse(true);
    const url = new URL(away.url);
    [url.username, url.password] = ['somebody', 'hunter2'];
    return await amqpTransport({ url: url.href, name: 'nobody' });
  } finally {
    await away.close();
  }
}

describe('when the connection is cut', () => {
  it('settles a thousand publishes under way, heals, and has lost nothing that was confirmed', async () => {
    const transport = await throughProxy();
    const states = statesOf(transport);
    const queue = await declared(transport);
    const bodies = Array.from({ length: 1_000 }, (_, index) => String(index));
    const outcomes = Promise.all(bodies.map((body) => outcomeOf(transport.publish(to(queue), message(body)))));
    setImmediate(() => setImmediate(proxy.cut));
    const all = await outcomes;
    expect(all).toHaveLength(1_000);
    expect(new Set(all)).toContain('unknown');
    await eventually(() => expect(states).toEqual(['disconnected', 'connected']));
    await transport.publish(to(queue), message('after'));
    const arrived = new Set<string>();
    await transport.consume(queue, { prefetch: 500, tag: 'check' }, async ({ body }) => void arrived.add(body.toString()));
    const confirmed = bodies.filter((_, index) => all[index] === 'stored');
    await eventually(() => {
      expect(arrived).toContain('after');
      expect(confirmed.filter((body) => !arrived.has(body))).toEqual([]);
    });
  });

  it('goes on consuming while others publish, again and again, and misses nothing', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    const arrived = new Set<string>();
    await transport.consume(queue, { prefetch: 20, tag: 'steady' }, async ({ body }) => void arrived.add(body.toString()));
    const sent: string[] = [];
    for (let round = 0; round < 5; round++) {
      for (let index = 0; index < 50; index++) {
        const body = `${round}.${index}`;
        await direct.publish(to(queue), message(body));
        sent.push(body);
        if (index === 25) proxy.cut();
      }
      await connectedAgain(transport);
    }
    await eventually(() => expect(sent.filter((body) => !arrived.has(body))).toEqual([]));
    await eventually(async () => expect(await direct.inspect(queue)).toEqual({ ready: 0, consumers: 1 }));
  });

  it('lets a handler finish whose delivery is lost, and delivers that again', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const got: boolean[] = [];
    await transport.consume(queue, { prefetch: 1, tag: 'slow' }, async ({ redelivered }) => {
      got.push(redelivered);
      await held;
    });
    await direct.publish(to(queue), message('x'));
    await eventually(() => expect(got).toEqual([false]));
    proxy.cut();
    await eventually(() => expect(got).toEqual([false, true]));
    release();
    await eventually(async () => expect(await direct.inspect(queue)).toEqual({ ready: 0, consumers: 1 }));
    expect(got).toEqual([false, true]);
  });

  it('declares again what was deleted meanwhile, before it says that it is connected', async () => {
    const transport = await throughProxy();
    const exchange = `${prefix}.exchange.${sequence++}`;
    const queue = queueOf();
    await transport.declare({
      exchanges: [{ name: exchange, type: 'direct' }],
      queues: [queue],
      bindings: [{ exchange, queue: queue.name, routingKey: 'k' }],
    });
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(transport.state()).toBe('disconnected'));
    await direct.removeQueue(queue.name);
    proxy.refuse(false);
    await connectedAgain(transport);
    await transport.publish({ exchange, routingKey: 'k' }, message('x'));
    expect(await direct.inspect(queue.name)).toMatchObject({ ready: 1 });
  });

  it('knows that its queue was deleted, though somebody else declared it again before it noticed', async () => {
    const transport = await throughProxy();
    const queue = queueOf({ type: 'classic' });
    await transport.declare(only(queue));
    let restored = 0;
    const taken: string[] = [];
    await transport.consume(
      queue.name,
      { prefetch: 1, tag: 'mine', restored: () => restored++ },
      async ({ body }) => void taken.push(body.toString()),
    );
    proxy.delay(300);
    await direct.removeQueue(queue.name);
    await direct.declare(only(queue));
    await eventually(() => expect(restored).toBe(1));
    proxy.delay(0);
    await direct.publish(to(queue.name), message('x'));
    await eventually(() => expect(taken).toEqual(['x']));
    expect(restored).toBe(1);
  });

  it('during the declaring after a cut, heals all the same', async () => {
    const transport = await throughProxy();
    const queues = Array.from({ length: 30 }, () => queueOf({ type: 'classic' }));
    await transport.declare({ exchanges: [], queues, bindings: [] });
    for (let round = 0; round < 15; round++) {
      proxy.cut();
      // Wherever it is by then: in the handshake, in the middle of declaring, or done.
      await new Promise((resolve) => setTimeout(resolve, 60 + round * 15));
    }
    await connectedAgain(transport);
    await eventually(() => transport.publish(to(queues[0]?.name ?? ''), message('x')));
  });

  it('restores a subscription', async () => {
    const transport = await throughProxy();
    const exchange = `${prefix}.events.${sequence++}`;
    await transport.declare({ exchanges: [{ name: exchange, type: 'topic' }], queues: [], bindings: [] });
    const got: string[] = [];
    await transport.subscribe(exchange, ['#'], ({ routingKey }) => void got.push(routingKey));
    proxy.cut();
    await eventually(async () => {
      await direct.publish({ exchange, routingKey: 'again' }, message('x'), { durable: false });
      expect(got).toContain('again');
    });
  });

  it('reads a stream on behind the last acknowledged entry', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport, { type: 'stream', maxAge: '1D' });
    const publish = async (from: number, count: number) => {
      for (let index = from; index < from + count; index++) await direct.publish(to(queue), message(String(index)));
    };
    await publish(0, 30);
    const got: number[] = [];
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    await transport.consume(queue, { prefetch: 5, tag: 'reader', from: 'first' }, async ({ offset }) => {
      got.push(offset ?? -1);
      if (offset === 12 && got.filter((each) => each === 12).length === 1) await held;
    });
    // The held one keeps its place, although those behind it are done.
    await eventually(() => expect(Math.max(...got)).toBe(29));
    const before = [...got];
    proxy.cut();
    await publish(30, 10);
    await eventually(() => expect(Math.max(...got)).toBe(39));
    release();
    expect(before.filter((offset) => offset < 12)).toEqual([...Array(12).keys()]);
    expect(got.slice(before.length)).toEqual(Array.from({ length: 28 }, (_, index) => 12 + index));
  });

  it('reads a stream from `next` on without a gap, although nothing had come yet', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport, { type: 'stream', maxAge: '1D' });
    const got: string[] = [];
    await transport.consume(queue, { prefetch: 5, tag: 'reader', from: 'next' }, async ({ body }) => void got.push(body.toString()));
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(transport.state()).toBe('disconnected'));
    await direct.publish(to(queue), message('while it was away'));
    proxy.refuse(false);
    await eventually(() => expect(got).toEqual(['while it was away']));
  });

  it('tries again what an operator asked for, and closes cleanly in the middle of it', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    const looking = transport.inspect(queue);
    proxy.cut();
    expect(await looking).toEqual({ ready: 0, consumers: 0 });
    const states = statesOf(transport);
    proxy.cut();
    await transport.close();
    expect(transport.state()).toBe('disconnected');
    expect(states.filter((state) => state === 'connected')).toEqual([]);
  });
});

describe('when the broker does not answer', () => {
  it('rejects a publish as unknown within the confirm deadline, leaves a connection that is silent, and publishes again when there is another', async () => {
    const transport = await throughProxy({ confirmMs: 500 });
    const queue = await declared(transport);
    proxy.pause();
    const start = performance.now();
    expect(await Promise.all(['a', 'b'].map((body) => outcomeOf(transport.publish(to(queue), message(body)))))).toEqual([
      'unknown',
      'unknown',
    ]);
    expect(performance.now() - start).toBeGreaterThan(450);
    expect(performance.now() - start).toBeLessThan(2_000);
    proxy.resume();
    // What was on its way may have arrived, or not: that is what unknown says. From now on it is known again.
    await eventually(() => transport.publish(to(queue), message('c')));
    await eventually(async () => expect((await direct.inspect(queue))?.ready).toBeGreaterThanOrEqual(1));
  });

  it('takes no more than a bounded number of publishes', async () => {
    const transport = await throughProxy({ confirmMs: 500 });
    const queue = await declared(transport);
    proxy.pause();
    const outcomes = await Promise.all(Array.from({ length: 10_050 }, () => outcomeOf(transport.publish(to(queue), message('x')))));
    expect(outcomes.filter((outcome) => outcome === 'unavailable')).toHaveLength(50);
    expect(outcomes.filter((outcome) => outcome === 'unknown')).toHaveLength(10_000);
    // Their places are free again only when the broker has said what became of them.
    expect(await outcomeOf(transport.publish(to(queue), message('x')))).toBe('unavailable');
    proxy.resume();
    await eventually(() => transport.publish(to(queue), message('x')));
  });

  it('takes no more than a bounded number of volatile messages', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport, { type: 'classic' });
    proxy.pause();
    const body = Buffer.alloc(4_096);
    const publishTurn = () =>
      Promise.all(Array.from({ length: 2_000 }, () => outcomeOf(transport.publish(to(queue), { body }, { durable: false }))));
    const outcomes = await eventually(async () => {
      const turn = await publishTurn();
      expect(turn).toContain('unavailable');
      return turn;
    });
    expect(outcomes.filter((outcome) => outcome !== 'stored' && outcome !== 'unavailable')).toEqual([]);
    proxy.resume();
    await eventually(async () => expect(await outcomeOf(transport.publish(to(queue), message('x'), { durable: false }))).toBe('stored'));
  });

  it('closes in a few seconds even then', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    await transport.consume(queue, { prefetch: 1, tag: 'stuck' }, async () => {});
    proxy.pause();
    const publishing = outcomeOf(transport.publish(to(queue), message('x')));
    const start = performance.now();
    await transport.close();
    expect(performance.now() - start).toBeLessThan(9_000);
    expect(await publishing).toBe('unknown');
  });
});

describe('when the broker is away', () => {
  it('rejects a publish as unavailable at once, durable or not, and everything else in the end', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(transport.state()).toBe('disconnected'));
    // One of the two connections may notice sooner than the other.
    await eventually(async () => expect(await outcomeOf(transport.publish(to(queue), message('x')))).toBe('unavailable'));
    const start = performance.now();
    expect(await outcomeOf(transport.publish(to(queue), message('x')))).toBe('unavailable');
    expect(await outcomeOf(transport.publish(to(queue), message('x'), { durable: false }))).toBe('unavailable');
    expect(performance.now() - start).toBeLessThan(100);
    await expect(transport.inspect(queue)).rejects.toThrow(/away/);
    proxy.refuse(false);
    await connectedAgain(transport);
  });

  it('ends what waits for it when the transport is closed', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(transport.state()).toBe('disconnected'));
    const waiting = [
      transport.inspect(queue),
      transport.consume(queue, { prefetch: 1, tag: 'waits' }, async () => {}),
      transport.subscribe('amq.topic', ['#'], () => {}),
    ].map((promise) => expect(promise).rejects.toThrow(/closed/));
    const start = performance.now();
    await transport.close();
    await Promise.all(waiting);
    expect(performance.now() - start).toBeLessThan(1_000);
  });

  it('lets a declaration wait for it', async () => {
    const transport = await throughProxy();
    proxy.refuse(true);
    proxy.cut();
    await eventually(() => expect(transport.state()).toBe('disconnected'));
    const declaring = declared(transport);
    proxy.refuse(false);
    expect(await direct.inspect(await declaring)).toMatchObject({ ready: 0 });
  });

  it('says at the start what it expected, where, and how to mend it, and keeps the password to itself', async () => {
    await expect(nobodyThere).rejects.toThrow(
      /cannot connect to RabbitMQ at amqp:\/\/somebody:\*\*\*@127\.0\.0\.1:\d+: .*start it, or correct the URL/s,
    );
    await expect(nobodyThere).rejects.not.toThrow(/hunter2/);
  }, 20_000);

  it('does not try long when it is refused', async () => {
    const wrongPassword = new URL(proxy.url);
    wrongPassword.password = 'hunter2';
    const start = performance.now();
    await expect(amqpTransport({ url: wrongPassword.href, name: 'nobody' })).rejects.toThrow(/ACCESS.REFUSED.*correct the URL/);
    await expect(amqpTransport({ url: `${new URL(proxy.url).origin}/no-such-vhost`, name: 'nobody' })).rejects.toThrow(/virtual host/);
    await expect(amqpTransport({ url: 'http://127.0.0.1', name: 'nobody' })).rejects.toThrow(/amqp/);
    await expect(amqpTransport({ url: 'nonsense', name: 'nobody' })).rejects.toThrow(/not a URL/);
    expect(performance.now() - start).toBeLessThan(5_000);
    await eventually(() => expect(proxy.connections()).toBe(0));
  });
});

describe('when two want one queue', () => {
  it('refuses a second exclusive consumer, also on a quorum queue, and says why', async () => {
    await refusedTwin;
  }, 40_000);

  it('lets the second have it when the first has gone', async () => {
    const first = await throughProxy();
    const queue = await declared(first);
    await first.consume(queue, { prefetch: 1, tag: 'first', exclusive: true }, async () => {});
    const got: string[] = [];
    const taking = direct.consume(
      queue,
      { prefetch: 1, tag: 'second', exclusive: true },
      async ({ body }) => void got.push(body.toString()),
    );
    await first.close();
    const consumer = await taking;
    await direct.publish(to(queue), message('x'));
    await eventually(() => expect(got).toEqual(['x']));
    await consumer.close();
  });

  it('has it back after a cut', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    const got: string[] = [];
    await transport.consume(queue, { prefetch: 1, tag: 'mine', exclusive: true }, async ({ body }) => void got.push(body.toString()));
    proxy.cut();
    await connectedAgain(transport);
    await direct.publish(to(queue), message('x'));
    await eventually(() => expect(got).toEqual(['x']));
  });
});

describe('when every handler fails, as while a store is away', () => {
  it('tells of the first at once, of the others once a second, and how many there were', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    for (let i = 0; i < 20; i++) await direct.publish(to(queue), message(`${i}`));
    const failing = async () => {
      throw new Error('the store is away');
    };
    await transport.consume(queue, { prefetch: 20, tag: 'fails' }, failing);
    const told = () => events.filter(({ event }) => event === 'handler.failed').map(({ fields }) => fields);
    await eventually(() => expect(told()[1]?.['untold']).toBeGreaterThanOrEqual(19));
    expect(told()[0]).toEqual({ queue, messageId: undefined, deliveries: 0, error: new Error('the store is away') });
  });
});

describe('when one of its channels dies', () => {
  it('publishes on, after a message to an exchange that is not there killed the confirm channel', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    const missing = { exchange: `${prefix}.missing`, routingKey: 'k' };
    const outcomes = await Promise.all([
      outcomeOf(transport.publish(to(queue), message('before'))),
      outcomeOf(transport.publish(missing, message('nowhere'))),
      outcomeOf(transport.publish(to(queue), message('behind'))),
    ]);
    expect(outcomes[1]).toBe('unroutable');
    for (const outcome of [outcomes[0], outcomes[2]]) expect(['stored', 'unknown']).toContain(outcome);
    await connectedAgain(transport);
    await transport.publish(to(queue), message('after'));
  });

  it('does not let a message that the broker never takes kill it twice', async () => {
    const transport = await throughProxy();
    const queue = await declared(transport);
    const forged = { ...message('x'), userId: 'somebody-else' };
    expect(await outcomeOf(transport.publish(to(queue), forged))).toBe('nacked');
    await connectedAgain(transport);
    const states = statesOf(transport);
    expect(await outcomeOf(transport.publish(to(queue), forged))).toBe('nacked');
    await transport.publish(to(queue), message('after'));
    expect(states).toEqual([]);
  });

  it('keeps durable publishes apart from a volatile one to nowhere', async () => {
    const transport = await throughProxy();
    const states = statesOf(transport);
    const queue = await declared(transport, { type: 'classic' });
    await transport.publish({ exchange: `${prefix}.missing`, routingKey: 'k' }, message('x'), { durable: false });
    await transport.publish(to(queue), message('durable'));
    await eventually(async () =>
      expect(await outcomeOf(transport.publish(to(queue), message('volatile'), { durable: false }))).toBe('stored'),
    );
    await eventually(async () => expect(await direct.inspect(queue)).toMatchObject({ ready: 2 }));
    expect(states).toEqual([]);
  });

  it('does not notice a refused declaration', async () => {
    const transport = await throughProxy();
    const states = statesOf(transport);
    const queue = await declared(transport);
    const refused = transport.declare(only({ name: queue, type: 'quorum', about: 'other', ttlMs: 1_000 }));
    await expect(refused).rejects.toThrow(new RegExp(`queue ${queue}.*x-message-ttl.*rabbitmqctl delete_queue`, 's'));
    await transport.publish(to(queue), message('x'));
    expect(states).toEqual([]);
  });
});

/** `basic.ack` as RabbitMQ sends it to confirm: its class and method. */
const ackMethod = 0x003c_0050;

/** Takes the confirms of the first channel that gets one, and hands on all else: what a channel does that looks for a leader that is gone. */
async function deafChannel(target: string): Promise<{ readonly url: string; close(): void }> {
  const { hostname, port, username, password, pathname } = new URL(target);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const broker = connect({ host: hostname, port: Number(port || 5672) });
    let rest: Buffer = Buffer.alloc(0);
    let deaf: number | undefined;
    for (const socket of [client, broker]) sockets.add(socket.on('error', () => undefined));
    client.pipe(broker);
    broker.on('end', () => client.end());
    broker.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      // A frame: type, channel (2), size (4), so many bytes, end.
      while (rest.length >= 7 && rest.length >= rest.readUInt32BE(3) + 8) {
        const frame = rest.subarray(0, rest.readUInt32BE(3) + 8);
        rest = rest.subarray(frame.length);
        const channel = frame.readUInt16BE(1);
        const isConfirm = frame[0] === 1 && frame.readUInt32BE(7) === ackMethod;
        if (isConfirm) deaf ??= channel;
        if (!isConfirm || channel !== deaf) client.write(frame);
      }
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address() as AddressInfo;
  return {
    url: `amqp://${username || 'guest'}:${password || 'guest'}@127.0.0.1:${address.port}${pathname}`,
    close: () => (server.close(), sockets.forEach((socket) => socket.destroy())),
  };
}

describe('a channel that confirms nothing', () => {
  it('makes way for a new one on the same connection: only what was sent by it is unknown', async () => {
    const deaf = await deafChannel(rabbitUrl());
    try {
      const transport = await throughProxy({ url: deaf.url, confirmMs: 3_000 });
      const states = statesOf(transport);
      const queue = await declared(transport);
      const first = outcomeOf(transport.publish(to(queue), message('first')));
      const outcomes: string[] = [];
      const isStored = async () => {
        void outcomeOf(transport.publish(to(queue), message('next'))).then((outcome) => outcomes.push(outcome));
        expect(outcomes).toContain('stored');
      };
      await eventually(isStored, { withinMs: 2_900 });
      expect(await first).toBe('unknown');
      expect(await outcomeOf(transport.publish(to(queue), message('last')))).toBe('stored');
      expect(states).toEqual([]);
      expect(events.map(({ event }) => event)).toContain('amqp.channel.renewed');
    } finally {
      deaf.close();
    }
  });
});

/** Counts how often this process writes to a socket, and the frames `basic.ack` in that, until it is told to stop. */
function countedWrites(): { count: number; acks: number; stop(): void } {
  const sockets = Socket.prototype as unknown as Record<'_write' | '_writev', (...args: unknown[]) => void>;
  const { _write, _writev } = sockets;
  const counted = { count: 0, acks: 0, stop: () => void Object.assign(sockets, { _write, _writev }) };
  const isAck = (frame: Buffer) => frame.length === 21 && frame.readUInt32BE(7) === ackMethod;
  Object.assign(sockets, {
    _write(this: unknown, frame: Buffer, ...more: unknown[]) {
      counted.count++;
      if (isAck(frame)) counted.acks++;
      return _write.call(this, frame, ...more);
    },
    _writev(this: unknown, frames: readonly { readonly chunk: Buffer }[], ...more: unknown[]) {
      counted.count++;
      counted.acks += frames.filter(({ chunk }) => isAck(chunk)).length;
      return _writev.call(this, frames, ...more);
    },
  });
  return counted;
}

it('declares a stream in segments that are read in a second or two when RabbitMQ was killed', async () => {
  const queue = await declared(direct, { type: 'stream', maxAge: '1D' });
  const plain = await connectPlainly(rabbitUrl());
  const channel = await plain.createChannel();
  const { maxAge, about } = queueOf({ type: 'stream', maxAge: '1D' });
  // Refused with any other size.
  const declaredArguments = { 'x-queue-type': 'stream', about, 'x-max-age': maxAge, 'x-stream-max-segment-size-bytes': 50_000_000 };
  await expect(channel.assertQueue(queue, { durable: true, arguments: declaredArguments })).resolves.toMatchObject({ queue });
  await plain.close();
});

describe('on the wire', () => {
  it('puts what one turn sends into one write, and acknowledges lazily in few, all of them before it closes', async () => {
    const queue = await declared(direct);
    let taken = 0;
    const consumer = await direct.consume(queue, { prefetch: 1_000, tag: 'writes', lazy: true }, async () => void taken++);
    const writes = countedWrites();
    try {
      const outstanding = Array.from({ length: 64 }, async () => {
        for (let each = 0; each < 16; each++) await direct.publish(to(queue), message('x'));
      });
      await Promise.all(outstanding);
      await eventually(() => expect(taken).toBe(1_024));
    } finally {
      writes.stop();
    }
    await consumer.close();
    expect(writes.count).toBeLessThan(1_024 / 4);
    expect(await direct.inspect(queue)).toMatchObject({ ready: 0 });
  });

  it('acknowledges in few frames what is done in another order than it came', async () => {
    const queue = await declared(direct);
    const bodies = Array.from({ length: 100 }, (_, index) => String(index));
    const counted: number[] = [];
    // A process that stands still for 50 ms between two turns acknowledges what it has.
    for (let tries = 0; tries < 5 && !counted.some((acks) => acks < 50); tries++) {
      await Promise.all(bodies.map((body) => direct.publish(to(queue), message(body))));
      let taken = 0;
      let done = 0;
      let allAreTaken = () => {};
      let allAreDone = () => {};
      const all = new Promise<void>((resolve) => (allAreTaken = resolve));
      const over = new Promise<void>((resolve) => (allAreDone = resolve));
      const writes = countedWrites();
      const consumer = await direct.consume(queue, { prefetch: 1_000, tag: 'order' }, async ({ body }) => {
        if (++taken === bodies.length) allAreTaken();
        await all;
        // Every tenth is done a turn later than those behind it.
        if (Number(body) % 10 === 0) await new Promise(setImmediate);
        if (++done === bodies.length) setImmediate(allAreDone);
      });
      // A consumer that is closed acknowledges what is done, in order or not.
      await over;
      await consumer.close();
      writes.stop();
      counted.push(writes.acks);
      expect(writes.acks).toBeGreaterThan(0);
      expect(await direct.inspect(queue)).toMatchObject({ ready: 0 });
    }
    expect(Math.min(...counted)).toBeLessThan(50);
  });

  it('lets others have their turn while thousands of messages come', async () => {
    const queue = await declared(direct);
    await Promise.all(Array.from({ length: 2_000 }, () => direct.publish(to(queue), message('x'))));
    let taken = 0;
    let inThisTurn = 0;
    let most = 0;
    const turn = () => {
      most = Math.max(most, inThisTurn);
      inThisTurn = 0;
      if (taken < 2_000) setImmediate(turn);
    };
    setImmediate(turn);
    const consumer = await direct.consume(queue, { prefetch: 2_000, tag: 'turns' }, async () => {
      taken++;
      inThisTurn++;
    });
    await eventually(() => expect(taken).toBe(2_000));
    await consumer.close();
    // 100 of a turn and 100 of the next, where ours comes between.
    expect(most).toBeLessThanOrEqual(200);
  });

  it('does not keep what is done for one that takes long', async () => {
    const queue = await declared(direct);
    await Promise.all(['slow', 'quick'].map((body) => direct.publish(to(queue), message(body))));
    let end = () => {};
    const ended = new Promise<void>((resolve) => (end = resolve));
    const writes = countedWrites();
    const consumer = await direct.consume(queue, { prefetch: 1_000, tag: 'late' }, ({ body }) =>
      body.toString() === 'slow' ? ended : Promise.resolve(),
    );
    await eventually(() => expect(writes.acks).toBe(1));
    end();
    await consumer.close();
    writes.stop();
    expect(writes.acks).toBe(2);
  });
});
