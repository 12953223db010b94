/**
 * Takes a message apart (EIP: Splitter). The group is open, and has its bell, before any part is sent, so that whoever dies in between
 * leaves none that nobody gathers; and all ids derive from the message's, so that it happens again as it was.
 */
import { bellOf } from './dispatch.js';
import { deriveId, follow, ringFor, type Envelope } from './envelope.js';
import { failpoint } from './failpoint.js';
import type { RunnerOptions } from './runner.js';
import { written, type SplitPart, type Step, type Verdict } from './step.js';
import { workAddress } from './topology.js';
import { encode } from './wire.js';

/** The messages that follow from a split; of one without parts, that which completes the group. May be called again. */
type Apart = (step: Step, delivered: Envelope, verdict: Extract<Verdict, { go: 'apart' }>, took: number) => Promise<readonly Envelope[]>;

export function openSplitter({
  store,
  clock,
  names,
  control,
  steps,
}: Pick<RunnerOptions, 'store' | 'clock' | 'names' | 'control' | 'steps'>): Apart {
  return async function apart(step, delivered, { parts, into, of }, took) {
    const envelope = { ...delivered, id: of ?? delivered.id };
    const rest = envelope.slip.slice(1);
    const at = into ?? rest.find((name) => steps.get(name)?.gatherMs !== undefined);
    const gatherMs = at === undefined || !rest.includes(at) ? undefined : steps.get(at)?.gatherMs;
    if (at === undefined || gatherMs === undefined)
      throw new Error(`step ${step.name} splits and no aggregator follows it in flow ${envelope.flow}`);
    const unknown = parts.flatMap((part) => part.steps ?? []).find((name) => !steps.has(name));
    if (unknown !== undefined) throw new Error(`step ${step.name} splits to unknown step ${unknown}`);

    const id = deriveId(envelope.id, 'group');
    const now = clock.now();
    // Whole milliseconds, as every time in a message: one with a fraction cannot be read there.
    const deadline = now + Math.floor(Math.min(gatherMs, (envelope.deadline - now) * 0.9));
    const member = (index: number) => [
      { id, index, size: parts.length, at, deadline, name: nameOf(parts[index], index) },
      ...envelope.groups,
    ];
    const onwards = rest.slice(rest.indexOf(at));
    const ring = (reason: string) => ringFor(envelope, member(0), onwards, reason, deadline);
    const bell = bellOf(workAddress(names, at, envelope), encode(ring('deadline')));
    failpoint('split.before-group');
    await store.openGroup({ id, requestId: envelope.requestId, members: parts.map(nameOf), deadline, bell });
    failpoint('split.after-group');
    if (parts.length === 0) return [ring('all')];
    void (
      control.isWatched(envelope) &&
      store.report(envelope.requestId, { state: 'waiting', step: at, waitingOn: `parts: 0 of ${parts.length}` }).catch(() => undefined)
    );
    return parts.map((part, index) =>
      follow(
        envelope,
        {
          at: now,
          took,
          contentEncoding: undefined,
          ...written(part.body),
          groups: member(index),
          slip: [...(part.steps ?? []), ...rest],
          type: 'request',
        },
        index,
      ),
    );
  };
}

/** What a part is called in the manifest. */
const nameOf = (part: SplitPart | undefined, index: number): string => part?.name ?? part?.steps?.[0] ?? String(index);
