/**
 * What may be done to a task, by whom, and what becomes of it: the one choke point, whatever the entry. Pure: a task, an action, an
 * actor and a time give the task as it is then. What is refused is written to the task's audit, too.
 */
import { flawed, refuse, type Action, type PersonsAction, type Refusal } from './action.js';
import { append } from './audit.js';
import { flawsOf } from './form.js';
import { excluded, isCandidate, isTaskUser, over, permitted, personOf } from './rights.js';
import {
  idsOf,
  isSame,
  type Actor,
  type Attachment,
  type Behalf,
  type Due,
  type Holder,
  type Member,
  type Task,
  type TaskPlan,
  type Vote,
} from './task.js';
import { isTold } from './tally.js';
import { certain } from './votes.js';

/** With a refusal, the task differs only by its audit. Where nothing changes it is the same object. */
export interface Acted {
  readonly task: Task;
  readonly refusal?: Refusal;
  /** With a refusal: the same for the same try. */
  readonly what?: string;
}

const longestText = 4_000;
const longestDraft = 65_536;
const mostAttachments = 20;
const mostComments = 200;
const mostDrafts = 20;
/**
 * So many refusals of one person stand in the audit of a task: it must not grow for as long as somebody tries. Those for their content are
 * counted by themselves: there is no end of content, and nobody shall hide behind it what else they tried.
 */
const mostRefusals = 50;
const mostInvalid = 20;
/** Of what somebody sent, so much is repeated in the audit. */
const longestQuote = 100;
const longestWhy = 300;

/** A new task. Somebody who may not decide is not assigned. */
export function create({ assign, ...plan }: TaskPlan, now: number): Task {
  const task: Task = {
    ...plan,
    createdAt: now,
    updatedAt: now,
    revision: 1,
    ended: null,
    holder: null,
    undo: null,
    votes: [],
    decision: null,
    drafts: {},
    comments: [],
    attachments: [],
    audit: append([], {
      at: now,
      by: 'hub',
      forWhom: [],
      via: 'hub',
      action: 'created',
      detail: {
        title: plan.title,
        candidates: plan.candidates,
        dueAt: plan.dueAt,
        ...(plan.approvals === undefined ? {} : { approvals: plan.approvals }),
      },
    }),
  };
  if (assign === undefined) return task;
  const why = excluded(task, [assign]);
  const holder = { ...personOf(assign), since: now, behalf: [] };
  const entry = { at: now, by: 'hub', forWhom: [], via: 'hub' };
  return why === undefined
    ? { ...task, holder, audit: append(task.audit, { ...entry, action: 'assigned', detail: { to: assign.name } }) }
    : {
        ...task,
        audit: append(task.audit, {
          ...entry,
          action: 'refused',
          detail: { action: 'assign', to: assign.name, code: 'not-permitted', why },
        }),
      };
}

/** How often this refusal makes it of late: what is refused again and again is written down at the 1st, 2nd, 4th, 8th, … time. */
type Times = (what: string) => number;
const once: Times = () => 1;

export function act(task: Task, action: Action, actor: Actor, now: number, times: Times = once): Acted {
  const judged = judge(task, action, actor, now);
  if ('code' in judged) return noted(task, action, actor, judged, now, times);
  const { change, entries = [], forWhom = [] } = judged;
  if (entries.length === 0 && Object.keys(change).length === 0) return { task };
  const audit = entries.reduce(
    (soFar, [name, detail]) =>
      append(soFar, { at: now, by: actor.name, forWhom: forWhom.map(({ name: whom }) => whom), via: actor.via, action: name, detail }),
    task.audit,
  );
  return { task: { ...task, ...change, updatedAt: now, revision: task.revision + (entries.length > 0 ? 1 : 0), audit } };
}

/** What somebody tried and was refused before it could be read as an action, or because of the way it came. Who may not do it hears that. */
export function refused(task: Task, what: PersonsAction, actor: Actor, refusal: Refusal, now: number, times: Times = once): Acted {
  const standing = what === 'undo' ? over(task) : permitted(task, what, actor);
  const isTheirs = standing === undefined || !('code' in standing) || standing.code === 'conflict';
  return noted(task, { do: what }, actor, isTheirs ? refusal : standing, now, times);
}

interface Done {
  readonly change: Partial<Task>;
  /** What the audit says; none: nothing has happened that it must tell. */
  readonly entries?: readonly (readonly [action: string, detail: Readonly<Record<string, unknown>>])[];
  readonly forWhom?: readonly Behalf[];
}

function judge(task: Task, action: Action, actor: Actor, now: number): Done | Refusal {
  if (action.do === 'dates' || action.do === 'seal' || action.do === 'withdraw') {
    if (actor.via !== 'hub') return refuse('not-permitted', 'only the hub does this');
    if (action.do === 'dates') return dates(task, now);
    if (action.do === 'seal') return { change: { undo: null } };
    // A decision that may still be taken back is not one yet.
    return (
      (task.undo === null ? over(task) : undefined) ?? {
        change: { ...ended({ state: 'withdrawn', at: now, why: action.why }), decision: null },
        entries: [['withdrawn', { why: action.why }]],
      }
    );
  }
  // It needs what the others forbid: that the task has ended.
  if (action.do === 'undo') return undo(task, actor, now);
  const standing = permitted(task, action.do, actor);
  if ('code' in standing) return standing;
  const { behalf } = standing;
  const texts = 'text' in action && action.text !== undefined ? { text: action.text } : {};
  if ('text' in action && (action.text ?? '').length > longestText)
    return flawed({ pointer: '#/text', detail: `must have at most ${longestText} characters` });

  switch (action.do) {
    case 'claim':
      if (task.holder !== null && isSame(task.holder, actor)) return { change: {} };
      return { change: { holder: { ...personOf(actor), since: now, behalf } }, entries: [['claimed', {}]], forWhom: behalf };
    case 'return':
      return { change: { holder: null }, entries: [['returned', texts]], forWhom: behalf };
    case 'assign': {
      const to = receiver(task, action);
      if ('code' in to) return to;
      if (!isCandidate(task, to)) return refuse('not-permitted', `${to.name} is not among those whom this task is for: delegate it`);
      return { change: { holder: { ...personOf(to), since: now, behalf: [] } }, entries: [['assigned', { to: to.name }]], forWhom: behalf };
    }
    case 'delegate': {
      const to = receiver(task, action);
      if ('code' in to) return to;
      if ([actor, ...behalf].some((person) => isSame(person, to))) return flawed({ pointer: '#/to', detail: 'has it in hand already' });
      const holder: Holder = { ...personOf(to), since: now, behalf: [{ ...personOf(actor), how: 'delegation' }, ...behalf] };
      return { change: { holder }, entries: [['delegated', { to: to.name, ...texts }]], forWhom: behalf };
    }
    case 'resolve': {
      const at = (task.holder?.behalf ?? []).findIndex(({ how }) => how === 'delegation');
      const [back, ...rest] = task.holder?.behalf.slice(at) ?? [];
      if (back === undefined) return refuse('conflict', 'it is not delegated');
      return {
        change: { holder: { ...personOf(back), since: now, behalf: rest } },
        entries: [['resolved', { to: back.name, ...texts }]],
        forWhom: behalf,
      };
    }
    case 'comment': {
      if (action.text.trim() === '') return flawed({ pointer: '#/text', detail: 'must not be empty' });
      if (task.comments.length >= mostComments) return refuse('conflict', `a task has at most ${mostComments} comments`);
      return {
        change: { comments: [...task.comments, { by: actor.name, at: now, text: action.text }] },
        entries: [['commented', texts]],
        forWhom: behalf,
      };
    }
    case 'draft': {
      if (JSON.stringify(action.data ?? null).length > longestDraft)
        return flawed({ pointer: '#/data', detail: `must have at most ${longestDraft} bytes` });
      const others = Object.entries(task.drafts).filter(([name]) => name !== actor.name);
      return { change: { drafts: Object.fromEntries([...others.slice(1 - mostDrafts), [actor.name, action.data]]) } };
    }
    case 'attach':
      return attach(task, action.attachment, actor, now, behalf);
    case 'decide':
      return decide(task, action, actor, now, behalf);
  }
}

/** Whom a task is given to: known, somebody who answers tasks, and allowed to decide on this one. */
function receiver(task: Task, { to, person }: { readonly to: string; readonly person?: Member }): Member | Refusal {
  if (person === undefined) return flawed({ pointer: '#/to', detail: `there is no user ${JSON.stringify(to)}` });
  if (!isTaskUser(person)) return flawed({ pointer: '#/to', detail: `${person.name} is not one who answers tasks` });
  const why = excluded(task, [person]);
  return why === undefined ? person : refuse('not-permitted', why);
}

function attach(
  task: Task,
  attachment: Omit<Attachment, 'by' | 'at'>,
  actor: Actor,
  now: number,
  behalf: readonly Behalf[],
): Done | Refusal {
  const { attachable } = task;
  if (attachable === null) return refuse('conflict', 'this task takes no attachments');
  if (task.attachments.length >= mostAttachments) return refuse('conflict', `a task has at most ${mostAttachments} attachments`);
  const fits = (pattern: string) =>
    pattern.endsWith('/*') ? attachment.type.startsWith(pattern.slice(0, -1)) : attachment.type === pattern;
  if (attachment.size > attachable.maxBytes) return flawed({ pointer: '#', detail: `must have at most ${attachable.maxBytes} bytes` });
  if (!attachable.types.some(fits)) return flawed({ pointer: '#', detail: `must be of type ${attachable.types.join(', ')}` });
  if (task.attachments.some(({ id }) => id === attachment.id)) return { change: {} };
  const { id: _id, ...detail } = attachment;
  return {
    change: { attachments: [...task.attachments, { ...attachment, by: actor.name, at: now }] },
    entries: [['attached', detail]],
    forWhom: behalf,
  };
}

function decide(
  task: Task,
  { outcome: id, data: said, comment, undoMs }: Extract<Action, { do: 'decide' }>,
  actor: Actor,
  now: number,
  behalf: readonly Behalf[],
): Done | Refusal {
  const outcome = task.outcomes.find((each) => each.id === id);
  if (outcome === undefined)
    return flawed({ pointer: '#/outcome', detail: `must be one of ${task.outcomes.map((each) => each.id).join(', ')}` });
  const data = task.form === null ? null : (said ?? {});
  const flaws = [
    ...flawsOf(task.form, said),
    ...outcome.needs
      .filter((name) => isMissing(name === 'comment' ? comment : fieldOf(data, name)))
      .map((name) => ({ pointer: `#/${name}`, detail: `is missing: ${outcome.label} needs it` })),
    ...((comment ?? '').length > longestText ? [{ pointer: '#/comment', detail: `must have at most ${longestText} characters` }] : []),
  ];
  if (flaws.length > 0) return flawed(...flaws);
  const words = comment === undefined || comment.trim() === '' ? {} : { comment };
  const forWhom = behalf.map(({ name }) => name);
  const vote: Vote = {
    by: actor.name,
    forWhom,
    ids: [...new Set([actor, ...behalf].flatMap(idsOf))],
    outcome: id,
    data,
    ...words,
    at: now,
  };
  const votes = [...task.votes, vote];
  const result = certain(task.approvals, votes);
  const before: Holder = task.holder ?? { ...personOf(actor), since: now, behalf };
  const undo = undoMs > 0 ? { until: now + undoMs, holder: before } : null;
  const voted = ['voted', { outcome: id, ...(data === null ? {} : { data }), ...words }] as const;
  const drafts = Object.fromEntries(Object.entries(task.drafts).filter(([name]) => name !== actor.name));
  if (result === undefined) return { change: { votes, undo, drafts, holder: null }, entries: [voted], forWhom: behalf };
  const deciding = result === id ? vote : votes.findLast((each) => each.outcome === result)!;
  const decision = { outcome: result, data: deciding.data, at: now, by: actor.name, forWhom, ...words };
  return {
    change: { ...ended({ state: 'decided', at: now }), holder: before, votes, undo, drafts, decision },
    entries: [voted, ['decided', { outcome: result, votes: votes.length }]],
    forWhom: behalf,
  };
}

const isMissing = (value: unknown): boolean => value === undefined || value === null || (typeof value === 'string' && value.trim() === '');
const fieldOf = (data: unknown, name: string): unknown =>
  typeof data === 'object' && data !== null && Object.hasOwn(data, name) ? (data as Readonly<Record<string, unknown>>)[name] : undefined;

function undo(task: Task, actor: Actor, now: number): Done | Refusal {
  const last = task.votes.at(-1);
  if (last === undefined || !isSame({ name: last.by }, actor)) return over(task) ?? refuse('conflict', 'the last vote is not yours');
  if (task.ended !== null && task.ended.state !== 'decided') return over(task)!;
  if (task.undo === null || now >= task.undo.until) return over(task) ?? refuse('conflict', 'it is too late to take the vote back');
  return {
    change: { votes: task.votes.slice(0, -1), decision: null, ended: null, undo: null, holder: task.undo.holder },
    entries: [['undone', { outcome: last.outcome }]],
  };
}

const ended = (how: NonNullable<Task['ended']>): Partial<Task> => ({ ended: how, undo: null });

/** What has fallen due, in order. */
function dates(task: Task, now: number): Done {
  const due = task.ended === null ? task.dates.filter(({ at }) => at <= now) : [];
  if (due.length === 0) return { change: {} };
  return due.reduce<Done & { readonly entries: NonNullable<Done['entries']> }>(
    ({ change, entries }, date) => {
      const next = fallDue({ ...task, ...change }, date, now);
      return { change: { ...change, ...next.change }, entries: [...entries, ...(next.entries ?? [])] };
    },
    { change: { dates: task.dates.filter(({ at }) => at > now) }, entries: [] },
  );
}

function fallDue(task: Task, date: Due, now: number): Done {
  if (task.ended !== null) return { change: {} };
  switch (date.what) {
    case 'remind':
      return { change: {}, entries: [['reminded', { share: date.share }]] };
    case 'escalate': {
      const { users, groups } = task.candidates;
      // Whoever had it in hand has let it lie: their drafts and comments stay.
      const from = task.holder === null ? {} : { from: task.holder.name };
      return {
        change: { candidates: { users, groups: [...new Set([...groups, ...date.groups])] }, holder: null },
        entries: [['escalated', { to: date.groups, ...from }]],
      };
    }
    case 'expire':
      return {
        change: {
          ...ended({ state: 'expired', at: now, why: 'nobody has decided in time' }),
          decision: { outcome: date.outcome, data: null, at: now, by: null, forWhom: [] },
        },
        entries: [['expired', { outcome: date.outcome }]],
      };
  }
}

type Tried = { readonly do: Action['do'] } & Partial<Readonly<Record<'to' | 'outcome', string>>>;

/** The task with what was refused in its audit: who, by which entry, what and why, and where content was wrong; never the content. */
function noted(task: Task, { do: action, to, outcome }: Tried, actor: Actor, refusal: Refusal, now: number, times: Times): Acted {
  const { code, errors } = refusal;
  const isInvalid = code === 'invalid';
  const detail = {
    action,
    ...(to === undefined ? {} : { to: to.slice(0, longestQuote) }),
    ...(outcome === undefined ? {} : { outcome: outcome.slice(0, longestQuote) }),
    code,
    why: (errors === undefined ? refusal.detail : `wrong at ${errors.map(({ pointer }) => pointer).join(', ')}`).slice(0, longestWhy),
  };
  const what = JSON.stringify([actor.name, actor.via, detail]);
  const soOften = times(what);
  const most = isInvalid ? mostInvalid : mostRefusals;
  const before = task.audit.filter(
    (entry) => entry.action === 'refused' && entry.by === actor.name && (entry.detail['code'] === 'invalid') === isInvalid,
  ).length;
  if (!isTold(soOften) || before >= most) return { task, refusal, what };
  const entry = {
    at: now,
    by: actor.name,
    forWhom: [],
    via: actor.via,
    action: 'refused',
    detail: {
      ...detail,
      ...(soOften === 1 ? {} : { times: soOften }),
      ...(before === most - 1 ? { more: 'further refusals of this person are not written down' } : {}),
    },
  };
  return { task: { ...task, audit: append(task.audit, entry) }, refusal, what };
}

/** When somebody must look at the task again: what falls due next, or the end of the time to take the decision back. */
export function wakeAtOf(task: Task): number | null {
  if (task.ended === null) return task.dates[0]?.at ?? null;
  return task.ended.state === 'withdrawn' ? null : (task.undo?.until ?? task.ended.at);
}
