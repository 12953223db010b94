/** One attempt of a job in this process: its handler, its signal and why that aborted, what it says meanwhile. */
import type { Clock } from '../broker/clock.js';
import type { Envelope } from '../broker/envelope.js';
import { Fault } from '../broker/fault.js';
import type { Progress } from '../broker/store.js';
import type { JobContext } from './job.js';
import type { JobOutcome } from './job-rules.js';

/** Runs a handler, here or in a thread. `terminate` aborts when there is no more patience with it. */
export type Perform = (envelope: Envelope, context: PerformContext, terminate: AbortSignal) => Promise<JobOutcome>;

export interface PerformContext extends Omit<JobContext, 'progress'> {
  progress(progress: Progress): void;
}

/**
 * Why an attempt was told to end: nobody wants it any more, somebody else has begun it since, it takes too long, this process stops, an
 * urgent one goes first.
 */
export type Why = 'withdrawn' | 'superseded' | 'timeout' | 'stopping' | 'interrupted';

export type End =
  | { readonly how: 'returned'; readonly outcome: JobOutcome }
  | { readonly how: 'threw'; readonly error: unknown }
  /** Its signal aborted, and it went on. */
  | { readonly how: 'ignored' };

export interface Attempt {
  readonly envelope: Envelope;
  /** The first reason counts. */
  abort(why: Why): void;
  /** Waits no longer for a handler whose signal has aborted. */
  abandon(): void;
  readonly why: Why | undefined;
  /** Resolves when the handler has ended, or has had its time to after `abort`. Afterwards nothing is told any more. */
  readonly ended: Promise<End>;
  /** Calls back if the handler ends after all. */
  afterAll(listener: (end: End) => void): void;
}

export interface AttemptOptions {
  readonly envelope: Envelope;
  readonly perform: Perform;
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly graceMs: number;
  readonly state: unknown;
  readonly checkpoint: (state: unknown) => Promise<void>;
  readonly report: (progress: Progress) => void;
}

export function startAttempt({ envelope, perform, clock, timeoutMs, graceMs, state, checkpoint, report }: AttemptOptions): Attempt {
  const controller = new AbortController();
  const terminate = new AbortController();
  const { signal } = controller;
  const told = paced(clock, report);
  let why: Why | undefined;
  let abandon: () => void = () => undefined;
  let cancelGrace: () => void = () => undefined;

  const reasons: Readonly<Record<Why, () => Error>> = {
    withdrawn: () => new Fault('cancelled', 'the request was cancelled, or is over'),
    superseded: () => new Error('another process has taken over'),
    timeout: () => new Error(`no result within ${timeoutMs} ms`),
    stopping: () => new Error('the process stops'),
    interrupted: () => new Fault('unavailable', 'interrupted by an urgent request', { reason: 'interrupted' }),
  };

  function abort(because: Why): void {
    if (why !== undefined) return;
    why = because;
    controller.abort(reasons[because]());
    // A process that stops has a patience of its own.
    if (because !== 'stopping') cancelGrace = clock.after(graceMs, () => abandon());
  }

  const leftMs = envelope.deadline - clock.now();
  const cancelTimer = clock.after(Math.min(timeoutMs, leftMs), () => abort(timeoutMs < leftMs ? 'timeout' : 'withdrawn'));
  const context: PerformContext = {
    signal,
    state,
    remainingMs: () => Math.max(0, envelope.deadline - clock.now()),
    progress: (progress) => void (signal.aborted || told.tell(progress)),
    async checkpoint(next) {
      signal.throwIfAborted();
      await checkpoint(next);
    },
    async heartbeat() {
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
    },
  };
  const handled: Promise<End> = (async () => perform(envelope, context, terminate.signal))().then(
    (outcome): End => ({ how: 'returned', outcome }),
    (error: unknown): End => ({ how: 'threw', error }),
  );
  const abandoned = new Promise<End>((resolve) => {
    abandon = () => {
      terminate.abort();
      resolve({ how: 'ignored' });
    };
  });
  return {
    envelope,
    abort,
    abandon: () => abandon(),
    get why() {
      return why;
    },
    ended: Promise.race([handled, abandoned]).finally(() => {
      cancelTimer();
      cancelGrace();
      told.end();
    }),
    afterAll: (listener) => void handled.then(listener),
  };
}

/** So often watchers hear of progress at most (ms). */
const progressEveryMs = 250;

/** Parts go through at once; of everything else the latest, at its time. `end` tells what is still to be told. */
function paced(clock: Clock, report: (progress: Progress) => void): { tell(progress: Progress): void; end(): void } {
  const began = { at: clock.now(), share: undefined as number | undefined };
  let saidAt = -Infinity;
  let next: Progress | undefined;
  let cancel: (() => void) | undefined;
  let isOver = false;

  /** With what can be computed. */
  function complete(progress: Progress): Progress {
    const { done, total } = progress;
    const share = done !== undefined && total !== undefined && total > 0 ? done / total : (progress.percent ?? NaN) / 100;
    if (!Number.isFinite(share)) return progress;
    // The pace is that of this attempt: what another one did took another time.
    if (began.share === undefined) [began.share, began.at] = [share, clock.now()];
    const gained = share - began.share;
    const leftMs = gained > 0 ? Math.round(((1 - share) * (clock.now() - began.at)) / gained) : undefined;
    return { percent: Math.round(share * 1_000) / 10, ...progress, ...(leftMs === undefined ? {} : { leftMs }) };
  }

  function say(): void {
    cancel?.();
    cancel = undefined;
    if (next === undefined) return;
    saidAt = clock.now();
    const progress = next;
    next = undefined;
    report(progress);
  }

  return {
    tell(progress) {
      if (isOver) return;
      if (progress.sequence !== undefined) return report(progress);
      next = complete(progress);
      cancel ??= clock.after(Math.max(0, saidAt + progressEveryMs - clock.now()), say);
    },
    end() {
      isOver = true;
      say();
    },
  };
}
