/**
 * A task as a dossier: what is kept, when it wakes, and in which lists it is found. An undecided one is in the list of who has it in
 * hand, or in those of its candidates; an ended one in those of everybody who took part. Lists are sorted by when their tasks are due
 * (or ended).
 */
import { createHash } from 'node:crypto';
import type { Next, Withdrawn } from '../dossiers.js';
import type { Dossier } from '../store.js';
import { takersOf } from './rights.js';
import { act, wakeAtOf } from './rules.js';
import { theHub, type Task } from './task.js';

/** What its dossiers are called. */
export const taskKind = 'task';

const plain = (name: string): string => name.trim().toLowerCase();

export const lists = {
  /** In this person's hand. */
  of: (name: string): string => `task:of:${plain(name)}`,
  /** Free, for this person by name, or for this group. */
  forUser: (name: string): string => `task:for:${plain(name)}`,
  forGroup: (group: string): string => `task:group:${group}`,
  /** Ended, and this person took part. */
  doneBy: (name: string): string => `task:done:${plain(name)}`,
  /** Every undecided one. */
  all: 'task:all',
} as const;

/** Tasks without a due date come after all that have one. */
const never = 1e14;

/** The place of a task in its lists. Its id is a fraction of a millisecond, so that few of those that are due at once share a place. */
export function placeOf(id: string, { ended, dueAt, createdAt }: Task): number {
  const fraction = createHash('sha1').update(id).digest().readUInt16BE() % 1_024;
  return (ended?.at ?? dueAt ?? never + createdAt) + fraction / 1_024;
}

export function taskIn({ data }: Pick<Dossier, 'data'>): Task {
  const { task, ended } = data as { readonly task: Task; readonly ended?: 'withdrawn' };
  if (ended === undefined || task.ended !== null) return task;
  // Withdrawn by a process whose project had no tasks any more.
  return { ...task, ended: { state: 'withdrawn', at: task.updatedAt, why: 'its request is over' } };
}

/** The next version of its dossier. `isDone`: its result is with the broker, or nobody wants it. */
export function nextOf(
  id: string,
  task: Task,
  { isDone = false, wakeAt = wakeAtOf(task) }: { readonly isDone?: boolean; readonly wakeAt?: number | null } = {},
): Next {
  const place = placeOf(id, task);
  const { candidates, holder } = task;
  const names =
    task.ended !== null
      ? takersOf(task).map(lists.doneBy)
      : holder !== null
        ? [lists.all, lists.of(holder.name)]
        : [lists.all, ...candidates.users.map(lists.forUser), ...candidates.groups.map(lists.forGroup)];
  return {
    data: { task },
    isOpen: !isDone,
    index: Object.fromEntries(names.map((name) => [name, place])),
    ...(isDone || wakeAt === null ? {} : { wakeAt }),
  };
}

/** What becomes of a task whose request has ended otherwise. */
export const withdrawn: Withdrawn = (id, data, why, now) => {
  const task = taskIn({ data });
  const { task: over, refusal } = act(task, { do: 'withdraw', why }, theHub, now);
  // What is decided is decided, though its result has not been seen to go.
  const next = nextOf(id, refusal === undefined ? over : task, { isDone: true });
  return { data: next.data, index: next.index ?? {} };
};
