/** Sign in by an identity provider: a small one of our own, which vouches for whomever the test says. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import type { HttpSettings } from '../../adapters/http/index.js';
import { task } from '../../index.js';
import { serve, type Served } from './http-server.js';

interface Asked {
  readonly nonce: string;
  readonly challenge: string;
}

let issuer: Server;
let issuerUrl: string;
let served: Served;
/** What the provider says of who signs in; what it does wrong. */
let claims: Record<string, unknown> = {};
let wrong: 'nothing' | 'nonce' | 'audience' | 'key' | 'verifier' = 'nothing';

beforeAll(async () => {
  const [right, other] = [await generateKeyPair('RS256'), await generateKeyPair('RS256')];
  const jwk = { ...(await exportJWK(right.publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' };
  const codes = new Map<string, Asked>();
  const tokens = async (form: URLSearchParams) => {
    const { nonce, challenge } = codes.get(form.get('code') ?? '')!;
    const given = createHash('sha256')
      .update(form.get('code_verifier') ?? '')
      .digest('base64url');
    if (given !== challenge || wrong === 'verifier') return { error: 'invalid_grant' };
    const token = await new SignJWT({ ...claims, nonce: wrong === 'nonce' ? 'another' : nonce })
      .setProtectedHeader({ alg: 'RS256', kid: 'k1' })
      .setIssuer(issuerUrl)
      .setSubject('42')
      .setAudience(wrong === 'audience' ? 'another' : 'answerback')
      .setIssuedAt()
      .setExpirationTime('5m')
      .sign(wrong === 'key' ? other.privateKey : right.privateKey);
    return { access_token: 'a', token_type: 'bearer', id_token: token };
  };
  issuer = createServer((request, response) => {
    const url = new URL(request.url ?? '/', issuerUrl);
    const json = (value: object) =>
      void response.writeHead('error' in value ? 400 : 200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    if (url.pathname === '/.well-known/openid-configuration')
      return json({
        issuer: issuerUrl,
        authorization_endpoint: `${issuerUrl}/authorize`,
        token_endpoint: `${issuerUrl}/token`,
        jwks_uri: `${issuerUrl}/keys`,
        id_token_signing_alg_values_supported: ['RS256'],
      });
    if (url.pathname === '/keys') return json({ keys: [jwk] });
    if (url.pathname === '/authorize') {
      const asked = (name: string) => url.searchParams.get(name) ?? '';
      codes.set(`c${codes.size}`, { nonce: asked('nonce'), challenge: asked('code_challenge') });
      const back = `${asked('redirect_uri')}?code=c${codes.size - 1}&state=${asked('state')}`;
      return void response.writeHead(302, { location: back }).end();
    }
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => void tokens(new URLSearchParams(body)).then(json));
    return undefined;
  });
  await new Promise<void>((resolve) => issuer.listen(0, '127.0.0.1', resolve));
  issuerUrl = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}`;
  const settings: Partial<HttpSettings> = {
    oidcIssuer: issuerUrl,
    oidcClientSecret: 'secret',
    oidcLabel: 'With the company',
    oidcOperators: ['it'],
  };
  served = await serve(settings, {
    flows: { order: ['order.approve'] },
    steps: [task({ name: 'order.approve', title: 'Approve', candidates: { groups: ['buyers'] } })],
    users: [
      { name: 'ana', groups: [], roles: ['task-user'], demoPassword: 'ana' },
      { name: 'bo', groups: ['heads'], roles: ['viewer'] },
    ],
  });
});
afterAll(async () => {
  await served?.close();
  issuer?.close();
});
beforeEach(() => {
  claims = { preferred_username: 'dee', name: 'Dee D.', groups: ['buyers'], email: 'dee@x.org', email_verified: true };
  wrong = 'nothing';
});

const cookiesOf = (response: Response) => response.headers.getSetCookie().map((cookie) => cookie.split(';')[0]!);

/** A browser that follows the way there and back. */
async function signIn(change: { readonly cookie?: string; readonly state?: string } = {}) {
  const begun = await served.fetch('/session/oidc', { redirect: 'manual' });
  expect(begun.status).toBe(303);
  const back = await fetch(begun.headers.get('location')!, { redirect: 'manual' });
  const url = new URL(back.headers.get('location')!);
  if (change.state !== undefined) url.searchParams.set('state', change.state);
  const finished = await fetch(url, { redirect: 'manual', headers: { cookie: change.cookie ?? cookiesOf(begun).join('; ') } });
  const session = cookiesOf(finished).find((cookie) => /^hub_session=./.test(cookie));
  return {
    finished,
    url,
    begun,
    session,
    who: async () => ((await (await served.fetch('/session', { headers: { cookie: session ?? '' } })).json()) as { user: unknown }).user,
  };
}

describe('who signs in by an identity provider', () => {
  it('is offered it, and is known by the name, groups and roles that it says', async () => {
    expect(await (await served.fetch('/session')).json()).toMatchObject({
      signIn: { oidc: { url: '/session/oidc', label: 'With the company' } },
    });
    claims = { ...claims, groups: ['buyers', 'it'] };
    const { finished, who } = await signIn();
    expect([finished.status, finished.headers.get('location')]).toEqual([303, '/inbox']);
    expect(await who()).toMatchObject({ name: 'dee', displayName: 'Dee D.', groups: ['buyers', 'it'], roles: ['task-user', 'operator'] });
  });

  it('has what hub.yaml says of them, too, and can be given a task', async () => {
    claims = { preferred_username: 'BO', groups: ['buyers'] };
    expect(await (await signIn()).who()).toMatchObject({ name: 'bo', groups: ['buyers', 'heads'], roles: ['task-user', 'viewer'] });
    expect(await served.hub.hub.people.find('dee')).toMatchObject({ name: 'dee' });
  });

  it('cannot become a local user who has a password, also not by another spelling', async () => {
    for (const name of ['ana', ' Ana', 'ANA']) {
      claims = { preferred_username: name };
      const { finished, session } = await signIn();
      expect([finished.status, session]).toEqual([401, undefined]);
    }
  });

  it('is not let in with a token that is not for this hub, this browser, or this sign-in', async () => {
    for (const each of ['nonce', 'audience', 'key', 'verifier'] as const) {
      wrong = each;
      const { finished, session } = await signIn();
      expect([each, finished.status, session]).toEqual([each, 401, undefined]);
    }
    wrong = 'nothing';
    expect((await signIn({ cookie: '' })).finished.status).toBe(401);
    expect((await signIn({ state: 'another' })).finished.status).toBe(401);
    claims = { groups: ['buyers'] };
    expect((await signIn()).finished.status).toBe(401);
  });

  it('finds a link of theirs of no use to another browser, and only once', async () => {
    const { url, begun } = await signIn();
    expect((await fetch(url, { redirect: 'manual' })).status).toBe(401);
    const cookie = cookiesOf(begun).join('; ');
    expect(begun.headers.get('set-cookie')).toMatch(/hub_oidc=[\w-]{107}; Path=\/session\/oidc; Max-Age=600; HttpOnly; SameSite=Lax/);
    expect(cookie).not.toBe('');
  });
});
