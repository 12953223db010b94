/**
 * Clients of the HTTP adapter as they are outside: they ask, are answered, told to come back, refused or cut off, and write down
 * which. They come back until they know the outcome.
 */
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request as sendOut } from 'undici';
import type { AskNote, History, Operation } from './history.js';

export interface Question {
  readonly flow: string;
  readonly token: string;
  /** `Idempotency-Key`: asked again, elsewhere, until there is an outcome. */
  readonly key?: string;
  /** How long it stays on the line; 0: not at all, it polls. */
  readonly waitSeconds?: number;
  readonly deadlineSeconds?: number;
  readonly body?: Readonly<Record<string, unknown>>;
  /** It may interrupt jobs. */
  readonly urgent?: boolean;
  /** Nobody waits for the answer. */
  readonly oneWay?: boolean;
  /** Asked without holding, and then cancelled. */
  readonly cancel?: boolean;
  /** Afterwards the same key is tried with another body, which must be refused. */
  readonly misuse?: boolean;
}

export interface Clients {
  /** Resolves when the question's story is over: outcome, refusal, or (without a key) a broken line. */
  ask(question: Question): Promise<Told>;
  /** Asks without staying on the line, again (with its key) until it is accepted. Resolves with how to come back for the outcome. */
  begin(question: Question): Promise<() => Promise<Told>>;
  /** `count` clients that ask one thing after the other until they are told to stop, or until `limit` questions are asked. */
  load(count: number, next: (n: number) => Question, limit?: number): Load;
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
  /** How many stories are over. */
  told(): number;
  /** Resolves when the limit is reached, and every story is over. */
  readonly ended: Promise<readonly Told[]>;
  /** Lets every client end its story; resolves with all of them. */
  stop(): Promise<readonly Told[]>;
}

export interface ClientsOptions {
  readonly history: History;
  /** The hubs that there are now: clients go to the first, and to the next when that one breaks the line or is about to stop. */
  readonly hubs: () => readonly { readonly url: string }[];
  /** How long a client comes back before it gives up. */
  readonly patienceMs?: number;
}

/** How long a client waits for an answer on one line. Longer than any hold. */
const lineMs = 65_000;
/** Clients rest before they come back. */
const restMs = 50;

interface Said {
  readonly status: number;
  readonly id: string | undefined;
  readonly body: Buffer;
  readonly problem: Problem;
  readonly retryAfter: string | undefined;
  /** A further version of a reply. */
  readonly isAmended?: boolean;
}

/** Nobody listens there: what was asked has not been heard, which is as good as a refusal. */
const nobody: Said = { status: 503, id: undefined, body: Buffer.alloc(0), problem: { code: 'nobody-listens' }, retryAfter: '1' };

interface Sent {
  readonly method?: 'POST' | 'DELETE';
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

export function openClients({ history, hubs, patienceMs = 90_000 }: ClientsOptions): Clients {
  const dispatcher = new Agent({
    connections: null,
    pipelining: 1,
    headersTimeout: lineMs,
    bodyTimeout: lineMs,
    connect: { timeout: 5_000 },
  });
  const stopping = new AbortController();
  setMaxListeners(0, stopping.signal); // as many as there are requests on their way
  let turn = 0;

  /** The hub that all go to now. */
  const present = () => {
    const all = hubs();
    return all[turn % all.length];
  };
  /** Whoever breaks the line, or says that it is about to stop, is left: everybody goes to the next. */
  const leave = (hub: string) => {
    if (present()?.url === hub) turn++;
  };

  /** One try: what the hub said; undefined when the line broke. */
  async function said(path: string, init?: Sent): Promise<Said | undefined> {
    const hub = present()?.url;
    if (hub === undefined) return nobody;
    try {
      // Not `fetch`, which takes half of a processor that hubs and workers want, too.
      const answer = await sendOut(hub + path, { ...init, dispatcher, signal: stopping.signal });
      const body = Buffer.from(await answer.body.arrayBuffer());
      const header = (name: string) => answer.headers[name]?.toString();
      const isProblem = header('content-type')?.startsWith('application/problem+json') === true;
      const problem: Problem = isProblem ? (JSON.parse(body.toString()) as Problem) : {};
      if (problem.code === 'stopping' || problem.reason === 'stopping') leave(hub);
      return {
        status: answer.statusCode,
        id: header('hub-request-id'),
        body,
        problem,
        retryAfter: header('retry-after'),
        isAmended: Number(header('hub-reply-version') ?? 1) > 1,
      };
    } catch (error) {
      leave(hub);
      return (error as { code?: string }).code === 'ECONNREFUSED' ? nobody : undefined;
    }
  }

  const post = (path: string, { token, key, deadlineSeconds, urgent = false, body = {} }: Question, waitSeconds?: number) =>
    said(path, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(waitSeconds === undefined ? {} : { prefer: `wait=${waitSeconds}` }),
        ...(key === undefined ? {} : { 'idempotency-key': key }),
        ...(deadlineSeconds === undefined ? {} : { 'hub-deadline': String(deadlineSeconds) }),
        ...(urgent ? { 'hub-priority': 'urgent' } : {}),
      },
      body: JSON.stringify({ token, ...body }),
    });

  async function ask(question: Question): Promise<Told> {
    const told = question.oneWay === true ? await send(question) : await request(question);
    if (question.misuse === true && question.key !== undefined && told.id !== undefined) await misuse(question);
    return told;
  }

  async function request(question: Question): Promise<Told> {
    const { flow, token, key, cancel = false, waitSeconds = cancel ? 0 : 20 } = question;
    const giveUpAt = Date.now() + patienceMs;
    for (let first: number | undefined; ; await sleep(restMs)) {
      const operation = history.ask(token, noteOf(question));
      const answer = await post(`/requests/${flow}`, question, waitSeconds);
      first ??= answer?.status ?? 0;
      const told = answer === undefined ? undefined : outcomeIn(answer);
      if (answer?.id !== undefined && told !== undefined) {
        operation.accepted(answer.id);
        operation.outcome(answer.id, told.kind, told.body);
        return { kind: told.kind, id: answer.id, status: first, body: told.body.toString() };
      }
      if (answer?.status === 202) {
        operation.accepted(answer.id!);
        if (cancel) await cancelIt(answer.id!, operation);
        return { ...(await collect(answer.id!, operation, giveUpAt)), status: first };
      }
      const kind = ended(operation, answer);
      if (key === undefined || Date.now() > giveUpAt || stopping.signal.aborted) return { kind, status: first };
    }
  }

  async function begin(question: Question): Promise<() => Promise<Told>> {
    for (; ; await sleep(restMs)) {
      const operation = history.ask(question.token, noteOf(question));
      const answer = await post(`/requests/${question.flow}`, question, 0);
      if (answer?.status === 202) {
        const { id = '', status } = answer;
        operation.accepted(id);
        return async () => ({ ...(await collect(id, operation, Date.now() + patienceMs)), status });
      }
      const kind = ended(operation, answer);
      if (question.key === undefined) throw new Error(`${question.token} was ${kind}`);
    }
  }

  /** One-way: told again under its key until the hub has it. */
  async function send(question: Question): Promise<Told> {
    const giveUpAt = Date.now() + patienceMs;
    for (let first: number | undefined; ; await sleep(restMs)) {
      const operation = history.ask(question.token, { ...noteOf(question), oneWay: true });
      const answer = await post(`/messages/${question.flow}`, question);
      first ??= answer?.status ?? 0;
      if (answer?.status === 202) {
        operation.accepted(answer.id!);
        return { kind: 'sent', id: answer.id!, status: first };
      }
      const kind = ended(operation, answer);
      if (question.key === undefined || Date.now() > giveUpAt || stopping.signal.aborted) return { kind, status: first };
    }
  }

  /** An operation ends without a promise. A client that asks wrongly is a mistake of the test. */
  function ended(operation: Operation, answer: Said | undefined): 'refused' | 'unknown' {
    if (answer !== undefined && answer.status < 500 && answer.status !== 429)
      throw new Error(`the client is wrong: ${answer.status} ${answer.body.toString()}`);
    const kind = answer === undefined || answer.problem.reason === 'unknown' ? 'unknown' : 'refused';
    operation[kind](answer === undefined ? 'the line broke' : reasonOf(answer));
    return kind;
  }

  /** The same key with another body: 422, whatever else is going on. */
  async function misuse(question: Question): Promise<void> {
    const other = { ...question, token: `${question.token} misused` };
    const path = question.oneWay === true ? `/messages/${question.flow}` : `/requests/${question.flow}`;
    for (let tries = 0; tries < 100; tries++, await sleep(restMs)) {
      const operation = history.ask(other.token, noteOf(question));
      const answer = await post(path, other, question.oneWay === true ? undefined : 0);
      if (answer === undefined || answer.status >= 500) {
        ended(operation, answer);
        continue;
      }
      if (answer.status === 422 && answer.problem.reason === 'idempotency-mismatch') return operation.refused('422 idempotency-mismatch');
      operation.accepted(answer.id ?? '');
      return operation.unknown(`another body under a used key was answered ${answer.status}`);
    }
  }

  async function cancelIt(id: string, operation: Operation): Promise<void> {
    for (let tries = 0; tries < 100; tries++, await sleep(restMs)) {
      const answer = await said(`/requests/${id}`, { method: 'DELETE' });
      if (answer?.status === 200) operation.status(id, (JSON.parse(answer.body.toString()) as { state: string }).state);
      if (answer?.status === 404 || answer?.status === 410) operation.missing(`${answer.status} when it was cancelled`);
      if (answer !== undefined && answer.status < 500) return;
    }
  }

  /** Polls until the outcome is there, at whichever hub answers; looks at the status now and then. */
  async function collect(id: string, operation: Operation, giveUpAt: number): Promise<Omit<Told, 'status'>> {
    for (let looks = 0; Date.now() < giveUpAt && !stopping.signal.aborted; looks++, await sleep(restMs)) {
      if (looks < 3) await look(id, operation);
      const newest = await said(`/requests/${id}/reply`, { headers: { prefer: 'wait=20' } });
      // The outcome is the first version of a reply.
      const answer = newest?.isAmended === true ? await said(`/requests/${id}/reply?version=1`) : newest;
      if (answer?.status === 404 || answer?.status === 410) {
        operation.missing(`${answer.status} when it was collected`);
        return { kind: 'missing', id };
      }
      const told = answer === undefined ? undefined : outcomeIn(answer);
      if (told === undefined) continue;
      await look(id, operation);
      operation.outcome(id, told.kind, told.body);
      return { kind: told.kind, id, body: told.body.toString() };
    }
    return { kind: 'gave up', id };
  }

  async function look(id: string, operation: Operation): Promise<void> {
    const answer = await said(`/requests/${id}`);
    if (answer?.status === 200) operation.status(id, (JSON.parse(answer.body.toString()) as { state: string }).state);
  }

  return {
    ask,
    begin,
    load(count, next, limit = Infinity) {
      const told: Told[] = [];
      let isStopping = false;
      let n = 0;
      let answered = 0;
      const client = async () => {
        while (!isStopping && n < limit && !stopping.signal.aborted) {
          const one = await ask(next(n++));
          told.push(one);
          if (one.kind === 'reply') answered++;
          if (one.kind === 'refused' || one.kind === 'unknown') await sleep(restMs);
        }
      };
      const ended = Promise.all(Array.from({ length: count }, client)).then(() => told);
      return {
        answered: () => answered,
        told: () => told.length,
        ended,
        stop() {
          isStopping = true;
          return ended;
        },
      };
    },
    async close() {
      stopping.abort();
      await dispatcher.destroy();
    },
  };
}

const noteOf = ({ key, deadlineSeconds }: Question): AskNote => ({
  ...(key === undefined ? {} : { key }),
  ...(deadlineSeconds === undefined ? {} : { deadlineMs: deadlineSeconds * 1_000 }),
});

/** The outcome that a response carries, if it carries one. */
function outcomeIn({ status, problem, body }: Said): { readonly kind: string; readonly body: Buffer } | undefined {
  if (status === 200) return { kind: 'reply', body };
  // A problem that names its request is that request's outcome, unless it says that it does not know.
  if (problem.requestId === undefined || problem.reason === 'unknown' || problem.code === undefined) return undefined;
  return outcomeOfFault(problem.code, problem.detail);
}

const reasonOf = ({ status, problem, retryAfter }: Said): string =>
  [status, problem.code, problem.reason ?? '', ...(status === 503 && retryAfter === undefined ? ['without Retry-After'] : [])].join(' ');

/** A fault as all kinds of clients write it down. */
export const outcomeOfFault = (code: string, detail: string | undefined): { readonly kind: string; readonly body: Buffer } => ({
  kind: code === 'timeout' || code === 'cancelled' ? code : 'fault',
  body: Buffer.from(JSON.stringify([code, detail])),
});

interface Problem {
  readonly code?: string;
  readonly reason?: string;
  readonly requestId?: string;
  readonly detail?: string;
}
