/**
 * One process as the network sees it: its ports lead to the shared services over links that are slow, lose answers, break
 * and come back. When it is killed its ports go dead: nothing that its code does afterwards has an effect, no timer of
 * it rings, and what it had not acknowledged goes back to its queues.
 */
import type { Clock } from '../../broker/clock.js';
import type { Ports } from '../../broker/hub.js';
import { StoreError, type Restoring, type Store } from '../../broker/store.js';
import {
  PublishError,
  type ConsumeOptions,
  type Consumer,
  type Delivery,
  type Handler,
  type Topology,
  type Transport,
  type TransportState,
} from '../../broker/transport.js';
import type { World } from './world.js';

export interface Machine {
  readonly name: string;
  readonly pid: number;
  readonly isAlive: boolean;
  /** It works on something that came out of a queue. */
  readonly isBusy: boolean;
  readonly clock: Clock;
  readonly ports: Ports;
  /** Its connection to the broker breaks, and is made again after `ms`. */
  loseBroker(ms: number): void;
  /** The broker cancels its consumers, who come back by themselves. */
  cancelConsumers(): void;
  /** Commands to the store fail for `ms`. */
  loseStore(ms: number): void;
  kill(): void;
  /** Calls back when the process is dead. */
  onDeath(listener: () => void): void;
}

type Fate = 'done' | 'lost before' | 'lost after' | 'stale' | 'refused';

/** One of the ways out of a process. */
interface Link {
  readonly name: string;
  /** Why nothing can be sent now; undefined when it can. */
  away(): Error | undefined;
  /** It is not known what became of it. */
  lost(): Error;
  refused(): Error;
  /** What is sent first happens first. */
  readonly inbox?: (() => void)[];
  /** How much rarer than usual something goes wrong. */
  readonly luck: number;
  /** How long after its caller has given up something may still be done. */
  readonly staleMs: number;
  /** Rises whenever the connection breaks: what was under way then is lost. */
  generation(): number;
}

/** A consumer or a subscription, which is made anew on every connection. */
interface Served {
  isAttached: boolean;
  attach(): Promise<void>;
  detach(): void;
}

export function openMachine(world: World, name: string, pid: number): Machine {
  const { scheduler, random, clock: time } = { ...world, random: world.scheduler.random };
  const deaths: (() => void)[] = [];
  let isAlive = true;
  let busy = 0;

  const clock: Clock = {
    now: () => time.now(),
    after: (ms, run) => (isAlive ? time.after(ms, () => isAlive && run()) : () => undefined),
  };
  const trace = world.trace && ((what: string) => world.trace?.(name, what));
  const soon = (run: () => void) => void scheduler.clock.after(world.latencyMs(), run);

  function fate({ luck }: Link): Fate {
    const { lostBefore, lostAfter, stale, refused } = world.weather;
    let lot = random.next() * luck;
    for (const [probability, what] of [
      [lostBefore, 'lost before'],
      [lostAfter, 'lost after'],
      [stale, 'stale'],
      [refused, 'refused'],
    ] as const) {
      if (lot < probability) return what;
      lot -= probability;
    }
    return 'done';
  }

  /** One call over a link: it arrives after a while and is answered after another; or it does not arrive, or nobody learns of it. */
  function call<T>(link: Link, what: () => string, act: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!isAlive) return;
      const answer = (tell: () => void) => {
        // Most answers come with the effect: that saves an event.
        if (random.chance(0.7)) return void (isAlive && tell());
        soon(() => isAlive && tell());
      };
      const fail = (error: Error, how: string) =>
        answer(() => {
          trace?.(`${link.name} ${what()}: ${how}`);
          reject(error);
        });
      const away = link.away();
      if (away !== undefined) return soon(() => fail(away, 'away'));
      const sentIn = link.generation();
      const becomes = fate(link);
      const hasBroken = () => link.generation() !== sentIn;
      const effect = () =>
        act().then(
          (value) => {
            trace?.(`${link.name} ${what()}`);
            return value;
          },
          (error: Error) => {
            trace?.(`${link.name} ${what()}: ${error.message}`);
            throw error;
          },
        );
      const arrive = () => {
        // What was sent before the link broke, or the process died, may arrive all the same.
        if ((!isAlive || hasBroken()) && random.chance(0.5)) return fail(link.lost(), 'lost');
        if (becomes === 'lost before') return giveUp(() => fail(link.lost(), 'lost before'));
        if (becomes === 'refused') return fail(link.refused(), 'refused');
        if (becomes === 'stale') {
          time.after(5_000, () => fail(link.lost(), 'lost, done later'));
          return void time.after(5_000 + random.between(0, link.staleMs), () => void (link.away() ?? effect().catch(() => undefined)));
        }
        const isLost = becomes === 'lost after';
        effect().then(
          (value) => {
            if (isLost) giveUp(() => fail(link.lost(), 'lost after'));
            else answer(() => (hasBroken() ? reject(link.lost()) : resolve(value)));
          },
          (error: Error) => answer(() => reject(error)),
        );
      };
      link.inbox?.push(arrive);
      soon(link.inbox === undefined ? arrive : () => link.inbox?.shift()?.());
    });
  }

  /** A caller learns of a broken link at once, and of silence when its patience ends. */
  const giveUp = (tell: () => void) => void time.after(random.chance(0.5) ? 0 : 5_000, tell);

  let storeAwayUntil = 0;
  let storeGeneration = 0;
  const redis: Link = {
    name: 'redis',
    away: () => (world.away.store || storeAwayUntil > time.now() ? new StoreError('away', 'Redis is away') : undefined),
    lost: () => new StoreError('away', 'Redis has not answered'),
    refused: () => new StoreError('away', 'Redis is full'),
    // A command is not sent again, and one without answer ends its connection.
    staleMs: 500,
    luck: 1,
    inbox: [],
    generation: () => storeGeneration,
  };
  const { transport, lose, cancel, die } = simulatedTransport();

  const machine: Machine = {
    name,
    pid,
    get isAlive() {
      return isAlive;
    },
    get isBusy() {
      return isAlive && busy > 0;
    },
    clock,
    ports: {
      transport,
      store: simulatedStore(),
      later: {
        schedule: (appointment) =>
          call(
            redis,
            () => `schedule ${appointment.id}`,
            () => world.later.schedule(appointment),
          ),
        cancel: (id) =>
          call(
            redis,
            () => `unschedule ${id}`,
            () => world.later.cancel(id),
          ),
        start: () => world.later.start(),
        close: async () => undefined,
      },
      jobs: world.jobs.connect(),
      clock,
      newId: world.newId,
    },
    loseBroker: lose,
    cancelConsumers: cancel,
    loseStore(ms) {
      trace?.(`loses Redis for ${ms} ms`);
      storeGeneration++;
      storeAwayUntil = time.now() + ms;
    },
    kill() {
      if (!isAlive) return;
      trace?.('killed');
      isAlive = false;
      die();
      for (const listener of deaths) listener();
    },
    onDeath: (listener) => void deaths.push(listener),
  };
  return machine;

  function simulatedTransport() {
    const topologies: Topology[] = [];
    const served = new Set<Served>();
    const listeners = new Set<(state: TransportState) => void>();
    let inner: Transport | undefined = world.broker.connect();
    let generation = 0;
    const amqp: Link = {
      name: 'amqp',
      away: () => (inner === undefined || world.away.blocked ? new PublishError('unavailable', 'RabbitMQ takes nothing now') : undefined),
      lost: () => new PublishError('unknown', 'not confirmed'),
      staleMs: 5_000,
      luck: 1,
      refused: () => (random.chance(0.5) ? new PublishError('nacked', 'refused') : new PublishError('unroutable', 'no queue')),
      generation: () => generation,
    };
    const state = (): TransportState => (inner === undefined ? 'disconnected' : world.away.blocked ? 'blocked' : 'connected');
    const tell = () => listeners.forEach((listener) => listener(state()));
    /** On this connection, or not at all. */
    const on = <T>(act: (connection: Transport) => Promise<T>): Promise<T> =>
      inner === undefined ? Promise.reject(new Error('RabbitMQ is away')) : act(inner);
    const again = (ms: number, run: () => void) => void clock.after(ms, () => inner !== undefined && run());

    function lose(ms: number): void {
      if (inner === undefined || !isAlive) return;
      trace?.(`loses RabbitMQ for ${ms} ms`);
      generation++;
      void inner.close();
      inner = undefined;
      for (const one of served) one.isAttached = false;
      tell();
      const reconnect = () => {
        if (world.away.broker) return void clock.after(random.between(100, 1_000), reconnect);
        trace?.('has RabbitMQ again');
        inner = world.broker.connect();
        for (const topology of topologies) void inner.declare(topology);
        for (const one of served) attach(one);
        tell();
      };
      clock.after(ms, reconnect);
    }

    function attach(one: Served): void {
      if (one.isAttached || !served.has(one)) return;
      const mine = generation;
      one.isAttached = true;
      one.attach().catch(() => {
        if (mine !== generation) return;
        one.isAttached = false;
        again(1_000, () => attach(one));
      });
    }

    /** Until it has begun, whoever opens it hears why not. */
    async function begin(one: Served): Promise<void> {
      await moment();
      await one.attach();
      one.isAttached = true;
      served.add(one);
      await moment();
    }
    const moment = () => new Promise<void>((resolve) => soon(() => isAlive && resolve()));

    async function consume(queue: string, options: ConsumeOptions, handler: Handler): Promise<Consumer> {
      const running = new Set<Promise<void>>();
      /** They come in the order in which they were sent. */
      const inbox: (() => void)[] = [];
      let consumer: Consumer | undefined;
      const take = (delivery: Delivery) =>
        new Promise<void>((resolve, reject) => {
          const mine = generation;
          soon(() => inbox.shift()?.());
          inbox.push(() => {
            // It was in the pipe when the connection broke: the broker has it back already.
            if (!isAlive || mine !== generation) return;
            if (!served.has(one)) return reject(new Error('closing'));
            trace?.(
              `takes from ${queue}: ${delivery.type} ${delivery.correlationId}${delivery.redelivered ? `, again (${delivery.deliveries})` : ''}`,
            );
            busy++;
            const settled = handler(delivery)
              .then(
                () => moment().then(() => (random.chance(world.weather.ackLost) ? reject(new Error('acknowledgement lost')) : resolve())),
                (error: Error) => {
                  trace?.(`gives back to ${queue}: ${error.message}`);
                  reject(error);
                },
              )
              .finally(() => {
                busy--;
                running.delete(settled);
              });
            running.add(settled);
          });
        });
      const one: Served = {
        isAttached: false,
        attach: async () => void (consumer = await on((connection) => connection.consume(queue, options, take))),
        detach: () => void consumer?.close(),
      };
      await begin(one);
      return {
        async close() {
          served.delete(one);
          one.detach();
          await Promise.all(running);
        },
      };
    }

    async function subscribe(exchange: string, keys: readonly string[], listener: (delivery: Delivery) => void): Promise<Consumer> {
      let subscription: Consumer | undefined;
      const take = (delivery: Delivery) => {
        if (random.chance(world.weather.hintLost)) return;
        for (const _ of random.chance(world.weather.hintLost) ? [1, 2] : [1]) soon(() => isAlive && listener(delivery));
      };
      const one: Served = {
        isAttached: false,
        attach: async () => void (subscription = await on((connection) => connection.subscribe(exchange, keys, take))),
        detach: () => void subscription?.close(),
      };
      await begin(one);
      return {
        async close() {
          served.delete(one);
          one.detach();
        },
      };
    }

    const transport: Transport = {
      declare: async (topology) => {
        await moment();
        await on((connection) => connection.declare(topology));
        topologies.push(topology);
        await moment();
      },
      removeQueue: (queue) => on((connection) => connection.removeQueue(queue)),
      publish(to, message, options = {}) {
        const what = () =>
          `publish ${to.exchange === '' ? '' : `${to.exchange} → `}${to.routingKey}: ${String(message.headers?.['hub-note'] ?? message.type)} ${message.correlationId}`;
        const copy = { ...message };
        // Whose own queue is gone is gone for good: not for a moment.
        const link = to.exchange === '' ? { ...amqp, refused: () => new PublishError('nacked', 'refused') } : amqp;
        if (options.durable ?? true) return call(link, what, () => world.arrive(to, copy, options));
        // Fire and forget.
        if (inner === undefined || world.away.blocked) return Promise.reject(amqp.away()!);
        const mine = generation;
        if (!random.chance(world.weather.lostBefore))
          soon(() => {
            if (mine !== generation) return;
            trace?.(what());
            void world.arrive(to, copy, options).catch(() => undefined);
          });
        return Promise.resolve();
      },
      consume,
      subscribe,
      inspect: (queue) => on((connection) => connection.inspect(queue)),
      state,
      onState: (listener) => (listeners.add(listener), () => void listeners.delete(listener)),
      close: async () => void inner?.close(),
    };
    return {
      transport,
      lose,
      /** Each comes back when it has found out. */
      cancel() {
        for (const one of served) {
          one.detach();
          one.isAttached = false;
          again(random.between(1, 1_500), () => attach(one));
        }
      },
      die() {
        generation++;
        // The broker learns of it at once, or when it misses the heartbeats.
        const connection = inner;
        inner = undefined;
        world.dying++;
        scheduler.clock.after(random.chance(0.7) ? 0 : random.between(100, 10_000), () => {
          world.dying--;
          void connection?.close();
        });
      },
    };
  }

  function simulatedStore(): Store {
    const inner = world.state.connect();
    const over = <Methods extends object>(methods: Methods, act: <T>(what: () => string, run: () => Promise<T>) => Promise<T>): Methods =>
      Object.fromEntries(
        Object.entries(methods as Record<string, (...args: unknown[]) => unknown>).map(([name, method]) => [
          name,
          typeof method === 'function'
            ? (...args: unknown[]) =>
                act(
                  () => `${name} ${String(args[0] ?? '')}`,
                  () => method(...args) as Promise<unknown>,
                )
            : method,
        ]),
      ) as Methods;
    return {
      ...over(inner, (what, run) => call(redis, what, run)),
      restoring(holder) {
        const restoring = inner.restoring(holder);
        // What is called first happens first; once one is lost, so are all that follow. There are so many that seldom one may be.
        let last: Promise<unknown> = Promise.resolve();
        return over<Restoring>(restoring, (what, run) => {
          const before = last;
          const mine = call({ ...redis, luck: 20 }, what, () => before.then(run));
          last = mine;
          mine.catch(() => undefined);
          return mine;
        });
      },
      watch: (wake) =>
        inner.watch((id) => {
          if (!isAlive || redis.away() !== undefined || random.chance(world.weather.hintLost)) return;
          for (const _ of random.chance(world.weather.hintLost) ? [1, 2] : [1]) soon(() => isAlive && wake(id));
        }),
      close: () => inner.close(),
    };
  }
}
