/**
 * What is written twice, since neither side may import the other, is the same: what the pages read is what the hub sends, and users of hub.yaml
 * are what the broker knows. `tsc` says where it is not.
 */
import { describe, expect, it } from '@jest/globals';
import type { Problem } from '../../adapters/http/problem.js';
import type { SessionDocument } from '../../adapters/http/sessions.js';
import type { StoryDocument } from '../../adapters/http/status.js';
import type { JsonSchema } from '../../broker/flow.js';
import type { Absence as SentAbsence, User as KnownUser } from '../../broker/people.js';
import { roles as knownRoles, type Role as KnownRole } from '../../broker/tasks/task.js';
import { views, type Counts as SentCounts, type TaskPage as SentPage, type View as KnownView } from '../../broker/tasks/tasks.js';
import type { Summary as SentSummary, TaskView } from '../../broker/tasks/view.js';
import { wishes } from '../../broker/tasks/wishes.js';
import type { Role, User } from '../../config/users.js';
import type * as read from '../../console/contract.js';

/** What is sent, as JSON: what the hub does not look into (`unknown`, schemas) may be read as anything. */
type Sent<T> = unknown extends T
  ? never
  : [JsonSchema] extends [T]
    ? never
    : T extends readonly (infer Item)[]
      ? readonly Sent<Item>[]
      : T extends object
        ? { readonly [Key in keyof T]: Sent<T[Key]> }
        : T;

/** Compiles only when what is sent can be read as `Read`. */
type Reads<Read, Written extends Read> = [Read, Written];
/** Compiles only when both may stand for each other. */
type Same<One, Other extends One> = [One] extends [Other] ? true : never;

export type Agreed = [
  Reads<read.Summary, Sent<SentSummary>>,
  Reads<read.Task, Sent<TaskView>>,
  Reads<read.TaskPage, Sent<SentPage>>,
  Reads<read.Counts, Sent<SentCounts>>,
  Reads<read.Session, Sent<SessionDocument>>,
  Reads<read.Story, Sent<StoryDocument>>,
  Reads<Pick<read.Problem, 'status' | 'code' | 'detail' | 'errors'>, Sent<Problem>>,
  Reads<Pick<read.Absence, 'substitute'>, Sent<SentAbsence>>,
];
const same: readonly true[] = [
  true satisfies Same<KnownView, read.View>,
  true satisfies Same<KnownRole, Role>,
  true satisfies Same<KnownUser, User>,
  true satisfies Same<keyof TaskView['may'], read.Action>,
];

describe('what is written twice', () => {
  it('is the same', () => {
    expect(same).not.toContain(false);
    expect([...views].sort()).toEqual(['all', 'done', 'due', 'groups', 'mine']);
    expect(Object.keys(wishes)).toEqual(expect.arrayContaining(['claim', 'return', 'decide', 'delegate', 'assign', 'comment']));
    expect([...knownRoles].sort()).toEqual(['admin', 'operator', 'task-user', 'viewer']);
  });
});
