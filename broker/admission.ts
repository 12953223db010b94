/**
 * Who is let in when there is too much (admission control). Counted is what waits on this hub: requests on their way to the
 * broker's confirm, and an event loop that is late. A request that waits for a slow worker or a person waits on nobody here,
 * and is no overload.
 *
 * The method is PIE (RFC 8033): how long a request would wait is estimated from those that wait before it and the measured
 * rate at which they leave (Little's law), and a share of the new ones is refused that a proportional-integral controller
 * sets so that the wait stays at its target. Short bursts pass. There is no limit on concurrency to be tuned, and what is
 * taken at three times the load meets about the same wait as before.
 *
 * Quotas of single principals are a leaky bucket (GCRA, ITU-T I.371): one number each.
 */
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
   * Why a request that brings work is not taken at the moment, if so. Asked once for each, before it is read, by adapters whose
   * clients push; those that pull (a queue, a folder) are held back by how much they pull at once.
   */
  busy(): Refusal | undefined;
  /** The same for one principal: why it has used up its quota. */
  overQuota(principal: Principal): Refusal | undefined;
  /** Counts a request against its principal's quota, until the returned function is called. Throws a Fault `unavailable`, reason `too-many`. */
  admit(principal: Principal): () => void;
  /** A request is on its way to the broker's confirm, until the returned function is called. */
  entering(): () => void;
  close(): void;
}

export interface AdmissionOptions {
  readonly clock: Clock;
  /** How long requests may wait on this hub, from their arrival to the broker's confirm (ms); 0: nobody is refused for that. */
  readonly maxDelayMs: number;
}

/** When fewer than this many come in a second, or wait, they are never too many: if the event loop is late, it is not for them. */
const fewInASecond = 256;
const fewWait = 64;
/** How long new requests are taken though there is too much: a burst, or a pause of the garbage collector. */
const burstMs = 50;
/** How often the controller looks, and its gains: by how much the refused share changes for each target's worth of wait above the target (a second), and of change of the wait. */
const lookMs = 20;
const integralGain = 4;
const proportionalGain = 0.2;
/** The rate is measured while at least this many wait, for at least so long: confirms come in lots. */
const queueAtLeast = 32;
const cycleMs = 50;

export function openAdmission({ clock, maxDelayMs }: AdmissionOptions): Admission {
  const queue = measuredQueue(clock);
  const controller = openController(clock, maxDelayMs, () => queue.delayMs());
  const comeInASecond = countedPerSecond(clock);
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
    busy() {
      if (comeInASecond() < fewInASecond || Math.random() >= controller.share()) return undefined;
      return {
        over: 'hub',
        detail: `this hub has more to do than it can: requests wait ${Math.round(controller.delayMs())} ms before they are under way`,
        // Spread, so that those that are refused together do not come back together.
        retryAfterMs: 1_000 + Math.round(Math.random() * 3_000),
      };
    },
    overQuota,
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
    entering() {
      controller.wake();
      return queue.enter();
    },
    close: controller.close,
  };
}

/** Counts each call; tells how many there were in the last second or in this one, whichever is more. */
function countedPerSecond(clock: Clock): () => number {
  let began = clock.now();
  let [before, since] = [0, 0];
  return () => {
    const elapsedMs = clock.now() - began;
    if (elapsedMs >= 1_000) [began, before, since] = [clock.now(), elapsedMs < 2_000 ? since : 0, 0];
    since++;
    return Math.max(before, since);
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
      if (waiting < fewWait) return 0;
      // A queue that has come to a standstill has no departures to measure.
      const tookMs = cycle === undefined ? 0 : clock.now() - cycle.began;
      const stalled = tookMs > 2 * cycleMs ? ((cycle?.left ?? 0) + 1) / tookMs : Infinity;
      return waiting / Math.min(rate, stalled);
    },
  };
}

/** The controller of RFC 8033 §4.1 and §4.2. It looks only as long as there is something to see: an idle hub has no timer. */
function openController(clock: Clock, targetMs: number, queueMs: () => number) {
  let cancel: (() => void) | undefined;
  let due = 0;
  let looked = 0;
  let share = 0;
  let delayMs = 0;
  let burstLeftMs = burstMs;
  let calmMs = 0;

  function look(): void {
    const now = clock.now();
    const [before, elapsedMs] = [delayMs, now - looked];
    looked = now;
    // Whatever comes in waits for a turn of the event loop, too.
    delayMs = Math.max(0, now - due) + queueMs();
    const above = delayMs / targetMs - 1;
    share += (integralGain * above * elapsedMs) / 1_000 + (proportionalGain * (delayMs - before)) / targetMs;
    share = Math.min(Math.max(share, 0), 1);
    const isCalm = share === 0 && delayMs < targetMs / 2 && before < targetMs / 2;
    burstLeftMs = isCalm ? burstMs : burstLeftMs - elapsedMs;
    calmMs = isCalm ? calmMs + elapsedMs : 0;
    if (calmMs < 1_000) arm();
    else cancel = undefined;
  }

  function arm(): void {
    due = clock.now() + lookMs;
    cancel = clock.after(lookMs, look);
  }

  return {
    /** The share of new requests to refuse, 0 to 1. */
    share: () => (burstLeftMs > 0 ? 0 : share),
    delayMs: () => delayMs,
    wake(): void {
      calmMs = 0;
      if (cancel !== undefined || targetMs === 0) return;
      looked = clock.now();
      arm();
    },
    close: () => cancel?.(),
  };
}
