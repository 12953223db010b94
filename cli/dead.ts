/** Dead letters: what is in `hub.dead.*`, and how to send it on its way again once the reason is mended. */
import { deriveId, type Envelope } from '../broker/envelope.js';
import type { Step } from '../broker/step.js';
import { workAddress, type Names } from '../broker/topology.js';
import type { Delivery, Transport } from '../broker/transport.js';
import { decode, encode, isUndecodable } from '../broker/wire.js';

export interface DeadQueue {
  readonly queue: string;
  readonly letters: number;
  /** When the oldest letter gave up, ISO 8601. */
  readonly oldest: string;
  readonly error: string;
}

/** The queues that are not empty, each with its oldest letter's reason. Looking takes nothing out. */
export async function deadLetters(transport: Transport, names: Names, steps: readonly Step[]): Promise<readonly DeadQueue[]> {
  const found: DeadQueue[] = [];
  for (const queue of ['unrouted', ...steps.map(({ name }) => name)].map(names.deadQueue).sort()) {
    const letters = (await transport.inspect(queue))?.ready ?? 0;
    if (letters === 0) continue;
    const { headers } = await first(transport, queue);
    found.push({
      queue,
      letters,
      oldest: String(headers['hub-error-at'] ?? ''),
      error: `${String(headers['hub-error-code'] ?? '')} ${String(headers['hub-error'] ?? '')}`.trim(),
    });
  }
  return found;
}

async function first(transport: Transport, queue: string): Promise<Delivery> {
  let give: (delivery: Delivery) => void = () => undefined;
  const given = new Promise<Delivery>((resolve) => (give = resolve));
  const consumer = await transport.consume(queue, { prefetch: 1, tag: 'dead' }, async (delivery) => {
    give(delivery);
    throw new Error('only looked at');
  });
  const delivery = await given;
  await consumer.close();
  return delivery;
}

/** Why it died is told no more; what it is about goes along. */
function withoutErrors(extra: Envelope['extra'] = {}): Envelope['extra'] {
  const kept = Object.entries(extra).filter(([name]) => name.startsWith('hub-callback'));
  return kept.length === 0 ? undefined : Object.fromEntries(kept);
}

/** An expired letter gets this long for its second life. */
const secondLifeMs = 3_600_000;

/**
 * Publishes each letter that is there now to its step's queue, as a first attempt, and takes it out once RabbitMQ has the new
 * message. The request keeps its id: if it has its outcome already, the result is recorded as late and not delivered twice.
 */
export async function replay(transport: Transport, names: Names, step: string): Promise<number> {
  const queue = names.deadQueue(step);
  const letters = (await transport.inspect(queue))?.ready ?? 0;
  if (letters === 0) return 0;
  let sent = 0;
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => (finish = resolve));
  const consumer = await transport.consume(queue, { prefetch: 1, tag: 'replay' }, async (delivery) => {
    // Letters that die again meanwhile are for the next replay.
    if (sent >= letters) throw new Error('not part of this replay');
    const envelope = decode(delivery);
    if (isUndecodable(envelope)) throw new Error(`cannot be sent again: ${envelope.undecodable}`);
    const now = Date.now();
    const again = {
      ...envelope,
      extra: withoutErrors(envelope.extra),
      id: deriveId(envelope.id, 'replay', now),
      attempt: 1,
      at: now,
      deadline: Math.max(envelope.deadline, now + secondLifeMs),
    };
    await transport.publish(workAddress(names, step, envelope), encode(again));
    if (++sent === letters) finish();
  });
  await finished;
  await consumer.close();
  return sent;
}
