/**
 * How a server leaves: it goes on listening until nobody comes any more, so that load balancers and clients on open connections notice;
 * then it listens no longer, and lets every answer reach its client. Whoever asks meanwhile hears `Connection: close`
 * (RFC 9112 §9.6): what is left at the end are connections on which nobody has asked for a while.
 */
import { Server as NetServer, type Socket } from 'node:net';
import type { Server } from 'node:http';
import { pause, systemClock } from '../../broker/clock.js';

/** Nobody comes any more when nobody has for so long. */
const quietMs = 500;
/** Whoever was connected in the last moment sends a request by then, if at all. */
const lastMs = 100;
/** So long answers may take to reach their clients. */
const drainMs = 8_000;

/** Watches who comes and what is under way from now on. The returned function leaves: `lingerMs` is how long it listens at most. */
export function drainable(server: Server): (lingerMs: number) => Promise<void> {
  const bySocket = new Map<Socket, number>();
  let underWay = 0;
  let cameAt = -Infinity;
  let drained: AbortController | undefined;

  const add = (socket: Socket, change: number) => {
    // Absent: it is closed, and so is everything that was under way on it.
    const count = bySocket.get(socket);
    if (count === undefined) return;
    bySocket.set(socket, count + change);
    underWay += change;
    look();
  };
  const look = () => {
    if (underWay === 0) drained?.abort();
  };

  server.on('connection', (socket) => {
    cameAt = performance.now();
    bySocket.set(socket, 0);
    socket.once('close', () => {
      add(socket, -(bySocket.get(socket) ?? 0));
      bySocket.delete(socket);
    });
  });
  server.on('request', (request, response) => {
    cameAt = performance.now();
    add(request.socket, 1);
    response.once('close', () => add(request.socket, -1));
  });

  /** Resolves when nobody has come for so long, or after `withinMs`. */
  async function quiet(forMs: number, withinMs: number): Promise<void> {
    for (const end = performance.now() + withinMs; ;) {
      const now = performance.now();
      const restMs = Math.min(cameAt + forMs, end) - now;
      if (restMs <= 0) return;
      await pause(systemClock, restMs);
    }
  }

  return async (lingerMs) => {
    await quiet(Math.min(quietMs, lingerMs), lingerMs);
    // Connections stay: the server's own `close` ends those that are idle now.
    NetServer.prototype.close.call(server);
    await quiet(Math.min(lastMs, lingerMs), 1_000);
    drained = new AbortController();
    look();
    await pause(systemClock, drainMs, drained.signal);
  };
}
