/**
 * What becomes of a part that comes when its group is complete. It is journalled, and that was it; or, in a flow that says `late: amend`, the
 * group is put together once more with it, and that goes to the return address as a correction (`broker/amend.ts`). Twice is the same
 * correction: the store says which late part this is, and the id derives from that.
 */
import { correctsHeaders, countedHeaders } from '../broker/amendable.js';
import { deriveId, type Envelope } from '../broker/envelope.js';
import { failpoint } from '../broker/failpoint.js';
import { isFault } from '../broker/fault.js';
import type { StepTools, Verdict } from '../broker/step.js';
import type { GroupState, Part } from '../broker/store.js';
import { encode } from '../broker/wire.js';

type Result = Pick<Extract<Verdict, { go: 'on' }>, 'body' | 'contentType' | 'contentEncoding'>;

/** A part that comes before the reply is there comes again after so long. */
const againMs = 500;

/** `resultOf` makes the result of a group. */
export async function cameLate(
  envelope: Envelope,
  part: Part,
  tools: StepTools,
  resultOf: (state: GroupState) => Promise<Result>,
): Promise<Verdict> {
  const correction = tools.amendsUntil(envelope) === undefined ? undefined : await correctionOf(envelope, part, tools, resultOf);
  if (correction !== undefined) return correction;
  await tools.late(envelope);
  return { go: 'nowhere' };
}

/** Undefined: it corrects nothing. */
async function correctionOf(
  envelope: Envelope,
  part: Part,
  tools: StepTools,
  resultOf: (state: GroupState) => Promise<Result>,
): Promise<Verdict | undefined> {
  const { store, clock } = tools;
  const [group] = envelope.groups;
  const record = await store.get(envelope.requestId);
  if (group === undefined || record === undefined) return undefined;
  if (record.outcome === undefined || !record.shown) return comeAgain(envelope, tools);
  const { amendable } = record.outcome;
  if (amendable === undefined || clock.now() >= amendable.until) return undefined;
  failpoint('late.before-part');
  const state = await store.addLatePart(group.id, part);
  failpoint('late.after-part');
  const { late = [] } = state;
  const rank = late.findIndex(({ index }) => index === part.index) + 1;
  if (rank === 0) return undefined;
  // What came later still is the next correction's.
  const corrected = { ...state, late: late.slice(0, rank) };
  try {
    return {
      go: 'on',
      ...(await resultOf(corrected)),
      change: {
        id: deriveId(group.id, 'result', rank),
        groups: [],
        slip: [],
        extra: { ...correctsHeaders({ group: group.id, rank, by: group.name }), ...countedOf(corrected, amendable.until) },
      },
    };
  } catch (error) {
    // The answers are not enough, it says: then the reply stays what it is.
    if (isFault(error)) return undefined;
    throw error;
  }
}

async function comeAgain(envelope: Envelope, { later, clock, addressOf }: StepTools): Promise<Verdict> {
  const [step = ''] = envelope.slip;
  const at = clock.now() + againMs;
  await later.schedule({ id: `${envelope.id}-late-${at}`, at, to: addressOf(step), message: encode(envelope) });
  return { go: 'nowhere' };
}

/** Tells a rebuild which parts count. */
export function countedOf({ members, parts, late = [] }: GroupState, until: number): ReturnType<typeof countedHeaders> {
  const counted = [...parts, ...late].map(({ index }) => index);
  return countedHeaders({ amendable: { missing: members.length - counted.length, until }, counted });
}
