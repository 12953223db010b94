/** One task as the hub has it, kept true by the stream, and what can be done to it. */
import { useCallback, useEffect, useRef, useState } from 'react';
import type { Problem, Task } from './contract.js';
import { call, problemFrom, Refused } from './http.js';
import { useNews } from './live.js';
import type { News } from './stream.js';

export interface OneTask {
  readonly task: Task | undefined;
  /** Why it cannot be shown, or not be kept true. */
  readonly problem: Problem | undefined;
  readonly reload: () => void;
  /** Does something to it. Rejects with `Refused`; by then the task is shown as it is now. */
  readonly act: (action: string, body?: unknown) => Promise<Task>;
}

export function useTask(id: string, onChange: (task: Task) => void): OneTask {
  const [task, setTask] = useState<Task>();
  const [problem, setProblem] = useState<Problem>();
  const version = useRef(0);

  const take = useCallback(
    (next: Task) => {
      setProblem(undefined);
      // An answer may come after a later one.
      if (next.version < version.current) return;
      version.current = next.version;
      setTask(next);
      onChange(next);
    },
    [onChange],
  );
  const reload = useCallback(() => {
    call<Task>('GET', `/tasks/${encodeURIComponent(id)}`).then(take, (error: unknown) => setProblem(problemFrom(error)));
  }, [id, take]);
  useEffect(reload, [reload]);

  useNews(
    useCallback(
      (news: News) => {
        const concerns =
          news.is === 'resync' ||
          (news.is === 'gone' && news.id === id) ||
          (news.is === 'task' && news.task.id === id && news.task.version > version.current);
        if (concerns) reload();
      },
      [id, reload],
    ),
  );

  const act = useCallback(
    async (action: string, body: unknown = {}) => {
      try {
        const next = await call<Task>('POST', `/tasks/${encodeURIComponent(id)}/${action}`, body);
        take(next);
        return next;
      } catch (error) {
        const refused = problemFrom(error);
        if (refused.task !== undefined) take(refused.task);
        else if ([403, 409, 410].includes(refused.status)) reload();
        throw new Refused(refused);
      }
    },
    [id, take, reload],
  );
  return { task, problem, reload, act };
}
