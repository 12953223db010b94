/** A client of a conversation, by WebSocket: keeps every frame that it hears. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { eventually } from './eventually.js';

export interface Frame {
  readonly type: string;
  readonly id?: string;
  readonly at?: string;
  readonly [name: string]: unknown;
}

export interface Talk {
  readonly frames: readonly Frame[];
  readonly conversation: string;
  /** The last frame that says where it is. */
  readonly at: string;
  say(message: object | string): void;
  request(id: string, body: unknown, more?: object): void;
  /** The first frame that matches, come or to come. */
  heard(type: string, id?: string): Promise<Frame>;
  /** The code with which the channel was closed. */
  readonly closed: Promise<number>;
  readonly socket: WebSocket;
  /** As when the net goes away. */
  drop(): void;
  /** Says goodbye. */
  close(): Promise<void>;
}

export interface Opening {
  readonly conversation?: string;
  readonly after?: string;
  readonly ordered?: boolean;
  readonly headers?: Record<string, string>;
}

export function open(url: string, flow: string, { conversation, after, ordered, headers = {} }: Opening = {}): WebSocket {
  const query = new URLSearchParams({
    ...(conversation === undefined ? {} : { conversation }),
    ...(after === undefined ? {} : { after }),
    ...(ordered === undefined ? {} : { ordered: String(ordered) }),
  });
  return new WebSocket(`${url.replace(/^http/, 'ws')}/conversations/${flow}?${query.toString()}`, 'answerback.v1+json', { headers });
}

export async function talk(url: string, flow: string, opening: Opening = {}): Promise<Talk> {
  const socket = open(url, flow, opening);
  const frames: Frame[] = [];
  socket.on('message', (data) => frames.push(JSON.parse((data as Buffer).toString()) as Frame));
  const closed = new Promise<number>((resolve) => socket.once('close', resolve));
  await once(socket, 'open');
  const self: Talk = {
    frames,
    closed,
    socket,
    get conversation() {
      return String(frames.find(({ type }) => type === 'open')?.['conversation']);
    },
    get at() {
      return frames.findLast(({ at }) => at !== undefined)?.at ?? opening.after ?? '';
    },
    say: (message) => socket.send(typeof message === 'string' ? message : JSON.stringify(message)),
    request: (id, body, more = {}) => self.say({ type: 'request', id, body, ...more }),
    heard: (type, id) =>
      eventually(
        () => {
          const found = frames.find((frame) => frame.type === type && (id === undefined || frame.id === id));
          if (found === undefined) throw new Error(`no ${type} of ${id}: ${JSON.stringify(frames)}`);
          return found;
        },
        { withinMs: 30_000 },
      ),
    drop: () => socket.terminate(),
    async close() {
      socket.close();
      await closed;
    },
  };
  await Promise.race([self.heard('open'), closed]);
  return self;
}
