/**
 * One supervised connection to RabbitMQ: opened, watched, and opened again for ever, at whichever node of a cluster takes it.
 * This is the only file that imports amqplib. Its own `recovery` is not used, since a cut while that one sets up crashes the process or hangs for good
 * (`reference/ecosystem.md` 0.5). A lost connection is a `Session` that has ended; nothing of it is used again.
 */
import { setMaxListeners } from 'node:events';
import { hostname } from 'node:os';
import type { Duplex } from 'node:stream';
import { type Channel, type ChannelModel, type ConfirmChannel, connect, credentials, IllegalOperationError } from 'amqplib';
import { pause, systemClock } from './clock.js';
import { version } from './version.js';

export type { Channel, ConfirmChannel, ConsumeMessage, Message as AmqpMessage, Options } from 'amqplib';

export type Log = (event: string, fields: Record<string, unknown>) => void;

const connectMs = 5_000;
/** Where there is another node to go to, one that does not answer is not waited for so long. */
const connectElsewhereMs = 2_000;
const setUpMs = 60_000;
const firstConnectMs = 10_000;
const firstRetryMs = 100;
const longestRetryMs = 3_000;
const closeMs = 2_000;
const socketBufferBytes = 1 << 20;

/** How long one answer of the broker may take. One that a restarting broker never gives must leave time to ask again within 10 s. */
export const answerMs = 5_000;

/** An open connection, until it ends. */
export interface Session {
  /** A channel whose errors end in the log, never in an exception. Rejects when the session ends meanwhile. */
  channel(): Promise<Channel>;
  confirmChannel(): Promise<ConfirmChannel>;
  /** Call after each publish or ack: what is sent in one turn of the event loop goes out in one write. */
  coalesce(): void;
  /** Ends it at once, for instance because the broker does not answer. */
  fail(error: Error): void;
  /** Ends it in good order: what was sent (acknowledgements) arrives. */
  close(): Promise<void>;
  isOpen(): boolean;
  /** Resolves when it has ended, for whatever reason. */
  readonly ended: Promise<Error>;
}

export interface ConnectionOptions {
  /** The nodes of one cluster, the preferred one first. At least one. */
  readonly urls: readonly string[];
  /** Shown in the Connections table of the RabbitMQ UI. */
  readonly name: string;
  readonly log: Log;
  /**
   * Runs on each new session before it counts as up. A failure ends the session, and the next one is tried. `lost`: why the
   * last session ended that was up.
   */
  setUp(session: Session, lost: Error | undefined): Promise<void>;
  /** Tells each change of `session()` and `isBlocked()`. */
  changed(): void;
}

export class AmqpConnection {
  readonly #options: ConnectionOptions;
  readonly #closing = new AbortController();
  readonly #waiting = new Set<() => void>();
  #session: Session | undefined;
  #lost: Error | undefined;
  #isBlocked = false;
  /** The node that is tried next: a place in `urls`. */
  #turn = 0;
  #kept: Promise<void> = Promise.resolve();

  constructor(options: ConnectionOptions) {
    this.#options = options;
    // Each wait for the connection listens to it, and takes its listener away.
    setMaxListeners(0, this.#closing.signal);
  }

  /** The session that is up, if any. */
  session(): Session | undefined {
    return this.#session;
  }

  /** True while the broker refuses to take messages (memory or disk alarm). */
  isBlocked(): boolean {
    return this.#isBlocked;
  }

  /** Resolves with the session as soon as one is up; rejects after `withinMs`, and when it is closed or `signal` aborts. */
  async up(withinMs: number, signal: AbortSignal = this.#closing.signal): Promise<Session> {
    const until = performance.now() + withinMs;
    for (;;) {
      if (this.#closing.signal.aborted || signal.aborted) throw new Error('the transport is closed');
      if (this.#session !== undefined) return this.#session;
      if (performance.now() >= until) throw new Error(`RabbitMQ at ${places(this.#options.urls)} is away, for ${withinMs} ms now`);
      await this.#news(until - performance.now(), signal);
    }
  }

  /** Resolves when the session may have come, or when it is no use to wait for it. */
  #news(withinMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const told = () => {
        cancel();
        signal.removeEventListener('abort', told);
        this.#waiting.delete(told);
        resolve();
      };
      const cancel = systemClock.after(withinMs, told);
      signal.addEventListener('abort', told, { once: true });
      this.#waiting.add(told);
    });
  }

  /** Resolves when it is up for the first time, and from then on heals itself. Rejects when that cannot be. */
  async open(): Promise<void> {
    const { urls } = this.#options;
    const until = performance.now() + firstConnectMs;
    for (let tried = 0, refused = 0; ;) {
      try {
        const session = await this.#start();
        this.#kept = this.#keep(session);
        return;
      } catch (error) {
        const waitMs = retryMs(++tried, urls.length);
        refused = isRefusal(error) ? refused + 1 : 0;
        if (refused === urls.length || performance.now() + waitMs >= until) throw unreachable(urls, error);
        await pause(systemClock, waitMs, this.#closing.signal);
        if (this.#closing.signal.aborted) throw error;
      }
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#session?.close();
    await this.#kept;
  }

  /** Watches a session to its end, then opens the next one, until closed. Never rejects. */
  async #keep(first: Session): Promise<void> {
    const { log, name, changed, urls } = this.#options;
    const { signal } = this.#closing;
    let session: Session | undefined = first;
    for (let tried = 1; ; tried++) {
      if (session !== undefined) {
        const error = await session.ended;
        this.#session = undefined;
        this.#lost = error;
        this.#isBlocked = false;
        tried = 1; // the node that we were at
        if (!signal.aborted) log('amqp.disconnected', { connection: name, error });
        changed();
      }
      await pause(systemClock, retryMs(tried, urls.length), signal);
      if (signal.aborted) return;
      session = await this.#start().catch((error: unknown) => {
        // Once a minute is enough for an outage of hours.
        if (tried % (20 * urls.length) <= urls.length) log('amqp.connect.failed', { connection: name, attempt: tried, error });
        return undefined;
      });
    }
  }

  /** Opens a session at the node whose turn it is. Then, or when that fails, it is the next one's. */
  async #start(): Promise<Session> {
    const { urls, name, setUp, log, changed } = this.#options;
    const url = urls[this.#turn++ % urls.length]!;
    const session = await openSession(url, urls.length === 1 ? connectMs : connectElsewhereMs, name, log, (isBlocked) => {
      this.#isBlocked = isBlocked;
      log(isBlocked ? 'amqp.blocked' : 'amqp.unblocked', { connection: name });
      changed();
    });
    const abort = () => session.fail(new Error('closed by us'));
    this.#closing.signal.addEventListener('abort', abort);
    if (this.#closing.signal.aborted) abort();
    try {
      await within(
        setUpMs,
        'setting up the connection',
        Promise.race([setUp(session, this.#lost), session.ended.then((error) => Promise.reject(error))]),
      );
      if (!session.isOpen()) throw await session.ended;
    } catch (error) {
      session.fail(error as Error);
      throw error;
    } finally {
      this.#closing.signal.removeEventListener('abort', abort);
    }
    this.#session = session;
    log('amqp.connected', { connection: name, node: place(url) });
    this.#wake();
    changed();
    return session;
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}

/**
 * How long to rest after so many tries: not at all until each node has been tried; then 100 ms, doubling to 3 s with each
 * round, less up to half of it, so that many processes do not come back at the same moment.
 */
function retryMs(tried: number, nodes: number): number {
  if (tried % nodes !== 0) return 0;
  return Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(tried / nodes - 1, 10)) * (1 - Math.random() / 2);
}

async function openSession(url: string, withinMs: number, name: string, log: Log, blocked: (isBlocked: boolean) => void): Promise<Session> {
  const model = await openModel(url, withinMs, name);
  // Not in amqplib's types: without it each frame batch is written by itself, and a dead socket is left to the system.
  const { stream } = model.connection as { stream?: Duplex };
  let isOpen = true;
  let end: (error: Error) => void = () => {};
  const ended = new Promise<Error>((resolve) => (end = resolve));
  const fail = (error: Error) => {
    if (!isOpen) return;
    isOpen = false;
    // Makes amqplib close every channel and settle every callback; its listeners stay, so nothing is unhandled.
    if (stream !== undefined && !stream.destroyed) stream.destroy(error);
    else model.close().catch(() => {});
    end(error);
  };
  model.on('error', fail);
  model.on('close', (error?: Error) => {
    fail(error ?? new Error('connection closed'));
    stream?.destroy();
  });
  model.on('blocked', () => blocked(true));
  model.on('unblocked', () => blocked(false));
  model.on('handler-error', (error: Error) => log('amqp.listener.failed', { connection: name, error }));
  const channels = new Set<Channel>();
  const guarded = async <C extends Channel>(opening: Promise<C>): Promise<C> => {
    const channel = await within(answerMs, 'opening a channel', opening);
    channels.add(channel);
    channel.on('close', () => channels.delete(channel));
    channel.on('error', (error: Error) => log('amqp.channel.failed', { connection: name, error }));
    channel.on('handler-error', (error: Error) => log('amqp.listener.failed', { connection: name, error }));
    return channel;
  };
  const close = async () => {
    // The channels first, since amqplib's closing of the connection overtakes acknowledgements that were sent before it.
    await Promise.all([...channels].map(closeChannel));
    await model.close();
  };
  return {
    channel: () => guarded(model.createChannel()),
    confirmChannel: () => guarded(model.createConfirmChannel()),
    coalesce: coalescing(stream),
    fail,
    close: async () => {
      // amqplib's closing does not come back when the socket breaks meanwhile.
      if (isOpen) await within(closeMs, 'closing the connection', Promise.race([close(), ended])).catch(() => {});
      fail(new Error('closed by us'));
    },
    isOpen: () => isOpen,
    ended,
  };
}

/**
 * Corks the socket for the rest of the turn. amqplib moves frames to the socket in a `setImmediate` that it sets on the
 * next tick, so the one set after that runs behind it (`reference/performance.md`, rule 4).
 */
function coalescing(stream: Duplex | undefined): () => void {
  if (stream === undefined) return () => {};
  let isCorked = false;
  const uncork = () => {
    isCorked = false;
    stream.uncork();
  };
  const uncorkBehindMux = () => void setImmediate(uncork);
  return () => {
    if (isCorked) return;
    isCorked = true;
    stream.cork();
    process.nextTick(uncorkBehindMux);
  };
}

async function openModel(url: string, withinMs: number, name: string): Promise<ChannelModel> {
  const target = new URL(url);
  if (!target.searchParams.has('heartbeat')) target.searchParams.set('heartbeat', '10');
  const user = decodeURIComponent(target.username) || 'guest';
  const password = decodeURIComponent(target.password) || (target.username === '' ? 'guest' : '');
  const options = {
    timeout: withinMs,
    noDelay: true,
    writableHighWaterMark: socketBufferBytes,
    // amqplib decodes the ones in the URL as Latin-1.
    credentials: credentials.plain(user, password),
    clientProperties: { connection_name: name, product: 'answerback', version, information: `node ${process.version} on ${hostname()}` },
  };
  const opening = connect(target.href, options);
  try {
    // Its own timeout counts silence only.
    return await within(withinMs + 1_000, `connecting to ${place(url)}`, opening);
  } catch (error) {
    opening.then((late) => (late.on('error', () => {}), late.close())).catch(() => {});
    throw error;
  }
}

/** True when amqplib refuses to send on a channel that has closed: then nothing was sent. */
export const isClosedChannel = (error: unknown): boolean => error instanceof IllegalOperationError;

/** Resolves when the channel is closed, by the broker's answer or with its connection; in the end, in any case. */
export async function closeChannel(channel: Channel): Promise<void> {
  // amqplib's own promise does not come back when the connection is lost meanwhile.
  const closed = new Promise<void>((resolve, reject) => {
    channel.once('close', resolve);
    channel.close().then(resolve, reject);
  });
  // When it is refused, the channel is closed already, and everything on it with it.
  await within(answerMs, 'closing a channel', closed).catch(() => {});
}

/** Rejects after `ms`: whatever it was, it is not waited for any longer. */
export async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let cancel = () => {};
  const late = new Promise<never>((_, reject) => {
    cancel = systemClock.after(ms, () => reject(new Error(`RabbitMQ did not answer within ${ms} ms: ${what}`)));
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    cancel();
  }
}

/** Host, port and virtual host, for people; never the password. */
export function place(url: string): string {
  try {
    const { protocol, username, hostname: host, port, pathname } = new URL(url);
    return `${protocol}//${username === '' ? '' : `${username}:***@`}${host}:${port || (protocol === 'amqps:' ? '5671' : '5672')}${pathname}`;
  } catch {
    return '(not a URL)';
  }
}

const places = (urls: readonly string[]): string => urls.map(place).join(', ');

/** True when trying again cannot help: wrong password, no such virtual host, not allowed, not a URL. */
function isRefusal(error: unknown): boolean {
  const text = String(error);
  return /ACCESS.REFUSED|NOT.ALLOWED|NOT.FOUND|ConnectionOpenOk; got <ConnectionClose|Invalid URL|Expected amqp|certificate/i.test(text);
}

function unreachable(urls: readonly string[], cause: unknown): Error {
  const why = cause instanceof Error ? cause.message || String((cause as NodeJS.ErrnoException).code) : String(cause);
  const mend = isRefusal(cause)
    ? 'expected a broker that knows this user, this password and this virtual host: correct the URL, or create them (rabbitmqctl add_user, add_vhost, set_permissions)'
    : `expected a RabbitMQ there that accepts connections within ${firstConnectMs / 1_000} s: start it, or correct the URL`;
  return new Error(`cannot connect to RabbitMQ at ${places(urls)}: ${why}; ${mend}`, { cause });
}
