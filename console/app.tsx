/** The frame around every page, and which page it is. */
import { lazy, Suspense, useState } from 'react';
import { Inbox } from './inbox.js';
import { KeysHelp, useKeys } from './keys.js';
import { ToastPlace } from './parts.js';
import { Link, useRoute } from './route.js';
import { SignedIn, usePerson } from './session.js';

const Away = lazy(() => import('./away.js').then(({ Away }) => ({ default: Away })));
const RequestStory = lazy(() => import('./story.js').then(({ RequestStory }) => ({ default: RequestStory })));

export function App() {
  useKeys();
  const { page } = useRoute();
  return (
    <SignedIn open={page === 'request'}>
      <ToastPlace>
        <a className="skip" href="#main">
          Skip to the content
        </a>
        <Header />
        <Page />
      </ToastPlace>
    </SignedIn>
  );
}

function Page() {
  const route = useRoute();
  if (route.page === 'inbox') return <Inbox {...route} />;
  if (route.page === 'nowhere') {
    return (
      <main className="alone" id="main">
        <h1>There is nothing here</h1>
        <p>
          <Link to="/inbox">To the inbox</Link>
        </p>
      </main>
    );
  }
  return (
    <Suspense fallback={<main id="main" aria-busy="true" />}>
      {route.page === 'away' ? <Away /> : <RequestStory key={route.id} id={route.id} />}
    </Suspense>
  );
}

function Header() {
  const { user, signOut } = usePerson();
  return (
    <header className="top">
      <Link to="/inbox" className="brand">
        Answerback
      </Link>
      <div className="tools">
        <KeysHelp />
        <ThemeButton />
        {user.name !== '' && (
          <details className="menu">
            <summary>{user.displayName}</summary>
            <div>
              <p className="soft">
                {user.name}
                {user.groups.length > 0 && ` · ${user.groups.join(', ')}`}
              </p>
              <Link to="/inbox/away">Away and substitute</Link>
              <button onClick={() => void signOut()}>Sign out</button>
            </div>
          </details>
        )}
      </div>
    </header>
  );
}

type Theme = 'auto' | 'light' | 'dark';
const following: Readonly<Record<Theme, Theme>> = { auto: 'light', light: 'dark', dark: 'auto' };

/** `theme.js` does the same before the first paint. */
function ThemeButton() {
  const [theme, setTheme] = useState<Theme>(() => (document.documentElement.dataset['theme'] as Theme | undefined) ?? 'auto');
  const turn = () => {
    const next = following[theme];
    setTheme(next);
    if (next === 'auto') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = next;
    localStorage.setItem('answerback.theme', next);
  };
  return (
    <button className="quiet" onClick={turn} title={`Theme: ${theme}. Press for ${following[theme]}.`}>
      <span aria-hidden="true">{theme === 'auto' ? '◐' : theme === 'light' ? '☀' : '☾'}</span> <span className="word">Theme: {theme}</span>
    </button>
  );
}
