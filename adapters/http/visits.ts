/** Who is being served: counts requests in flight, in all and per principal, and notices when a client hangs up. */
import type { Socket } from 'node:net';
import { Fault } from '../../broker/fault.js';

export interface Visit {
  /** Aborts when the client hangs up. */
  readonly signal: AbortSignal;
  /** The hub acts on the request from now on: a definite refusal would no longer be true. Throws when nobody is there any more. */
  take(): void;
  /** It is answered. */
  leave(): void;
  /** Its client is gone. */
  hangUp(): void;
}

export interface Visits {
  /** Begins a visit, or says which limit it would break. Who `fetches` what is there already is not turned away for want of room. */
  enter(socket: Socket, principal: string, fetches?: 'fetches'): Visit | 'overloaded' | 'too-many';
  /** Ends the visits by this socket, unless the hub acts on one already: then it stays as it is, and the answer is false. */
  refuse(socket: Socket): boolean;
}

export function visits(limits: { readonly all: number; readonly perPrincipal: number }): Visits {
  let all = 0;
  const byPrincipal = new Map<string, number>();
  const refused = new WeakSet<Socket>();
  const bySocket = new WeakMap<Socket, Set<{ hangUp(): void; taken: boolean }>>();

  /** The visits by one socket (several with pipelining); one listener for all of them. */
  const of = (socket: Socket) => {
    const known = bySocket.get(socket);
    if (known !== undefined) return known;
    const fresh = new Set<{ hangUp(): void; taken: boolean }>();
    bySocket.set(socket, fresh);
    socket.once('close', () => [...fresh].forEach((visit) => visit.hangUp()));
    return fresh;
  };

  return {
    enter(socket, principal, fetches) {
      const mine = byPrincipal.get(principal) ?? 0;
      if (fetches === undefined && all >= limits.all) return 'overloaded';
      if (mine >= limits.perPrincipal) return 'too-many';
      all++;
      byPrincipal.set(principal, mine + 1);
      const gone = new AbortController();
      const here = of(socket);
      const visit = {
        taken: false,
        hangUp() {
          if (here.has(visit)) gone.abort();
          leave();
        },
      };
      const leave = () => {
        if (!here.delete(visit)) return;
        all--;
        const left = (byPrincipal.get(principal) ?? 1) - 1;
        if (left > 0) byPrincipal.set(principal, left);
        else byPrincipal.delete(principal);
      };
      here.add(visit);
      // A socket that is closed already will not close again.
      if (socket.destroyed || refused.has(socket)) visit.hangUp();
      const take = () => {
        if (gone.signal.aborted) throw new Fault('unavailable', 'the client hung up before anything was done');
        visit.taken = true;
      };
      return { signal: gone.signal, take, leave, hangUp: () => visit.hangUp() };
    },
    refuse(socket) {
      const here = [...(bySocket.get(socket) ?? [])];
      if (here.some((visit) => visit.taken)) return false;
      refused.add(socket);
      for (const visit of here) visit.hangUp();
      return true;
    },
  };
}
