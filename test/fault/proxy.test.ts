/** The fault proxy itself: a proxy that breaks nothing proves nothing. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { faultProxy, type FaultProxy } from '../support/proxy.js';

describe('the fault proxy', () => {
  const echo = createServer((socket) => void socket.on('error', () => {}).pipe(socket));
  let proxy: FaultProxy;
  let client: Socket;
  let heard: Buffer;
  const urlOf = (server: typeof echo) => `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const dial = async () => {
    heard = Buffer.alloc(0);
    client = connect(Number(new URL(proxy.url).port), '127.0.0.1');
    client.on('data', (chunk) => (heard = Buffer.concat([heard, chunk])));
    client.on('error', () => {});
    await once(client, 'connect');
  };
  const says = async (text: string) => {
    client.write(text);
    await eventually(() => expect(heard.toString().endsWith(text)).toBe(true));
  };
  beforeEach(async () => {
    if (!echo.listening) await once(echo.listen(0, '127.0.0.1'), 'listening');
    proxy = await faultProxy(urlOf(echo));
    await dial();
    await says('hello');
  });
  afterEach(async () => {
    client.destroy();
    await proxy.close();
    echo.close();
  });

  it('delays each way, and keeps the order', async () => {
    proxy.delay(60);
    const began = performance.now();
    for (const letter of 'abc') client.write(letter);
    await says('d');
    expect(performance.now() - began).toBeGreaterThanOrEqual(119);
    expect(heard.toString()).toBe('helloabcd');
  });

  it('lets so many bytes a second through', async () => {
    proxy.slow(10_000);
    const began = performance.now();
    await says('x'.repeat(1_000));
    expect(performance.now() - began).toBeGreaterThanOrEqual(190);
  });

  it('is a black hole, and lets go what it swallowed', async () => {
    proxy.pause();
    client.write('into the hole');
    const other = connect(Number(new URL(proxy.url).port), '127.0.0.1');
    await once(other, 'connect');
    other.destroy();
    expect(heard.toString()).toBe('hello');
    proxy.resume();
    await says('out again');
    expect(heard.toString()).toBe('hellointo the holeout again');
  });

  it('resets what is open, and what is new', async () => {
    proxy.cut();
    await eventually(() => expect(client.destroyed).toBe(true));
    proxy.refuse(true);
    const refused = connect(Number(new URL(proxy.url).port), '127.0.0.1');
    const [error] = (await once(refused, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toBe('ECONNRESET');
  });

  it('forgets one end without telling the other', async () => {
    proxy.forget();
    await eventually(async () => expect(await new Promise((resolve) => echo.getConnections((_error, count) => resolve(count)))).toBe(0));
    client.write('nobody hears this');
    expect(client.destroyed).toBe(false);
    expect(heard.toString()).toBe('hello');
    await dial();
    await says('a new one works');
  });

  it('cuts a connection in the middle of what it says', async () => {
    proxy.cutAfter(10);
    await says('0123456789');
    client.write('x');
    await eventually(() => expect(client.destroyed).toBe(true));
    expect(heard.toString()).toBe('hello0123456789');
  });

  it('leads somewhere else from now on', async () => {
    const other = createServer((socket) => void socket.on('error', () => {}).end('other'));
    await once(other.listen(0, '127.0.0.1'), 'listening');
    proxy.retarget(urlOf(other));
    await says('still the old one');
    await dial();
    await eventually(() => expect(heard.toString()).toBe('other'));
    other.close();
  });
});
