/** What the hub tells about itself: documents, health, metrics, and the page at `/`. */
import { mayUse, type Principal } from '../../broker/access.js';
import type { AdapterContext } from '../../broker/adapter.js';
import { messageOf } from '../../broker/fault.js';
import { asyncApi } from './asyncapi.js';
import { protocol } from './conversations.js';
import { openApi } from './openapi.js';
import { links, page, pagePolicy } from './page.js';
import { httpProblem, sendProblem } from './problem.js';
import type { Handler } from './server.js';

interface Needs extends Pick<AdapterContext, 'gateway' | 'access' | 'metrics' | 'version'> {
  readonly namespace: string;
  readonly stopping: () => boolean;
}

export interface DocumentHandlers {
  readonly openApi: Handler;
  readonly asyncApi: Handler;
  readonly metrics: Handler;
  readonly page: Handler;
  /** Where something else than plain HTTP is spoken. */
  readonly talk: Handler;
  readonly live: Handler;
  readonly ready: Handler;
}

export function documentHandlers({ gateway, access, metrics, version, namespace, stopping }: Needs): DocumentHandlers {
  /** A principal reads only of the flows that it may use. */
  const flowsOf = (principal: Principal) => gateway.flows.filter((flow) => mayUse(principal, 'flows', flow.name));

  return {
    openApi: async (request) => openApi(flowsOf(request.principal), { version, authenticated: access.required }),
    asyncApi: async (request) => asyncApi(flowsOf(request.principal), { version, namespace }),

    metrics: async (_request, reply) => reply.header('content-type', 'text/plain; version=0.0.4; charset=utf-8').send(await metrics()),

    async page(request, reply) {
      const flows = flowsOf(request.principal);
      reply.header('vary', 'Accept');
      if (!/\btext\/html\b/.test(request.headers.accept ?? '')) {
        return {
          name: 'answerback',
          version,
          links,
          flows: flows.map(({ name, summary }) => ({ name, summary, href: `/requests/${encodeURIComponent(name)}` })),
        };
      }
      const origin = `http://${request.headers.host ?? 'localhost'}`;
      return reply
        .header('content-security-policy', pagePolicy)
        .header('content-type', 'text/html; charset=utf-8')
        .send(page({ flows, version, origin }));
    },

    talk: async (_request, reply) =>
      sendProblem(
        reply.header('upgrade', 'websocket').header('connection', 'upgrade'),
        httpProblem('upgrade-required', `open a WebSocket here, with the subprotocol ${protocol}`),
      ),
    live: async (_request, reply) => reply.header('cache-control', 'no-store').send({ live: true }),

    async ready(_request, reply) {
      const { ready, checks } = await readiness();
      if (!ready) reply.code(503).header('retry-after', 5);
      return reply.header('cache-control', 'no-store').send({ ready, checks });
    },
  };

  async function readiness(): Promise<{ readonly ready: boolean; readonly checks: Readonly<Record<string, string>> }> {
    if (stopping()) return { ready: false, checks: { hub: 'about to stop' } };
    try {
      return await gateway.ready();
    } catch (error) {
      // A check that fails in an unforeseen way is a hub that is not ready, and says why.
      return { ready: false, checks: { hub: messageOf(error) } };
    }
  }
}
