/**
 * A step: a queue and what serves it (EIP: Service Activator, Splitter, Router, Content Enricher). A handler takes data
 * and returns data; it never acknowledges and never publishes: the runner turns what it returns into messages.
 */
import { isAsking, putQuestion, talkOf, type Question, type Turn } from './ask.js';
import type { Clock } from './clock.js';
import type { Control } from './control.js';
import type { Dossiers, Withdrawn } from './dossiers.js';
import type { Emit } from './emit.js';
import { deriveId, type Envelope } from './envelope.js';
import { Fault, messageOf } from './fault.js';
import type { Jobs } from './jobs.js';
import type { Later } from './later.js';
import type { Progress, Store } from './store.js';
import type { Address, Message } from './transport.js';
import { partsHeader, type Part } from './parts.js';

export interface StepContext {
  /** Aborts on time-out, on cancellation of the request, and when the process stops. Pass it on. */
  readonly signal: AbortSignal;
  /** Tells watchers how far the work is. Cheap, never throws, at most 4 a second are shown. */
  progress(progress: Progress): void;
  /** What is left of the request's life, ms. */
  remainingMs(): number;
  /** What the requestor was asked by this step, and answered; see `ask()`. */
  readonly answers: readonly Turn[];
  /** What the last `ask()` of this step kept. */
  readonly kept: unknown;
}

/** `body` is parsed when its content type is JSON, else the untouched Buffer. */
export type Handle<Body = never> = (body: Body, envelope: Envelope, context: StepContext) => unknown;

export interface WorkerOptions<Body> {
  /** The step's name: its queue is `hub.work.<name>`. Lower case, digits, dots, hyphens. */
  readonly name: string;
  /** Returns a body (an object as JSON, a string as text, a Buffer, or `raw()`), `split()`, `route()`; throws a `Fault` for the requestor to know. */
  readonly handle: Handle<Body>;
  /** One sentence for the RabbitMQ UI and the documents. */
  readonly summary?: string;
  /** How long one attempt may take. Default 30 s. */
  readonly timeoutMs?: number;
  /** Pauses before each further attempt; their number + 1 is the number of attempts. Default 1 s, 5 s, 30 s. */
  readonly retry?: readonly Pause[];
  /** How many requests one process works on at once. Default 100. */
  readonly concurrency?: number;
  /** True: it may return `ask()`. Requests of its flows have a record from the start. */
  readonly asks?: boolean;
}

/** A pause with its unit: `200ms`, `5s`, `1m`, `2h`, `3d`. */
export type Pause = `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

const kinds = ['worker', 'aggregator', 'foreign', 'job', 'task', 'timer', 'webhook'] as const;

/** What every kind of step is to the runner. Kinds live in `workers/` and adapters; the runner knows only this. */
export interface Step {
  readonly kind: (typeof kinds)[number];
  readonly name: string;
  /** One sentence, shown in the RabbitMQ UI. */
  readonly summary: string;
  readonly timeoutMs: number;
  readonly retry: readonly Pause[];
  /** How many deliveries one process works on at once. */
  readonly concurrency: number;
  /** Aggregators only: how long a group may take; how long nothing may come before it is complete. */
  readonly gatherMs?: number;
  readonly quietMs?: number;
  /** True: its work may outlive its delivery, as a dossier. Requests of its flows have a record from the start. */
  readonly parks?: boolean;
  /** By kind of its dossiers: what becomes of one when nobody wants its work any more. */
  readonly withdrawn?: Readonly<Record<string, Withdrawn>>;
  /** One attempt. Absent on foreign steps: a program of somebody else consumes `hub.work.<name>` and answers on `reply_to`. */
  readonly run?: (envelope: Envelope, tools: StepTools) => Promise<Verdict>;
  /** What the step does beside its deliveries, in each process that serves it: for as long as that runs. */
  readonly serve?: (tools: ServeTools) => Promise<Served>;
  /** The step as it is when this file exports it by this name, so that a thread can load it. */
  readonly exported?: (file: string, name: string) => Step;
  /** Frees what the step holds (connection pools), when the process stops. */
  readonly close?: () => Promise<void>;
}

/** What a kind of step may use beside the handler's context. */
export interface StepTools extends StepContext {
  /** Shows a part of what the step yields; resolves once that is done, as far as it can be. */
  readonly part: (part: Part) => Promise<void>;
  /** Tells a foreign requestor what it is asked; nobody else. */
  readonly tellQuestion: (envelope: Envelope, question: Question) => Promise<void>;
  readonly store: Store;
  readonly later: Later;
  readonly jobs: Jobs;
  readonly dossiers: Dossiers;
  /** Publishes an event; `id`: the same event, however often. */
  readonly announce: (topic: string, id: string, data: unknown) => Promise<void>;
  readonly clock: Clock;
  /** Where messages for a step go. */
  readonly addressOf: (step: string) => Address;
  /** Tells every worker to drop what belongs to this request or group. */
  readonly drop: (id: string) => Promise<void>;
  /** The store has this part for good: if it waited for long, the journal is told so. */
  readonly absorbed: (envelope: Envelope) => Promise<void>;
  /** Until when late parts may amend the result of the group that this message is of, ms since 1970; undefined: never. */
  readonly amendsUntil: (envelope: Envelope) => number | undefined;
  /** Writes to the journal that something came too late to count. */
  readonly late: (envelope: Envelope) => Promise<void>;
  /** Whether anybody may see where the request is. */
  readonly isWatched: boolean;
  /** Tells watchers of a recorded request what it waits for. */
  readonly report: Store['report'];
}

/** What a step may use that works beside its deliveries. */
export interface ServeTools extends Pick<StepTools, 'store' | 'jobs' | 'dossiers' | 'clock'> {
  readonly control: Control;
  readonly emit: Emit;
  /** `<host>/<pid>` */
  readonly place: string;
}

export interface Served {
  /** Takes no more, lets what runs end within so long, and gives back what does not. */
  stop(withinMs: number): Promise<void>;
}

/** What becomes of a message, once its step has run. */
export type Verdict =
  | {
      readonly go: 'on';
      readonly body: Buffer;
      readonly contentType: string;
      readonly contentEncoding?: string;
      readonly slip?: readonly string[];
      readonly change?: Partial<Envelope>;
      /** Runs once the broker has the next message. */ readonly afterwards?: () => Promise<void>;
    }
  | {
      readonly go: 'apart';
      readonly parts: readonly SplitPart[];
      readonly into?: string;
      /** Of which message they are the parts, if not of this one. */ readonly of?: string;
      readonly afterwards?: () => Promise<void>;
    }
  /** The same as throwing it, for a step whose work outlived its delivery: under an id of its own, and `dead` is the letter that is left behind. */
  | {
      readonly go: 'fault';
      readonly fault: Fault;
      readonly id: string;
      readonly dead?: Message;
      readonly afterwards: () => Promise<void>;
    }
  /** Nothing follows from this message: it was absorbed. */
  | { readonly go: 'nowhere' };

const stepName = /^[a-z][a-z0-9]*([.-][a-z0-9]+)*$/;

/** Refuses a name that would not make a readable queue name. */
export function checkStepName(name: string): string {
  if (stepName.test(name) && name.length <= 100) return name;
  throw new TypeError(`step name ${JSON.stringify(name)}: use lower case letters, digits, dots and hyphens, as in "credit.score"`);
}

/** Defines a step that works on one message at a time. */
export function worker<Body>(options: WorkerOptions<Body>): Step {
  const handle = options.handle as Handle;
  return {
    kind: 'worker',
    name: checkStepName(options.name),
    summary: options.summary ?? `Requests that wait for a worker of ${options.name}`,
    timeoutMs: options.timeoutMs ?? 30_000,
    retry: checkPauses(options.retry ?? ['1s', '5s', '30s']),
    concurrency: options.concurrency ?? 100,
    ...(options.asks === true ? { parks: true, run: conversing(handle) } : { run: (envelope, tools) => handled(handle, envelope, tools) }),
  };
}

async function handled(handle: Handle, envelope: Envelope, tools: StepTools): Promise<Verdict> {
  return verdictOn(await handle(bodyOf(envelope), envelope, tools), tools.part);
}

/** What follows from what a handler returned that may not ask. */
export function verdictOn(said: unknown, part: ShowPart): Verdict | Promise<Verdict> {
  if (isAsking(said)) throw new TypeError('it returned ask() and does not say that it may: worker({ asks: true, … })');
  return isGenerator(said) ? gathered(said, part) : verdictOf(said);
}

/** A step that may ask the requestor, and is called again with the answer. */
function conversing(handle: Handle): NonNullable<Step['run']> {
  return async (envelope, tools) => {
    const { dossiers, report, tellQuestion, clock } = tools;
    const dossier = envelope.type === 'event' ? await dossiers.rung(envelope) : undefined;
    const talk = dossier?.isOpen === true ? talkOf(dossier) : undefined;
    // Rung before the answer: whoever asked may have died before the question was told.
    if (envelope.type === 'event' && dossier !== undefined && talk?.open !== undefined) {
      await tellQuestion(dossiers.envelopeOf(dossier), talk.open);
      return { go: 'nowhere' };
    }
    // Rung after all is done.
    if (envelope.type === 'event' && (talk === undefined || dossier === undefined)) return { go: 'nowhere' };
    const asked = dossier === undefined ? envelope : { ...dossiers.envelopeOf(dossier), attempt: envelope.attempt };
    const context =
      talk === undefined ? tools : (Object.assign(Object.create(tools), { answers: talk.turns, kept: talk.kept }) as StepTools);
    const said = await handle(bodyOf(asked), asked, context);
    if (isAsking(said)) {
      await putQuestion(said, asked, dossier, { dossiers, report, tellQuestion, now: clock.now() });
      return { go: 'nowhere' };
    }
    const verdict = isGenerator(said) ? await gathered(said, tools.part) : verdictOf(said);
    if (dossier === undefined || verdict.go === 'nowhere') return verdict;
    const afterwards = () => dossiers.close(dossier);
    const [step = ''] = asked.slip;
    return verdict.go === 'on'
      ? { ...verdict, change: { ...verdict.change, id: deriveId(asked.id, step, 0) }, afterwards }
      : { ...verdict, afterwards };
  };
}

/** A step that somebody else's program serves. */
export function foreign(name: string, summary = `Requests that wait for a program that answers on reply_to`): Step {
  return { kind: 'foreign', name: checkStepName(name), summary, timeoutMs: 0, retry: [], concurrency: 1 };
}

const checkPauses = (pauses: readonly Pause[]): readonly Pause[] => (pauses.forEach(pauseMs), pauses);

const isJson = (contentType: string): boolean => /^application\/(?:[\w.+-]+\+)?json\b/i.test(contentType);

/** The body as a handler sees it: parsed when it says it is JSON, else the Buffer. */
export function bodyOf(message: Pick<Envelope, 'body' | 'contentType' | 'contentEncoding'>): never {
  if (!isJson(message.contentType) || message.contentEncoding !== undefined) return message.body as never;
  try {
    return (message.body.length === 0 ? undefined : JSON.parse(message.body.toString('utf8'))) as never;
  } catch (cause) {
    throw new Fault('invalid', `the body says it is ${message.contentType} and is not: ${messageOf(cause)}`, { cause });
  }
}

type ShowPart = (part: Part) => Promise<void> | void;

/** Each value is shown as it comes, before the next is asked for; the slip goes on with all of them. */
async function gathered(values: AsyncGenerator, part: ShowPart): Promise<Verdict> {
  const all: unknown[] = [];
  for await (const one of values) await part({ sequence: all.push(one), part: one ?? null });
  return { go: 'on', ...written(all), change: { extra: partsHeader(all.length) } };
}

/** What a handler returned, as a verdict. */
function verdictOf(value: unknown): Verdict {
  switch (markOf(value)) {
    case 'split': {
      const { parts, into } = value as Split;
      return { go: 'apart', parts, ...(into === undefined ? {} : { into }) };
    }
    case 'route': {
      const { body, steps } = value as Route;
      return { go: 'on', ...written(body), slip: steps };
    }
    default:
      return { go: 'on', ...written(value) };
  }
}

/** A value as a message body with its content type. A Buffer is not copied: whoever returns it leaves it as it is. */
export function written(value: unknown): { body: Buffer; contentType: string; contentEncoding?: string } {
  if (markOf(value) === 'raw') {
    const { body, contentType, contentEncoding } = value as Raw;
    return { body, contentType, ...(contentEncoding === undefined ? {} : { contentEncoding }) };
  }
  if (Buffer.isBuffer(value)) return { body: value, contentType: 'application/octet-stream' };
  if (value instanceof Uint8Array) return { body: Buffer.from(value), contentType: 'application/octet-stream' };
  if (typeof value === 'string') return { body: Buffer.from(value), contentType: 'text/plain; charset=utf-8' };
  return { body: Buffer.from(JSON.stringify(value ?? null)), contentType: 'application/json' };
}

const isGenerator = (value: unknown): value is AsyncGenerator =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value && 'return' in value;

/** True for what `worker()`, `aggregator()` and the outbound adapters make: how the exports of `workers/` are found. */
export function isStep(value: unknown): value is Step {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, name } = value as { kind?: unknown; name?: unknown };
  return typeof name === 'string' && (kinds as readonly unknown[]).includes(kind);
}

const milliseconds = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `200ms` → 200. */
export function pauseMs(pause: string): number {
  const [, count, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(pause) ?? [];
  if (count === undefined || unit === undefined)
    throw new TypeError(`pause ${JSON.stringify(pause)}: write a number and ms, s, m, h or d, as in "5s"`);
  return Math.round(Number(count) * milliseconds[unit as keyof typeof milliseconds]);
}

// What a handler may return beside a body.

const verdict = Symbol.for('answerback.verdict');

export interface SplitPart {
  readonly body: unknown;
  /** Steps of this part alone, before those that follow in the slip. */
  readonly steps?: readonly string[];
  /** Name in the manifest. Default: the first of `steps`, or the index. */
  readonly name?: string;
}

export interface Split {
  readonly [verdict]: 'split';
  readonly parts: readonly SplitPart[];
  readonly into: string | undefined;
}

export interface Route {
  readonly [verdict]: 'route';
  readonly body: unknown;
  readonly steps: readonly string[];
}

export interface Raw {
  readonly [verdict]: 'raw';
  readonly body: Buffer;
  readonly contentType: string;
  readonly contentEncoding: string | undefined;
}

/** One message per part (EIP: Splitter, Recipient List); the next aggregator of the slip (or `into`) collects them. */
export function split(parts: readonly SplitPart[], options: { readonly into?: string } = {}): Split {
  return { [verdict]: 'split', parts, into: options.into };
}

/** Replaces the rest of the slip (EIP: Content-Based Router). */
export function route(body: unknown, steps: readonly string[]): Route {
  return { [verdict]: 'route', body, steps };
}

/** A body with its own content type, passed through untouched. */
export function raw(body: Buffer, contentType: string, contentEncoding?: string): Raw {
  return { [verdict]: 'raw', body, contentType, contentEncoding };
}

function markOf(value: unknown): 'split' | 'route' | 'raw' | undefined {
  return typeof value === 'object' && value !== null ? (value as Partial<Split>)[verdict] : undefined;
}
