/** Who is being served: counts requests in flight, in all and per principal, and notices when a client hangs up. */
import type { Socket } from 'node:net';
import type { Hangup } from '../../broker/correlator.js';
import { Fault } from '../../broker/fault.js';

/** Aborts when the client hangs up. */
export interface Visit extends Hangup {
  /** The same for whoever needs a signal. */
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

class Visiting implements Visit {
  taken = false;
  aborted = false;
  readonly #here: Visiting[];
  readonly #left: () => void;
  readonly #listeners = new Set<() => void>();
  #controller: AbortController | undefined = undefined;

  /** `here`: the visits by its socket. */
  constructor(here: Visiting[], left: () => void) {
    here.push(this);
    this.#here = here;
    this.#left = left;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.aborted) this.#controller.abort();
    return this.#controller.signal;
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.delete(listener);
  }

  take(): void {
    if (this.aborted) throw new Fault('unavailable', 'the client hung up before anything was done');
    this.taken = true;
  }

  leave(): void {
    const place = this.#here.indexOf(this);
    if (place < 0) return;
    this.#here.splice(place, 1);
    this.#left();
  }

  hangUp(): void {
    const isHere = this.#here.includes(this);
    this.leave();
    if (!isHere) return;
    this.aborted = true;
    this.#controller?.abort();
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }
}

export function visits(limits: { readonly all: number; readonly perPrincipal: number }): Visits {
  let all = 0;
  const byPrincipal = new Map<string, number>();
  const refused = new WeakSet<Socket>();
  const bySocket = new WeakMap<Socket, Visiting[]>();

  /** The visits by one socket (several with pipelining); one listener for all of them. */
  const of = (socket: Socket) => {
    const known = bySocket.get(socket);
    if (known !== undefined) return known;
    const fresh: Visiting[] = [];
    bySocket.set(socket, fresh);
    socket.once('close', () => [...fresh].forEach((visit) => visit.hangUp()));
    return fresh;
  };

  const left = (principal: string) => {
    all--;
    const still = (byPrincipal.get(principal) ?? 1) - 1;
    if (still > 0) byPrincipal.set(principal, still);
    else byPrincipal.delete(principal);
  };

  return {
    enter(socket, principal, fetches) {
      const mine = byPrincipal.get(principal) ?? 0;
      if (fetches === undefined && all >= limits.all) return 'overloaded';
      if (mine >= limits.perPrincipal) return 'too-many';
      all++;
      byPrincipal.set(principal, mine + 1);
      const visit = new Visiting(of(socket), () => left(principal));
      // A socket that is closed already will not close again.
      if (socket.destroyed || refused.has(socket)) visit.hangUp();
      return visit;
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
