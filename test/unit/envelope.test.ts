/** Ids: as RFC 9562 has them, and as the library that everybody uses makes them. And the one shape of all envelopes. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { v5, validate, version } from 'uuid';
import { callbackEnvelope } from '../../broker/callback.js';
import { deriveId, firstEnvelope, follow, newId, timeOfId, type GroupMember } from '../../broker/envelope.js';
import { decode, encode } from '../../broker/wire.js';

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

describe('envelopes', () => {
  it('have one shape, whoever makes them', () => {
    const content = { body: Buffer.from('1'), contentType: 'application/json' };
    const first = firstEnvelope({ id: newId(), flow: 'loan', slip: ['score', 'best'], deadline: 60_000, at: 1, ...content });
    const group: GroupMember = { id: newId(), index: 0, size: 1, at: 'best', deadline: 60_000, name: 'only' };
    const others = {
      followed: follow(first, { at: 2 }),
      read: decode(encode(first)),
      readAsDictionary: decode(encode({ ...first, groups: [group] })),
      callback: callbackEnvelope({ id: first.id, flow: 'loan' }, { kind: 'reply', at: 1, ...content }),
    };
    const shape = Object.keys(first);
    for (const [which, envelope] of Object.entries(others)) expect([which, ...Object.keys(envelope)]).toEqual([which, ...shape]);
  });
});
