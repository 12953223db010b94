/** What a transport has declared, so that it can declare it again: after a reconnect, and when a queue was deleted. */
import type { Binding, Exchange, Queue, Topology } from './transport.js';

export class Declared {
  readonly #exchanges = new Map<string, Exchange>();
  readonly #queues = new Map<string, Queue>();
  readonly #bindings = new Map<string, Binding>();

  add({ exchanges, queues, bindings }: Topology): void {
    for (const exchange of exchanges) this.#exchanges.set(exchange.name, exchange);
    for (const queue of queues) this.#queues.set(queue.name, queue);
    for (const binding of bindings) this.#bindings.set(`${binding.exchange}\n${binding.queue}\n${binding.routingKey}`, binding);
  }

  forgetQueue(name: string): void {
    this.#queues.delete(name);
    for (const [key, { queue }] of this.#bindings) if (queue === name) this.#bindings.delete(key);
  }

  hasExchange(name: string): boolean {
    return this.#exchanges.has(name);
  }

  all(): Topology {
    return { exchanges: [...this.#exchanges.values()], queues: [...this.#queues.values()], bindings: [...this.#bindings.values()] };
  }
}
