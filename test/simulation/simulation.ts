/**
 * One simulated world from a seed: hubs, workers and foreign programs in one process, requests of every kind, and what goes
 * wrong meanwhile. The same seed is the same history, byte for byte.
 */
import { createHash } from 'node:crypto';
import { access } from '../../broker/access.js';
import { pause } from '../../broker/clock.js';
import type { Emit } from '../../broker/emit.js';
import { openHub, openWorkers, type Hub, type Workers } from '../../broker/hub.js';
import { broken, openHistory, type Effect, type Seen } from '../fault/history.js';
import { openClients, type Open, type Question } from './clients.js';
import { contradictions, misjournalled, uneven, vanished, type Told } from './judge.js';
import { openMachine, type Machine } from './machine.js';
import { flows, members, projectOf, retryDelays, stepNames, type Act, type Deeds } from './project.js';
import { seeded } from './scheduler.js';
import { calm, openWorld, type Weather, type World } from './world.js';

export interface Verdict {
  readonly seed: number;
  /** What broke the promise, as sentences. */
  readonly broken: readonly string[];
  readonly requests: number;
  readonly disturbances: number;
  readonly events: number;
  /** How much time went by in it. */
  readonly elapsedMs: number;
  /** Of everything that anybody saw or did. */
  readonly hash: string;
}

/** Requests begin within this time. */
const loadMs = 5_000;
/** As long as the weather is what it is. */
const weatherMs = 12_000;
/** No deadline is further away. */
const deadlineMs = 10_000;
/** So long after the last deadline nothing may be under way any more. */
const restMs = 60_000;
/** How late an outcome may be beside what was disturbed. */
const lateMs = 5_000;

export async function simulate(seed: number, trace?: (line: string) => void): Promise<Verdict> {
  const chance = seeded(seed ^ 0x5eed);
  const [random, now, stack] = [Math.random, Date.now, Error.stackTraceLimit];
  // Making them is a tenth of the time; who replays a seed sees them.
  if (trace === undefined) Error.stackTraceLimit = 0;
  const world = openWorld(seed, trace);
  Math.random = () => chance.next();
  Date.now = () => world.clock.now();
  try {
    return await live(world);
  } finally {
    [Math.random, Date.now, Error.stackTraceLimit] = [random, now, stack];
  }
}

async function live(world: World): Promise<Verdict> {
  const { scheduler, clock, trace } = world;
  const { random } = scheduler;
  // A part of all worlds is calm: there, more is promised.
  const isCalm = world.seed % 5 === 0;
  const weather = isCalm ? calm : drawnWeather(world);
  const questions = drawnQuestions(world);
  const effects: Effect[] = [];
  const told: Told = { states: [], cancelled: [], sent: [], wrong: [] };
  const history = openHistory({ now: () => clock.now() });
  const deeds = deedsOf(world, effects);
  const detached = new Set<string>();
  const { hosts, hubs } = openHosts(world, deeds, told, detached);
  const disturbances = isCalm ? [] : drawnDisturbances(world);
  const disturbedMs = disturbances.reduce((sum, { forMs }) => sum + forMs, 0);
  const patienceMs = loadMs + 2 * deadlineMs + disturbedMs + 60_000;
  const clients = openClients({ world, history, told, deeds, hubs, patienceMs });
  const dead = new Set<string>();
  /** Redis lost them while RabbitMQ had not been told of them yet: where both fail, nothing is promised. */
  const excused = new Set<string>();
  const loseState = () => {
    for (const id of [...clients.known(), ...detached]) if (!world.journal.recorded.has(id)) excused.add(id);
    world.loseState();
  };

  async function story(): Promise<void> {
    for (const host of hosts) host.start();
    while (hosts.some(({ isReady }) => !isReady())) await pause(clock, 20);
    const foreigner = openMachine(world, 'foreigner', 99);
    await clients.serveForeignSteps(foreigner);
    const isOpen = async ({ gateway }: Open) => (await gateway.ready()).ready;
    while ((await Promise.all(hubs().map(isOpen))).includes(false)) await pause(clock, 20);
    // Each hub looks for itself, twice a second, whether the state can be gone by.
    await pause(clock, 600);
    world.weather = weather;
    clock.after(weatherMs, () => (world.weather = calm));
    let pending = disturbances.length;
    for (const disturbance of disturbances)
      clock.after(disturbance.atMs, () => {
        disturb(world, hosts, foreigner, loseState, disturbance);
        clock.after(disturbance.forMs + 100, () => pending--);
      });
    await Promise.all(questions.map(clients.live));
    trace?.('world', 'every story is over');
    world.weather = calm;
    const isUp = () => hosts.every(({ isReady }) => isReady()) && foreigner.ports.transport.state() === 'connected';
    while (pending > 0 || world.dying > 0 || !isUp() || scheduler.elapsedMs() < loadMs + deadlineMs) await pause(clock, 100);
    const isBusy = () => [foreigner, ...hosts.map((host) => host.machine())].some((machine) => machine?.isBusy !== false);
    // Twice in a row: what is just on its way from a queue to somebody is in neither.
    for (let quiet = 0, since = scheduler.elapsedMs(); quiet < 2; await pause(clock, 500)) {
      const left = isBusy() ? ['somebody is busy'] : await unrest(world, hubs());
      quiet = left.length === 0 ? quiet + 1 : 0;
      if (scheduler.elapsedMs() < since + restMs) continue;
      told.wrong.push(...left);
      break;
    }
    await readDead(world, dead);
    await clients.readAgain(excused);
    trace?.('world', 'everybody stops');
    await Promise.all(hosts.map((host) => host.stop()));
    foreigner.kill();
  }

  let isOver = false;
  const ended = story().then(
    () => void (isOver = true),
    (error: Error) => {
      told.wrong.push(`the simulation failed: ${error.stack}`);
      isOver = true;
    },
  );
  if (await scheduler.run(() => isOver, patienceMs + 300_000)) await ended;
  else told.wrong.push('the world came to no end: somebody waits for ever');

  const withinMs = deadlineMs + lateMs + weatherMs + disturbedMs + 20_000;
  const lost = new Set(history.seen.flatMap((one) => (one.what === 'accepted' && excused.has(one.id) ? [one.op] : [])));
  const seen = history.seen.filter(({ op }) => !lost.has(op));
  const isLossy = disturbances.some(({ what }) => what === 'state lost' || what === 'state rolled back');
  const sentences = [
    ...broken(seen, effects, { withinMs }),
    ...contradictions(seen, told, excused, isLossy),
    ...vanished(told, effects, dead),
    ...uneven(effects, members),
    ...misjournalled(seen, world.journal.decided),
    ...(isCalm ? [...unquiet(seen, effects), ...unanswered(seen, questions)] : []),
  ];
  return {
    seed: world.seed,
    broken: sentences,
    requests: questions.length,
    disturbances: disturbances.length,
    events: scheduler.events,
    elapsedMs: Math.round(scheduler.elapsedMs()),
    hash: createHash('sha256')
      .update(JSON.stringify([seen, effects, told, scheduler.events, scheduler.elapsedMs(), random.next()]))
      .digest('hex'),
  };
}

/** In calm weather nothing is refused, and nothing happens twice but what follows from a foreign worker that answers twice. */
function unquiet(seen: readonly Seen[], effects: readonly Effect[]): readonly string[] {
  const times = new Map<string, number>();
  for (const { what, token, step } of effects)
    if (what === 'end' && !token.startsWith('middle')) times.set(`${token} at ${step}`, (times.get(`${token} at ${step}`) ?? 0) + 1);
  return [
    ...[...times].flatMap(([what, count]) => (count > 1 ? [`${what} happened ${count} times in calm weather`] : [])),
    ...seen.flatMap((one) =>
      (one.what === 'refused' && !one.why.includes('mismatch')) || (one.what === 'unknown' && one.why !== 'hung up')
        ? [`operation ${one.op} was ${one.what} in calm weather: ${one.why}`]
        : [],
    ),
  ];
}

/** In calm weather everything is answered that nobody holds up: a reply that is lost on the way is not excused by its deadline. */
function unanswered(seen: readonly Seen[], questions: readonly Question[]): readonly string[] {
  const isEasy = ({ flow, acts, deadlineMs: lifeMs, cancelAfterMs }: Question) =>
    flow !== 'quick' &&
    lifeMs === deadlineMs &&
    cancelAfterMs === undefined &&
    Object.values(acts).every((act) => act.does === 'work' && act.afterMs <= 500);
  const easy = new Set(questions.filter(isEasy).map(({ token }) => token));
  const asked = new Map(seen.flatMap((one) => (one.what === 'ask' ? [[one.op, one.token] as const] : [])));
  return seen.flatMap((one) =>
    one.what === 'outcome' && one.kind !== 'reply' && easy.has(asked.get(one.op)!)
      ? [`${asked.get(one.op)} ended with a ${one.kind} in calm weather, and nothing held it up`]
      : [],
  );
}

function deedsOf(world: World, effects: Effect[]): Deeds {
  let marks = 0;
  return {
    effects,
    note(machine, what, step, token, id, attempt, said) {
      if (!machine.isAlive) return;
      world.trace?.(machine.name, `${what} ${step} of ${token}, ${id}, attempt ${attempt}`);
      effects.push({ what, id, token, step, pid: machine.pid, attempt, at: world.clock.now(), ...(said === undefined ? {} : { said }) });
    },
    mark: () => ++marks,
  };
}

function drawnWeather({ scheduler: { random } }: World): Weather {
  const upTo = (most: number) => (random.chance(0.5) ? random.next() * most : 0);
  return {
    slow: upTo(0.1),
    lostBefore: upTo(0.03),
    lostAfter: upTo(0.03),
    stale: upTo(0.01),
    refused: upTo(0.02),
    ackLost: upTo(0.05),
    hintLost: upTo(0.5),
  };
}

function drawnQuestions({ scheduler: { random } }: World): readonly Question[] {
  const count = random.between(10, random.pick([12, 20, 40]));
  const drawnAct = (): Act => {
    const lot = random.next();
    if (lot < 0.5) return { does: 'work', afterMs: random.pick([0, 1, 20, 500]) };
    if (lot < 0.65) return { does: 'work', afterMs: random.between(500, 2_900) };
    if (lot < 0.85) return { does: 'fail', times: random.between(1, 3) };
    return random.chance(0.6) ? { does: 'refuse' } : { does: 'hang' };
  };
  return Array.from({ length: count }, (_, n) => {
    const { name: flow, steps } = random.pick(flows);
    const isQuick = flow === 'quick';
    const oneWay = flow === 'note';
    const by = !isQuick && random.chance(0.2) ? 'foreign' : 'client';
    const isKeyed = !isQuick && by === 'client' && random.chance(0.4);
    const acts: Record<string, Act> = {};
    for (const step of steps)
      for (const name of step === 'part' ? members.map((member) => `part/${member}`) : [step])
        if (random.chance(0.35)) acts[name] = drawnAct();
    return {
      token: `${flow}-${n}`,
      flow,
      acts,
      atMs: random.between(0, loadMs),
      waitMs: isQuick ? random.pick([100, 2_000]) : random.pick([0, 1, 100, 2_000, deadlineMs]),
      deadlineMs: random.pick([2_000, deadlineMs, deadlineMs]),
      askers: isKeyed ? random.between(1, 3) : 1,
      odd: isKeyed && random.chance(0.3),
      by,
      oneWay,
      ...(isKeyed ? { key: `key-${n}` } : {}),
      ...(random.chance(0.15) ? { cancelAfterMs: random.between(0, 3_000) } : {}),
      ...(random.chance(0.05) ? { hangUpAfterMs: random.between(1, 1_000) } : {}),
    };
  });
}

interface Disturbance {
  readonly atMs: number;
  readonly what:
    | 'state lost'
    | 'state rolled back'
    | 'kill'
    | 'stop'
    | 'lose broker'
    | 'lose store'
    | 'cancel consumers'
    | 'broker down'
    | 'broker blocked'
    | 'store down'
    | 'jump';
  readonly forMs: number;
  /** Whom it hits. */
  readonly lot: number;
}

function drawnDisturbances({ scheduler: { random } }: World): readonly Disturbance[] {
  return Array.from({ length: random.between(0, 8) }, () => {
    const what = random.pick([
      'kill',
      'kill',
      'kill',
      'stop',
      'lose broker',
      'lose broker',
      'lose store',
      'cancel consumers',
      'broker down',
      'broker blocked',
      'store down',
      'jump',
      'state lost',
      'state rolled back',
    ] as const);
    return { what, atMs: random.between(0, loadMs + 3_000), forMs: random.pick([10, 300, 2_000, 6_000]), lot: random.next() };
  });
}

function disturb(world: World, hosts: readonly Host[], foreigner: Machine, loseState: () => void, { what, forMs, lot }: Disturbance): void {
  const { away, scheduler, clock, trace } = world;
  trace?.('world', `${what} for ${forMs} ms`);
  const host = hosts[Math.floor(lot * hosts.length)]!;
  const machines = [...hosts.flatMap(({ machine }) => machine() ?? []), foreigner];
  const machine = machines[Math.floor(lot * machines.length)]!;
  switch (what) {
    case 'kill':
      return host.kill(forMs);
    case 'stop':
      return void host.restart(forMs);
    case 'lose broker':
      return machine.loseBroker(forMs);
    case 'lose store':
      return machine.loseStore(forMs);
    case 'cancel consumers':
      return machine.cancelConsumers();
    case 'jump':
      return scheduler.jump(forMs);
    case 'broker blocked':
      away.blocked = true;
      return void clock.after(forMs, () => (away.blocked = false));
    case 'broker down':
      away.broker = true;
      for (const one of machines) one.loseBroker(forMs);
      return void clock.after(forMs, () => (away.broker = false));
    case 'state lost':
      return loseState();
    case 'state rolled back': {
      const restore = world.state.copy();
      return void clock.after(forMs, () => {
        loseState();
        restore();
      });
    }
    case 'store down':
      away.store = true;
      return void clock.after(forMs, () => (away.store = false));
  }
}

/** A computer that has one process running, and starts it again. */
interface Host {
  machine(): Machine | undefined;
  isReady(): boolean;
  start(): void;
  kill(forMs: number): void;
  restart(forMs: number): Promise<void>;
  stop(): Promise<void>;
}

function openHosts(
  world: World,
  deeds: Deeds,
  told: Told,
  detached: Set<string>,
): { readonly hosts: readonly Host[]; readonly hubs: () => readonly Open[] } {
  const { random } = world.scheduler;
  const open = new Map<string, Open>();
  const hubCount = random.between(1, 3);
  const workerCount = random.between(1, 3);
  let pids = 0;

  function hostOf(name: string, isHub: boolean, works: boolean): Host {
    let machine: Machine | undefined;
    let running: { hub: Hub | undefined; workers: Workers | undefined } | undefined;

    async function run(mine: Machine): Promise<void> {
      const project = projectOf(mine, deeds);
      const emit: Emit = (event, fields = {}) => {
        if (event === 'request.detached') detached.add(String(fields['requestId']));
        world.trace?.(name, `${event} ${JSON.stringify(fields)}`);
      };
      const common = { ports: mine.ports, project, namespace: world.names.namespace, emit, place: `${name}/${mine.pid}` };
      try {
        const hub = isHub ? await openHub({ ...common, name, access: access([]) }) : undefined;
        const workers = works ? await openWorkers(common) : undefined;
        running = { hub, workers };
        if (hub !== undefined) open.set(name, { machine: mine, gateway: hub.gateway });
      } catch (error) {
        world.trace?.(name, `does not start: ${String(error)}`);
        mine.kill();
        if (machine === mine) gone();
        world.clock.after(1_000, host.start);
      }
    }

    const gone = () => {
      open.delete(name);
      machine = undefined;
      running = undefined;
    };

    const host: Host = {
      machine: () => machine,
      isReady: () => running !== undefined,
      start() {
        if (machine !== undefined) return;
        machine = openMachine(world, name, ++pids);
        void run(machine);
      },
      kill(forMs) {
        if (machine === undefined) return;
        machine.kill();
        gone();
        world.clock.after(forMs, host.start);
      },
      async restart(forMs) {
        if (running === undefined) return;
        await host.stop();
        world.clock.after(forMs, host.start);
      },
      async stop() {
        const mine = machine;
        if (mine === undefined || running === undefined) return;
        const { hub, workers } = running;
        // A stopping process may be killed.
        const isDead = new Promise<void>((resolve) => mine.onDeath(resolve));
        const cancel = world.clock.after(120_000, () => mine.isAlive && told.wrong.push(`the stop of ${name} hangs`));
        const ended = (async () => {
          hub?.letGo();
          open.delete(name);
          running = undefined;
          await workers?.stop(1_000);
          // What is held gets its 202 meanwhile, as the HTTP adapter waits for it.
          while ((hub?.holding() ?? 0) > 0) await pause(mine.clock, 100);
          await hub?.close();
          await mine.ports.transport.close();
        })();
        await Promise.race([ended, isDead]);
        cancel();
        mine.kill();
        if (machine === mine) gone();
      },
    };
    return host;
  }

  const hosts = [
    ...Array.from({ length: hubCount }, (_, n) => hostOf(`h${n + 1}`, true, random.chance(0.3))),
    ...Array.from({ length: workerCount }, (_, n) => hostOf(`w${n + 1}`, false, true)),
  ];
  return { hosts, hubs: () => [...open.values()].filter(({ machine }) => machine.isAlive) };
}

/** What is there and must not be when nothing is under way any more. */
async function unrest({ wire, names, state }: World, hubs: readonly Open[]): Promise<string[]> {
  const queues = [
    ...stepNames.map(names.workQueue),
    names.volatileQueue('answer'),
    ...retryDelays.map(names.retry),
    ...hubs.map(({ machine }) => names.reply(machine.name)),
    names.late,
    names.continuation,
    names.requests,
  ];
  const left: string[] = [];
  for (const queue of queues) {
    const found = await wire.inspect(queue);
    if (found !== undefined && found.ready > 0) left.push(`${found.ready} messages rest in ${queue}`);
  }
  const store = state.connect();
  if (!(await store.condition()).complete) return [...left, 'the state is not rebuilt'];
  const due = await store.due(100);
  const owed = await store.owed(0, 100);
  if (due.length > 0) left.push(`no outcome in time: ${due.join(', ')}`);
  if (owed.length > 0) left.push(`outcomes that nobody was told: ${owed.join(', ')}`);
  return left;
}

async function readDead({ wire, names, clock }: World, dead: Set<string>): Promise<void> {
  for (const step of [...stepNames, 'unrouted']) {
    const queue = names.deadQueue(step);
    const consumer = await wire.consume(queue, { prefetch: 1_000, tag: 'judge' }, async ({ correlationId }) => {
      if (correlationId !== undefined) dead.add(correlationId);
    });
    while ((await wire.inspect(queue))!.ready > 0) await pause(clock, 1);
    await consumer.close();
  }
}
