/** `/events`: publish to a topic, watch topics that match a pattern, read the last value of one. */
import type { Gateway, TopicMessage } from '../../broker/gateway.js';
import { contentType, headerValue } from './headers.js';
import { httpProblem, sendProblem } from './problem.js';
import { bodyOf, parameter, visitOf, type Handler } from './server.js';
import { iso } from './status.js';
import { eventStream, type EventStream } from './stream.js';

interface Needs {
  readonly gateway: Gateway;
  readonly pingMs: number;
  readonly streams: Set<EventStream>;
}

export interface TopicHandlers {
  readonly publish: Handler;
  readonly watch: Handler;
  readonly last: Handler;
}

export function topicHandlers({ gateway, pingMs, streams }: Needs): TopicHandlers {
  return {
    async publish(request, reply) {
      const message = { body: bodyOf(request), contentType: contentType(request.headers['content-type']) };
      visitOf(request).take();
      await gateway.publish(parameter(request, 'topic'), request.principal, message);
      return reply.code(202).send(Buffer.alloc(0));
    },

    async watch(request, reply) {
      const stream = eventStream(reply, { pingMs, gone: visitOf(request).signal });
      streams.add(stream);
      let id = 0;
      let unsubscribe: (() => Promise<void>) | undefined;
      try {
        unsubscribe = await gateway.subscribe(parameter(request, 'pattern'), request.principal, (message) =>
          stream.send({ id: ++id, event: 'message', data: shown(message) }),
        );
        stream.begin();
        if (!stream.signal.aborted) await new Promise((resolve) => stream.signal.addEventListener('abort', resolve, { once: true }));
        return reply;
      } finally {
        await unsubscribe?.();
        stream.end();
        streams.delete(stream);
      }
    },

    async last(request, reply) {
      const topic = parameter(request, 'topic');
      const message = await gateway.last(topic, request.principal);
      if (message === undefined) return sendProblem(reply, httpProblem('not-found', `nothing was published on ${topic}`));
      return reply
        .header('content-type', headerValue(message.contentType, 'application/octet-stream'))
        .header('cache-control', 'no-store')
        .header('hub-published-at', iso(message.at))
        .send(message.body);
    },
  };
}

/** A message as an event's data: JSON as what it says, text as text, anything else in base64. */
function shown({ topic, contentType, at, body }: TopicMessage): Readonly<Record<string, unknown>> {
  const about = { topic, contentType, at: iso(at) };
  const text = readable(body);
  if (text === undefined) return { ...about, base64: body.toString('base64') };
  if (/^[^;]*[/+]json\b/i.test(contentType)) {
    try {
      return { ...about, data: JSON.parse(text) as unknown };
    } catch {
      // It says that it is JSON and is not: shown as the text that it is.
    }
  }
  return { ...about, data: text };
}

/** The body as text; undefined when it is not UTF-8. */
function readable(body: Buffer): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(body);
  } catch {
    return undefined;
  }
}
