/**
 * What a foreign requestor hears in its own queue before the outcome: the parts of its reply, if it wants them, and what a step asks it. The
 * address is in the envelope, so that the step that has something to say needs nobody else for it. And, of a request that arrives in parts,
 * that it is waited for, and that it has ended.
 */
import type { Emit } from './emit.js';
import { deriveId, type AsideAddress, type Envelope } from './envelope.js';
import { isOfReply, type Part } from './parts.js';
import type { ForwardAddress } from './store.js';
import { PublishError, type Headers, type Message, type Transport } from './transport.js';
import { version } from './version.js';

/** The names in which a question says where its answer goes: the routing key at the exchange of requests. */
export const answerKey = (requestId: string, questionId: string): string => `answer.${requestId}.${questionId}`;

/** What a routing key says that is none of a flow. */
export function answerOf(routingKey: string): { readonly requestId: string; readonly questionId: string } | undefined {
  const [, requestId, questionId] = /^answer\.([0-9a-f-]{36})\.([0-9a-f-]{36})$/.exec(routingKey) ?? [];
  return requestId === undefined || questionId === undefined ? undefined : { requestId, questionId };
}

/** Whose request it is. */
export interface Told {
  readonly requestId: string;
  readonly aside?: ForwardAddress | AsideAddress | undefined;
}

type Said = Pick<Message, 'body'> & { readonly contentType: string };

const json = (value: unknown): Said => ({ body: Buffer.from(JSON.stringify(value ?? null)), contentType: 'application/json' });

export interface Aside {
  /** Resolves whether it was told or not: the reply has all parts. */
  part(envelope: Envelope, part: Part): Promise<void>;
  /** Rejects with a PublishError when the broker is away. */
  opened(of: Told, type: 'progress' | 'fault', id: string, said: Said, headers: Headers): Promise<void>;
  /** Rejects with a PublishError when the broker is away: nobody would answer what was not asked. */
  ask(envelope: Envelope, question: { readonly id: string; readonly question: unknown; readonly schema?: unknown }): Promise<void>;
}

export function openAside(transport: Transport, emit: Emit): Aside {
  async function tell(
    { requestId, aside }: Told,
    type: 'part' | 'ask' | 'progress' | 'fault',
    id: string,
    { body, contentType }: Said,
    headers: Headers,
  ): Promise<void> {
    if (aside === undefined) return;
    try {
      await transport.publish(
        { exchange: '', routingKey: aside.queue },
        {
          body,
          contentType,
          messageId: id,
          correlationId: aside.correlationId ?? requestId,
          type,
          appId: `answerback/${version}`,
          headers: { 'hub-request-id': requestId, ...headers },
        },
        // A mandatory message to direct reply-to is returned even when it arrives (RabbitMQ 3.10, 4.0).
        { mandatory: !aside.queue.startsWith('amq.rabbitmq.reply-to') },
      );
    } catch (error) {
      if (!(error instanceof PublishError) || error.failure !== 'unroutable') throw error;
      emit('request.undeliverable', { requestId, queue: aside.queue });
    }
  }

  return {
    async part(envelope, { sequence, part }) {
      if (envelope.aside?.parts !== true || !isOfReply(envelope)) return;
      await tell(envelope, 'part', deriveId(envelope.id, 'part', sequence), json(part), { 'hub-sequence': sequence }).catch(
        () => undefined,
      );
    },
    opened: tell,
    ask(envelope, { id, question, schema }) {
      return tell(envelope, 'ask', id, json(question), {
        'hub-question': id,
        'hub-answer-to': answerKey(envelope.requestId, id),
        ...(schema === undefined ? {} : { 'hub-schema': JSON.stringify(schema) }),
      });
    },
  };
}
