/** The inbox: the list of tasks, beside it the one that is open. The task's code is loaded when one is opened. */
import { lazy, Suspense, useCallback, useEffect, useRef, useState } from 'react';
import type { BulkResult, Counts, Outcome, Summary, Task, View } from './contract.js';
import { call, problemFrom } from './http.js';
import { type Tasks, useTasks } from './list.js';
import { useStream } from './live.js';
import { Ask, Banner, Chip, clock, Due, OnTheLine, useToast } from './parts.js';
import { inboxAt, Link, navigate, type Route, views } from './route.js';
import { usePerson } from './session.js';

const TaskPane = lazy(() => import('./task.js').then(({ TaskPane }) => ({ default: TaskPane })));

const viewNames: Readonly<Record<View, string>> = { mine: 'Mine', groups: 'My groups', due: 'Due', done: 'Done', all: 'All' };
/** The hub counts what may be waiting for somebody. */
const countOf = (counts: Counts | undefined, view: View): number | undefined =>
  view === 'done' || view === 'all' ? undefined : counts?.[view];

export function Inbox({ view, query, task }: Extract<Route, { page: 'inbox' }>) {
  const { user } = usePerson();
  const tasks = useTasks(view, query, user);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const { counts } = tasks;

  const count = countOf(counts, view);
  useEffect(() => {
    if (task === null) document.title = `${viewNames[view]}${count === undefined ? '' : ` (${count})`} – Answerback`;
  }, [view, count, task]);
  const seesAll = user.roles.includes('operator') || user.roles.includes('admin');
  const back = useCallback(() => {
    navigate(inboxAt({ view, query }));
    // The row that was open gets the focus back.
    if (task !== null) requestAnimationFrame(() => document.getElementById(`row-${task}`)?.focus());
  }, [view, query, task]);

  return (
    <main className={`inbox ${task === null ? '' : 'open'}`} id="main">
      <section className="list" aria-label="Tasks">
        <h1>Inbox</h1>
        <nav aria-label="Views" className="views">
          {views
            .filter((name) => name !== 'all' || seesAll)
            .map((name) => (
              <Link key={name} to={inboxAt({ view: name, query })} current={name === view}>
                {viewNames[name]}
                {countOf(counts, name) !== undefined && <span className="count">{countOf(counts, name)}</span>}
              </Link>
            ))}
        </nav>
        <Search key={query} view={view} query={query} />
        <Rows tasks={tasks} view={view} query={query} open={task} chosen={chosen} onChoose={setChosen} />
        {chosen.size > 0 && <Bulk tasks={tasks} chosen={chosen} onChoose={setChosen} />}
        <LiveLine tasks={tasks} />
      </section>
      {task === null ? (
        <div className="pane none" aria-hidden="true">
          <p>Choose a task.</p>
        </div>
      ) : (
        <Suspense fallback={<div className="pane" aria-busy="true" />}>
          <TaskPane key={task} id={task} onBack={back} onChange={tasks.put} />
        </Suspense>
      )}
    </main>
  );
}

const requestId = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

function Search({ view, query }: { readonly view: View; readonly query: string }) {
  const [text, setText] = useState(query);
  return (
    <form
      role="search"
      className="search"
      onSubmit={(event) => {
        event.preventDefault();
        const wanted = text.trim();
        navigate(requestId.test(wanted) ? `/requests/${wanted}` : inboxAt({ view, query: wanted }));
      }}
    >
      <input
        type="search"
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder="Search, or a request's id"
        aria-label="Search tasks"
        data-key="/"
        aria-keyshortcuts="/"
        title="Key: /"
      />
      <button>Search</button>
    </form>
  );
}

interface RowsProps {
  readonly tasks: Tasks;
  readonly view: View;
  readonly query: string;
  readonly open: string | null;
  readonly chosen: ReadonlySet<string>;
  readonly onChoose: (chosen: ReadonlySet<string>) => void;
}

function Rows({ tasks, view, query, open, chosen, onChoose }: RowsProps) {
  const { rows, gone, newer, next, loading, problem, loadedAt, counts, refresh, more } = tasks;
  /** The last row that was selected: Shift selects from there. */
  const anchor = useRef<number>(undefined);
  const choose = (index: number, range: boolean) => {
    const id = rows[index]?.id;
    if (id === undefined) return;
    const wanted = !chosen.has(id);
    const from = range ? (anchor.current ?? index) : index;
    const ids = rows.slice(Math.min(from, index), Math.max(from, index) + 1).map((row) => row.id);
    anchor.current = index;
    onChoose(new Set(wanted ? [...chosen, ...ids] : [...chosen].filter((one) => !ids.includes(one))));
  };

  return (
    <>
      {problem !== undefined && (
        <Banner kind="problem">
          {problem.detail} {loadedAt !== undefined && <>This is as of {clock.format(loadedAt)}. </>}
          <button onClick={refresh}>Try again</button>
        </Banner>
      )}
      <div role="status">
        {newer.size > 0 && (
          <button className="newer" onClick={refresh}>
            {newer.size} newer · Show
          </button>
        )}
      </div>
      {loadedAt === undefined && loading && <Skeleton />}
      {loadedAt !== undefined && rows.length === 0 && <Nothing view={view} query={query} groups={counts?.groups ?? 0} />}
      {rows.length > 0 && (
        <ul className="rows" aria-busy={loading}>
          {rows.map((row, index) => (
            <Row
              key={row.id}
              row={row}
              to={inboxAt({ view, query, task: row.id })}
              gone={gone.get(row.id)}
              isOpen={row.id === open}
              isChosen={chosen.has(row.id)}
              onChoose={(range) => choose(index, range)}
              onChange={tasks.put}
            />
          ))}
        </ul>
      )}
      {next !== null && (
        <button className="wide" onClick={more} disabled={loading}>
          Show more ({rows.length} of {tasks.total})
        </button>
      )}
    </>
  );
}

function Nothing({ view, query, groups }: { readonly view: View; readonly query: string; readonly groups: number }) {
  if (query !== '') {
    return (
      <p className="empty">
        No task here matches “{query}”. <Link to={inboxAt({ view })}>Clear the search</Link>
      </p>
    );
  }
  if (view === 'mine' && groups > 0) {
    return (
      <p className="empty">
        Nothing for you. {groups} in your groups. <Link to={inboxAt({ view: 'groups' })}>Show</Link>
      </p>
    );
  }
  return <p className="empty">{view === 'done' ? 'Nothing is done yet.' : 'Nothing waits here. New tasks appear by themselves.'}</p>;
}

const Skeleton = () => (
  <div className="skeleton" aria-hidden="true">
    {Array.from({ length: 6 }, (_, index) => (
      <div key={index} />
    ))}
  </div>
);

interface RowProps {
  readonly row: Summary;
  readonly to: string;
  readonly gone: string | undefined;
  readonly isOpen: boolean;
  readonly isChosen: boolean;
  readonly onChoose: (range: boolean) => void;
  readonly onChange: (task: Summary) => void;
}

function Row({ row, to, gone, isOpen, isChosen, onChoose, onChange }: RowProps) {
  const { user } = usePerson();
  const [pending, setPending] = useState(false);
  const [problem, setProblem] = useState<string>();
  const mine = row.assignee === user.name;
  const over = gone ?? (['withdrawn', 'expired', 'decided'].includes(row.state) ? row.state : undefined);
  const claim = async () => {
    setPending(true);
    setProblem(undefined);
    try {
      onChange(await call<Task>('POST', `/tasks/${row.id}/${mine ? 'return' : 'claim'}`, {}));
    } catch (error) {
      const refused = problemFrom(error);
      if (refused.task !== undefined) onChange(refused.task);
      setProblem(refused.detail);
    }
    setPending(false);
  };

  return (
    <li className={`row ${isOpen ? 'current' : ''} ${over === undefined ? '' : 'over'}`} data-keys="row" aria-busy={pending}>
      <input
        type="checkbox"
        checked={isChosen}
        aria-label={`Select ${row.title}`}
        data-key="x"
        title="Key: x"
        // The click tells of the Shift key, the change does not.
        onClick={(event) => onChoose(event.shiftKey)}
        onChange={() => undefined}
      />
      <div className="what">
        <a
          id={`row-${row.id}`}
          data-row
          href={to}
          aria-current={isOpen ? 'page' : undefined}
          aria-describedby={`about-${row.id}`}
          onClick={(event) => {
            if (event.metaKey || event.ctrlKey || event.shiftKey) return;
            event.preventDefault();
            navigate(to);
          }}
        >
          {row.title}
        </a>
        <div id={`about-${row.id}`} className="about">
          {row.summary !== '' && <p>{row.summary}</p>}
          <p className="meta">
            {over === undefined ? row.dueAt !== null && <Due at={row.dueAt} /> : <Chip state={row.state}>{over}</Chip>}
            {over === undefined && row.assignee !== null && <Chip state={row.state}>{mine ? 'yours' : row.assignee}</Chip>}
            {row.votes.needed > 1 && (
              <span className="soft">
                {row.votes.given} of {row.votes.needed} votes
              </span>
            )}
            {row.hasDraft && <span className="soft">draft saved</span>}
            {row.key !== null && <span className="soft">{row.key}</span>}
          </p>
          {over === undefined && <OnTheLine until={row.holdingUntil} />}
        </div>
        {problem !== undefined && (
          <p className="bad" role="alert">
            {problem}
          </p>
        )}
      </div>
      {over === undefined && (row.assignee === null || mine) && (
        <button
          onClick={() => void claim()}
          disabled={pending}
          data-key="c"
          aria-keyshortcuts="c"
          title="Key: c"
          aria-label={`${mine ? 'Return' : 'Claim'} ${row.title}`}
        >
          {pending ? '…' : mine ? 'Return' : 'Claim'}
        </button>
      )}
    </li>
  );
}

/** Outcomes that all the chosen tasks have, for tasks that ask for nothing else. */
function sharedOutcomes(rows: readonly Summary[]): readonly Outcome[] {
  const [first, ...rest] = rows;
  if (first === undefined || rows.some(({ hasForm }) => hasForm)) return [];
  return first.outcomes.filter(({ id }) => rest.every(({ outcomes }) => outcomes.some((outcome) => outcome.id === id)));
}

interface BulkProps {
  readonly tasks: Tasks;
  readonly chosen: ReadonlySet<string>;
  readonly onChoose: (chosen: ReadonlySet<string>) => void;
}

/** One decision for all the chosen tasks. The hub decides each by itself, and says which it refused. */
function Bulk({ tasks, chosen, onChoose }: BulkProps) {
  const toast = useToast();
  const [asked, setAsked] = useState<Outcome>();
  const [comment, setComment] = useState('');
  const [refused, setRefused] = useState<readonly BulkResult[]>([]);
  const rows = tasks.rows.filter(({ id }) => chosen.has(id));
  const outcomes = sharedOutcomes(rows);
  const titleOf = (id: string) => tasks.rows.find((row) => row.id === id)?.title ?? id;

  const decide = async (outcome: Outcome) => {
    const body = { ids: rows.map(({ id }) => id), outcome: outcome.id, ...(comment.trim() === '' ? {} : { comment }) };
    const { results } = await call<{ results: readonly BulkResult[] }>('POST', '/tasks/bulk', body);
    const not = results.filter(({ ok }) => !ok);
    setRefused(not);
    onChoose(new Set(not.map(({ id }) => id)));
    toast({ text: `${outcome.label}: ${results.length - not.length} done${not.length === 0 ? '' : `, ${not.length} refused`}.` });
    tasks.refresh();
  };

  return (
    <div className="bulk" role="group" aria-label="Selected tasks">
      <strong>{rows.length} selected</strong>
      {outcomes.map((outcome) => (
        <button key={outcome.id} className={outcome.style} onClick={() => setAsked(outcome)}>
          {outcome.label}
        </button>
      ))}
      {outcomes.length === 0 && <span className="soft">They have forms, or no outcome in common: decide them one by one.</span>}
      <button onClick={() => onChoose(new Set(tasks.rows.map(({ id }) => id)))}>Select all {tasks.rows.length}</button>
      <button onClick={() => onChoose(new Set())}>Clear</button>
      {refused.length > 0 && (
        <Banner kind="problem" onClose={() => setRefused([])}>
          Not decided:
          <ul>
            {refused.map(({ id, problem }) => (
              <li key={id}>
                {titleOf(id)}: {problem?.detail ?? 'refused'}
              </li>
            ))}
          </ul>
        </Banner>
      )}
      {asked !== undefined && (
        <Ask
          title={`${asked.label}: ${rows.length} ${rows.length === 1 ? 'task' : 'tasks'}`}
          action={asked.label}
          danger={asked.style === 'danger'}
          onDone={() => decide(asked)}
          onClose={() => setAsked(undefined)}
        >
          <div className="field">
            <label htmlFor="bulk-comment">Comment{asked.needs.includes('comment') ? '' : ' (optional)'}</label>
            <textarea
              id="bulk-comment"
              rows={3}
              value={comment}
              required={asked.needs.includes('comment')}
              onChange={(event) => setComment(event.target.value)}
            />
          </div>
        </Ask>
      )}
    </div>
  );
}

/** Whether what is shown is kept true, in words and shape. */
function LiveLine({ tasks: { loadedAt, refresh } }: { readonly tasks: Tasks }) {
  const { state } = useStream();
  return (
    <p className="live soft">
      {state === 'up' ? (
        <>
          <span aria-hidden="true">●</span> Live
        </>
      ) : (
        <>
          <span aria-hidden="true">○</span> Reconnecting…{loadedAt !== undefined && ` data from ${clock.format(loadedAt)}`}{' '}
          <button onClick={refresh}>Refresh</button>
        </>
      )}
    </p>
  );
}
