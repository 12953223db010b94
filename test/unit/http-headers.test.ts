import { describe, expect, it } from '@jest/globals';
import { apiKey, headerValue, matches, readHeaders } from '../../adapters/http/headers.js';

const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

describe('headers of a request', () => {
  it.each([
    ['abc', 'abc'],
    ['"abc"', 'abc'],
    ['"a \\"b\\" c"', 'a "b" c'],
    ['8e03978e-40d5-43e8-bc93-6894a57f9324', '8e03978e-40d5-43e8-bc93-6894a57f9324'],
    ['"8e03978e-40d5-43e8-bc93-6894a57f9324"', '8e03978e-40d5-43e8-bc93-6894a57f9324'],
    ['order:42/a', 'order:42/a'],
    ['x'.repeat(255), 'x'.repeat(255)],
  ])('takes the Idempotency-Key %j', (header, key) => {
    expect(readHeaders({ 'idempotency-key': header }).idempotencyKey).toBe(key);
  });

  it.each([
    '',
    '""',
    '"abc',
    'a b',
    'a, b',
    '"a", "b"',
    'ä',
    '"ä"',
    'x'.repeat(256),
    `"${'x'.repeat(256)}"`,
    '"a"b',
    'a"b"',
    '(a)',
    'a;b',
    '"a\\n"',
  ])('refuses the Idempotency-Key %j', (header) => {
    expect(() => readHeaders({ 'idempotency-key': header })).toThrow(/Idempotency-Key/);
  });

  it.each([
    ['10', 10_000],
    ['0.25', 250],
    ['86400', 86_400_000],
  ])('takes the Hub-Deadline %j', (header, ms) => {
    expect(readHeaders({ 'hub-deadline': header }).deadlineMs).toBe(ms);
  });

  it.each(['0', '-1', '', 'ten', '1e3', '0.0001', 'NaN', 'Infinity', '10, 10', '99999999999', '0x10', ' '])(
    'refuses the Hub-Deadline %j',
    (header) => {
      expect(() => readHeaders({ 'hub-deadline': header })).toThrow(/Hub-Deadline/);
    },
  );

  it('takes a Hub-Key of printable ASCII, and nothing else', () => {
    expect(readHeaders({ 'hub-key': 'C-1042 / x' }).key).toBe('C-1042 / x');
    for (const bad of ['', 'ü', 'a\tb', 'x'.repeat(256)]) expect(() => readHeaders({ 'hub-key': bad })).toThrow(/Hub-Key/);
  });

  it('hands on a valid trace context and ignores a broken one', () => {
    expect(readHeaders({ traceparent, tracestate: 'a=1' })).toMatchObject({ traceparent, tracestate: 'a=1' });
    const broken = readHeaders({ traceparent: '00-xyz', tracestate: 'a=1' });
    expect(broken).not.toHaveProperty('traceparent');
    expect(broken).not.toHaveProperty('tracestate');
  });

  it('keeps content type and encoding, and leaves out the encoding that changes nothing', () => {
    expect(readHeaders({})).toEqual({ contentType: 'application/octet-stream' });
    expect(readHeaders({ 'content-type': 'text/csv; header=present', 'content-encoding': 'gzip' })).toEqual({
      contentType: 'text/csv; header=present',
      contentEncoding: 'gzip',
    });
    expect(readHeaders({ 'content-encoding': 'identity' })).not.toHaveProperty('contentEncoding');
    expect(() => readHeaders({ 'content-encoding': 'g zip' })).toThrow(/Content-Encoding/);
    expect(() => readHeaders({ 'content-type': `text/${'x'.repeat(255)}` })).toThrow(/Content-Type/);
  });

  it('finds the API key in either header', () => {
    expect(apiKey({ authorization: 'Bearer ab_1_x' })).toBe('ab_1_x');
    expect(apiKey({ authorization: 'bearer  ab_1_x' })).toBe('ab_1_x');
    expect(apiKey({ 'x-api-key': 'ab_1_x' })).toBe('ab_1_x');
    expect(apiKey({ authorization: 'Basic eDp5' })).toBeUndefined();
  });

  it('compares entity tags weakly', () => {
    expect(matches('"a", W/"b"', '"b"')).toBe(true);
    expect(matches('*', '"b"')).toBe(true);
    expect(matches('"a"', '"b"')).toBe(false);
    expect(matches(undefined, '"b"')).toBe(false);
  });

  it('never makes a header of a value with a line break', () => {
    expect(headerValue('text/plain\r\nset-cookie: a=b', 'application/octet-stream')).toBe('application/octet-stream');
    expect(headerValue('text/plain', 'x')).toBe('text/plain');
  });
});
