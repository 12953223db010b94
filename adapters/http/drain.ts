/** Connections and what is under way on them, so that a stop lets every answer reach its client. */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { pause, systemClock } from '../../broker/clock.js';

/** The returned function resolves once everything that was under way when it was called has ended, or after `withinMs`. */
export function drainable(server: Server): (withinMs: number) => Promise<void> {
  const underWay = new Map<Socket, number>();
  const quiet = new AbortController();
  let draining = false;

  const look = () => {
    if (draining && [...underWay.values()].every((count) => count === 0)) quiet.abort();
  };
  const add = (socket: Socket, change: number) => {
    // Absent: it is closed, and so is everything that was under way on it.
    const count = underWay.get(socket);
    if (count !== undefined) underWay.set(socket, count + change);
    look();
  };

  server.on('connection', (socket) => {
    underWay.set(socket, 0);
    socket.once('close', () => {
      underWay.delete(socket);
      look();
    });
  });
  server.on('request', (request, response) => {
    if (draining) return;
    add(request.socket, 1);
    response.once('close', () => add(request.socket, -1));
  });

  return async (withinMs) => {
    draining = true;
    look();
    await pause(systemClock, withinMs, quiet.signal);
  };
}
