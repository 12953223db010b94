/** Where in the console we are: the address bar is the only state of navigation. */
import { type MouseEvent, type ReactNode, useSyncExternalStore } from 'react';
import type { View } from './contract.js';

export type Route =
  | { readonly page: 'inbox'; readonly view: View; readonly query: string; readonly task: string | null }
  | { readonly page: 'away' }
  | { readonly page: 'request'; readonly id: string }
  | { readonly page: 'nowhere' };

export const views: readonly View[] = ['mine', 'groups', 'due', 'done', 'all'];

/** The page at an address; `mine` is the view when none is named. */
export function routeOf(path: string, search: string): Route {
  const [, top, id, more] = path.split('/').map(decode);
  const wanted = new URLSearchParams(search);
  if (more !== undefined && more !== '') return { page: 'nowhere' };
  if (top === 'requests' && id !== undefined && id !== '') return { page: 'request', id };
  if (top !== 'inbox') return { page: 'nowhere' };
  if (id === 'away') return { page: 'away' };
  const view = views.find((known) => known === wanted.get('view')) ?? 'mine';
  return { page: 'inbox', view, query: wanted.get('q') ?? '', task: id === undefined || id === '' ? null : id };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of the inbox with these settings. */
export function inboxAt({ view, query = '', task = null }: { view: View; query?: string; task?: string | null }): string {
  const wanted = new URLSearchParams({ ...(view === 'mine' ? {} : { view }), ...(query === '' ? {} : { q: query }) }).toString();
  return `/inbox${task === null ? '' : `/${encodeURIComponent(task)}`}${wanted === '' ? '' : `?${wanted}`}`;
}

const watchers = new Set<() => void>();

export function navigate(to: string, { replace = false } = {}): void {
  if (to === location.pathname + location.search) return;
  if (replace) history.replaceState(null, '', to);
  else history.pushState(null, '', to);
  for (const watcher of watchers) watcher();
}

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  addEventListener('popstate', watcher);
  return () => {
    watchers.delete(watcher);
    removeEventListener('popstate', watcher);
  };
}

export function useRoute(): Route {
  const href = useSyncExternalStore(watch, () => location.pathname + location.search);
  const { pathname, search } = new URL(href, location.origin);
  return routeOf(pathname, search);
}

interface LinkProps {
  readonly to: string;
  readonly children: ReactNode;
  readonly className?: string;
  readonly id?: string;
  readonly current?: boolean;
  readonly describedBy?: string;
}

/** A link that loads no page; with a modifier key it is what the browser makes of it. */
export function Link({ to, children, className, id, current = false, describedBy }: LinkProps) {
  const follow = (event: MouseEvent) => {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    navigate(to);
  };
  return (
    <a href={to} onClick={follow} className={className} id={id} aria-current={current ? 'page' : undefined} aria-describedby={describedBy}>
      {children}
    </a>
  );
}
