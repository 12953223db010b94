/**
 * What every process must hear at once, over the fanout exchange `hub.control`: a request or group was cancelled, a
 * request is watched from now on. Best effort and bounded: it spares work, correctness never rests on it. The normal path
 * asks nobody.
 */
import type { Envelope } from './envelope.js';
import type { Names } from './topology.js';
import type { Consumer, Transport } from './transport.js';

export interface Control {
  /** Drop what belongs to this request or group. */
  drop(id: string): Promise<void>;
  /** The request has a record from now on: steps report where it is. */
  watch(id: string): Promise<void>;
  isDropped(envelope: Pick<Envelope, 'requestId' | 'groups'>): boolean;
  isWatched(envelope: Envelope): boolean;
  /** Calls back for each id that is dropped or watched. */
  listen(listener: (what: 'drop' | 'watch', id: string) => void): void;
  close(): Promise<void>;
}

const remembered = 10_000;

/** A set that forgets its oldest. */
function boundedSet(limit: number) {
  const ids = new Set<string>();
  return {
    has: (id: string) => ids.has(id),
    add(id: string) {
      ids.add(id);
      if (ids.size > limit) ids.delete(ids.values().next().value as string);
    },
  };
}

export async function openControl(transport: Transport, names: Names): Promise<Control> {
  const dropped = boundedSet(remembered);
  const watched = boundedSet(remembered);
  const listeners: ((what: 'drop' | 'watch', id: string) => void)[] = [];
  const hear = (what: 'drop' | 'watch', id: string) => {
    (what === 'drop' ? dropped : watched).add(id);
    for (const listener of listeners) listener(what, id);
  };
  const tell = async (what: 'drop' | 'watch', id: string) => {
    hear(what, id);
    const message = { body: Buffer.alloc(0), type: what === 'drop' ? 'cancel' : 'event', correlationId: id };
    // Nobody's fault when it does not arrive: see above.
    await transport.publish({ exchange: names.control, routingKey: '' }, message, { durable: false }).catch(() => undefined);
  };
  const subscription: Consumer = await transport.subscribe(names.control, [''], ({ type, correlationId }) => {
    if (correlationId !== undefined) hear(type === 'cancel' ? 'drop' : 'watch', correlationId);
  });
  return {
    drop: (id) => tell('drop', id),
    watch: (id) => tell('watch', id),
    isDropped: (envelope) => dropped.has(envelope.requestId) || envelope.groups.some((group) => dropped.has(group.id)),
    isWatched: (envelope) => envelope.recorded || watched.has(envelope.requestId),
    listen: (listener) => void listeners.push(listener),
    close: () => subscription.close(),
  };
}
