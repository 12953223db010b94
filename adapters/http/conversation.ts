/**
 * A conversation: several requests and what becomes of them over one channel, whatever carries it. Nothing of it is kept but the requests'
 * own records, each of which knows its place: request k has an id that derives from the conversation and k. So any hub goes on with it
 * after a drop, from the last frame that the client saw: what comes after that is read from the records.
 *
 * `part`, `reply` and `fault` frames come in the order in which the requests were accepted, each once, and say where they are (`at`); `ask` and
 * `progress` say how things stand, at once, and may come again after a drop.
 */
import type { Principal } from '../../broker/access.js';
import { pause, systemClock } from '../../broker/clock.js';
import { deriveId } from '../../broker/envelope.js';
import { Fault, isFault, messageOf } from '../../broker/fault.js';
import type { Answer, Ask, Gateway } from '../../broker/gateway.js';
import { listOf, partsAfter } from '../../broker/parts.js';
import { theRequestor } from '../../broker/ask.js';
import type { Outcome, RequestEvent } from '../../broker/store.js';
import { bytesOf, follow, jsonText } from './parts.js';
import { faultProblem, httpProblem, outcomeProblem, type Problem } from './problem.js';

/** Where a client is: it has seen everything before part `part` of the request at `place`, and that part. */
export interface Seen {
  readonly place: number;
  readonly part: number;
}

/** `3.7`: part 7 of the third request; `3.end`: its outcome. */
export function readSeen(text: string | null): Seen | undefined {
  if (text === null || text === '') return { place: 1, part: 0 };
  const [, place, part] = /^(\d{1,9})\.(\d{1,15}|end)$/.exec(text) ?? [];
  if (place === undefined) return undefined;
  return part === 'end' ? { place: Number(place) + 1, part: 0 } : { place: Number(place), part: Number(part) };
}

export interface Talking {
  readonly gateway: Gateway;
  readonly principal: Principal;
  readonly flow: string;
  readonly conversation: string;
  readonly seen: Seen;
  /** A request begins when the one before has ended. */
  readonly isOrdered: boolean;
  /** Requests that are open or wait to begin. */
  readonly maxOpen: number;
  /** Sends a frame: an object, or its JSON. Resolves when the client has taken it. */
  readonly send: (frame: object | string) => Promise<void>;
  /** Aborts when the client is gone. */
  readonly gone: AbortSignal;
}

export interface Conversation {
  /** What the client sent. Resolves when it is done with. Never rejects. */
  hear(text: string): Promise<void>;
}

interface Said {
  readonly type?: unknown;
  readonly id?: unknown;
  readonly [name: string]: unknown;
}

/** A request of the conversation, from acceptance to its outcome. */
interface Entry {
  readonly place: number;
  readonly id: string;
  readonly ref: string;
  /** Aborts when everything before it was told. */
  readonly turn: AbortController;
  readonly ended: Promise<void>;
}

const againMs = 1_000;

export async function converse(talking: Talking): Promise<Conversation> {
  const { gateway, principal, flow, conversation, seen, send, gone } = talking;
  const open = new Map<number, Entry>();
  const byRef = new Map<string, Entry>();
  let head = seen.place;
  let next = seen.place;
  let waiting = 0;
  let amending = 0;
  let accepting: Promise<void> = Promise.resolve();

  const idOf = (place: number) => deriveId(conversation, 'conversation', flow, place, principal.name);

  /** Requests that were accepted by another channel, or before a drop. Everything up to the first place that is free. */
  async function learn(): Promise<void> {
    for (; !gone.aborted; next++) {
      const status = await gateway.status(idOf(next), principal);
      if (status === undefined) return;
      enter(next, status.id, status.conversation?.ref ?? '');
    }
  }

  function enter(place: number, id: string, ref: string): void {
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    const entry: Entry = { place, id, ref, turn: new AbortController(), ended };
    open.set(place, entry);
    byRef.set(ref, entry);
    if (place <= head) entry.turn.abort();
    void tellAll(entry).finally(() => {
      end();
      open.delete(place);
      if (byRef.get(ref) === entry) byRef.delete(ref);
      if (place === head && !gone.aborted) open.get(++head)?.turn.abort();
    });
  }

  /** Tells what becomes of a request: how it stands at once, its parts and its outcome when it is its turn. */
  async function tellAll(entry: Entry): Promise<void> {
    const { place, id, ref, turn } = entry;
    const asked = new Set<string>();
    let progressAt = 0;
    const about = { gateway, principal, id };

    const tellQuestions = async () => {
      for (const { id: question, ...rest } of (await gateway.status(id, principal))?.questions ?? []) {
        if (asked.has(question)) continue;
        asked.add(question);
        await send({ type: 'ask', id: ref, question, text: rest.question, ...(rest.schema === undefined ? {} : { schema: rest.schema }) });
      }
    };
    const tellHow = async ({ name, at, data }: RequestEvent) => {
      if (name === 'ask' || (name === 'state' && data['waitingOn'] === theRequestor)) await tellQuestions();
      if (name !== 'progress' || at <= progressAt) return;
      progressAt = at;
      await send({ type: 'progress', id: ref, ...data });
    };

    await follow(about, AbortSignal.any([turn.signal, gone]), tellHow);
    await aborted(AbortSignal.any([turn.signal, gone]));
    const parts = partsAfter(place === seen.place ? seen.part : 0);
    const tellPart = (part: { readonly sequence: number; readonly part: unknown }) =>
      send({ type: 'part', id: ref, at: `${place}.${part.sequence}`, ...part });
    const at = `${place}.end`;
    while (!gone.aborted) {
      await follow(about, gone, async (event) => {
        await tellHow(event);
        const part = parts.next(event);
        if (part !== undefined) await tellPart(part);
      });
      const answer = await answerOf(id);
      if (gone.aborted) return;
      if (answer === 'later') await pause(systemClock, againMs, gone);
      else if (answer === undefined)
        return send({ type: 'fault', id: ref, at, problem: httpProblem('gone', `request ${id} is forgotten`, { requestId: id }) });
      else {
        for (const part of parts.rest(answer.outcome)) await tellPart(part);
        await send(endOf('reply', { id: ref, at, request: id, ...versionOf(answer) }, answer.outcome));
        if (answer.version !== undefined) void tellAmendments(id, ref, answer.version);
        return;
      }
    }
  }

  /** `later`: not there yet, or the store is away. */
  async function answerOf(id: string): Promise<Outcomes | 'later' | undefined> {
    const answer = await gateway.collect(id, principal, 0).catch((): 'later' => 'later');
    return typeof answer === 'string' || answer === undefined || answer.kind === 'outcome' ? answer : 'later';
  }

  /** Tells of the versions after `told`, for as long as there may be any. Of as many replies at a time as requests may be open. */
  async function tellAmendments(id: string, ref: string, told: number): Promise<void> {
    if (amending >= talking.maxOpen) return;
    amending++;
    let last = told;
    const tell = async ({ name, data }: RequestEvent) => {
      if (name !== 'amended' || Number(data['version']) <= last) return;
      const answer = await gateway.version(id, principal, Number(data['version']));
      if (typeof answer !== 'object' || answer.kind !== 'outcome') return;
      await send(endOf('amended', { id: ref, request: id, ...versionOf(answer) }, answer.outcome));
      last = Number(data['version']);
    };
    await follow({ gateway, principal, id }, gone, tell, 'toTheLast').finally(() => amending--);
  }

  /** One after the other, in the order in which they came. */
  function accept(ref: string, said: Said): Promise<void> {
    const known = byRef.get(ref);
    if (known !== undefined) return accepted(known.place, known.id, ref);
    if (open.size + waiting >= talking.maxOpen)
      return refuse(ref, httpProblem('too-many', `${talking.maxOpen} requests of this conversation are open, more are not taken`));
    waiting++;
    accepting = accepting.then(() => enterRequest(ref, said)).finally(() => waiting--);
    return accepting;
  }

  async function enterRequest(ref: string, said: Said): Promise<void> {
    try {
      const known = byRef.get(ref);
      if (known !== undefined) return await accepted(known.place, known.id, ref);
      if (talking.isOrdered) for (const { ended } of [...open.values()]) await ended;
      if (gone.aborted) return;
      const busy = gateway.busy();
      if (busy !== undefined) return await refuse(ref, httpProblem('overloaded', busy.detail));
      const body = bodyIn(said);
      for (;;) {
        const answer = await ask(ref, said, body);
        if (answer === undefined) continue;
        const place = answer.id === idOf(next) ? next : ((await gateway.status(answer.id, principal))?.conversation?.place ?? 0);
        await accepted(place, answer.id, ref);
        // One that the client has had the outcome of is told once more.
        enter(place, answer.id, ref);
        if (place === next) next++;
        return;
      }
    } catch (error) {
      await refuse(ref, problemOf(error));
    }
  }

  /** Undefined: the place was taken meanwhile, and what is there is told. */
  async function ask(ref: string, said: Said, body: Pick<Ask, 'body' | 'contentType'>): Promise<Answer | undefined> {
    try {
      return await gateway.request({
        flow,
        principal,
        ...body,
        ...(typeof said['key'] === 'string' ? { key: said['key'] } : {}),
        ...(typeof said['deadline'] === 'number' && said['deadline'] > 0 ? { deadlineMs: said['deadline'] * 1_000 } : {}),
        waitMs: 0,
        requestId: idOf(next),
        idempotencyKey: `conversation/${conversation}/${ref}`,
        conversation: { id: conversation, place: next, ref },
      });
    } catch (error) {
      if (!isFault(error) || error.reason !== 'place-taken') throw error;
      await learn();
      return undefined;
    }
  }

  const accepted = (place: number, request: string, ref: string) => send({ type: 'accepted', id: ref, place, request });
  const refuse = (ref: string | undefined, problem: Problem) =>
    send({ type: 'refused', ...(ref === undefined ? {} : { id: ref }), problem });

  async function answer(entry: Entry, { answer: given, question }: Said): Promise<void> {
    const said = await gateway.answer(entry.id, principal, given, typeof question === 'string' ? question : undefined);
    if (said === 'answered') return send({ type: 'answered', id: entry.ref, ...(typeof question === 'string' ? { question } : {}) });
    return refuse(entry.ref, httpProblem('not-asked', 'it asks nothing of the kind now', { requestId: entry.id }));
  }

  async function hear(text: string): Promise<void> {
    const said = saidIn(text);
    const ref = said?.id;
    if (said === undefined || typeof ref !== 'string' || !/^[\x20-\x7e]{1,200}$/.test(ref))
      return refuse(
        undefined,
        httpProblem('bad-request', 'a message is a JSON object with type, and id: 1 to 200 printable ASCII characters'),
      );
    if (said.type === 'request') return accept(ref, said);
    if (said.type !== 'answer' && said.type !== 'cancel')
      return refuse(ref, httpProblem('bad-request', 'type is request, answer or cancel'));
    const entry = byRef.get(ref);
    if (entry === undefined) return refuse(ref, httpProblem('not-found', `no request ${ref} is open in this conversation`));
    try {
      if (said.type === 'answer') await answer(entry, said);
      else await gateway.cancel(entry.id, principal); // what became of it follows
    } catch (error) {
      await refuse(ref, problemOf(error));
    }
  }

  // Nobody is told that it goes on while it cannot: the store may be away.
  await gateway.status(idOf(next), principal);
  await send({ type: 'open', conversation, flow });
  await learn();
  return { hear };
}

type Outcomes = Extract<Answer, { kind: 'outcome' }>;

const versionOf = ({ version }: Outcomes) => (version === undefined ? {} : { version });

interface Told {
  readonly id: string;
  readonly request: string;
  readonly at?: string;
  readonly version?: number;
}

function endOf(type: 'reply' | 'amended', about: Told, outcome: Outcome): object | string {
  if (outcome.kind !== 'reply') return { type: 'fault', ...about, problem: outcomeProblem(outcome, about.request) };
  if (listOf(outcome) !== undefined) return { type, ...about, parts: outcome.parts };
  const text = jsonText(outcome);
  if (text === undefined) return { type, ...about, ...bytesOf(outcome) };
  return `${JSON.stringify({ type, ...about }).slice(0, -1)},"body":${text}}`;
}

function saidIn(text: string): Said | undefined {
  try {
    const said: unknown = JSON.parse(text);
    return typeof said === 'object' && said !== null && !Array.isArray(said) ? (said as Said) : undefined;
  } catch {
    return undefined;
  }
}

/** `body` is JSON; `base64` and `contentType` are anything. */
function bodyIn({ body, base64, contentType }: Said): Pick<Ask, 'body' | 'contentType'> {
  if (base64 === undefined) return { body: Buffer.from(JSON.stringify(body ?? null)), contentType: 'application/json' };
  if (typeof base64 !== 'string' || typeof contentType !== 'string' || !/^[\x20-\x7e]{1,255}$/.test(contentType))
    throw new Fault('invalid', 'base64 needs a contentType, and both are texts');
  return { body: Buffer.from(base64, 'base64'), contentType };
}

const problemOf = (error: unknown): Problem =>
  isFault(error) ? faultProblem(error, error.requestId) : httpProblem('error', `the hub failed: ${messageOf(error)}`);

const aborted = (signal: AbortSignal): Promise<void> =>
  signal.aborted ? Promise.resolve() : new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
