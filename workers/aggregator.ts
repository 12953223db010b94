/**
 * The aggregator (EIP: Aggregator, Scatter-Gather): collects the parts of a split until complete: all, `atLeast`,
 * `completeWhen`, a quiet period, or the time-out, whichever is first. Durable in the store; completes exactly once, and the result
 * of a completed group never changes, whoever publishes it, however often.
 */
import { encode } from '../broker/wire.js';
import { deriveId, ringFor, type Envelope } from '../broker/envelope.js';
import { failpoint } from '../broker/failpoint.js';
import { readFault } from '../broker/fault.js';
import { bodyOf, checkStepName, pauseMs, written, type Pause, type Step, type StepTools, type Verdict } from '../broker/step.js';
import type { GroupState, Part } from '../broker/store.js';
import { cameLate, countedOf } from './late.js';

/** One answer of a group, for `combine`. `from` is the member's name. */
export interface Answer<Body> {
  readonly from: string;
  readonly body: Body;
}

/** Who did what. */
export interface Manifest {
  readonly answered: readonly string[];
  readonly failed: readonly { readonly from: string; readonly code: string; readonly message: string }[];
  readonly missing: readonly string[];
  /** `all`, `at-least`, `predicate`, `quiet`, `deadline`. */
  readonly completedBy: string;
  /** In a corrected result (`late: amend` on the flow): whose parts came when the group was complete, in that order. */
  readonly late?: readonly string[];
}

export interface AggregatorOptions<Body> {
  readonly name: string;
  /** Makes the result of the answers, in the order of the split. Throws a `Fault` when they are not enough. Without it: `{answers, answered, failed, missing, completedBy}`. */
  readonly combine?: (answers: readonly Answer<Body>[], manifest: Manifest) => unknown;
  /** Complete after this long at the latest, with whoever has answered. Default 10 s; never longer than 90 % of what is left of the request's life. */
  readonly timeout?: Pause;
  /** Complete as soon as so many have answered or failed. */
  readonly atLeast?: number;
  /** Complete when nothing has come for this long. */
  readonly quiet?: Pause;
  /** Complete as soon as this is true. */
  readonly completeWhen?: (answers: readonly Answer<Body>[], manifest: Manifest) => boolean;
  /** Tells those that have not answered to stop. Default: true, but false in flows that late parts amend. */
  readonly cancelLosers?: boolean;
  readonly summary?: string;
}

export function aggregator<Body>(options: AggregatorOptions<Body>): Step {
  const { completeWhen, atLeast } = options;
  const combine = options.combine ?? ((answers, manifest) => ({ answers, ...manifest }));
  const quietMs = options.quiet === undefined ? undefined : pauseMs(options.quiet);

  async function run(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    const group = envelope.groups[0];
    if (group?.at !== options.name)
      throw new Error(
        `step ${options.name} is an aggregator and got a message that is no part of a group: put a step that splits before it`,
      );
    const state = envelope.type === 'event' ? await rung(envelope, tools) : await gathered(envelope, tools);
    if (state === undefined || state.state === 'open') return { go: 'nowhere' };
    const counts = envelope.type === 'event' ? state.reason === reasonOf(envelope) : state.parts.some(({ index }) => index === group.index);
    // Its result is with the broker already, or is brought there by what closed it, which is not acknowledged before.
    if (state.state !== 'closed' || !counts) {
      // A repeated delivery of a part that counted is not late, only repeated.
      if (envelope.type !== 'event' && !counts) return cameLate(envelope, partOf(envelope, tools), tools, resultOf);
      return { go: 'nowhere' };
    }
    const manifest = manifestOf(state);
    const until = tools.amendsUntil(envelope);
    return {
      go: 'on',
      ...(await resultOf(state, manifest)),
      // Not derived from the part that happened to come last: the same group gives the same message.
      change: {
        id: deriveId(group.id, 'result'),
        groups: envelope.groups.slice(1),
        slip: envelope.slip.slice(1),
        extra: { 'hub-group': group.id, 'hub-completed-by': manifest.completedBy, ...(until === undefined ? {} : countedOf(state, until)) },
      },
      afterwards: async () => {
        failpoint('gather.before-done');
        await tools.store.groupDone(group.id);
        failpoint('gather.after-done');
        if (manifest.missing.length > 0 && (options.cancelLosers ?? until === undefined)) await tools.drop(group.id);
      },
    };
  }

  const resultOf = async (state: GroupState, manifest = manifestOf(state)) => written(await combine(answersOf<Body>(state), manifest));

  /** A part came in. Undefined: the group is open. */
  async function gathered(envelope: Envelope, tools: StepTools): Promise<GroupState | undefined> {
    const { id, index, size } = envelope.groups[0]!;
    const part = partOf(envelope, tools);
    failpoint('gather.before-part');
    const looks = tools.isWatched || completeWhen !== undefined;
    const state = await tools.store.addPart(id, part, Math.min(atLeast ?? size, size), looks);
    failpoint('gather.after-part');
    await tools.absorbed(envelope);
    if (state !== undefined) {
      if (state.state !== 'open') return state;
      if (completeWhen?.(answersOf<Body>(state), manifestOf(state))) return tools.store.closeGroup(id, 'predicate');
      await tools.report(
        envelope.requestId,
        { state: 'waiting', step: options.name, waitingOn: `parts: ${manifestOf(state).missing.join(', ')}` },
        { name: 'part', data: { from: state.members[index], kind: part.kind, index, size } },
      );
    }
    if (quietMs !== undefined) await ringLater(envelope, tools, quietMs);
    return state;
  }

  /** A date came: the deadline, or the end of what may have been a quiet period. */
  async function rung(envelope: Envelope, tools: StepTools): Promise<GroupState> {
    const { id } = envelope.groups[0]!;
    const reason = reasonOf(envelope);
    if (reason === 'quiet' && quietMs !== undefined) {
      const state = await tools.store.group(id);
      // Something came meanwhile, and set a date of its own.
      if (state.state === 'open' && (await tools.store.time()) - state.touchedAt < quietMs) return state;
    }
    return tools.store.closeGroup(id, reason);
  }

  async function ringLater(envelope: Envelope, tools: StepTools, ms: number): Promise<void> {
    const at = tools.clock.now() + ms;
    const ring = ringFor(envelope, envelope.groups, envelope.slip, 'quiet', tools.clock.now());
    await tools.later.schedule({ id: `${ring.id}-quiet`, at, to: tools.addressOf(options.name), message: encode(ring) });
  }

  return {
    kind: 'aggregator',
    name: checkStepName(options.name),
    summary: options.summary ?? `Parts on their way to aggregator ${options.name}`,
    timeoutMs: 30_000,
    retry: ['1s', '5s', '30s'],
    concurrency: 500,
    gatherMs: pauseMs(options.timeout ?? '10s'),
    ...(quietMs === undefined ? {} : { quietMs }),
    run,
  };
}

/** What a bell says that rings: why the group is to be closed. */
const reasonOf = (ring: Envelope): string => String(ring.extra?.['hub-ring'] ?? 'deadline');

const partOf = ({ groups: [group], type, body, contentType }: Envelope, { clock }: StepTools): Part => ({
  index: group?.index ?? 0,
  kind: type === 'fault' ? 'fault' : 'reply',
  body,
  contentType,
  at: clock.now(),
});

const byIndex = ({ parts, late = [] }: GroupState): readonly Part[] => [...parts, ...late].sort((a, b) => a.index - b.index);
const nameOf = (state: GroupState, index: number): string => state.members[index] ?? String(index);

function answersOf<Body>(state: GroupState): readonly Answer<Body>[] {
  return byIndex(state)
    .filter(({ kind }) => kind === 'reply')
    .map((part) => ({ from: nameOf(state, part.index), body: bodyOf(part) }));
}

function manifestOf(state: GroupState): Manifest {
  const parts = byIndex(state);
  return {
    answered: parts.filter(({ kind }) => kind === 'reply').map(({ index }) => nameOf(state, index)),
    failed: parts
      .filter(({ kind }) => kind === 'fault')
      .map(({ index, body }) => {
        const { code, message } = readFault(body);
        return { from: nameOf(state, index), code, message };
      }),
    missing: state.members.filter((_, index) => !parts.some((part) => part.index === index)),
    completedBy: state.reason ?? 'open',
    ...(state.late === undefined ? {} : { late: state.late.map(({ index }) => nameOf(state, index)) }),
  };
}
