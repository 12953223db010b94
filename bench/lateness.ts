/** An end that makes appointments and deadlines, and notes how late each is kept. */
import { anonymous } from '../broker/access.js';
import { openOurs, type OurSettings } from './ours.js';
import type { End } from './ends.js';
import { percentile } from './statistics.js';
import type { Lateness } from './timers.js';

/** How many, the first in `aheadMs` from now, the others spread over `withinMs`. */
interface Dates {
  readonly count: number;
  readonly aheadMs: number;
  readonly withinMs: number;
}

export async function latenessEnd(settings: OurSettings): Promise<End> {
  const { hub, ports, close } = await openOurs(settings);

  /** To an exchange with a listener: from the time that was asked for to the delivery. */
  async function appointments({ count, aheadMs, withinMs }: Dates): Promise<Lateness> {
    const late: number[] = [];
    const dates = new Map<string, number>();
    let done: () => void = () => undefined;
    const all = new Promise<void>((resolve) => (done = resolve));
    const listener = await ports.transport.subscribe(hub.names.events, ['bench.appointment'], ({ messageId = '' }) => {
      const at = dates.get(messageId);
      if (at === undefined || !dates.delete(messageId)) return;
      late.push(Date.now() - at);
      if (late.length === count) done();
    });
    const start = Date.now() + aheadMs;
    await Promise.all(
      Array.from({ length: count }, (_, index) => {
        const [id, at] = [`bench-${index}`, start + Math.round((index * withinMs) / count)];
        dates.set(id, at);
        const message = { messageId: id, body: Buffer.from('{}'), contentType: 'application/json' };
        return ports.later.schedule({ id, at, to: { exchange: hub.names.events, routingKey: 'bench.appointment' }, message });
      }),
    );
    await all;
    await listener.close();
    return latenessOf(late);
  }

  /** Requests that nobody works on: from the deadline to the moment at which a requestor that waits is told. */
  async function deadlines({ count, aheadMs, withinMs }: Dates): Promise<Lateness> {
    const late = await Promise.all(
      Array.from({ length: count }, async (_, index) => {
        const asked = await hub.gateway.request({
          flow: 'nobody',
          principal: anonymous,
          body: Buffer.from('{}'),
          contentType: 'application/json',
          waitMs: 0,
          deadlineMs: aheadMs + (index * withinMs) / count,
        });
        if (asked.kind !== 'accepted') throw new Error('a request that nobody works on has an outcome');
        const answer = await hub.gateway.collect(asked.id, anonymous, aheadMs + withinMs + 30_000);
        if (answer?.kind !== 'outcome' || answer.outcome.kind !== 'timeout')
          throw new Error('a request that nobody works on has no timeout');
        return Date.now() - asked.status.deadline;
      }),
    );
    return latenessOf(late);
  }

  return {
    async tell(_what, settings) {
      const [count, aheadMs, withinMs] = [Number(settings['count']), Number(settings['aheadMs']), Number(settings['withinMs'])];
      const dates = { count, aheadMs, withinMs };
      const [appointed, due] = await Promise.all([appointments(dates), deadlines(dates)]);
      return { appointments: appointed, deadlines: due };
    },
    close,
  };
}

function latenessOf(late: readonly number[]): Lateness {
  const sorted = late.toSorted((a, b) => a - b);
  return { p50Ms: percentile(sorted, 0.5), p99Ms: percentile(sorted, 0.99) };
}
