/** The pages of console/, as the build left them: from memory, so that nothing outside of their folder can be asked for. */
import { readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { matches } from './headers.js';
import { httpProblem, sendProblem } from './problem.js';
import { parameter, type Handler } from './server.js';
import { etagOf } from './status.js';

export interface ConsoleHandlers {
  /** The page, whatever the address: it looks at that itself. */
  readonly page: Handler;
  /** A file of the page; without a dot in its name it is an address of the page. */
  readonly file: Handler;
}

/** Only what the hub itself serves: no inline code, no other origin, no frame around it. */
const policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

interface File {
  readonly body: Buffer;
  readonly gzip: Buffer;
  readonly etag: string;
  readonly type: string;
  readonly cacheControl: string;
}

/**
 * A person who opens a request's address wants to read its story; a program wants its status. Applied to every request before
 * its route is looked for, so it looks at the cheapest first.
 */
export function pageOfRequest({ method, url = '', headers }: Pick<IncomingMessage, 'method' | 'url' | 'headers'>): string {
  if (method !== 'GET' || !url.startsWith('/requests/') || !/\btext\/html\b/.test(headers.accept ?? '')) return url;
  return /^\/requests\/[^/?]+\/?(\?|$)/.test(url) ? `/inbox${url.replace(/\?.*/, '')}` : url;
}

export function consoleHandlers(folder = builtFolder()): ConsoleHandlers {
  let known: ReadonlyMap<string, File> | undefined;
  const send = (name: string, request: FastifyRequest, reply: FastifyReply) => {
    // Read when the first person comes: a hub that nobody looks at needs no pages.
    known ??= filesIn(folder);
    const file = known.get(name);
    if (file === undefined) {
      const why = known.size === 0 ? 'the console is not built: run `npm run build`' : `the console has no file ${name.slice(0, 100)}`;
      return sendProblem(reply, httpProblem('not-found', why));
    }
    reply
      .header('etag', file.etag)
      .header('cache-control', file.cacheControl)
      .header('content-security-policy', policy)
      .header('referrer-policy', 'same-origin')
      .header('vary', 'accept, accept-encoding');
    if (matches(request.headers['if-none-match'], file.etag)) return reply.code(304).send();
    reply.header('content-type', file.type);
    if (!/\bgzip\b/.test(String(request.headers['accept-encoding'] ?? ''))) return reply.send(file.body);
    return reply.header('content-encoding', 'gzip').send(file.gzip);
  };

  return {
    page: async (request, reply) => send('index.html', request, reply),
    async file(request, reply) {
      const name = parameter(request, '*');
      return send(name.startsWith('assets/') || name.includes('.') ? name : 'index.html', request, reply);
    },
  };
}

/** dist/console/, seen from dist/adapters/http/ or from the source. */
function builtFolder(): string {
  const root = fileURLToPath(new URL('../../', import.meta.url));
  return join(root, /[\\/]dist[\\/]$/.test(root) ? 'console' : 'dist/console');
}

function filesIn(folder: string): ReadonlyMap<string, File> {
  const files = new Map<string, File>();
  for (const entry of listed(folder)) {
    const type = types[extname(entry)];
    if (type === undefined) continue;
    const body = readFileSync(join(folder, entry));
    const name = entry.replaceAll('\\', '/');
    // What is in assets/ has its hash in its name.
    const cacheControl = name.startsWith('assets/') ? 'public, max-age=31536000, immutable' : 'no-cache';
    files.set(name, { body, gzip: gzipSync(body, { level: 9 }), etag: etagOf(body), type, cacheControl });
  }
  return files;
}

function listed(folder: string): readonly string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: 'utf8' });
  } catch {
    return [];
  }
}
