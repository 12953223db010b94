/** The one list of ends: what a process of a benchmark can be. Found by name, and loaded only where it is needed. */
import type { LoadSettings } from './load.js';

/** One end of a benchmark, in a process of its own. */
export interface End {
  /** Asks, and resolves with the answer: for what requests. */
  request?(body: Buffer, settings: LoadSettings): Promise<unknown>;
  /** Anything else that a case wants of it. */
  tell?(what: string, settings: Readonly<Record<string, unknown>>): Promise<unknown>;
  close(): Promise<void>;
}

/** Whoever opens it knows what it takes: see there. */
export type OpenEnd = (settings: never) => Promise<End>;

/** What every end is given. */
export interface EndSettings {
  readonly rabbitmq: string;
  readonly redis: string;
  readonly namespace: string;
}

/** Peers are not compiled, and have packages of their own: they stay where they are. */
export const peersFolder = new URL('../../bench/peers/', import.meta.url);
const peer = async (name: string) => (await import(new URL(`${name}.mjs`, peersFolder).href)) as Record<'requestor' | 'replier', OpenEnd>;

export const ends: Readonly<Record<string, () => Promise<OpenEnd>>> = {
  'limit.volatile.requestor': async () => (await import('./limit.js')).volatileRequestor,
  'limit.volatile.replier': async () => (await import('./limit.js')).volatileReplier,
  'limit.durable.requestor': async () => (await import('./limit.js')).durableRequestor,
  'limit.durable.replier': async () => (await import('./limit.js')).durableReplier,
  'limit.durable.both': async () => (await import('./limit.js')).durableBoth,
  'limit.scatter.requestor': async () => (await import('./limit.js')).scatterRequestor,
  'limit.http.requestor': async () => (await import('./limit.js')).httpRequestor,
  'http.client': async () => (await import('./http-client.js')).httpClient,
  'peer.nestjs.requestor': async () => (await peer('nestjs')).requestor,
  'peer.nestjs.replier': async () => (await peer('nestjs')).replier,
  'peer.moleculer.requestor': async () => (await peer('moleculer')).requestor,
  'peer.moleculer.replier': async () => (await peer('moleculer')).replier,
  'peer.rabbitmq-client.requestor': async () => (await peer('rabbitmq-client')).requestor,
  'peer.rabbitmq-client.replier': async () => (await peer('rabbitmq-client')).replier,
  memory: async () => (await import('./fill.js')).memoryEnd,
  timers: async () => (await import('./lateness.js')).latenessEnd,
  'http.open-loop': async () => (await import('./open-loop.js')).openLoopEnd,
  'http.hold': async () => (await import('./hold.js')).holdEnd,
  'foreign.requestor': async () => (await import('./foreign-requestor.js')).foreignRequestorEnd,
  'http.watch': async () => (await import('./watch.js')).watchEnd,
  'callback.receiver': async () => (await import('./call-back.js')).callbackEnd,
  inbox: async () => (await import('./inbox.js')).inboxEnd,
  hub: async () => (await import('./ours.js')).hubEnd,
  workers: async () => (await import('./ours.js')).workersEnd,
};
