/**
 * `/conversations/{flow}` over WebSocket (RFC 6455), subprotocol `answerback.v1+json`: who may open one, limits, and how it ends. What is said
 * in it is `conversation.ts`.
 */
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import { mayUse } from '../../broker/access.js';
import type { AdapterContext } from '../../broker/adapter.js';
import { newId } from '../../broker/envelope.js';
import { messageOf } from '../../broker/fault.js';
import { converse, readSeen, type Conversation } from './conversation.js';
import { apiKey } from './headers.js';
import { localOnly } from './local.js';
import { httpProblem, rawProblem, type Problem } from './problem.js';

export const protocol = 'answerback.v1+json';

export interface ConversationLimits {
  readonly bodyLimit: number;
  readonly maxConversations: number;
  readonly maxConversationsPerPrincipal: number;
  readonly maxOpenPerConversation: number;
}

interface Needs {
  readonly server: Server;
  readonly limits: ConversationLimits;
  readonly context: Pick<AdapterContext, 'gateway' | 'access' | 'log'>;
  readonly pingMs: number;
  readonly stopping: () => boolean;
  readonly guardBrowsers: boolean;
  /** Answers pages of other origins, too. */
  readonly isOpen: boolean;
}

export interface Conversations {
  /** Tells everybody to go on elsewhere. Resolves when they are gone, or have been cut off. */
  close(): Promise<void>;
}

/** Why a channel was closed (RFC 6455 §7.4; from 4000 on ours, after the HTTP status). */
const closes = {
  leaving: 1001,
  unsupported: 1003,
  later: 1013,
  invalid: 4400,
  unauthenticated: 4401,
  forbidden: 4403,
  unknown: 4404,
  tooMany: 4429,
};

/** Whoever takes nothing for so long is cut. */
const slowReaderMs = 30_000;
/** So long a client may take to say goodbye. */
const goodbyeMs = 1_000;
/** Messages under way at which no more are read. */
const maxUnderWay = 64;

export function openConversations({ server, limits, context, pingMs, stopping, guardBrowsers, isOpen }: Needs): Conversations {
  const { gateway, access } = context;
  const sockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: limits.bodyLimit,
    handleProtocols: (offered) => (offered.has(protocol) ? protocol : false),
  });
  const open = new Map<WebSocket, string>();

  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (request.headers.upgrade?.toLowerCase() !== 'websocket') return asUsual(server, request, socket, head);
    const refusal = refused(request);
    if (refusal !== undefined) return void socket.end(rawProblem(refusal));
    sockets.handleUpgrade(request, socket, head, (channel) => attach(channel, request));
  });

  function refused({ url = '', headers }: IncomingMessage): Problem | undefined {
    if (stopping()) return httpProblem('stopping', 'this hub is about to stop: ask again, another one may answer');
    if (!url.startsWith('/conversations/')) return httpProblem('not-found', `there is nothing to talk to at ${url.slice(0, 200)}`);
    const intruder = guardBrowsers ? localOnly(headers) : isOpen ? undefined : ofOtherOrigin(headers);
    if (intruder !== undefined) return intruder;
    const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    if (!offered.includes(protocol)) return httpProblem('bad-request', `offer the subprotocol ${protocol}`);
    if (open.size >= limits.maxConversations)
      return httpProblem('overloaded', `${limits.maxConversations} conversations are open, more are not taken`);
    return undefined;
  }

  /** A client that may not talk is told so by a close: browsers show no other refusal to their pages. */
  function attach(channel: WebSocket, request: IncomingMessage): void {
    channel.on('error', () => channel.terminate()); // a frame that breaks the protocol or is too large
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://hub');
    const flow = gateway.flows.find(({ name }) => name === decoded(pathname.slice('/conversations/'.length)));
    const principal = access.authenticate(apiKey(request.headers));
    const conversation = searchParams.get('conversation') ?? newId();
    const seen = readSeen(searchParams.get('after'));
    if (principal === undefined) return channel.close(closes.unauthenticated, 'this needs a valid API key');
    if (flow === undefined) return channel.close(closes.unknown, 'there is no such flow');
    if (!mayUse(principal, 'flows', flow.name)) return channel.close(closes.forbidden, 'this principal may not use this flow');
    if (!flow.durable) return channel.close(closes.invalid, 'a volatile flow is answered at once or not at all');
    if (seen === undefined || !/^[\w-]{8,64}$/.test(conversation))
      return channel.close(closes.invalid, 'conversation has 8 to 64 letters, digits, - and _; after is the `at` of a frame');
    const mine = [...open.values()].filter((name) => name === principal.name).length;
    if (access.required && mine >= limits.maxConversationsPerPrincipal)
      return channel.close(closes.tooMany, `${mine} conversations of this principal are open`);

    open.set(channel, principal.name);
    const gone = new AbortController();
    channel.once('close', () => {
      open.delete(channel);
      gone.abort();
    });
    keepAlive(channel, pingMs, gone.signal);
    const opening = converse({
      gateway,
      principal,
      flow: flow.name,
      conversation,
      seen,
      isOrdered: searchParams.get('ordered') === 'true',
      maxOpen: limits.maxOpenPerConversation,
      send: sender(channel),
      gone: gone.signal,
    });
    listen(channel, opening);
  }

  /** Reads what the client sends, in its order, no faster than it can be dealt with. */
  function listen(channel: WebSocket, opening: Promise<Conversation>): void {
    let underWay = 0;
    // The store is away, or RabbitMQ is: whoever comes again finds everything.
    const failed = (error: unknown) => {
      context.log('conversation.failed', { error: messageOf(error) });
      leave(channel, closes.later, 'this cannot be done now: come again');
    };
    opening.catch(failed);
    channel.on('message', (data: RawData, isBinary: boolean) => {
      if (isBinary) return leave(channel, closes.unsupported, 'messages are JSON texts');
      if (++underWay >= maxUnderWay) channel.pause();
      void opening
        .then(
          (conversation) => conversation.hear((data as Buffer).toString('utf8')).catch(failed),
          () => undefined,
        )
        .finally(() => {
          if (--underWay < maxUnderWay / 2 && channel.isPaused) channel.resume();
        });
    });
  }

  return {
    async close() {
      const gone = [...open.keys()].map((channel) => new Promise<void>((resolve) => channel.once('close', () => resolve())));
      for (const channel of open.keys()) leave(channel, closes.leaving, 'this hub stops: go on at another one');
      await Promise.all(gone);
      sockets.close();
    },
  };
}

/** Closes a channel; cuts it when the client does not say goodbye. */
function leave(channel: WebSocket, code: number, why: string): void {
  channel.close(code, why);
  const cut = setTimeout(() => channel.terminate(), goodbyeMs);
  channel.once('close', () => clearTimeout(cut));
}

/** A client that does not answer a ping before the next one is gone. */
function keepAlive(channel: WebSocket, pingMs: number, gone: AbortSignal): void {
  let isThere = true;
  channel.on('pong', () => (isThere = true));
  const ping = setInterval(() => {
    if (!isThere) return channel.terminate();
    isThere = false;
    channel.ping();
  }, pingMs);
  gone.addEventListener('abort', () => clearInterval(ping), { once: true });
}

/** Sends frames; each resolves when the client has taken it. What is lost with a channel is sent again by the next one. */
function sender(channel: WebSocket): (frame: object | string) => Promise<void> {
  return (frame) =>
    new Promise((resolve) => {
      if (channel.readyState !== channel.OPEN) return resolve();
      const tooSlow = setTimeout(() => leave(channel, closes.later, 'nothing was read for too long: come again'), slowReaderMs);
      const done = () => {
        clearTimeout(tooSlow);
        resolve();
      };
      channel.send(typeof frame === 'string' ? frame : JSON.stringify(frame), done);
    });
}

/**
 * A request that would go on in another protocol, which we do not speak (Java's client offers HTTP/2 with each), is served as if it did not
 * say so (RFC 9110 §7.8). Node, asked to hand over upgrades, hands over all of them, unread.
 */
function asUsual(server: Server, { method, url, httpVersion, rawHeaders }: IncomingMessage, socket: Duplex, head: Buffer): void {
  const kept = rawHeaders.flatMap((name, index) =>
    index % 2 === 1 || /^(?:upgrade|http2-settings)$/i.test(name) ? [] : [`${name}: ${withoutUpgrade(name, rawHeaders[index + 1] ?? '')}`],
  );
  if (head.length > 0) socket.unshift(head);
  socket.unshift(Buffer.from([`${method} ${url} HTTP/${httpVersion}`, ...kept, '', ''].join('\r\n'), 'latin1'));
  server.emit('connection', socket);
}

const withoutUpgrade = (name: string, value: string): string => {
  if (name.toLowerCase() !== 'connection') return value;
  const left = value.split(',').filter((token) => !/^\s*(?:upgrade|http2-settings)\s*$/i.test(token));
  return left.join(',').trim() || 'keep-alive';
};

/** A page of another site cannot be kept from opening a channel but here: browsers ask nobody before they do. */
function ofOtherOrigin({ origin, host }: IncomingMessage['headers']): Problem | undefined {
  const isOurs = origin === undefined || (URL.canParse(origin) && new URL(origin).host === host);
  return isOurs ? undefined : httpProblem('cross-origin', 'a page of another origin may not talk to this hub');
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
