/**
 * On the real services, in this process: every message comes twice and out of order; reply, duplicate, time-out and cancel race for
 * the same request.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { openControl } from '../../../broker/control.js';
import { openCorrelator } from '../../../broker/correlator.js';
import { systemClock } from '../../../broker/clock.js';
import { newId } from '../../../broker/envelope.js';
import { Fault } from '../../../broker/fault.js';
import type { Journal } from '../../../broker/journal.js';
import { openSettler, outcomeOfFault, type Settler } from '../../../broker/settle.js';
import type { Outcome, Settled, Store } from '../../../broker/store.js';
import { redisStore } from '../../../broker/store-redis.js';
import { namesIn } from '../../../broker/topology.js';
import { memoryBroker } from '../../../broker/transport-memory.js';
import type { Transport } from '../../../broker/transport.js';
import { anonymous } from '../../../broker/access.js';
import { aggregator, split, worker, type Envelope } from '../../../index.js';
import { ownNamespace, realHub, redisUrl } from '../../support/hub.js';
import { eventually } from '../../support/eventually.js';
import { removeKeys } from '../../support/redis.js';
import { judge, openHistory, type Effect, type Violation } from '../history.js';
import { dice } from '../mix.js';
import { rowOf, type Trial } from '../trial.js';

interface Body {
  readonly token: string;
}

const twice: Trial = {
  name: 'every message comes twice and out of order',
  sizes: ['quick', 'normal', 'long'],
  async run({ seed, size, say }) {
    const random = dice(seed);
    const history = openHistory();
    const effects: Effect[] = [];
    const noted = (name: string, work: (body: Body, envelope: Envelope) => unknown = (body) => body) =>
      worker<Body>({
        name,
        handle(body, envelope) {
          const said = work(body, envelope);
          const { requestId: id, attempt } = envelope;
          effects.push({ what: 'end', step: name, token: body.token, id, attempt, pid: process.pid, at: Date.now(), said });
          return said;
        },
      });
    const refuse = worker<Body>({
      name: 'refuse',
      handle() {
        throw new Fault('rejected', `no: ${Math.random()}`);
      },
    });
    const members = ['a', 'b', 'c'];
    const spread = worker<Body>({ name: 'spread', handle: (body) => split(members.map((name) => ({ body, name }))) });
    const gather = aggregator<Body>({
      name: 'gather',
      combine: (answers, manifest) => ({ ...answers[0]!.body, parts: answers.map(({ from }) => from), members, manifest }),
    });
    const answer = noted('answer', (body, { requestId }) => ({ ...body, for: requestId, mark: Math.random() }));
    const hub = await realHub({
      flows: { plain: ['one', 'two', 'answer'], scatter: ['spread', 'part', 'gather', 'answer'], refused: ['one', 'refuse'] },
      steps: [noted('one'), noted('two'), noted('part'), spread, gather, answer, refuse],
    });
    try {
      const other = await hub.another();
      const copies: Promise<void>[] = [];
      for (const { ports } of [hub, other]) publishTwice(ports.transport, random, copies);
      const count = size === 'quick' ? 300 : 2_000;
      let n = 0;
      const client = async () => {
        while (n < count) {
          const number = n++;
          const token = `t${number}`;
          const key = number % 2 === 0 ? undefined : `k${number}`;
          const operation = history.ask(token, key === undefined ? {} : { key });
          const at = number % 3 === 0 ? other : hub;
          const first = await at.ask(
            ['plain', 'scatter', 'refused'][number % 3]!,
            { token },
            {
              ...(key === undefined ? {} : { idempotencyKey: key }),
              ...(number % 4 < 2 ? {} : { waitMs: 0 }),
            },
          );
          operation.accepted(first.id);
          const told = first.kind === 'outcome' ? first : await at.gateway.collect(first.id, anonymous, 30_000);
          if (told?.kind === 'outcome') operation.outcome(told.id, told.outcome.kind, told.outcome.body);
        }
      };
      await Promise.all(Array.from({ length: 30 }, client));
      await Promise.all(copies);
      // Until every copy has been worked off, there may be another outcome.
      const { names } = hub.hub;
      for (const queue of [
        ...['one', 'two', 'part', 'spread', 'gather', 'answer', 'refuse'].map(names.workQueue),
        names.reply('h1'),
        names.reply('h2'),
        names.late,
      ])
        await eventually(
          async () => {
            if (((await hub.ports.transport.inspect(queue))?.ready ?? 0) > 0) throw new Error(`${queue} is not empty`);
          },
          { withinMs: 30_000 },
        );
      for (const one of [...history.seen]) {
        if (one.what !== 'outcome') continue;
        const again = await other.gateway.collect(one.id, anonymous, 0);
        if (again?.kind !== 'outcome') continue; // held without a record: nobody else ever reads it
        const ask = history.seen.find(({ what, op }) => what === 'ask' && op === one.op) as { readonly token: string };
        const operation = history.ask(ask.token);
        operation.accepted(one.id);
        operation.outcome(again.id, again.outcome.kind, again.outcome.body);
      }
      return [rowOf(twice.name, { history }, judge(history.seen, effects, { withinMs: 60_000 }), { say })];
    } finally {
      await hub.close();
    }
  },
};

/** From now on each durable message is published a little later than it should be, and then once more. */
function publishTwice(transport: Transport, random: () => number, copies: Promise<void>[]): void {
  const open = transport as { publish: Transport['publish'] };
  const publish = transport.publish.bind(transport);
  open.publish = async (to, message, options) => {
    if (options?.durable === false) return publish(to, message, options);
    await sleep(random() * 20);
    await publish(to, message, options);
    // A copy that does not come is none.
    copies.push(sleep(random() * 200).then(() => publish(to, message, options).catch(() => undefined)));
  };
}

/** What became of one request that four raced for. */
interface Race {
  readonly id: string;
  readonly settled: readonly (readonly [Outcome, Settled])[];
}

const races: Trial = {
  name: 'reply, duplicate, time-out and cancel race',
  sizes: ['quick', 'normal', 'long'],
  async run({ seed, size, say }) {
    const count = size === 'quick' ? 4_000 : 100_000;
    const random = dice(seed);
    const namespace = ownNamespace();
    const journalled = new Map<string, Outcome[]>();
    const hubs = await Promise.all([racer(namespace, journalled), racer(namespace, journalled)]);
    const store = hubs[0].store;
    const violations: Violation[] = [];
    try {
      // Nothing is in it, and nothing is missing: nobody need rebuild it.
      await store.lease('rebuild', 'race', 5_000);
      await store.restoring('race').complete();
      let n = 0;
      const referee = async () => {
        while (n++ < count) {
          const race = await runRace(hubs, random);
          violations.push(...flawsOf(race, (await store.get(race.id))?.outcome, journalled.get(race.id) ?? []));
          journalled.delete(race.id);
        }
      };
      await Promise.all(Array.from({ length: 64 }, referee));
      // One row of a history: each request is one token.
      const seen = Array.from({ length: count }, (_, op) => ({ what: 'ask', op, at: 0, token: `race ${op}` }) as const);
      return [rowOf(races.name, { history: { ...openHistory(), seen } }, violations, { say })];
    } finally {
      await removeKeys(redisUrl(), namespace);
      await Promise.all(hubs.map(({ store: its }) => its.close()));
    }
  },
};

interface Racer {
  readonly store: Store;
  readonly settler: Settler;
}

/** A hub's way to an outcome, on the real store; its journal is a list. */
async function racer(namespace: string, journalled: Map<string, Outcome[]>): Promise<Racer> {
  const transport = memoryBroker().connect();
  const names = namesIn(namespace);
  await transport.declare({ exchanges: [{ name: names.control, type: 'fanout' }], queues: [], bindings: [] });
  const store = await redisStore({ url: redisUrl(), namespace, retentionMs: 60_000 });
  const correlator = openCorrelator(systemClock);
  const journal = {
    note: async () => undefined,
    outcome: async (id: string, outcome: Outcome) => void journalled.set(id, [...(journalled.get(id) ?? []), outcome]),
    read: async () => [],
  } as unknown as Journal;
  const control = await openControl(transport, names);
  const settler = openSettler({
    store,
    journal,
    correlator,
    control,
    dossiers: undefined,
    forward: { outcome: async () => undefined, amendment: async () => undefined },
    leftOut: new Set(),
    clock: systemClock,
    emit: () => undefined,
    stopping: new AbortController().signal,
  });
  return { store, settler };
}

/** Four outcomes at once, in any order, by either hub. */
async function runRace(hubs: readonly Racer[], random: () => number): Promise<Race> {
  const id = newId();
  const now = Date.now();
  await hubs[0]!.store.create({ id, flow: 'race', state: 'accepted', published: true, acceptedAt: now, deadline: now + 60_000 });
  const reply: Outcome = { kind: 'reply', body: Buffer.from(`${id} ${random()}`), contentType: 'text/plain', at: now };
  const outcomes: Outcome[] = [
    reply,
    reply,
    outcomeOfFault('timeout', new Fault('timeout', 'no answer before the deadline'), now),
    outcomeOfFault('cancelled', new Fault('cancelled', 'by a requestor'), now),
  ];
  for (let left = outcomes.length; left > 1; left--) {
    const other = Math.floor(random() * left);
    [outcomes[left - 1], outcomes[other]] = [outcomes[other]!, outcomes[left - 1]!];
  }
  const settled = await Promise.all(
    outcomes.map(async (outcome) => {
      const { settler } = hubs[random() < 0.5 ? 0 : 1]!;
      if (random() < 0.5) await new Promise((resolve) => setImmediate(resolve));
      return [outcome, await settler.settle(id, outcome, false)] as const;
    }),
  );
  return { id, settled };
}

function flawsOf({ id, settled }: Race, kept: Outcome | undefined, journalled: readonly Outcome[]): readonly Violation[] {
  const of = (wanted: Settled) => settled.filter(([, how]) => how === wanted).map(([outcome]) => outcome);
  const won = of('won');
  const [winner] = won;
  const isWinner = (outcome: Outcome | undefined) =>
    outcome !== undefined && outcome.kind === winner?.kind && outcome.body.equals(winner.body);
  const says = (breach: Violation['breach'], sentence: string): readonly Violation[] => [{ breach, sentence: `race ${id} ${sentence}` }];
  return [
    ...(won.length === 1 ? [] : says(won.length === 0 ? 'lost' : 'doubled', `has ${won.length} winners`)),
    ...(isWinner(kept) ? [] : says('lost', `was won by ${winner?.kind}, and the store says ${kept?.kind}`)),
    ...(of('same').every(isWinner) ? [] : says('doubled', 'told a loser that it had won before')),
    ...(of('late').some(isWinner) ? says('lost', 'told the winner that it is late') : []),
    ...(journalled.length >= 1 && journalled.every(isWinner)
      ? []
      : says('doubled', `has ${journalled.map(({ kind }) => kind).join(' and ')} in the journal`)),
  ];
}

export const messages: readonly Trial[] = [twice, races];
