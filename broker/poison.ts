/**
 * Tells a message that kills whoever takes it from one that merely came back. The broker counts every return: of a process that died, but
 * also of a connection that was lost, of a node that went away, of whoever looked into the queue. So one that came back more than
 * once is marked while it is worked on, and a process that dies leaves its mark behind.
 */
import type { Store } from './store.js';

/** A message that came back so often is marked from then on. */
export const suspectFrom = 2;
/** With so many marks left behind it is poison. Five have taken it then. */
const deaths = 3;
/** For so long a mark counts that was left behind, ms. */
const dayMs = 86_400_000;

export interface Marks {
  /** Marks a message as worked on by this process; undefined: others have left as many marks behind as there may be. */
  leave(messageId: string): Promise<string | undefined>;
  /** This process lives. Never rejects. */
  remove(mark: string): Promise<void>;
}

/** A mark is a lease of the store. `self`: this process, and none before or after it. */
export function openMarks(store: Store, self: string): Marks {
  return {
    async leave(messageId) {
      for (let number = 1; number <= deaths; number++) {
        const mark = `poison.${messageId}.${number}`;
        if (await store.lease(mark, self, dayMs)) return mark;
      }
      return undefined;
    },
    // The store may be away: then the mark counts for a day as one that was left behind, alone too little to give a message up.
    remove: async (mark) => void (await store.lease(mark, self, 1).catch(() => undefined)),
  };
}
