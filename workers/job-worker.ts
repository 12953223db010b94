/**
 * Does the jobs of a step in this process: takes them where they are handed out, runs the handler, writes what it came to into the dossier,
 * which rings the step. Looks meanwhile whether the job is still wanted and still this process's.
 */
import type { Clock } from '../broker/clock.js';
import type { Envelope } from '../broker/envelope.js';
import { failpoint } from '../broker/failpoint.js';
import { Fault, faultBody, isFault, messageOf } from '../broker/fault.js';
import { partEvent } from '../broker/parts.js';
import { patience } from '../broker/patience.js';
import type { Served, ServeTools } from '../broker/step.js';
import type { Progress, Report, RequestEvent } from '../broker/store.js';
import { decode, isUndecodable } from '../broker/wire.js';
import { startAttempt, type Attempt, type End } from './job-attempt.js';
import type { Job } from './job.js';
import {
  begin,
  checkpointed,
  failed,
  finished,
  gaveWay,
  givenBack,
  standing,
  type Begun,
  type JobData,
  type JobOutcome,
  type Kept,
} from './job-rules.js';

/** How often a job is looked at that nobody spoke of. */
const beatMs = 2_000;
/** How long a process that stops tries to give back its jobs (ms). */
const giveBackMs = 1_000;

type Next = 'done' | { readonly againInMs: number };

export async function serveJobs(job: Job, tools: ServeTools): Promise<Served> {
  const { store, jobs, dossiers, clock, control, emit, place } = tools;
  const stopping = new AbortController();
  const patiently = patience(tools, stopping.signal);
  const running = new Map<string, Running>();
  let starts = 0;
  let isStopping = false;

  interface Running {
    readonly attempt: Attempt;
    readonly token: number;
  }

  async function work(id: string, lost: AbortSignal): Promise<Next> {
    const parked = await patiently(() => dossiers.get('job', id));
    const envelope = parked === undefined ? undefined : decode(parked.message);
    // What cannot be read, or is not there, nobody can do.
    if (envelope === undefined || isUndecodable(envelope)) return 'done';
    const by = `${place}#${++starts}`;
    const begun = await patiently(() => dossiers.change('job', id, begin(by, envelope.deadline)));
    if (begun === undefined || begun.go === 'nowhere') return 'done';
    if (begun.go === 'later') return { againInMs: begun.inMs };
    return perform(id, envelope, begun, lost);
  }

  async function perform(id: string, parked: Envelope, { data }: Extract<Begun, { go: 'on' }>, lost: AbortSignal): Promise<Next> {
    const { token, attempt: number } = data;
    const envelope = { ...parked, attempt: number };
    const about = { step: job.name, requestId: envelope.requestId, id, attempt: number };
    emit('job.began', { ...about, token, resumes: data.checkpoint !== undefined });
    report(
      envelope,
      { state: 'running', step: job.name, attempt: number, waitingOn: null },
      { name: 'step', data: { step: job.name, attempt: number } },
    );
    const change = (rule: ReturnType<typeof finished>): Promise<Kept> =>
      patiently(async () => (await dossiers.change('job', id, rule)) ?? 'withdrawn');
    const attempt = startAttempt({
      envelope,
      clock,
      perform: job.perform,
      timeoutMs: job.timeoutMs,
      graceMs: job.graceMs,
      state: data.checkpoint?.state,
      async checkpoint(state) {
        const kept = await change(checkpointed(token, state));
        if (kept === 'kept') return;
        attempt.abort(kept);
        throw new Error(kept === 'withdrawn' ? 'the request was cancelled, or is over' : 'another process has taken over');
      },
      report: (progress) => report(envelope, ...told(envelope, progress)),
    });
    const one = { attempt, token };
    running.set(id, one);
    lost.addEventListener('abort', () => void look(id));
    const cancelBeat = beats(clock, () => void look(id));
    if (isStopping) attempt.abort('stopping');
    // It may have been cancelled while it was being begun.
    if (control.isDropped(envelope)) attempt.abort('withdrawn');
    const startedAt = clock.now();
    const end = await attempt.ended;
    cancelBeat();
    if (running.get(id) === one) running.delete(id);
    return conclude(attempt, end, { ...about, tookMs: clock.now() - startedAt }, data, change);
  }

  /** What becomes of a job whose attempt is over. */
  async function conclude(
    attempt: Attempt,
    end: End,
    about: Readonly<Record<string, unknown>>,
    { token, attempt: number }: JobData,
    change: (rule: ReturnType<typeof finished>) => Promise<Kept>,
  ): Promise<Next> {
    const { why, envelope } = attempt;
    const drop = (because: string): Next => (emit('job.dropped', { ...about, why: because }), 'done');
    if (end.how === 'ignored') {
      emit('job.ignores-cancel', { ...about, why });
      attempt.afterAll(({ how }) => emit('job.dropped', { ...about, why: 'late', how }));
    }
    if (why === 'withdrawn' || why === 'superseded') return drop(why);

    const finish = async (outcome: JobOutcome): Promise<Next> => {
      failpoint('job.before-finish');
      const kept = await change(finished(token, outcome));
      failpoint('job.after-finish');
      if (kept !== 'kept') return drop(kept);
      emit('job.done', about);
      return 'done';
    };
    if (end.how === 'returned' && why !== 'timeout') return finish(end.outcome);
    const error = why === 'timeout' ? new Error(`no result within ${job.timeoutMs} ms`) : end.how === 'threw' ? end.error : undefined;
    const isEcho =
      isFault(error) && ((why === 'stopping' && error.code === 'cancelled') || (why === 'interrupted' && error.reason === 'interrupted'));
    if (isFault(error) && !isEcho) return finish({ go: 'fault', fault: faultBody(error, error.step ?? job.name), isDead: false });
    if (why === 'stopping') {
      const kept = await change(givenBack(token));
      if (kept !== 'kept') return drop(kept);
      emit('job.given-back', about);
      return { againInMs: 0 };
    }
    if (why === 'interrupted') {
      failpoint('job.before-way');
      const kept = await change(gaveWay(token));
      if (kept !== 'kept') return drop(kept);
      emit('job.interrupted', about);
      report(
        envelope,
        { state: 'waiting', step: job.name, attempt: number, waitingOn: `job ${job.name}, interrupted by an urgent request` },
        { name: 'step', data: { step: job.name, attempt: number, interrupted: true } },
      );
      return { againInMs: 0 };
    }
    const pauseMs = job.retryMs[number - 1];
    if (pauseMs === undefined)
      return finish({ go: 'fault', fault: faultBody(new Fault('internal', messageOf(error)), job.name), isDead: true });
    failpoint('job.before-again');
    const kept = await change(failed(token, pauseMs));
    if (kept !== 'kept') return drop(kept);
    emit('job.retry', { ...about, error: messageOf(error), delayMs: pauseMs });
    report(
      envelope,
      {
        state: 'waiting',
        step: job.name,
        attempt: number,
        waitingOn: `retry ${number + 1} of ${job.retryMs.length + 1} of ${job.name} in ${pauseMs / 1_000} s`,
      },
      { name: 'step', data: { step: job.name, attempt: number, failed: true, retryInMs: pauseMs } },
    );
    return { againInMs: pauseMs };
  }

  /** Is it still wanted, and still ours? A store that is away says so later. */
  async function look(id: string): Promise<void> {
    const one = running.get(id);
    if (one === undefined) return;
    const dossier = await dossiers.get('job', id).catch(() => undefined);
    if (dossier === undefined) return;
    const kept = standing(dossier, one.token);
    if (kept !== 'kept') one.attempt.abort(kept);
  }

  /** Of a part of a group only how far it is: where the request is, the group says. */
  function report(envelope: Envelope, what: Report, event: Pick<RequestEvent, 'name' | 'data'>): void {
    if (!control.isWatched(envelope)) return;
    const isPart = envelope.groups.length > 0;
    void store
      .report(envelope.requestId, isPart ? (what.progress === undefined ? {} : { progress: what.progress }) : what, event)
      .catch(() => undefined);
  }

  control.listen((what, id) => {
    if (what !== 'drop') return;
    for (const { attempt } of running.values())
      if (attempt.envelope.requestId === id || attempt.envelope.groups.some((group) => group.id === id)) attempt.abort('withdrawn');
  });
  const unwatch = await store.watch((name) => {
    if (name.startsWith('job/')) void look(name.slice('job/'.length));
  });
  const serving = await jobs.serve(
    job.name,
    {
      concurrency: job.concurrency,
      stalledAfterMs: job.stalledAfterMs,
      ...(job.rateLimit === undefined ? {} : { rateLimit: job.rateLimit }),
    },
    work,
  );

  return {
    async stop(withinMs) {
      isStopping = true;
      const closed = serving.close();
      for (const { attempt } of running.values()) attempt.abort('stopping');
      const timers = [
        clock.after(withinMs, () => {
          for (const { attempt } of running.values()) attempt.abandon();
        }),
        // What cannot be written down by then another process finds out.
        clock.after(withinMs + giveBackMs, () => stopping.abort()),
      ];
      await closed;
      for (const cancel of timers) cancel();
      stopping.abort();
      await unwatch();
    },
  };
}

function told(envelope: Envelope, progress: Progress): [Report, Pick<RequestEvent, 'name' | 'data'>] {
  const { part, sequence, ...shown } = progress;
  if (sequence !== undefined) return [{}, partEvent(envelope, { sequence, part })];
  return [{ progress: shown }, { name: 'progress', data: { ...shown } }];
}

/** Calls back every two seconds until it is told to stop. */
function beats(clock: Clock, beat: () => void): () => void {
  let cancel: () => void = () => undefined;
  const next = () => {
    cancel = clock.after(
      beatMs,
      () => {
        beat();
        next();
      },
      'round',
    );
  };
  next();
  return () => cancel();
}
