import { describe, expect, it } from '@jest/globals';
import { faultProblem, httpProblem, outcomeProblem, rawProblem, thrownProblem } from '../../adapters/http/problem.js';
import { Fault, faultBody, type FaultCode } from '../../broker/fault.js';

describe('problem+json', () => {
  it.each([
    ['invalid', 400],
    ['rejected', 422],
    ['forbidden', 403],
    ['timeout', 504],
    ['cancelled', 409],
    ['unavailable', 503],
    ['internal', 502],
  ] as [FaultCode, number][])('maps a fault %s to %d', (code, status) => {
    expect(faultProblem(new Fault(code, 'why'))).toMatchObject({ status, code, detail: 'why', type: `urn:answerback:error:${code}` });
  });

  it('gives some reasons a status of their own', () => {
    expect(faultProblem(new Fault('invalid', 'x', { reason: 'idempotency-mismatch' }))).toMatchObject({
      status: 422,
      code: 'invalid',
      reason: 'idempotency-mismatch',
    });
    expect(faultProblem(new Fault('invalid', 'no flow "x"; did you mean "y"?', { reason: 'unknown-flow' }))).toMatchObject({
      status: 404,
      code: 'not-found',
      reason: 'unknown-flow',
      detail: 'no flow "x"; did you mean "y"?',
    });
    expect(faultProblem(new Fault('unavailable', 'x', { reason: 'too-many' }))).toMatchObject({ status: 429, code: 'too-many' });
    expect(faultProblem(new Fault('unavailable', 'x', { reason: 'unknown' }))).toMatchObject({ status: 503, reason: 'unknown' });
  });

  it('lists every flaw', () => {
    const errors = [{ pointer: '#/amount', detail: 'must be > 0' }];
    expect(faultProblem(new Fault('invalid', 'x', { errors }))).toMatchObject({ errors });
  });

  it('makes one of every outcome that is not a reply, whatever its body is', () => {
    const body = Buffer.from(JSON.stringify(faultBody(new Fault('rejected', 'no credit', { step: 'credit.score' }))));
    expect(outcomeProblem({ kind: 'fault', body, contentType: 'application/json', at: 0 }, 'r1')).toMatchObject({
      status: 422,
      requestId: 'r1',
      instance: '/requests/r1',
      step: 'credit.score',
    });
    expect(outcomeProblem({ kind: 'timeout', body: Buffer.from('\xff'), contentType: 'x', at: 0 }, 'r1')).toMatchObject({ status: 504 });
    expect(outcomeProblem({ kind: 'cancelled', body: Buffer.alloc(0), contentType: 'x', at: 0 }, 'r1')).toMatchObject({ status: 409 });
    expect(outcomeProblem({ kind: 'fault', body: Buffer.from('broken'), contentType: 'text/plain', at: 0 }, 'r1')).toMatchObject({
      status: 502,
      detail: 'broken',
    });
  });

  it('tells nothing of errors that are our own', () => {
    expect(JSON.stringify(thrownProblem(new Error('secret at /home/x.ts')))).not.toContain('secret');
    expect(thrownProblem(new Error('x')).status).toBe(500);
  });

  it('is a whole response for a socket without a request', () => {
    const text = rawProblem(httpProblem('bad-request', 'ü'));
    const [head = '', body = ''] = text.split('\r\n\r\n');
    expect(head).toContain(`Content-Length: ${Buffer.byteLength(body)}`);
    expect(head).toMatch(/^HTTP\/1\.1 400 /);
    expect(JSON.parse(body)).toMatchObject({ status: 400 });
  });
});
