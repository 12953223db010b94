/**
 * One attempt over HTTP. The host is resolved first, its addresses are checked, and the connection is made to the very address that was
 * checked: a second look at the DNS could find another one. No redirect is followed, and nothing that the receiver says is kept but the
 * status: its body could come from somewhere that the requestor may not read.
 */
import { lookup as systemLookup } from 'node:dns/promises';
import { Agent, buildConnector, request } from 'undici';
import { messageOf } from '../../broker/fault.js';
import { refusedAddress } from './address.js';

export interface Outgoing {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** Networks (CIDR) that may be called beside public addresses. */
  readonly networks: readonly string[];
}

/** What came of it: a status, or why there is none. */
export interface Answered {
  readonly status?: number;
  readonly retryAfterMs?: number;
  readonly error?: string;
}

/** Never rejects. */
export type Post = (outgoing: Outgoing, signal: AbortSignal) => Promise<Answered>;

export interface PosterOptions {
  /** Every address of a host. */
  readonly lookup?: (host: string) => Promise<readonly string[]>;
  readonly timeoutMs?: number;
}

const connectMs = 10_000;
/** So much of an answer is read, so that the receiver can end in peace. */
const answerBytes = 16_384;

const everyAddress = async (host: string): Promise<readonly string[]> =>
  (await systemLookup(host, { all: true })).map(({ address }) => address);

export function poster({ lookup = everyAddress, timeoutMs = 20_000 }: PosterOptions = {}): Post {
  return async (outgoing, signal) => {
    const ended = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    try {
      const address = await unlessEnded(addressOf(outgoing, lookup), ended);
      return await postTo(address, outgoing, ended);
    } catch (error) {
      const isOver = ended.aborted && !signal.aborted;
      return { error: isOver ? `no answer within ${timeoutMs / 1_000} s` : said(error) };
    }
  };
}

/** The address to connect to. */
async function addressOf({ url, networks }: Outgoing, lookup: NonNullable<PosterOptions['lookup']>): Promise<string> {
  // The URL parser has made an address of whatever stands for one: 2130706433, 0x7f.1, 017700000001.
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const isLiteral = /^[\d.]+$|:/.test(host);
  const addresses = isLiteral ? [host] : await lookup(host);
  const refusals = addresses.map((address) => refusedAddress(address, networks));
  const allowed = addresses.find((_, index) => refusals[index] === undefined);
  if (allowed === undefined) throw new Error(refusals[0] ?? `${host} has no address`);
  return allowed;
}

async function postTo(address: string, { url, headers, body }: Outgoing, signal: AbortSignal): Promise<Answered> {
  const connect = buildConnector({ timeout: connectMs });
  const dispatcher = new Agent({
    // The name stays what certificates and the Host header are about.
    connect: (options, callback) => connect({ ...options, hostname: address }, callback),
    connections: 1,
  });
  try {
    const { statusCode: status, headers: answer, body: rest } = await request(url, { dispatcher, method: 'POST', headers, body, signal });
    await rest.dump({ limit: answerBytes, signal }).catch(() => undefined); // the status is what counts
    const retryAfterMs = retryAfter(answer['retry-after']);
    return { status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
  } finally {
    void dispatcher.destroy().catch(() => undefined);
  }
}

/** Seconds or a date (RFC 9110), as ms from now. */
function retryAfter(header: string | string[] | undefined): number | undefined {
  if (typeof header !== 'string') return undefined;
  const ms = /^\d{1,9}$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

const unlessEnded = <T>(work: Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    const end = () => reject(new Error('given up'));
    if (signal.aborted) return end();
    signal.addEventListener('abort', end, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', end));
  });

/** Several addresses of a host fail as one error without a message. */
function said(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  const message = messageOf(error) || String(code ?? 'failed');
  return message.slice(0, 300);
}
