/** SOAP 1.1 and 1.2 on the wire: an envelope read, a reply or a fault written, bodies from XML to what a flow gets and back. */
import { Fault, type FaultCode, type Flaw } from '../../broker/fault.js';
import { readFields, writeFields, xsi } from './shape.js';
import type { Content } from './wsdl.js';
import { escapeText, type Element } from './xml.js';

export type Version = '1.1' | '1.2';

const envelopes: Readonly<Record<Version, string>> = {
  '1.1': 'http://schemas.xmlsoap.org/soap/envelope/',
  '1.2': 'http://www.w3.org/2003/05/soap-envelope',
};

export const contentTypes: Readonly<Record<Version, string>> = {
  '1.1': 'text/xml; charset=utf-8',
  '1.2': 'application/soap+xml; charset=utf-8',
};

/** What is said in a fault's detail beside a FaultCode. */
export type SoapCode = FaultCode | 'accepted' | 'unauthenticated' | 'too-large' | 'not-understood' | 'version-mismatch';

export interface Refusal {
  readonly code: SoapCode;
  readonly message: string;
  readonly requestId?: string;
  readonly reason?: string | undefined;
  readonly step?: string | undefined;
  readonly errors?: readonly Flaw[] | undefined;
  readonly retryAfterMs?: number | undefined;
}

/** An envelope that cannot be taken: thrown while reading. */
export class Refused extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.message);
    this.refusal = refusal;
  }
}

/** The version and the first element of the body. Throws `Refused`. */
export function readEnvelope(root: Element): { readonly version: Version; readonly body: Element } {
  const version = root.uri === envelopes['1.2'] ? '1.2' : '1.1';
  if (root.name !== 'Envelope') throw new Refused({ code: 'invalid', message: `this is a ${root.name}, not a SOAP Envelope` });
  if (root.uri !== envelopes[version])
    throw new Refused({ code: 'version-mismatch', message: 'the Envelope is neither of SOAP 1.1 nor of SOAP 1.2' });
  const inside = (name: string) => root.children.find((child) => child.name === name && child.uri === root.uri);
  for (const { name, attributes } of inside('Header')?.children ?? []) {
    const must = attributes.get(`{${root.uri}}mustUnderstand`)?.trim();
    if (must === '1' || must === 'true')
      throw new Refused({ code: 'not-understood', message: `the header ${name} must be understood, and no header is understood here` });
  }
  const body = inside('Body')?.children[0];
  if (body === undefined) throw new Refused({ code: 'invalid', message: 'the Body of the Envelope is empty' });
  return { version, body };
}

/** The codes that say: it is the sender's message that is wrong, and the same one will fail again. */
const senders: ReadonlySet<SoapCode> = new Set<SoapCode>(['invalid', 'rejected', 'forbidden', 'cancelled', 'unauthenticated', 'too-large']);

function faultCode(code: SoapCode, version: Version): string {
  if (code === 'not-understood') return 'soap:MustUnderstand';
  if (code === 'version-mismatch') return 'soap:VersionMismatch';
  if (version === '1.1') return senders.has(code) ? 'soap:Client' : 'soap:Server';
  return senders.has(code) ? 'soap:Sender' : 'soap:Receiver';
}

export function writeFault(refusal: Refusal, version: Version, namespace: string): string {
  const { code, message, requestId, reason, step, errors = [] } = refusal;
  const child = (name: string, text: string | undefined) => (text === undefined ? '' : `<${name}>${escapeText(text)}</${name}>`);
  const flaws = errors.map(({ pointer, detail }) => `<error>${child('pointer', pointer)}${child('detail', detail)}</error>`).join('');
  const detail = `<RequestFault xmlns="${namespace}">${child('code', code)}${child('message', message)}${child('requestId', requestId)}${child('reason', reason)}${child('step', step)}${flaws}</RequestFault>`;
  const text = escapeText(message);
  return envelope(
    version === '1.1'
      ? `<soap:Fault><faultcode>${faultCode(code, version)}</faultcode><faultstring xml:lang="en">${text}</faultstring><detail>${detail}</detail></soap:Fault>`
      : `<soap:Fault><soap:Code><soap:Value>${faultCode(code, version)}</soap:Value></soap:Code><soap:Reason><soap:Text xml:lang="en">${text}</soap:Text></soap:Reason><soap:Detail>${detail}</soap:Detail></soap:Fault>`,
    version,
  );
}

/** `content` is XML. */
export const writeReply = (name: string, content: string, version: Version, namespace: string): string =>
  envelope(`<${name} xmlns="${namespace}">${content}</${name}>`, version);

const envelope = (body: string, version: Version): string =>
  `<?xml version="1.0" encoding="utf-8"?>\n<soap:Envelope xmlns:soap="${envelopes[version]}" xmlns:xsi="${xsi}"><soap:Body>${body}</soap:Body></soap:Envelope>`;

export interface Payload {
  readonly body: Buffer;
  readonly contentType: string;
}

/** The body that the flow gets: the same JSON as over HTTP. Throws a Fault `invalid` that lists every flaw. */
export function readContent(element: Element, content: Content, namespace: string): Payload {
  if (content.kind === 'free') return readFree(element);
  const flaws: Flaw[] = [];
  const read = readFields(element, content.fields, namespace, flaws);
  if (flaws.length > 0)
    throw new Fault(
      'invalid',
      `the request does not fit the WSDL: ${flaws.map(({ pointer, detail }) => `${pointer} ${detail}`).join('; ')}`.slice(0, 1_000),
      { errors: flaws, reason: 'schema' },
    );
  return { body: Buffer.from(JSON.stringify(content.kind === 'value' ? (read['value'] ?? null) : read)), contentType: 'application/json' };
}

function readFree({ children }: Element): Payload {
  const value = children.find(({ name }) => name === 'value')?.text ?? '';
  const contentType = children.find(({ name }) => name === 'contentType')?.text.trim() || 'application/json';
  if (!/^[\x20-\x7e]{1,255}$/.test(contentType)) throw new Fault('invalid', 'contentType must be at most 255 printable ASCII characters');
  return { body: isText(contentType) ? Buffer.from(value) : Buffer.from(value, 'base64'), contentType };
}

/** The children of the reply's element. Throws a Fault `internal` when the flow's reply is not what its schema says. */
export function writeContent({ body, contentType }: Payload, content: Content): string {
  if (content.kind === 'free')
    return `<contentType>${escapeText(contentType)}</contentType><value>${escapeText(body.toString(isText(contentType) ? 'utf8' : 'base64'))}</value>`;
  const value = isJson(contentType) ? parsed(body) : undefined;
  if (value === undefined)
    throw new Fault('internal', `the reply is ${contentType}, not the JSON that the flow's schema promises`, { reason: 'reply' });
  return writeFields(content.kind === 'value' ? { value } : value, content.fields);
}

function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch {
    // Not JSON, whatever its content type says.
    return undefined;
  }
}

const isText = (contentType: string): boolean =>
  isJson(contentType) || /^\s*(?:text\/|application\/(?:[\w.-]+\+)?xml\b)/i.test(contentType);

const isJson = (contentType: string): boolean => /^\s*application\/(?:[\w.-]+\+)?json\b/i.test(contentType);
