/**
 * Comparing with the limit: in each round, each load is run on the limit, on each of ours, and on the limit again; a ratio is
 * that of one run to the mean of the two limit runs around it. The machine's moods are the same for both, then.
 */
import type { Bench, Row } from './case.js';
import type { LoadResult, LoadSettings } from './load.js';
import { cpuMicros, type Process } from './processes.js';
import { mean, median, spread } from './statistics.js';

/** What is measured: the process that asks, and all whose processor time is of interest, by what they are. */
export interface Subject {
  readonly name: string;
  readonly requestor: Process;
  readonly to?: string;
  readonly processes: Readonly<Record<string, number | null>>;
}

export type Load = Pick<LoadSettings, 'outstanding' | 'bytes' | 'atLeast'>;

/** One run: what came of the load, and µs of processor time per request of each process. */
export interface Run extends LoadResult {
  readonly cpu: Readonly<Record<string, number | null>>;
}

export async function runOnce(bench: Bench, { requestor, to, processes }: Subject, load: Load): Promise<Run> {
  const { warmUpMs, measureMs } = bench;
  const before = cpuOf(processes);
  const result = await requestor.load({ ...load, warmUpMs, measureMs, ...(to === undefined ? {} : { to }) });
  const after = cpuOf(processes);
  const cpu = Object.fromEntries(
    Object.keys(processes).map((name) => {
      const [from, to] = [before[name], after[name]];
      return [name, from == null || to == null ? null : (to - from) / result.all];
    }),
  );
  return { ...result, cpu };
}

const cpuOf = (processes: Subject['processes']): Readonly<Record<string, number | null>> =>
  Object.fromEntries(Object.entries(processes).map(([name, pid]) => [name, cpuMicros(pid)]));

interface Series {
  readonly runs: Run[];
  readonly ratios: number[];
}

/** Rows for each load: the limit, then each of `ours` with its ratio. `label` says what of the load is in the names. */
export async function compare(
  bench: Bench,
  { name, limit, ours, loads }: { name: string; limit: Subject; ours: readonly Subject[]; loads: readonly Load[] },
  label: (load: Load) => string,
): Promise<readonly Row[]> {
  const series = new Map<string, Series>();
  const into = (key: string): Series => {
    const found = series.get(key) ?? { runs: [], ratios: [] };
    series.set(key, found);
    return found;
  };
  const rowName = (subject: Subject, load: Load) => `${name}: ${subject.name}, ${label(load)}`;

  // A process that has just started is compiling itself, and ours has more to compile.
  const warming = { ...bench, measureMs: bench.quick ? 500 : 2_000 };
  for (const subject of [limit, ...ours])
    await runOnce(warming, subject, { outstanding: 64, bytes: 256, atLeast: bench.quick ? 1_000 : 3_000 });
  for (let round = 1; round <= bench.rounds && !(round > 1 && bench.isLate()); round++) {
    for (const load of loads) {
      const first = await runOnce(bench, limit, load);
      const runs: [Subject, Run][] = [];
      for (const subject of ours) runs.push([subject, await runOnce(bench, subject, load)]);
      const last = await runOnce(bench, limit, load);
      const limitPerSecond = mean([first.perSecond, last.perSecond]);
      into(rowName(limit, load)).runs.push(first, last);
      for (const [subject, run] of runs) {
        const { runs: all, ratios } = into(rowName(subject, load));
        all.push(run);
        ratios.push(run.perSecond / limitPerSecond);
      }
      const said = runs.map(([{ name }, run]) => `${name} ${(run.perSecond / limitPerSecond).toFixed(2)} (${micros(run)})`);
      bench.log(`${name}, ${label(load)}, round ${round}: limit ${Math.round(limitPerSecond)}/s (${micros(last)}); ${said.join(', ')}`);
    }
  }
  return [...series].map(([key, { runs, ratios }]) => rowOf(key, runs, ratios));
}

/** For the one who waits: `180+120+310 µs`, in the order of the subject's processes. */
const micros = ({ cpu }: Run): string =>
  `${Object.values(cpu)
    .map((value) => (value === null ? '?' : Math.round(value)))
    .join('+')} µs`;

function rowOf(name: string, runs: readonly Run[], ratios: readonly number[]): Row {
  const perSecond = spread(runs.map((run) => run.perSecond));
  const ratio = ratios.length === 0 ? undefined : spread(ratios);
  return {
    name,
    value: perSecond.best,
    unit: 'req/s',
    ...(ratio === undefined ? {} : { ratio: ratio.best, medianRatio: ratio.median }),
    more: {
      'median req/s': perSecond.median,
      'p50 ms': median(runs.map(({ p50Ms }) => p50Ms)),
      'p99 ms': median(runs.map(({ p99Ms }) => p99Ms)),
      ...medianCpu(runs),
    },
  };
}

function medianCpu(runs: readonly Run[]): Record<string, number | null> {
  return Object.fromEntries(
    Object.keys(runs[0]?.cpu ?? {}).map((process) => {
      const known = runs.map(({ cpu }) => cpu[process]).filter((value) => value != null);
      return [`${process} µs`, known.length === 0 ? null : median(known)];
    }),
  );
}
