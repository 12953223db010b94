/** The list of tasks: what was loaded, kept true by the stream. A row never moves or goes by itself; a refresh does that. */
import { useCallback, useEffect, useReducer, useRef } from 'react';
import type { Counts, Problem, Summary, TaskPage, User, View } from './contract.js';
import { call, problemFrom } from './http.js';
import { useNews, useStream } from './live.js';
import type { News } from './stream.js';

export interface List {
  readonly rows: readonly Summary[];
  /** Why a row that is still shown is no task any more. */
  readonly gone: ReadonlyMap<string, string>;
  /** Tasks that came in since, and are not shown. */
  readonly newer: ReadonlySet<string>;
  /** Those of them that the page which was asked for last tells about: the others came while it was on its way. */
  readonly asked: ReadonlySet<string>;
  readonly next: string | null;
  readonly total: number;
  readonly counts: Counts | undefined;
  readonly loading: boolean;
  readonly problem: Problem | undefined;
  /** When the rows were loaded (ms); undefined: never. */
  readonly loadedAt: number | undefined;
}

const empty: List = {
  rows: [],
  gone: new Map(),
  newer: new Set(),
  asked: new Set(),
  next: null,
  total: 0,
  counts: undefined,
  loading: true,
  problem: undefined,
  loadedAt: undefined,
};

type Change =
  | { readonly is: 'asked'; readonly anew: boolean }
  | { readonly is: 'page'; readonly page: TaskPage; readonly more: boolean }
  | { readonly is: 'failed'; readonly problem: Problem }
  | { readonly is: 'news'; readonly news: News; readonly belongs: (task: Summary) => boolean };

const isOpen = ({ state }: Summary): boolean => !['decided', 'withdrawn', 'expired'].includes(state);

/** Whether a task that comes in would be shown in a view. Of the finished ones nothing new is announced. */
export function belongs(task: Summary, view: View, user: User): boolean {
  const mine = [user.name, ...user.standsInFor].some((name) => name === task.assignee || name === task.owner);
  const groups = task.candidates.users.includes(user.name) || task.candidates.groups.some((group) => user.groups.includes(group));
  if (!isOpen(task) || view === 'done') return false;
  if (view === 'all') return true;
  if (view === 'mine') return mine;
  return view === 'groups' ? groups && task.assignee === null : (mine || groups) && task.dueAt !== null;
}

export function change(list: List, change: Change): List {
  if (change.is === 'asked') return change.anew ? { ...empty, counts: list.counts } : { ...list, loading: true, asked: list.newer };
  if (change.is === 'failed') return { ...list, loading: false, problem: change.problem };
  if (change.is === 'page') {
    const { tasks, next, total, counts } = change.page;
    const known = new Set(tasks.map(({ id }) => id));
    const rows = change.more ? [...list.rows.filter(({ id }) => !known.has(id)), ...tasks] : tasks;
    const since = new Set([...list.newer].filter((id) => !list.asked.has(id) && !known.has(id)));
    const rest = change.more ? { gone: list.gone, newer: list.newer } : { gone: empty.gone, newer: since };
    return { ...list, ...rest, rows, next, total, counts, loading: false, problem: undefined, loadedAt: Date.now() };
  }
  return told(list, change.news, change.belongs);
}

function told(list: List, news: News, belongsHere: (task: Summary) => boolean): List {
  if (news.is === 'counts') return { ...list, counts: news.counts };
  if (news.is === 'gone') {
    const newer = new Set(list.newer);
    newer.delete(news.id);
    return { ...list, newer, gone: new Map(list.gone).set(news.id, news.why) };
  }
  if (news.is !== 'task') return list;
  const { task } = news;
  if (list.rows.some(({ id }) => id === task.id)) {
    // What the hub tells may come after a later version that we got as an answer.
    return { ...list, rows: list.rows.map((row) => (row.id === task.id && row.version <= task.version ? task : row)) };
  }
  const newer = new Set(list.newer);
  if (belongsHere(task)) newer.add(task.id);
  else newer.delete(task.id);
  return { ...list, newer };
}

const pageSize = 50;
const largestPage = 200;

export interface Tasks extends List {
  readonly refresh: () => void;
  readonly more: () => void;
  /** A task as an action left it. */
  readonly put: (task: Summary) => void;
}

export function useTasks(view: View, query: string, user: User): Tasks {
  const [list, dispatch] = useReducer(change, empty);
  const asking = useRef<AbortController>(undefined);

  /** How many rows are shown: a refresh brings as many, as far as the hub gives so many at once. */
  const shown = useRef(0);
  useEffect(() => {
    shown.current = list.rows.length;
  });

  const load = useCallback(
    async (cursor: string | null, anew: boolean) => {
      const limit = anew || cursor !== null ? pageSize : Math.min(largestPage, Math.max(pageSize, shown.current));
      asking.current?.abort();
      const own = (asking.current = new AbortController());
      dispatch({ is: 'asked', anew });
      const wanted = new URLSearchParams({
        view,
        limit: String(limit),
        ...(query === '' ? {} : { q: query }),
        ...(cursor === null ? {} : { cursor }),
      });
      try {
        const page = await call<TaskPage>('GET', `/tasks?${wanted}`, undefined, own.signal);
        dispatch({ is: 'page', page, more: cursor !== null });
      } catch (error) {
        if (!own.signal.aborted) dispatch({ is: 'failed', problem: problemFrom(error) });
      }
    },
    [view, query],
  );
  useEffect(() => {
    void load(null, true);
    return () => asking.current?.abort();
  }, [load]);

  const { next } = list;
  const refresh = useCallback(() => void load(null, false), [load]);
  const more = useCallback(() => void (next !== null && load(next, false)), [load, next]);
  const put = useCallback((task: Summary) => dispatch({ is: 'news', news: { is: 'task', task }, belongs: () => false }), []);

  useNews(
    useCallback(
      (news: News) => (news.is === 'resync' ? refresh() : dispatch({ is: 'news', news, belongs: (task) => belongs(task, view, user) })),
      [refresh, view, user],
    ),
  );
  usePollingWhileDown(refresh);
  return { ...list, refresh, more, put };
}

/** Without the stream we look ourselves, after a while. */
function usePollingWhileDown(look: () => void): void {
  const { state, since } = useStream();
  useEffect(() => {
    if (state === 'up') return undefined;
    const timer = setInterval(() => Date.now() - since > 30_000 && look(), 5_000);
    return () => clearInterval(timer);
  }, [state, since, look]);
}
