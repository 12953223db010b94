/**
 * Calls of somebody's SOAP service. npm `soap` reads the WSDL and turns JSON into XML and back; everything on the wire is
 * done here: time-out, size, and an answer that is looked at before `soap` sees it.
 *
 * A fault Client/Sender is the Fault `rejected` (the same message would fail again); a fault Server/Receiver, another HTTP
 * error and a broken connection are errors, and the step is tried again with the same Idempotency-Key. 403 is `forbidden`.
 */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Client, IHttpClient } from 'soap';
import { Agent, request } from 'undici';
import type { OutgoingCall } from '../../broker/adapter.js';
import { Fault, messageOf } from '../../broker/fault.js';
import { didYouMean } from '../../broker/flow.js';
import { raw, type Raw } from '../../broker/step.js';
import { decodeXml, parseXml, type Element } from './xml.js';

export interface SoapCallSettings {
  readonly wsdl: string;
  readonly operation: string;
  readonly service: string;
  readonly port: string;
  readonly endpoint: string;
  readonly version: '1.1' | '1.2';
  readonly timeout: number;
  readonly user: string;
  readonly passwordEnv: string;
  readonly bearerEnv: string;
  readonly maxSize: number;
  readonly connections: number;
}

/** What is passed through `soap` to the wire with each call. */
interface Sending {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

interface Operation {
  readonly method: Method;
  /** What the WSDL says of its arguments, in order. */
  readonly input: unknown;
}

type Method = (
  args: unknown,
  done: (error: unknown, result: unknown) => void,
  sending: Sending,
  headers: Readonly<Record<string, string>>,
) => void;

export async function soapClient(
  settings: SoapCallSettings,
  projectFolder: string,
): Promise<{ call(outgoing: OutgoingCall): Promise<Raw>; close(): Promise<void> }> {
  if (settings.wsdl === '' || settings.operation === '') throw new Error('soap: a step with `use: soap` needs a wsdl and an operation');
  const agent = new Agent({ connections: settings.connections, connect: { timeout: 10_000 } });
  const authorization = authorizationOf(settings);
  let loading: Promise<Operation> | undefined;
  const operation = (): Promise<Operation> => {
    loading ??= load(settings, projectFolder, agent).catch((error: unknown) => {
      loading = undefined; // The next call looks again.
      throw error;
    });
    return loading;
  };
  // A file must be right now; somebody's server may come up later than this hub.
  if (!isUrl(settings.wsdl)) await operation();

  return {
    async call({ body, contentType, envelope, context }) {
      const args = argumentsOf(body, contentType);
      const timeoutMs = Math.min(settings.timeout, context.remainingMs());
      if (timeoutMs <= 0) throw new Error(`no time is left to call ${settings.operation}`);
      const headers = {
        'Idempotency-Key': envelope.id,
        ...(envelope.traceparent === undefined ? {} : { traceparent: envelope.traceparent }),
        ...authorization,
      };
      const { method, input } = await operation();
      const result = await new Promise<unknown>((done, fail) => {
        method(
          ordered(args, input),
          (error, value) => (error === null || error === undefined ? done(value) : fail(asError(error))),
          { signal: context.signal, timeoutMs },
          headers,
        );
      });
      return raw(Buffer.from(JSON.stringify(result ?? null)), 'application/json');
    },
    close: () => agent.destroy(),
  };
}

const isUrl = (wsdl: string): boolean => /^https?:\/\//i.test(wsdl);

function authorizationOf({ user, passwordEnv, bearerEnv }: SoapCallSettings): Readonly<Record<string, string>> {
  const secret = (name: string) => process.env[name] ?? absent(name);
  if (bearerEnv !== '') return { Authorization: `Bearer ${secret(bearerEnv)}` };
  if (user === '') return {};
  return { Authorization: `Basic ${Buffer.from(`${user}:${passwordEnv === '' ? '' : secret(passwordEnv)}`).toString('base64')}` };
}

function absent(name: string): never {
  throw new Error(`soap: the environment variable ${name} is not set`);
}

/** `soap` throws plain objects, too. */
const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(`the answer cannot be read: ${JSON.stringify(error).slice(0, 300)}`);

// ---- The WSDL

async function load(settings: SoapCallSettings, projectFolder: string, agent: Agent): Promise<Operation> {
  const { createClientAsync } = await import('soap');
  const where = isUrl(settings.wsdl) ? settings.wsdl : resolve(projectFolder, settings.wsdl);
  if (!isUrl(where)) await stat(where).catch(() => missing(where));
  const text = (value: string) => value; // Dates stay as they are written.
  const client = await createClientAsync(where, {
    httpClient: wire(agent, settings),
    disableCache: true,
    forceSoap12Headers: settings.version === '1.2',
    attributesKey: '$attributes',
    handleNilAsNull: true,
    customDeserializer: { date: text, dateTime: text },
    ...(settings.endpoint === '' ? {} : { endpoint: settings.endpoint }),
  }).catch((cause: unknown) => {
    throw new Error(`soap: the WSDL ${where} cannot be read: ${messageOf(asError(cause))}`, { cause });
  });
  return operationOf(client, settings);
}

function missing(where: string): never {
  throw new Error(`soap: there is no WSDL ${where}`);
}

/** The operation, of the first service and port that have it (and are meant). */
function operationOf(client: Client, { service, port, operation }: SoapCallSettings): Operation {
  const services = client.describe() as Readonly<
    Record<string, Readonly<Record<string, Readonly<Record<string, { readonly input?: unknown }>>>>>
  >;
  const all = Object.entries(services).flatMap(([ofService, ports]) =>
    Object.entries(ports).flatMap(([ofPort, operations]) =>
      Object.entries(operations).map(([name, { input }]) => ({ ofService, ofPort, name, input })),
    ),
  );
  const meant = all.filter(({ ofService, ofPort }) => (service === '' || ofService === service) && (port === '' || ofPort === port));
  const found = meant.find(({ name }) => name === operation);
  if (found === undefined)
    throw new Error(
      `soap: the WSDL has no operation ${[service, port, operation].filter((part) => part !== '').join('.')}${didYouMean(operation, [...new Set((meant.length > 0 ? meant : all).map(({ name }) => name))])}`,
    );
  const method = (client as unknown as Record<string, Record<string, Record<string, Method>>>)[found.ofService]![found.ofPort]![
    found.name
  ]!;
  return { method, input: found.input };
}

// ---- The arguments

const elementName = /^(?!_xml|__proto__$)[\p{L}_][\p{L}\p{N}._-]*$/u;
const attributeName = /^(?!xsi_type$)(?:[A-Za-z_][\w.-]*:)?[A-Za-z_][\w.-]*$/;

/** The body as arguments. `soap` writes names as they are, and some mean "raw XML" to it: only names of elements get through. */
function argumentsOf(body: Buffer, contentType: string): unknown {
  let args: unknown;
  try {
    args = JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new Fault('invalid', `a SOAP operation needs a JSON body, and this one is ${contentType}`, { cause });
  }
  if (typeof args !== 'object' || args === null || Array.isArray(args))
    throw new Fault('invalid', 'a SOAP operation needs a JSON object: its properties are the arguments');
  return cleaned(args, '#', 0);
}

function cleaned(value: unknown, pointer: string, depth: number): unknown {
  if (typeof value === 'string') return value.replace(notXml, '\ufffd');
  if (typeof value !== 'object' || value === null) return value;
  const wrong = (detail: string) => new Fault('invalid', `${pointer} ${detail}`, { errors: [{ pointer, detail }] });
  if (depth > 64) throw wrong('is nested too deeply');
  if (Array.isArray(value)) return value.map((item, index) => cleaned(item, `${pointer}/${index}`, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, inside]) => {
      const special = name === '$value' ? typeof inside !== 'object' : name === '$attributes' && isAttributes(inside);
      if (!special && !elementName.test(name))
        throw wrong(`has the name ${JSON.stringify(name).slice(0, 100)}, which cannot be an XML element`);
      return [name, cleaned(inside, `${pointer}/${name}`, depth + 1)];
    }),
  );
}

/** Strict services check the order of elements, and JSON has none: that of the WSDL. */
function ordered(value: unknown, description: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => ordered(item, description));
  if (typeof value !== 'object' || value === null || typeof description !== 'object' || description === null) return value;
  const inside = new Map(
    Object.entries(description).map(([name, meant], place) => [name.replace(/\[\]$/, ''), { meant: meant as unknown, place }]),
  );
  const place = (name: string) => inside.get(name)?.place ?? Number.POSITIVE_INFINITY;
  const entries = Object.entries(value).sort(([a], [b]) => (place(a) === place(b) ? 0 : place(a) - place(b)));
  return Object.fromEntries(entries.map(([name, each]) => [name, ordered(each, inside.get(name)?.meant)]));
}

const isAttributes = (value: unknown): boolean =>
  typeof value === 'object' &&
  value !== null &&
  Object.entries(value).every(([name, text]) => attributeName.test(name) && typeof text !== 'object');

// eslint-disable-next-line no-control-regex -- These are what XML does not allow.
const notXml = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;

// ---- The wire

/** The HTTP of `soap`: also used for WSDLs (then without `data`). */
function wire(agent: Agent, settings: SoapCallSettings): IHttpClient {
  const run = async (
    url: string,
    data: string | undefined,
    headers: Readonly<Record<string, string>>,
    sending: Partial<Sending>,
  ): Promise<{ readonly status: number; readonly text: string }> => {
    const end = new AbortController();
    const giveUp = () => end.abort(new Error(`${new URL(url).host} did not answer within ${sending.timeoutMs ?? settings.timeout} ms`));
    const hangUp = () => end.abort(new Error('the call was given up'));
    const timer = setTimeout(giveUp, sending.timeoutMs ?? settings.timeout);
    sending.signal?.addEventListener('abort', hangUp, { once: true });
    if (sending.signal?.aborted === true) hangUp();
    try {
      const response = await request(url, {
        dispatcher: agent,
        method: data === undefined ? 'GET' : 'POST',
        headers,
        ...(data === undefined ? {} : { body: data }),
        signal: end.signal,
        headersTimeout: 0,
        bodyTimeout: 0,
      });
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > settings.maxSize) throw new Error(`the answer is larger than ${settings.maxSize} bytes`);
        chunks.push(chunk);
      }
      const type = response.headers['content-type'];
      const text = data === undefined || isXml(type) ? decodeXml(Buffer.concat(chunks), String(type ?? '')) : '';
      if (data !== undefined) check(response.statusCode, text);
      return { status: response.statusCode, text };
    } catch (error) {
      throw end.signal.aborted ? (end.signal.reason as Error) : error;
    } finally {
      clearTimeout(timer);
      sending.signal?.removeEventListener('abort', hangUp);
    }
  };
  const client = {
    request(
      url: string,
      data: string | null,
      callback: (error: unknown, response?: unknown, body?: string) => void,
      headers: Readonly<Record<string, string>> = {},
      sending: Partial<Sending> = {},
    ): void {
      void run(url, data ?? undefined, headers, sending).then(
        ({ status, text }) => callback(null, { status, data: text, headers: {} }, text),
        (error: unknown) => callback(error),
      );
    },
  };
  return client as unknown as IHttpClient;
}

const isXml = (type: unknown): boolean => typeof type === 'string' && /^\s*(?:text\/xml|application\/(?:[\w.-]+\+)?xml)\b/i.test(type);

/** Throws what an answer means that is not a reply. */
function check(status: number, text: string): void {
  const root = text === '' ? undefined : parseXml(text, { depth: 100, elements: 500_000 });
  const body = root?.name === 'Envelope' ? root.children.find(({ name }) => name === 'Body') : undefined;
  const fault = body?.children.find(({ name, uri }) => name === 'Fault' && uri === root?.uri);
  if (fault !== undefined) throw thrownFor(fault);
  if (status === 403) throw new Fault('forbidden', 'the SOAP service does not allow this call (403)');
  if (status >= 300 || root === undefined)
    throw new Error(`the SOAP service answered ${status}${root === undefined ? ' without an envelope' : ''}`);
  refuseTraps(root);
}

function thrownFor(fault: Element): Error {
  const at = (element: Element | undefined, name: string) => element?.children.find((child) => child.name === name);
  const code = (at(fault, 'faultcode') ?? at(at(fault, 'Code'), 'Value'))?.text.trim() ?? '';
  const text = (at(fault, 'faultstring') ?? at(at(fault, 'Reason'), 'Text'))?.text.trim().slice(0, 500) ?? '';
  return /^(?:[^:]*:)?(?:Client|Sender)\b/.test(code)
    ? new Fault('rejected', text || 'the SOAP service refused the request', { reason: 'soap-fault' })
    : new Error(`SOAP fault ${code}: ${text}`);
}

/** `soap` keeps multi-references in a plain object by id: an id such as `__proto__` would write into every object of this process. */
function refuseTraps({ name, attributes, children }: Element): void {
  const ids = [attributes.get('id'), attributes.get('href')?.slice(1), name];
  if (ids.some((id) => id !== undefined && id in Object.prototype))
    throw new Error('the answer has a name or an id that means something else to JavaScript');
  children.forEach(refuseTraps);
}
