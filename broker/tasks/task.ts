/**
 * A task (EIP: human task behind a Claim Check): work for a person, as data. What its step's configuration made of the request's body
 * stands in it from the start (texts, form, candidates, dates), so that whoever decides needs neither the worker's code nor its
 * present configuration. What people do to it is `rules.ts`.
 */
import type { JsonSchema } from '../flow.js';
import type { AuditEntry } from './audit.js';
import type { Approvals } from './votes.js';

export type Role = 'viewer' | 'task-user' | 'operator' | 'admin';
export const roles: readonly Role[] = ['viewer', 'task-user', 'operator', 'admin'];

/** Somebody, as far as it matters who is the same as whom: see `idsOf`. */
export interface Person {
  readonly name: string;
  readonly email?: string;
}

/** A person that the hub knows. */
export interface Member extends Person {
  readonly displayName?: string;
  readonly groups: readonly string[];
  readonly roles: readonly Role[];
}

/** Who does something, by which entry, and for whom else they may act: those who are away and have named them their substitute. */
export interface Actor extends Member {
  readonly via: 'page' | 'key' | 'amqp' | 'hub';
  readonly standsInFor: readonly Member[];
}

/** What the hub itself does: dates that come, requests that end. Only the hub's own code makes an actor with `via: 'hub'`. */
export const theHub: Actor = { name: 'hub', groups: [], roles: [], via: 'hub', standsInFor: [] };

/** A button. */
export interface Outcome {
  readonly id: string;
  readonly label: string;
  readonly style: 'primary' | 'danger' | 'plain';
  /** `comment`, or fields of the form that this outcome asks for beside those that the form itself requires. */
  readonly needs: readonly string[];
}

export interface Candidates {
  readonly users: readonly string[];
  readonly groups: readonly string[];
}

/** Somebody on whose behalf another person has a task in hand. */
export interface Behalf extends Person {
  readonly how: 'delegation' | 'substitution';
}

/** Who has the task in hand. `behalf`: for whom, the nearest first; the last one owns it. */
export interface Holder extends Person {
  readonly since: number;
  readonly behalf: readonly Behalf[];
}

export interface Vote {
  readonly by: string;
  /** The names of those on whose behalf, nearest first. */
  readonly forWhom: readonly string[];
  /** Everybody who has hereby voted: names and addresses, as `idsOf` has them. */
  readonly ids: readonly string[];
  readonly outcome: string;
  readonly data: unknown;
  readonly comment?: string;
  readonly at: number;
}

export interface Decision {
  readonly outcome: string;
  readonly data: unknown;
  readonly at: number;
  /** Who gave the vote that decided; `null`: nobody, a date came. */
  readonly by: string | null;
  readonly forWhom: readonly string[];
  readonly comment?: string;
}

export interface Comment {
  readonly by: string;
  readonly at: number;
  readonly text: string;
}

export interface Attachment {
  readonly id: string;
  readonly name: string;
  readonly type: string;
  /** Bytes. */
  readonly size: number;
  /** SHA-256 of its bytes, hex. */
  readonly sha256: string;
  readonly by: string;
  readonly at: number;
}

/** Something that the calendar does to an undecided task. */
export type Due =
  | { readonly at: number; readonly what: 'remind'; readonly share: number }
  | { readonly at: number; readonly what: 'escalate'; readonly groups: readonly string[] }
  | { readonly at: number; readonly what: 'expire'; readonly outcome: string };

export type TaskState = 'open' | 'claimed' | 'delegated' | 'decided' | 'withdrawn' | 'expired';

/** What the step's configuration made of one request's body. */
export interface TaskPlan {
  readonly step: string;
  readonly requestId: string;
  readonly flow: string;
  readonly key?: string;
  readonly title: string;
  readonly summary: string;
  readonly context: unknown;
  readonly contextSchema?: JsonSchema;
  /** JSON Schema (2020-12) of a decision's data; `null`: a decision has none. */
  readonly form: JsonSchema | null;
  readonly ui: unknown;
  readonly outcomes: readonly Outcome[];
  readonly candidates: Candidates;
  readonly claim: 'required' | 'optional';
  readonly bulk: boolean;
  /** Higher is more urgent; `null`: as any other. */
  readonly priority: number | null;
  readonly attachable: { readonly maxBytes: number; readonly types: readonly string[] } | null;
  readonly approvals?: Approvals;
  /** `idsOf` of those who may never decide: the requestor, who entered the data. */
  readonly never: readonly string[];
  readonly assign?: Person;
  readonly dueAt: number | null;
  readonly followUpAt: number | null;
  /** Soonest first. */
  readonly dates: readonly Due[];
}

export interface Task extends Omit<TaskPlan, 'assign'> {
  readonly createdAt: number;
  readonly updatedAt: number;
  /** Counts what was done to it; what was refused does not count. */
  readonly revision: number;
  /** How it ended, if it has. Who is at it while it has not says `holder`. */
  readonly ended: { readonly state: 'decided' | 'withdrawn' | 'expired'; readonly at: number; readonly why?: string } | null;
  readonly holder: Holder | null;
  /** Last vote, how long it may be taken back, and who had the task in hand before it. */
  readonly undo: { readonly until: number; readonly holder: Holder } | null;
  readonly votes: readonly Vote[];
  readonly decision: Decision | null;
  /** What people have begun to fill in, by their names. */
  readonly drafts: Readonly<Record<string, unknown>>;
  readonly comments: readonly Comment[];
  readonly attachments: readonly Attachment[];
  readonly audit: readonly AuditEntry[];
}

export const stateOfTask = ({ ended, holder }: Task): TaskState =>
  ended !== null ? ended.state : holder === null ? 'open' : holder.behalf.some(({ how }) => how === 'delegation') ? 'delegated' : 'claimed';

const plain = (text: string): string => text.normalize('NFKC').trim().toLowerCase();

/**
 * By what a person is known: two that share one are the same person. Case, form and space do not make a person another one; nor does an
 * account beside the first one, when both have the same address.
 */
export const idsOf = ({ name, email }: Person): readonly string[] =>
  [name, ...(email === undefined ? [] : [email])].map(plain).filter((id) => id !== '');

export const isSame = (a: Person, b: Person): boolean => {
  const ids = idsOf(a);
  return idsOf(b).some((id) => ids.includes(id));
};
