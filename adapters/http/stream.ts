/** Server-sent events, written by hand (WHATWG HTML §9.2). */
import type { FastifyReply } from 'fastify';

/** A reader that leaves this much unread is cut; it may resume with `Last-Event-ID`. */
const maxUnread = 1_048_576;

export interface EventStream {
  /** Aborts when nobody reads any more, or when the stream has ended. */
  readonly signal: AbortSignal;
  readonly begun: boolean;
  /** Sends the headers; `send` does so by itself. */
  begin(): void;
  send(event: { readonly id: number; readonly event: string; readonly data: unknown }): void;
  end(): void;
}

/** Makes a stream of the answer. Nothing is sent before `begin` or the first `send`. */
export function eventStream(reply: FastifyReply, { pingMs, gone }: { readonly pingMs: number; readonly gone: AbortSignal }): EventStream {
  const over = new AbortController();
  let ping: NodeJS.Timeout | undefined;
  let begun = false;
  const raw = reply.raw;

  const stop = () => {
    clearInterval(ping);
    gone.removeEventListener('abort', stop);
    over.abort();
  };
  gone.addEventListener('abort', stop);
  if (gone.aborted) stop();

  const write = (text: string) => {
    if (over.signal.aborted) return;
    raw.write(text);
    if (raw.writableLength <= maxUnread) return;
    stop();
    raw.destroy();
  };

  return {
    signal: over.signal,
    get begun() {
      return begun;
    },
    begin() {
      if (begun) return;
      begun = true;
      reply.hijack();
      raw.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        'x-accel-buffering': 'no',
        'x-content-type-options': 'nosniff',
      });
      ping = setInterval(() => write(':\n\n'), pingMs);
      if (over.signal.aborted) stop();
      write('retry: 3000\n\n');
    },
    send({ id, event, data }) {
      this.begin();
      // JSON has no line break outside of escapes: one data line is enough.
      write(`id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    },
    end() {
      stop();
      if (begun) raw.end();
    },
  };
}
