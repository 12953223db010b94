/** JSON there and back, on the routes for people. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { httpProblem } from './problem.js';
import { bodyOf } from './server.js';

export function sendJson(reply: FastifyReply, value: unknown): FastifyReply {
  return reply
    .header('content-type', 'application/json')
    .header('cache-control', 'no-store')
    .send(Buffer.from(JSON.stringify(value)));
}

export const queryOf = ({ query }: FastifyRequest): Readonly<Record<string, string | undefined>> =>
  Object.fromEntries(
    Object.entries(query as Readonly<Record<string, unknown>>).filter(([, value]) => typeof value === 'string'),
  ) as Readonly<Record<string, string>>;

/** The JSON object that was sent, `{}` for nothing; undefined: it is none, or not called so. */
export function jsonOf(request: FastifyRequest): object | undefined {
  const body = bodyOf(request);
  if (body.length === 0) return {};
  if (!/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? '')) return undefined;
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

export const notJson = httpProblem('unsupported-media-type', 'send a JSON object as application/json');
