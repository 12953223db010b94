/**
 * Sign in by an identity provider (OpenID Connect, authorization code with PKCE). What the provider says of a person becomes a member: a
 * name, groups, and roles by groups. What is under way is kept in a cookie that only this browser has, so that nobody can be signed in as
 * somebody else by a link.
 */
import { randomBytes } from 'node:crypto';
import * as client from 'openid-client';
import { Fault, messageOf } from '../../broker/fault.js';
import type { People } from '../../broker/people.js';
import type { Member, Role } from '../../broker/tasks/task.js';
import { queryOf } from './json.js';
import { cookieIn, isSecure, setCookie, setSession } from './persons.js';
import { httpProblem, sendProblem } from './problem.js';
import type { Handler, Route } from './server.js';

export interface OidcSettings {
  readonly oidcIssuer: string;
  readonly oidcClientId: string;
  readonly oidcClientSecret: string;
  readonly oidcLabel: string;
  readonly oidcNameClaim: string;
  readonly oidcGroupsClaim: string;
  readonly oidcViewers: readonly string[];
  readonly oidcOperators: readonly string[];
  readonly oidcAdmins: readonly string[];
}

export const oidcSettings = {
  oidcIssuer: {
    doc: 'Identity provider (OpenID Connect) by which people sign in: its issuer, as in https://login.example.org/realms/main. Empty: none.',
    format: 'url',
    default: '',
    env: 'HUB_OIDC_ISSUER',
  },
  oidcClientId: { doc: 'What the hub is called there.', format: 'String', default: 'answerback', env: 'HUB_OIDC_CLIENT_ID' },
  oidcClientSecret: {
    doc: 'Its secret there; empty: a public client.',
    format: 'String',
    default: '',
    env: 'HUB_OIDC_CLIENT_SECRET',
    sensitive: true,
  },
  oidcLabel: { doc: 'What the button says.', format: 'String', default: 'Sign in', env: 'HUB_OIDC_LABEL' },
  oidcNameClaim: {
    doc: 'Claim with the name by which the hub knows a person: one that people cannot choose for themselves.',
    format: 'String',
    default: 'preferred_username',
    env: 'HUB_OIDC_NAME_CLAIM',
  },
  oidcGroupsClaim: { doc: "Claim with a person's groups.", format: 'String', default: 'groups', env: 'HUB_OIDC_GROUPS_CLAIM' },
  oidcViewers: { doc: 'Groups whose members may read every story.', format: 'list', default: [], env: 'HUB_OIDC_VIEWERS' },
  oidcOperators: { doc: 'Groups whose members are operators.', format: 'list', default: [], env: 'HUB_OIDC_OPERATORS' },
  oidcAdmins: { doc: 'Groups whose members are administrators.', format: 'list', default: [], env: 'HUB_OIDC_ADMINS' },
} as const;

const defaults = Object.fromEntries(Object.entries(oidcSettings).map(([name, spec]) => [name, spec.default])) as unknown as OidcSettings;

const cookieName = 'hub_oidc';
const cookiePath = '/session/oidc';
const underWaySeconds = 600;
const discoverAgainMs = 300_000;

export interface OidcNeeds {
  readonly settings: Partial<OidcSettings>;
  readonly people: People;
  /** Where browsers find this hub. */
  readonly publicUrl: () => string;
  readonly log: (event: string, fields?: Readonly<Record<string, unknown>>) => void;
}

/** Undefined: no identity provider is set. */
export function oidc({
  settings: given,
  people,
  publicUrl,
  log,
}: OidcNeeds): { readonly url: string; readonly label: string; readonly routes: readonly Route[] } | undefined {
  const settings: OidcSettings = { ...defaults, ...given };
  if (settings.oidcIssuer === '') return undefined;
  let known: { readonly provider: Promise<client.Configuration>; readonly at: number } | undefined;

  /** What the provider says of itself, read anew now and then, and after a failure. */
  function provider(): Promise<client.Configuration> {
    if (known !== undefined && Date.now() - known.at < discoverAgainMs) return known.provider;
    const issuer = new URL(settings.oidcIssuer);
    const secret = settings.oidcClientSecret;
    const found = client
      .discovery(issuer, settings.oidcClientId, undefined, secret === '' ? client.None() : client.ClientSecretPost(secret), {
        timeout: 10,
        // Signatures are looked at though the token comes straight from the provider; without TLS only one on this machine, for trying out.
        execute: [client.enableNonRepudiationChecks, ...(isLocal(issuer) ? [client.allowInsecureRequests] : [])],
      })
      .catch((cause: unknown) => {
        known = undefined;
        log('oidc.failed', { error: messageOf(cause) });
        throw new Fault('unavailable', 'the identity provider does not answer', { cause, reason: 'oidc', retryAfterMs: 5_000 });
      });
    known = { provider: found, at: Date.now() };
    return found;
  }

  const redirectUri = () => `${publicUrl().replace(/\/$/, '')}${cookiePath}/callback`;

  const begin: Handler = async (request, reply) => {
    const config = await provider();
    const [state, verifier, nonce] = [random(), client.randomPKCECodeVerifier(), random()];
    const to = client.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri(),
      scope: 'openid profile email',
      state,
      nonce,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    const secure = isSecure(request, publicUrl());
    setCookie(reply, { name: cookieName, value: pack(state, verifier, nonce), path: cookiePath, seconds: underWaySeconds, secure });
    return reply.redirect(to.href, 303);
  };

  const finish: Handler = async (request, reply) => {
    const underWay = unpack(cookieIn(request.headers.cookie, cookieName) ?? '');
    setCookie(reply, { name: cookieName, value: '', path: cookiePath, seconds: 0, secure: isSecure(request, publicUrl()) });
    const refused = (detail: string) => sendProblem(reply, httpProblem('unauthenticated', detail));
    if (underWay === undefined || queryOf(request)['state'] !== underWay.state)
      return refused('this sign-in was not begun in this browser, or too long ago: begin again at /inbox');
    const config = await provider();
    let member: Member;
    try {
      const tokens = await client.authorizationCodeGrant(config, new URL(redirectUri() + (/\?.*$/.exec(request.url)?.[0] ?? '')), {
        pkceCodeVerifier: underWay.verifier,
        expectedState: underWay.state,
        expectedNonce: underWay.nonce,
        idTokenExpected: true,
      });
      member = memberOf(tokens.claims() ?? {}, settings);
    } catch (error) {
      log('oidc.refused', { error: messageOf(error) });
      return refused('the identity provider did not vouch for you');
    }
    const session = await people.vouched(member);
    if (session === undefined) return refused(`${member.name} is the name of a local user, who signs in with a password`);
    setSession(request, reply, session, publicUrl());
    return reply.redirect('/inbox', 303);
  };

  const anyone = { who: 'anyone' } as const;
  return {
    url: cookiePath,
    label: settings.oidcLabel,
    routes: [
      ['GET', cookiePath, begin, 'quick', anyone],
      ['GET', `${cookiePath}/callback`, finish, 'quick', anyone],
    ],
  };
}

/** What the claims say of a person. Throws when they do not say who it is. */
function memberOf(claims: Readonly<Record<string, unknown>>, settings: OidcSettings): Member {
  const name = claims[settings.oidcNameClaim];
  if (typeof name !== 'string' || name.trim() === '') throw new Error(`the ID token has no claim ${settings.oidcNameClaim}`);
  const said = claims[settings.oidcGroupsClaim];
  const groups = (Array.isArray(said) ? said : [said]).filter((group): group is string => typeof group === 'string');
  const offices: readonly (readonly [Role, readonly string[]])[] = [
    ['viewer', settings.oidcViewers],
    ['operator', settings.oidcOperators],
    ['admin', settings.oidcAdmins],
  ];
  const { email, email_verified: verified, name: displayName } = claims;
  return {
    name: name.trim(),
    groups,
    roles: ['task-user', ...offices.filter(([, its]) => groups.some((group) => its.includes(group))).map(([role]) => role)],
    ...(typeof displayName === 'string' ? { displayName } : {}),
    // An address that anybody may claim would make them somebody else.
    ...(typeof email === 'string' && verified === true ? { email } : {}),
  };
}

const isLocal = ({ protocol, hostname }: URL): boolean => protocol === 'http:' && ['127.0.0.1', 'localhost'].includes(hostname);

const random = (): string => randomBytes(24).toString('base64url');
const pack = (state: string, verifier: string, nonce: string): string => state + verifier + nonce;
function unpack(text: string): { readonly state: string; readonly verifier: string; readonly nonce: string } | undefined {
  const [, state, verifier, nonce] = /^(.{32})(.{43})(.{32})$/.exec(text) ?? [];
  return state === undefined || verifier === undefined || nonce === undefined ? undefined : { state, verifier, nonce };
}
