/**
 * Business time: so many working hours, so many working days from now, in a time zone with its holidays. Local times come from `Intl`,
 * which knows the zones and their daylight saving. Without a calendar every hour counts and a day has 24.
 */

/** `30m`, `8h` of working time; `2d`: the same time of day, two working days later. */
export type Span = `${number}${'s' | 'm' | 'h' | 'd'}`;

export type Weekday = 'mon' | 'tue' | 'wed' | 'thu' | 'fri' | 'sat' | 'sun';

export interface CalendarOptions {
  /** IANA name: `Europe/Berlin`. */
  readonly zone: string;
  /** Working hours by weekday, `09:00-12:30`; `24:00` is midnight. A weekday that is not named is free. */
  readonly hours: Readonly<Partial<Record<Weekday, readonly string[]>>>;
  /** Free days: `2026-12-24`, or every year `12-25`. */
  readonly holidays?: readonly string[];
}

export interface Calendar {
  /** When this much time has passed, counted from `at` (ms since 1970). */
  after(at: number, span: string): number;
  /** The moment at which this share (0 to 1) of the working time between two others has passed. */
  share(from: number, to: number, share: number): number;
}

const dayMs = 86_400_000;
const unitMs = { s: 1_000, m: 60_000, h: 3_600_000, d: dayMs } as const;
/** Further than this no date is looked for. */
const furthestDays = 3_660;

/** `8h` → [8, 'h']. */
export function readSpan(span: string): readonly [count: number, unit: keyof typeof unitMs] {
  const [, count, unit] = /^(\d+(?:\.\d+)?)(s|m|h|d)$/.exec(span) ?? [];
  if (count === undefined || (unit === 'd' && count.includes('.')))
    throw new TypeError(`time ${JSON.stringify(span)}: write a number and s, m, h or d, as in "8h" or "2d"`);
  return [Number(count), unit as keyof typeof unitMs];
}

export const everyHour: Calendar = {
  after(at, span) {
    const [count, unit] = readSpan(span);
    return at + Math.round(count * unitMs[unit]);
  },
  share: (from, to, share) => Math.round(from + (to - from) * share),
};

interface LocalDay {
  readonly year: number;
  readonly month: number;
  readonly day: number;
}

/** A piece of working time, ms since 1970. */
interface Piece {
  readonly from: number;
  readonly to: number;
}

/** Makes a calendar; throws what is wrong with it. */
export function calendar(options: CalendarOptions): Calendar {
  const zone = openZone(options.zone);
  const hours = readHours(options.hours);
  const holidays = new Set((options.holidays ?? []).map(checkHoliday));

  /** Working time of a local day, in order. */
  const pieces = (day: LocalDay): readonly Piece[] => {
    const date = new Date(Date.UTC(day.year, day.month - 1, day.day));
    const text = date.toISOString().slice(0, 10);
    if (holidays.has(text) || holidays.has(text.slice(5))) return [];
    return hours[date.getUTCDay()]!.map(([from, to]) => ({ from: zone.utc(day, from), to: zone.utc(day, to) })).filter(
      ({ from, to }) => from < to,
    );
  };

  /** The working time from a moment on. */
  function* working(at: number): Generator<Piece> {
    const first = zone.local(at);
    for (let days = 0; days < furthestDays; days++)
      for (const { from, to } of pieces(plusDays(first, days))) if (to > at) yield { from: Math.max(from, at), to };
  }

  function afterTime(at: number, ms: number): number {
    let left = ms;
    for (const { from, to } of working(at)) {
      if (to - from >= left) return from + left;
      left -= to - from;
    }
    throw new RangeError('the calendar has not so much working time in ten years');
  }

  /** The same time of day `count` working days later, or the next working moment from there. */
  function afterDays(at: number, count: number): number {
    const start = zone.local(at);
    for (let days = 1, left = count; days < furthestDays; days++) {
      const day = plusDays(start, days);
      if (pieces(day).length === 0 || --left > 0) continue;
      const sameTime = zone.utc(day, start.minutes) + start.ms;
      const within = pieces(day).find(({ to }) => to >= sameTime);
      return within === undefined ? pieces(day).at(-1)!.to : Math.max(within.from, sameTime);
    }
    throw new RangeError('the calendar has not so many working days in ten years');
  }

  return {
    after(at, span) {
      const [count, unit] = readSpan(span);
      return unit === 'd' && count > 0 ? afterDays(at, count) : afterTime(at, Math.round(count * unitMs[unit]));
    },
    share(from, to, share) {
      let total = 0;
      for (const piece of working(from)) {
        if (piece.from >= to) break;
        total += Math.min(piece.to, to) - piece.from;
      }
      return total === 0 ? everyHour.share(from, to, share) : Math.min(afterTime(from, Math.round(total * share)), to);
    },
  };
}

const plusDays = ({ year, month, day }: LocalDay, days: number): LocalDay => {
  const date = new Date(Date.UTC(year, month - 1, day + days));
  return { year: date.getUTCFullYear(), month: date.getUTCMonth() + 1, day: date.getUTCDate() };
};

function openZone(name: string) {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: name,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  /** The local time of a moment, written as if it were UTC. */
  const localMs = (at: number): number => {
    const parts = new Map(format.formatToParts(at).map(({ type, value }) => [type, Number(value)] as const));
    const [year, month, day] = [parts.get('year')!, parts.get('month')!, parts.get('day')!];
    return Date.UTC(year, month - 1, day, parts.get('hour'), parts.get('minute'), parts.get('second')) + (((at % 1_000) + 1_000) % 1_000);
  };
  return {
    local(at: number): LocalDay & { readonly minutes: number; readonly ms: number } {
      const date = new Date(localMs(at));
      return {
        year: date.getUTCFullYear(),
        month: date.getUTCMonth() + 1,
        day: date.getUTCDate(),
        minutes: date.getUTCHours() * 60 + date.getUTCMinutes(),
        ms: date.getUTCSeconds() * 1_000 + date.getUTCMilliseconds(),
      };
    },
    /** When it is `minutes` after midnight of that day there. A time that daylight saving leaves out is as much later; of one that comes twice, the first. */
    utc({ year, month, day }: LocalDay, minutes: number): number {
      const wished = Date.UTC(year, month - 1, day, 0, minutes);
      // Its distance from UTC the day before and the day after: one of the two holds, or, in a gap, the earlier one does.
      const guesses = [wished - dayMs, wished + dayMs].map((at) => wished - (localMs(at) - at));
      return guesses.find((at) => localMs(at) === wished) ?? guesses[0]!;
    },
  };
}

type Minutes = readonly [from: number, to: number];
/** As `Date.getUTCDay` counts. */
const weekdays: readonly Weekday[] = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

function readHours(hours: CalendarOptions['hours']): readonly (readonly Minutes[])[] {
  for (const name of Object.keys(hours))
    if (!weekdays.includes(name as Weekday))
      throw new TypeError(`calendar: ${JSON.stringify(name)} is no weekday; there is ${weekdays.join(', ')}`);
  const read = weekdays.map((weekday) => (hours[weekday] ?? []).map(readPiece).sort(([a], [b]) => a - b));
  if (read.flat().length === 0) throw new TypeError('calendar: no working hours at all');
  for (const day of read)
    day.forEach(([from], index) => {
      if (index > 0 && from < day[index - 1]![1]) throw new TypeError('calendar: working hours of one day overlap');
    });
  return read;
}

function readPiece(text: string): Minutes {
  const [, h1, m1, h2, m2] = /^(\d\d):(\d\d)-(\d\d):(\d\d)$/.exec(text) ?? [];
  const [from, to] = [Number(h1) * 60 + Number(m1), Number(h2) * 60 + Number(m2)];
  if (!(from < to && to <= 1_440 && Number(m1) < 60 && Number(m2) < 60))
    throw new TypeError(`calendar: working hours ${JSON.stringify(text)}: write them as "09:00-17:30"`);
  return [from, to];
}

function checkHoliday(text: string): string {
  const full = /^\d\d-\d\d$/.test(text) ? `2024-${text}` : text;
  const date = /^\d{4}-\d\d-\d\d$/.test(full) ? new Date(`${full}T00:00:00Z`) : undefined;
  if (date === undefined || Number.isNaN(date.getTime()) || date.toISOString().slice(0, 10) !== full)
    throw new TypeError(`calendar: holiday ${JSON.stringify(text)}: write it as "2026-12-24", or "12-25" for every year`);
  return text;
}
