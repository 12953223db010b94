/**
 * Before anything of ours looks at a request: what brings work to a hub that has too much is turned away, and the rest is let in a few at a
 * time. Under the load that makes it necessary a refusal costs next to nothing, half of what Fastify's way costs [measured], and does not
 * wait for the work of those that came with it: a pause of anybody makes hundreds of requests come in one turn of the event loop.
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { Gateway } from '../../broker/gateway.js';
import { httpProblem } from './problem.js';
import type { Route, ServerNeeds } from './server.js';

/** So many are let in between two looks at who else came: some milliseconds. */
const atOnce = 16;

type Visitor = readonly [request: IncomingMessage, response: ServerResponse];

export function openDoor(
  server: Server,
  routes: readonly Route[],
  { gateway, stopping }: Pick<ServerNeeds, 'stopping'> & { readonly gateway: Pick<Gateway, 'busy'> },
): void {
  const brings = routes.filter(([, , , access]) => access === 'new').map(([method, url]) => [method, url.replace(/:.*/, '')] as const);
  const handlers = server.listeners('request') as RequestListener[];
  const before: Visitor[] = [];
  let begun = 0;

  const letIn = (visitor: Visitor) => handlers.forEach((handler) => handler.apply(server, [...visitor]));
  /** The next of those who wait before the door, once per turn of the event loop. */
  const open = () => {
    begun = 0;
    for (const visitor of before.splice(0, atOnce)) {
      begun++;
      letIn(visitor);
    }
    if (begun > 0) setImmediate(open);
  };

  server.removeAllListeners('request');
  server.on('request', (...visitor: Visitor) => {
    const [request, response] = visitor;
    if (!brings.some(([method, url]) => request.method === method && request.url?.startsWith(url) === true)) return letIn(visitor);
    const refusal = gateway.busy(before.length);
    if (refusal !== undefined) return turnAway(response, refusal, stopping());
    if (begun === 0) setImmediate(open);
    if (begun >= atOnce) return void before.push(visitor);
    begun++;
    letIn(visitor);
  });
}

function turnAway(
  response: ServerResponse,
  { detail, retryAfterMs }: { readonly detail: string; readonly retryAfterMs: number },
  isStopping: boolean,
): void {
  const problem = httpProblem('overloaded', detail);
  const body = JSON.stringify(problem);
  if (isStopping) response.shouldKeepAlive = false;
  response.writeHead(problem.status, {
    'content-type': 'application/problem+json',
    'content-length': Buffer.byteLength(body),
    'retry-after': String(Math.ceil(retryAfterMs / 1_000)),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  // As text: head and body are then one write.
  response.end(body);
}
