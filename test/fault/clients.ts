/**
 * Clients of the HTTP adapter as they are outside: they ask, are answered, told to come back, refused or cut off, and write down
 * which. They come back until they know the outcome.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, fetch, type Response } from 'undici';
import type { History, Operation } from './history.js';

export interface Question {
  readonly flow: string;
  readonly token: string;
  /** `Idempotency-Key`: asked again, elsewhere, until there is an outcome. */
  readonly key?: string;
  readonly waitSeconds?: number;
  readonly body?: Readonly<Record<string, unknown>>;
}

export interface Clients {
  /** Resolves when the question's story is over: outcome, refusal, or (without a key) a broken line. */
  ask(question: Question): Promise<Told>;
  /** `count` clients that ask one thing after the other until they are told to stop. */
  load(count: number, next: (n: number) => Question): Load;
  close(): Promise<void>;
}

export interface Told {
  readonly kind: string;
  readonly id?: string;
  /** The first HTTP status that the client saw; 0: none. */
  readonly status: number;
  readonly body?: string;
}

export interface Load {
  /** How many stories ended in an outcome so far. */
  answered(): number;
  /** Lets every client end its story; resolves with all of them. */
  stop(): Promise<readonly Told[]>;
}

export interface ClientsOptions {
  readonly history: History;
  /** The hubs that there are now: a client goes to the first, and to the next when that one breaks the line. */
  readonly hubs: () => readonly { readonly url: string }[];
  /** How long a client comes back before it gives up. */
  readonly patienceMs?: number;
}

/** How long a client waits for an answer on one line. Longer than any hold. */
const lineMs = 65_000;
/** Clients rest before they come back. */
const restMs = 50;

export function openClients({ history, hubs, patienceMs = 90_000 }: ClientsOptions): Clients {
  const dispatcher = new Agent({
    connections: null,
    pipelining: 1,
    headersTimeout: lineMs,
    bodyTimeout: lineMs,
    connect: { timeout: 5_000 },
  });
  const stopping = new AbortController();
  let turn = 0;

  const at = (
    path: string,
    init: { readonly method?: string; readonly headers?: Record<string, string>; readonly body?: string } = {},
  ): Promise<Response> => {
    const all = hubs();
    const hub = all[turn % all.length];
    if (hub === undefined) return Promise.reject(new Error('there is no hub now'));
    return fetch(`${hub.url}${path}`, { ...init, dispatcher, signal: AbortSignal.any([AbortSignal.timeout(lineMs), stopping.signal]) });
  };

  /** One try: what the hub said, or undefined when the line broke. */
  async function said(
    response: Promise<Response>,
  ): Promise<{ readonly status: number; readonly id: string | undefined; readonly body: Buffer; readonly problem: Problem } | undefined> {
    try {
      const answer = await response;
      const body = Buffer.from(await answer.arrayBuffer());
      const isProblem = answer.headers.get('content-type')?.startsWith('application/problem+json') === true;
      return {
        status: answer.status,
        id: answer.headers.get('hub-request-id') ?? undefined,
        body,
        problem: isProblem ? (JSON.parse(body.toString()) as Problem) : {},
      };
    } catch {
      turn++;
      return undefined;
    }
  }

  /** The outcome that a response carries, if it carries one. */
  function outcomeIn({
    status,
    problem,
    body,
  }: {
    readonly status: number;
    readonly problem: Problem;
    readonly body: Buffer;
  }): { kind: string; body: Buffer } | undefined {
    if (status === 200) return { kind: 'reply', body };
    // A problem that names its request is that request's outcome, unless it says that it does not know.
    if (problem.requestId === undefined || problem.reason === 'unknown' || problem.code === undefined) return undefined;
    const kind = problem.code === 'timeout' || problem.code === 'cancelled' ? problem.code : 'fault';
    return { kind, body: Buffer.from(JSON.stringify([problem.code, problem.detail])) };
  }

  async function ask({ flow, token, key, waitSeconds = 20, body = {} }: Question): Promise<Told> {
    const giveUpAt = Date.now() + patienceMs;
    const headers = {
      'content-type': 'application/json',
      prefer: `wait=${waitSeconds}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
    };
    for (let first: number | undefined; ; await sleep(restMs)) {
      const operation = history.ask(token, key === undefined ? {} : { key });
      const answer = await said(at(`/requests/${flow}`, { method: 'POST', headers, body: JSON.stringify({ token, ...body }) }));
      first ??= answer?.status ?? 0;
      const told = answer === undefined ? undefined : outcomeIn(answer);
      if (answer?.id !== undefined && told !== undefined) {
        operation.accepted(answer.id);
        operation.outcome(answer.id, told.kind, told.body);
        return { kind: told.kind, id: answer.id, status: first, body: told.body.toString() };
      }
      if (answer?.status === 202) {
        operation.accepted(answer.id!);
        return { ...(await collect(answer.id!, operation, giveUpAt)), status: first };
      }
      if (answer !== undefined && answer.status < 500) throw new Error(`the client is wrong: ${answer.status} ${answer.body.toString()}`);
      const kind = answer === undefined || answer.problem.reason === 'unknown' ? 'unknown' : 'refused';
      operation[kind](answer === undefined ? 'the line broke' : `${answer.status} ${answer.problem.code} ${answer.problem.reason ?? ''}`);
      if (key === undefined || Date.now() > giveUpAt) return { kind, status: first };
    }
  }

  /** Polls until the outcome is there, at whichever hub answers. */
  async function collect(id: string, operation: Operation, giveUpAt: number): Promise<Omit<Told, 'status'>> {
    for (; Date.now() < giveUpAt; await sleep(restMs)) {
      const answer = await said(at(`/requests/${id}/reply`, { headers: { prefer: 'wait=20' } }));
      const told = answer === undefined ? undefined : outcomeIn(answer);
      if (told === undefined) continue;
      operation.outcome(id, told.kind, told.body);
      return { kind: told.kind, id, body: told.body.toString() };
    }
    return { kind: 'gave up', id };
  }

  return {
    ask,
    load(count, next) {
      const told: Told[] = [];
      let isStopping = false;
      let n = 0;
      const client = async () => {
        while (!isStopping) {
          const one = await ask(next(n++));
          told.push(one);
          if (one.kind === 'refused' || one.kind === 'unknown') await sleep(restMs);
        }
      };
      const clients = Promise.all(Array.from({ length: count }, client));
      return {
        answered: () => told.filter(({ kind }) => kind === 'reply').length,
        async stop() {
          isStopping = true;
          await clients;
          return told;
        },
      };
    },
    async close() {
      stopping.abort();
      await dispatcher.destroy();
    },
  };
}

interface Problem {
  readonly code?: string;
  readonly reason?: string;
  readonly requestId?: string;
  readonly detail?: string;
}
