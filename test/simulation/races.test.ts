/**
 * Reply, another reply, time-out and cancellation of one request at the same moment, at two hubs: 100,000 times. Whoever is first,
 * there is one outcome, everybody who waits or reads gets that one, and the journal has no other.
 */
import { describe, expect, it } from '@jest/globals';
import { testClock } from '../../broker/clock.js';
import { openControl } from '../../broker/control.js';
import { openCorrelator, type Correlator } from '../../broker/correlator.js';
import { Fault } from '../../broker/fault.js';
import type { Journal } from '../../broker/journal.js';
import { openSettler, outcomeOfFault, type Settler } from '../../broker/settle.js';
import { memoryState } from '../../broker/store-memory.js';
import type { Outcome, Settled, Store } from '../../broker/store.js';
import { namesIn } from '../../broker/topology.js';
import { memoryBroker } from '../../broker/transport-memory.js';
import { textOf } from './judge.js';
import { seeded } from './scheduler.js';

const races = 100_000;
const clock = testClock();
const random = seeded(1);

/** Each call takes a drawn number of turns, before and after it has its effect. */
async function turns(): Promise<void> {
  for (let count = random.between(0, 3); count > 0; count--) await Promise.resolve();
}

function slowed<Port extends object>(port: Port): Port {
  return Object.fromEntries(
    Object.entries(port as Record<string, (...args: unknown[]) => unknown>).map(([name, method]) => [
      name,
      typeof method === 'function'
        ? async (...args: unknown[]) => {
            await turns();
            const result = await method(...args);
            await turns();
            return result;
          }
        : method,
    ]),
  ) as Port;
}

/** What the journal was told, by request. */
const decided = new Map<string, Set<string>>();
const journal = slowed<Journal>({
  note: async () => undefined,
  outcome: async (id, { kind, body }) => void decided.set(id, (decided.get(id) ?? new Set()).add(textOf(kind, body))),
  amended: async () => undefined,
  read: async () => [],
  replay: async () => undefined,
});

interface Side {
  readonly settler: Settler;
  readonly correlator: Correlator;
}

async function openSides(): Promise<{ readonly store: Store; readonly sides: readonly [Side, Side] }> {
  const names = namesIn('race');
  const broker = memoryBroker({ clock });
  const inner = memoryState({ clock }).connect();
  await inner.lease('rebuild', 'races', 1_000);
  await inner.restoring('races').complete();
  const store = slowed(inner);
  const side = async (): Promise<Side> => {
    const transport = broker.connect();
    await transport.declare({ exchanges: [{ name: names.control, type: 'fanout' }], queues: [], bindings: [] });
    const control = { ...(await openControl(transport, names)), drop: async () => undefined };
    const correlator = openCorrelator(clock);
    const stopping = new AbortController().signal;
    const settler = openSettler({
      store,
      journal,
      correlator,
      control,
      dossiers: undefined,
      forward: { outcome: async () => undefined, amendment: async () => undefined },
      leftOut: new Set(),
      clock,
      emit: () => undefined,
      stopping,
    });
    return { settler, correlator };
  };
  return { store, sides: [await side(), await side()] };
}

const reply = (text: string): Outcome => ({ kind: 'reply', body: Buffer.from(text), contentType: 'text/plain', at: 0 });

/** The four, some of them at either hub, in any order. */
function contenders(): readonly (readonly [Outcome, boolean])[] {
  const timeout = outcomeOfFault('timeout', new Fault('timeout', 'too late'), 0);
  const cancel = outcomeOfFault('cancelled', new Fault('cancelled', 'no more'), 0);
  const all: (readonly [Outcome, boolean])[] = [
    [reply('first'), random.chance(0.5)],
    [reply(random.chance(0.5) ? 'first' : 'second'), random.chance(0.5)],
    [timeout, false],
    [cancel, false],
  ];
  return all
    .map((one) => [random.next(), one] as const)
    .sort(([a], [b]) => a - b)
    .map(([, one]) => one);
}

/** What went wrong, if anything did. */
async function race(id: string, isAlone: boolean, store: Store, sides: readonly [Side, Side]): Promise<string | undefined> {
  const [holder] = sides;
  if (!isAlone)
    await store.create({ id, flow: 'race', state: 'accepted', acceptedAt: clock.now(), deadline: clock.now() + 1_000, published: true });
  const wait = holder.correlator.expect(id, isAlone);
  const results = await Promise.all(
    contenders().map(async ([outcome, journalled]): Promise<[Settled, string]> => {
      await turns();
      // Without a record only the hub that holds the line can know.
      const { settler } = isAlone ? holder : random.pick(sides);
      return [await settler.settle(id, outcome, journalled), textOf(outcome.kind, outcome.body)];
    }),
  );
  wait.close();
  const won = results.filter(([settled]) => settled === 'won').map(([, text]) => text);
  const told = new Set(results.filter(([settled]) => settled === 'won' || settled === 'same').map(([, text]) => text));
  const caught = wait.caught && textOf(wait.caught.kind, wait.caught.body);
  const record = isAlone ? undefined : await store.get(id);
  const kept = isAlone ? caught : record?.shown === true ? record.outcome && textOf(record.outcome.kind, record.outcome.body) : undefined;
  const isRight =
    won.length === 1 &&
    told.size === 1 &&
    // Settled by the other hub it comes as a hint to look at the record.
    (caught === won[0] || (!isAlone && caught === undefined)) &&
    kept === won[0] &&
    [...(decided.get(id) ?? [])].every((one) => one === won[0]);
  return isRight ? undefined : JSON.stringify({ id, isAlone, results, caught, kept, decided: [...(decided.get(id) ?? [])] });
}

describe('reply, duplicate, time-out and cancellation at once', () => {
  it('make one outcome, 100,000 times', async () => {
    const wrong: string[] = [];
    const winners = new Map<string, number>();
    for (let done = 0, batch = 0; done < races; batch++) {
      // A store of its own for some at a time: they are kept for a day.
      const { store, sides } = await openSides();
      const ids = Array.from({ length: 1_000 }, (_, n) => `race-${batch}-${n}`);
      for (const found of await Promise.all(ids.map((id, n) => race(id, n % 2 === 0, store, sides))))
        if (found !== undefined) wrong.push(found);
      for (const id of ids)
        for (const text of decided.get(id) ?? []) winners.set(text.split(' ')[0]!, (winners.get(text.split(' ')[0]!) ?? 0) + 1);
      decided.clear();
      done += ids.length;
    }
    expect(wrong.slice(0, 5)).toEqual([]);
    // Each of them wins now and then.
    expect([...winners.keys()].sort()).toEqual(['cancelled', 'reply', 'timeout']);
  }, 600_000);
});
