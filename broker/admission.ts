/**
 * Who is let in when there is too much (admission control). Counted is what waits on this hub: requests on their way to the
 * broker's confirm, and an event loop that is late. A request that waits for a slow worker or a person waits on nobody here,
 * and is no overload.
 *
 * How long a request that is taken now would wait is estimated as PIE does it (RFC 8033 §4.2 and §4.3; Little's law): those
 * that wait before it, by the rate at which they leave. When that is too long it is refused at once, which costs little, so
 * that at three times the load those that are taken meet the same wait as before, and nothing piles up. There is no limit
 * on concurrency to be tuned: the rate is measured.
 *
 * Quotas of single principals are a leaky bucket (GCRA, ITU-T I.371): one number each.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Principal } from './access.js';
import type { Clock } from './clock.js';
import { Fault } from './fault.js';

/** Why a request is not taken, and when it is worth to ask again. */
export interface Refusal {
  /** `hub`: it has too much to do. `principal`: this one has used up its quota. */
  readonly over: 'hub' | 'principal';
  readonly detail: string;
  readonly retryAfterMs: number;
}

export interface Admission {
  /**
   * Why nothing more of this principal is taken at the moment, if so. Asked before a request is read, by adapters whose clients
   * push; those that pull (a queue, a folder) are held back by how much they pull at once.
   */
  refusal(principal: Principal): Refusal | undefined;
  /** Counts a request against its principal's quota, until the returned function is called. Throws a Fault `unavailable`, reason `too-many`. */
  admit(principal: Principal): () => void;
  /** A request is on its way to the broker's confirm, until the returned function is called. */
  entering(): () => void;
  close(): void;
}

export interface AdmissionOptions {
  readonly clock: Clock;
  /** How long a request may expect to wait on this hub (ms). */
  readonly maxDelayMs: number;
}

/** Fewer than this many that wait are never too many: such a burst is soon over. */
const burst = 256;
/** The rate is measured while at least this many wait, for at least so long: confirms come in lots. */
const queueAtLeast = 32;
const cycleMs = 50;
/** How often the event loop's delay is looked at, and how finely it is measured. */
const lookMs = 100;
const resolutionMs = 10;

export function openAdmission({ clock, maxDelayMs }: AdmissionOptions): Admission {
  const queue = measuredQueue(clock);
  const loop = loopDelay(clock);
  const quotas = new Map<string, Quota>();

  function overQuota({ name, limits }: Principal): Refusal | undefined {
    if (limits === undefined) return undefined;
    const { inFlight = 0, nextAt = 0 } = quotas.get(name) ?? {};
    if (inFlight >= (limits.inFlight ?? Infinity))
      return { over: 'principal', detail: `${inFlight} requests of ${name} are in flight, its limit`, retryAfterMs: 1_000 };
    // A second's worth may come at once.
    const waitMs = limits.perSecond === undefined ? 0 : nextAt - clock.now() - 1_000;
    return waitMs > 0
      ? { over: 'principal', detail: `${name} may send ${limits.perSecond} requests a second`, retryAfterMs: waitMs }
      : undefined;
  }

  return {
    refusal(principal) {
      const expectedMs = Math.max(queue.delayMs(), loop.delayMs());
      return expectedMs > maxDelayMs
        ? {
            over: 'hub',
            detail: `this hub has more to do than it can: a request would wait ${Math.round(Math.min(expectedMs, 60_000))} ms before it is under way`,
            // Spread, so that those that are refused together do not come back together.
            retryAfterMs: 1_000 + Math.round(Math.random() * 3_000),
          }
        : overQuota(principal);
    },
    admit(principal) {
      const { name, limits } = principal;
      if (limits === undefined) return () => undefined;
      const over = overQuota(principal);
      if (over !== undefined) throw new Fault('unavailable', over.detail, { reason: 'too-many', retryAfterMs: over.retryAfterMs });
      const quota = quotas.get(name) ?? { inFlight: 0, nextAt: 0 };
      quotas.set(name, quota);
      quota.inFlight++;
      quota.nextAt = Math.max(quota.nextAt, clock.now()) + 1_000 / (limits.perSecond ?? Infinity);
      return () => void quota.inFlight--;
    },
    entering: queue.enter,
    close: loop.close,
  };
}

interface Quota {
  inFlight: number;
  /** When its bucket will have leaked empty. */
  nextAt: number;
}

/** What waits, and how fast it leaves (RFC 8033 §4.3: the rate of departure, measured only while there is a queue). */
function measuredQueue(clock: Clock) {
  let waiting = 0;
  /** Departures per ms; unknown: no reason to refuse. */
  let rate = Infinity;
  let cycle: { readonly began: number; left: number } | undefined;

  function leave(): void {
    waiting--;
    if (cycle === undefined) return;
    cycle.left++;
    const tookMs = clock.now() - cycle.began;
    if (tookMs >= cycleMs) {
      const measured = cycle.left / tookMs;
      rate = rate === Infinity ? measured : (rate + measured) / 2;
      cycle = undefined;
    }
    if (waiting < queueAtLeast) cycle = undefined;
    else cycle ??= { began: clock.now(), left: 0 };
  }

  return {
    enter(): () => void {
      waiting++;
      if (waiting >= queueAtLeast) cycle ??= { began: clock.now(), left: 0 };
      return leave;
    },
    delayMs(): number {
      if (waiting < burst) return 0;
      // A queue that has come to a standstill has no departures to measure.
      const tookMs = cycle === undefined ? 0 : clock.now() - cycle.began;
      const stalled = tookMs > 2 * cycleMs ? ((cycle?.left ?? 0) + 1) / tookMs : Infinity;
      return waiting / Math.min(rate, stalled);
    },
  };
}

/** How late the event loop has been lately, on average: one long turn is not overload. */
function loopDelay(clock: Clock) {
  const histogram = monitorEventLoopDelay({ resolution: resolutionMs });
  histogram.enable();
  let looked = clock.now();
  let delayMs = 0;
  return {
    delayMs(): number {
      if (clock.now() - looked < lookMs) return delayMs;
      looked = clock.now();
      delayMs = histogram.count === 0 ? 0 : Math.max(0, histogram.mean / 1e6 - resolutionMs);
      histogram.reset();
      return delayMs;
    },
    close: () => void histogram.disable(),
  };
}
