/**
 * Port to work that takes long and that processes share out among themselves (EIP: Competing Consumers): "somebody, do this". Two
 * implementations: `jobs-bullmq.ts` and `jobs-memory.ts`; `test/contract/jobs.ts` runs on both.
 *
 * What is here may be lost, and may be handed out twice: whoever must not lose it keeps it elsewhere as well (as a dossier), puts it in
 * again while it is not done, and looks there who may finish it.
 */

export interface Jobs {
  /**
   * Puts it into a queue, under a UUID. While it is there, waits for its time or is being done, putting it in again changes nothing. Rejects with a
   * StoreError `away` within 5 s when it is not known to be there.
   */
  add(queue: string, id: string, options?: AddOptions): Promise<void>;
  /** Takes it out again, unless it is being done; one that is unknown is fine. Rejects as `add`. */
  remove(queue: string, id: string): Promise<void>;
  /** Begins to take what is in a queue, once per process and queue. Rejects within 5 s when that is not possible. */
  serve(queue: string, options: ServeOptions, work: Work): Promise<Serving>;
  /** Ends everything; what is being done is awaited for some seconds. */
  close(): Promise<void>;
}

export interface AddOptions {
  /** Not before so long (ms). */
  readonly inMs?: number;
  /** Before all that are not, also those that come back. */
  readonly isUrgent?: boolean;
}

export interface ServeOptions {
  /** How many this process does at once. */
  readonly concurrency: number;
  /** How many all processes together begin within so long (ms). */
  readonly rateLimit?: { readonly max: number; readonly perMs: number };
  /** A process that gives no sign of life for so long (ms) has lost what it was doing to another one. Signs are given by the event loop. */
  readonly stalledAfterMs: number;
}

/**
 * Does one. `lost` aborts when this process has lost it, or may have: others may be at it. Resolves with what becomes of it: done, or handed
 * out again, after so long; with 0 before those that wait, but after the urgent. One that rejects is handed out again after a second.
 */
export type Work = (id: string, lost: AbortSignal) => Promise<'done' | { readonly againInMs: number }>;

export interface Serving {
  /** Takes no more; resolves when what is being done has ended. */
  close(): Promise<void>;
}

/** What is tried again because its work rejected, which it should not. */
export const rejectedAgainMs = 1_000;
