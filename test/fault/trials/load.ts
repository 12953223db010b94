/** What most trials are: a load on hubs and workers, something that happens to them, and the checker's word on it. */
import type { Load, Question } from '../clients.js';
import type { Violation } from '../history.js';
import { dice, mixed } from '../mix.js';
import { inScenario, type Process, type Scenario, type ScenarioOptions } from '../processes.js';
import { more, rowOf, type Row, type TrialContext } from '../trial.js';

export interface UnderLoad {
  readonly scenario: Scenario;
  readonly hubs: readonly Process[];
  readonly workers: readonly Process[];
  readonly load: Load;
  readonly random: () => number;
}

export interface UnderLoadOptions extends ScenarioOptions {
  readonly hubs?: number;
  readonly workers?: number;
  readonly clients?: number;
  /** What the clients ask; default: some of everything. */
  readonly ask?: (random: () => number) => (n: number) => Question;
  readonly env?: NodeJS.ProcessEnv;
  /** An operation that takes longer hangs. */
  readonly withinMs?: number;
}

/** What happened, beside what the checker sees. */
export interface Happened {
  readonly kills?: number;
  readonly violations?: readonly Violation[];
}

export async function underLoad(
  name: string,
  context: TrialContext,
  { hubs = 1, workers = 2, clients = 20, ask = mixed, env = {}, withinMs = 70_000, ...options }: UnderLoadOptions,
  happen: (what: UnderLoad) => Promise<Happened | void>,
): Promise<readonly Row[]> {
  const { seed, size, say } = context;
  return inScenario({ ...options, about: { seed, size, trial: name } }, async (scenario) => {
    const started = await Promise.all([
      ...Array.from({ length: hubs }, (_, n) => scenario.hub(`h${n + 1}`, env)),
      ...Array.from({ length: workers }, (_, n) => scenario.worker(`w${n + 1}`, env)),
    ]);
    scenario.front = started.slice(0, hubs);
    await scenario.legacy();
    const load = scenario.clients.load(clients, ask(dice(seed)));
    await more(load.told, 50);
    const { kills = 0, violations = [] } =
      (await happen({ scenario, hubs: started.slice(0, hubs), workers: started.slice(hubs), load, random: dice(seed + 1) })) ?? {};
    await more(load.told, 50, 120_000);
    await load.stop();
    return [rowOf(name, scenario, [...(await scenario.atRest({ withinMs })), ...violations], { kills, say })];
  });
}
