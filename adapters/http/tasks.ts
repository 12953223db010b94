/** Tasks for people over HTTP: sign in, the inbox, what is done to a task, and its stream of events. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Flaw } from '../../broker/fault.js';
import type { People } from '../../broker/people.js';
import { auditCsv, brokenAt } from '../../broker/tasks/audit.js';
import { flawed, type Refusal } from '../../broker/tasks/action.js';
import type { Actor } from '../../broker/tasks/task.js';
import { views, type Answered, type Tasks, type View, type Wish } from '../../broker/tasks/tasks.js';
import { readWish, wishes } from '../../broker/tasks/wishes.js';
import { jsonOf, notJson, queryOf, sendJson } from './json.js';
import type { Person } from './persons.js';
import { httpProblem, sendProblem, type Problem } from './problem.js';
import { bodyOf, parameter, visitOf, type Handler, type Route } from './server.js';
import { sessionRoutes } from './sessions.js';
import { iso } from './status.js';
import { eventStream, type EventStream } from './stream.js';

export interface InboxNeeds {
  readonly people: People;
  readonly tasks: Tasks;
  readonly publicUrl: string;
  readonly pingMs: number;
  readonly streams: Set<EventStream>;
  readonly oidc?: { readonly url: string; readonly label: string; readonly routes: readonly Route[] } | undefined;
}

/** An attachment is at most as large as its task allows; this is the limit of the server. */
const attachmentLimit = 10 * 1_024 * 1_024;
const mostAtOnce = 200;
const longestPage = 200;

export function inboxRoutes(needs: InboxNeeds): readonly Route[] {
  const { people, tasks, pingMs, streams } = needs;
  const person = { who: 'person' } as const;

  const actorOf = ({ person: who }: FastifyRequest): Promise<Actor> => {
    if (who === null) throw new Error('a route for people without one');
    return people.actor(who.member, who.via);
  };

  const missing = (reply: FastifyReply, id: string) =>
    sendProblem(reply, httpProblem('not-found', `there is no task ${id}, or none for you`));

  function sendAnswered(reply: FastifyReply, id: string, answered: Answered | undefined, code = 200): FastifyReply {
    if (answered === undefined) return missing(reply, id);
    if (answered.result === 'refused') return sendProblem(reply, refusalProblem(answered.refusal, answered.task));
    return sendJson(reply.code(code).header('etag', `"${answered.task.version}"`), answered.task);
  }

  const handlers = {
    async list(request, reply) {
      const { view = 'mine', q, cursor, limit = '50' } = queryOf(request);
      if (!views.includes(view as View))
        return sendProblem(reply, invalid({ pointer: '#/view', detail: `must be one of ${views.join(', ')}` }));
      if (!/^\d{1,3}$/.test(limit) || Number(limit) < 1 || Number(limit) > longestPage)
        return sendProblem(reply, invalid({ pointer: '#/limit', detail: `must be a number from 1 to ${longestPage}` }));
      const page = await tasks.list(await actorOf(request), {
        view: view as View,
        limit: Number(limit),
        ...(q === undefined ? {} : { q: q.slice(0, 200) }),
        ...(cursor === undefined ? {} : { cursor }),
      });
      return sendJson(reply, page);
    },

    async get(request, reply) {
      const id = parameter(request, 'id');
      const task = await tasks.get(id, await actorOf(request));
      return task === undefined ? missing(reply, id) : sendJson(reply.header('etag', `"${task.version}"`), task);
    },

    async attach(request, reply) {
      const id = parameter(request, 'id');
      const { name = 'file' } = queryOf(request);
      const type = (request.headers['content-type'] ?? 'application/octet-stream').split(';')[0]!.trim().toLowerCase();
      const file = { name: fileName(name), type, bytes: bodyOf(request) };
      return sendAnswered(reply, id, await tasks.attach(id, file, await actorOf(request)), 201);
    },

    async attachment(request, reply) {
      const id = parameter(request, 'id');
      const found = await tasks.attachment(id, parameter(request, 'n'), await actorOf(request));
      if (found === undefined) return missing(reply, id);
      return reply
        .header('content-type', found.about.type)
        .header('content-disposition', `attachment; filename*=UTF-8''${encodeURIComponent(found.about.name)}`)
        .header('cache-control', 'private, no-store')
        .send(found.bytes);
    },

    async bulk(request, reply) {
      const body = jsonOf(request);
      if (body === undefined) return sendProblem(reply, notJson);
      const { ids, outcome, comment, ...others } = body as Readonly<Record<string, unknown>>;
      const flaws: Flaw[] = Object.keys(others).map((name) => ({ pointer: `#/${name}`, detail: 'means nothing here' }));
      if (!Array.isArray(ids) || ids.length > mostAtOnce || !ids.every((id) => typeof id === 'string'))
        flaws.push({ pointer: '#/ids', detail: `must be a list of at most ${mostAtOnce} ids` });
      if (typeof outcome !== 'string') flaws.push({ pointer: '#/outcome', detail: 'must be a text' });
      if (comment !== undefined && comment !== null && typeof comment !== 'string')
        flaws.push({ pointer: '#/comment', detail: 'must be a text' });
      if (flaws.length > 0) return sendProblem(reply, invalid(...flaws));
      const wish = { outcome: outcome as string, ...(typeof comment === 'string' ? { comment } : {}) };
      const results = await tasks.bulk(ids as readonly string[], wish, await actorOf(request));
      return sendJson(reply, {
        results: results.map(({ id, refusal }) => ({
          id,
          ok: refusal === undefined,
          ...(refusal === undefined ? {} : { problem: refusalProblem(refusal) }),
        })),
      });
    },

    async events(request, reply) {
      const stream = eventStream(reply, { pingMs, gone: visitOf(request).signal });
      streams.add(stream);
      const who = request.person;
      // Who signs out, or loses their place in hub.yaml, hears no more.
      const actor = async () => {
        const member = who?.session === undefined ? who?.member : await people.session(who.session);
        if (member !== undefined) return people.actor(member, who?.via ?? 'page');
        stream.end();
        return undefined;
      };
      let sent = 0;
      try {
        stream.begin();
        await tasks.watch(actor, ({ event, data }) => stream.send({ id: ++sent, event, data }), stream.signal);
        return reply;
      } finally {
        stream.end();
        streams.delete(stream);
      }
    },

    async audit(request, reply) {
      const id = parameter(request, 'id');
      const audit = await tasks.audit(id, await actorOf(request));
      if (audit === undefined) return missing(reply, id);
      if (queryOf(request)['format'] === 'csv')
        return reply
          .header('content-type', 'text/csv; charset=utf-8')
          .header('content-disposition', `attachment; filename="task-${encodeURIComponent(id)}.csv"`)
          .header('cache-control', 'no-store')
          .send(auditCsv(audit));
      const broken = brokenAt(audit);
      return sendJson(reply, {
        task: id,
        intact: broken === undefined,
        ...(broken === undefined ? {} : { brokenAt: broken }),
        entries: audit,
      });
    },

    async absence(request, reply) {
      const absence = await people.absence((await actorOf(request)).name);
      return sendJson(reply, absence === undefined ? null : { ...absence, from: iso(absence.from), until: iso(absence.until) });
    },

    async setAbsence(request, reply) {
      const { name } = await actorOf(request);
      const body = jsonOf(request);
      if (body === undefined) return sendProblem(reply, notJson);
      const { from, until, substitute, ...others } = body as Readonly<Record<string, unknown>>;
      const [begin, end] = [momentOf(from), momentOf(until)];
      const flaws: Flaw[] = Object.keys(others).map((key) => ({ pointer: `#/${key}`, detail: 'means nothing here' }));
      if (begin === undefined) flaws.push({ pointer: '#/from', detail: 'must be a date and time' });
      if (end === undefined || end <= Math.max(begin ?? 0, Date.now()))
        flaws.push({ pointer: '#/until', detail: 'must be a date and time to come, after from' });
      const other = typeof substitute === 'string' ? await people.find(substitute) : undefined;
      if (other === undefined || other.name === name || !other.roles.includes('task-user'))
        flaws.push({ pointer: '#/substitute', detail: 'must be another user who answers tasks' });
      if (flaws.length > 0) return sendProblem(reply, invalid(...flaws));
      await people.setAbsence(name, { from: begin!, until: end!, substitute: other!.name });
      return sendJson(reply, { from: iso(begin!), until: iso(end!), substitute: other!.name });
    },

    async endAbsence(request, reply) {
      await people.setAbsence((await actorOf(request)).name, undefined);
      return reply.code(204).send();
    },
  } satisfies Readonly<Record<string, Handler>>;

  /** `POST /tasks/{id}/<action>`. */
  const act =
    (action: Wish['do']): Handler =>
    async (request, reply) => {
      const id = parameter(request, 'id');
      const body = jsonOf(request);
      const wish = body === undefined ? undefined : readWish(action, body);
      if (wish === undefined || !('do' in wish)) {
        const unread = wish === undefined ? { code: 'invalid' as const, detail: 'it was no JSON object' } : flawed(...wish);
        const refusal = await tasks.refuse(id, action, unread, await actorOf(request));
        if (refusal === undefined) return missing(reply, id);
        return sendProblem(reply, refusal === unread && wish === undefined ? notJson : refusalProblem(refusal));
      }
      const revision = ifMatch(request);
      if (Number.isNaN(revision)) return sendProblem(reply, httpProblem('bad-request', 'If-Match must be the ETag of the task, as in "3"'));
      return sendAnswered(reply, id, await tasks.act(id, wish, await actorOf(request), revision));
    };

  /** Who came from another site's page, by a link, or with a key that may not, has tried it all the same. */
  const refusedAt =
    (action: Wish['do']) =>
    async (id: string, { member, via }: Person, why: string): Promise<void> =>
      void (await tasks.refuse(id, action, { code: 'not-permitted', detail: why }, await people.actor(member, via)));

  return [
    ...sessionRoutes(needs),
    ...(needs.oidc?.routes ?? []),
    ['GET', '/tasks', handlers.list, 'quick', person],
    ['GET', '/tasks/events', handlers.events, 'stream', person],
    ['POST', '/tasks/bulk', handlers.bulk, 'quick', person],
    ['GET', '/tasks/:id', handlers.get, 'quick', person],
    ...(Object.keys(wishes) as Wish['do'][]).map((action): Route => [
      'POST',
      `/tasks/:id/${action}`,
      act(action),
      'quick',
      { ...person, refused: refusedAt(action) },
    ]),
    ['POST', '/tasks/:id/attachments', handlers.attach, 'held', { ...person, bodyLimit: attachmentLimit }],
    ['GET', '/tasks/:id/attachments/:n', handlers.attachment, 'quick', person],
    ['GET', '/tasks/:id/audit', handlers.audit, 'quick', person],
    ['GET', '/absence', handlers.absence, 'quick', person],
    ['PUT', '/absence', handlers.setAbsence, 'quick', person],
    ['DELETE', '/absence', handlers.endAbsence, 'quick', person],
  ];
}

const invalid = (...errors: readonly Flaw[]): Problem => refusalProblem(flawed(...errors));

const statusOf = { conflict: 409, 'not-permitted': 403, invalid: 422, ended: 410 } as const;
const titleOf = {
  conflict: 'The task has another state, or somebody else has it.',
  'not-permitted': 'This person may not do this.',
  invalid: 'It does not have the shape that is asked for.',
  ended: 'The task is over.',
} as const;

function refusalProblem({ code, detail, errors }: Refusal, task?: unknown): Problem {
  return {
    type: `urn:answerback:error:${code}`,
    title: titleOf[code],
    status: statusOf[code],
    detail,
    code,
    ...(errors === undefined ? {} : { errors }),
    ...(task === undefined ? {} : { task }),
  };
}

/** Undefined without the header or with `*`; NaN when it is none of ours. */
function ifMatch({ headers }: FastifyRequest): number | undefined {
  const text = headers['if-match'];
  return text === undefined || text === '*' ? undefined : Number(/^"(\d{1,9})"$/.exec(text)?.[1] ?? NaN);
}

/** The last part of a path, without what no file system likes. */
function fileName(name: string): string {
  const [last = ''] = name.split(/[/\\]/).slice(-1);
  // eslint-disable-next-line no-control-regex -- they are what is removed
  return last.replace(/[\u0000-\u001f\u007f<>:"|?*]/g, '').slice(0, 200) || 'file';
}

function momentOf(value: unknown): number | undefined {
  const at = typeof value === 'string' && /^\d{4}-\d\d-\d\d/.test(value) ? Date.parse(value) : NaN;
  return Number.isNaN(at) ? undefined : at;
}
