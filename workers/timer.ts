/** A step that waits (EIP: Delayer): until a date, for hours or for months. Nothing is held meanwhile; a cancelled request ends it. */
import { onwardsFrom } from '../broker/dossiers.js';
import type { Envelope } from '../broker/envelope.js';
import { Fault } from '../broker/fault.js';
import { bodyOf, checkStepName, pauseMs, type Pause, type Step, type StepTools, type Verdict } from '../broker/step.js';

export interface TimerOptions<Body> {
  readonly name: string;
  /** How long to wait, or until when; or what says so of each body. A date that has passed is no wait. */
  readonly wait: Pause | ((body: Body, envelope: Envelope) => Pause | Date);
  readonly summary?: string;
}

export function timer<Body>(options: TimerOptions<Body>): Step {
  const { wait } = options;
  if (typeof wait === 'string') pauseMs(wait);

  async function run(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    return envelope.type === 'event' ? rung(envelope, tools) : begun(envelope, tools);
  }

  async function begun(envelope: Envelope, { clock, dossiers, report }: StepTools): Promise<Verdict> {
    const until = typeof wait === 'function' ? wait(bodyOf(envelope), envelope) : wait;
    const at = until instanceof Date ? until.getTime() : clock.now() + pauseMs(until);
    if (!Number.isFinite(at)) throw new Error(`step ${options.name}: wait() returned a date that is none`);
    const when = new Date(at).toISOString();
    if (at >= envelope.deadline)
      throw new Fault(
        'invalid',
        `${options.name} waits until ${when}, and the request ends at ${new Date(envelope.deadline).toISOString()}: give the flow a longer deadline`,
      );
    await dossiers.park('timer', envelope, { data: { at }, wakeAt: at });
    await report(envelope.requestId, { state: 'waiting', step: options.name, waitingOn: `timer until ${when}` });
    return { go: 'nowhere' };
  }

  async function rung(envelope: Envelope, { dossiers }: StepTools): Promise<Verdict> {
    const dossier = await dossiers.rung(envelope);
    if (dossier?.isOpen !== true) return { go: 'nowhere' };
    const { body, contentType = 'application/octet-stream', contentEncoding } = dossier.message;
    return onwardsFrom(dossier, { body, contentType, ...(contentEncoding === undefined ? {} : { contentEncoding }) }, () =>
      dossiers.close(dossier),
    );
  }

  return {
    kind: 'timer',
    name: checkStepName(options.name),
    summary: options.summary ?? `Requests that come to or leave timer ${options.name}`,
    timeoutMs: 30_000,
    retry: ['1s', '5s', '30s'],
    concurrency: 200,
    parks: true,
    run,
  };
}
