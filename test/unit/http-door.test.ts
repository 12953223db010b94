import { EventEmitter } from 'node:events';
import type { Server } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { openDoor } from '../../adapters/http/door.js';

/** A server whose requests are emitted; `seen` has each as its handler, or whoever turned it away, began with it. */
function opened(busy: (before: number) => boolean) {
  const seen: string[] = [];
  const server = new EventEmitter();
  server.on('request', ({ name }: { name: string }) => seen.push(name));
  const gateway = {
    busy: (before = 0) => (busy(before) ? ({ over: 'hub', detail: 'too much', retryAfterMs: 1_000 } as const) : undefined),
  };
  openDoor(server as Server, [['POST', '/requests/:flow', async () => undefined, 'new']], { gateway, stopping: () => false });
  const comes = (name: string, method = 'POST') =>
    server.emit('request', { method, url: '/requests/echo', name }, { writeHead: () => undefined, end: () => seen.push(`${name} away`) });
  return { seen, comes };
}

const named = (count: number, name = 'r') => Array.from({ length: count }, (_, n) => `${name}${n}`);

describe('the door of the HTTP adapter', () => {
  it('lets few in at once and the others in the next turns, in the order in which they came', async () => {
    const { seen, comes } = opened(() => false);
    for (const name of named(40)) comes(name);
    expect(seen).toEqual(named(16));
    await turn();
    expect(seen).toEqual(named(32));
    comes('later');
    for (let turns = 0; turns < 3; turns++) await turn();
    expect(seen).toEqual([...named(40), 'later']);
  });

  it('turns away at once, and lets in what brings no work, whoever waits before it', async () => {
    const { seen, comes } = opened((before) => before >= 4);
    for (const name of named(25)) comes(name);
    comes('look', 'GET');
    expect(seen).toEqual([
      ...named(16),
      ...named(25)
        .slice(20)
        .map((name) => `${name} away`),
      'look',
    ]);
    for (let turns = 0; turns < 2; turns++) await turn();
    expect(seen.slice(-4)).toEqual(named(20).slice(16));
  });
});
