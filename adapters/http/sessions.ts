/** Sign in and out with a password of hub.yaml; `oidc.ts` is the other way. */
import type { People } from '../../broker/people.js';
import type { Member } from '../../broker/tasks/task.js';
import { jsonOf, notJson, sendJson } from './json.js';
import { sessionIn, setSession } from './persons.js';
import { httpProblem, sendProblem } from './problem.js';
import type { Handler, Route } from './server.js';

export interface SessionNeeds {
  readonly people: People;
  readonly publicUrl: string;
  /** Another way to sign in: what the page calls it. */
  readonly oidc?: { readonly url: string; readonly label: string } | undefined;
}

/** Who is signed in, and how one could be. */
export interface SessionDocument {
  readonly user:
    (Pick<Member, 'name' | 'groups' | 'roles'> & { readonly displayName: string; readonly standsInFor: readonly string[] }) | null;
  readonly signIn: {
    readonly local: boolean;
    readonly oidc: { readonly url: string; readonly label: string } | null;
    readonly demoUsers: People['demoUsers'];
  };
}

export function sessionRoutes({ people, publicUrl, oidc }: SessionNeeds): readonly Route[] {
  const documentOf = async (member: Member | undefined): Promise<SessionDocument> => ({
    user:
      member === undefined
        ? null
        : {
            name: member.name,
            displayName: member.displayName ?? member.name,
            groups: member.groups,
            roles: member.roles,
            standsInFor: (await people.actor(member, 'page')).standsInFor.map(({ name }) => name),
          },
    signIn: {
      local: people.hasPasswords,
      oidc: oidc === undefined ? null : { url: oidc.url, label: oidc.label },
      demoUsers: people.demoUsers,
    },
  });

  const show: Handler = async (request, reply) => {
    const session = sessionIn(request);
    return sendJson(reply, await documentOf(session === undefined ? undefined : await people.session(session)));
  };

  const signIn: Handler = async (request, reply) => {
    const { name, password, ...others } = (jsonOf(request) ?? { wrong: true }) as Readonly<Record<string, unknown>>;
    if (
      typeof name !== 'string' ||
      typeof password !== 'string' ||
      name.length > 200 ||
      password.length > 1_000 ||
      Object.keys(others).length > 0
    )
      return sendProblem(reply, { ...notJson, detail: 'send { "name": …, "password": … } as application/json' });
    const signed = await people.signIn(name, password, request.socket.remoteAddress ?? '');
    if (signed.result === 'later') return sendProblem(reply, httpProblem('too-many', 'too many attempts: wait a little'), signed.againMs);
    if (signed.result === 'no')
      return sendProblem(reply, httpProblem('unauthenticated', 'there is no such user, or the password is another one'));
    const before = sessionIn(request);
    if (before !== undefined) await people.signOut(before);
    setSession(request, reply, signed.session, publicUrl);
    return sendJson(reply, await documentOf(signed.member));
  };

  const signOut: Handler = async (request, reply) => {
    const session = sessionIn(request);
    if (session !== undefined) await people.signOut(session);
    setSession(request, reply, undefined, publicUrl);
    return reply.code(204).send();
  };

  const anyone = { who: 'anyone' } as const;
  return [
    ['GET', '/session', show, 'quick', anyone],
    ['POST', '/session', signIn, 'quick', anyone],
    ['DELETE', '/session', signOut, 'quick', anyone],
  ];
}
