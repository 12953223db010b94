import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { calendar, everyHour, type Weekday } from '../../broker/tasks/calendar.js';

const at = (text: string): number => new Date(text).getTime();
const iso = (ms: number): string => new Date(ms).toISOString();

const office = calendar({
  zone: 'Europe/Berlin',
  hours: Object.fromEntries((['mon', 'tue', 'wed', 'thu', 'fri'] as const).map((day) => [day, ['09:00-12:00', '13:00-17:00']])),
  holidays: ['12-25', '12-26', '2026-04-06'],
});

describe('business time', () => {
  it.each([
    // A Tuesday in winter: 10:00 in Berlin is 09:00 UTC.
    ['2026-01-13T09:00:00Z', '1h', '2026-01-13T10:00:00.000Z'],
    ['2026-01-13T09:00:00Z', '4h', '2026-01-13T14:00:00.000Z'],
    ['2026-01-13T09:00:00Z', '8h', '2026-01-14T10:00:00.000Z'],
    ['2026-01-13T15:30:00Z', '1h', '2026-01-14T08:30:00.000Z'],
    // Friday evening and the weekend.
    ['2026-01-16T18:00:00Z', '30m', '2026-01-19T08:30:00.000Z'],
    ['2026-01-17T10:00:00Z', '1d', '2026-01-19T10:00:00.000Z'],
    ['2026-01-16T10:30:00Z', '2d', '2026-01-20T10:30:00.000Z'],
    // In the lunch break the time of day is the end of it; after work, the end of work.
    ['2026-01-13T11:30:00Z', '1d', '2026-01-14T12:00:00.000Z'],
    ['2026-01-13T20:00:00Z', '1d', '2026-01-14T16:00:00.000Z'],
    // Easter Monday, and Christmas of every year.
    ['2026-04-02T08:00:00Z', '2d', '2026-04-07T08:00:00.000Z'],
    ['2027-12-24T15:00:00Z', '2h', '2027-12-27T09:00:00.000Z'],
    // Over the night in which the clocks go forward (29 March 2026): the same time of day.
    ['2026-03-27T09:00:00Z', '1d', '2026-03-30T08:00:00.000Z'],
  ])('from %s, %s is %s', (from, span, to) => {
    expect(iso(office.after(at(from), span))).toBe(to);
  });

  it('has a half that is half of the working time', () => {
    const [from, to] = [at('2026-01-16T08:00:00Z'), at('2026-01-19T16:00:00Z')];
    expect(iso(office.share(from, to, 0.5))).toBe('2026-01-16T16:00:00.000Z');
    expect(iso(office.share(from, to, 0.75))).toBe('2026-01-19T12:30:00.000Z');
    expect(iso(everyHour.share(0, 1_000, 0.5))).toBe('1970-01-01T00:00:00.500Z');
  });

  it('skips the hour that daylight saving leaves out, and works through the one that comes twice', () => {
    const nights = calendar({ zone: 'Europe/Berlin', hours: { sun: ['00:00-24:00'] } });
    expect(iso(nights.after(at('2026-03-28T23:00:00Z'), '23h'))).toBe('2026-03-29T22:00:00.000Z');
    expect(iso(nights.after(at('2026-10-24T22:00:00Z'), '25h'))).toBe('2026-10-25T23:00:00.000Z');
  });

  it('only goes forward, also in zones with odd changes', () => {
    const weekdays: readonly Weekday[] = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
    fc.assert(
      fc.property(
        fc.constantFrom('Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'Pacific/Apia', 'UTC'),
        fc.subarray([...weekdays], { minLength: 1 }),
        fc.integer({ min: at('2011-12-01T00:00:00Z'), max: at('2030-01-01T00:00:00Z') }),
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 1, max: 20 }),
        (zone, days, from, hours, spanDays) => {
          const its = calendar({ zone, hours: Object.fromEntries(days.map((day) => [day, ['00:30-02:45', '08:00-24:00']])) });
          const one = its.after(from, `${hours}h`);
          expect(one - from).toBeGreaterThanOrEqual(hours * 3_600_000);
          expect(its.after(from, `${hours + 1}h`)).toBeGreaterThan(one);
          // Two spans one after the other are their sum.
          expect(its.after(its.after(from, '1h'), `${hours}h`)).toBe(its.after(from, `${hours + 1}h`));
          expect(its.after(from, `${spanDays}d`)).toBeGreaterThan(from);
          const half = its.share(from, one, 0.5);
          expect(half >= from && half <= one).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  it.each([
    [{ zone: 'Europe/Nowhere', hours: { mon: ['09:00-17:00'] } }, /time zone/i],
    [{ zone: 'UTC', hours: {} }, /no working hours/],
    [{ zone: 'UTC', hours: { monday: ['09:00-17:00'] } }, /no weekday/],
    [{ zone: 'UTC', hours: { mon: ['9-17'] } }, /write them as/],
    [{ zone: 'UTC', hours: { mon: ['09:00-12:00', '11:00-13:00'] } }, /overlap/],
    [{ zone: 'UTC', hours: { mon: ['09:00-17:00'] }, holidays: ['2026-02-30'] }, /holiday/],
  ])('refuses %j', (options, why) => {
    expect(() => calendar(options as never)).toThrow(why);
  });
});
