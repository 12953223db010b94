/**
 * People who answer tasks by the HTTP API, as somebody at the page does: look, claim, decide, and again until they know what became of it. They
 * write down each vote that they gave, and what they were told of it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, fetch } from 'undici';
import type { History } from './history.js';
import { oneOf } from './mix.js';

export interface PeopleOptions {
  readonly history: History;
  /** The hubs that there are now. */
  readonly hubs: () => readonly { readonly url: string }[];
  /** Users of the project, whose password is their name. */
  readonly names: readonly string[];
  readonly random: () => number;
}

export interface People {
  /** How many tasks there still are for them; undefined: nobody says. */
  left(): Promise<number | undefined>;
  close(): Promise<void>;
}

interface Said {
  /** 0: the line broke, or nobody listens. */
  readonly status: number;
  readonly body: unknown;
}

interface Shown {
  readonly id: string;
  readonly requestId: string;
}

interface Audit {
  readonly entries: readonly {
    readonly by: string;
    readonly action: string;
    readonly detail: { readonly data?: { readonly mark?: string } };
  }[];
}

const restMs = 50;
const lineMs = 20_000;
/** So many votes of a hundred are against it. */
const against = 10;

/** They work until `close`. */
export function openPeople({ history, hubs, names, random }: PeopleOptions): People {
  const dispatcher = new Agent({ connections: null, pipelining: 1, connect: { timeout: 5_000 } });
  const stopping = new AbortController();
  const cookies = new Map<string, string>();
  let marks = 0;
  let turn = 0;

  async function said(name: string, method: string, path: string, body?: object): Promise<Said> {
    const all = hubs();
    const hub = all[turn % all.length]?.url;
    if (hub === undefined) return { status: 0, body: undefined };
    try {
      const answer = await fetch(hub + path, {
        method,
        dispatcher,
        signal: AbortSignal.any([stopping.signal, AbortSignal.timeout(lineMs)]),
        headers: { 'content-type': 'application/json', cookie: cookies.get(name) ?? '' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const [cookie] = answer.headers.getSetCookie();
      if (cookie !== undefined) cookies.set(name, cookie.split(';')[0]!);
      return { status: answer.status, body: answer.status === 204 ? undefined : await answer.json() };
    } catch {
      // The line broke, maybe in the middle of an answer: the next hub.
      turn++;
      return { status: 0, body: undefined };
    }
  }

  /** With the session that somebody has; a session that is gone (Redis was emptied) is opened again. */
  async function asked(name: string, method: string, path: string, body?: object): Promise<Said> {
    const answer = await said(name, method, path, body);
    if (answer.status !== 401) return answer;
    await said(name, 'POST', '/session', { name, password: name });
    return { status: 0, body: undefined };
  }

  const listed = async (name: string, view: 'mine' | 'groups') => {
    const { status, body } = await asked(name, 'GET', `/tasks?view=${view}&limit=50`);
    return status === 200 ? (body as { readonly tasks: readonly Shown[]; readonly total: number }) : undefined;
  };

  /** One who looks for something to decide, and decides it. */
  async function one(name: string): Promise<void> {
    /** What is not theirs to decide (any more). */
    const done = new Set<string>();
    for (; !stopping.signal.aborted; await sleep(restMs)) {
      const theirs = (await listed(name, 'mine'))?.tasks.filter(({ id }) => !done.has(id)) ?? [];
      const free = theirs.length > 0 ? theirs : ((await listed(name, 'groups'))?.tasks.filter(({ id }) => !done.has(id)) ?? []);
      if (free.length === 0) continue;
      const task = oneOf(random, free);
      const { status } = await asked(name, 'POST', `/tasks/${task.id}/claim`, {});
      if (status === 403 || status === 404 || status === 410) done.add(task.id);
      if (status === 200 && (await decided(name, task))) done.add(task.id);
    }
  }

  /** Resolves with whether they are through with it. */
  async function decided(name: string, { id, requestId }: Shown): Promise<boolean> {
    const mark = `${name}-${++marks}`;
    const outcome = random() * 100 < against ? 'reject' : 'approve';
    const told = history.vote({ by: name, task: id, id: requestId, mark, outcome });
    const wish = { outcome, data: { mark }, ...(outcome === 'reject' ? { comment: 'not like this' } : {}) };
    for (let isKnown = true; !stopping.signal.aborted; await sleep(restMs)) {
      const { status } = await asked(name, 'POST', `/tasks/${id}/decide`, wish);
      if (status === 200) return (told('done'), true);
      // A refusal of a repeat may be for the first try's sake.
      if (status >= 400 && status < 500 && status !== 429) {
        const stands = isKnown ? false : await standing(name, id, mark);
        if (stands !== undefined) return (told(stands ? 'done' : 'refused'), stands || status !== 409);
      }
      isKnown = false;
    }
    return (told('unknown'), true);
  }

  /** Whether a vote is among those that the task has; undefined: nobody says. */
  async function standing(name: string, id: string, mark: string): Promise<boolean | undefined> {
    const { status, body } = await asked(name, 'GET', `/tasks/${id}/audit`);
    if (status !== 200) return undefined;
    return (body as Audit).entries.some((entry) => entry.by === name && entry.action === 'voted' && entry.detail.data?.mark === mark);
  }

  const working = names.map(one);
  return {
    async left() {
      const lists = await Promise.all(names.map(async (name) => [await listed(name, 'mine'), await listed(name, 'groups')]));
      return lists
        .flat()
        .reduce<number | undefined>((sum, list) => (sum === undefined || list === undefined ? undefined : sum + list.total), 0);
    },
    async close() {
      stopping.abort();
      await Promise.all(working);
      await dispatcher.destroy();
    },
  };
}
