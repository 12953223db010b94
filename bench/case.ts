/**
 * What a benchmark is: a file that exports `name`, `bars` and `run`, and a line in `cases.ts`. What it returns are rows; the
 * entry (`run.ts`) puts the bars to them, prints them and writes them down.
 */
import type { Process } from './processes.js';

/** One line of the results. */
export interface Row {
  /** `<case>: <what>`, the same in every run. */
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** Of the hand-written limit of the same round; the best round. Absent where there is no limit to compare with. */
  readonly ratio?: number;
  /** The same, the median of the rounds. */
  readonly medianRatio?: number;
  /** Further columns, for the tables only. */
  readonly more?: Readonly<Record<string, number | string | null>>;
}

/** What a case may use. */
export interface Bench {
  readonly rabbitmq: string;
  readonly redis: string;
  /** First word of every name in RabbitMQ and Redis; what bears it is removed at the end. */
  readonly namespace: string;
  /** True: fewer rounds and sizes, so that all cases together take less than a minute. */
  readonly quick: boolean;
  /** How many rounds, and how long each run of a round is warmed up and measured. */
  readonly rounds: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** One line to the person who waits. */
  log(line: string): void;
  /** True when no further round should begin: a quick run has taken most of its minute. */
  isLate(): boolean;
  /** Starts a process that is ended with the case at the latest. */
  start(end: string, settings?: Readonly<Record<string, unknown>>): Promise<Process>;
  /** Process ids of the services on this machine; null when they are elsewhere or not to be seen. */
  readonly brokerPid: number | null;
  readonly redisPid: number | null;
}

export interface Case {
  readonly name: string;
  /** What is compared with what, exactly: Markdown, above the table. */
  readonly about: string;
  /** By name of the row: the least ratio, or, where the row has none, the largest value. */
  readonly bars: Readonly<Record<string, number>>;
  run(bench: Bench): Promise<readonly Row[]>;
}
