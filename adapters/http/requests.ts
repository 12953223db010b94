/** `/requests` and `/messages`: a request in, its outcome out, now or later. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { timeOfId, urgentPriority } from '../../broker/envelope.js';
import { Fault, messageOf } from '../../broker/fault.js';
import type { Principal } from '../../broker/access.js';
import type { Answer, Gateway, Status } from '../../broker/gateway.js';
import { refusalOf, type OpenedStatus } from '../../broker/opened.js';
import type { People } from '../../broker/people.js';
import type { Role } from '../../broker/tasks/task.js';
import { callback, headerValue, isUrgent, matches, partCount, readHeaders, supersedes, unformed } from './headers.js';
import { sendJson } from './json.js';
import { lastPart, lineType, streamReply } from './parts.js';
import { holdMs, preferenceApplied, readPrefer, type Preferences } from './prefer.js';
import { httpProblem, outcomeProblem, sendProblem, thrownProblem, type Problem } from './problem.js';
import { bodyOf, parameter, visitOf, type Handler } from './server.js';
import {
  callbackDocument,
  etagOf,
  iso,
  openedStatusDocument,
  retryAfterSeconds,
  statusDocument,
  storyDocument,
  versionTag,
} from './status.js';
import { eventStream, type EventStream } from './stream.js';

interface Needs {
  readonly gateway: Gateway;
  readonly people?: People | undefined;
  /** How long an ended request is remembered (ms). */
  readonly retention: number;
  readonly pingMs: number;
  /** Every open event stream, so that the server can end them. */
  readonly streams: Set<EventStream>;
}

export interface RequestHandlers {
  readonly ask: Handler;
  readonly open: Handler;
  readonly append: Handler;
  readonly close: Handler;
  readonly send: Handler;
  readonly status: Handler;
  readonly reply: Handler;
  readonly events: Handler;
  readonly callback: Handler;
  readonly cancel: Handler;
  readonly story: Handler;
  readonly answer: Handler;
}

/** No wish. */
const none: Preferences = { respondAsync: false };

/** Whose office it is to cancel anybody's request. */
const mayCancel = (role: Role): boolean => role === 'operator' || role === 'admin';

export function requestHandlers({ gateway, people, retention, pingMs, streams }: Needs): RequestHandlers {
  const flowNamed = (name: string) => gateway.flows.find((flow) => flow.name === name);

  /** Not closed, unknown, somebody else's, forgotten: of the last the store cannot tell, only the time in the id can. */
  const missing = async (reply: FastifyReply, id: string) => {
    const opened = await gateway.arrivals.find({ id, principal: reply.request.principal });
    if (opened !== undefined) return sendProblem(reply, openedProblem(opened));
    const madeAt = timeOfId(id);
    return madeAt !== undefined && madeAt + retention < Date.now()
      ? sendProblem(reply, httpProblem('gone', `request ${id} is older than what this hub remembers`))
      : sendProblem(reply, httpProblem('not-found', `there is no request ${id}`));
  };

  const isArriving = async (whose: { readonly id: string; readonly principal: Principal }) => {
    const state = (await gateway.arrivals.find(whose))?.state;
    return state === 'open' || state === 'closing';
  };

  /** A request that is none yet. */
  async function abandon({ principal }: FastifyRequest, reply: FastifyReply, id: string): Promise<FastifyReply> {
    const done = await gateway.arrivals.abandon({ id, principal });
    return done === 'abandoned' ? reply.code(204).header('hub-request-id', id).send() : missing(reply, id);
  }

  async function inParts(
    request: FastifyRequest,
    reply: FastifyReply,
    id: string,
    { type, prefer, hold }: { readonly type: string; readonly prefer: Preferences; readonly hold: number },
  ): Promise<FastifyReply> {
    const { principal } = request;
    const gone = visitOf(request).signal;
    const after = request.method === 'GET' ? lastPart(request) : 0;
    const said = await streamReply(reply, { gateway, principal, id, type, holdMs: hold, after, pingMs, gone });
    if (said === 'streamed') return reply;
    return said === undefined ? missing(reply, id) : sendAnswer(reply, said, prefer, hold);
  }

  /** What a request says in its headers beside its content type, and how it wants its answer. */
  function wishesOf(request: FastifyRequest, flow: string, isCalledBack = false) {
    const { contentType, contentEncoding, ...said } = readHeaders(request.headers);
    const { durable = true, maxWaitMs = 0, urgent: mayBeUrgent = false } = flowNamed(flow) ?? {};
    const wished = readPrefer(request.headers['prefer']);
    // A volatile flow cannot answer later: a preference may be ignored (RFC 7240 §2).
    const prefer = durable || holdMs(wished, maxWaitMs) !== 0 ? wished : none;
    const callBack = callback(request.headers);
    const takesPlace = supersedes(request.headers);
    const urgent = isUrgent(request.headers);
    if (urgent && !mayBeUrgent)
      throw new Fault('invalid', `flow ${flow} takes no urgent requests: hub.yaml says which do`, { reason: 'not-urgent' });
    // Who wants to be called back need not stay on the line.
    const hold = holdMs(prefer, maxWaitMs) ?? (callBack === undefined && !isCalledBack ? undefined : 0);
    const type = durable && hold !== 0 ? lineType(request) : undefined;
    const ask = {
      ...said,
      ...(type !== undefined ? { waitMs: 0 } : hold === undefined ? {} : { waitMs: hold }),
      ...(callBack === undefined ? {} : { callback: callBack }),
      ...(takesPlace === undefined ? {} : { supersedes: takesPlace }),
      ...(urgent ? { priority: urgentPriority } : {}),
      signal: visitOf(request),
    };
    const encoded = contentEncoding === undefined ? {} : { contentEncoding };
    return { ask, content: { contentType, ...encoded }, prefer, hold, type, maxWaitMs };
  }

  async function answered(request: FastifyRequest, reply: FastifyReply, answer: Answer, wishes: ReturnType<typeof wishesOf>) {
    const { prefer, hold, type, maxWaitMs } = wishes;
    if (answer.replayed) reply.header('idempotency-replayed', 'true');
    if (type === undefined) return sendAnswer(reply, answer, prefer, hold);
    return inParts(request, reply, answer.id, { type, prefer, hold: hold ?? maxWaitMs });
  }

  return {
    async ask(request, reply) {
      reply.header('vary', 'Prefer, Accept');
      const flow = parameter(request, 'flow');
      const wishes = wishesOf(request, flow);
      const { ask, content } = wishes;
      const body = bodyOf(request);
      visitOf(request).take();
      const answer = await gateway.request({
        flow,
        principal: request.principal,
        body,
        ...ask,
        ...content,
        contentType: unformed(content.contentType, body),
      });
      return answered(request, reply, answer, wishes);
    },

    async open(request, reply) {
      refuseBody(request, 'send the parts with PUT /requests/{id}/parts/1, 2, 3, …');
      const callBack = callback(request.headers);
      const flow = parameter(request, 'flow');
      visitOf(request).take();
      const opened = await gateway.arrivals.open({
        flow,
        principal: request.principal,
        ...(callBack === undefined ? {} : { callback: callBack }),
      });
      return sendOpened(reply.code(201).header('location', `/requests/${opened.id}`), opened);
    },

    async append(request, reply) {
      const id = parameter(request, 'id');
      const n = parameter(request, 'n');
      const { contentType, contentEncoding } = readHeaders(request.headers);
      const body = bodyOf(request);
      visitOf(request).take();
      const taken = await gateway.arrivals.append({
        id,
        principal: request.principal,
        sequence: /^\d{1,9}$/.test(n) ? Number(n) : NaN,
        body,
        contentType: unformed(contentType, body),
        ...(contentEncoding === undefined ? {} : { contentEncoding }),
      });
      if (taken === undefined) return missing(reply, id);
      return sendOpened(reply.code(taken.isNew ? 201 : 200), taken.status);
    },

    async close(request, reply) {
      reply.header('vary', 'Prefer, Accept');
      const id = parameter(request, 'id');
      const { principal } = request;
      refuseBody(request, 'the parts are the body');
      const total = partCount(request.headers);
      const opened = await gateway.arrivals.find({ id, principal });
      if (opened === undefined) return missing(reply, id);
      const wishes = wishesOf(request, opened.flow, opened.callback !== undefined);
      visitOf(request).take();
      const answer = await gateway.arrivals.close({ id, principal, total, ask: wishes.ask });
      return answer === undefined ? missing(reply, id) : answered(request, reply, answer, wishes);
    },

    async send(request, reply) {
      const flow = parameter(request, 'flow');
      const said = readHeaders(request.headers);
      visitOf(request).take();
      const id = await gateway.send({
        flow,
        principal: request.principal,
        body: bodyOf(request),
        ...said,
        contentType: unformed(said.contentType, bodyOf(request)),
      });
      return reply.code(202).header('hub-request-id', id).send(Buffer.alloc(0));
    },

    async status(request, reply) {
      const id = parameter(request, 'id');
      const { principal } = request;
      const status = await gateway.status(id, principal);
      const opened = status === undefined ? await gateway.arrivals.find({ id, principal }) : undefined;
      if (status === undefined && (opened === undefined || opened.state === 'expired' || opened.state === 'abandoned'))
        return missing(reply, id);
      const document = status === undefined ? openedStatusDocument(opened!) : statusDocument(status);
      const body = Buffer.from(JSON.stringify(document));
      const etag = etagOf(body);
      reply.header('etag', etag).header('cache-control', 'no-store').header('hub-request-id', id);
      if (matches(request.headers['if-none-match'], etag)) return reply.code(304).send();
      return reply.header('content-type', 'application/json').send(body);
    },

    async reply(request, reply) {
      reply.header('vary', 'Prefer, Accept');
      const id = parameter(request, 'id');
      const prefer = readPrefer(request.headers['prefer']);
      const { principal } = request;
      const version = versionIn(request);
      if (version !== undefined) {
        const found = await gateway.version(id, principal, version);
        if (found === undefined) return missing(reply, id);
        return found === 'none'
          ? sendProblem(reply, httpProblem('not-found', `the reply to request ${id} has no version ${version}`, { requestId: id }))
          : sendAnswer(reply, found, none, 0);
      }
      const type = lineType(request);
      // Who does not ask to wait is not held, unless for parts; who does, at most as long as the flow allows.
      const isHeld = prefer.waitMs !== undefined || (type !== undefined && !prefer.respondAsync);
      const flow = isHeld ? (await gateway.status(id, principal))?.flow : undefined;
      const maxWaitMs = flow === undefined ? 0 : (flowNamed(flow)?.maxWaitMs ?? 0);
      const hold = holdMs(prefer, maxWaitMs) ?? (type === undefined ? 0 : maxWaitMs);
      if (type !== undefined) return inParts(request, reply, id, { type, prefer, hold });
      const answer = await gateway.collect(id, principal, hold, visitOf(request));
      return answer === undefined ? missing(reply, id) : sendAnswer(reply, answer, prefer, hold);
    },

    async events(request, reply) {
      const id = parameter(request, 'id');
      const { principal } = request;
      const whose = { id, principal };
      const status = await gateway.status(id, principal);
      const isOpen = status === undefined && (await isArriving(whose));
      if (status === undefined && !isOpen) return missing(reply, id);
      const stream = eventStream(reply, { pingMs, gone: visitOf(request).signal });
      streams.add(stream);
      try {
        // Of an ended request the headers wait for a first event: a client that has seen all is told to stop (204).
        if (status?.endedAt === undefined || (status.amendableUntil ?? 0) > Date.now()) stream.begin();
        // What comes before it is a request has no place of its own: who comes again hears how it stands then.
        if (isOpen)
          await gateway.arrivals.follow(
            whose,
            ({ name, status: opened }) => stream.send({ id: 0, event: name, data: openedStatusDocument(opened) }),
            stream.signal,
          );
        const found = await gateway.events(
          id,
          principal,
          lastEventId(request),
          ({ sequence, at, name, data }) => stream.send({ id: sequence, event: name, data: { ...data, at: iso(at) } }),
          stream.signal,
          'toTheLast',
        );
        if (!stream.begun) return found ? reply.code(204).send() : missing(reply, id);
        return reply;
      } finally {
        stream.end();
        streams.delete(stream);
      }
    },

    async answer(request, reply) {
      reply.header('vary', 'Prefer');
      const id = parameter(request, 'id');
      const prefer = readPrefer(request.headers['prefer']);
      const { principal } = request;
      visitOf(request).take();
      const question = request.headers['hub-question'];
      const said = await gateway.answer(id, principal, answerIn(request), typeof question === 'string' ? question : undefined);
      if (said === undefined) return missing(reply, id);
      if (said === 'none')
        return sendProblem(
          reply,
          httpProblem('not-asked', `request ${id} asks nothing of the kind now; its status says what it asks`, { requestId: id }),
        );
      const status = await gateway.status(id, principal);
      const hold = status === undefined ? 0 : (holdMs(prefer, flowNamed(status.flow)?.maxWaitMs ?? 0) ?? 0);
      const answer = await gateway.collect(id, principal, hold, visitOf(request).signal);
      return answer === undefined ? missing(reply, id) : sendAnswer(reply, answer, prefer, hold);
    },

    async callback(request, reply) {
      const id = parameter(request, 'id');
      const status = await gateway.callback(id, request.principal);
      if (status === undefined)
        return (await gateway.status(id, request.principal)) === undefined
          ? missing(reply, id)
          : sendProblem(reply, httpProblem('not-found', `request ${id} was sent without Hub-Callback`, { requestId: id }));
      reply.header('hub-request-id', id).header('cache-control', 'no-store').header('content-type', 'application/json');
      return reply.send(Buffer.from(JSON.stringify(callbackDocument(id, status))));
    },

    async story(request, reply) {
      const id = parameter(request, 'id');
      const { person, principal } = request;
      const reader =
        person === null || people === undefined ? { principal: principal.name } : { person: await people.actor(person.member, person.via) };
      const story = await gateway.story(id, reader);
      if (story === undefined) return missing(reply, id);
      const isTheirs = person === null || person.member.roles.some(mayCancel);
      return sendJson(reply, storyDocument(story, isTheirs));
    },

    async cancel(request, reply) {
      const id = parameter(request, 'id');
      visitOf(request).take();
      const office = request.person?.member;
      if (office?.roles.some(mayCancel) === true) {
        const over = await gateway.cancelFor(id, office);
        if (over === undefined) return missing(reply, id);
        return over === 'cancelled'
          ? reply.code(204).send()
          : sendProblem(reply, httpProblem('ended', `request ${id} has its outcome already`, { requestId: id }));
      }
      const done = await gateway.cancel(id, request.principal);
      if (done === undefined) return abandon(request, reply, id);
      reply.header('hub-request-id', id);
      if (done === 'ended') return sendProblem(reply, httpProblem('ended', `request ${id} has its outcome already`, { requestId: id }));
      const status = await gateway.status(id, request.principal);
      return status === undefined ? missing(reply, id) : sendStatus(reply, status);
    },
  };
}

function refuseBody(request: FastifyRequest, instead: string): void {
  if (bodyOf(request).length > 0) throw new Fault('invalid', `this has no body: ${instead}`, { reason: 'parts' });
}

/** Why an opened request is not what was asked for. */
function openedProblem(opened: OpenedStatus): Problem {
  const { id, state } = opened;
  const refusal = state === 'open' ? undefined : refusalOf(opened);
  return refusal === undefined
    ? httpProblem('conflict', `request ${id} is open: it is none before it is closed, with POST /requests/${id}/close`, {
        requestId: id,
        reason: 'open',
      })
    : thrownProblem(refusal);
}

function sendOpened(reply: FastifyReply, opened: OpenedStatus): FastifyReply {
  reply.header('hub-request-id', opened.id).header('cache-control', 'no-store').header('content-type', 'application/json');
  return reply.send(Buffer.from(JSON.stringify(openedStatusDocument(opened))));
}

/** The body of an answer: JSON, whatever it is. */
function answerIn(request: FastifyRequest): unknown {
  try {
    return JSON.parse(bodyOf(request).toString('utf8'));
  } catch (cause) {
    throw new Fault('invalid', `the answer must be JSON: ${messageOf(cause)}`, { cause });
  }
}

function sendAnswer(reply: FastifyReply, answer: Answer, prefer: Preferences, hold: number | undefined): FastifyReply {
  const applied = preferenceApplied(prefer, { accepted: answer.kind === 'accepted', holdMs: hold, heldMs: answer.heldMs });
  if (applied !== undefined) reply.header('preference-applied', applied);
  reply.header('hub-request-id', answer.id).header('cache-control', 'no-store');
  if (answer.kind === 'outcome') return sendOutcome(reply, answer);
  reply.code(202).header('location', `/requests/${answer.id}`).header('retry-after', retryAfterSeconds(answer.status, Date.now()));
  return sendStatus(reply, answer.status);
}

/** The reply's body untouched, or what became of the request instead. */
function sendOutcome(reply: FastifyReply, answer: Extract<Answer, { kind: 'outcome' }>): FastifyReply {
  const { id, outcome } = answer;
  if (outcome.kind !== 'reply') return sendProblem(reply, outcomeProblem(outcome, id));
  if (answer.version !== undefined && isKnown(reply, answer, answer.version)) return reply.code(304).send();
  reply.header('content-type', headerValue(outcome.contentType, 'application/octet-stream'));
  const encoding = headerValue(outcome.contentEncoding, '');
  if (encoding !== '') reply.header('content-encoding', encoding);
  return reply.send(outcome.body);
}

/** Says which version of the reply it is; true when the client, which reads it again, has that. */
function isKnown(reply: FastifyReply, { id, outcome, latest }: Extract<Answer, { kind: 'outcome' }>, version: number): boolean {
  const etag = versionTag(outcome.body, version);
  reply.header('hub-reply-version', String(version)).header('etag', etag);
  // RFC 5829
  if (latest !== undefined) reply.header('link', `</requests/${id}/reply>; rel="latest-version"`);
  return reply.request.method === 'GET' && matches(reply.request.headers['if-none-match'], etag);
}

/** The number of a version that is named in the query. Throws a Fault `invalid`. */
function versionIn({ query }: FastifyRequest): number | undefined {
  const said = (query as Readonly<Record<string, unknown>>)['version'];
  if (said === undefined) return undefined;
  if (typeof said !== 'string' || !/^[1-9]\d{0,8}$/.test(said)) throw new Fault('invalid', 'version must be a whole number from 1');
  return Number(said);
}

function sendStatus(reply: FastifyReply, status: Status): FastifyReply {
  return reply
    .header('content-type', 'application/json')
    .header('cache-control', 'no-store')
    .send(Buffer.from(JSON.stringify(statusDocument(status))));
}

function lastEventId({ headers }: FastifyRequest): number {
  const text = headers['last-event-id'];
  return typeof text === 'string' && /^\d{1,15}$/.test(text) ? Number(text) : 0;
}
