/**
 * What clients saw and what workers did, and whether that keeps the promise (design §9). The checker never asks the hub.
 * Records are lines of JSON: clients keep theirs in memory, workers append theirs to a file (`project/workers/`).
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

/**
 * One operation of a client: `ask`, then what became of it.
 * - `accepted`: the hub has promised an outcome (202, or the outcome itself).
 * - `outcome`: read, on the line or later; the operation's end.
 * - `refused`: nothing was started, says the hub. `unknown`: the line broke, or the hub itself does not know. Both ends.
 */
export type Seen = { readonly op: number; readonly at: number } & (
  | { readonly what: 'ask'; readonly token: string; readonly key?: string; readonly deadline?: number }
  | { readonly what: 'accepted'; readonly id: string }
  | { readonly what: 'outcome'; readonly id: string; readonly kind: string; readonly hash: string; readonly body: string }
  | { readonly what: 'refused' | 'unknown'; readonly why: string }
);

/** What a worker did. `said` is the body that it answered with. */
export interface Effect {
  readonly what: 'start' | 'end';
  readonly id: string;
  readonly token: string;
  readonly step: string;
  readonly pid: number;
  readonly attempt: number;
  readonly at: number;
  readonly said?: unknown;
}

export interface History {
  readonly seen: readonly Seen[];
  /** Begins an operation; returns how to say what became of it. */
  ask(token: string, more?: { readonly key?: string; readonly deadline?: number }): Operation;
}

export interface Operation {
  accepted(id: string): void;
  outcome(id: string, kind: string, body: Buffer): void;
  refused(why: string): void;
  unknown(why: string): void;
}

export function openHistory(now: () => number = Date.now): History {
  const seen: Seen[] = [];
  let ops = 0;
  return {
    seen,
    ask(token, more = {}) {
      const op = ops++;
      const note = (what: object) => void seen.push({ op, at: now(), ...what } as Seen);
      note({ what: 'ask', token, ...more });
      return {
        accepted: (id) => note({ what: 'accepted', id }),
        outcome: (id, kind, body) =>
          note({ what: 'outcome', id, kind, hash: createHash('sha256').update(kind).update(body).digest('hex'), body: body.toString() }),
        refused: (why) => note({ what: 'refused', why }),
        unknown: (why) => note({ what: 'unknown', why }),
      };
    },
  };
}

/** The effects that the workers of a scenario wrote. A line that a kill cut short is none. */
export function readEffects(file: string): readonly Effect[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as Effect];
      } catch {
        return [];
      }
    });
}

export interface Bounds {
  /** An operation that takes longer hangs. */
  readonly withinMs: number;
  /** Each request's effect happens exactly once: only where nothing was handed out again. */
  readonly once?: boolean;
}

/** Everything that breaks the promise, as sentences; empty when it is kept. */
export function broken(seen: readonly Seen[], effects: readonly Effect[], { withinMs, once = false }: Bounds): readonly string[] {
  const asks = new Map(seen.flatMap((one) => (one.what === 'ask' ? [[one.op, one] as const] : [])));
  const asked = (op: number) => asks.get(op)!;
  const ended = new Map(
    seen.flatMap((one) => (one.what === 'outcome' || one.what === 'refused' || one.what === 'unknown' ? [[one.op, one] as const] : [])),
  );
  const outcomes = seen.filter((one) => one.what === 'outcome');
  const accepted = seen.filter((one) => one.what === 'accepted');
  const name = (op: number) => `operation ${op} (${asked(op).token})`;

  return [
    // Nothing hangs.
    ...[...asks.values()].flatMap(({ op, at }) => {
      const end = ended.get(op);
      if (end === undefined) return [`${name(op)} never ended`];
      return end.at - at > withinMs ? [`${name(op)} took ${end.at - at} ms to ${end.what}`] : [];
    }),
    // Accepted: exactly one outcome, the same for all readers.
    ...grouped([...accepted, ...outcomes], ({ id }) => id).flatMap(([id, about]) => {
      const hashes = new Set(about.flatMap((one) => (one.what === 'outcome' ? [one.hash] : [])));
      return hashes.size === 1 ? [] : [`request ${id} (${asked(about[0]!.op).token}) was accepted and has ${hashes.size} outcomes`];
    }),
    // One key is one request, and one request is one key's.
    ...grouped([...accepted, ...outcomes], ({ op }) => asked(op).key ?? `op ${op}`).flatMap(([key, about]) => {
      const ids = new Set(about.map(({ id }) => id));
      return ids.size === 1 ? [] : [`key ${key} became ${ids.size} requests`];
    }),
    ...grouped([...accepted, ...outcomes], ({ id }) => id).flatMap(([id, about]) => {
      const tokens = new Set(about.map(({ op }) => asked(op).token));
      return tokens.size === 1 ? [] : [`request ${id} was given to ${[...tokens].join(' and ')}`];
    }),
    // The reply is what a worker said for that very request.
    ...outcomes
      .filter(({ kind }) => kind === 'reply')
      .flatMap(({ op, id, body }) => {
        const said = effects.some((effect) => effect.id === id && effect.token === asked(op).token && JSON.stringify(effect.said) === body);
        return said ? [] : [`${name(op)} was answered ${body}, which no worker said for ${id}`];
      }),
    // Timeout: not before the deadline.
    ...outcomes.flatMap(({ op, kind, at }) =>
      kind === 'timeout' && at < (asked(op).deadline ?? 0)
        ? [`${name(op)} timed out ${asked(op).deadline! - at} ms before its deadline`]
        : [],
    ),
    // A definite refusal has no effect (under a key: unless another try was taken).
    ...grouped([...asks.values()], ({ token }) => token).flatMap(([token, tries]) => {
      const isRefused = tries.every(({ op }) => ended.get(op)?.what === 'refused');
      return isRefused && effects.some((effect) => effect.token === token) ? [`${token} was refused, and worked on`] : [];
    }),
    ...(once
      ? grouped(
          effects.filter(({ what }) => what === 'end'),
          ({ token, step }) => `${token} at ${step}`,
        ).flatMap(([what, ends]) => (ends.length === 1 ? [] : [`${what} happened ${ends.length} times`]))
      : []),
  ];
}

function grouped<T>(all: readonly T[], by: (one: T) => string): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const one of all) {
    const group = groups.get(by(one));
    if (group === undefined) groups.set(by(one), [one]);
    else group.push(one);
  }
  return [...groups];
}
