/**
 * The declaring part of `transport-amqp.ts`: how our exchanges and queues are written in RabbitMQ's words, so that 3.10 and
 * 4.x take them alike, and what its refusals mean. Limits on length are not set here, and that on deliveries means "never": operators set them by policy.
 */
import { answerMs, type Channel, closeChannel, type Log, type Session, within } from './amqp-connection.js';
import { type Binding, type Queue, type Topology, TopologyError } from './transport.js';

/** Declares what is missing; rejects with TopologyError at the first thing that the broker refuses. */
export async function declareOn(channel: Channel, topology: Topology): Promise<void> {
  for (const declaration of declarations(topology)) await run(channel, declaration);
}

/** Declares all of it again. What the broker refuses is logged and left out; rejects only when the session is of no use. */
export async function restoreOn(session: Session, topology: Topology, log: Log): Promise<void> {
  let channel: Channel | undefined;
  for (const declaration of declarations(topology)) {
    channel ??= await session.channel();
    try {
      await run(channel, declaration);
    } catch (error) {
      if (!(error instanceof TopologyError)) throw error;
      // The refusal closed the channel; the rest of the topology is still worth having.
      channel = undefined;
      log('topology.failed', { error });
    }
  }
  if (channel !== undefined) await closeChannel(channel);
}

/**
 * Is the topology there, as far as one question can tell: its last queue, which is declared when all that comes before it is
 * there? A broker that has lost its data has lost that as well. A classic queue says nothing: it is gone with one node.
 */
export async function isThere(session: Session, { queues }: Topology): Promise<boolean> {
  const last = queues.findLast(({ type }) => type !== 'classic');
  if (last === undefined) return false;
  const channel = await session.channel();
  try {
    await within(answerMs, `looking for queue ${last.name}`, channel.checkQueue(last.name));
    return true;
  } catch (error) {
    if (replyCode(error) === undefined) throw error;
    return false;
  } finally {
    void closeChannel(channel);
  }
}

interface Declaration {
  /** For people: `queue hub.work.a`. */
  readonly what: string;
  /** What an operator does when the broker has it otherwise, and says so in these words. */
  mend(said: string): string;
  on(channel: Channel): Promise<unknown>;
}

/** Exchanges, then each queue with its bindings: where the last queue is, everything is. */
function declarations({ exchanges, queues, bindings }: Topology): readonly Declaration[] {
  const names = new Set(queues.map(({ name }) => name));
  const bindingsOf = (queue: string) => bindings.filter((binding) => binding.queue === queue).map(bindingDeclaration);
  return [
    ...exchanges.map((exchange) => ({
      what: `exchange ${exchange.name}`,
      mend: () =>
        `nothing is stored in an exchange: delete it (rabbitmqadmin delete exchange name=${exchange.name}, or in the management UI) and start again`,
      on: (channel: Channel) =>
        channel.assertExchange(exchange.name, exchange.type, {
          durable: true,
          ...(exchange.alternate === undefined ? {} : { alternateExchange: exchange.alternate }),
        }),
    })),
    ...queues.flatMap((queue) => [
      {
        what: `queue ${queue.name}`,
        mend: (said: string) => mendQueue(queue, said),
        on: (channel: Channel) => channel.assertQueue(queue.name, { durable: true, arguments: argumentsOf(queue) }),
      },
      ...bindingsOf(queue.name),
    ]),
    ...bindings.filter(({ queue }) => !names.has(queue)).map(bindingDeclaration),
  ];
}

const bindingDeclaration = ({ exchange, queue, routingKey }: Binding): Declaration => ({
  what: `binding of queue ${queue} to exchange ${exchange} under "${routingKey}"`,
  mend: () => 'declare the exchange and the queue first',
  on: (channel) => channel.bindQueue(queue, exchange, routingKey),
});

async function run(channel: Channel, { what, mend, on }: Declaration): Promise<void> {
  try {
    await within(answerMs, `declaring ${what}`, on(channel));
  } catch (error) {
    throw asTopologyError(error, what, mend);
  }
}

/** RabbitMQ's refusals by their reply code; anything else (a lost connection) stays what it is. */
export function asTopologyError(error: unknown, what: string, mend: (said: string) => string): unknown {
  const code = replyCode(error);
  if (code === undefined) return error;
  const said = /with message "(.*)"/s.exec((error as Error).message)?.[1] ?? (error as Error).message;
  const how = code === 403 ? 'give the user the right to it (rabbitmqctl set_permissions)' : mend(said);
  return new TopologyError(`RabbitMQ refuses ${what}: ${said}; to mend it, ${how}`, { cause: error });
}

/**
 * A queue of a type that is switched off costs the whole connection: what that ended with, in our words, if it was that. Seen on
 * RabbitMQ 3.10.8; 3.12 and later have neither switch any more.
 */
export function asMissingType(lost: Error): TopologyError | undefined {
  const [, queue, type] =
    /declare a queue 'queue '(.*)' in vhost .* of type 'rabbit_(\w+)_queue'.*feature flag is disabled/s.exec(lost.message) ?? [];
  if (queue === undefined) return undefined;
  const missing = type === 'stream' ? 'streams are' : `${type} queues are`;
  return new TopologyError(
    `RabbitMQ refuses queue ${queue}: ${missing} switched off there; to mend it, rabbitmqctl enable_feature_flag ${type}_queue`,
    { cause: lost },
  );
}

/**
 * `--if-empty` tells classic queues only: it keeps a quorum queue in any case, and deletes a stream in any case [RabbitMQ 3.10.8
 * and 4.0.5, tried]. The count that rabbitmqctl tells of a quorum queue is some seconds old.
 */
function mendQueue({ name, type }: Queue, said: string): string {
  const [, vhost = '/'] = / in vhost '(.*?)': /.exec(said) ?? [];
  const [, current = type] = /'x-queue-type'.* current is '?(\w+)/s.exec(said) ?? [];
  const ctl = `rabbitmqctl${vhost === '/' ? '' : ` -p '${vhost}'`}`;
  if (current === 'stream')
    return `set what it had before, if that is a setting; or, if all that is in it may go, delete it (${ctl} delete_queue ${name}) and start again`;
  const command =
    current === 'quorum'
      ? `sleep 10 && ${ctl} -q list_queues name messages | grep -E '^${name}\\s0$' && ${ctl} delete_queue ${name}`
      : `${ctl} delete_queue ${name} --if-empty`;
  return `let its consumers empty it, delete it (${command}) and start again`;
}

/** 403 not allowed, 404 not there, 405 held by another connection, 406 there with other properties. */
export function replyCode(error: unknown): 403 | 404 | 405 | 406 | undefined {
  const code = (error as { code?: unknown } | undefined)?.code;
  return code === 403 || code === 404 || code === 405 || code === 406 ? code : undefined;
}

/** With segments of 500 MB, RabbitMQ's own, a node that was killed under load took up to 15 s to open a stream again. See docs/adr/0015. */
const segmentBytes = 50_000_000;

function argumentsOf({ type, about, ttlMs, deadLetter, singleActive, maxAge }: Queue): Record<string, unknown> {
  return {
    'x-queue-type': type,
    about,
    ...(ttlMs === undefined ? {} : { 'x-message-ttl': ttlMs }),
    ...(deadLetter === undefined ? {} : { 'x-dead-letter-exchange': deadLetter.exchange }),
    ...(deadLetter?.routingKey === undefined ? {} : { 'x-dead-letter-routing-key': deadLetter.routingKey }),
    // RabbitMQ asks for the second when one wants the first.
    // "Never": without a limit of its own RabbitMQ 4.0 to 4.2 drops what was given back 20 times. See docs/adr/0003.
    ...(type === 'quorum' ? { 'x-delivery-limit': 1_000_000 } : {}),
    ...(deadLetter === undefined || type !== 'quorum' ? {} : { 'x-dead-letter-strategy': 'at-least-once', 'x-overflow': 'reject-publish' }),
    ...(singleActive === true ? { 'x-single-active-consumer': true } : {}),
    ...(maxAge === undefined ? {} : { 'x-max-age': maxAge }),
    ...(type === 'stream' ? { 'x-stream-max-segment-size-bytes': segmentBytes } : {}),
  };
}
