import { describe, expect, it } from '@jest/globals';
import { Socket } from 'node:net';
import { once } from 'node:events';
import { visits, type Visit } from '../../adapters/http/visits.js';

const entered = (visit: Visit | string): Visit => {
  if (typeof visit === 'string') throw new Error(visit);
  return visit;
};

describe('requests in flight', () => {
  it('are limited in all and per principal, and free their place once', () => {
    const all = visits({ all: 2, perPrincipal: 1 });
    const socket = new Socket();
    const first = entered(all.enter(socket, 'ann'));
    expect(all.enter(socket, 'ann')).toBe('too-many');
    entered(all.enter(socket, 'bob'));
    expect(all.enter(socket, 'cid')).toBe('overloaded');
    first.leave();
    first.leave();
    entered(all.enter(socket, 'ann'));
    expect(all.enter(socket, 'cid')).toBe('overloaded');
  });

  it('end together when their connection closes', async () => {
    const all = visits({ all: 9, perPrincipal: 9 });
    const socket = new Socket();
    const both = [entered(all.enter(socket, 'ann')), entered(all.enter(socket, 'ann'))];
    socket.destroy();
    await once(socket, 'close');
    expect(both.map(({ signal }) => signal.aborted)).toEqual([true, true]);
  });

  it('end at once on a connection that is closed already', () => {
    const socket = new Socket().destroy();
    expect(entered(visits({ all: 1, perPrincipal: 1 }).enter(socket, 'ann')).signal.aborted).toBe(true);
  });

  it('are ended with their connection, unless the hub acts on one already', () => {
    const all = visits({ all: 9, perPrincipal: 9 });
    const [idle, busy] = [new Socket(), new Socket()];
    const waiting = entered(all.enter(idle, 'ann'));
    entered(all.enter(busy, 'ann')).take();
    expect([all.refuse(idle), all.refuse(busy)]).toEqual([true, false]);
    expect(() => waiting.take()).toThrow(/hung up/);
    expect(() => entered(all.enter(idle, 'ann')).take()).toThrow(/hung up/);
    entered(all.enter(busy, 'ann')).take();
  });

  it('cost one listener per connection, however many they are', () => {
    const all = visits({ all: 99, perPrincipal: 99 });
    const socket = new Socket();
    for (let i = 0; i < 20; i++) entered(all.enter(socket, 'ann')).leave();
    expect(socket.listenerCount('close')).toBe(1);
  });
});
