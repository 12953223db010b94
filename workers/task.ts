/**
 * A task for people (EIP: human task behind a Claim Check): what comes to the step is parked, shown in the inbox, and goes on as the step's
 * result once it is decided. Everything is configuration; who may do what is in `broker/tasks/rights.ts`.
 */
import { onwardsFrom } from '../broker/dossiers.js';
import type { Envelope } from '../broker/envelope.js';
import type { JsonSchema } from '../broker/flow.js';
import { bodyOf, checkStepName, written, type Step, type StepTools, type Verdict } from '../broker/step.js';
import { calendar, everyHour, readSpan, type Calendar, type CalendarOptions, type Span } from '../broker/tasks/calendar.js';
import { formOf } from '../broker/tasks/form.js';
import { nextOf, taskIn, taskKind, withdrawn } from '../broker/tasks/parked.js';
import { act, create } from '../broker/tasks/rules.js';
import { idsOf, theHub, type Due, type Outcome, type TaskPlan } from '../broker/tasks/task.js';
import { aboutTask, decisionOf, type DecisionView } from '../broker/tasks/view.js';

/** A value, or how to make it of the request's body. */
export type Of<Body, Value> = Value | ((body: Body, envelope: Envelope) => Value);

/** A button: what it is called, how it looks, and what it needs: a `comment`, or fields of the form beside those that are always required. */
export interface OutcomeOptions {
  readonly label?: string;
  readonly style?: 'primary' | 'danger' | 'plain';
  readonly needs?: readonly string[];
}

/** How many different people must agree: four-eyes, n of m. */
export interface ApprovalsOptions {
  readonly needed: number;
  /** Of how many that vote. Default: `needed`, so that one who disagrees decides. */
  readonly of?: number;
  /** What they must agree on. Default: the first outcome. */
  readonly outcome?: string;
  /** Names or mail addresses of those who may never decide, beside the principal of the request: who entered the data. */
  readonly never?: readonly (string | undefined)[];
}

export interface TaskOptions<Body> {
  readonly name: string;
  /** What is to be decided, in a line. */
  readonly title: Of<Body, string>;
  /** A second line in the list. */
  readonly summary?: Of<Body, string>;
  /** What there is to know for it, shown read-only. Default: the body. */
  readonly context?: Of<Body, unknown>;
  readonly contextSchema?: JsonSchema;
  /** JSON Schema (2020-12) of what a decision says beside its outcome. Fields that it does not name are refused. */
  readonly form?: Of<Body, JsonSchema>;
  /** Hints for drawing the form: `{ order, widgets, help, … }`. */
  readonly ui?: Of<Body, unknown>;
  /** The buttons, by id, in order. Default: `approve`, and `reject`, which needs a comment. */
  readonly outcomes?: Readonly<Record<string, OutcomeOptions>>;
  readonly candidates: Of<Body, { readonly users?: readonly string[]; readonly groups?: readonly string[] }>;
  /** Gives it to one of them from the start. */
  readonly assign?: Of<Body, string | undefined>;
  /** In so much working time, or at a date. Default, and at the latest: the request's deadline. */
  readonly due?: Of<Body, Span | Date>;
  readonly followUp?: Of<Body, Span | Date>;
  /** Reminds after these shares (0 to 1) of the time until it is due: an event `tasks.reminded`. */
  readonly reminders?: readonly number[];
  /** Lets other groups in, after a share of the time until it is due, or so long after it was made; who has it in hand loses it. */
  readonly escalate?: readonly { readonly after: number | Span; readonly to: readonly string[] }[];
  /** Decides by itself when it is due, or so long after it was made. */
  readonly expire?: { readonly outcome: string; readonly after?: Span };
  readonly approvals?: Of<Body, ApprovalsOptions | undefined>;
  /** `optional`: may be decided without claiming it first. Default: `required`. */
  readonly claim?: 'required' | 'optional';
  /** May be decided together with others; only without a form. */
  readonly bulk?: boolean;
  /** Higher is more urgent. */
  readonly priority?: Of<Body, number>;
  /** Files that people may add: `types` as in `image/*`. Default of `maxBytes`: 5 MB. */
  readonly attachments?: { readonly maxBytes?: number; readonly types: readonly string[] };
  /** Working hours. Default: every hour counts. */
  readonly calendar?: CalendarOptions;
  /** Makes the step's result. Default: the decision. */
  readonly result?: (body: Body, decision: TaskDecision) => unknown;
}

/** What was decided, by whom, when. */
export interface TaskDecision extends DecisionView {
  readonly comments: readonly { readonly by: string; readonly at: string; readonly text: string }[];
}

const largestAttachment = 10 * 1_024 * 1_024;

export function task<Body>(options: TaskOptions<Body>): Step {
  const name = checkStepName(options.name);
  const its = checked(name, options);
  const { result = (_body: Body, decision: TaskDecision) => decision } = options;

  async function run(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    if (envelope.type === 'event') return rung(envelope, tools);
    const now = tools.clock.now();
    const plan = planOf(its, envelope, now);
    const fresh = create(plan, now);
    await tools.dossiers.park(taskKind, envelope, nextOf(envelope.id, fresh));
    await tools.announce('tasks.created', envelope.id, aboutTask(envelope.id, fresh));
    await tools.report(envelope.requestId, waiting(plan.title), { name: 'step', data: { step: name, task: envelope.id } });
    return { go: 'nowhere' };
  }

  const waiting = (title: string) => ({ state: 'waiting', step: name, waitingOn: `task: ${title}` }) as const;

  /** A date has come, or it was decided. */
  async function rung(envelope: Envelope, tools: StepTools): Promise<Verdict> {
    const dossier = await tools.dossiers.rung(envelope);
    if (dossier?.isOpen !== true) return { go: 'nowhere' };
    const { id } = dossier;
    const before = taskIn(dossier).audit.length;
    const now = await tools.dossiers.change(taskKind, id, (current, at) => {
      const { task: dated } = act(taskIn(current), { do: 'dates' }, theHub, at);
      const isSealed = dated.ended !== null && (dated.undo === null || dated.undo.until <= at);
      const { task: next } = isSealed && dated.undo !== null ? act(dated, { do: 'seal' }, theHub, at) : { task: dated };
      // It goes on right here: who dies meanwhile is rung again after a while.
      return next === taskIn(current)
        ? { result: next }
        : { next: nextOf(id, next, isSealed ? { wakeAt: at + ringAgainMs } : {}), result: next };
    });
    if (now === undefined) return { go: 'nowhere' };
    for (const { action, n } of now.audit.slice(before))
      if (action !== 'refused') await tools.announce(`tasks.${action}`, `${id}/${n}`, aboutTask(id, now));
    const decision = decisionOf(now);
    if (decision === null || now.undo !== null) {
      // A ring made the step look as if it worked.
      await tools.report(envelope.requestId, waiting(now.title));
      return { go: 'nowhere' };
    }
    const comments = now.comments.map((comment) => ({ ...comment, at: new Date(comment.at).toISOString() }));
    const body = await result(bodyOf({ ...dossier.message, contentType: dossier.message.contentType ?? '' }), { ...decision, comments });
    return onwardsFrom(dossier, written(body), async () => {
      await tools.dossiers.change(taskKind, id, (current) =>
        current.isOpen ? { next: nextOf(id, taskIn(current), { isDone: true }), result: undefined } : { result: undefined },
      );
    });
  }

  return {
    kind: 'task',
    name,
    summary: typeof options.title === 'string' ? options.title : `Requests on their way to a person: ${name}`,
    timeoutMs: 30_000,
    retry: ['1s', '5s', '30s'],
    concurrency: 100,
    parks: true,
    withdrawn: { [taskKind]: withdrawn },
    run,
  };
}

const ringAgainMs = 10_000;

interface Checked<Body> {
  readonly options: TaskOptions<Body>;
  readonly name: string;
  readonly outcomes: readonly Outcome[];
  readonly calendar: Calendar;
}

/** Everything that can be wrong without a body is said at the start. */
function checked<Body>(name: string, options: TaskOptions<Body>): Checked<Body> {
  const { form, outcomes: said, expire, reminders = [], escalate = [], attachments, bulk = false } = options;
  const wrong = (what: string): never => {
    throw new TypeError(`task ${name}: ${what}`);
  };
  const within = <T>(what: string, read: () => T): T => {
    try {
      return read();
    } catch (error) {
      throw new TypeError(`task ${name}: ${what}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  };
  if (form !== undefined && typeof form !== 'function') within('form', () => formOf(form));
  const defaults = {
    approve: { label: 'Approve', style: 'primary' },
    reject: { label: 'Reject', style: 'danger', needs: ['comment'] },
  } as const;
  const outcomes = Object.entries<OutcomeOptions>(said ?? defaults).map(([id, outcome], index): Outcome => ({
    id: /^[a-z][a-z0-9-]*$/.test(id) ? id : wrong(`outcome ${JSON.stringify(id)}: use lower case letters, digits and hyphens`),
    label: outcome.label ?? `${id.charAt(0).toUpperCase()}${id.slice(1).replaceAll('-', ' ')}`,
    style: outcome.style ?? (index === 0 ? 'primary' : 'plain'),
    needs: outcome.needs ?? [],
  }));
  if (outcomes.length === 0) wrong('name at least one outcome');
  const ids = outcomes.map(({ id }) => id);
  if (expire !== undefined && !ids.includes(expire.outcome))
    wrong(`expire: there is no outcome "${expire.outcome}"; there is ${ids.join(', ')}`);
  if (expire?.after !== undefined) within('expire.after', () => readSpan(expire.after!));
  if (reminders.some((share) => !(share > 0 && share <= 1))) wrong('reminders are shares of the time until it is due: above 0, at most 1');
  for (const { after } of escalate)
    if (typeof after === 'number' ? !(after > 0 && after <= 1) : within('escalate.after', () => readSpan(after)) === undefined)
      wrong('escalate.after is a share (above 0, at most 1) or a time, as in "8h"');
  for (const what of ['due', 'followUp'] as const) {
    const value = options[what];
    if (typeof value === 'string') within(what, () => readSpan(value));
  }
  if (bulk && form !== undefined) wrong('bulk is for tasks without a form');
  if ((attachments?.maxBytes ?? 0) > largestAttachment) wrong(`attachments.maxBytes is more than ${largestAttachment}`);
  if (typeof options.approvals === 'object') approvalsOf(name, options.approvals, outcomes, expire);
  return {
    options,
    name,
    outcomes,
    calendar: options.calendar === undefined ? everyHour : within('calendar', () => calendar(options.calendar!)),
  };
}

function approvalsOf(
  name: string,
  { needed, of = needed, outcome }: ApprovalsOptions,
  outcomes: readonly Outcome[],
  expire: TaskOptions<never>['expire'],
) {
  const agreed = outcome ?? outcomes[0]!.id;
  const isWhole = Number.isInteger(needed) && Number.isInteger(of);
  if (!isWhole || needed < 1 || of < needed)
    throw new TypeError(`task ${name}: approvals of ${needed} of ${of}: write whole numbers, at least 1, and no more needed than vote`);
  if (!outcomes.some(({ id }) => id === agreed)) throw new TypeError(`task ${name}: approvals: there is no outcome "${agreed}"`);
  if (expire?.outcome === agreed)
    throw new TypeError(`task ${name}: expire would give "${agreed}", on which ${needed} people must agree, without any of them`);
  return { needed, of, outcome: agreed };
}

/** What the configuration makes of a request. Throws what the project's functions throw. */
function planOf<Body>({ options, name, outcomes, calendar: its }: Checked<Body>, envelope: Envelope, now: number): TaskPlan {
  const body = bodyOf(envelope) as Body;
  const made = <T>(value: Of<Body, T>): T =>
    typeof value === 'function' ? (value as (body: Body, envelope: Envelope) => T)(body, envelope) : value;
  const given = <T>(value: Of<Body, T> | undefined): T | undefined => (value === undefined ? undefined : made(value));
  const moment = (when: Span | Date): number => (when instanceof Date ? when.getTime() : its.after(now, when));

  const { users = [], groups = [] } = made(options.candidates);
  const approvals = given(options.approvals);
  const due = given(options.due);
  const followUp = given(options.followUp);
  const form = given(options.form);
  const assign = given(options.assign);
  // At its deadline the request ends, and its tasks with it.
  const dueAt = Math.min(due === undefined ? Infinity : moment(due), envelope.deadline);
  const never = approvals === undefined ? [] : [envelope.principal, ...(approvals.never ?? [])];
  const { attachments } = options;
  return {
    step: name,
    requestId: envelope.requestId,
    flow: envelope.flow,
    ...(envelope.key === undefined ? {} : { key: envelope.key }),
    title: String(made(options.title)).slice(0, 300),
    summary: String(given(options.summary) ?? '').slice(0, 1_000),
    context: options.context === undefined ? body : made(options.context),
    ...(options.contextSchema === undefined ? {} : { contextSchema: options.contextSchema }),
    form: form === undefined ? null : formOf(form),
    ui: given(options.ui) ?? null,
    outcomes,
    candidates: { users, groups },
    claim: options.claim ?? 'required',
    bulk: options.bulk ?? false,
    priority: given(options.priority) ?? null,
    attachable: attachments === undefined ? null : { maxBytes: attachments.maxBytes ?? 5_000_000, types: attachments.types },
    ...(approvals === undefined ? {} : { approvals: approvalsOf(name, approvals, outcomes, options.expire) }),
    never: [...new Set(never.flatMap((who) => (who === undefined ? [] : idsOf({ name: who }))))],
    ...(assign === undefined ? {} : { assign: { name: assign } }),
    dueAt,
    followUpAt: followUp === undefined ? null : moment(followUp),
    dates: datesOf(options, its, now, dueAt, envelope.deadline),
  };
}

/** Before the request ends without it. */
const beforeDeadlineMs = 2_000;

function datesOf(
  { reminders = [], escalate = [], expire }: Pick<TaskOptions<never>, 'reminders' | 'escalate' | 'expire'>,
  its: Calendar,
  now: number,
  dueAt: number,
  deadline: number,
): readonly Due[] {
  const dates: readonly Due[] = [
    ...reminders.map((share): Due => ({ at: its.share(now, dueAt, share), what: 'remind', share })),
    ...escalate.map(({ after, to }): Due => ({
      at: typeof after === 'number' ? its.share(now, dueAt, after) : its.after(now, after),
      what: 'escalate',
      groups: to,
    })),
    ...(expire === undefined
      ? []
      : [
          {
            at: Math.min(expire.after === undefined ? dueAt : its.after(now, expire.after), deadline - beforeDeadlineMs),
            what: 'expire' as const,
            outcome: expire.outcome,
          },
        ]),
  ];
  return [...dates].sort((a, b) => a.at - b.at);
}
