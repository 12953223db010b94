/** Ids: as RFC 9562 has them, and as the library that everybody uses makes them. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { v5, validate, version } from 'uuid';
import { deriveId, newId, timeOfId } from '../../broker/envelope.js';

describe('ids', () => {
  it('are derived as UUIDv5 of any text', () => {
    const text = fc.string({ unit: 'binary', maxLength: 400 });
    fc.assert(
      fc.property(text, text, fc.nat(), (id, step, index) => {
        expect(deriveId(id, step, index)).toBe(v5(`${id}/${step}/${index}`, '6d0c9f5e-7a0b-5f8e-9b6e-0a5b3c2d1e4f'));
      }),
    );
  });

  it('are new as UUIDv7, which tells when', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (at) => {
        const id = newId(at);
        expect([validate(id), version(id), timeOfId(id)]).toEqual([true, 7, at]);
      }),
    );
    expect(new Set(Array.from({ length: 10_000 }, () => newId())).size).toBe(10_000);
  });
});
