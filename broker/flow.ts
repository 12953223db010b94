/**
 * A flow (EIP: Routing Slip): a request type and its list of steps. Data, not code: it comes from `hub.yaml` and is
 * checked before anything starts.
 */
import type { Step } from './step.js';

export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

export interface Flow {
  readonly name: string;
  readonly summary?: string;
  /** Names of the steps, in order. */
  readonly steps: readonly string[];
  /** How long a requestor is held when it does not say, and at most (ms). */
  readonly waitMs: number;
  readonly maxWaitMs: number;
  /** How long a request lives when its requestor does not say, and at most (ms). */
  readonly deadlineMs: number;
  readonly maxDeadlineMs: number;
  /** False: volatile, for idempotent reads only: transient messages, no confirms, no 202. */
  readonly durable: boolean;
  /**
   * False: its messages are not in the journal. They are as durable as any, and cheaper; but `trace` knows nothing of them, and
   * their records cannot be rebuilt when Redis is lost. Default: true.
   */
  readonly journal?: boolean;
  /** True: requests and replies of one turn of the event loop share a message, and its fate. Volatile flows only. */
  readonly batch?: boolean;
  /** True: its requests may be urgent, and then overtake what waits at their steps. */
  readonly urgent?: boolean;
  /** Its requests may arrive in parts. */
  readonly parts?: PartsLimits;
  /** What becomes of a part that comes when its group is complete: it is journalled, or the reply is amended. Default: `journal`. */
  readonly late?: 'journal' | 'amend';
  /** How long after the reply it may be amended (ms). Default and maximum: the deadline of the request. */
  readonly amendForMs?: number;
  /** JSON Schemas (2020-12) of the request's and the reply's body. */
  readonly request?: JsonSchema;
  readonly reply?: JsonSchema;
  /** A body to show in documents and in the ready-to-paste curl. */
  readonly example?: unknown;
  /** What the example is answered with. */
  readonly exampleReply?: unknown;
}

/** What a request may be that arrives in parts. */
export interface PartsLimits {
  /** How long it stays open after its last part (ms). */
  readonly leaseMs: number;
  /** How many parts it may have. */
  readonly count: number;
  /** Bytes of a part, and of all together. */
  readonly size: number;
  readonly total: number;
}

/** Are its messages in the journal? Those of a volatile flow never are. */
export const isJournalled = ({ durable, journal }: Flow): boolean => durable && journal !== false;

/** Something wrong with the flows, and where it is in `hub.yaml`. */
export interface FlowFlaw {
  /** Keys from the top of the document: `['flows', 'loan.quote', 'steps', 1]`. */
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** Lists everything that would stop these flows from running on these steps. */
export function checkFlows(flows: readonly Flow[], steps: ReadonlyMap<string, Step>): FlowFlaw[] {
  return flows.flatMap((flow) => {
    const at = ['flows', flow.name];
    const flaws: FlowFlaw[] = [];
    if (flow.steps.length === 0) flaws.push({ path: at, message: `flow ${flow.name} has no steps: name at least one` });
    flow.steps.forEach((name, index) => {
      const path = [...at, 'steps', index];
      const step = steps.get(name);
      if (step === undefined)
        flaws.push({ path, message: `flow ${flow.name} names an unknown step "${name}"${didYouMean(name, [...steps.keys()])}` });
      else if (flow.journal === false && step.parks === true)
        flaws.push({
          path,
          message: `flow ${flow.name} leaves the journal out (journal: false) and ${step.kind} ${name} may wait for long: what waits is kept in the journal`,
        });
      else if (!flow.durable && step.kind !== 'worker')
        flaws.push({
          path,
          message: `flow ${flow.name} is volatile (durable: false) and step ${name} is ${step.kind === 'aggregator' ? 'an' : 'a'} ${step.kind}: only workers can serve it`,
        });
    });
    if (flow.batch === true && flow.durable)
      flaws.push({
        path: [...at, 'batch'],
        message: `flow ${flow.name} cannot batch: what shares a message shares its fate, which only a volatile flow may; say durable: false, or leave batch out`,
      });
    if (flow.urgent === true && !isJournalled(flow))
      flaws.push({
        path: [...at, 'urgent'],
        message: `flow ${flow.name} cannot be urgent: only what is durable and in the journal has a second queue`,
      });
    if (flow.parts !== undefined && !isJournalled(flow))
      flaws.push({
        path: [...at, 'parts'],
        message: `flow ${flow.name} cannot take requests in parts: only those that are durable and in the journal are kept until all is there`,
      });
    for (const name of flow.urgent === true ? steps.keys() : [])
      if (steps.has(`${name}.urgent`))
        flaws.push({
          path: [...at, 'urgent'],
          message: `flow ${flow.name} is urgent, and step ${name}.urgent has the name of the second queue of ${name}`,
        });
    flaws.push(...lateFlaws(flow, steps).map(({ key, message }) => ({ path: [...at, key], message: `flow ${flow.name} ${message}` })));
    if (flow.waitMs > flow.maxWaitMs) flaws.push({ path: [...at, 'wait'], message: `flow ${flow.name}: wait is longer than maxWait` });
    if (flow.deadlineMs > flow.maxDeadlineMs)
      flaws.push({ path: [...at, 'deadline'], message: `flow ${flow.name}: deadline is longer than maxDeadline` });
    return flaws;
  });
}

/** A corrected result is the reply itself, so nothing may follow the aggregator; and what it is made of must be in the journal. */
function lateFlaws(flow: Flow, steps: ReadonlyMap<string, Step>): { readonly key: string; readonly message: string }[] {
  if (flow.late !== 'amend')
    return flow.amendForMs === undefined
      ? []
      : [{ key: 'amendFor', message: 'says amendFor and not late: amend, without which nothing is amended' }];
  const last = flow.steps.at(-1) ?? '';
  const kind = steps.get(last)?.kind;
  if (!isJournalled(flow))
    return [
      { key: 'late', message: 'says late: amend, and is not in the journal: leave out late: amend, or durable: false and journal: false' },
    ];
  if (kind === undefined || kind === 'aggregator') return [];
  return [
    {
      key: 'late',
      message: `says late: amend, and its last step ${last} is a ${kind}: only the result of an aggregator can be amended, and only where it is the reply. Make the aggregator the last step`,
    },
  ];
}

/** `; did you mean "x"?`, or what there is when nothing is near. */
export function didYouMean(name: string, known: readonly string[]): string {
  const [best] = known.map((candidate) => ({ candidate, far: distance(name, candidate) })).sort((a, b) => a.far - b.far);
  if (best !== undefined && best.far <= Math.max(2, name.length / 3)) return `; did you mean "${best.candidate}"?`;
  if (known.length === 0) return '; none are defined';
  return `; there is ${[...known].sort().slice(0, 20).join(', ')}`;
}

/** Edit distance (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
