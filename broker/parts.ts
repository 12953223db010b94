/**
 * A reply in parts (EIP: Message Sequence): what the last step of a flow yields. Each part is shown as it comes, as well as that can be done, and
 * the reply is the list of all: so that whoever takes the parts one by one hears each once and in its order, whatever was missed.
 */
import type { Envelope } from './envelope.js';
import type { Outcome, RequestEvent } from './store.js';
import type { HeaderValue, Headers } from './transport.js';

const header = 'hub-parts';

/** Says of a message that its body is the list of so many parts. */
export const partsHeader = (count: number): Record<string, HeaderValue> => ({ [header]: count });

export function partsIn(headers: Headers | undefined): number | undefined {
  const count = headers?.[header];
  return typeof count === 'number' && Number.isSafeInteger(count) && count >= 0 ? count : undefined;
}

export interface Part {
  /** 1, 2, 3, … */
  readonly sequence: number;
  readonly part: unknown;
}

/** Is what the step of this envelope yields the reply? Of any list but the last step's something else becomes. */
export const isOfReply = ({ slip, groups }: Pick<Envelope, 'slip' | 'groups'>): boolean => slip.length === 1 && groups.length === 0;

/** The event that shows a part which the step of this envelope yields. */
export function partEvent(envelope: Pick<Envelope, 'slip' | 'groups'>, part: Part) {
  const [step = ''] = envelope.slip;
  return { name: 'part', data: { ...part, step, ...(isOfReply(envelope) ? { ofReply: true } : {}) } } as const;
}

/** The list that a reply in parts is; undefined for any other outcome. */
export function listOf({ kind, body, parts }: Outcome): readonly unknown[] | undefined {
  if (kind !== 'reply' || parts === undefined) return undefined;
  try {
    const list: unknown = JSON.parse(body.toString('utf8'));
    return Array.isArray(list) && list.length === parts ? list : undefined;
  } catch {
    return undefined; // somebody else's worker says so of a body that is none
  }
}

export interface Sequel {
  /** The number of the last part that was taken. */
  readonly seen: number;
  /** The part that an event tells of, if it is the next one. One after a gap waits until the reply is there. */
  next(event: Pick<RequestEvent, 'name' | 'data'>): Part | undefined;
  /** What is left of a reply in parts. */
  rest(outcome: Outcome): Generator<Part>;
}

/** The parts after the one with this number, each once and in their order, however often a step that is tried again tells of them. */
export function partsAfter(after: number): Sequel {
  let seen = after;
  return {
    get seen() {
      return seen;
    },
    next({ name, data }) {
      if (name !== 'part' || data['ofReply'] !== true || data['sequence'] !== seen + 1) return undefined;
      return { sequence: ++seen, part: data['part'] };
    },
    *rest(outcome) {
      for (const part of listOf(outcome)?.slice(seen) ?? []) yield { sequence: ++seen, part };
    },
  };
}
