/** One task beside the list: what it is about, the decision, what was said and done, and who else could have it. */
import { type ReactNode, useEffect, useRef, useState } from 'react';
import { Context } from './context.js';
import type { Task } from './contract.js';
import { Decided, Decision } from './decision.js';
import { spoken } from './form/model.js';
import { problemFrom, upload } from './http.js';
import { type OneTask, useTask } from './one-task.js';
import { Ask, Banner, Chip, Due, OnTheLine, useToast, When } from './parts.js';
import { Link } from './route.js';
import { usePerson } from './session.js';

interface PaneProps {
  readonly id: string;
  readonly onBack: () => void;
  readonly onChange: (task: Task) => void;
}

export function TaskPane({ id, onBack, onChange }: PaneProps) {
  const one = useTask(id, onChange);
  const { task, problem, reload } = one;
  return (
    <article className="pane" aria-label="Task" data-keys="task">
      <button className="quiet back" onClick={onBack} data-key="Escape" title="Key: Esc">
        <span aria-hidden="true">←</span> Back to the list
      </button>
      {problem !== undefined && (
        <Banner kind="problem">
          {problem.status === 404 ? `There is no task ${id} for you.` : problem.detail} <button onClick={reload}>Try again</button>
        </Banner>
      )}
      {task === undefined ? problem === undefined && <div className="skeleton" aria-hidden="true" /> : <Shown {...one} task={task} />}
    </article>
  );
}

function Shown({ task, act, reload }: OneTask & { readonly task: Task }) {
  const { user } = usePerson();
  const [refused, setRefused] = useState<string>();
  const [dialog, setDialog] = useState<'delegate' | 'assign'>();
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${task.title} – Answerback`;
  }, [task.title]);
  // The heading gets the focus when the task opens, not when it changes.
  useEffect(() => heading.current?.focus(), []);
  const over = task.decision !== null || ['decided', 'withdrawn', 'expired'].includes(task.state);

  return (
    <>
      <h2 ref={heading} tabIndex={-1}>
        {task.title}
      </h2>
      <p className="meta">
        <Chip state={task.state} />
        {task.assignee !== null && !over && <span>{task.assignee === user.name ? 'yours' : `with ${task.assignee}`}</span>}
        {task.owner !== null && task.owner !== task.assignee && <span>for {task.owner}</span>}
        {task.assignee === null && task.candidates.groups.length > 0 && <span className="soft">{task.candidates.groups.join(', ')}</span>}
        {!over && task.dueAt !== null && <Due at={task.dueAt} />}
        {task.votes.needed > 1 && (
          <span>
            {task.votes.given} of {task.votes.needed} votes given
          </span>
        )}
        <Link to={`/requests/${task.requestId}`}>Its request{task.key === null ? '' : ` (${task.key})`}</Link>
      </p>
      {!over && <OnTheLine until={task.holdingUntil} />}
      {refused !== undefined && (
        <Banner kind="problem" onClose={() => setRefused(undefined)}>
          {refused}
        </Banner>
      )}
      {task.state === 'withdrawn' && (
        <Banner kind="note">The request was cancelled or ended otherwise: nothing is to be decided any more.</Banner>
      )}
      {task.summary !== '' && <p>{task.summary}</p>}
      <section aria-label="What it is about">
        <Context data={task.context} schema={task.contextSchema} />
      </section>
      {over ? (
        <Decided task={task} act={act} onRefused={setRefused} />
      ) : (
        <>
          <Possession task={task} act={act} onRefused={setRefused} onAsk={setDialog} />
          <Decision task={task} act={act} onRefused={setRefused} onDecided={() => heading.current?.focus()} />
        </>
      )}
      <Comments task={task} act={act} />
      <Attachments task={task} onChange={reload} />
      <History task={task} />
      {dialog !== undefined && <HandOver kind={dialog} act={act} onClose={() => setDialog(undefined)} />}
    </>
  );
}

interface PossessionProps {
  readonly task: Task;
  readonly act: OneTask['act'];
  readonly onRefused: (why: string) => void;
  readonly onAsk: (dialog: 'delegate' | 'assign') => void;
}

/** Who has the task, and how it changes hands. */
function Possession({ task, act, onRefused, onAsk }: PossessionProps) {
  const { user } = usePerson();
  const toast = useToast();
  const [pending, setPending] = useState(false);
  const isMine = task.assignee === user.name;
  const delegatedToMe = isMine && task.state === 'delegated';
  const press = async (action: string, done: string) => {
    setPending(true);
    try {
      await act(action);
      toast({ text: done });
    } catch (error) {
      const { code, task: now, detail } = problemFrom(error);
      onRefused(code === 'conflict' && now?.assignee != null ? lost(now) : detail);
    }
    setPending(false);
  };
  const key = (name: string) => ({ 'data-key': name, 'aria-keyshortcuts': name, title: `Key: ${name}` });

  return (
    <div className="actions">
      {task.may.claim === true && !isMine && (
        <button className="primary" disabled={pending} {...key('c')} onClick={() => void press('claim', 'It is yours.')}>
          Claim
        </button>
      )}
      {task.may.return === true && isMine && (
        <button disabled={pending} {...key('c')} onClick={() => void press('return', 'Given back.')}>
          {delegatedToMe ? `Return to ${task.owner}` : 'Return'}
        </button>
      )}
      {delegatedToMe && (
        <button disabled={pending} onClick={() => void press('resolve', `Resolved: back with ${task.owner}.`)}>
          Resolve
        </button>
      )}
      {task.may.delegate === true && (
        <button disabled={pending} {...key('d')} onClick={() => onAsk('delegate')}>
          Delegate…
        </button>
      )}
      {task.may.assign === true && <button onClick={() => onAsk('assign')}>Assign…</button>}
      {typeof task.may.decide === 'string' && task.may.claim !== true && <span className="why soft">{task.may.decide}</span>}
    </div>
  );
}

/** Who lost the race to a task still has every word. */
function lost(now: Task): string {
  const claimed = now.history.findLast(({ action }) => action === 'claimed');
  const at = claimed === undefined ? '' : ` at ${new Date(claimed.at).toLocaleTimeString(undefined, { timeStyle: 'short' })}`;
  return `${now.assignee} claimed this${at}. Your text is kept here.`;
}

function HandOver({
  kind,
  act,
  onClose,
}: {
  readonly kind: 'delegate' | 'assign';
  readonly act: OneTask['act'];
  readonly onClose: () => void;
}) {
  const [to, setTo] = useState('');
  const [text, setText] = useState('');
  const delegate = kind === 'delegate';
  return (
    <Ask
      title={delegate ? 'Delegate to somebody' : 'Assign to somebody'}
      action={delegate ? 'Delegate' : 'Assign'}
      onClose={onClose}
      onDone={() => act(kind, { to: to.trim(), ...(delegate && text.trim() !== '' ? { text } : {}) })}
    >
      {delegate && <p className="soft">You stay its owner; it comes back to you when they are done.</p>}
      <div className="field">
        <label htmlFor="hand-to">User name</label>
        <input id="hand-to" required value={to} onChange={(event) => setTo(event.target.value)} autoComplete="off" />
      </div>
      {delegate && (
        <div className="field">
          <label htmlFor="hand-text">What they should know (optional)</label>
          <textarea id="hand-text" rows={3} value={text} onChange={(event) => setText(event.target.value)} />
        </div>
      )}
    </Ask>
  );
}

function Comments({ task, act }: { readonly task: Task; readonly act: OneTask['act'] }) {
  const [text, setText] = useState('');
  const [problem, setProblem] = useState<string>();
  const say = async () => {
    if (text.trim() === '') return;
    try {
      await act('comment', { text });
      setText('');
      setProblem(undefined);
    } catch (error) {
      setProblem(problemFrom(error).detail);
    }
  };
  return (
    <Section title="Comments" count={task.comments.length}>
      <ul className="plain comments">
        {task.comments.map(({ by, at, text: said }) => (
          <li key={at + by}>
            <strong>{by}</strong> <When at={at} />
            <p className="text">{said}</p>
          </li>
        ))}
      </ul>
      {problem !== undefined && <Banner kind="problem">{problem}</Banner>}
      {task.may.comment === true && (
        <form
          className="stack"
          onSubmit={(event) => {
            event.preventDefault();
            void say();
          }}
          onKeyDown={(event) => {
            if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
          }}
        >
          <div className="field">
            <label htmlFor="say">Say something about this task</label>
            <textarea
              id="say"
              rows={2}
              value={text}
              onChange={(event) => setText(event.target.value)}
              data-key="m"
              aria-keyshortcuts="m"
              title="Key: m"
            />
          </div>
          <div className="actions">
            <button>Comment</button>
          </div>
        </form>
      )}
    </Section>
  );
}

const sizes = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

function Attachments({ task, onChange }: { readonly task: Task; readonly onChange: () => void }) {
  const [problem, setProblem] = useState<string>();
  const [pending, setPending] = useState(false);
  const add = async (file: File | undefined) => {
    if (file === undefined) return;
    setPending(true);
    setProblem(undefined);
    try {
      await upload(`/tasks/${encodeURIComponent(task.id)}/attachments?name=${encodeURIComponent(file.name)}`, file);
      onChange();
    } catch (error) {
      setProblem(problemFrom(error).detail);
    }
    setPending(false);
  };
  if (task.attachable === null && task.attachments.length === 0) return null;
  return (
    <Section title="Attachments" count={task.attachments.length}>
      <ul className="plain">
        {task.attachments.map(({ id, name, size, by, at }) => (
          <li key={id}>
            <a href={`/tasks/${encodeURIComponent(task.id)}/attachments/${encodeURIComponent(id)}`} download={name}>
              {name}
            </a>{' '}
            <span className="soft">
              {sizes.format(size)}B · {by} <When at={at} />
            </span>
          </li>
        ))}
      </ul>
      {problem !== undefined && <Banner kind="problem">{problem}</Banner>}
      {task.attachable !== null && task.may.comment === true && (
        <div className="field">
          <label htmlFor="attach">
            Add a file <span className="soft">(at most {sizes.format(task.attachable.maxBytes)}B)</span>
          </label>
          <input
            id="attach"
            type="file"
            accept={task.attachable.types.join(',')}
            disabled={pending}
            onChange={(event) => void add(event.target.files?.[0])}
          />
        </div>
      )}
    </Section>
  );
}

function History({ task }: { readonly task: Task }) {
  return (
    <Section title="History" count={task.history.length} closed>
      <ol className="plain history">
        {task.history.map(({ at, by, forWhom, action, detail }, index) => (
          <li key={index}>
            <When at={at} /> <strong>{spoken(action)}</strong>
            {' by '}
            {by}
            {forWhom !== null && <> for {forWhom}</>} <span className="soft">{saying(detail)}</span>
          </li>
        ))}
      </ol>
      <p>
        <a href={`/tasks/${encodeURIComponent(task.id)}/audit?format=csv`} download>
          Audit as CSV
        </a>
      </p>
    </Section>
  );
}

/** `outcome: approve, comment: well done`. */
const saying = (detail: Readonly<Record<string, unknown>>): string =>
  Object.entries(detail)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ');

function Section({ title, count, closed = false, children }: { title: string; count: number; closed?: boolean; children: ReactNode }) {
  return (
    <details className="section" open={!closed}>
      <summary>
        {title} <span className="count">{count}</span>
      </summary>
      {children}
    </details>
  );
}
