import { describe, expect, it } from '@jest/globals';
import { isLoopback } from '../../broker/listening.js';
import { localOnly } from '../../adapters/http/local.js';

describe('an open hub on loopback', () => {
  it.each(['127.0.0.1', '127.1.2.3', '::1', '[::1]', 'localhost', 'hub.localhost', 'LOCALHOST'])('is %s', (host) =>
    expect(isLoopback(host)).toBe(true),
  );
  it.each(['0.0.0.0', '::', '10.0.0.1', 'example.com', 'localhost.example.com', '127.0.0.1.example.com', ''])('is not %s', (host) =>
    expect(isLoopback(host)).toBe(false),
  );

  it('takes what its own pages and programs send', () => {
    expect(localOnly({ host: '127.0.0.1:8080' })).toBeUndefined();
    expect(localOnly({ host: 'localhost:8080', origin: 'http://localhost:8080' })).toBeUndefined();
    expect(localOnly({ host: '[::1]:8080' })).toBeUndefined();
  });

  it('refuses pages of other origins, and names that somebody pointed to loopback', () => {
    expect(localOnly({ host: '127.0.0.1:8080', origin: 'https://evil.example' })?.status).toBe(403);
    expect(localOnly({ host: '127.0.0.1:8080', origin: 'null' })?.status).toBe(403);
    expect(localOnly({ host: 'evil.example:8080' })?.status).toBe(421);
  });
});
