/** Who is signed in, and the way in. When a session ends, the page stays as it is under the sign-in dialog. */
import { createContext, type ReactNode, type SubmitEvent, useCallback, useContext, useEffect, useId, useRef, useState } from 'react';
import type { Session, User } from './contract.js';
import { call, problemFrom, whenSignedOut } from './http.js';
import { listen, stopListening } from './live.js';
import { Banner } from './parts.js';

interface Known {
  readonly user: User;
  readonly signOut: () => Promise<void>;
}

const Person = createContext<Known | undefined>(undefined);

/** Who is signed in. Only below `SignedIn`. */
export function usePerson(): Known {
  const known = useContext(Person);
  if (known === undefined) throw new Error('nobody is signed in here');
  return known;
}

/** Where nobody can sign in, everybody who reaches the hub is the same: what they may see needs no name. */
const nobody: User = { name: '', displayName: '', groups: [], roles: [], standsInFor: [] };
const canSignIn = ({ signIn: { local, oidc } }: Session): boolean => local || oidc !== null;

/** `open`: the page is not only for people, where the hub has none. */
export function SignedIn({ open, children }: { readonly open: boolean; readonly children: ReactNode }) {
  const [session, setSession] = useState<Session>();
  const [failed, setFailed] = useState<string>();
  /** Who was signed in before: the page is theirs. */
  const [owner, setOwner] = useState<User>();

  const take = useCallback((next: Session, wish: 'hello' | 'anew') => {
    setFailed(undefined);
    setSession(next);
    if (next.user === null) return;
    setOwner(next.user);
    listen(wish);
  }, []);
  const look = useCallback(() => {
    call<Session>('GET', '/session').then(
      (next) => take(next, 'hello'),
      (error: unknown) => {
        const { status, detail } = problemFrom(error);
        if (status === 404) take({ user: null, signIn: { local: false, oidc: null, demoUsers: [] } }, 'hello');
        else setFailed(detail);
      },
    );
  }, [take]);

  useEffect(() => {
    look();
    whenSignedOut(look);
    // Another tab may have signed in somebody else: what this one shows must be of who would act.
    const seen = () => void (document.visibilityState === 'visible' && look());
    document.addEventListener('visibilitychange', seen);
    return () => document.removeEventListener('visibilitychange', seen);
  }, [look]);

  const signOut = useCallback(async () => {
    await call('DELETE', '/session').catch(() => undefined);
    stopListening();
    setOwner(undefined);
    look();
  }, [look]);

  if (failed !== undefined && session === undefined) {
    return (
      <main className="alone">
        <h1>Answerback</h1>
        <Banner kind="problem">
          {failed} <button onClick={look}>Try again</button>
        </Banner>
      </main>
    );
  }
  if (session === undefined) return null;
  if (owner === undefined && open && !canSignIn(session)) return <Person value={{ user: nobody, signOut }}>{children}</Person>;
  if (owner === undefined) return <SignIn session={session} onSession={(next) => take(next, 'anew')} />;
  return (
    // Another person gets another page: nothing typed by the one before stays.
    <Person key={owner.name} value={{ user: owner, signOut }}>
      {children}
      {session.user === null && (
        <SessionOver>
          <SignInForm session={session} onSession={(next) => take(next, 'anew')} />
        </SessionOver>
      )}
    </Person>
  );
}

function SignIn(props: { readonly session: Session; readonly onSession: (session: Session) => void }) {
  useEffect(() => {
    document.title = 'Sign in – Answerback';
  }, []);
  return (
    <main className="alone">
      <h1>Answerback</h1>
      <p className="lead">Sign in to see what waits for you.</p>
      <SignInForm {...props} />
    </main>
  );
}

function SessionOver({ children }: { readonly children: ReactNode }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="over" onCancel={(event) => event.preventDefault()}>
      <h2 id="over">Your session has ended</h2>
      <p>Sign in again to go on. What you typed is still here.</p>
      {children}
    </dialog>
  );
}

function SignInForm({ session, onSession }: { readonly session: Session; readonly onSession: (session: Session) => void }) {
  const [problem, setProblem] = useState<string>();
  const [pending, setPending] = useState(false);
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const ids = useId();
  const { local, oidc, demoUsers } = session.signIn;

  const enter = async (userName: string, secret: string) => {
    setPending(true);
    setProblem(undefined);
    try {
      onSession(await call<Session>('POST', '/session', { name: userName, password: secret }));
    } catch (error) {
      const { status, detail } = problemFrom(error);
      setProblem(status === 401 ? 'That name and password do not fit. Check both and try again.' : detail);
      setPending(false);
    }
  };
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    void enter(name, password);
  };

  return (
    <>
      {oidc !== null && (
        <p>
          <a className="button primary wide" href={oidc.url}>
            {oidc.label}
          </a>
        </p>
      )}
      {local && (
        <form onSubmit={submit} className="stack">
          {problem !== undefined && <Banner kind="problem">{problem}</Banner>}
          <div className="field">
            <label htmlFor={`${ids}name`}>User name</label>
            <input id={`${ids}name`} value={name} onChange={(event) => setName(event.target.value)} autoComplete="username" required />
          </div>
          <div className="field">
            <label htmlFor={`${ids}password`}>Password</label>
            <input
              id={`${ids}password`}
              type="password"
              value={password}
              onChange={(event) => setPassword(event.target.value)}
              autoComplete="current-password"
              required
            />
          </div>
          <button className="primary wide" disabled={pending}>
            Sign in
          </button>
        </form>
      )}
      {!canSignIn(session) && <Banner kind="note">This hub has no users: `answerback user NAME` makes one for its hub.yaml.</Banner>}
      {demoUsers.length > 0 && (
        <section aria-label="Demo users" className="demo">
          <p>
            <strong>Demo.</strong> Reachable from this machine only. Sign in as:
          </p>
          <ul className="plain">
            {demoUsers.map((user) => (
              <li key={user.name}>
                <button onClick={() => void enter(user.name, user.password)} disabled={pending}>
                  {user.name} / {user.password}
                </button>{' '}
                <span className="soft">{user.about}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}
