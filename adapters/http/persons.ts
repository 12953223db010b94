/** Who a person is that comes by HTTP: a session in a cookie, or the key of a principal that may act on tasks. */
import type { TLSSocket } from 'node:tls';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { AdapterContext } from '../../broker/adapter.js';
import { sessionMs } from '../../broker/people.js';
import type { Member } from '../../broker/tasks/task.js';
import { apiKey } from './headers.js';
import { httpProblem, type Problem } from './problem.js';

/** Who comes by a session or a key. */
export interface Person {
  readonly member: Member;
  readonly via: 'page' | 'key';
  /** Of who came by a session. */
  readonly session?: string;
}

const cookieName = 'hub_session';

export function sessionIn({ headers }: Pick<FastifyRequest, 'headers'>): string | undefined {
  return cookieIn(headers.cookie, cookieName);
}

export function cookieIn(cookies: string | undefined, name: string): string | undefined {
  for (const cookie of (cookies ?? '').split(';')) {
    const [key, value = ''] = cookie.trim().split('=', 2);
    if (key === name && /^[\w-]{20,200}$/.test(value)) return value;
  }
  return undefined;
}

export async function whoIs(
  request: FastifyRequest,
  { access, inbox }: Pick<AdapterContext, 'access' | 'inbox'>,
): Promise<Person | undefined> {
  if (inbox === undefined) return undefined;
  const session = sessionIn(request);
  const member = session === undefined ? undefined : await inbox.people.session(session);
  if (member !== undefined && session !== undefined) return { member, via: 'page', session };
  const principal = access.required ? access.authenticate(apiKey(request.headers)) : undefined;
  const known = principal === undefined ? undefined : inbox.people.memberOf(principal);
  return known === undefined ? undefined : { member: known, via: 'key' };
}

/**
 * A write that another site's page made the browser send, with the cookie that it has (CSRF). Browsers say where a write comes from;
 * whoever says nothing is no browser, or sends what a page of another origin cannot without being asked for (Fetch, CORS-preflight).
 */
export function otherOrigin({ method, headers }: FastifyRequest): Problem | undefined {
  if (method === 'GET' || method === 'HEAD') return undefined;
  const { host, origin, 'sec-fetch-site': site, 'content-type': type = '' } = headers;
  const isOurs =
    site !== undefined
      ? site === 'same-origin'
      : origin !== undefined
        ? hostOf(origin) === host
        : method !== 'POST' || /^application\/json\s*(;|$)/i.test(type) || headers.cookie === undefined;
  return isOurs ? undefined : httpProblem('cross-origin', 'this is for the pages of this hub');
}

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host;
  } catch {
    return undefined;
  }
}

/** The session's cookie; without a session, its end. */
export function setSession(request: FastifyRequest, reply: FastifyReply, session: string | undefined, publicUrl: string): void {
  setCookie(reply, {
    name: cookieName,
    value: session ?? '',
    path: '/',
    seconds: session === undefined ? 0 : sessionMs / 1_000,
    secure: isSecure(request, publicUrl),
  });
}

export const isSecure = ({ raw }: FastifyRequest, publicUrl: string): boolean =>
  publicUrl.startsWith('https:') || (raw.socket as Partial<TLSSocket>).encrypted === true;

export function setCookie(
  reply: FastifyReply,
  {
    name,
    value,
    path,
    seconds,
    secure,
  }: { readonly name: string; readonly value: string; readonly path: string; readonly seconds: number; readonly secure: boolean },
): void {
  reply.header('set-cookie', `${name}=${value}; Path=${path}; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`);
}
