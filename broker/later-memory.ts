/** Appointments in memory, for tests of one's own flows and for `--demo`: the same behaviour as on BullMQ, gone with the process. */
import { systemClock, type Clock } from './clock.js';
import type { Appointment, Later } from './later.js';
import type { Address, Message } from './transport.js';

export interface MemoryLaterOptions {
  readonly clock?: Clock;
  readonly publish: (to: Address, message: Message) => Promise<void>;
}

const retryMs = 1_000;

export function memoryLater({ clock = systemClock, publish }: MemoryLaterOptions): Later {
  /** Each with what takes its timer back; undefined until `start`, and while it is being published. */
  const appointments = new Map<string, { readonly appointment: Appointment; disarm: (() => void) | undefined }>();
  const publishing = new Set<Promise<void>>();
  let started = false;
  let closed = false;

  function arm(id: string, at: number): void {
    const kept = appointments.get(id);
    if (kept === undefined || !started || closed) return;
    kept.disarm = clock.after(at - clock.now(), () => {
      kept.disarm = undefined;
      // A clock may wake early: the system's counts in 32 bits.
      if (clock.now() < at) return arm(id, at);
      const done = keep(kept.appointment).finally(() => publishing.delete(done));
      publishing.add(done);
    });
  }

  async function keep(appointment: Appointment): Promise<void> {
    const { id, to, message } = appointment;
    const kept = appointments.get(id);
    try {
      await publish(to, message);
      if (appointments.get(id) === kept) appointments.delete(id);
    } catch {
      // Until the broker has it.
      if (appointments.get(id) === kept) arm(id, clock.now() + retryMs);
    }
  }

  return {
    async schedule(appointment) {
      if (closed) throw new Error('appointments are closed');
      if (appointments.has(appointment.id)) return;
      appointments.set(appointment.id, { appointment, disarm: undefined });
      arm(appointment.id, appointment.at);
    },
    async cancel(id) {
      if (closed) throw new Error('appointments are closed');
      appointments.get(id)?.disarm?.();
      appointments.delete(id);
    },
    async start() {
      if (started) return;
      started = true;
      for (const { appointment } of appointments.values()) arm(appointment.id, appointment.at);
    },
    async close() {
      closed = true;
      for (const { disarm } of appointments.values()) disarm?.();
      appointments.clear();
      await Promise.all(publishing);
    },
  };
}
