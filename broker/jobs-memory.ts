/** Long work in memory, for tests of one's own flows and for `--demo`: the same behaviour as on BullMQ, gone with the process. */
import type { Clock } from './clock.js';
import { rejectedAgainMs, type AddOptions, type Jobs, type ServeOptions, type Work } from './jobs.js';
import { StoreError } from './store.js';

/** What processes share. */
export interface MemoryJobs {
  connect(): Jobs;
  /** All is gone; what is being done goes on. */
  lose(): void;
}

interface Server {
  readonly options: ServeOptions;
  readonly work: Work;
  readonly running: Set<Promise<void>>;
  isClosing: boolean;
}

interface Active {
  readonly lost: AbortController;
  readonly isUrgent: boolean;
}

interface Queue {
  waiting: string[];
  /** Those that are taken before what waits. */
  urgent: string[];
  /** What takes the timer back of those whose time has not come. */
  readonly delayed: Map<string, () => void>;
  readonly active: Map<string, Active>;
  readonly servers: Set<Server>;
  /** When the last ones were begun, for the rate limit. */
  begun: number[];
  isLookingAgain: boolean;
}

export function memoryJobs({ clock }: { readonly clock: Clock }): MemoryJobs {
  const queues = new Map<string, Queue>();

  function queueOf(name: string): Queue {
    let queue = queues.get(name);
    if (queue === undefined)
      queues.set(
        name,
        (queue = { waiting: [], urgent: [], delayed: new Map(), active: new Map(), servers: new Set(), begun: [], isLookingAgain: false }),
      );
    return queue;
  }

  /** `isBack`: one that was begun. */
  function put(queue: Queue, id: string, { inMs, isUrgent, isBack }: Required<AddOptions> & { readonly isBack: boolean }): void {
    const now = () => {
      queue.delayed.delete(id);
      const line = isUrgent ? queue.urgent : queue.waiting;
      if (isBack) line.unshift(id);
      else line.push(id);
      handOut(queue);
    };
    if (inMs > 0) queue.delayed.set(id, clock.after(inMs, now));
    else now();
  }

  /** Gives what waits to whoever is free. */
  function handOut(queue: Queue): void {
    for (;;) {
      const [server] = [...queue.servers]
        .filter(({ running, options, isClosing }) => !isClosing && running.size < options.concurrency)
        .sort((a, b) => a.running.size - b.running.size);
      const isUrgent = queue.urgent.length > 0;
      const line = isUrgent ? queue.urgent : queue.waiting;
      if (server === undefined || line.length === 0 || isLimited(queue, server.options)) return;
      const id = line.shift()!;
      queue.begun.push(clock.now());
      const one = { lost: new AbortController(), isUrgent };
      queue.active.set(id, one);
      const done = run(queue, server, id, one).finally(() => {
        server.running.delete(done);
        handOut(queue);
      });
      server.running.add(done);
    }
  }

  function isLimited(queue: Queue, { rateLimit }: ServeOptions): boolean {
    if (rateLimit === undefined) return false;
    queue.begun = queue.begun.filter((at) => at > clock.now() - rateLimit.perMs);
    const [first = 0] = queue.begun;
    if (queue.begun.length < rateLimit.max) return false;
    if (!queue.isLookingAgain) {
      queue.isLookingAgain = true;
      clock.after(first + rateLimit.perMs - clock.now(), () => {
        queue.isLookingAgain = false;
        handOut(queue);
      });
    }
    return true;
  }

  async function run(queue: Queue, { work }: Server, id: string, one: Active): Promise<void> {
    await Promise.resolve(); // whoever puts it in goes on first
    const next = await work(id, one.lost.signal).catch(() => ({ againInMs: rejectedAgainMs }));
    if (queue.active.get(id) !== one) return;
    queue.active.delete(id);
    if (next !== 'done') put(queue, id, { inMs: next.againInMs, isUrgent: one.isUrgent, isBack: true });
  }

  const has = ({ active, delayed, urgent, waiting }: Queue, id: string): boolean =>
    active.has(id) || delayed.has(id) || urgent.includes(id) || waiting.includes(id);

  return {
    connect() {
      const served = new Set<{ readonly queue: Queue; readonly server: Server }>();
      let isClosed = false;
      const open = () => {
        if (isClosed) throw new StoreError('away', 'jobs are closed');
      };
      const leave = async (one: { readonly queue: Queue; readonly server: Server }) => {
        one.server.isClosing = true;
        while (one.server.running.size > 0) await Promise.all(one.server.running);
        one.queue.servers.delete(one.server);
        served.delete(one);
      };
      return {
        async add(name, id, { inMs = 0, isUrgent = false } = {}) {
          open();
          const queue = queueOf(name);
          if (!has(queue, id)) put(queue, id, { inMs, isUrgent, isBack: false });
        },
        async remove(name, id) {
          open();
          const queue = queueOf(name);
          queue.delayed.get(id)?.();
          queue.delayed.delete(id);
          queue.waiting = queue.waiting.filter((other) => other !== id);
          queue.urgent = queue.urgent.filter((other) => other !== id);
        },
        async serve(name, options, work) {
          open();
          const queue = queueOf(name);
          const one = { queue, server: { options, work, running: new Set<Promise<void>>(), isClosing: false } };
          queue.servers.add(one.server);
          served.add(one);
          handOut(queue);
          return { close: () => leave(one) };
        },
        async close() {
          isClosed = true;
          await Promise.all([...served].map(leave));
        },
      };
    },
    lose() {
      for (const queue of queues.values()) {
        for (const cancel of queue.delayed.values()) cancel();
        for (const { lost } of queue.active.values()) lost.abort(new Error('it was lost'));
        queue.delayed.clear();
        queue.active.clear();
        queue.waiting = [];
        queue.urgent = [];
      }
    },
  };
}
