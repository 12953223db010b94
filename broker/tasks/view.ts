/** A task as it is shown: in a list, and opened by somebody. Times are ISO 8601 in UTC. */
import type { JsonSchema } from '../flow.js';
import { may } from './rights.js';
import { stateOfTask, type Actor, type Attachment, type Outcome, type Task, type TaskState } from './task.js';

export interface Summary {
  readonly id: string;
  readonly step: string;
  readonly title: string;
  readonly summary: string;
  readonly requestId: string;
  readonly flow: string;
  readonly key: string | null;
  readonly state: TaskState;
  readonly assignee: string | null;
  /** Whose it is, when the assignee has it on somebody's behalf. */
  readonly owner: string | null;
  readonly candidates: Task['candidates'];
  readonly createdAt: string;
  readonly dueAt: string | null;
  readonly followUpAt: string | null;
  readonly endedAt: string | null;
  readonly priority: Task['priority'];
  /** Until when a requestor waits on the line, ms since 1970. */
  readonly holdingUntil: number | null;
  readonly hasDraft: boolean;
  readonly hasForm: boolean;
  readonly bulk: boolean;
  readonly claim: Task['claim'];
  readonly outcomes: readonly Outcome[];
  readonly votes: { readonly needed: number; readonly of: number; readonly given: number };
  readonly version: number;
}

export interface HistoryEntry {
  readonly at: string;
  readonly by: string;
  readonly forWhom: string | null;
  readonly action: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface TaskView extends Summary {
  readonly form: JsonSchema | null;
  readonly ui: unknown;
  readonly context: unknown;
  readonly contextSchema: JsonSchema | null;
  /** What whoever asks has begun to fill in. */
  readonly draft: unknown;
  readonly comments: readonly { readonly by: string; readonly at: string; readonly text: string }[];
  readonly attachable: Task['attachable'];
  readonly attachments: readonly (Pick<Attachment, 'id' | 'name' | 'type' | 'size' | 'by'> & { readonly at: string })[];
  readonly history: readonly HistoryEntry[];
  /** `true`, or why not. */
  readonly may: Readonly<Record<'claim' | 'return' | 'decide' | 'delegate' | 'assign' | 'comment', true | string>>;
  readonly decision: DecisionView | null;
  readonly undoUntil: number | null;
}

export interface DecisionView {
  readonly outcome: string;
  readonly data: unknown;
  readonly at: string;
  readonly by: string | null;
  readonly forWhom: readonly string[];
  readonly comment: string | null;
  readonly votes: readonly {
    readonly by: string;
    readonly forWhom: readonly string[];
    readonly outcome: string;
    readonly data: unknown;
    readonly comment: string | null;
    readonly at: string;
  }[];
}

const iso = (at: number): string => new Date(at).toISOString();
const isoOrNull = (at: number | null): string | null => (at === null ? null : iso(at));

export function summaryOf(id: string, task: Task, viewer: Actor, holdingUntil: number | null): Summary {
  const { holder, approvals } = task;
  return {
    id,
    step: task.step,
    title: task.title,
    summary: task.summary,
    requestId: task.requestId,
    flow: task.flow,
    key: task.key ?? null,
    state: stateOfTask(task),
    assignee: holder?.name ?? null,
    owner: holder === null ? null : (holder.behalf.at(-1)?.name ?? holder.name),
    candidates: task.candidates,
    createdAt: iso(task.createdAt),
    dueAt: isoOrNull(task.dueAt),
    followUpAt: isoOrNull(task.followUpAt),
    endedAt: isoOrNull(task.ended?.at ?? null),
    priority: task.priority,
    holdingUntil: task.ended === null ? holdingUntil : null,
    hasDraft: Object.hasOwn(task.drafts, viewer.name),
    hasForm: task.form !== null,
    bulk: task.bulk,
    claim: task.claim,
    outcomes: task.outcomes,
    votes: { needed: approvals?.needed ?? 1, of: approvals?.of ?? 1, given: task.votes.length },
    version: task.revision,
  };
}

export function viewOf(id: string, task: Task, viewer: Actor, holdingUntil: number | null, now: number): TaskView {
  const lastIsTheirs = task.votes.at(-1)?.by === viewer.name;
  return {
    ...summaryOf(id, task, viewer, holdingUntil),
    form: task.form,
    ui: task.ui ?? null,
    context: task.context ?? null,
    contextSchema: task.contextSchema ?? null,
    draft: task.drafts[viewer.name] ?? null,
    comments: task.comments.map((comment) => ({ ...comment, at: iso(comment.at) })),
    attachable: task.attachable,
    attachments: task.attachments.map(({ id: each, name, type, size, by, at }) => ({ id: each, name, type, size, by, at: iso(at) })),
    history: historyOf(task),
    may: {
      claim: may(task, 'claim', viewer),
      return: may(task, 'return', viewer),
      decide: may(task, 'decide', viewer),
      delegate: may(task, 'delegate', viewer),
      assign: may(task, 'assign', viewer),
      comment: may(task, 'comment', viewer),
    },
    decision: decisionOf(task),
    undoUntil: lastIsTheirs && task.undo !== null && task.undo.until > now ? task.undo.until : null,
  };
}

/** What was done. What was refused, and what voters filled in before there is a decision, is for the audit. */
const historyOf = (task: Task): readonly HistoryEntry[] =>
  task.audit
    .filter(({ action }) => action !== 'refused')
    .map(({ at, by, forWhom, action, detail: { data, ...detail } }) => ({
      at: iso(at),
      by,
      forWhom: forWhom.length === 0 ? null : forWhom.join(', '),
      action,
      detail: task.decision === null || data === undefined ? detail : { ...detail, data },
    }));

/** The decision as the task shows it, and as the step's result has it by default. */
export function decisionOf({ decision, votes }: Task): DecisionView | null {
  if (decision === null) return null;
  const { outcome, data, at, by, forWhom, comment } = decision;
  return {
    outcome,
    data,
    at: iso(at),
    by,
    forWhom,
    comment: comment ?? null,
    votes: votes.map((vote) => ({
      by: vote.by,
      forWhom: vote.forWhom,
      outcome: vote.outcome,
      data: vote.data,
      comment: vote.comment ?? null,
      at: iso(vote.at),
    })),
  };
}

/** What an event says of a task: enough to write a mail with a link, nothing of its content. */
export const aboutTask = (id: string, { step, title, requestId, candidates, holder, dueAt, decision }: Task) => ({
  id,
  step,
  title,
  requestId,
  candidates,
  assignee: holder?.name ?? null,
  dueAt: dueAt === null ? null : new Date(dueAt).toISOString(),
  outcome: decision?.outcome ?? null,
});
