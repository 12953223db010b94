/** What the hub's HTTP API says about tasks, people and requests. The pages know the hub by these shapes only; test/unit/agreement.test.ts keeps them true. */

/** `all`: for operators. */
export type View = 'mine' | 'groups' | 'due' | 'done' | 'all';

export interface Outcome {
  readonly id: string;
  readonly label: string;
  readonly style: 'primary' | 'danger' | 'plain';
  /** `comment`, or fields of the form that this outcome asks for. */
  readonly needs: readonly string[];
}

/** A task as a row of the list. Times are ISO; `holdingUntil` is ms, until when a requestor stays on the line. */
export interface Summary {
  readonly id: string;
  readonly step: string;
  readonly title: string;
  readonly summary: string;
  readonly requestId: string;
  readonly flow: string;
  readonly key: string | null;
  readonly state: string;
  readonly assignee: string | null;
  /** Whose it is: another one than the assignee's when they have it on somebody's behalf. */
  readonly owner: string | null;
  readonly candidates: { readonly users: readonly string[]; readonly groups: readonly string[] };
  readonly createdAt: string;
  readonly dueAt: string | null;
  readonly followUpAt: string | null;
  readonly priority: number | null;
  readonly holdingUntil: number | null;
  readonly hasDraft: boolean;
  readonly hasForm: boolean;
  readonly outcomes: readonly Outcome[];
  readonly votes: { readonly needed: number; readonly of: number; readonly given: number };
  readonly version: number;
}

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** A JSON Schema 2020-12, as far as the form looks into it. */
export interface Schema {
  readonly $ref?: string;
  readonly $defs?: Readonly<Record<string, Schema>>;
  readonly type?: string | readonly string[];
  readonly title?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly enum?: readonly Json[];
  readonly const?: Json;
  readonly default?: Json;
  readonly examples?: readonly Json[];
  readonly format?: string;
  readonly maxLength?: number;
  readonly uniqueItems?: boolean;
  readonly readOnly?: boolean;
  readonly oneOf?: readonly Schema[];
  readonly if?: Schema;
  readonly then?: Schema;
  readonly else?: Schema;
  readonly [keyword: string]: unknown;
}

/** Hints how to draw a form: none of them changes what is valid. Fields by name, nested ones as `address/city`. */
export interface Hints {
  readonly order?: readonly string[];
  readonly widgets?: Readonly<Record<string, string>>;
  readonly help?: Readonly<Record<string, string>>;
  readonly units?: Readonly<Record<string, string>>;
}

export interface Comment {
  readonly by: string;
  readonly at: string;
  readonly text: string;
}

export interface Attachment {
  readonly id: string;
  readonly name: string;
  readonly type: string;
  readonly size: number;
  readonly by: string;
  readonly at: string;
}

export interface Past {
  readonly at: string;
  readonly by: string;
  readonly forWhom: string | null;
  readonly action: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

export type Action = 'claim' | 'return' | 'decide' | 'delegate' | 'assign' | 'comment';

export interface Task extends Summary {
  readonly form: Schema | null;
  readonly ui: Hints | null;
  readonly context: Json;
  readonly contextSchema: Schema | null;
  /** What whoever asks has begun to fill in. */
  readonly draft: Json;
  readonly comments: readonly Comment[];
  /** What may be attached; null: nothing. */
  readonly attachable: { readonly maxBytes: number; readonly types: readonly string[] } | null;
  readonly attachments: readonly Attachment[];
  readonly history: readonly Past[];
  /** True, or why not. */
  readonly may: Readonly<Record<Action, true | string>>;
  readonly decision: {
    readonly outcome: string;
    readonly data: Json;
    readonly at: string;
    /** `null`: nobody, a date came. */
    readonly by: string | null;
    readonly forWhom: readonly string[];
    readonly comment: string | null;
  } | null;
  /** Until when (ms) whoever asks can take their decision back. */
  readonly undoUntil: number | null;
}

export interface Counts {
  readonly mine: number;
  readonly groups: number;
  readonly due: number;
}

export interface TaskPage {
  readonly tasks: readonly Summary[];
  readonly next: string | null;
  readonly total: number;
  readonly counts: Counts;
}

export interface User {
  readonly name: string;
  readonly displayName: string;
  readonly groups: readonly string[];
  readonly roles: readonly string[];
  /** Who is away, and has named this user their substitute. */
  readonly standsInFor: readonly string[];
}

export interface Session {
  readonly user: User | null;
  readonly signIn: {
    readonly local: boolean;
    readonly oidc: { readonly url: string; readonly label: string } | null;
    readonly demoUsers: readonly { readonly name: string; readonly password: string; readonly about: string }[];
  };
}

/** One thing that is wrong with the form's data, by JSON Pointer: `#/amount`. */
export interface Flaw {
  readonly pointer: string;
  readonly detail: string;
}

export interface Problem {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly errors?: readonly Flaw[];
  /** With `conflict`: the task as it is now. */
  readonly task?: Task;
}

export interface Absence {
  readonly from: string;
  readonly until: string;
  readonly substitute: string;
}

export interface BulkResult {
  readonly id: string;
  readonly ok: boolean;
  readonly problem?: Problem;
}

export interface Story {
  readonly id: string;
  readonly flow: string;
  readonly state: string;
  readonly key?: string | null;
  readonly step?: string | null;
  readonly waitingOn?: { readonly kind: string; readonly text: string; readonly taskId?: string } | null;
  readonly progress?: { readonly percent?: number; readonly message?: string } | null;
  readonly requestor?: { readonly kind: string; readonly until?: number | string | null } | null;
  readonly acceptedAt: string;
  readonly endedAt?: string | null;
  readonly deadline?: string | null;
  readonly story: readonly { readonly at: string; readonly text: string; readonly step?: string; readonly kind: string }[];
  readonly parts: readonly { readonly name: string; readonly state: string; readonly ms: number | null }[];
  readonly mayCancel: boolean;
}
