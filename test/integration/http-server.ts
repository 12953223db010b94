/** A hub on the ports in memory with its HTTP adapter on a real socket, for the tests beside this file. */
import { connect } from 'node:net';
import { http, type HttpSettings } from '../../adapters/http/index.js';
import { raw, worker, type Step } from '../../broker/step.js';
import { Fault, type FaultCode } from '../../broker/fault.js';
import { memoryHub, type TestHub, type TestHubOptions } from '../support/hub.js';

export const settings: HttpSettings = {
  port: 0,
  host: '127.0.0.1',
  open: false,
  publicUrl: '',
  bodyLimit: 1_048_576,
  maxHeaderSize: 16_384,
  maxConnections: 1_000,
  maxInFlight: 1_000,
  maxInFlightPerPrincipal: 1_000,
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  ping: 15_000,
  maxConversations: 1_000,
  maxConversationsPerPrincipal: 1_000,
  maxOpenPerConversation: 32,
  linger: 0,
};

/** A gate that a test opens: whoever passes it waits until then. */
export function gate() {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { open, opened };
}

let release = gate();

/** Lets every request that waits at step `slow` go on. */
export function letSlowGo(): void {
  release.open();
  release = gate();
}

export const steps: readonly Step[] = [
  worker<Buffer>({
    name: 'echo',
    handle: (body, { contentType, contentEncoding, body: bytes }) =>
      raw(contentType === 'application/json' ? bytes : body, contentType, contentEncoding),
  }),
  worker<{ n: number }>({ name: 'double', handle: ({ n }) => ({ n: n * 2 }) }),
  worker<{ code: FaultCode }>({
    name: 'fail',
    handle({ code }) {
      throw new Fault(code, `it is ${code}`, { reason: 'because' });
    },
  }),
  worker<never>({
    name: 'slow',
    async handle(_body, _envelope, { signal, progress }) {
      progress({ percent: 50, message: 'half' });
      await Promise.race([
        release.opened,
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true })),
      ]);
      return { slow: true };
    },
  }),
  worker<{ bytes: number }>({ name: 'fill', handle: ({ bytes }) => Buffer.alloc(bytes, 'x') }),
];

export const flows: TestHubOptions['flows'] = {
  echo: ['echo'],
  double: {
    steps: ['double'],
    summary: 'Twice as much.',
    request: {
      type: 'object',
      required: ['n'],
      additionalProperties: false,
      properties: { n: { type: 'integer' }, note: { type: 'string' } },
    },
    reply: { type: 'object', required: ['n'], properties: { n: { type: 'integer' } } },
    example: { n: 21 },
  },
  fail: ['fail'],
  slow: ['slow'],
  'slow.read': { steps: ['slow'], maxWaitMs: 300, waitMs: 300 },
  fill: ['fill'],
  'fast.read': { steps: ['echo'], durable: false },
  parted: { steps: ['echo'], parts: { leaseMs: 600_000, count: 100, size: 1_000, total: 10_000 } },
};

export interface Served {
  readonly hub: TestHub;
  readonly url: string;
  readonly port: number;
  fetch(path: string, init?: RequestInit & { readonly json?: unknown }): Promise<Response>;
  close(): Promise<void>;
}

export async function serve(more: Partial<HttpSettings> = {}, options: Partial<TestHubOptions> = {}): Promise<Served> {
  const hub = await memoryHub({ flows, steps, ...options });
  const open = await hub.open(http, { ...settings, ...more }).catch(async (error: unknown) => {
    await hub.close();
    throw error;
  });
  const url = open.urls[0]!;
  return {
    hub,
    url,
    port: Number(new URL(url).port),
    fetch: (path, { json, headers, ...init } = {}) =>
      fetch(
        url + path,
        json === undefined
          ? { ...init, ...(headers === undefined ? {} : { headers }) }
          : { method: 'POST', ...init, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(json) },
      ),
    close: () => hub.close(),
  };
}

/** Sends bytes as they are and reads until the other side closes. */
export function rawly(port: number, bytes: string | Buffer, { endAfterMs }: { readonly endAfterMs?: number } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = '';
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    const timer = endAfterMs === undefined ? undefined : setTimeout(() => socket.destroy(), endAfterMs);
    socket.on('data', (chunk) => (received += chunk.toString('latin1')));
    // A reset is a closed socket, too.
    socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNREFUSED' ? reject(error) : undefined));
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(received);
    });
  });
}

export interface SentEvent {
  readonly id: number;
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** Reads server-sent events until the stream ends, or until `enough` says so. */
export async function readEvents(
  response: Response,
  enough: (events: readonly SentEvent[]) => boolean = () => false,
): Promise<readonly SentEvent[]> {
  const events: SentEvent[] = [];
  let text = '';
  for await (const chunk of response.body!) {
    text += Buffer.from(chunk).toString('utf8');
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      const fields = new Map(
        block
          .split('\n')
          .filter((line) => !line.startsWith(':'))
          .map((line) => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)] as const),
      );
      if (fields.has('data'))
        events.push({
          id: Number(fields.get('id')),
          event: fields.get('event') ?? '',
          data: JSON.parse(fields.get('data')!) as SentEvent['data'],
        });
    }
    if (enough(events)) break;
  }
  return events;
}
