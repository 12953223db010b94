/**
 * An attempt of a step at a message, under way among those of its process: it has a time and a signal, and is over when either says so, whatever
 * the handler still does.
 */
import type { DeadlineBuckets, Due, Ending } from './clock.js';
import type { Envelope } from './envelope.js';
import type { Verdict } from './step.js';
import type { Chain, Place } from './under-way.js';

/** Those under way in this process. */
export type Running = Chain<Attempt>;

export class Attempt implements Ending {
  readonly envelope: Envelope;
  /** Tells the record where the request is. */
  readonly report: () => void;
  readonly #running: Running;
  readonly #deadlines: DeadlineBuckets;
  /** Made when a handler looks at its signal, which few do: with a timer, it was a tenth of a worker's time. */
  #controller: AbortController | undefined = undefined;
  #aborted: Error | undefined = undefined;
  #reject: (why: Error) => void = () => undefined;
  #leftMs = 0;
  #due: Due | undefined = undefined;
  #place: Place<Attempt> | undefined = undefined;

  constructor(envelope: Envelope, report: () => void, running: Running, deadlines: DeadlineBuckets) {
    this.envelope = envelope;
    this.report = report;
    this.#running = running;
    this.#deadlines = deadlines;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#aborted !== undefined) this.#controller.abort(this.#aborted);
    return this.#controller.signal;
  }

  /** What `run` resolves with; rejects as soon as it is aborted or the time is over, whatever `run` still does. */
  within(ms: number, run: () => Promise<Verdict>): Promise<Verdict> {
    this.#leftMs = ms;
    return new Promise((resolve, reject) => {
      this.#due = this.#deadlines.add(ms, this);
      this.#place = this.#running.add(this);
      this.#reject = (why) => {
        this.#over();
        reject(why);
      };
      const done = (verdict: Verdict) => {
        this.#over();
        resolve(verdict);
      };
      try {
        run().then(done, this.#reject);
      } catch (error) {
        this.#reject(error as Error);
      }
    });
  }

  abort(why: Error): void {
    this.#aborted ??= why;
    this.#controller?.abort(this.#aborted);
    this.#reject(this.#aborted);
  }

  /** Its time is over. */
  end(): void {
    this.abort(new Error(`no result within ${this.#leftMs} ms`));
  }

  #over(): void {
    if (this.#due !== undefined) this.#deadlines.remove(this.#due);
    if (this.#place !== undefined) this.#running.remove(this.#place);
  }
}
