/**
 * Who may do what to a task, as it stands. Who acts on somebody's behalf (a delegate, a substitute) counts as both: neither has a second vote,
 * and neither may be one of those who never decide.
 */
import { refuse, type PersonsAction, type Refusal } from './action.js';
import { idsOf, isSame, type Actor, type Behalf, type Candidates, type Holder, type Member, type Person, type Task } from './task.js';

/** By what right somebody acts: because they have the task in hand, or might have; for themselves or on somebody's behalf. */
interface Standing {
  readonly as: 'holder' | 'candidate';
  readonly behalf: readonly Behalf[];
}

/** The right to do this, whatever its content. Those who may not decide may only comment: nor do they choose who does. */
export function permitted(task: Task, what: PersonsAction, actor: Actor): Standing | Refusal {
  const ended = over(task);
  if (ended !== undefined) return ended;
  const own = isTaskUser(actor) ? standingOf(task, actor) : undefined;
  if (what === 'comment') return maySee(task, actor) ? (own ?? bystander) : stranger(actor);
  const mayGive = what === 'assign' && actor.roles.some((role) => role === 'operator' || role === 'admin');
  const standing = own ?? (mayGive ? bystander : undefined);
  if (standing === undefined) return stranger(actor);
  const why = excluded(task, [actor, ...standing.behalf]);
  if (why !== undefined) return refuse('not-permitted', why);
  const { holder } = task;
  const isTheirs = standing.as === 'holder';
  switch (what) {
    case 'claim':
    case 'draft':
    case 'attach':
      return holder === null || isTheirs ? standing : taken(holder);
    case 'decide':
      if (holder === null) return task.claim === 'optional' ? standing : unclaimed;
      return isTheirs ? standing : taken(holder);
    case 'assign':
      if (mayGive || isTheirs) return standing;
      return refuse('not-permitted', 'who has it in hand, an operator or an administrator can give it to another');
    case 'return':
      if (holder === null || !isTheirs) return holder === null ? unclaimed : taken(holder);
      if (isDelegated(holder)) return refuse('conflict', 'it was delegated: resolve it, and it goes back to whose it is');
      if (task.candidates.users.length + task.candidates.groups.length > 0) return standing;
      return refuse('not-permitted', 'there is nobody else to take it: delegate it');
    case 'delegate':
      return holder === null ? unclaimed : isTheirs ? standing : taken(holder);
    case 'resolve':
      if (holder === null || !isTheirs) return holder === null ? unclaimed : taken(holder);
      return isDelegated(holder) ? standing : refuse('conflict', 'it is not delegated');
    case 'undo':
      return standing;
  }
}

/** Whether this may be done, were its content right: `true`, or why not. */
export function may(task: Task, what: 'claim' | 'return' | 'decide' | 'delegate' | 'assign' | 'comment', actor: Actor): true | string {
  const refusal = permitted(task, what, actor);
  return 'code' in refusal ? refusal.detail : true;
}

/** May this person see the task at all? */
export const maySee = (task: Task, actor: Actor): boolean =>
  actor.roles.some((role) => role === 'operator' || role === 'admin') ||
  (isTaskUser(actor) && (standingOf(task, actor) !== undefined || hasTakenPart(task, actor)));

/** Everybody who has done something to the task, or has it in hand. */
export const takersOf = (task: Task): readonly string[] => [
  ...new Set([
    ...task.audit.filter(({ via, action }) => via !== 'hub' && action !== 'refused').flatMap(({ by, forWhom }) => [by, ...forWhom]),
    ...(task.holder === null ? [] : [task.holder.name, ...task.holder.behalf.map(({ name }) => name)]),
  ]),
];

const hasTakenPart = (task: Task, actor: Actor): boolean => takersOf(task).some((name) => isSame({ name }, actor));

export const isTaskUser = ({ roles }: Member): boolean => roles.includes('task-user');

export const personOf = ({ name, email }: Person): Person => ({ name, ...(email === undefined ? {} : { email }) });

export const isCandidate = ({ candidates: { users, groups } }: { readonly candidates: Candidates }, member: Member): boolean =>
  users.some((name) => isSame({ name }, member)) || groups.some((group) => member.groups.includes(group));

/** Of those who may see the task, and more, by their office. */
const bystander: Standing = { as: 'candidate', behalf: [] };

function standingOf(task: Task, actor: Actor): Standing | undefined {
  const { holder } = task;
  const inPlaceOf = (who: Person): Behalf => ({ ...personOf(who), how: 'substitution' });
  const all: readonly Standing[] = [
    ...(holder !== null && isSame(holder, actor) ? [{ as: 'holder' as const, behalf: holder.behalf }] : []),
    ...actor.standsInFor
      .filter((away) => holder !== null && isSame(holder, away))
      .map((away) => ({ as: 'holder' as const, behalf: [inPlaceOf(away), ...(holder?.behalf ?? [])] })),
    ...(isCandidate(task, actor) ? [{ as: 'candidate' as const, behalf: [] }] : []),
    ...actor.standsInFor.filter((away) => isCandidate(task, away)).map((away) => ({ as: 'candidate' as const, behalf: [inPlaceOf(away)] })),
  ];
  return all.find(({ behalf }) => excluded(task, [actor, ...behalf]) === undefined) ?? all[0];
}

/** Why one of these may not decide; undefined: all of them may. */
export function excluded({ never, votes }: Pick<Task, 'never' | 'votes'>, people: readonly Person[]): string | undefined {
  for (const person of people) {
    const ids = idsOf(person);
    if (ids.some((id) => never.includes(id))) return `${person.name} made the request or entered its data, and may not decide on it`;
    if (votes.some((vote) => ids.some((id) => vote.ids.includes(id))))
      return `${person.name} has voted already, and this needs different people`;
  }
  return undefined;
}

const stranger = (actor: Actor): Refusal =>
  refuse(
    'not-permitted',
    isTaskUser(actor)
      ? `${actor.name} is not among those whom this task is for`
      : `${actor.name} does not have the role task-user, and may not act on tasks`,
  );
const taken = ({ name, since }: Holder): Refusal => refuse('conflict', `${name} has had it in hand since ${iso(since)}`);
const unclaimed = refuse('conflict', 'nobody has it in hand: claim it first');
const isDelegated = ({ behalf }: Holder): boolean => behalf.some(({ how }) => how === 'delegation');
const iso = (at: number): string => new Date(at).toISOString();

/** Why nothing can be done to it any more. */
export function over({ ended, decision }: Task): Refusal | undefined {
  if (ended === null) return undefined;
  const what =
    ended.state === 'withdrawn'
      ? `withdrawn: ${ended.why ?? ''}`
      : `${ended.state}: ${decision?.outcome ?? ''}${decision?.by == null ? '' : `, by ${decision.by}`}`;
  return refuse('ended', `${what} (${iso(ended.at)})`);
}
