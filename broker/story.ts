/** The story of one request, for people: what it waits for, who waits for it, what happened so far, which parts are still silent. */
import { theRequestor } from './ask.js';
import type { Line } from './line.js';
import type { RequestEvent, RequestRecord, Store } from './store.js';
import { taskIn, taskKind } from './tasks/parked.js';
import { maySee } from './tasks/rights.js';
import type { Actor } from './tasks/task.js';
import { reachable } from './waiting.js';

export interface WaitingOn {
  readonly kind: 'party' | 'task' | 'timer' | 'retry' | 'requestor';
  readonly text: string;
  readonly taskId?: string;
}

export interface StoryLine {
  /** ms since 1970. */
  readonly at: number;
  readonly text: string;
  readonly step?: string;
  readonly kind: 'accepted' | RequestEvent['name'];
}

export interface Story {
  readonly record: RequestRecord;
  readonly waitingOn: WaitingOn | null;
  readonly requestor: { readonly kind: 'holding' | 'detached' | 'callback' | 'foreign'; readonly until?: number };
  readonly lines: readonly StoryLine[];
  readonly parts: readonly { readonly name: string; readonly state: 'answered' | 'failed' | 'silent'; readonly ms: number | null }[];
}

/** Who wants to read it: whose request it is, or a person. */
export type Reader = { readonly principal: string } | { readonly person: Actor };

export interface Stories {
  /** Undefined: there is no such request, it is forgotten, or not for this reader. */
  of(requestId: string, reader: Reader): Promise<Story | undefined>;
}

const mostTasks = 100;

export function openStories({ store, line }: { readonly store: Store; readonly line: Line }): Stories {
  return {
    async of(requestId, reader) {
      const record = await reachable(store.get(requestId));
      if (record === undefined) return undefined;
      const [events, open, heldUntil] = await reachable(
        Promise.all([store.events(requestId, 0), store.dossiers(`of:${requestId}`, { limit: mostTasks }), line.heldUntil(requestId)]),
      );
      const tasks = open.found.filter(({ kind }) => kind === taskKind);
      const mayRead =
        'principal' in reader
          ? record.principal === reader.principal
          : reader.person.roles.some((role) => role === 'viewer' || role === 'operator' || role === 'admin') ||
            record.principal === reader.person.name ||
            tasks.some((dossier) => maySee(taskIn(dossier), reader.person));
      if (!mayRead) return undefined;
      const isOver = record.shown && record.outcome !== undefined;
      return {
        record,
        waitingOn: isOver ? null : waitingOnOf(record, tasks[0]),
        requestor:
          heldUntil !== undefined && !isOver
            ? { kind: 'holding', until: heldUntil }
            : { kind: record.forward === undefined ? 'detached' : record.forward.callback === undefined ? 'foreign' : 'callback' },
        lines: [
          { at: record.acceptedAt, text: `accepted from ${record.principal ?? 'nobody known'}`, kind: 'accepted' },
          ...events.map(lineOf).filter((each) => each !== undefined),
        ],
        parts: partsOf(record, events),
      };
    },
  };
}

function waitingOnOf({ waitingOn }: RequestRecord, task: { readonly id: string; readonly data: unknown } | undefined): WaitingOn | null {
  // In a group, what is reported last may be a part that has come: a person who has not decided is what it waits for.
  if (task !== undefined) return { kind: 'task', text: taskIn(task).title, taskId: task.id };
  if (waitingOn === undefined) return null;
  const kind = waitingOn === theRequestor ? 'requestor' : /^(timer|retry|task)\b/.exec(waitingOn)?.[1];
  return { kind: (kind ?? 'party') as WaitingOn['kind'], text: waitingOn };
}

function lineOf({ at, name, data }: RequestEvent): StoryLine | undefined {
  const text = (key: string): string | undefined => (typeof data[key] === 'string' ? data[key] : undefined);
  const step = text('step');
  const line = (said: string): StoryLine => ({ at, text: said, kind: name, ...(step === undefined ? {} : { step }) });
  switch (name) {
    case 'state':
      return text('waitingOn') === undefined ? undefined : line(`waits for ${text('waitingOn')}`);
    case 'step':
      return line(stepText(data));
    case 'progress':
      return line(
        [data['percent'] === undefined ? '' : `${String(data['percent'])} %`, text('message') ?? ''].join(' ').trim() || 'goes on',
      );
    case 'part':
      return line(
        text('from') === undefined
          ? `part ${String(data['sequence'] ?? '')}`
          : `${text('from')} ${data['kind'] === 'fault' ? 'failed' : 'answered'}`,
      );
    case 'ask':
      return line('a question to the requestor');
    case 'outcome':
      return line(`the outcome: ${text('state') ?? text('kind') ?? ''}`);
    case 'amended':
      return line(`corrected: ${text('by') ?? ''} answered late, version ${String(data['version'])} of the reply`);
  }
}

function stepText({ task, interrupted, failed, attempt }: RequestEvent['data']): string {
  if (task !== undefined) return 'given to a person';
  if (interrupted === true) return 'interrupted by an urgent request';
  if (failed === true) return `attempt ${String(attempt)} failed`;
  return `begun${Number(attempt) > 1 ? `, attempt ${String(attempt)}` : ''}`;
}

/** Who of those that were asked has answered, as far as it was reported. */
function partsOf({ waitingOn, acceptedAt, outcome }: RequestRecord, events: readonly RequestEvent[]): Story['parts'] {
  const begun = events.find(({ name, data }) => name === 'state' && /^parts: /.test(String(data['waitingOn'])))?.at ?? acceptedAt;
  const answered = events
    .filter(({ name, data }) => name === 'part' && typeof data['from'] === 'string')
    .map(({ at, data }) => ({
      name: String(data['from']),
      state: data['kind'] === 'fault' ? ('failed' as const) : ('answered' as const),
      ms: Math.max(0, at - begun),
    }));
  const named = /^parts: (?!\d+ of \d+$)(.+)$/.exec(waitingOn ?? '')?.[1]?.split(', ') ?? [];
  const silent = outcome !== undefined ? [] : named.filter((name) => !answered.some((part) => part.name === name));
  return [...silent.map((name) => ({ name, state: 'silent' as const, ms: null })), ...answered];
}
