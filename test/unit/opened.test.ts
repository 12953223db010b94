/** Rules of requests that arrive in parts. */
import { describe, expect, it } from '@jest/globals';
import {
  dueAt,
  ended,
  longestMs,
  missingOf,
  nextOf,
  opened,
  openedStatus,
  refusalOf,
  reminded,
  reopened,
  together,
  typeOf,
  withEnd,
  withPart,
  type Opened,
} from '../../broker/opened.js';
import type { PartsLimits } from '../../broker/flow.js';

const limits: PartsLimits = { leaseMs: 600, count: 5, size: 10, total: 25 };
const begun = opened({ flow: 'claims', principal: 'ana' }, limits, 1_000);
const part = (sequence: number, size = 5, contentType = 'application/json') => ({ sequence, size, contentType });
const filled = (...sequences: readonly number[]): Opened =>
  sequences.reduce((data, sequence) => withPart('r', data, part(sequence), limits, 1_100), begun);
const faultOf = (work: () => unknown) => {
  try {
    work();
  } catch (error) {
    return error as { readonly code: string; readonly reason: string; readonly message: string };
  }
  throw new Error('it is not refused');
};

describe('a request that arrives in parts', () => {
  it('is counted part by part, each once', () => {
    const data = filled(3, 1, 3);
    expect(openedStatus('r', data)).toMatchObject({ state: 'open', received: 2, bytes: 10, missing: [2], contentType: 'application/json' });
    expect(missingOf(data.sizes, 5)).toEqual([2, 4, 5]);
  });

  it.each([
    ['a number that is too high', part(6), 'too-large'],
    ['a part that is too large', part(4, 11), 'too-large'],
    ['parts that are too large together', part(4, 9), 'too-large'],
    ['another content type', part(4, 1, 'text/plain'), 'part'],
  ])('refuses %s, and is as it was', (_what, one, reason) => {
    const data = withPart('r', filled(1, 2), part(3, 7), limits, 1_100);
    expect(faultOf(() => withPart('r', data, one, limits, 1_200))).toMatchObject({ code: 'invalid', reason });
    expect(openedStatus('r', data)).toMatchObject({ received: 3, bytes: 17 });
  });

  it('is reminded at half of its lease, expires at its end, and begins anew with each part', () => {
    expect([dueAt(begun, 1_299), dueAt(begun, 1_300)]).toEqual([undefined, 'remind']);
    expect(nextOf(begun).wakeAt).toBe(1_300);
    const told = reminded(begun, 1_300);
    expect([nextOf(told).wakeAt, dueAt(told, 1_599), dueAt(told, 1_600)]).toEqual([1_600, undefined, 'expire']);
    expect(dueAt(withPart('r', told, part(1), limits, 1_500), 1_799)).toBeUndefined();
    expect(dueAt(withPart('r', filled(1), part(1), limits, 1_500), 1_800)).toBe('remind');
    expect(dueAt(withPart('r', begun, part(1), limits, 1_000 + longestMs - 1), 1_000 + longestMs)).toBe('expire');
  });

  it('whose hubs were away over its lease is reminded first, and has the rest of its lease then', () => {
    expect(dueAt(begun, 9_000)).toBe('remind');
    const told = reminded(begun, 9_000);
    expect([told.expiresAt, dueAt(told, 9_299), dueAt(told, 9_300)]).toEqual([9_300, undefined, 'expire']);
    expect(dueAt(begun, 1_000 + longestMs)).toBe('expire');
  });

  it('closes with all its parts, and with no others', () => {
    expect(withEnd('r', filled(1, 2), 2, limits, 1_200)).toMatchObject({ state: 'closing', total: 2 });
    expect(faultOf(() => withEnd('r', filled(1, 3), 4, limits, 1_200)).message).toContain('parts 2, 4 of 4 are missing');
    expect(faultOf(() => withEnd('r', filled(1, 3), 2, limits, 1_200))).toMatchObject({ reason: 'parts' });
    expect(faultOf(() => withEnd('r', begun, 1, limits, 1_200)).message).toContain('part 1 of 1 is missing');
  });

  it('is closed once: again with as many parts it is the same, with others refused', () => {
    const closing = withEnd('r', filled(1), 1, limits, 1_200);
    const closed = ended(closing, 'closed', 1_300, 'r');
    for (const data of [closing, closed]) {
      expect(withEnd('r', data, 1, limits, 1_400)).toBe(data);
      expect(withPart('r', data, part(1), limits, 1_400)).toBe(data);
      expect(faultOf(() => withEnd('r', data, 2, limits, 1_400))).toMatchObject({ reason: 'closed' });
      expect(faultOf(() => withPart('r', data, part(2), limits, 1_400))).toMatchObject({ reason: 'closed' });
    }
    expect(openedStatus('r', reopened(closing, 1_400))).toMatchObject({ state: 'open', expiresAt: 2_000 });
  });

  it('whose end is told first closes with its last part, and takes none beyond', () => {
    const sealed = withEnd('r', filled(1), 3, limits, 1_200, { priority: 3 });
    expect(sealed).toMatchObject({ state: 'open', total: 3 });
    expect(faultOf(() => withPart('r', sealed, part(4), limits, 1_300))).toMatchObject({ reason: 'part' });
    expect(faultOf(() => withEnd('r', sealed, 4, limits, 1_300, {}))).toMatchObject({ reason: 'parts' });
    const almost = withPart('r', sealed, part(3), limits, 1_300);
    expect(almost.state).toBe('open');
    expect(withPart('r', almost, part(2), limits, 1_400)).toMatchObject({ state: 'closing', sealed: { priority: 3 } });
  });

  it.each(['expired', 'abandoned'] as const)('that is %s takes nothing more, and says why', (state) => {
    const over = ended(filled(1, 3), state, 1_700);
    for (const refused of [() => withPart('r', over, part(1), limits, 1_800), () => withEnd('r', over, 3, limits, 1_800)])
      expect(faultOf(refused)).toMatchObject({ reason: state, message: expect.stringContaining('POST /requests/claims/parts') });
    expect(refusalOf(openedStatus('r', begun))).toBeUndefined();
    expect(dueAt(over, 1e15)).toBeUndefined();
  });

  it('is the list of JSON parts, or bytes after bytes', () => {
    const bodies = ['1', ' {"a":[]}', '"x"'].map((text) => Buffer.from(text));
    expect(together('application/json', bodies).toString()).toBe('[1, {"a":[]},"x"]');
    expect(together('application/x-ndjson', bodies).toString()).toBe('1 {"a":[]}"x"');
    expect(typeOf('application/claim+json; charset=utf-8')).toBe('application/json');
    expect(typeOf('application/x-ndjson')).toBe('application/x-ndjson');
    expect(typeOf('text/json-like')).toBe('text/json-like');
  });
});
