/**
 * What every inbound adapter must do, whatever its protocol. A driver speaks the protocol as a requestor would: real
 * sockets, real folders. `docs/write-an-adapter.md` shows how to run it on an adapter of one's own.
 */
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { access } from '../../broker/access.js';
import type { Adapter, AdapterContext, Open } from '../../broker/adapter.js';
import { Fault } from '../../broker/fault.js';
import type { Gateway } from '../../broker/gateway.js';
import { worker } from '../../broker/step.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, type TestHub } from '../support/hub.js';

/** The one flow of the suite; what it does is in the body. */
export const contractFlow = 'contract.work';

/** `echo` answers with the text; `refuse` is a fault `rejected`; `wait` answers when the suite lets it. */
export interface Work {
  readonly do: 'echo' | 'refuse' | 'wait';
  readonly text: string;
}

/** What a requestor hears. */
export type Heard =
  | { readonly kind: 'reply'; readonly body: unknown }
  /** `later`: waits for what comes in the end. */
  | { readonly kind: 'accepted'; later(): Promise<Heard> }
  /** `code`: of the hub where the protocol carries it. */
  | { readonly kind: 'fault'; readonly code: string };

/** A requestor. `name` differs for each request. */
export interface Session {
  /** Sends a request and resolves with the first thing it hears. */
  send(name: string, work: Work): Promise<Heard>;
  /** Sends bytes that are no request, and hears a fault with a code, or `undefined` where the protocol has no way to say so. */
  sendGarbage(name: string, garbage: Buffer): Promise<string | undefined>;
  /** Sends more than is allowed; as `sendGarbage`. */
  sendHuge(name: string): Promise<string | undefined>;
  /** Only if the driver says `repeats`: sends the same request twice, as one does on this protocol who is not sure: with a key, as a retransmission, or before two hubs. */
  sendTwice?(name: string, work: Work, second: () => Promise<Open>): Promise<readonly Heard[]>;
  /** Sends a request and does not wait; the returned function goes away, without the answer. */
  vanish(name: string, work: Work): Promise<() => Promise<void>>;
  /** Sends the first half of a request and no more; the returned function goes away. */
  stall(name: string): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

export interface Driver<Settings> {
  readonly adapter: Adapter<Settings>;
  /** Settings for one test (a free port, a new folder) under which a held request becomes `accepted` after half a second or less. */
  settings(): Promise<Settings>;
  connect(open: Open, settings: Settings): Promise<Session>;
  /** The protocol can say that a request is the same as before. `second` of `sendTwice` opens the adapter once more, on another hub. */
  readonly repeats?: boolean;
  /** Settings under which it must not open, and what its error must say: the setting or the remedy. */
  readonly refuses: readonly {
    readonly what: string;
    readonly says: RegExp;
    settings(good: Settings): Promise<{ readonly settings: Settings; release?(): Promise<void> }>;
  }[];
  /** It keeps a request while the hub is not ready, instead of answering `unavailable`. */
  readonly patient?: boolean;
  /** It can only hold: what takes long is answered on the line, however late. */
  readonly onlyHolds?: boolean;
}

/** A port that somebody listens on, for `refuses`. */
export async function takenPort(): Promise<{ readonly port: number; release(): Promise<void> }> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, release: async () => void (await once(server.close(), 'close')) };
}

const schema = {
  type: 'object',
  required: ['do', 'text'],
  additionalProperties: false,
  properties: { do: { enum: ['echo', 'refuse', 'wait'] }, text: { type: 'string' } },
};
const reply = { type: 'object', required: ['text'], properties: { text: { type: 'string' } } };

const garbage: readonly (readonly [string, Buffer])[] = [
  ['text that is nothing', Buffer.from('hello there\r\n\r\n')],
  ['bytes', Buffer.from([0, 255, 254, 11, 28, 13, 0, 1, 2, 3, 10, 10])],
  ['JSON that is cut off', Buffer.from('{"do": "echo", "text": "ha')],
  ['JSON of another shape', Buffer.from('[{"do": ["echo"]}]\n')],
];

export function adapterContract<Settings>(driver: Driver<Settings>): void {
  const { adapter } = driver;

  describe(`the contract of adapters: ${adapter.name}`, () => {
    let hub: TestHub;
    let settings: Settings;
    let open: Open;
    let session: Session;
    let ran: string[];
    let gates: Map<string, () => void>;
    let away: boolean;
    let refused: number;
    let count = 0;

    const name = () => `r${process.pid}-${++count}`;
    const timesRun = (text: string) => ran.filter((known) => known === text).length;
    const letGo = (text: string) => eventually(() => (gates.get(text) ?? fail(`${text} has not begun`))());

    const work = worker({
      name: contractFlow,
      timeoutMs: 20_000,
      async handle({ do: what, text }: Work, _envelope, { signal }) {
        ran.push(text);
        if (what === 'refuse') throw new Fault('rejected', `no ${text}`);
        if (what === 'wait') {
          await new Promise<void>((resolve, reject) => {
            gates.set(text, resolve);
            signal.addEventListener('abort', () => reject(new Error('given up')), { once: true });
          });
        }
        return { text };
      },
    });

    /** The hub's gateway, which says `unavailable` while the hub is `away`. */
    function gateway(): Gateway {
      return {
        ...hub.gateway,
        async request(ask) {
          if (!away) return hub.gateway.request(ask);
          refused++;
          throw new Fault('unavailable', 'the broker is away', { reason: 'broker', retryAfterMs: 50 });
        },
      };
    }

    const context = (): AdapterContext => ({
      gateway: gateway(),
      access: access([]),
      projectFolder: process.cwd(),
      log: () => undefined,
      metrics: async () => '',
      version: 'test',
      namespace: hub.namespace,
      retentionMs: 86_400_000,
      stopping: hub.hub.stopping,
    });

    beforeEach(async () => {
      ran = [];
      gates = new Map();
      [away, refused] = [false, 0];
      const flow = { steps: [contractFlow], request: schema, reply, waitMs: 500, maxWaitMs: driver.onlyHolds === true ? 20_000 : 500 };
      hub = await memoryHub({ flows: { [contractFlow]: flow }, steps: [work] });
      settings = await driver.settings();
      open = await adapter.open!(settings, context());
      session = await driver.connect(open, settings);
    });

    afterEach(async () => {
      for (const gate of gates.values()) gate();
      await eventually(() =>
        expect(hub.events.filter(({ event }) => event === 'request.settled').length).toBeGreaterThanOrEqual(gates.size),
      );
      await session.close();
      await open.close();
      await hub.close();
    });

    it('describes itself: name, summary, settings with a sentence each, and how it says the four things', () => {
      expect(adapter.name).toMatch(/^[a-z][a-z0-9-]*$/);
      expect(adapter.summary).not.toBe('');
      expect(Object.values(adapter.says ?? {}).filter((text) => text !== '')).toHaveLength(4);
      for (const { doc } of Object.values(adapter.settings)) expect(doc.length).toBeGreaterThan(10);
    });

    it('tells where it listens', () => {
      expect(open.urls.length).toBeGreaterThan(0);
    });

    it('brings a request to its flow and the reply back', async () => {
      expect(await session.send(name(), { do: 'echo', text: 'grüß dich, 世界 <&>"' })).toEqual({
        kind: 'reply',
        body: { text: 'grüß dich, 世界 <&>"' },
      });
    });

    it('keeps answers apart that are asked for at once', async () => {
      const texts = Array.from({ length: 20 }, (_, i) => `text ${i}`);
      const heard = await Promise.all(texts.map((text) => session.send(name(), { do: 'echo', text })));
      expect(heard).toEqual(texts.map((text) => ({ kind: 'reply', body: { text } })));
    });

    it('says a fault with its code', async () => {
      expect(await session.send(name(), { do: 'refuse', text: 'loan' })).toEqual({ kind: 'fault', code: 'rejected' });
    });

    it('says invalid for a body that does not fit the schema, and asks nobody', async () => {
      expect(await session.send(name(), { do: 'dance' as 'echo', text: 'x' })).toEqual({ kind: 'fault', code: 'invalid' });
      expect(ran).toEqual([]);
    });

    it('answers late: says that the request is accepted, and later the reply', async () => {
      const sent = session.send(name(), { do: 'wait', text: 'late' });
      if (driver.onlyHolds === true) {
        await letGo('late');
        return expect(await sent).toEqual({ kind: 'reply', body: { text: 'late' } });
      }
      const heard = await sent;
      expect(heard.kind).toBe('accepted');
      await letGo('late');
      expect(heard.kind === 'accepted' && (await heard.later())).toEqual({ kind: 'reply', body: { text: 'late' } });
      expect(timesRun('late')).toBe(1);
    });

    if (driver.repeats === true) {
      it('asks once when the same request comes twice', async () => {
        const other = await hub.another();
        const second = () => other.open(adapter, settings);
        const heard = await session.sendTwice!(name(), { do: 'echo', text: 'twice' }, second);
        for (const each of heard) expect(each).toEqual({ kind: 'reply', body: { text: 'twice' } });
        expect(timesRun('twice')).toBe(1);
      });
    }

    it.each(garbage)('survives garbage: %s', async (_what, bytes) => {
      expect(['invalid', undefined]).toContain(await session.sendGarbage(name(), bytes));
      expect(ran).toEqual([]);
      expect(await session.send(name(), { do: 'echo', text: 'still here' })).toEqual({ kind: 'reply', body: { text: 'still here' } });
    });

    it('refuses a huge request before it asks anybody', async () => {
      expect(['invalid', 'too-large', undefined]).toContain(await session.sendHuge(name()));
      expect(ran).toEqual([]);
      expect(await session.send(name(), { do: 'echo', text: 'still here' })).toEqual({ kind: 'reply', body: { text: 'still here' } });
    });

    it('goes on when a requestor vanishes, and so does its request', async () => {
      const leave = await session.vanish(name(), { do: 'wait', text: 'lonely' });
      await eventually(() => expect(timesRun('lonely')).toBe(1));
      await leave();
      await letGo('lonely');
      expect(await session.send(name(), { do: 'echo', text: 'next' })).toEqual({ kind: 'reply', body: { text: 'next' } });
      expect(timesRun('lonely')).toBe(1);
    });

    it('serves others while a slow requestor sends half of its request', async () => {
      const leave = await session.stall(name());
      expect(await session.send(name(), { do: 'echo', text: 'fast' })).toEqual({ kind: 'reply', body: { text: 'fast' } });
      await leave();
      expect(ran).toEqual(['fast']);
    });

    it(driver.patient === true ? 'keeps a request until the hub is ready' : 'says unavailable when the hub is not ready', async () => {
      away = true;
      const sent = session.send(name(), { do: 'echo', text: 'patience' });
      if (driver.patient === true) await eventually(() => expect(refused).toBeGreaterThan(0));
      else expect(await sent).toEqual({ kind: 'fault', code: 'unavailable' });
      away = false;
      if (driver.patient === true) expect(await sent).toEqual({ kind: 'reply', body: { text: 'patience' } });
      else expect(await session.send(name(), { do: 'echo', text: 'again' })).toEqual({ kind: 'reply', body: { text: 'again' } });
    });

    it('stops within 10 s while it holds a request, may be stopped twice, and leaves its place to the next', async () => {
      const leave = await session.vanish(name(), { do: 'wait', text: 'held' });
      await eventually(() => expect(timesRun('held')).toBe(1));
      const began = performance.now();
      hub.hub.letGo();
      await open.close();
      await open.close();
      expect(performance.now() - began).toBeLessThan(10_000);
      await leave();

      const other = await hub.another();
      const next = await adapter.open!(settings, { ...context(), gateway: other.gateway, stopping: other.hub.stopping });
      const requestor = await driver.connect(next, settings);
      expect(await requestor.send(name(), { do: 'echo', text: 'again' })).toEqual({ kind: 'reply', body: { text: 'again' } });
      await requestor.close();
      await next.close();
    });

    it.each(driver.refuses.map((refusal) => [refusal.what, refusal] as const))('does not open and says why: %s', async (_what, refusal) => {
      const bad = await refusal.settings(settings);
      try {
        await expect(adapter.open!(bad.settings, context())).rejects.toThrow(refusal.says);
        await expect(adapter.open!(bad.settings, context())).rejects.toThrow(new RegExp(`^${adapter.name}: `));
      } finally {
        await bad.release?.();
      }
    });
  });
}

function fail(message: string): never {
  throw new Error(message);
}
