/**
 * The Fastify server around the routes: any body as bytes, limits before anything is published, who is asking, and every
 * error as problem+json, also for what never became a request.
 */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { fastify, type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest, type HTTPMethods } from 'fastify';
import type { AdapterContext } from '../../broker/adapter.js';
import { isFault, messageOf } from '../../broker/fault.js';
import type { Principal } from '../../broker/access.js';
import { withoutRoles } from '../../broker/people.js';
import { apiKey } from './headers.js';
import { localOnly } from './local.js';
import { openDoor } from './door.js';
import { otherOrigin, whoIs, type Person } from './persons.js';
import { httpProblem, rawProblem, sendProblem, thrownProblem, type Problem } from './problem.js';
import { visits, type Visit, type Visits } from './visits.js';

declare module 'fastify' {
  interface FastifyRequest {
    principal: Principal;
    /** Set on routes that count as in flight. */
    visit: Visit | null;
    /** Who it is, on routes for people. */
    person: Person | null;
  }
  interface FastifyContextConfig {
    access?: Route[3];
    who?: RouteOptions['who'] | undefined;
    refused?: RouteOptions['refused'] | undefined;
  }
}

export type Handler = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;

/**
 * - `open`: needs no key.
 * - `quick`: answered at once.
 * - `held`: counts as in flight, and fetches or ends what is there already.
 * - `new`: counts as in flight, and brings work: refused while the hub, or its principal, has too much of it.
 * - `stream`: counts as in flight, and has no HEAD.
 */
export type Route = readonly [
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  url: string,
  handler: Handler,
  access: 'open' | 'quick' | 'held' | 'new' | 'stream',
  more?: RouteOptions,
];

export interface RouteOptions {
  /**
   * Who may come, beside principals with their keys: `person`: only people, who have a session, or principals that may act on tasks;
   * `either`; `anyone`: nobody is asked for (to sign in).
   */
  readonly who?: 'person' | 'either' | 'anyone';
  /** Larger than of other routes. */
  readonly bodyLimit?: number;
  /** Is told of those who are known and are refused before the handler: `id` is what the address names first. Awaited before they hear of it. */
  readonly refused?: (id: string, who: Person, why: string) => Promise<void>;
}

export interface Limits {
  readonly bodyLimit: number;
  readonly maxHeaderSize: number;
  readonly maxConnections: number;
  readonly maxInFlight: number;
  readonly maxInFlightPerPrincipal: number;
  readonly headersTimeout: number;
  readonly requestTimeout: number;
}

export interface ServerNeeds {
  readonly limits: Limits;
  readonly context: Pick<AdapterContext, 'access' | 'log' | 'gateway' | 'inbox'>;
  /** True once nothing new may come in. */
  readonly stopping: () => boolean;
  /** Only reachable from this machine and without keys: web pages of others must be kept out. */
  readonly guardBrowsers: boolean;
  /** Another address for a request, before its route is looked for. */
  readonly rewriteUrl: (request: IncomingMessage) => string;
}

export function httpServer(
  routes: readonly Route[],
  { limits, context, stopping, guardBrowsers, rewriteUrl }: ServerNeeds,
): FastifyInstance {
  // Without keys everybody is the same principal: only the limit for all makes sense.
  const perPrincipal = context.access.required ? limits.maxInFlightPerPrincipal : Infinity;
  const inFlight = visits({ all: limits.maxInFlight, perPrincipal });

  const failed = (error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply) => {
    const problem = thrownProblem(error, request.routeOptions.bodyLimit);
    if (problem.code === 'error')
      context.log('failed', { method: request.method, route: request.routeOptions.url, error: messageOf(error) });
    // What is left of a refused body is read and dropped, so that the client can read the answer.
    if (problem.code === 'too-large') reply.removeHeader('connection');
    return sendProblem(reply, problem, isFault(error) ? error.retryAfterMs : undefined);
  };

  const app = fastify({
    bodyLimit: limits.bodyLimit,
    routerOptions: { maxParamLength: 255 },
    requestTimeout: limits.requestTimeout,
    rewriteUrl,
    forceCloseConnections: 'idle',
    // Our own hook says it as problem+json.
    return503OnClosing: false,
    http: {
      maxHeaderSize: limits.maxHeaderSize,
      headersTimeout: limits.headersTimeout,
      connectionsCheckingInterval: 1_000,
      requireHostHeader: false,
    },
    frameworkErrors: (error, request, reply) => void failed(error, request, reply),
    clientErrorHandler: (error, socket) => refuseRaw(error, socket, inFlight),
  });
  app.server.maxConnections = limits.maxConnections;
  openDoor(app.server, routes, { gateway: context.gateway, stopping });
  app.server.on('checkExpectation', (_request, response) => {
    response.shouldKeepAlive = false;
    const problem = httpProblem('expectation-failed', 'only `Expect: 100-continue` can be met');
    response.writeHead(problem.status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
  });

  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  // Set by the hook below, before any handler that may look at it.
  app.decorateRequest('principal', null as never);
  app.decorateRequest('visit', null);
  app.decorateRequest('person', null);
  app.setErrorHandler(failed);

  /** Whatever comes from where nobody of ours is; undefined: its requestor may come in, whoever that is. */
  const turnedAway = (request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined => {
    const access = request.routeOptions.config.access ?? 'quick';
    if (request.raw.httpVersion === '1.1' && request.headers.host === undefined) {
      return sendProblem(reply.header('connection', 'close'), httpProblem('bad-request', 'the Host header is missing'));
    }
    if (access === 'open') return undefined;
    if (stopping()) return sendProblem(reply, httpProblem('stopping', 'this hub is about to stop: ask again, another one may answer'));
    const intruder = guardBrowsers ? localOnly(request.headers) : undefined;
    if (intruder !== undefined) return sendProblem(reply, intruder);

    return request.routeOptions.config.who === 'anyone' ? fromElsewhere(request, reply) : undefined;
  };

  const fromElsewhere = (request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined => {
    const foreign = otherOrigin(request);
    return foreign === undefined ? undefined : sendProblem(reply, foreign);
  };

  /** Answers somebody who is known, once their route has been told. */
  const sendRefused = (request: FastifyRequest, reply: FastifyReply, problem: Problem, who: Person | undefined): FastifyReply => {
    const { url, config } = request.routeOptions;
    if (config.refused === undefined || who === undefined) return sendProblem(reply, problem);
    const [id = ''] = Object.values(request.params as Readonly<Record<string, string>>);
    void config
      .refused(id, who, problem.detail)
      .catch((error: unknown) => context.log('failed', { method: request.method, route: url, error: messageOf(error) }))
      .finally(() => sendProblem(reply, problem));
    return reply;
  };
  const strangerOf = (principal: Principal): Person => ({ member: withoutRoles(principal, 'key'), via: 'key' });

  /** Lets the request in; or answers it, and returns the answer. */
  const refused = (request: FastifyRequest, reply: FastifyReply, person: Person | undefined): FastifyReply | undefined => {
    const { access = 'quick', who } = request.routeOptions.config;
    // A key, a page of another origin does not have; a cookie, the browser sends along.
    const foreign = person?.via === 'page' ? otherOrigin(request) : undefined;
    if (foreign !== undefined && person !== undefined) return sendRefused(request, reply, foreign, person);
    const key = apiKey(request.headers);
    if (who === 'person' && person === undefined) {
      const program = context.access.required ? context.access.authenticate(key) : undefined;
      if (program !== undefined)
        return sendRefused(
          request,
          reply,
          httpProblem('not-permitted', `principal ${program.name} has no roles: it may not act on tasks`),
          strangerOf(program),
        );
      return sendProblem(
        reply.header('www-authenticate', 'Bearer realm="answerback"'),
        httpProblem('unauthenticated', 'sign in, or send the API key of a principal that may act on tasks'),
      );
    }
    request.person = person ?? null;

    const principal =
      person?.via === 'page' ? { name: `user ${person.member.name}`, flows: [], topics: [] } : context.access.authenticate(key);
    if (principal === undefined) {
      reply.header(
        'www-authenticate',
        key === undefined ? 'Bearer realm="answerback"' : 'Bearer realm="answerback", error="invalid_token"',
      );
      return sendProblem(reply, httpProblem('unauthenticated', 'send an API key as `Authorization: Bearer ab_…` or `X-API-Key: ab_…`'));
    }
    request.principal = principal;

    if (access === 'quick') return undefined;
    const refusal = access === 'new' ? context.gateway.overQuota(principal) : undefined;
    if (refusal !== undefined) return sendProblem(reply, httpProblem('too-many', refusal.detail), refusal.retryAfterMs);
    const visit = inFlight.enter(request.raw.socket, principal.name, access === 'held' ? 'fetches' : undefined);
    if (visit === 'overloaded')
      return sendProblem(reply, httpProblem('overloaded', `${limits.maxInFlight} requests are in flight, more are not taken`));
    if (visit === 'too-many')
      return sendProblem(
        reply,
        httpProblem('too-many', `${limits.maxInFlightPerPrincipal} requests of ${principal.name} are in flight, more are not taken`),
      );
    request.visit = visit;
    reply.raw.once('close', () => (reply.raw.writableFinished ? visit.leave() : visit.hangUp()));
    return undefined;
  };

  // Hooks with callbacks: those that return a promise cost several for each request.
  app.addHook('onRequest', (request, reply, done) => {
    if (turnedAway(request, reply) !== undefined) return;
    const { access, who } = request.routeOptions.config;
    const goOn = (answer: FastifyReply | undefined) => {
      if (answer === undefined) done();
    };
    if (access === 'open' || who === 'anyone') done();
    else if (who === undefined) goOn(refused(request, reply, undefined));
    else
      whoIs(request, context)
        .then((person) => goOn(refused(request, reply, person)))
        .catch(done);
  });

  app.addHook('onSend', (_request, reply, payload, done) => {
    reply.header('x-content-type-options', 'nosniff');
    // Bodies are the workers': in a browser they get no rights of this origin.
    if (!reply.hasHeader('content-security-policy')) reply.header('content-security-policy', "default-src 'none'; sandbox");
    if (stopping()) reply.header('connection', 'close');
    cutSlowReader(reply);
    done(null, payload);
  });

  for (const [method, url, handler, access, { who, bodyLimit, refused: told } = {}] of routes) {
    const limit = bodyLimit === undefined ? {} : { bodyLimit };
    app.route({
      method,
      url,
      handler,
      config: { access, who, refused: told },
      exposeHeadRoute: method === 'GET' && access !== 'stream',
      ...limit,
    });
  }
  refuseOtherMethods(app, routes, (request, reply, problem) =>
    sendRefused(request, reply, problem, request.person ?? (context.access.required ? strangerOf(request.principal) : undefined)),
  );
  app.setNotFoundHandler(async (request, reply) =>
    app.supportedMethods.includes(request.method)
      ? sendProblem(reply, httpProblem('not-found', `there is nothing at ${request.url.slice(0, 200)}; GET / shows what there is`))
      : sendProblem(reply, httpProblem('unknown-method', `${request.method} means nothing here`)),
  );
  return app;
}

/** 405 with `Allow` for each address that knows other methods. */
function refuseOtherMethods(
  app: FastifyInstance,
  routes: readonly Route[],
  sendRefused: (request: FastifyRequest, reply: FastifyReply, problem: Problem) => FastifyReply,
): void {
  const byShape = new Map<string, { readonly allowed: Set<string>; readonly refused: RouteOptions['refused'] }>();
  for (const [method, path, , access, { refused } = {}] of routes) {
    const shape = path.replace(/:\w+/g, ':any');
    const { allowed } = byShape.get(shape) ?? { allowed: new Set() };
    byShape.set(shape, { allowed: allowed.add(method), refused });
    if (method === 'GET' && access !== 'stream') allowed.add('HEAD');
  }
  for (const [url, { allowed, refused }] of byShape) {
    const others = app.supportedMethods.filter((method) => !allowed.has(method)) as HTTPMethods[];
    const allow = [...allowed].join(', ');
    app.route({
      method: others,
      url,
      // Whoever is to be told of must be known.
      config: refused === undefined ? {} : { who: 'either', refused },
      handler: async (request, reply) => {
        reply.header('allow', allow);
        return request.method === 'OPTIONS'
          ? reply.code(204).send()
          : sendRefused(request, reply, httpProblem('method-not-allowed', `${request.method} cannot be done here; ${allow} can`));
      },
    });
  }
}

/** Who takes nothing of the answer for so long is cut. */
const slowReaderMs = 30_000;

function cutSlowReader({ raw }: FastifyReply): void {
  process.nextTick(() => {
    const socket = raw.socket;
    // Most answers are with the system at once: they need no timer.
    if (socket === null || (raw.writableEnded && socket.writableLength === 0)) return;
    socket.setTimeout(slowReaderMs);
    // Unless Node waits for the next request already (keep-alive), with a timeout of its own: the next one may be held for longer.
    raw.once('finish', () => void (socket.timeout === slowReaderMs && socket.setTimeout(0)));
  });
}

/** What could not be read as HTTP. Nothing is said on a socket whose request the hub acts on: it would be taken for its answer. */
function refuseRaw(error: NodeJS.ErrnoException, socket: Socket, inFlight: Visits): void {
  if (inFlight.refuse(socket) && socket.writable && error.code !== 'ECONNRESET') socket.write(rawProblem(unreadable(error.code)));
  socket.destroySoon();
}

function unreadable(code = '') {
  if (code === 'HPE_HEADER_OVERFLOW') return httpProblem('header-too-large', 'the headers are larger than this hub takes');
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW') return httpProblem('too-large', 'the chunk extensions are too large');
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return httpProblem('request-timeout', 'the request did not come in time');
  return httpProblem('bad-request', 'this is not HTTP/1.1 as RFC 9112 has it');
}

/** The visit of a request that counts as in flight. */
export function visitOf({ visit, url }: FastifyRequest): Visit {
  if (visit === null) throw new Error(`${url} does not count as in flight, and should`);
  return visit;
}

/** A part of the address, decoded. */
export function parameter(request: FastifyRequest, name: string): string {
  return (request.params as Readonly<Record<string, string>>)[name] ?? '';
}

/** The body as it came; empty when there was none. */
export function bodyOf(request: FastifyRequest): Buffer {
  return Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
}
