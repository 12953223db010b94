/** Inbound HTTP: the reference adapter. The table of routes below is what it can do; `server.ts` is what it refuses. */
import type { AddressInfo } from 'node:net';
import { adapter, type AdapterContext, type Open } from '../../broker/adapter.js';
import { openConversations, type ConversationLimits } from './conversations.js';
import { cannotListen, isLoopback, refusePublicWithoutKeys } from '../../broker/listening.js';
import { asyncApi } from './asyncapi.js';
import { consoleHandlers, pageOfRequest } from './console.js';
import { documentHandlers } from './documents.js';
import { drainable } from './drain.js';
import { oidc, oidcSettings, type OidcSettings } from './oidc.js';
import { openApi } from './openapi.js';
import { outcomeProblem } from './problem.js';
import { requestHandlers } from './requests.js';
import { httpServer, type Limits, type Route } from './server.js';
import type { EventStream } from './stream.js';
import { inboxRoutes } from './tasks.js';
import { topicHandlers } from './topics.js';

export { asyncApi, openApi, outcomeProblem };

/**
 * Connections that the system completes before we take them. With Node's 511 a burst of clients overflows it, and each that is
 * dropped tries again after a second, unseen by us. The system may allow less (`net.core.somaxconn`). Node takes one of them in each turn
 * of its event loop [since libuv 1.45; with turns of 100 ms the 20th waits for 2 s, measured]: where processors are busy they wait here, while
 * who has a connection is served. Whoever comes often keeps its connection.
 */
const backlog = 4_096;

export interface HttpSettings extends Limits, ConversationLimits, Partial<OidcSettings> {
  readonly publicUrl: string;
  readonly port: number;
  readonly host: string;
  readonly open: boolean;
  readonly ping: number;
  readonly linger: number;
}

export const http = adapter<HttpSettings>({
  name: 'http',
  summary: 'Requests, messages and events over HTTP, with status URLs, long polls and server-sent events.',
  says: {
    reply: '`200` and the body as it is',
    accepted: '`202` with `Location`, `Retry-After` and a status document',
    fault: "the fault's status and `application/problem+json` with its `code`",
    oneWay: '`202` once the broker has confirmed the message',
  },
  settings: {
    port: { doc: 'Port to listen on; 0: any free one.', format: 'port', default: 8080, env: 'HUB_HTTP_PORT' },
    host: { doc: 'Address to listen on.', format: 'String', default: '127.0.0.1', env: 'HUB_HTTP_HOST' },
    open: {
      doc: 'Answer on a public address, and to pages of other origins, without authentication.',
      format: 'bool',
      default: false,
      env: 'HUB_HTTP_OPEN',
    },
    publicUrl: {
      doc: 'Where browsers find this hub, as in https://hub.example.org, when that is another address than the one it listens on.',
      format: 'url',
      default: '',
      env: 'HUB_HTTP_PUBLIC_URL',
    },
    bodyLimit: { doc: 'Largest body; larger ones get 413.', format: 'size', default: '1mb', env: 'HUB_HTTP_BODY_LIMIT' },
    maxHeaderSize: {
      doc: 'Largest request line and headers together; larger ones get 431.',
      format: 'size',
      default: '16kb',
      env: 'HUB_HTTP_MAX_HEADER_SIZE',
    },
    maxConnections: {
      doc: 'Connections at once; more are closed at once.',
      format: 'count',
      default: 20_000,
      env: 'HUB_HTTP_MAX_CONNECTIONS',
    },
    maxInFlight: {
      doc: 'Held requests and streams at once; more get 503.',
      format: 'count',
      default: 10_000,
      env: 'HUB_HTTP_MAX_IN_FLIGHT',
    },
    maxInFlightPerPrincipal: {
      doc: 'The same for one principal, where there are principals; more get 429.',
      format: 'count',
      default: 5_000,
      env: 'HUB_HTTP_MAX_IN_FLIGHT_PER_PRINCIPAL',
    },
    headersTimeout: { doc: 'Time for a client to send its headers.', format: 'duration', default: '10s', env: 'HUB_HTTP_HEADERS_TIMEOUT' },
    requestTimeout: {
      doc: 'Time for a client to send its whole request (held requests are not meant).',
      format: 'duration',
      default: '30s',
      env: 'HUB_HTTP_REQUEST_TIMEOUT',
    },
    ping: {
      doc: 'How often a silent event stream gets a comment, so that nobody on the way gives it up.',
      format: 'duration',
      default: '15s',
      env: 'HUB_HTTP_PING',
    },
    maxConversations: {
      doc: 'WebSocket conversations at once; more get 503.',
      format: 'count',
      default: 10_000,
      env: 'HUB_HTTP_MAX_CONVERSATIONS',
    },
    maxConversationsPerPrincipal: {
      doc: 'The same for one principal, where there are principals; more are closed with 4429.',
      format: 'count',
      default: 1_000,
      env: 'HUB_HTTP_MAX_CONVERSATIONS_PER_PRINCIPAL',
    },
    maxOpenPerConversation: {
      doc: 'Requests of one conversation that are open or wait to begin; more are refused.',
      format: 'count',
      default: 32,
      env: 'HUB_HTTP_MAX_OPEN_PER_CONVERSATION',
    },
    linger: {
      doc: 'A hub that was told to stop is not ready, refuses what is new, and goes on listening until nobody has come for 500 ms, but no longer than this.',
      format: 'duration',
      default: '3s',
      env: 'HUB_HTTP_LINGER',
    },
    ...oidcSettings,
  },

  async open(settings: HttpSettings, context: AdapterContext): Promise<Open> {
    refusePublicWithoutKeys('http', settings, context.access);
    const { gateway } = context;
    refuseDemoUsers(settings.host, context);
    let url = '';
    const streams = new Set<EventStream>();
    const closing = new AbortController();
    const stopping = () => closing.signal.aborted || context.stopping.aborted;

    const requests = requestHandlers({
      gateway,
      people: context.inbox?.people,
      retention: context.retentionMs,
      pingMs: settings.ping,
      streams,
    });
    const topics = topicHandlers({ gateway, pingMs: settings.ping, streams });
    const documents = documentHandlers({ ...context, stopping });
    const inbox =
      context.inbox === undefined
        ? []
        : inboxRoutes({
            ...context.inbox,
            publicUrl: settings.publicUrl,
            pingMs: settings.ping,
            streams,
            oidc: oidc({ settings, people: context.inbox.people, publicUrl: () => settings.publicUrl || url, log: context.log }),
          });
    const pages = consoleHandlers();

    const routes: readonly Route[] = [
      ['POST', '/requests/:flow', requests.ask, 'new'],
      ['POST', '/requests/:flow/parts', requests.open, 'new'],
      ['PUT', '/requests/:id/parts/:n', requests.append, 'new', { bodyLimit: gateway.arrivals.largestPart || settings.bodyLimit }],
      ['POST', '/requests/:id/close', requests.close, 'new'],
      ['GET', '/requests/:id', requests.status, 'quick'],
      ['GET', '/requests/:id/reply', requests.reply, 'held'],
      ['GET', '/requests/:id/events', requests.events, 'stream'],
      ['POST', '/requests/:id/answers', requests.answer, 'held'],
      ['GET', '/requests/:id/callback', requests.callback, 'quick'],
      ['GET', '/requests/:id/story', requests.story, 'quick', { who: 'either' }],
      ['DELETE', '/requests/:id', requests.cancel, 'held', { who: 'either' }],
      ['GET', '/conversations/:flow', documents.talk, 'quick'],
      ['POST', '/messages/:flow', requests.send, 'new'],
      ['POST', '/events/:topic', topics.publish, 'new'],
      ['GET', '/events/:pattern', topics.watch, 'stream'],
      ['GET', '/events/:topic/last', topics.last, 'quick'],
      ...inbox,
      ['GET', '/openapi.json', documents.openApi, 'quick'],
      ['GET', '/asyncapi.json', documents.asyncApi, 'quick'],
      ['GET', '/metrics', documents.metrics, 'quick'],
      ['GET', '/', documents.page, 'quick'],
      ['GET', '/inbox', pages.page, 'open'],
      ['GET', '/inbox/*', pages.file, 'open'],
      ['GET', '/health/live', documents.live, 'open'],
      ['GET', '/health/ready', documents.ready, 'open'],
    ];

    const guardBrowsers = !context.access.required && !settings.open;
    const app = httpServer(routes, { limits: settings, context, stopping, guardBrowsers, rewriteUrl: pageOfRequest });
    const drain = drainable(app.server);
    const conversations = openConversations({
      server: app.server,
      limits: settings,
      context,
      pingMs: settings.ping,
      stopping,
      guardBrowsers,
      isOpen: settings.open,
    });
    // For "localhost" Fastify would open a second server, on ::1, without our limits.
    const host = settings.host === 'localhost' ? '127.0.0.1' : settings.host;
    await app.listen({ port: settings.port, host, backlog }).catch((error: NodeJS.ErrnoException) => {
      throw cannotListen('http', settings, error);
    });
    const { port } = app.server.address() as AddressInfo;
    const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host;
    url = `http://${reachable}:${port}`;

    return {
      urls: [url],
      async close() {
        closing.abort();
        for (const stream of streams) stream.end();
        await conversations.close();
        await drain(settings.linger);
        app.server.closeAllConnections();
        await app.close();
      },
    };
  },
});

/** Passwords that the page shows are for who sits at this machine. */
function refuseDemoUsers(host: string, { inbox }: Pick<AdapterContext, 'inbox'>): void {
  const [demo] = inbox?.people.demoUsers ?? [];
  if (demo === undefined || isLoopback(host)) return;
  throw new Error(
    `http: everybody who reaches ${host} could sign in as ${demo.name}, whose password the page shows: give users of hub.yaml a password ` +
      '(`answerback user <name>` makes the line) instead of demoPassword, or listen on this machine only with HUB_HTTP_HOST=127.0.0.1',
  );
}
