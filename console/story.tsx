/** One request: what it waits for, who waits for it, what happened, and which parts are still silent. */
import { useCallback, useEffect, useState } from 'react';
import type { Problem, Story } from './contract.js';
import { call, problemFrom } from './http.js';
import { Ask, Banner, Chip, clock, distance, OnTheLine, useNow, useToast, When } from './parts.js';
import { Link } from './route.js';

/** How often a request that is not over is looked at again. */
const everyMs = 2_000;

const requestorWords: Readonly<Record<string, string>> = {
  holding: 'on the line',
  detached: 'has left, and will come back for the answer',
  callback: 'will be called back',
  foreign: 'waits at a queue of its own',
};

export function RequestStory({ id }: { readonly id: string }) {
  const { story, problem, look } = useStory(id);
  const [asking, setAsking] = useState(false);
  useEffect(() => {
    document.title = `${story === undefined ? 'Request' : `${story.flow}: ${story.state}`} – Answerback`;
  }, [story]);

  return (
    <main className="alone request" id="main">
      <p>
        <Link to="/inbox">← To the inbox</Link>
      </p>
      {problem !== undefined && <Unknown id={id} problem={problem} onRetry={look} />}
      {story !== undefined && (
        <>
          <h1>{story.flow}</h1>
          <p className="meta">
            <Chip state={story.state} />
            {story.key != null && <span>{story.key}</span>}
            <code className="id">{story.id}</code>
            <CopyButton text={story.id} />
          </p>
          <WaitsFor story={story} />
          <Parts parts={story.parts} />
          <section>
            <h2>What happened</h2>
            <ol className="plain story">
              {story.story.map(({ at, text, step, kind }, index) => (
                <li key={index} className={kind}>
                  <time dateTime={at} title={new Date(at).toLocaleString()}>
                    {clock.format(new Date(at))}
                  </time>
                  <span>
                    {text}
                    {step !== undefined && <span className="soft"> · {step}</span>}
                  </span>
                </li>
              ))}
            </ol>
          </section>
          {story.mayCancel && story.endedAt == null && (
            <div className="actions">
              <button className="danger" onClick={() => setAsking(true)}>
                Cancel this request…
              </button>
            </div>
          )}
          {asking && (
            <Ask
              title="Cancel this request?"
              action="Cancel the request"
              danger
              onDone={() => call('DELETE', `/requests/${encodeURIComponent(id)}`).finally(look)}
              onClose={() => setAsking(false)}
            >
              <p>Its requestor is told, work on it stops, and its open tasks are withdrawn. This cannot be undone.</p>
            </Ask>
          )}
        </>
      )}
    </main>
  );
}

/** Browsers have a clipboard for pages over TLS, or of this machine. */
function CopyButton({ text }: { readonly text: string }) {
  const toast = useToast();
  const clipboard = navigator.clipboard as Clipboard | undefined;
  if (clipboard === undefined) return null;
  const copy = () =>
    clipboard.writeText(text).then(
      () => toast({ text: 'Copied.' }),
      () => toast({ text: 'The browser does not let this page copy.' }),
    );
  return (
    <button className="quiet" onClick={() => void copy()}>
      Copy the id
    </button>
  );
}

function useStory(id: string) {
  const [story, setStory] = useState<Story>();
  const [problem, setProblem] = useState<Problem>();
  const look = useCallback(() => {
    call<Story>('GET', `/requests/${encodeURIComponent(id)}/story`).then(
      (found) => {
        setStory(found);
        setProblem(undefined);
      },
      (error: unknown) => setProblem(problemFrom(error)),
    );
  }, [id]);
  useEffect(look, [look]);
  const over = story?.endedAt != null || (problem !== undefined && problem.status !== 0);
  useEffect(() => {
    if (over) return undefined;
    const timer = setInterval(() => document.visibilityState === 'visible' && look(), everyMs);
    return () => clearInterval(timer);
  }, [over, look]);
  return { story, problem, look };
}

function Unknown({ id, problem, onRetry }: { readonly id: string; readonly problem: Problem; readonly onRetry: () => void }) {
  return (
    <>
      {problem.status === 404 && <h1>No such request</h1>}
      <Banner kind="problem">
        {problem.status === 404 ? `There is no request ${id}, or it is not for you to see.` : problem.detail}{' '}
        <button onClick={onRetry}>Try again</button>
      </Banner>
    </>
  );
}

function WaitsFor({ story }: { readonly story: Story }) {
  const now = useNow();
  const { waitingOn, requestor, deadline, progress } = story;
  const holding = requestor?.kind === 'holding' && requestor.until != null ? new Date(requestor.until).getTime() : null;
  return (
    <dl className="context facts">
      {story.endedAt == null ? (
        <div>
          <dt>Waits for</dt>
          <dd>
            {waitingOn == null
              ? 'nobody: it is being worked on'
              : waitingOn.kind === 'requestor'
                ? 'its requestor, who was asked something'
                : waitingOn.text}
            {waitingOn?.taskId !== undefined && (
              <>
                {' · '}
                <Link to={`/inbox/${encodeURIComponent(waitingOn.taskId)}`}>Open the task</Link>
              </>
            )}
          </dd>
        </div>
      ) : (
        <div>
          <dt>Ended</dt>
          <dd>
            <When at={story.endedAt} />{' '}
            <span className="soft">(took {took(Date.parse(story.endedAt) - Date.parse(story.acceptedAt))})</span>
          </dd>
        </div>
      )}
      {requestor != null && (
        <div>
          <dt>Requestor</dt>
          <dd>{holding !== null && holding > now ? <OnTheLine until={holding} /> : (requestorWords[requestor.kind] ?? requestor.kind)}</dd>
        </div>
      )}
      {progress != null && (
        <div>
          <dt>Progress</dt>
          <dd>
            {progress.percent !== undefined && <progress max={100} value={progress.percent} aria-label="Progress" />}{' '}
            {progress.percent !== undefined && `${progress.percent} %`} {progress.message}
          </dd>
        </div>
      )}
      <div>
        <dt>Accepted</dt>
        <dd>
          <When at={story.acceptedAt} />
        </dd>
      </div>
      {story.endedAt == null && deadline != null && (
        <div>
          <dt>Deadline</dt>
          <dd className={Date.parse(deadline) - now < 60_000 ? 'warn' : ''}>{distance(Date.parse(deadline) - now)}</dd>
        </div>
      )}
    </dl>
  );
}

/** Who has not answered comes first, then the slowest. */
function Parts({ parts }: Pick<Story, 'parts'>) {
  if (parts.length === 0) return null;
  const silent = (state: string) => !['answered', 'replied', 'failed', 'faulted', 'cancelled'].includes(state);
  const sorted = [...parts].sort((a, b) => Number(silent(b.state)) - Number(silent(a.state)) || (b.ms ?? 0) - (a.ms ?? 0));
  const longest = Math.max(1, ...parts.map(({ ms }) => ms ?? 0));
  return (
    <section>
      <h2>
        Parts: {parts.filter(({ state }) => !silent(state)).length} of {parts.length} answered
      </h2>
      <table className="parts">
        <thead>
          <tr>
            <th scope="col">Who</th>
            <th scope="col">State</th>
            <th scope="col">Time</th>
          </tr>
        </thead>
        <tbody>
          {sorted.map(({ name, state, ms }) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>
                <Chip state={state}>{silent(state) ? 'no answer yet' : state}</Chip>
              </td>
              <td>
                {ms !== null && (
                  <>
                    <meter min={0} max={longest} value={ms} aria-hidden="true" /> {took(ms)}
                  </>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function took(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  return distance(ms).replace(/^in /, '');
}
