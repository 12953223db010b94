/** Away: from when until when, and who decides meanwhile. Both stay on record. */
import { useEffect, useState } from 'react';
import type { Absence } from './contract.js';
import { call, problemFrom } from './http.js';
import { Banner } from './parts.js';
import { Link } from './route.js';

export function Away() {
  const [absence, setAbsence] = useState<Absence | null>();
  const [problem, setProblem] = useState<string>();
  const [done, setDone] = useState<string>();
  useEffect(() => {
    document.title = 'Away – Answerback';
    call<Absence | null | undefined>('GET', '/absence').then(
      (found) => setAbsence(found?.from === undefined ? null : found),
      (error: unknown) => (problemFrom(error).status === 404 ? setAbsence(null) : setProblem(problemFrom(error).detail)),
    );
  }, []);
  const attempt = async (what: Promise<unknown>, next: Absence | null, said: string) => {
    try {
      await what;
      setAbsence(next);
      setProblem(undefined);
      setDone(said);
    } catch (error) {
      setProblem(problemFrom(error).detail);
    }
  };

  return (
    <main className="alone" id="main">
      <p>
        <Link to="/inbox">← To the inbox</Link>
      </p>
      <h1>Away</h1>
      <p>While you are away, your substitute sees your tasks and can act for you. The record names both of you.</p>
      {problem !== undefined && <Banner kind="problem">{problem}</Banner>}
      {done !== undefined && <Banner kind="good">{done}</Banner>}
      {absence !== undefined && (
        <AwayForm
          key={JSON.stringify(absence)}
          absence={absence}
          onSave={(next) => attempt(call('PUT', '/absence', next), next, `Saved: ${next.substitute} decides for you.`)}
          onEnd={() => attempt(call('DELETE', '/absence'), null, 'You are back.')}
        />
      )}
    </main>
  );
}

interface AwayFormProps {
  readonly absence: Absence | null;
  readonly onSave: (absence: Absence) => Promise<void>;
  readonly onEnd: () => Promise<void>;
}

function AwayForm({ absence, onSave, onEnd }: AwayFormProps) {
  const [from, setFrom] = useState(() => local(absence?.from));
  const [until, setUntil] = useState(() => local(absence?.until));
  const [substitute, setSubstitute] = useState(absence?.substitute ?? '');
  return (
    <form
      className="stack"
      onSubmit={(event) => {
        event.preventDefault();
        void onSave({ from: new Date(from).toISOString(), until: new Date(until).toISOString(), substitute: substitute.trim() });
      }}
    >
      <div className="field">
        <label htmlFor="from">From</label>
        <input id="from" type="datetime-local" required value={from} onChange={(event) => setFrom(event.target.value)} />
      </div>
      <div className="field">
        <label htmlFor="until">Until</label>
        <input id="until" type="datetime-local" required min={from} value={until} onChange={(event) => setUntil(event.target.value)} />
      </div>
      <div className="field">
        <label htmlFor="substitute">Substitute (user name)</label>
        <input id="substitute" required value={substitute} onChange={(event) => setSubstitute(event.target.value)} autoComplete="off" />
      </div>
      <div className="actions">
        <button className="primary">Save</button>
        {absence !== null && (
          <button type="button" onClick={() => void onEnd()}>
            I am back
          </button>
        )}
      </div>
    </form>
  );
}

function local(stamp: string | undefined): string {
  const at = stamp === undefined ? new Date() : new Date(stamp);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
