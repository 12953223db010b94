/**
 * The HTTP server in front of the operations: who is asking, what is refused before anything is read or published, and
 * every answer as an envelope.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { isLoopback } from '../../broker/listening.js';
import type { Principal } from '../../broker/access.js';
import type { AdapterContext } from '../../broker/adapter.js';
import { pause, systemClock } from '../../broker/clock.js';
import { isFault, messageOf, readFault, type Fault } from '../../broker/fault.js';
import type { Answer, Ask } from '../../broker/gateway.js';
import {
  contentTypes,
  readContent,
  readEnvelope,
  Refused,
  writeContent,
  writeFault,
  writeReply,
  type Refusal,
  type Version,
} from './message.js';
import { collect, wsdlOf, type Operation } from './wsdl.js';
import { decodeXml, parseXml, XmlError, type Element } from './xml.js';

export interface ServerSettings {
  readonly host: string;
  readonly path: string;
  readonly open: boolean;
  readonly principal: string;
  readonly wait: number;
  readonly maxSize: number;
  readonly maxInFlight: number;
  readonly namespace: string;
  readonly address: string;
}

/** A refusal before the envelope: with an HTTP status of its own. */
class Turned extends Error {
  readonly status: number;
  readonly refusal: Refusal;
  readonly headers: Readonly<Record<string, string>>;
  constructor(status: number, refusal: Refusal, headers: Readonly<Record<string, string>> = {}) {
    super(refusal.message);
    [this.status, this.refusal, this.headers] = [status, refusal, headers];
  }
}

export interface SoapServer {
  readonly server: Server;
  close(): Promise<void>;
}

export function soapServer(operations: readonly Operation[], settings: ServerSettings, context: AdapterContext): SoapServer {
  const { gateway, access, log, stopping } = context;
  const { namespace } = settings;
  const byName = new Map(operations.map((operation) => [operation.name, operation]));
  const byFlow = new Map(operations.map((operation) => [operation.flow.name, operation]));
  const local = !access.required && !settings.open;
  const sockets = new Set<Socket>();
  /** Those whose request is read and not yet answered. */
  const held = new Set<Socket>();
  let closing = false;

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const version: Version = /^\s*application\/soap\+xml/i.test(request.headers['content-type'] ?? '') ? '1.2' : '1.1';
    try {
      checkLocal(request);
      const url = new URL(request.url ?? '/', 'http://hub');
      if (url.pathname.replace(/\/$/, '') !== settings.path.replace(/\/$/, ''))
        return plain(response, 404, `SOAP is at ${settings.path}, its WSDL at ${settings.path}?wsdl\n`);
      if (request.method === 'GET' || request.method === 'HEAD') return describe(request, response, url);
      if (request.method !== 'POST') return plain(response, 405, 'POST an envelope, or GET ?wsdl\n', { allow: 'GET, HEAD, POST' });
      await answer(request, response, version);
    } catch (error) {
      if (error instanceof Turned) return fail(response, error.refusal, version, error.status, error.headers);
      log('soap.failed', { error: messageOf(error) });
      fail(response, { code: 'internal', message: 'the hub failed; its log says why' }, version);
    }
  }

  function describe(request: IncomingMessage, response: ServerResponse, url: URL): void {
    if (!/^\?wsdl/i.test(url.search))
      return plain(response, 200, `SOAP 1.1 and 1.2 are spoken here; the WSDL is at ${settings.path}?wsdl\n`);
    const host = /^[\w.-]+(?::\d+)?$|^\[[0-9a-f:.]+\](?::\d+)?$/i.exec(request.headers.host ?? '')?.[0];
    const address =
      settings.address !== '' ? settings.address : `http://${host ?? `${settings.host}:${request.socket.localPort}`}${settings.path}`;
    send(response, 200, 'text/xml; charset=utf-8', wsdlOf(operations, { namespace, address }));
  }

  async function answer(request: IncomingMessage, response: ServerResponse, byHeader: Version): Promise<void> {
    if (closing || stopping.aborted)
      throw new Turned(
        503,
        { code: 'unavailable', message: 'this hub is stopping: ask again, another hub or this one will answer soon' },
        { 'retry-after': '2' },
      );
    const principal = authenticate(request);
    checkHeaders(request);
    if (held.size >= settings.maxInFlight)
      throw new Turned(
        503,
        { code: 'unavailable', message: `this adapter holds ${settings.maxInFlight} requests, its limit` },
        { 'retry-after': '2' },
      );
    const bytes = await readBody(request, settings.maxSize);
    held.add(request.socket);
    const gone = new AbortController();
    response.once('close', () => {
      held.delete(request.socket);
      gone.abort();
    });
    let version = byHeader;
    try {
      const read = readEnvelope(parseXml(decodeXml(bytes, request.headers['content-type'] ?? '')));
      version = read.version;
      const { name, content } = await perform(read.body, principal, request, gone.signal);
      send(response, 200, contentTypes[version], writeReply(name, content, version, namespace));
    } catch (error) {
      fail(response, refusalOf(error), version);
    }
  }

  async function perform(
    body: Element,
    principal: Principal,
    request: IncomingMessage,
    signal: AbortSignal,
  ): Promise<{ readonly name: string; readonly content: string }> {
    if (body.uri !== namespace)
      throw new Refused({
        code: 'invalid',
        message: `the element ${body.name} is of the namespace "${body.uri}"; the operations here are of "${namespace}"`,
      });
    if (body.name === collect) return { name: `${collect}Response`, content: await collected(body, principal, signal) };
    const refusal = gateway.busy() ?? gateway.overQuota(principal);
    if (refusal !== undefined) throw new Refused({ code: 'unavailable', message: refusal.detail });
    const operation = byName.get(body.name);
    if (operation === undefined)
      throw new Refused({
        code: 'invalid',
        message: `there is no operation ${body.name}; there is ${[...byName.keys(), collect].join(', ')}`,
      });
    const { flow } = operation;
    const waitMs = settings.wait > 0 ? settings.wait : flow.maxWaitMs;
    const ask = { flow: flow.name, principal, ...readContent(body, operation.request, namespace), waitMs, signal, ...headersOf(request) };
    const reply = replyOf(await gateway.request(ask));
    return { name: `${operation.name}Response`, content: writeContent(reply.outcome, operation.reply) };
  }

  async function collected(body: Element, principal: Principal, signal: AbortSignal): Promise<string> {
    const text = (name: string) => body.children.find((child) => child.name === name)?.text.trim();
    const id = text('requestId') ?? '';
    const missing = () => new Refused({ code: 'invalid', message: `there is no request ${id.slice(0, 100)}`, reason: 'unknown-request' });
    const status = await gateway.status(id, principal);
    const operation = status === undefined ? undefined : byFlow.get(status.flow);
    if (operation === undefined) throw missing();
    const seconds = Number(text('waitSeconds') ?? Number.POSITIVE_INFINITY);
    const longest = settings.wait > 0 ? settings.wait : operation.flow.maxWaitMs;
    const found = await gateway.collect(id, principal, Math.max(0, Math.min(Number.isNaN(seconds) ? 0 : seconds * 1_000, longest)), signal);
    if (found === undefined) throw missing();
    return `<requestId>${id}</requestId><${operation.name}Response>${writeContent(replyOf(found).outcome, operation.reply)}</${operation.name}Response>`;
  }

  function authenticate(request: IncomingMessage): Principal {
    const key = apiKey(request);
    const given = settings.principal === '' || key !== undefined ? access.authenticate(key) : access.byName(settings.principal);
    if (given === undefined) {
      throw new Turned(
        401,
        {
          code: 'unauthenticated',
          message: 'send an API key: as the password of HTTP Basic, as `Authorization: Bearer ab_…`, or as `X-API-Key: ab_…`',
        },
        { 'www-authenticate': 'Basic realm="answerback", Bearer realm="answerback"' },
      );
    }
    return given;
  }

  /** Open on this machine means: not to the web pages that its browser shows (CSRF, DNS rebinding). */
  function checkLocal({ headers: { host, origin } }: IncomingMessage): void {
    if (!local) return;
    const name = (host ?? 'localhost').replace(/:\d*$/, '');
    if (!isLoopback(name))
      throw new Turned(421, {
        code: 'forbidden',
        message: 'this hub has no authentication and answers only to localhost; set up principals, or open: true',
      });
    if (origin !== undefined && origin !== `http://${host}`)
      throw new Turned(403, {
        code: 'forbidden',
        message: 'this hub has no authentication and takes nothing from web pages of other origins',
      });
  }

  const server = createServer(
    { headersTimeout: 10_000, requestTimeout: 30_000, connectionsCheckingInterval: 1_000 },
    (request, response) => {
      if (closing || stopping.aborted) response.setHeader('connection', 'close');
      void handle(request, response);
    },
  );
  server.maxConnections = 10_000;
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });

  async function close(): Promise<void> {
    if (!closing) {
      closing = true;
      const ended = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) if (!held.has(socket)) socket.destroy();
      const enough = new AbortController();
      const late = pause(systemClock, 9_000, enough.signal).then(() => server.closeAllConnections());
      const sweep = setInterval(() => server.closeIdleConnections(), 50);
      await ended;
      clearInterval(sweep);
      enough.abort();
      await late;
    }
  }

  function fail(
    response: ServerResponse,
    refusal: Refusal,
    version: Version,
    status = version === '1.2' && /^(?:invalid|rejected|forbidden|cancelled)$/.test(refusal.code) ? 400 : 500,
    headers: Readonly<Record<string, string>> = {},
  ): void {
    const retry: Readonly<Record<string, string>> =
      refusal.retryAfterMs === undefined ? {} : { 'retry-after': String(Math.ceil(refusal.retryAfterMs / 1_000)) };
    send(response, status, contentTypes[version], writeFault(refusal, version, namespace), { ...retry, ...headers });
  }

  return { server, close };
}

/** The reply, or what to say instead. */
function replyOf(answer: Answer): Answer & { readonly kind: 'outcome' } {
  const requestId = answer.id;
  if (answer.kind === 'accepted') {
    throw new Refused({
      code: 'accepted',
      message: `request ${requestId} takes longer: call ${collect} with this requestId for its reply`,
      requestId,
      retryAfterMs: 1_000,
    });
  }
  const { kind, body, contentEncoding } = answer.outcome;
  if (kind !== 'reply') throw new Refused({ ...refusalOfFault(readFault(body, kind === 'fault' ? 'internal' : kind)), requestId });
  if (contentEncoding !== undefined)
    throw new Refused({ code: 'internal', message: `the reply has the encoding ${contentEncoding}, which SOAP cannot carry`, requestId });
  return answer;
}

function refusalOf(error: unknown): Refusal {
  if (error instanceof Refused) return error.refusal;
  if (isFault(error)) return refusalOfFault(error);
  if (error instanceof XmlError) return { code: 'invalid', message: error.message };
  throw error;
}

const refusalOfFault = ({ code, message, reason, step, errors, retryAfterMs }: Fault): Refusal => ({
  code,
  message,
  reason,
  step,
  errors,
  retryAfterMs,
});

/** Basic (the password is the key), Bearer, or a header of its own. */
function apiKey({ headers }: IncomingMessage): string | undefined {
  const authorization = headers.authorization ?? '';
  const basic = /^Basic +([A-Za-z0-9+/=]+) *$/i.exec(authorization)?.[1];
  if (basic !== undefined)
    return Buffer.from(basic, 'base64')
      .toString('utf8')
      .replace(/^[^:]*:/, '');
  const header = headers['x-api-key'];
  return /^Bearer +(\S+) *$/i.exec(authorization)?.[1] ?? (typeof header === 'string' ? header : undefined);
}

/** Only XML: with another content type any web page could post here without being asked. */
function checkHeaders({ headers }: IncomingMessage): void {
  const type = headers['content-type'] ?? '';
  if (!/^\s*(?:text\/xml|application\/soap\+xml|application\/xml)\s*(?:;|$)/i.test(type))
    throw new Turned(415, { code: 'invalid', message: 'the Content-Type must be text/xml (SOAP 1.1) or application/soap+xml (SOAP 1.2)' });
  if (!/^(?:identity)?$/i.test(headers['content-encoding'] ?? ''))
    throw new Turned(415, { code: 'invalid', message: `the Content-Encoding ${headers['content-encoding']} is not taken here` });
}

function headersOf({ headers }: IncomingMessage): Pick<Ask, 'idempotencyKey' | 'traceparent'> {
  const key = headers['idempotency-key'];
  const { traceparent } = headers;
  if (typeof key === 'string' && !/^[\x21-\x7e]{1,255}$/.test(key))
    throw new Refused({ code: 'invalid', message: 'Idempotency-Key must be 1 to 255 printable ASCII characters without spaces' });
  return {
    ...(typeof key === 'string' ? { idempotencyKey: key.replace(/^"(.+)"$/, '$1') } : {}),
    ...(typeof traceparent === 'string' && /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(traceparent) ? { traceparent } : {}),
  };
}

async function readBody(request: IncomingMessage, maxSize: number): Promise<Buffer> {
  const tooLarge = () => {
    request.resume(); // What is left is read and dropped, so that the client can read the answer.
    return new Turned(413, { code: 'too-large', message: `the envelope is larger than ${maxSize} bytes` }, { connection: 'close' });
  };
  if (Number(request.headers['content-length'] ?? 0) > maxSize) throw tooLarge();
  const chunks: Buffer[] = [];
  let size = 0;
  return new Promise((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxSize) {
        request.removeAllListeners('data');
        reject(tooLarge());
      } else chunks.push(chunk);
    });
    request.on('end', () => resolve(Buffer.concat(chunks)));
    request.on('error', reject);
    request.on('close', () => reject(new Turned(400, { code: 'invalid', message: 'the request broke off' })));
  });
}

const plain = (response: ServerResponse, status: number, text: string, headers: Readonly<Record<string, string>> = {}): void =>
  send(response, status, 'text/plain; charset=utf-8', text, headers);

function send(
  response: ServerResponse,
  status: number,
  contentType: string,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.destroyed || response.headersSent) return;
  const body = Buffer.from(text);
  response
    .writeHead(status, { 'content-type': contentType, 'content-length': body.length, 'x-content-type-options': 'nosniff', ...headers })
    .end(body);
}
