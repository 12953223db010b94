/**
 * Whether a simulated world kept the promise (design §9): what `test/fault/history.ts` asks of every history, and what only a
 * simulation can know: the journal at the moment of each answer, what is left when all is at rest.
 */
import type { Effect, Seen } from '../fault/history.js';

/** An outcome as a text. */
export const textOf = (kind: string, body: Buffer): string => `${kind} ${body.toString()}`;

/** What clients were told beside answers. */
export interface Told {
  /** Each look of a reader at a request's state; undefined: there is no such request. */
  readonly states: { readonly id: string; readonly reader: number; readonly state: string | undefined }[];
  readonly cancelled: { readonly id: string }[];
  /** One-way messages that were accepted. */
  readonly sent: { readonly id: string; readonly token: string }[];
  /** What must not happen at all, where it is seen. */
  readonly wrong: string[];
}

const rank: Readonly<Record<string, number>> = {
  accepted: 0,
  running: 1,
  waiting: 1,
  replied: 2,
  faulted: 2,
  'timed-out': 2,
  cancelled: 2,
};

/**
 * Sentences about everything that clients were told and that cannot all be true. `isLossy`: Redis lost its data; how far a request
 * is on its way is not in the journal, so it may seem to be where it began.
 */
export function contradictions(
  seen: readonly Seen[],
  { states, cancelled, wrong }: Told,
  excused: ReadonlySet<string>,
  isLossy: boolean,
): readonly string[] {
  const kinds = new Map(seen.flatMap((one) => (one.what === 'outcome' ? [[one.id, one.kind] as const] : [])));
  /** By reader: answers to two readers may overtake each other. */
  const last = new Map<number, string>();
  return [
    ...wrong,
    ...states.flatMap(({ id, reader, state }) => {
      if (excused.has(id)) return [];
      const before = last.get(reader);
      if (state === undefined) return [`request ${id} was accepted and is not known any more`];
      last.set(reader, state);
      const isBack =
        before !== undefined &&
        ((rank[state]! < rank[before]! && !(isLossy && rank[before] === 1)) || (rank[before] === 2 && state !== before));
      return isBack ? [`request ${id} went from ${before} back to ${state}`] : [];
    }),
    ...cancelled.flatMap(({ id }) =>
      excused.has(id) || kinds.get(id) === 'cancelled'
        ? []
        : [`request ${id} was said to be cancelled, and its outcome is ${kinds.get(id) ?? 'none'}`],
    ),
  ];
}

/** What a rebuild would find decided is what people were told. */
export const misjournalled = (seen: readonly Seen[], decided: ReadonlyMap<string, string>): readonly string[] =>
  seen.flatMap((one) => {
    const text = one.what === 'outcome' ? decided.get(one.id) : undefined;
    return one.what !== 'outcome' || text === undefined || text === `${one.kind} ${one.body}`
      ? []
      : [`${one.id} is decided otherwise in the journal than somebody was told: ${text}`];
  });

/** One-way: an effect or a dead letter, never neither. */
export const vanished = ({ sent }: Told, effects: readonly Effect[], dead: ReadonlySet<string>): readonly string[] =>
  sent
    .filter(
      ({ id }) =>
        !dead.has(id) &&
        !effects.some((effect) => effect.id === id && effect.what === 'end' && (effect.step === 'keep' || effect.said === 'refused')),
    )
    .map(({ id, token }) => `one-way ${id} (${token}) was accepted, and has neither effect nor dead letter`);

/** A group's result: every member has answered, failed or is missing, and nobody twice. */
export function uneven(effects: readonly Effect[], members: readonly string[]): readonly string[] {
  return effects.flatMap(({ id, said }) => {
    const manifest = (said as { gathered?: Manifest } | undefined)?.gathered;
    if (manifest === undefined) return [];
    // Who is asked is told in the messages to each: a rebuild that is between two of them knows a number instead of the name.
    const nameOf = (name: string) => (/^\d$/.test(name) ? (members[Number(name)] ?? name) : name);
    const named = [...manifest.answered, ...manifest.failed.map(({ from }) => from), ...manifest.missing].map(nameOf).sort();
    const isEven = named.join() === [...members].sort().join() && (manifest.completedBy !== 'all' || manifest.missing.length === 0);
    const { parts = [] } = said as { parts?: readonly (readonly [string, string])[] };
    const isMixed = parts.some(([from, part]) => nameOf(from) !== part) || parts.map(([from]) => from).join() !== manifest.answered.join();
    return isEven && !isMixed ? [] : [`the group of ${id} was gathered as ${JSON.stringify({ manifest, parts })}`];
  });
}

interface Manifest {
  readonly answered: readonly string[];
  readonly failed: readonly { readonly from: string }[];
  readonly missing: readonly string[];
  readonly completedBy: string;
}
