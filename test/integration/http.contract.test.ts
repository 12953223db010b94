import { connect } from 'node:net';
import { once } from 'node:events';
import { afterAll } from '@jest/globals';
import { Agent, request } from 'undici';
import { http, type HttpSettings } from '../../adapters/http/index.js';
import { adapterContract, contractFlow, takenPort, type Heard, type Work } from '../contract/adapter.js';
import { freePort } from '../support/ports.js';

const agent = new Agent();
afterAll(() => agent.close());

adapterContract<HttpSettings>({
  adapter: http,
  repeats: true,
  settings: async () => ({
    port: await freePort(),
    host: '127.0.0.1',
    open: false,
    publicUrl: '',
    bodyLimit: 10_000,
    maxHeaderSize: 16_384,
    maxConnections: 100,
    maxInFlight: 100,
    maxInFlightPerPrincipal: 100,
    headersTimeout: 10_000,
    requestTimeout: 30_000,
    ping: 15_000,
    maxConversations: 1_000,
    maxConversationsPerPrincipal: 1_000,
    maxOpenPerConversation: 32,
    linger: 0,
    retention: 60_000,
    namespace: 'hub',
  }),
  async connect(_open, { port }) {
    const origin = `http://127.0.0.1:${port}`;
    const path = `/requests/${contractFlow}`;
    async function heard(
      method: 'GET' | 'POST',
      url: string,
      body?: string | Buffer,
      headers: Record<string, string> = {},
    ): Promise<Heard> {
      const response = await request(`${origin}${url}`, {
        dispatcher: agent,
        method,
        headers: { 'content-type': 'application/json', ...headers },
        ...(body === undefined ? {} : { body }),
      });
      const said = JSON.parse(await response.body.text()) as { code: string };
      if (response.statusCode === 202) return { kind: 'accepted', later: () => later(String(response.headers['location'])) };
      return response.statusCode === 200 ? { kind: 'reply', body: said } : { kind: 'fault', code: said.code };
    }
    async function later(location: string): Promise<Heard> {
      const found = await heard('GET', `${location}/reply`, undefined, { prefer: 'wait=5' });
      return found.kind === 'accepted' ? later(location) : found;
    }
    const text = (work: Work) => JSON.stringify(work);
    const code = (said: Heard) => (said.kind === 'fault' ? said.code : said.kind);
    const raw = async (body: string, length: number) => {
      const socket = connect(port, '127.0.0.1').on('error', () => undefined);
      await once(socket, 'connect');
      socket.write(
        `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n${body}`,
      );
      return async () => void socket.destroy();
    };
    return {
      send: (_name, work) => heard('POST', path, text(work)),
      sendTwice: (name, work) => Promise.all([1, 2].map(() => heard('POST', path, text(work), { 'idempotency-key': name }))),
      sendGarbage: async (_name, garbage) => code(await heard('POST', path, garbage)),
      sendHuge: async () => code(await heard('POST', path, text({ do: 'echo', text: 'x'.repeat(20_000) }))),
      vanish: (_name, work) => raw(text(work), Buffer.byteLength(text(work))),
      stall: () => raw('{"do": "ec', 100),
      close: async () => undefined,
    };
  },
  refuses: [
    {
      what: 'a taken port',
      says: /is taken: stop what listens there, or choose another one with HUB_HTTP_PORT=/,
      async settings(good) {
        const { port, release } = await takenPort();
        return { settings: { ...good, port }, release };
      },
    },
    {
      what: 'a public address without keys',
      says: /without principals everybody who reaches 0\.0\.0\.0 could use this hub/,
      settings: async (good) => ({ settings: { ...good, host: '0.0.0.0' } }),
    },
  ],
});
