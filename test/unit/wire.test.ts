/** Envelope ⇄ AMQP, over everything that an envelope may hold and over what no envelope ever was. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { DisplayString, parseDictionary, Token } from 'structured-headers';
import type { Envelope, EnvelopeType } from '../../broker/envelope.js';
import type { HeaderValue, Message } from '../../broker/transport.js';
import { ourDictionary } from '../../broker/dictionary.js';
import { decode, encode, isUndecodable, outcomeOf } from '../../broker/wire.js';

/** A text with any character that exists: controls, quotes, per cent signs, emoji. */
const anyText = fc.string({ unit: 'binary', maxLength: 40 });
const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const words = (first: string) => fc.stringMatching(new RegExp(`^${first}[a-z0-9]{0,8}([.-][a-z0-9]{1,6}){0,3}$`));
/** As `hub.yaml` takes it: flows may begin with a digit, steps may not. */
const flowName = words('[a-z0-9]');
const stepName = words('[a-z]');
const count = fc.integer({ min: 1, max: 100_000 });
const ms = fc.integer({ min: 0, max: 4_102_444_800_000 });
const headerValue = fc.oneof(
  anyText,
  fc.integer(),
  fc.boolean(),
  fc.constant(null),
  fc.array(fc.integer(), { maxLength: 3 }),
  fc.dictionary(fc.string(), fc.integer(), { maxKeys: 2 }),
) as fc.Arbitrary<HeaderValue>;
const ourHeaders = fc.dictionary(
  anyText.map((name) => `hub-${name}`),
  headerValue,
  { minKeys: 1, maxKeys: 4 },
);

const required = {
  id: fc.uuid(),
  requestId: fc.oneof(fc.uuid(), anyText),
  type: fc.constantFrom<EnvelopeType>('request', 'reply', 'part', 'progress', 'fault', 'event', 'cancel'),
  flow: flowName,
  slip: fc.array(stepName, { maxLength: 6 }),
  step: count,
  attempt: count,
  // The wire carries seconds.
  deadline: fc.integer({ min: 0, max: 4_102_444_800 }).map((seconds) => seconds * 1_000),
  groups: fc.array(
    fc.record({ id: anyText, index: fc.nat(10_000), size: fc.nat(10_000), at: stepName, deadline: fc.nat(2 ** 42), name: anyText }),
    { maxLength: 3 },
  ),
  durable: fc.boolean(),
  journal: fc.boolean(),
  recorded: fc.boolean(),
  urgent: fc.option(fc.constant(true), { nil: undefined }),
  at: ms,
  body: bytes,
  contentType: fc.string({ minLength: 1, maxLength: 60 }),
};
const optional = {
  replyTo: anyText,
  key: anyText,
  principal: anyText,
  conversation: anyText,
  aside: fc.record({ queue: anyText, correlationId: fc.option(anyText, { nil: undefined }), parts: fc.boolean() }),
  contentEncoding: anyText,
  traceparent: anyText,
  tracestate: anyText,
  priority: fc.integer({ min: 0, max: 255 }),
  extra: ourHeaders,
};
const envelopes = fc
  .tuple(
    fc.record({ ...required, ...optional }, { requiredKeys: Object.keys(required) as (keyof typeof required)[] }),
    fc.option(fc.record({ from: stepName, took: fc.nat(1_000_000) }), { nil: undefined }),
  )
  .map(([envelope, done]): Envelope => ({ ...envelope, ...done, journal: envelope.durable && envelope.journal }));

const anything = fc.oneof(anyText, fc.integer(), fc.double(), fc.boolean(), fc.constant(null), fc.object()) as fc.Arbitrary<HeaderValue>;
/** With texts as most are, which need no escapes, of requestors that hear nothing aside. */
const commonEnvelopes = fc.tuple(envelopes, fc.uuid(), fc.stringMatching(/^[ !#-[\]-~]{0,20}$/)).map(([envelope, id, text]): Envelope => {
  const { key, principal, conversation, aside: _aside, ...rest } = envelope;
  return {
    ...rest,
    groups: envelope.groups.map((group) => ({ ...group, id, name: text })),
    ...(key === undefined ? {} : { key: text }),
    ...(principal === undefined ? {} : { principal: text }),
    ...(conversation === undefined ? {} : { conversation: text }),
  };
});
/** A header as ours, with something wrong in it. */
const almost = (from: fc.Arbitrary<Envelope>) =>
  fc.tuple(from, fc.nat(), fc.nat(20), fc.string({ unit: 'binary-ascii', maxLength: 5 })).map(([envelope, at, length, noise]) => {
    const header = String(encode(envelope).headers!['hub']);
    const place = at % (header.length + 1);
    return header.slice(0, place) + noise + header.slice(place + length);
  });
const almostHubHeader = almost(envelopes);
const messages = fc.record(
  {
    body: bytes,
    messageId: anyText,
    correlationId: anyText,
    replyTo: anyText,
    type: fc.oneof(anyText, fc.constantFrom('request', 'reply', 'fault')),
    contentType: anyText,
    timestamp: fc.integer(),
    priority: fc.integer(),
    headers: fc
      .tuple(
        fc.dictionary(fc.string(), anything, { maxKeys: 3 }),
        fc.record({ hub: fc.oneof(anything, almostHubHeader), 'hub-error-code': anything, 'hub-error': anything }, { requiredKeys: [] }),
      )
      .map(([others, ours]) => ({ ...others, ...ours })),
  },
  { requiredKeys: ['body'] },
) as fc.Arbitrary<Message>;

const runs = { numRuns: 500 };

describe('the wire form', () => {
  it('gives back every envelope as it was', () => {
    fc.assert(
      fc.property(envelopes, (envelope) => expect(decode(encode(envelope))).toEqual(envelope)),
      runs,
    );
  });

  it('is one line of printable ASCII, so that a person can read it and AMQP can carry it', () => {
    fc.assert(
      fc.property(envelopes, (envelope) => expect(encode(envelope).headers!['hub']).toMatch(/^[\x20-\x7e]+$/)),
      runs,
    );
  });

  it('reads any message, or says what is wrong with it', () => {
    fc.assert(
      fc.property(messages, (message) => {
        const found = decode(message);
        if (isUndecodable(found)) expect(found.undecodable).not.toBe('');
        else expect(typeof encode(found).headers!['hub']).toBe('string');
      }),
      { numRuns: 2_000 },
    );
  });

  it('reads its own header without the library, and the same as the library', () => {
    const comparable = (value: unknown): unknown => {
      if (value instanceof Map) return [...(value as Map<string, unknown>)].map(([name, inner]) => [name, comparable(inner)]);
      if (Array.isArray(value)) return (value as unknown[]).map((one) => comparable(one));
      return value instanceof Token || value instanceof DisplayString ? value.toString() : value;
    };
    const read = (header: string) => {
      const ours = ourDictionary(header);
      if (ours !== undefined) expect(comparable(ours)).toEqual(comparable(parseDictionary(header)));
      return ours !== undefined;
    };
    const headerOf = (envelope: Envelope) => String(encode(envelope).headers!['hub']);
    fc.assert(
      fc.property(commonEnvelopes, (envelope) => expect([envelope.flow, read(headerOf(envelope))]).toEqual([envelope.flow, true])),
      runs,
    );
    fc.assert(
      fc.property(envelopes, (envelope) => void read(headerOf(envelope))),
      runs,
    );
    fc.assert(
      fc.property(almost(commonEnvelopes), (header) => void read(header)),
      { numRuns: 1_500 },
    );
  });

  it('reads a plain header at one look, and the same as piece by piece', () => {
    // A member that nobody knows keeps it from being plain.
    const both = (hub: string) =>
      [hub, `x, ${hub}`].map((header) =>
        decode({ body: Buffer.alloc(0), messageId: 'a', correlationId: 'b', type: 'request', headers: { hub: header } }),
      );
    const same = (hub: string) => {
      const [atOneLook, byPieces] = both(hub);
      if (!isUndecodable(byPieces!) || !isUndecodable(atOneLook!)) expect(atOneLook).toEqual(byPieces);
    };
    fc.assert(
      fc.property(commonEnvelopes, (envelope) => same(String(encode(envelope).headers!['hub']))),
      runs,
    );
    fc.assert(fc.property(almost(commonEnvelopes), same), { numRuns: 1_500 });
  });

  it('says what a message without our header is', () => {
    expect(decode({ body: Buffer.alloc(0) })).toMatchObject({ undecodable: expect.stringContaining('requests exchange') });
  });

  it('makes an outcome of any answer, whoever wrote it', () => {
    fc.assert(
      fc.property(messages, ms, (message, at) => {
        const outcome = outcomeOf(message, at);
        expect(outcome.kind === 'reply').toBe(message.type !== 'fault');
        expect(outcome.at).toBe(at);
        if (outcome.kind === 'reply') expect(outcome.body).toBe(message.body);
        else expect(JSON.parse(outcome.body.toString())).toMatchObject({ code: expect.any(String), message: expect.any(String) });
      }),
      { numRuns: 1_000 },
    );
  });
});
