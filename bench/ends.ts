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

export const ends: Readonly<Record<string, () => Promise<OpenEnd>>> = {
  'limit.volatile.requestor': async () => (await import('./limit.js')).volatileRequestor,
  'limit.volatile.replier': async () => (await import('./limit.js')).volatileReplier,
  'limit.durable.requestor': async () => (await import('./limit.js')).durableRequestor,
  'limit.durable.replier': async () => (await import('./limit.js')).durableReplier,
  'limit.durable.both': async () => (await import('./limit.js')).durableBoth,
  'limit.scatter.requestor': async () => (await import('./limit.js')).scatterRequestor,
  'limit.http.requestor': async () => (await import('./limit.js')).httpRequestor,
  'http.client': async () => (await import('./http-client.js')).httpClient,
  hub: async () => (await import('./ours.js')).hubEnd,
  workers: async () => (await import('./ours.js')).workersEnd,
};
