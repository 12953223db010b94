/** What is done to a cluster of three nodes under load, and what the clients may hear of it. */
import { expect } from '@jest/globals';
import { eventually } from '../../support/eventually.js';
import type { Load, Question } from '../clients.js';
import { inScenario, type Scenario } from '../processes.js';
import type { OwnCluster } from './own-cluster.js';

/** How long a hub may take to say that it does not know (5 s for the confirm), and a little for a busy machine. */
export const confirmMs = 6_000;

const mixed = (n: number): Question => ({
  flow: n % 3 === 0 ? 'scatter' : 'plain',
  token: `t${n}`,
  ...(n % 2 === 0 ? {} : { key: `k${n}` }),
});

export interface UnderLoad extends Scenario {
  readonly load: Load;
  /** Resolves when so many more were answered. */
  more(count: number): Promise<void>;
}

/**
 * Two hubs and two workers under load, all of them at the first node first, and so the leaders of all queues; then the promise
 * is checked. Everything is whole before and after.
 */
export async function underLoad(title: string, cluster: OwnCluster, what: (scenario: UnderLoad) => Promise<void>): Promise<void> {
  await cluster.whole();
  await inScenario({ rabbitmq: cluster.nodes.map(({ url }) => url) }, async (scenario) => {
    const [hub, other] = await Promise.all([scenario.hub('h1'), scenario.hub('h2'), scenario.worker(), scenario.worker()]);
    scenario.front = [hub, other];
    const load = scenario.clients.load(20, mixed);
    const more = async (count: number) => {
      const before = load.answered();
      await eventually(() => expect(load.answered()).toBeGreaterThan(before + count), { withinMs: 40_000 });
    };
    await more(100);
    await what(Object.assign(scenario, { load, more }));
    await cluster.whole();
    await more(100);
    const told = await load.stop();
    const violations = scenario.broken({ withinMs: 60_000 });
    const of = (kind: string) => scenario.history.seen.filter((one) => one.what === kind).length;
    process.stderr.write(
      `${title}: ${of('ask')} requests, ${of('outcome')} outcomes, ${of('refused')} refused, ${of('unknown')} unknown, ${violations.length} violations\n`,
    );
    expect(violations).toEqual([]);
    expect(told.filter(({ kind }) => !['reply', 'refused', 'unknown'].includes(kind))).toEqual([]);
    expect(slowestRefusal(scenario)).toBeLessThan(confirmMs);
  });
}

/** New requests, twenty a second, whether or not those before them were answered; `firstAccepted` is of one that came after `since`. */
export function newcomers(scenario: Scenario): { firstAccepted(since: number): Promise<number>; stop(): Promise<void> } {
  const { history, clients } = scenario;
  const asked: Promise<unknown>[] = [];
  const token = `new ${Math.random()} `;
  const timer = setInterval(() => asked.push(clients.ask({ flow: 'plain', token: `${token}${asked.length}`, waitSeconds: 0 })), 50);
  return {
    firstAccepted: (since) =>
      eventually(
        () => {
          const ops = new Set(
            history.seen.flatMap((one) => (one.what === 'ask' && one.at > since && one.token.startsWith(token) ? [one.op] : [])),
          );
          const first = history.seen.find(({ what, op }) => what === 'accepted' && ops.has(op));
          if (first === undefined) throw new Error('nothing was accepted');
          return first.at;
        },
        { withinMs: 60_000 },
      ),
    async stop() {
      clearInterval(timer);
      await Promise.all(asked);
    },
  };
}

/** How long it takes from `what` to the next accepted request that came after it. */
export async function backToAccept(title: string, scenario: Scenario, what: () => Promise<void> | void): Promise<number> {
  const probe = newcomers(scenario);
  const since = Date.now();
  await what();
  const ms = (await probe.firstAccepted(since)) - since;
  await probe.stop();
  process.stderr.write(`${title}: back to next accept after ${ms} ms\n`);
  return ms;
}

/** How long the longest first try took that ended without the hub's promise. A repeat under a key is held, for it may be under way. */
export function slowestRefusal({ history: { seen } }: Scenario): number {
  const firstTries = new Map<string, { readonly op: number; readonly at: number }>();
  for (const one of seen) if (one.what === 'ask' && !firstTries.has(one.token)) firstTries.set(one.token, one);
  const began = new Map([...firstTries.values()].map(({ op, at }) => [op, at]));
  return Math.max(0, ...seen.flatMap(({ what, op, at }) => (what === 'refused' || what === 'unknown' ? [at - (began.get(op) ?? at)] : [])));
}
