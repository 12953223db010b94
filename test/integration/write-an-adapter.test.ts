import { expect, it } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { line } from '../../examples/adapters/line.js';
import { adapterContract, contractFlow, takenPort, type Heard } from '../contract/adapter.js';
import { freePort } from '../support/ports.js';

const source = readFileSync('examples/adapters/line.ts', 'utf8');

it('shows in docs/write-an-adapter.md exactly the file that is tested here, in at most 40 lines', () => {
  const [, shown] = /<!-- examples\/adapters\/line\.ts -->\n```ts\n(.*?)```/s.exec(readFileSync('docs/write-an-adapter.md', 'utf8')) ?? [];
  expect(shown).toBe(source);
  expect(source.trimEnd().split('\n').length).toBeLessThanOrEqual(40);
});

/** One connection: what is said to it, by the name of the request. */
async function dial(port: number) {
  const socket = connect(port, '127.0.0.1').on('error', () => undefined);
  await once(socket, 'connect');
  const lines = createInterface(socket)[Symbol.asyncIterator]();
  const next = async (name: string): Promise<Heard> => {
    const { value = '', done } = (await lines.next()) as { value?: string; done?: boolean };
    if (done === true) return { kind: 'fault', code: 'gone' };
    const [, said, what, json = '{}'] = /^(\S+) (\w+)(?: (.*))?$/.exec(value) ?? [];
    if (said !== name) return next(name);
    if (what === 'accepted') return { kind: 'accepted', later: () => next(name) };
    const body = JSON.parse(json) as { code: string };
    return what === 'reply' ? { kind: 'reply', body } : { kind: 'fault', code: body.code };
  };
  return { socket, next };
}

adapterContract({
  adapter: line,
  repeats: true,
  settings: async () => ({ port: await freePort(), flow: contractFlow }),
  async connect(_open, { port }) {
    const sockets = new Set<ReturnType<typeof connect>>();
    const call = async (text: string | Buffer) => {
      const peer = await dial(port);
      sockets.add(peer.socket);
      peer.socket.write(text);
      return peer;
    };
    return {
      send: async (name, work) => (await call(`${name} ${JSON.stringify(work)}\n`)).next(name),
      async sendTwice(name, work) {
        const text = `${name} ${JSON.stringify(work)}\n`;
        const peers = await Promise.all([call(text), call(text)]);
        return Promise.all(peers.map((peer) => peer.next(name)));
      },
      async sendGarbage(_name, garbage) {
        const peer = await call(Buffer.concat([garbage, Buffer.from('\n')]));
        peer.socket.end();
        const [first] = (await once(createInterface(peer.socket), 'line')) as [string];
        return /"code":"(\w+)"/.exec(first)?.[1];
      },
      async sendHuge(name) {
        const peer = await call(`${name} ${'x'.repeat(200_000)}`);
        await new Promise((closed) => peer.socket.once('close', closed));
        return undefined;
      },
      async vanish(name, work) {
        const peer = await call(`${name} ${JSON.stringify(work)}\n`);
        return async () => void peer.socket.destroy();
      },
      async stall(name) {
        const peer = await call(`${name} {"do":`);
        return async () => void peer.socket.destroy();
      },
      close: async () => sockets.forEach((socket) => socket.destroy()),
    };
  },
  refuses: [
    {
      what: 'a taken port',
      says: /EADDRINUSE.*: set HUB_LINE_PORT/,
      async settings(good) {
        const { port, release } = await takenPort();
        return { settings: { ...good, port }, release };
      },
    },
  ],
});
