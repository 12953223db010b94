/**
 * Port to the Delayer (EIP): "this message, to that address, then". Two implementations: `later-bullmq.ts` and
 * `later-memory.ts`; `test/contract/later.ts` runs on both.
 */
import type { Address, Message } from './transport.js';

export interface Appointment {
  /** Same id, same appointment: making it again changes nothing. */
  readonly id: string;
  /** When to publish, ms since 1970. A past time means at once. */
  readonly at: number;
  readonly to: Address;
  readonly message: Message;
}

export interface Later {
  /** Resolves once the appointment is stored. Rejects within 5 s when it cannot be. */
  schedule(appointment: Appointment): Promise<void>;
  /** Takes an appointment back; one that is gone or unknown is fine. */
  cancel(id: string): Promise<void>;
  /** Begins to keep appointments (in any number of processes). They are published durable and tried again until the broker has them. */
  start(): Promise<void>;
  close(): Promise<void>;
}
