import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { holdMs, preferenceApplied, readPrefer } from '../../adapters/http/prefer.js';

describe('Prefer (RFC 7240)', () => {
  it.each([
    [undefined, { respondAsync: false }],
    ['', { respondAsync: false }],
    ['wait=10', { respondAsync: false, waitMs: 10_000 }],
    ['wait=0', { respondAsync: false, waitMs: 0 }],
    ['respond-async', { respondAsync: true }],
    ['respond-async, wait=30', { respondAsync: true, waitMs: 30_000 }],
    ['Wait = 5 , Respond-Async', { respondAsync: true, waitMs: 5_000 }],
    ['wait="7"', { respondAsync: false, waitMs: 7_000 }],
    ['wait=7; why="a, wait=9"; x', { respondAsync: false, waitMs: 7_000 }],
    ['foo="respond-async, wait=1", wait=2', { respondAsync: false, waitMs: 2_000 }],
    ['wait=1, wait=2', { respondAsync: false, waitMs: 1_000 }],
    ['return=minimal, handling=lenient', { respondAsync: false }],
    ['respond-async=""', { respondAsync: true }],
    ['respond-async; foo=bar', { respondAsync: true }],
  ])('reads %j', (header, expected) => {
    expect(readPrefer(header)).toEqual(expected);
  });

  it.each([
    'wait',
    'wait=',
    'wait=-1',
    'wait=1.5',
    'wait=1e9',
    'wait=10000000000000',
    'wait=ten',
    'wait 10',
    '=',
    ',,;',
    '"',
    'wait="1',
    'respond-async=no',
    '\\',
    'wait=1 0',
  ])('ignores %j', (header) => {
    expect(readPrefer(header)).toEqual({ respondAsync: false });
  });

  it('reads several headers as one list', () => {
    expect(readPrefer(['respond-async', 'wait=3'])).toEqual({ respondAsync: true, waitMs: 3_000 });
  });

  it('never throws and never takes long, whatever is sent', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('w', 'a', '=', '"', '\\', ',', ';', ' ', '1', 'wait=', 'respond-async'), maxLength: 4_000 }),
        (text) => void readPrefer(text),
      ),
    );
    const began = performance.now();
    for (const nasty of [
      '"\\'.repeat(8_000),
      ' '.repeat(16_000),
      'a='.repeat(8_000),
      ','.repeat(16_000),
      `a${' '.repeat(15_000)}b`,
      '"'.repeat(16_001),
    ])
      readPrefer(nasty);
    // Milliseconds; what is quadratic would take minutes. The machine may be busy.
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  it('holds as long as asked, at most as long as the flow allows, and not at all for respond-async alone', () => {
    expect(holdMs({ respondAsync: false }, 60_000)).toBeUndefined();
    expect(holdMs({ respondAsync: true }, 60_000)).toBe(0);
    expect(holdMs({ respondAsync: true, waitMs: 5_000 }, 60_000)).toBe(5_000);
    expect(holdMs({ respondAsync: false, waitMs: 90_000 }, 60_000)).toBe(60_000);
  });

  it('says only what was done', () => {
    const asked = { respondAsync: true, waitMs: 90_000 };
    expect(preferenceApplied(asked, { accepted: true, holdMs: 60_000, heldMs: 60_001 })).toBe('respond-async, wait=60');
    expect(preferenceApplied(asked, { accepted: false, holdMs: 60_000, heldMs: 12 })).toBe('wait=60');
    expect(preferenceApplied({ respondAsync: true }, { accepted: true, holdMs: 0, heldMs: 0 })).toBe('respond-async');
    expect(preferenceApplied({ respondAsync: true }, { accepted: false, holdMs: 0, heldMs: 0 })).toBeUndefined();
    expect(preferenceApplied({ respondAsync: false }, { accepted: true, holdMs: undefined, heldMs: 25_000 })).toBeUndefined();
  });

  it('does not claim to have waited when the hub let go early', () => {
    expect(preferenceApplied({ respondAsync: false, waitMs: 30_000 }, { accepted: true, holdMs: 30_000, heldMs: 2_000 })).toBeUndefined();
  });
});
