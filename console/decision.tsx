/** The decision: the form, its errors, and a button for each outcome. */
import { useCallback, useLayoutEffect, useMemo, useRef, useState } from 'react';
import type { Flaw, Json, Outcome, Task } from './contract.js';
import { checkerOf, fitsWithin } from './form/check.js';
import { elementAt, SchemaForm } from './form/form.js';
import { isObject, pruned, valueAt } from './form/model.js';
import { problemFrom } from './http.js';
import type { OneTask } from './one-task.js';
import { Banner, clock, OnTheLine, useNow, useToast } from './parts.js';
import { usePerson } from './session.js';
import { keepTyped, useTyped } from './typed.js';

interface DecisionProps {
  readonly task: Task;
  readonly act: OneTask['act'];
  /** Told what stands against it, when the hub refuses for another reason than the form. */
  readonly onRefused: (why: string) => void;
  readonly onDecided: () => void;
}

const noForm = { type: 'object' };
/** Where the comment's flaw is: it is beside the form. */
const commentField = 'decision-comment';

export function Decision({ task, act, onRefused, onDecided }: DecisionProps) {
  const { user } = usePerson();
  const toast = useToast();
  const schema = task.form ?? noForm;
  const check = useMemo(() => safely(() => checkerOf(schema)), [schema]);
  const fits = useMemo(() => fitsWithin(schema), [schema]);
  const saveDraft = useCallback((data: Json) => act('draft', { data }), [act]);
  const isMine = task.assignee === user.name && task.decision === null;
  const typed = useTyped(task, { isMine, save: saveDraft });
  const [comment, setComment] = useState('');
  const [flaws, setFlaws] = useState<readonly Flaw[]>([]);
  const [pending, setPending] = useState<string>();
  const unreadable = useRef(new Map<string, string>());
  /** Each attempt that fails shows its flaws anew. */
  const [attempt, setAttempt] = useState(0);
  const onUnreadable = useCallback((pointer: string, why: string | undefined) => {
    if (why === undefined) unreadable.current.delete(pointer);
    else unreadable.current.set(pointer, why);
  }, []);

  const show = (found: readonly Flaw[]) => {
    setFlaws(found);
    setAttempt((before) => before + 1);
    return found.length > 0;
  };
  const decide = async (outcome: Outcome) => {
    if (task.may.decide !== true) return onRefused(task.may.decide);
    const data = task.form === null ? {} : pruned(schema, typed.data, fits);
    const found = [
      ...[...unreadable.current].map(([pointer, detail]) => ({ pointer, detail })),
      ...(task.form === null || unreadable.current.size > 0 ? [] : check(data)),
      ...needed(outcome, data, comment),
    ];
    if (show(found)) return;
    setPending(outcome.id);
    try {
      const decided = await act('decide', { outcome: outcome.id, data, ...(comment.trim() === '' ? {} : { comment }) });
      typed.sent();
      const takeBack = () => {
        typed.set(data);
        return act('undo');
      };
      const undo = decided.undoUntil === null ? {} : { undo: { until: decided.undoUntil, do: takeBack } };
      toast({ text: `${outcome.label}: ${task.title}.`, ...undo });
      onDecided();
    } catch (error) {
      const refused = problemFrom(error);
      if (!show(refused.errors ?? [])) onRefused(refused.detail);
    }
    setPending(undefined);
  };

  const editable = typed.dirty || task.may.decide === true || task.may.claim === true;
  const asksComment = task.outcomes.filter(({ needs }) => needs.includes('comment')).map(({ label }) => label);
  return (
    <form
      className="decision"
      noValidate
      // Enter in a field must not decide: the buttons do.
      onSubmit={(event) => event.preventDefault()}
      onKeyDown={(event) => {
        const main = task.outcomes.find(({ style }) => style === 'primary') ?? task.outcomes[0];
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && main !== undefined) void decide(main);
      }}
    >
      <h3>Your decision</h3>
      {flaws.length > 0 && <Summary key={attempt} flaws={flaws} />}
      {task.form !== null && (
        <SchemaForm
          schema={schema}
          hints={task.ui ?? {}}
          fits={fits}
          data={typed.data}
          flaws={flaws}
          disabled={!editable || pending !== undefined}
          onChange={typed.set}
          onUnreadable={onUnreadable}
        />
      )}
      <div className="field">
        <label htmlFor={commentField}>
          Comment <span className="soft">({asksComment.length === 0 ? 'optional' : `needed for: ${asksComment.join(', ')}`})</span>
        </label>
        <textarea
          id={commentField}
          rows={2}
          value={comment}
          disabled={!editable}
          onChange={(event) => setComment(event.target.value)}
          aria-invalid={flaws.some(({ pointer }) => pointer === commentField) || undefined}
        />
      </div>
      <DraftLine typed={typed} isMine={isMine} />
      <Holding until={task.holdingUntil} />
      <Outcomes task={task} pending={pending} onPress={(outcome) => void decide(outcome)} />
    </form>
  );
}

/** A schema that cannot be checked here is checked at the hub only. */
function safely(make: () => (data: Json) => readonly Flaw[]): (data: Json) => readonly Flaw[] {
  try {
    return make();
  } catch {
    return () => [];
  }
}

function needed({ label, needs }: Outcome, data: Json, comment: string): readonly Flaw[] {
  return needs.flatMap((name) => {
    if (name === 'comment') return comment.trim() === '' ? [{ pointer: commentField, detail: `Say why: “${label}” needs a comment.` }] : [];
    const value = isObject(data) ? valueAt(data, `#/${name}`) : undefined;
    return value === undefined || value === '' ? [{ pointer: `#/${name}`, detail: `“${label}” needs this.` }] : [];
  });
}

/** Takes the focus, so that what is wrong is read first; its links lead to the fields. */
function Summary({ flaws }: { readonly flaws: readonly Flaw[] }) {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => place.current?.focus(), []);
  return (
    <div className="banner problem" ref={place} tabIndex={-1} role="group" aria-labelledby="flaws">
      <span aria-hidden="true">▲</span>
      <div>
        <strong id="flaws">
          {flaws.length === 1 ? 'One thing to mend before this can be sent' : `${flaws.length} things to mend before this can be sent`}
        </strong>
        <ul>
          {flaws.map(({ pointer, detail }) => (
            <li key={pointer + detail}>
              <a
                href={`#${pointer}`}
                onClick={(event) => {
                  event.preventDefault();
                  (pointer === commentField ? document.getElementById(commentField) : elementAt(pointer))?.focus();
                }}
              >
                {nameOf(pointer)}
                {detail}
              </a>
            </li>
          ))}
        </ul>
      </div>
    </div>
  );
}

/** The label of the field, as it stands above it. */
function nameOf(pointer: string): string {
  const field = pointer.startsWith('#') ? elementAt(pointer) : null;
  const label =
    field?.closest('fieldset.field, fieldset.group')?.querySelector('legend') ?? field?.closest('.field')?.querySelector('label');
  const text = label?.firstChild?.nodeType === Node.TEXT_NODE ? label.firstChild.textContent : label?.textContent;
  return text === undefined || text === null || text.trim() === '' ? '' : `${text.trim()}: `;
}

function DraftLine({ typed, isMine }: { readonly typed: ReturnType<typeof useTyped>; readonly isMine: boolean }) {
  const now = useNow();
  if (typed.saved === 'failed' && typed.dirty) {
    return (
      <p className="bad">
        The draft is not saved at the hub; it is kept in this tab.{' '}
        <button type="button" onClick={typed.save}>
          Try again
        </button>
      </p>
    );
  }
  if (typed.dirty && !isMine) return <p className="soft">Kept in this tab until the task is yours.</p>;
  return (
    <p className="soft draft">
      {typed.dirty ? 'Saving the draft…' : typed.saved === 'saved' ? <span title={clock.format(now)}>Draft saved</span> : ''}
    </p>
  );
}

/** With somebody on the line the answer goes at once. */
function Holding({ until }: { readonly until: number | null }) {
  const now = useNow();
  if (until === null || until <= now) return null;
  return (
    <p>
      <OnTheLine until={until} />
      {until - now < 30_000 && <span className="soft"> · the decision goes out at once and cannot be undone</span>}
    </p>
  );
}

function Outcomes({
  task,
  pending,
  onPress,
}: {
  readonly task: Task;
  readonly pending: string | undefined;
  readonly onPress: (outcome: Outcome) => void;
}) {
  const may = task.may.decide === true;
  const keys = new Map<string, string>();
  const first = (style: Outcome['style'], key: string) => {
    const found = task.outcomes.find((outcome) => outcome.style === style);
    if (found !== undefined) keys.set(found.id, key);
  };
  first('primary', 'a');
  first('danger', 'r');
  return (
    <div className="actions outcomes" role="group" aria-label="Outcomes">
      {task.outcomes.map((outcome) => {
        const key = keys.get(outcome.id);
        return (
          <button
            key={outcome.id}
            type="button"
            className={outcome.style}
            // Not `disabled`: who presses it is told why not.
            aria-disabled={!may || pending !== undefined}
            aria-describedby={may ? undefined : 'why-not'}
            {...(key === undefined ? {} : { 'data-key': key, 'aria-keyshortcuts': key, title: `Key: ${key}` })}
            onClick={() => pending === undefined && onPress(outcome)}
          >
            {pending === outcome.id ? '…' : outcome.label}
            {key !== undefined && <kbd aria-hidden="true">{key.toUpperCase()}</kbd>}
          </button>
        );
      })}
      {!may && (
        <span id="why-not" className="soft">
          {task.may.claim === true ? 'Claim the task to decide.' : task.may.decide}
        </span>
      )}
    </div>
  );
}

/** What was decided, when nothing is to be decided any more. */
export function Decided({ task, act, onRefused }: Pick<DecisionProps, 'task' | 'act' | 'onRefused'>) {
  const now = useNow();
  const { decision, undoUntil } = task;
  const label = task.outcomes.find(({ id }) => id === decision?.outcome)?.label ?? decision?.outcome ?? task.state;
  const takeBack = async () => {
    if (decision !== null && task.form !== null) keepTyped(task.id, decision.data);
    await act('undo').catch((error: unknown) => onRefused(problemFrom(error).detail));
  };
  return (
    <Banner kind={task.state === 'decided' ? 'good' : 'note'}>
      <strong>{label}</strong>
      {decision !== null && <> by {decision.by ?? 'nobody: its time was over'}</>}
      {decision !== null && decision.forWhom.length > 0 && <> for {decision.forWhom.join(', ')}</>}
      {decision?.comment != null && <p className="text">{decision.comment}</p>}
      {undoUntil !== null && undoUntil > now && (
        <p>
          <button onClick={() => void takeBack()}>Undo ({Math.floor((undoUntil - now) / 1_000)} s)</button>
        </p>
      )}
    </Banner>
  );
}
