/**
 * Who is let in when there is too much (admission control). Counted is what waits on this hub: requests on their way to the
 * broker's confirm, and an event loop that is late. A request that waits for a slow worker or a person waits on nobody here,
 * and is no overload.
 *
 * How long a new request would wait is estimated from those that wait before it and the measured rate at which they leave
 * (Little's law; the rate as in RFC 8033 §4.3), and it is refused when that is too long. So there is no limit on concurrency to be
 * tuned, those that are taken at three times the load wait as long as they may and no longer, and as many are taken as leave.
 * A short burst may wait twice as long: only a queue that stands is too much (CoDel, RFC 8289 §3).
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
   * clients push; those that pull (a queue, a folder) are held back by how much they pull at once. `before`: so many were let in, and
   * have not begun.
   */
  busy(before?: number): Refusal | undefined;
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
/** How long a queue has to stand before it is no burst any more. */
const standsMs = 100;
/** How often it is looked how late the event loop is. */
const lookMs = 20;
/** The rate is measured while at least this many wait, for at least so long: confirms come in lots. */
const queueAtLeast = 32;
const cycleMs = 50;
/** What the newest measure weighs. */
const newest = 0.25;

export function openAdmission({ clock, maxDelayMs }: AdmissionOptions): Admission {
  const queue = measuredQueue(clock);
  const gate = openGate(clock, maxDelayMs, queue);
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
    busy(before = 0) {
      if (comeInASecond() < fewInASecond || gate.isOpen(before)) return undefined;
      return {
        over: 'hub',
        detail: `this hub has more to do than it can: requests wait ${Math.round(gate.delayMs())} ms before they are under way`,
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
      gate.wake();
      return queue.enter();
    },
    close: gate.close,
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

type Queue = ReturnType<typeof measuredQueue>;

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
      rate = rate === Infinity ? measured : rate + newest * (measured - rate);
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
    waiting: () => waiting,
    /** Departures per ms. */
    rate(): number {
      // A queue that has come to a standstill has no departures to measure.
      const tookMs = cycle === undefined ? 0 : clock.now() - cycle.began;
      const stalled = tookMs > 2 * cycleMs ? ((cycle?.left ?? 0) + 1) / tookMs : Infinity;
      return Math.min(rate, stalled);
    },
  };
}

/** Open as long as who comes now waits no longer than it may. It looks only as long as there is something to see: an idle hub has no timer. */
function openGate(clock: Clock, maxDelayMs: number, queue: Queue) {
  let cancel: (() => void) | undefined;
  let due = 0;
  /** Whatever comes in waits for a turn of the event loop, too. */
  let lateMs = 0;
  /** Since when the wait has been too long at each look; undefined: it is not. */
  let tooLongSince: number | undefined;
  let calmMs = 0;
  /** As many may wait. */
  let most = Infinity;

  const delayMs = () => lateMs + (queue.waiting() < fewWait ? 0 : queue.waiting() / queue.rate());

  function look(): void {
    const now = clock.now();
    lateMs = Math.max(0, now - due);
    const nowMs = delayMs();
    // Once it stands, it stands until it has gone down to half of that.
    if (nowMs < maxDelayMs / 2) tooLongSince = undefined;
    else if (nowMs >= maxDelayMs) tooLongSince ??= now;
    const isStanding = tooLongSince !== undefined && now - tooLongSince >= standsMs;
    const restMs = (isStanding ? 1 : 2) * maxDelayMs - lateMs;
    most = restMs > 0 ? Math.max(fewWait, restMs * queue.rate()) : fewWait;
    calmMs = nowMs < maxDelayMs / 2 ? calmMs + lookMs : 0;
    if (calmMs < 1_000) arm();
    else cancel = undefined;
  }

  function arm(): void {
    due = clock.now() + lookMs;
    cancel = clock.after(lookMs, look);
  }

  return {
    isOpen: (before: number) => queue.waiting() + before < most,
    delayMs,
    wake(): void {
      calmMs = 0;
      if (cancel === undefined && maxDelayMs > 0) arm();
    },
    close: () => cancel?.(),
  };
}
