/** What may be tried with a task, and what a refusal says. */
import type { Flaw } from '../fault.js';
import type { Attachment, Member } from './task.js';

export type Action =
  | { readonly do: 'claim' }
  | { readonly do: 'return'; readonly text?: string }
  /** `person` is who `to` is; absent: nobody that the hub knows. */
  | { readonly do: 'assign'; readonly to: string; readonly person?: Member }
  | { readonly do: 'delegate'; readonly to: string; readonly person?: Member; readonly text?: string }
  | { readonly do: 'resolve'; readonly text?: string }
  | { readonly do: 'comment'; readonly text: string }
  | { readonly do: 'draft'; readonly data: unknown }
  | { readonly do: 'attach'; readonly attachment: Omit<Attachment, 'by' | 'at'> }
  /** `undoMs`: how long it may be taken back before anybody hears of it. */
  | { readonly do: 'decide'; readonly outcome: string; readonly data: unknown; readonly comment?: string; readonly undoMs: number }
  | { readonly do: 'undo' }
  // What only the hub does:
  /** Reminds, escalates, expires, as far as it has fallen due. */
  | { readonly do: 'dates' }
  /** The time to take the last vote back is over. */
  | { readonly do: 'seal' }
  | { readonly do: 'withdraw'; readonly why: string };

/** What persons do, not the hub. */
export type PersonsAction = Exclude<Action['do'], 'dates' | 'seal' | 'withdraw'>;

export interface Refusal {
  /**
   * - `conflict`: not as the task is now: somebody else has it.
   * - `not-permitted`: not by this person.
   * - `invalid`: not with this content.
   * - `ended`: it is decided, expired or withdrawn.
   */
  readonly code: 'conflict' | 'not-permitted' | 'invalid' | 'ended';
  readonly detail: string;
  readonly errors?: readonly Flaw[];
}

export const refuse = (code: Refusal['code'], detail: string): Refusal => ({ code, detail });
/** Its content is wrong. */
export const flawed = (...errors: readonly Flaw[]): Refusal => ({
  code: 'invalid',
  detail: errors
    .map(({ pointer, detail }) => `${pointer} ${detail}`)
    .join('; ')
    .slice(0, 1_000),
  errors,
});
