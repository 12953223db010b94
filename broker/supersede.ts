/**
 * A newer request takes the place of its principal's older ones with the same key (barge-in). The store has them in the order in which they were
 * recorded, and each cancels those before it, once the broker has it: a request that is refused cancels nothing, and of two that
 * race the one that was recorded last survives.
 */
import type { Clock } from './clock.js';
import { Fault } from './fault.js';
import { outcomeOfFault, type Settler } from './settle.js';
import type { NewRecord, Store } from './store.js';

interface Needs {
  readonly store: Store;
  readonly settler: Settler;
  readonly clock: Clock;
}

/** Cancels those whose place it takes. Rejects with a Fault when that is not known: a repeat of the request does it. */
export async function supersede({ id, supersedes }: NewRecord, { store, settler, clock }: Needs): Promise<void> {
  if (supersedes === undefined) return;
  const fault = new Fault('cancelled', `request ${id} has taken its place`, { reason: 'superseded' });
  try {
    for (const older of await store.superseded(id)) await settler.settle(older, outcomeOfFault('cancelled', fault, clock.now()), false);
  } catch (cause) {
    throw new Fault(
      'unavailable',
      `request ${id} is under way, but the older one may be, too: Redis or RabbitMQ is away. Send it again with the same Idempotency-Key`,
      { cause, reason: 'unknown', requestId: id, retryAfterMs: 5_000 },
    );
  }
}
