/**
 * The tasks of a hub, for whoever people come by (web page, API key, AMQP): find, read, act, watch. Everything that is done to a task goes
 * through `act` here and `rules.ts` behind it.
 */
import { createHash } from 'node:crypto';
import { pause, type Clock } from '../clock.js';
import type { Dossiers } from '../dossiers.js';
import type { Emit } from '../emit.js';
import { deriveId, follow, type Envelope } from '../envelope.js';
import { Fault, messageOf } from '../fault.js';
import type { Line } from '../line.js';
import type { People } from '../people.js';
import type { Listed, Store } from '../store.js';
import { reachable } from '../waiting.js';
import { decode, isUndecodable } from '../wire.js';
import type { Action, Refusal } from './action.js';
import type { AuditEntry } from './audit.js';
import { countOf, pageOf, readCursor } from './listing.js';
import { lists, nextOf, placeOf, taskIn, taskKind } from './parked.js';
import { isCandidate, maySee } from './rights.js';
import { act as judged, refused, type Acted } from './rules.js';
import { openTally } from './tally.js';
import { isSame, stateOfTask, type Actor, type Attachment, type Member, type Task } from './task.js';
import { aboutTask, summaryOf, viewOf, type Summary, type TaskView } from './view.js';

export const views = ['mine', 'groups', 'due', 'done', 'all'] as const;
export type View = (typeof views)[number];

/** What a person asks for: an action of `action.ts`, as it comes from outside. */
export type Wish =
  | { readonly do: 'claim' }
  | { readonly do: 'return'; readonly text?: string }
  | { readonly do: 'assign'; readonly to: string }
  | { readonly do: 'delegate'; readonly to: string; readonly text?: string }
  | { readonly do: 'resolve'; readonly text?: string }
  | { readonly do: 'comment'; readonly text: string }
  | { readonly do: 'draft'; readonly data: unknown }
  | { readonly do: 'decide'; readonly outcome: string; readonly data: unknown; readonly comment?: string }
  | { readonly do: 'undo' };

export type Answered =
  | { readonly result: 'done'; readonly task: TaskView }
  /** `task`: as it is now, for who may see it. */
  | { readonly result: 'refused'; readonly refusal: Refusal; readonly task?: TaskView };

export interface TaskPage {
  readonly tasks: readonly Summary[];
  readonly next: string | null;
  readonly total: number;
  readonly counts: Counts;
}

export interface Counts {
  readonly mine: number;
  readonly groups: number;
  readonly due: number;
}

export type TaskEvent =
  | { readonly event: 'task'; readonly data: Summary }
  | { readonly event: 'gone'; readonly data: { readonly id: string; readonly why: string } }
  | { readonly event: 'counts'; readonly data: Counts }
  /** Something was missed: read again. */
  | { readonly event: 'resync'; readonly data: Readonly<Record<string, never>> };

export interface ListWish {
  readonly view: View;
  /** Words that stand in title, summary, key, or a name. */
  readonly q?: string;
  readonly cursor?: string;
  readonly limit: number;
}

export interface Tasks {
  list(actor: Actor, wish: ListWish): Promise<TaskPage>;
  /** Undefined: there is none, or it is none of theirs. */
  get(id: string, actor: Actor): Promise<TaskView | undefined>;
  /** `revision`: refuse when it is not the task's. Undefined: no such task. */
  act(id: string, wish: Wish, actor: Actor, revision?: number): Promise<Answered | undefined>;
  /**
   * Somebody tried this, and it was refused before it came to the rules: what was sent cannot be read, or came a way that it must not. It stands in
   * the audit like any other. Resolves with why (that they may not do this at all, above all); undefined: no such task.
   */
  refuse(id: string, action: Wish['do'], refusal: Refusal, actor: Actor): Promise<Refusal | undefined>;
  attach(
    id: string,
    file: { readonly name: string; readonly type: string; readonly bytes: Buffer },
    actor: Actor,
  ): Promise<Answered | undefined>;
  attachment(id: string, attachment: string, actor: Actor): Promise<{ readonly about: Attachment; readonly bytes: Buffer } | undefined>;
  /** Decides several of those that need no form; each for itself. */
  bulk(
    ids: readonly string[],
    wish: { readonly outcome: string; readonly comment?: string },
    actor: Actor,
  ): Promise<readonly { readonly id: string; readonly refusal?: Refusal }[]>;
  audit(id: string, actor: Actor): Promise<readonly AuditEntry[] | undefined>;
  /** Calls `listener` for what happens to tasks that this person may see, until `signal` aborts. Who they stand in for is asked for anew each time. */
  watch(actor: () => Promise<Actor | undefined>, listener: (event: TaskEvent) => void, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

export interface TasksOptions {
  readonly store: Store;
  readonly dossiers: Dossiers;
  readonly people: People;
  readonly clock: Clock;
  readonly emit: Emit;
  readonly line: Line;
  readonly announce: (topic: string, id: string, data: unknown) => Promise<void>;
}

/** How long a decision can be taken back, when nobody waits on the line for it. */
const undoMs = 8_000;
/** What is told as an event, `tasks.<what>`, when people do it. */
const announced = ['assigned', 'delegated', 'resolved', 'decided'];
const dueWithinMs = 24 * 3_600_000;
/** What happens within this time is told at once. */
const gatherMs = 50;
/** With more changes than this waiting to be told, watchers read again instead. */
const mostPending = 1_000;

export async function openTasks({ store, dossiers, people, clock, emit, line, announce }: TasksOptions): Promise<Tasks> {
  const found = async (id: string): Promise<Task | undefined> => {
    const dossier = await reachable(dossiers.get(taskKind, id));
    return dossier === undefined ? undefined : taskIn(dossier);
  };
  const held = async ({ requestId, ended }: Task): Promise<number | null> =>
    ended === null ? ((await reachable(line.heldUntil(requestId))) ?? null) : null;

  const viewed = async (id: string, task: Task, actor: Actor): Promise<TaskView> => viewOf(id, task, actor, await held(task), clock.now());

  const placed = (listed: Listed): number => placeOf(listed.id, taskIn(listed));

  const tally = openTally(clock);

  /** Undefined: no such task. */
  async function change(
    id: string,
    action: Action['do'],
    actor: Actor,
    rule: (task: Task, now: number, times: (what: string) => number) => Acted,
  ): Promise<Acted | undefined> {
    const changed = await reachable(
      dossiers.change(taskKind, id, (current, now) => {
        const before = taskIn(current);
        const acted = rule(before, now, (what) => tally.next(`${id} ${what}`));
        // What is over stays over, and in the lists in which it is.
        const next = nextOf(id, acted.task, { isDone: !current.isOpen });
        return acted.task === before ? { result: acted } : { next, result: acted };
      }),
    );
    if (changed === undefined) return undefined;
    const { refusal, what } = changed;
    if (what !== undefined) tally.count(`${id} ${what}`);
    emit(refusal === undefined ? 'task.acted' : 'task.refused', {
      id,
      action,
      by: actor.name,
      via: actor.via,
      ...(refusal && { code: refusal.code }),
    });
    return changed;
  }

  async function refuse(id: string, action: Wish['do'], refusal: Refusal, actor: Actor): Promise<Refusal | undefined> {
    const changed = await change(id, action, actor, (task, now, times) => refused(task, action, actor, refusal, now, times));
    return changed?.refusal;
  }

  async function act(id: string, action: Action, actor: Actor, revision?: number): Promise<Answered | undefined> {
    const changed = await change(id, action.do, actor, (before, now, times) => {
      const acted = judged(before, action, actor, now, times);
      if (revision === undefined || revision === before.revision || acted.refusal?.code === 'not-permitted') return acted;
      return { task: before, refusal: { code: 'conflict', detail: `it has changed: it is version ${before.revision} now` } };
    });
    if (changed === undefined) return undefined;
    const { task, refusal } = changed;
    if (refusal === undefined) {
      // For whoever writes mails. Best effort: the inbox shows it anyway.
      const entry = task.audit.at(-1);
      if (entry !== undefined && announced.includes(entry.action))
        await announce(`tasks.${entry.action}`, `${id}/${entry.n}`, aboutTask(id, task)).catch((error: unknown) =>
          emit('task.announce.failed', { id, error: messageOf(error) }),
        );
      return { result: 'done', task: await viewed(id, task, actor) };
    }
    return { result: 'refused', refusal, ...(maySee(task, actor) ? { task: await viewed(id, task, actor) } : {}) };
  }

  /** A wish with what only the hub knows. */
  async function actionOf(id: string, wish: Wish): Promise<Action | undefined> {
    switch (wish.do) {
      case 'assign':
      case 'delegate': {
        const person = await reachable(people.find(wish.to));
        return { ...wish, ...(person === undefined ? {} : { person }) };
      }
      case 'decide': {
        const task = await found(id);
        return task === undefined ? undefined : { ...wish, undoMs: (await held(task)) === null ? undoMs : 0 };
      }
      default:
        return wish;
    }
  }

  const everyone = ({ standsInFor, ...actor }: Actor): readonly Member[] => [actor, ...standsInFor];
  const listsOf: Readonly<Record<View, (actor: Actor) => readonly string[]>> = {
    mine: (actor: Actor) => everyone(actor).map(({ name }) => lists.of(name)),
    groups: (actor: Actor) => [
      ...new Set(everyone(actor).flatMap(({ name, groups }) => [lists.forUser(name), ...groups.map(lists.forGroup)])),
    ],
    due: (actor: Actor) => [...listsOf.mine(actor), ...listsOf.groups(actor)],
    done: ({ name }: Actor) => [lists.doneBy(name)],
    all: ({ roles }: Actor) => (roles.some((role) => role === 'operator' || role === 'admin') ? [lists.all] : []),
  };

  async function counts(actor: Actor): Promise<Counts> {
    const [mine, groups, due] = await reachable(
      Promise.all([
        countOf(store, listsOf.mine(actor)),
        countOf(store, listsOf.groups(actor)),
        countOf(store, listsOf.due(actor), clock.now() + dueWithinMs),
      ]),
    );
    return { mine, groups, due };
  }

  async function list(actor: Actor, { view, q = '', cursor, limit }: ListWish): Promise<TaskPage> {
    const from = cursor === undefined ? undefined : readCursor(cursor);
    if (cursor !== undefined && from === undefined) throw new Fault('invalid', 'cursor is none that this hub gave', { reason: 'cursor' });
    const words = q
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    const latest = clock.now() + dueWithinMs;
    const options = {
      limit,
      ...(from === undefined ? {} : { cursor: from }),
      highestFirst: view === 'done',
      placeOf: placed,
      ...(view === 'due' ? { upTo: latest } : {}),
      fits: (listed: Listed) => {
        const text = words.length === 0 ? '' : textOf(taskIn(listed));
        return words.every((word) => text.includes(word));
      },
    };
    const [page, its, rest] = await Promise.all([
      reachable(pageOf(store, listsOf[view](actor), options)),
      counts(actor),
      view === 'done' || view === 'all' ? reachable(countOf(store, listsOf[view](actor))) : 0,
    ]);
    const total = view === 'done' || view === 'all' ? rest : its[view];
    const tasks = await Promise.all(
      page.found.map(async (listed) => summaryOf(listed.id, taskIn(listed), actor, await held(taskIn(listed)))),
    );
    return {
      tasks,
      next: page.next ?? null,
      total: words.length > 0 && page.next === undefined && cursor === undefined ? tasks.length : total,
      counts: its,
    };
  }

  const watchers = openWatchers({ store, clock, emit, found, held, counts });
  const unwatch = await store.watch((name) => watchers.changed(name));

  return {
    list,
    async get(id, actor) {
      const task = await found(id);
      return task !== undefined && maySee(task, actor) ? viewed(id, task, actor) : undefined;
    },
    async act(id, wish, actor, revision) {
      const action = await actionOf(id, wish);
      return action === undefined ? undefined : act(id, action, actor, revision);
    },
    refuse,
    async attach(id, { name, type, bytes }, actor) {
      const task = await found(id);
      if (task === undefined) return undefined;
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const attachment = { id: deriveId(id, 'attachment', name, sha256), name, type, size: bytes.length, sha256 };
      const action: Action = { do: 'attach', attachment };
      // Only what will be taken is kept; kept first, so that what the task names is there.
      if (judged(task, action, actor, clock.now()).refusal === undefined) await keepBytes(id, attachment, bytes);
      return act(id, action, actor);
    },
    async attachment(id, attachment, actor) {
      const task = await found(id);
      const about = task?.attachments.find((each) => each.id === attachment);
      if (task === undefined || about === undefined || !maySee(task, actor)) return undefined;
      const kept = await reachable(dossiers.get(attachmentKind, about.id));
      return kept === undefined ? undefined : { about, bytes: kept.message.body };
    },
    async bulk(ids, { outcome, comment }, actor) {
      const results = [];
      for (const id of ids) {
        const task = await found(id);
        const wish: Wish = { do: 'decide', outcome, data: undefined, ...(comment === undefined ? {} : { comment }) };
        const alone: Refusal = { code: 'invalid', detail: 'it is to be decided by itself' };
        if (task === undefined || !maySee(task, actor)) {
          await refuse(id, 'decide', alone, actor);
          results.push({ id, refusal: { code: 'invalid' as const, detail: 'there is no such task' } });
        } else if (!task.bulk || task.form !== null) results.push({ id, refusal: (await refuse(id, 'decide', alone, actor)) ?? alone });
        else {
          const answered = await act(id, (await actionOf(id, wish)) ?? { ...wish, undoMs: 0 }, actor);
          results.push(answered?.result === 'refused' ? { id, refusal: answered.refusal } : { id });
        }
      }
      return results;
    },
    async audit(id, actor) {
      const task = await found(id);
      return task !== undefined && maySee(task, actor) ? task.audit : undefined;
    },
    watch: watchers.watch,
    async close() {
      watchers.close();
      await unwatch();
    },
  };

  /** The bytes of an attachment are a dossier of their own, which the journal keeps like any other. */
  async function keepBytes(id: string, attachment: { readonly id: string; readonly type: string }, bytes: Buffer): Promise<void> {
    const dossier = await reachable(dossiers.get(taskKind, id));
    const parked = dossier === undefined ? undefined : decode(dossier.message);
    if (parked === undefined || isUndecodable(parked)) return;
    const envelope: Envelope = {
      ...follow(parked, { at: clock.now(), slip: parked.slip, body: bytes, contentType: attachment.type, contentEncoding: undefined }),
      id: attachment.id,
    };
    await reachable(dossiers.park(attachmentKind, envelope, { data: { task: id } }));
  }
}

const attachmentKind = 'attachment';

/** What a search looks in. */
const textOf = ({ title, summary, key, flow, holder, candidates }: Task): string =>
  [title, summary, key, flow, holder?.name, ...candidates.groups].join(' ').toLowerCase();

/** Who watches on this hub, and what they are told. */
function openWatchers({
  clock,
  emit,
  found,
  held,
  counts,
}: Pick<TasksOptions, 'clock' | 'emit' | 'store'> & {
  readonly found: (id: string) => Promise<Task | undefined>;
  readonly held: (task: Task) => Promise<number | null>;
  readonly counts: (actor: Actor) => Promise<Counts>;
}) {
  interface Watcher {
    readonly actor: () => Promise<Actor | undefined>;
    readonly listener: (event: TaskEvent) => void;
    /** Tasks of which they were told. */
    readonly shown: Set<string>;
    countsAreOld: boolean;
  }
  const watching = new Set<Watcher>();
  const pending = new Set<string>();
  const closing = new AbortController();
  let telling = false;

  function changed(name: string): void {
    if (watching.size === 0 || !name.startsWith(`${taskKind}/`)) return;
    pending.add(name.slice(taskKind.length + 1));
    if (telling) return;
    telling = true;
    void tell()
      .catch((error: unknown) => {
        emit('task.watch.failed', { error: messageOf(error) });
        for (const { listener } of watching) listener({ event: 'resync', data: {} });
      })
      .finally(() => (telling = false));
  }

  async function tell(): Promise<void> {
    while (pending.size > 0 && !closing.signal.aborted) {
      await pause(clock, gatherMs, closing.signal);
      const ids = [...pending];
      pending.clear();
      if (ids.length > mostPending) {
        for (const { listener } of watching) listener({ event: 'resync', data: {} });
        continue;
      }
      const actors = new Map(await Promise.all([...watching].map(async (watcher) => [watcher, await watcher.actor()] as const)));
      for (const id of ids) await tellOf(id, actors);
      await Promise.all(
        [...actors].map(async ([watcher, actor]) => {
          if (actor === undefined || !watcher.countsAreOld) return;
          watcher.countsAreOld = false;
          watcher.listener({ event: 'counts', data: await counts(actor) });
        }),
      );
    }
  }

  async function tellOf(id: string, actors: ReadonlyMap<Watcher, Actor | undefined>): Promise<void> {
    const task = await found(id);
    if (task === undefined) return;
    const holdingUntil = await held(task);
    for (const [watcher, actor] of actors) {
      if (actor === undefined) continue;
      const isTheirs = concerns(task, actor);
      const wasTheirs = watcher.shown.has(id);
      if (!isTheirs && !wasTheirs) continue;
      watcher.countsAreOld = true;
      if (isTheirs && stateOfTask(task) !== 'withdrawn') {
        if (task.ended === null) watcher.shown.add(id);
        else watcher.shown.delete(id);
        watcher.listener({ event: 'task', data: summaryOf(id, task, actor, holdingUntil) });
      } else {
        watcher.shown.delete(id);
        watcher.listener({ event: 'gone', data: { id, why: task.ended?.why ?? 'it is no longer yours' } });
      }
    }
  }

  /** Theirs to do, or in their hand, or done with their part in it: an operator is not told of every task. */
  const concerns = (task: Task, actor: Actor): boolean =>
    [actor, ...actor.standsInFor].some(
      (person) =>
        isCandidate(task, person) ||
        (task.holder !== null && [task.holder, ...task.holder.behalf].some((holder) => isSame(holder, person))),
    ) || task.votes.some(({ by }) => isSame({ name: by }, actor));

  return {
    changed,
    watch(actor: Watcher['actor'], listener: Watcher['listener'], signal: AbortSignal): Promise<void> {
      const watcher: Watcher = { actor, listener, shown: new Set(), countsAreOld: false };
      watching.add(watcher);
      return new Promise((resolve) => {
        const done = () => {
          watching.delete(watcher);
          resolve();
        };
        const all = AbortSignal.any([signal, closing.signal]);
        if (all.aborted) return done();
        all.addEventListener('abort', done, { once: true });
      });
    },
    close: () => closing.abort(),
  };
}
