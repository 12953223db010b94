/**
 * What all processes of a simulation share: the broker, the store, the appointments, the weather; and what became of it
 * for the judge. The services are the ports in memory; what lies between them and a process is in `machine.ts`.
 */
import type { Clock } from '../../broker/clock.js';
import { memoryJobs, type MemoryJobs } from '../../broker/jobs-memory.js';
import { memoryLater } from '../../broker/later-memory.js';
import type { Later } from '../../broker/later.js';
import { memoryState, type MemoryState } from '../../broker/store-memory.js';
import { namesIn, type Names } from '../../broker/topology.js';
import { memoryBroker, type MemoryBroker } from '../../broker/transport-memory.js';
import { PublishError, type Address, type Message, type PublishOptions, type Transport } from '../../broker/transport.js';
import { outcomeOf } from '../../broker/wire.js';
import { textOf } from './judge.js';
import { scheduler, type Scheduler } from './scheduler.js';

/** How often what goes wrong, each a probability for one call. */
export interface Weather {
  /** Takes a while instead of a moment. */
  readonly slow: number;
  /** The store, or the broker, does not do it, and the caller learns that it is not known. */
  readonly lostBefore: number;
  /** Is done, and the caller does not learn it. */
  readonly lostAfter: number;
  /** Is done after the caller has given up. */
  readonly stale: number;
  /** A publish is refused: by a full queue, or since a queue is missing for a moment. */
  readonly refused: number;
  /** A delivery comes again although it was acknowledged. */
  readonly ackLost: number;
  /** Hints that come twice, or not at all. */
  readonly hintLost: number;
}

export const calm: Weather = { slow: 0.1, lostBefore: 0, lostAfter: 0, stale: 0, refused: 0, ackLost: 0, hintLost: 0 };

export interface World {
  readonly seed: number;
  readonly scheduler: Scheduler;
  readonly clock: Clock;
  readonly names: Names;
  readonly broker: MemoryBroker;
  readonly state: MemoryState;
  readonly later: Later;
  readonly jobs: MemoryJobs;
  /** Redis is emptied: state and appointments are gone. */
  loseState(): void;
  /** Always connected: what programs of others, and messages that are on their way already, arrive by. */
  readonly wire: Transport;
  weather: Weather;
  /** Processes whose death the broker has not noticed: it still believes that they work on what they have. */
  dying: number;
  /** The whole service is away, or (broker) takes nothing. */
  readonly away: { store: boolean; broker: boolean; blocked: boolean };
  /** Every publish that arrives at the broker does so here. */
  arrive(to: Address, message: Message, options?: PublishOptions): Promise<void>;
  /** What the journal has so far. */
  readonly journal: Journalled;
  newId(): string;
  /** How long one way takes, ms. */
  latencyMs(): number;
  readonly trace: ((who: string, what: string) => void) | undefined;
}

export interface Journalled {
  /** By request: every outcome that any message tells. */
  readonly told: ReadonlyMap<string, ReadonlySet<string>>;
  /** Requests whose record it has. */
  readonly recorded: ReadonlySet<string>;
  /** By request: the outcome that a hub has decided, of several the first: a rebuild goes by that one. */
  readonly decided: ReadonlyMap<string, string>;
}

export const start = Date.UTC(2026, 0, 1);

export function openWorld(seed: number, trace: ((line: string) => void) | undefined): World {
  const time = scheduler(seed, start);
  const { clock, soon, random } = time;
  const names = namesIn('sim');
  const broker = memoryBroker({ clock, soon });
  const wire = broker.connect();
  const told = new Map<string, Set<string>>();
  const decided = new Map<string, string>();
  const recorded = new Set<string>();
  const note = (where: Map<string, Set<string>>, id: string, text: string) => {
    const texts = where.get(id);
    if (texts === undefined) where.set(id, new Set([text]));
    else texts.add(text);
  };
  let ids = 0;

  async function arrive(to: Address, message: Message, options?: PublishOptions): Promise<void> {
    await wire.publish(to, message, options);
    if (message.correlationId === undefined) return;
    if (message.headers?.['hub-record'] !== undefined) recorded.add(message.correlationId);
    const isNote = to.exchange === '' && to.routingKey === names.journal && message.headers?.['hub-note'] === 'outcome';
    if (!isNote && to.exchange !== names.replies) return;
    const { kind, body } = outcomeOf(message, 0);
    const text = textOf(isNote ? String(message.headers?.['hub-outcome']) : kind, body);
    note(told, message.correlationId, text);
    const isCorrection = message.headers?.['hub-instead-of'] !== undefined;
    if (isNote && (isCorrection || !decided.has(message.correlationId))) decided.set(message.correlationId, text);
  }

  /** Appointments are with Redis, whoever keeps them: they may be kept twice, and are tried again. */
  const openLater = () =>
    memoryLater({
      clock,
      publish: async (to, message) => {
        if (world.away.broker || world.away.blocked || random.chance(world.weather.lostBefore))
          throw new PublishError('unavailable', 'away');
        await arrive(to, message);
        if (random.chance(world.weather.lostAfter)) throw new PublishError('unknown', 'not confirmed');
      },
    });
  let later = openLater();

  const world: World = {
    seed,
    scheduler: time,
    clock,
    names,
    broker,
    wire,
    state: memoryState({ clock, soon }),
    jobs: memoryJobs({ clock }),
    get later() {
      return later;
    },
    loseState() {
      world.state.lose();
      world.jobs.lose();
      void later.close();
      later = openLater();
      void later.start();
    },
    weather: calm,
    dying: 0,
    away: { store: false, broker: false, blocked: false },
    arrive,
    journal: { told, decided, recorded },
    // UUIDv7 with a counter: sorts by time, tells it, and is the same again for the same seed.
    newId() {
      const ms = clock.now().toString(16).padStart(12, '0');
      return `${ms.slice(0, 8)}-${ms.slice(8)}-7000-8000-${(++ids).toString(16).padStart(12, '0')}`;
    },
    latencyMs: () => (random.chance(world.weather.slow) ? random.between(20, 400) : random.next() * 2),
    trace: trace && ((who, what) => trace(`${(time.elapsedMs() / 1_000).toFixed(4).padStart(10)}  ${who.padEnd(12)}${what}`)),
  };
  return world;
}
