/**
 * A step whose work takes minutes or hours. What comes to it is kept as a dossier and put where jobs are handed out (`broker/jobs.ts`); then
 * the delivery is acknowledged. Some process does it (`job-worker.ts`), writes what it came to into the dossier, and rings: the result
 * leaves by the runner, as from any other step. The dossier is the truth; a job that is missing where they are handed out is put there again.
 */
import { availableParallelism } from 'node:os';
import { deriveId, type Envelope } from '../broker/envelope.js';
import { failpoint } from '../broker/failpoint.js';
import {
  bodyOf,
  checkStepName,
  pauseMs,
  verdictOn,
  type Pause,
  type ServeTools,
  type Step,
  type StepContext,
  type StepTools,
  type Verdict,
} from '../broker/step.js';
import type { Dossier, Progress } from '../broker/store.js';
import {
  gone,
  interruptibleOf,
  lookEveryMs,
  lookMs,
  newJob,
  outcomeOf,
  overtakes,
  toldToGiveWay,
  verdictFor,
  type JobData,
  type Rank,
} from './job-rules.js';
import type { Perform } from './job-attempt.js';
import { openThreads } from './job-threads.js';
import { serveJobs } from './job-worker.js';

/** How far a job is. `done` of `total` gives the percent, and both give what is left of the time. */
export type JobProgress = Pick<Progress, 'percent' | 'message' | 'done' | 'total'>;

export interface JobContext<State = unknown> extends Pick<StepContext, 'remainingMs'> {
  /**
   * Aborts when the request is cancelled or over, on time-out, when another process has taken over, when this one stops, and when an urgent
   * request interrupts it (then its reason is a Fault with reason `interrupted`). Pass it on.
   */
  readonly signal: AbortSignal;
  /** Tells watchers how far the work is: within a second, at most 4 times a second. Cheap, never throws. */
  progress(progress: JobProgress): void;
  /** Resolves once `state` (JSON) is kept: whoever goes on with this job is given it. Rejects when this job is not this process's any more. */
  checkpoint(state: State): Promise<void>;
  /** What the last checkpoint said, in whichever process and attempt; undefined at first. */
  readonly state: State | undefined;
  /** Call it now and then in a long loop: it lets everything else have its turn (signs of life, the signal), and throws once `signal` has aborted. */
  heartbeat(): Promise<void>;
}

export type JobHandle<Body = never, State = never> = (body: Body, envelope: Envelope, context: JobContext<State>) => unknown;

export interface JobOptions<Body, State> {
  readonly name: string;
  /** Returns and throws what a `worker()`'s does. May run twice, and in two processes at once; only the latest start counts. */
  readonly handle: JobHandle<Body, State>;
  readonly summary?: string;
  /** Runs in a thread of its own, since it computes: the job must be an export of a file in `workers/`. */
  readonly cpu?: boolean;
  /** How many of them one process does at once. Default 10; with `cpu`, as many as there are processors. */
  readonly concurrency?: number;
  /** How many all processes together begin. Default: any number. */
  readonly rateLimit?: { readonly max: number; readonly per: Pause };
  /** How long one attempt may take. Default: as long as the request lives. */
  readonly timeout?: Pause;
  /** Pauses before each further attempt; their number + 1 is the number of attempts. Default 10 s, 1 min, 5 min. */
  readonly retry?: readonly Pause[];
  /** A process that gives no sign of life for this long has lost its jobs to another one. Default 30 s. */
  readonly stalledAfter?: Pause;
  /** How long a handler may take to end once its signal has aborted; then it is reported, and its thread ended. Default 5 s. */
  readonly grace?: Pause;
  /**
   * True: an urgent request that finds nobody free interrupts the job that loses least by it, which goes on afterwards from its checkpoint; the
   * attempt does not count. One that has written no checkpoint since it was interrupted is not interrupted again. Not with `rateLimit`.
   */
  readonly interruptible?: boolean;
}

/** What serves a job, once its options are read. */
export interface Job {
  readonly name: string;
  readonly perform: Perform;
  readonly concurrency: number;
  readonly rateLimit?: { readonly max: number; readonly perMs: number };
  readonly timeoutMs: number;
  readonly retryMs: readonly number[];
  readonly stalledAfterMs: number;
  readonly graceMs: number;
}

/** After its grace one that was interrupted has ended, and was given back this much later (ms), or its process is dead. */
const giveWayMs = 2_000;

export interface JobStep extends Step {
  readonly handle: JobHandle;
}

export function job<Body, State = unknown>(options: JobOptions<Body, State>): JobStep {
  return located(options, undefined);
}

/** The step, with where a thread finds it. */
function located(options: JobOptions<never, never>, where: { readonly file: string; readonly name: string } | undefined): JobStep {
  const { handle, cpu = false, interruptible = false, rateLimit } = options;
  const name = checkStepName(options.name);
  if (interruptible && rateLimit !== undefined)
    throw new Error(
      `job ${name} is interruptible and has a rateLimit: an urgent request that waits for the rate gains nothing by interrupting. Leave out one of them`,
    );
  const concurrency = options.concurrency ?? (cpu ? availableParallelism() : 10);
  const inThread = cpu && where !== undefined ? openThreads(where, concurrency) : undefined;
  const spec: Job = {
    name,
    perform:
      inThread?.perform ??
      (async (envelope, context) =>
        outcomeOf(await verdictOn(await handle(bodyOf(envelope), envelope, context as never), context.progress))),
    concurrency,
    ...(rateLimit === undefined ? {} : { rateLimit: { max: rateLimit.max, perMs: pauseMs(rateLimit.per) } }),
    timeoutMs: options.timeout === undefined ? Infinity : pauseMs(options.timeout),
    retryMs: (options.retry ?? ['10s', '1m', '5m']).map(pauseMs),
    stalledAfterMs: pauseMs(options.stalledAfter ?? '30s'),
    graceMs: pauseMs(options.grace ?? '5s'),
  };

  const isUrgent = ({ urgent }: Envelope): boolean => urgent === true;
  const rankOf = (envelope: Envelope): Rank | undefined => (interruptible ? (isUrgent(envelope) ? 'urgent' : 'interruptible') : undefined);

  async function begun(envelope: Envelope, { clock, dossiers, jobs, report }: StepTools): Promise<Verdict> {
    const data = newJob(rankOf(envelope));
    await dossiers.park('job', envelope, { data, wakeAt: clock.now() + lookMs(data) });
    failpoint('job.before-add');
    await jobs.add(name, envelope.id, { isUrgent: isUrgent(envelope) });
    if (envelope.groups.length === 0) await report(envelope.requestId, { state: 'waiting', step: name, waitingOn: `job ${name}` });
    return { go: 'nowhere' };
  }

  async function rung(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    const { clock, dossiers, jobs, store } = tools;
    const dossier = await dossiers.rung(envelope);
    if (dossier?.isOpen !== true) return { go: 'nowhere' };
    const verdict = verdictFor(
      dossier,
      (index) => deriveId(dossier.id, name, index),
      () => dossiers.close(dossier, gone),
    );
    if (verdict !== undefined) return verdict;
    // It may be gone from where jobs are handed out.
    const { notBefore = 0, rank, state } = dossier.data as JobData;
    const inMs = Math.max(0, notBefore - clock.now());
    await jobs.add(name, dossier.id, { inMs, isUrgent: isUrgent(dossiers.envelopeOf(dossier)) });
    const waitsForWay = rank === 'urgent' && state === 'waiting' && inMs === 0;
    if (waitsForWay && (await madeWay(dossier, tools))) return { go: 'nowhere' };
    await store.called(dossier, waitsForWay ? spec.graceMs + giveWayMs : lookEveryMs);
    return { go: 'nowhere' };
  }

  /**
   * Nobody was free to begin an urgent one: of those that may be interrupted, the one that loses least is told to give way. Its own dossier
   * says so first, so that it does not interrupt a second one when it is rung twice. False: there is none.
   */
  async function madeWay(urgent: Dossier, { dossiers, store }: StepTools): Promise<boolean> {
    const { found } = await store.dossiers(interruptibleOf(name), { limit: 10, highestFirst: true });
    if (found.length === 0) return false;
    if ((await dossiers.change('job', urgent.id, overtakes(spec.graceMs + giveWayMs))) !== true) return true;
    failpoint('job.before-interrupt');
    for (const { id } of found) if ((await dossiers.change('job', id, toldToGiveWay(urgent.id))) === true) break;
    return true;
  }

  async function serve(tools: ServeTools) {
    if (cpu && where === undefined)
      throw new Error(`job ${name} has cpu: true and is no export of a file in workers/: a thread could not load it`);
    const served = await serveJobs(spec, tools);
    return { stop: async (withinMs: number) => void (await served.stop(withinMs), await inThread?.close()) };
  }

  return {
    kind: 'job',
    name,
    summary: options.summary ?? `Requests that come to or leave job ${name}`,
    timeoutMs: 30_000,
    retry: ['1s', '5s', '30s'],
    concurrency: 50,
    parks: true,
    handle,
    run: (envelope, tools) => (envelope.type === 'event' ? rung(envelope, tools) : begun(envelope, tools)),
    serve,
    ...(cpu ? { exported: (file, exportName) => located(options, { file, name: exportName }) } : {}),
  };
}
