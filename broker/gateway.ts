/**
 * The door that every inbound adapter uses (EIP: Messaging Gateway). An adapter hands in an `Ask` and gets an `Answer`:
 * the outcome, or "accepted, answer later". What those look like on the adapter's protocol is the adapter's business.
 */
import { theRequestor, type Question } from './ask.js';
import { callbackStatus, type Callbacks, type CallbackStatus } from './callback.js';
import type { Clock } from './clock.js';
import type { Principal } from './access.js';
import type { Admission, Refusal } from './admission.js';
import { openAside } from './aside.js';
import { openArrivals, type Arrivals, type LookedAfter } from './arrivals.js';
import type { Control } from './control.js';
import type { Correlator, Hangup } from './correlator.js';
import type { Dossiers } from './dossiers.js';
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import { Fault, messageOf } from './fault.js';
import type { Flow } from './flow.js';
import type { Journal } from './journal.js';
import type { Line } from './line.js';
import { openNews } from './news.js';
import type { Questions } from './questions.js';
import type { Rebuild } from './rebuild.js';
import { openRequests } from './requests.js';
import { outcomeOfFault, type Settler } from './settle.js';
import type { Step } from './step.js';
import type { ForwardAddress, Outcome, Progress, RequestEvent, RequestRecord, RequestState, Store, Turn } from './store.js';
import { openTopics } from './topics.js';
import { openStories, type Reader, type Story } from './story.js';
import type { Person } from './tasks/task.js';
import type { Names } from './topology.js';
import type { Transport } from './transport.js';
import { openWaiting, reachable, rebuilding, statusOf } from './waiting.js';

/** A request as it comes in. Rejections are Faults: nothing happened, unless its reason is `unknown`. */
export interface Ask {
  readonly flow: string;
  readonly principal: Principal;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
  /** How long the requestor stays on the line (ms). Default and maximum: the flow's. 0: answer `accepted` at once. */
  readonly waitMs?: number;
  /** How long the request may live (ms). Default and maximum: the flow's. */
  readonly deadlineMs?: number;
  /** Same key, principal and flow: the same request. With another body: fault `invalid`, reason `idempotency-mismatch`. */
  readonly idempotencyKey?: string;
  /** Business key to find the request by. */
  readonly key?: string;
  /** The outcome is sent there as well, whenever it comes (foreign AMQP requestors). */
  readonly forward?: ForwardAddress;
  /** It takes the place of the principal's older requests to this flow that came with the same text here and have no outcome: they are cancelled. */
  readonly supersedes?: string;
  /** The requestor is called back there with the outcome, whenever it comes: a registered name or an address, as hub.yaml allows. Not with `forward`. */
  readonly callback?: string;
  /** Its place in a conversation. When another request has it: fault `unavailable`, reason `place-taken`. */
  readonly conversation?: Turn;
  /** Parts of the reply are sent to `forward`, too, as they come. */
  readonly hearsParts?: boolean;
  /** Ask for this id (adapters that can derive it from the foreign message, so that a redelivery is the same request). */
  readonly requestId?: string;
  /** The adapter knows that it asked this before and may have died before the broker had it: publish again if that is not known. */
  readonly again?: boolean;
  readonly traceparent?: string;
  readonly tracestate?: string;
  /** AMQP's, 0 to 9. From 5 on it is urgent, where the flow may be. */
  readonly priority?: number;
  /** Aborts when the requestor hangs up: it is no longer held, and the request goes on. */
  readonly signal?: Hangup;
}

export type Answer =
  | {
      readonly kind: 'outcome';
      readonly id: string;
      readonly outcome: Outcome;
      readonly heldMs: number;
      /** Answered from an earlier request of the same key. */ readonly replayed: boolean;
      /** Which version of the reply it is, from 1; absent where late parts amend nothing. */
      readonly version?: number;
      /** The newest version, where this is not it. */
      readonly latest?: number;
    }
  | { readonly kind: 'accepted'; readonly id: string; readonly status: Status; readonly heldMs: number; readonly replayed: boolean };

/** What a requestor may know of its request. */
export interface Status {
  readonly id: string;
  readonly flow: string;
  readonly state: RequestState;
  readonly key?: string;
  readonly conversation?: Turn;
  readonly step?: string;
  readonly attempt?: number;
  readonly waitingOn?: string;
  /** What the requestor is asked, oldest first. */
  readonly questions?: readonly Question[];
  readonly progress?: Progress;
  /** Where its requestor is called back. */
  readonly callback?: string;
  readonly acceptedAt: number;
  readonly updatedAt: number;
  readonly deadline: number;
  /** When it got its outcome. */
  readonly endedAt?: number;
  /** The newest version of a reply that late parts may amend, and until when there may be a further one. */
  readonly version?: number;
  readonly amendableUntil?: number;
}

export interface OneWay {
  readonly flow: string;
  readonly principal: Principal;
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding?: string;
  readonly idempotencyKey?: string;
  readonly key?: string;
  readonly deadlineMs?: number;
  readonly requestId?: string;
  readonly traceparent?: string;
  readonly tracestate?: string;
}

export interface TopicMessage {
  readonly topic: string;
  readonly body: Buffer;
  readonly contentType: string;
  /** When it was published, ms since 1970. */
  readonly at: number;
}

export interface Gateway {
  /** Every flow, for documents and for adapters that make something of each (SOAP operations, folders). */
  readonly flows: readonly Flow[];
  /** Requests that arrive in parts. */
  readonly arrivals: Arrivals;
  /** Sends a request and holds the line. Also throws a Fault for an unknown flow, a wrong body, a missing permission. */
  request(ask: Ask): Promise<Answer>;
  /** One-way: resolves with the id once the broker has confirmed it. */
  send(message: OneWay): Promise<string>;
  /** Where a request is. Undefined when there is none, when it is forgotten, or when it is somebody else's. */
  status(id: string, principal: Principal): Promise<Status | undefined>;
  /** The outcome (of a reply the newest version), waiting up to `waitMs` for it; `accepted` when it is not there yet; undefined as with `status`. */
  collect(id: string, principal: Principal, waitMs: number, signal?: Hangup): Promise<Answer | undefined>;
  /** One version of the outcome, from 1; `none` when there is none of that number; undefined as with `status`. */
  version(id: string, principal: Principal, version: number): Promise<Answer | 'none' | undefined>;
  /**
   * Calls `listener` for each event after `sequence`, first those that were, then those that come, in order, each when it is done with the
   * one before, until the `outcome` event (then resolves), or `signal` aborts. With `toTheLast` until no further version can come. Resolves
   * `false` when there is no such request.
   */
  events(
    id: string,
    principal: Principal,
    sequence: number,
    listener: (event: RequestEvent) => unknown,
    signal: AbortSignal,
    toTheLast?: 'toTheLast',
  ): Promise<boolean>;
  /**
   * Answers a question of a step: `answered`, also when it was before, with the same; `none`: nothing of the kind is asked; undefined as with
   * `status`. Throws a Fault `invalid` when it does not fit the question.
   */
  answer(id: string, principal: Principal, answer: unknown, questionId?: string): Promise<'answered' | 'none' | undefined>;
  /** How far calling back is; undefined when the request has no callback, and as with `status`. */
  callback(id: string, principal: Principal): Promise<CallbackStatus | undefined>;
  /** `cancelled`; `ended` when it has an outcome already; undefined as with `status`. */
  cancel(id: string, principal: Principal): Promise<'cancelled' | 'ended' | undefined>;
  /** The same, by a person whose office it is: of anybody's request. */
  cancelFor(id: string, person: Person): Promise<'cancelled' | 'ended' | undefined>;
  /** What there is to tell people of a request. Undefined as with `status`, or when it is not for them. */
  story(id: string, reader: Reader): Promise<Story | undefined>;
  /** Publishes an event; resolves once the broker has confirmed it. Listeners or not. */
  publish(topic: string, principal: Principal, message: { readonly body: Buffer; readonly contentType: string }): Promise<void>;
  /** Calls `listener` for each event that matches (`*` one word, `#` any number) from now on. Returns how to stop. */
  subscribe(pattern: string, principal: Principal, listener: (message: TopicMessage) => void): Promise<() => Promise<void>>;
  last(topic: string, principal: Principal): Promise<TopicMessage | undefined>;
  /**
   * Why a request that brings work is not taken now, if so: the hub has too much of it. Adapters whose clients push ask once for each, before
   * they read it. Status, replies and cancels are always taken. `before`: so many were let in, and have not begun.
   */
  busy(before?: number): Refusal | undefined;
  /** Why this principal brings too much. `request`, `send` and `publish` look, too. */
  overQuota(principal: Principal): Refusal | undefined;
  /** Ready to take requests; when not, why. */
  ready(): Promise<{ readonly ready: boolean; readonly checks: Readonly<Record<string, string>> }>;
}

export interface GatewayOptions {
  readonly flows: readonly Flow[];
  readonly steps: ReadonlyMap<string, Step>;
  readonly transport: Transport;
  readonly store: Store;
  readonly journal: Journal;
  readonly dossiers: Dossiers;
  readonly control: Control;
  readonly correlator: Correlator;
  readonly settler: Settler;
  readonly rebuild: Rebuild;
  readonly questions: Questions;
  readonly admission: Admission;
  readonly line: Line;
  readonly callbacks: Callbacks | undefined;
  readonly clock: Clock;
  /** Makes the ids of requests and events. */
  readonly newId: () => string;
  readonly names: Names;
  readonly emit: Emit;
  /** This hub's name: its return address is `hub.reply.<hub>`. */
  readonly hub: string;
  /** Requests that this hub holds or publishes at once; more are refused. */
  readonly maxInFlight: number;
  /** Aborts when the hub begins to stop. */
  readonly stopping: AbortSignal;
}

export function openGateway(options: GatewayOptions): Gateway & LookedAfter {
  const { flows, store, correlator, settler, admission, clock, emit, transport, stopping } = options;
  const { request, send, flowFor } = openRequests(options);
  const { recordedWithin, accepted } = openWaiting(options);
  const topics = openTopics(options);
  const stories = openStories(options);
  const news = openNews(options);
  let inFlight = 0;

  /** Runs while counted as in flight, unless this hub or the principal has too much in flight, or the hub stops. */
  async function admitted<T>(principal: Principal, run: () => Promise<T>): Promise<T> {
    if (stopping.aborted)
      throw new Fault('unavailable', 'this hub is stopping: ask again, another hub or this one will answer soon', {
        reason: 'stopping',
        retryAfterMs: 2_000,
      });
    if (!options.rebuild.isComplete()) throw rebuilding();
    if (inFlight >= options.maxInFlight)
      throw new Fault('unavailable', `this hub has ${options.maxInFlight} requests in flight, its limit`, {
        reason: 'busy',
        retryAfterMs: 1_000 + Math.round(Math.random() * 2_000),
      });
    const done = admission.admit(principal);
    inFlight++;
    try {
      return await run();
    } finally {
      inFlight--;
      done();
    }
  }

  /** A record, if it is this principal's. Somebody else's looks like none. */
  async function owned(id: string, principal: Principal): Promise<RequestRecord | undefined> {
    const record = await reachable(store.get(id));
    return record?.principal === principal.name ? record : undefined;
  }

  /** A status that says what the requestor is asked. */
  async function withQuestions(status: Status): Promise<Status> {
    if (status.waitingOn !== theRequestor) return status;
    return { ...status, questions: await reachable(options.questions.open(status.id)) };
  }

  const asked = async (answer: Answer): Promise<Answer> =>
    answer.kind === 'outcome' || answer.status.waitingOn !== theRequestor
      ? answer
      : { ...answer, status: await withQuestions(answer.status) };

  async function collect(id: string, principal: Principal, waitMs: number, signal?: Hangup): Promise<Answer | undefined> {
    const record = await owned(id, principal);
    if (record === undefined) return undefined;
    const began = clock.now();
    const wait = correlator.expect(id, false);
    const letGo = options.line.hold(record.flow, id, record.outcome === undefined ? waitMs : 0);
    try {
      const outcome = await recordedWithin(id, wait, waitMs, signal, async () => undefined);
      const heldMs = clock.now() - began;
      return await newest(
        outcome === undefined ? await asked(await accepted(id, heldMs, false)) : { kind: 'outcome', id, outcome, heldMs, replayed: false },
      );
    } finally {
      wait.close();
      letGo();
    }
  }

  const arrivals = openArrivals({ ...options, flowFor, request, collect, aside: openAside(transport, emit) });

  async function cancelled(record: RequestRecord | undefined, by: string): Promise<'cancelled' | 'ended' | undefined> {
    if (record === undefined) return undefined;
    if (record.outcome !== undefined) return 'ended';
    failpoint('cancel.before-settle');
    const outcome = outcomeOfFault('cancelled', new Fault('cancelled', `cancelled by ${by}`), clock.now());
    return (await reachable(settler.settle(record.id, outcome, false))) === 'won' ? 'cancelled' : 'ended';
  }

  /** The first version: who asks again by the same key gets the same bytes. */
  function first(answer: Answer): Answer | Promise<Answer> {
    return answer.kind === 'outcome' && answer.outcome.amendable !== undefined ? firstOfSome(answer) : answer;
  }

  async function firstOfSome(answer: Extract<Answer, { kind: 'outcome' }>): Promise<Answer> {
    const record = answer.replayed ? await store.get(answer.id).catch(() => undefined) : undefined;
    return { ...answer, version: 1, ...(record?.amended === undefined ? {} : { latest: record.amended.version }) };
  }

  async function newest(answer: Answer): Promise<Answer> {
    if (answer.kind !== 'outcome' || answer.outcome.amendable === undefined) return answer;
    const { outcome, version } = (await reachable(store.amendment(answer.id))) ?? { outcome: answer.outcome, version: 1 };
    return { ...answer, outcome, version };
  }

  return {
    flows,
    lookAfterOpened: arrivals.lookAfterOpened,
    arrivals: {
      ...arrivals,
      open: (opening) => admitted(opening.principal, () => arrivals.open(opening)),
      append: (part) => admitted(part.principal, () => arrivals.append(part)),
      close: (closing) => admitted(closing.principal, () => arrivals.close(closing)),
      take: (taken) => admitted(taken.principal, () => arrivals.take(taken)),
    },
    request: async (ask) => first(await asked(await admitted(ask.principal, () => request(ask)))),
    send: (message) => admitted(message.principal, () => send(message)),
    async status(id, principal) {
      const record = await owned(id, principal);
      return record === undefined ? undefined : withQuestions(statusOf(record));
    },
    collect,
    async version(id, principal, version) {
      const record = await owned(id, principal);
      if (record === undefined) return undefined;
      if (!record.shown || record.outcome === undefined) return 'none';
      const outcome = version === 1 ? record.outcome : (await reachable(store.amendment(id, version)))?.outcome;
      if (outcome === undefined) return 'none';
      const latest = record.amended?.version ?? 1;
      const which = record.outcome.amendable === undefined ? {} : { version, ...(version < latest ? { latest } : {}) };
      return { kind: 'outcome', id, outcome, heldMs: 0, replayed: false, ...which };
    },
    async events(id, principal, sequence, listener, signal, toTheLast) {
      if ((await owned(id, principal)) === undefined) return false;
      await news.follow(id, sequence, listener, signal, toTheLast);
      return true;
    },
    async answer(id, principal, answer, questionId) {
      if ((await owned(id, principal)) === undefined) return undefined;
      return reachable(options.questions.answer(id, answer, questionId));
    },
    callback: (id, principal) => reachable(callbackStatus(store, id, principal)),
    cancel: async (id, principal) => cancelled(await owned(id, principal), principal.name),
    cancelFor: async (id, person) => cancelled(await reachable(store.get(id)), person.name),
    story: stories.of,
    publish: (topic, principal, message) => admitted(principal, () => topics.publish(topic, principal, message)),
    subscribe: topics.subscribe,
    last: topics.last,
    busy(before) {
      const refusal = admission.busy(before);
      if (refusal !== undefined) emit('request.shed');
      return refusal;
    },
    overQuota: admission.overQuota,
    async ready() {
      const [redis, isComplete] = await store.condition().then(
        ({ complete }) => ['ok', complete] as const,
        (error: unknown) => [messageOf(error), false] as const,
      );
      const rabbitmq = transport.state() === 'connected' ? 'ok' : transport.state();
      return {
        ready: redis === 'ok' && rabbitmq === 'ok' && isComplete && !stopping.aborted,
        checks: {
          rabbitmq,
          redis,
          ...(redis === 'ok' && !isComplete ? { state: 'rebuilding' } : {}),
          ...(stopping.aborted ? { hub: 'stopping' } : {}),
        },
      };
    },
  };
}
