/**
 * What clients saw and what workers and other systems did, and whether that keeps the promise (design §9). The checker never asks
 * the hub. Records are lines of JSON: clients write theirs to one file, workers append theirs to another (`project/workers/`).
 */
import { createHash } from 'node:crypto';
import { createWriteStream, readFileSync } from 'node:fs';

/**
 * One operation of a client: `ask`, then what became of it.
 * - `accepted`: the hub has promised an outcome (202, or the outcome itself). Of a one-way message it is the end.
 * - `status`: what a look at the request said.
 * - `outcome`: read, on the line or later; the operation's end.
 * - `refused`: nothing was started, says the hub. `unknown`: the line broke, or the hub itself does not know. Both ends.
 * - `missing`: the hub does not know a request that it had promised. An end, and never right within the retention.
 * An `outage` is a time in which somebody had taken a service away; it belongs to no operation.
 * A `vote` is what a person decided on a task, and `voted` what that person was told of it (`unknown`: nothing, for good); nor do they.
 */
export type Seen = { readonly op: number; readonly at: number } & (
  | ({ readonly what: 'ask'; readonly token: string } & AskNote)
  | { readonly what: 'accepted'; readonly id: string }
  | { readonly what: 'status'; readonly id: string; readonly state: string }
  | { readonly what: 'outcome'; readonly id: string; readonly kind: string; readonly hash: string; readonly body: string }
  | { readonly what: 'refused'; readonly why: string }
  | { readonly what: 'unknown'; readonly why: string }
  | { readonly what: 'missing'; readonly why: string }
  | { readonly what: 'outage'; readonly until: number; readonly why: string }
  | ({ readonly what: 'vote' } & Vote)
  | { readonly what: 'voted'; readonly mark: string; readonly told: Told }
);

/** `id`: of the request. `mark`: what the person wrote into the form, the same nowhere else. */
export interface Vote {
  readonly by: string;
  readonly task: string;
  readonly id: string;
  readonly mark: string;
  readonly outcome: string;
}

type Told = 'done' | 'refused' | 'unknown';

export interface AskNote {
  readonly key?: string;
  /** When the request's deadline is, for who knows it: no timeout may come before (ms since 1970). */
  readonly deadline?: number;
  /** What the client allows the request, ms. */
  readonly deadlineMs?: number;
  /** Nobody waits for an answer: the effect is all that there is to see. */
  readonly oneWay?: boolean;
}

/** What a worker, or somebody else's system, did. `said` is the body that it answered with. */
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
  ask(token: string, more?: AskNote): Operation;
  /** Somebody took a service away, from `from` until now: outcomes may be later by that. */
  outage(why: string, from: number): void;
  /** Somebody votes on a task; returns how to say what they were told. */
  vote(vote: Vote): (told: Told) => void;
  /** Begins anew: what was seen so far has been judged. */
  forget(): void;
  /** Resolves when the file has everything. */
  close(): Promise<void>;
}

export interface Operation {
  accepted(id: string): void;
  status(id: string, state: string): void;
  outcome(id: string, kind: string, body: Buffer): void;
  refused(why: string): void;
  unknown(why: string): void;
  missing(why: string): void;
}

export interface HistoryOptions {
  readonly now?: () => number;
  /** Every record goes there as well, as a line of JSON. */
  readonly file?: string;
}

export function openHistory({ now = Date.now, file }: HistoryOptions = {}): History {
  const output = file === undefined ? undefined : createWriteStream(file, { flags: 'a' });
  let seen: Seen[] = [];
  let ops = 0;
  const note = (op: number, what: object) => {
    const one = { op, at: now(), ...what } as Seen;
    seen.push(one);
    if (output?.writable === true) output.write(`${JSON.stringify(one)}\n`);
  };
  return {
    get seen() {
      return seen;
    },
    ask(token, more = {}) {
      const op = ops++;
      note(op, { what: 'ask', token, ...more });
      return {
        accepted: (id) => note(op, { what: 'accepted', id }),
        status: (id, state) => note(op, { what: 'status', id, state }),
        outcome: (id, kind, body) => note(op, { what: 'outcome', id, kind, hash: hashOf(kind, body), body: body.toString() }),
        refused: (why) => note(op, { what: 'refused', why }),
        unknown: (why) => note(op, { what: 'unknown', why }),
        missing: (why) => note(op, { what: 'missing', why }),
      };
    },
    outage: (why, from) => note(-1, { what: 'outage', at: from, until: now(), why }),
    vote(vote) {
      note(-1, { what: 'vote', ...vote });
      return (told) => note(-1, { what: 'voted', mark: vote.mark, told });
    },
    forget: () => void (seen = []),
    close: () => new Promise((resolve) => (output === undefined ? resolve() : output.end(resolve))),
  };
}

const hashOf = (kind: string, body: Buffer): string => createHash('sha256').update(kind).update(body).digest('hex');

/** The records of a file. A line that a kill cut short is none. */
function readLines<T>(file: string): readonly T[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as T];
      } catch {
        return [];
      }
    });
}

/** The effects that the workers of a scenario wrote. */
export const readEffects = (file: string): readonly Effect[] => readLines<Effect>(file);

/** What the clients of a scenario wrote. */
export const readSeen = (file: string): readonly Seen[] => readLines<Seen>(file);

export interface Bounds {
  /** An operation that takes longer hangs, outages not counted. */
  readonly withinMs: number;
  /** Who waits for longer is answered, outages not counted: of none of the flows may the deadline come first. */
  readonly answeredWithinMs?: number;
  /** Each request's effect happens exactly once: only where nothing was handed out again. */
  readonly once?: boolean;
  /** Tokens of what was found in the queues for the dead. */
  readonly dead?: ReadonlySet<string>;
  /** One-way messages have had the time to come to an end. */
  readonly atRest?: boolean;
}

/**
 * - `lost`: promised, and then no outcome, no effect, or an end before its time.
 * - `doubled`: two outcomes, two requests of one key, an effect where none was allowed.
 * - `foreign`: somebody else's.
 * - `hung`: no end, or one that took too long.
 */
export type Breach = 'lost' | 'doubled' | 'foreign' | 'hung';

export interface Violation {
  readonly breach: Breach;
  readonly sentence: string;
}

/** Everything that breaks the promise, as sentences; empty when it is kept. */
export const broken = (seen: readonly Seen[], effects: readonly Effect[], bounds: Bounds): readonly string[] =>
  judge(seen, effects, bounds).map(({ sentence }) => sentence);

/** How the deadline is rounded up, and how late an outcome may be (design §9). */
const roundedMs = 1_000;
const lateMs = 5_000;

const rank: Readonly<Record<string, number | undefined>> = {
  accepted: 0,
  running: 1,
  waiting: 1,
  replied: 2,
  faulted: 2,
  'timed-out': 2,
  cancelled: 2,
};
const kindOfState: Readonly<Record<string, string>> = {
  replied: 'reply',
  faulted: 'fault',
  'timed-out': 'timeout',
  cancelled: 'cancelled',
};

type Of<What extends Seen['what']> = Extract<Seen, { readonly what: What }>;

export function judge(
  seen: readonly Seen[],
  effects: readonly Effect[],
  { withinMs, answeredWithinMs = Infinity, once = false, dead = new Set(), atRest = false }: Bounds,
): readonly Violation[] {
  const of = <What extends Seen['what']>(...kinds: readonly What[]): readonly Of<What>[] =>
    seen.filter((one): one is Of<What> => (kinds as readonly string[]).includes(one.what));
  const asks = new Map(of('ask').map((one) => [one.op, one] as const));
  const asked = (op: number) => asks.get(op)!;
  const ended = new Map(of('outcome', 'refused', 'unknown', 'missing').map((one) => [one.op, one] as const));
  const sent = new Map(of('accepted').flatMap((one) => (asked(one.op).oneWay === true ? [[one.op, one] as const] : [])));
  const outcomes = of('outcome');
  const promised = of('accepted', 'outcome');
  const effectsOf = new Map(grouped(effects, ({ token }) => token));
  const name = (op: number) => `operation ${op} (${asked(op).token})`;
  const away = outagesOf(of('outage'));
  const all = (breach: Breach, sentences: readonly string[]): readonly Violation[] => sentences.map((sentence) => ({ breach, sentence }));

  return [
    // Nothing hangs.
    ...all(
      'hung',
      [...asks.values()].flatMap(({ op, at }) => {
        const end = ended.get(op) ?? sent.get(op);
        if (end === undefined) return [`${name(op)} never ended`];
        return end.at - at - away(at, end.at) > withinMs ? [`${name(op)} took ${end.at - at} ms to ${end.what}`] : [];
      }),
    ),
    // Accepted: exactly one outcome, the same for all readers.
    ...grouped(
      promised.filter(({ op }) => !sent.has(op)),
      ({ id }) => id,
    ).flatMap(([id, about]) => {
      const hashes = new Set(about.flatMap((one) => (one.what === 'outcome' ? [one.hash] : [])));
      const sentence = `request ${id} (${asked(about[0]!.op).token}) was accepted and has ${hashes.size} outcomes`;
      return hashes.size === 1 ? [] : all(hashes.size === 0 ? 'lost' : 'doubled', [sentence]);
    }),
    // One-way: the effect, or a letter for a person.
    ...all(
      'lost',
      [...sent.values()].flatMap(({ op }) => {
        const { token } = asked(op);
        const isDone = effectsOf.get(token)?.some(({ what }) => what === 'end') === true || dead.has(token);
        return atRest && !isDone ? [`${name(op)} was accepted one-way, and there is neither an effect nor a dead letter`] : [];
      }),
    ),
    // A time-out is an outcome; but not for what got stuck while everything was there.
    ...all(
      'lost',
      outcomes.flatMap(({ op, kind, at }) => {
        const waitedMs = at - asked(op).at - away(asked(op).at, at);
        return kind === 'timeout' && waitedMs > answeredWithinMs ? [`${name(op)} waited for ${waitedMs} ms and timed out`] : [];
      }),
    ),
    // Within the retention, what was promised is known.
    ...all(
      'lost',
      of('missing').map(({ op, why }) => `${name(op)} was accepted and is not known any more: ${why}`),
    ),
    // Status only moves forward, and in the end says what the outcome says.
    ...all('lost', backwards(of('status', 'accepted', 'outcome'), name)),
    // One key is one request, and one request is one key's.
    ...all(
      'doubled',
      grouped(promised, ({ op }) => asked(op).key ?? `op ${op}`).flatMap(([key, about]) => {
        const ids = new Set(about.map(({ id }) => id));
        return ids.size === 1 ? [] : [`key ${key} became ${ids.size} requests`];
      }),
    ),
    ...all(
      'foreign',
      grouped(promised, ({ id }) => id).flatMap(([id, about]) => {
        const tokens = new Set(about.map(({ op }) => asked(op).token));
        return tokens.size === 1 ? [] : [`request ${id} was given to ${[...tokens].join(' and ')}`];
      }),
    ),
    // The reply is what a worker said for that very request.
    ...all(
      'foreign',
      outcomes
        .filter(({ kind }) => kind === 'reply')
        .flatMap(({ op, id, body }) => {
          const { token } = asked(op);
          const said = effectsOf.get(token)?.some((effect) => effect.id === id && JSON.stringify(effect.said) === body);
          return said === true || isPeoples(body, token) ? [] : [`${name(op)} was answered ${body}, which no worker said for ${id}`];
        }),
    ),
    // A group is complete, or says who is missing; each part at most once.
    ...outcomes
      .filter(({ kind }) => kind === 'reply')
      .flatMap(({ op, body }) => groupFlaws(body).flatMap((flaw) => all(flaw.breach, [`${name(op)} ${flaw.sentence}`]))),
    // What people decided is what they said, each once, as many as it takes; and whoever was told that their vote counts is heard.
    ...decisionFlaws(outcomes, of('vote'), of('voted'), name),
    // Timeout: not before the deadline, and nothing much after it.
    ...outcomes.flatMap(({ op, kind, at }) => {
      const { deadlineMs, at: askedAt } = asked(op);
      if (deadlineMs === undefined) return [];
      const earlyMs = askedAt + deadlineMs - at;
      const overdueMs = at - askedAt - deadlineMs - roundedMs - lateMs - away(askedAt, at);
      return [
        ...(kind === 'timeout' && earlyMs > 0 && asked(op).key === undefined
          ? all('lost', [`${name(op)} timed out ${earlyMs} ms before its deadline`])
          : []),
        ...(overdueMs > 0 ? all('hung', [`${name(op)} ended ${overdueMs} ms too late after its deadline: ${kind}`]) : []),
      ];
    }),
    ...all(
      'lost',
      outcomes.flatMap(({ op, kind, at }) => {
        const { deadline = 0 } = asked(op);
        return kind === 'timeout' && at < deadline ? [`${name(op)} timed out ${deadline - at} ms before its deadline`] : [];
      }),
    ),
    // Of a key, the deadline is that of whoever asked first.
    ...all(
      'lost',
      grouped(
        outcomes.filter(({ op, kind }) => kind === 'timeout' && asked(op).key !== undefined && asked(op).deadlineMs !== undefined),
        ({ op }) => asked(op).key!,
      ).flatMap(([key, timeouts]) => {
        const first = Math.min(...[...asks.values()].filter((ask) => ask.key === key).map(({ at, deadlineMs = 0 }) => at + deadlineMs));
        return timeouts.flatMap(({ op, at }) => (at < first ? [`${name(op)} timed out ${first - at} ms before its deadline`] : []));
      }),
    ),
    // A definite refusal has no effect (under a key: unless another try was taken).
    ...all(
      'doubled',
      grouped([...asks.values()], ({ token }) => token).flatMap(([token, tries]) => {
        const isRefused = tries.every(({ op }) => ended.get(op)?.what === 'refused');
        return isRefused && effectsOf.has(token) ? [`${token} was refused, and worked on`] : [];
      }),
    ),
    ...(once
      ? all(
          'doubled',
          grouped(
            effects.filter(({ what }) => what === 'end'),
            ({ token, step }) => `${token} at ${step}`,
          ).flatMap(([what, ends]) => (ends.length === 1 ? [] : [`${what} happened ${ends.length} times`])),
        )
      : []),
  ];
}

/** How much of a time was outage, ms; outages that overlap count once. */
function outagesOf(outages: readonly Of<'outage'>[]): (from: number, until: number) => number {
  const sorted = [...outages].sort((a, b) => a.at - b.at);
  return (from, until) => {
    let total = 0;
    let covered = from;
    for (const outage of sorted) {
      if (outage.at >= until) break;
      const end = Math.min(outage.until, until);
      if (end <= covered) continue;
      total += end - Math.max(outage.at, covered);
      covered = end;
    }
    return total;
  };
}

function backwards(looks: readonly Of<'status' | 'accepted' | 'outcome'>[], name: (op: number) => string): readonly string[] {
  const states = looks.filter(({ what }) => what === 'status') as readonly Of<'status'>[];
  const kinds = new Map(looks.flatMap((one) => (one.what === 'outcome' ? [[one.id, one.kind] as const] : [])));
  return grouped(states, ({ op }) => String(op)).flatMap(([, of]) =>
    of.flatMap(({ op, id, state }, n) => {
      const before = of[n - 1]?.state ?? 'accepted';
      const now = rank[state];
      if (now === undefined) return [`${name(op)} has a state that there is not: ${state}`];
      if (now < rank[before]! || (rank[before] === 2 && state !== before)) return [`${name(op)} went back from ${before} to ${state}`];
      const kind = kinds.get(id);
      return now === 2 && kind !== undefined && kindOfState[state] !== kind ? [`${name(op)} was ${state}, and its outcome is ${kind}`] : [];
    }),
  );
}

interface SaidOfGroup {
  readonly parts?: readonly string[];
  readonly manifest?: {
    readonly answered: readonly string[];
    readonly failed: readonly { readonly from: string }[];
    readonly missing: readonly string[];
    readonly completedBy: string;
  };
  readonly members?: readonly string[];
}

/** What is wrong with a reply that was gathered: who was asked (`members`), whose part counted (`parts`), and what the manifest says. */
function groupFlaws(body: string): readonly Violation[] {
  if (!body.includes('"manifest"')) return [];
  const { parts = [], manifest, members = [] } = JSON.parse(body) as SaidOfGroup;
  if (manifest === undefined) return [];
  const failed = manifest.failed.map(({ from }) => from);
  const told = [...manifest.answered, ...failed, ...manifest.missing].sort();
  return [
    ...(new Set(parts).size < parts.length
      ? [{ breach: 'doubled', sentence: `was gathered with a part twice: ${parts.join(', ')}` } as const]
      : []),
    ...(told.join() === [...members].sort().join() && [...manifest.answered].sort().join() === [...parts].sort().join()
      ? []
      : [{ breach: 'lost', sentence: `was gathered from ${members.join(', ')} and says ${JSON.stringify(manifest)}` } as const]),
    ...(manifest.missing.length > 0 && manifest.completedBy === 'all'
      ? [{ breach: 'lost', sentence: `lacks ${manifest.missing.join(', ')} and is not flagged` } as const]
      : []),
  ];
}

interface Decision {
  readonly outcome: string;
  readonly needed: number;
  readonly of: number;
  readonly votes: readonly { readonly by: string; readonly outcome: string; readonly mark: string }[];
}

const decisionIn = (body: string): Decision | undefined =>
  body.includes('"decision"') ? (JSON.parse(body) as { readonly decision?: Decision }).decision : undefined;

/** A reply with nothing in it but the token and what people decided. */
const isPeoples = (body: string, token: string): boolean => {
  const decision = decisionIn(body);
  return decision !== undefined && body === JSON.stringify({ token, decision });
};

function decisionFlaws(
  outcomes: readonly Of<'outcome'>[],
  votes: readonly Of<'vote'>[],
  tellings: readonly Of<'voted'>[],
  name: (op: number) => string,
): readonly Violation[] {
  const told = new Map(tellings.map((one) => [one.mark, one.told]));
  const votesOn = new Map(grouped(votes, ({ id }) => id));
  const flaw = (breach: Breach, sentence: string): Violation => ({ breach, sentence });
  return outcomes.flatMap(({ op, id, kind, body }) => {
    const decision = kind === 'reply' ? decisionIn(body) : undefined;
    if (decision === undefined) return [];
    const given = votesOn.get(id) ?? [];
    const isCounted = (mark: string) => decision.votes.some((vote) => vote.mark === mark);
    const agreed = decision.votes.filter(({ outcome }) => outcome === 'approve').length;
    const against = decision.votes.length - agreed;
    const isCertain = decision.outcome === 'approve' ? agreed >= decision.needed : against > decision.of - decision.needed;
    return [
      ...decision.votes.flatMap((vote) =>
        given.some(({ by, mark, outcome }) => by === vote.by && mark === vote.mark && outcome === vote.outcome)
          ? []
          : [flaw('foreign', `${name(op)} was decided by a vote ${vote.mark} that ${vote.by} did not give on it`)],
      ),
      ...(new Set(decision.votes.map(({ by }) => by)).size < decision.votes.length
        ? [flaw('doubled', `${name(op)} was decided by one person twice: ${JSON.stringify(decision.votes)}`)]
        : []),
      ...(isCertain ? [] : [flaw('lost', `${name(op)} was decided as ${decision.outcome} by ${JSON.stringify(decision.votes)}`)]),
      ...given.flatMap(({ by, mark }) => {
        if (told.get(mark) === 'done' && !isCounted(mark))
          return [flaw('lost', `${name(op)} was decided without ${mark}, and ${by} was told that it counts`)];
        if (told.get(mark) === 'refused' && isCounted(mark))
          return [flaw('doubled', `${name(op)} was decided with ${mark}, and ${by} was refused`)];
        return [];
      }),
    ];
  });
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
