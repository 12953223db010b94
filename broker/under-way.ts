/**
 * What is under way: a set in the order of coming, and a table by id. Much enters and leaves them all the time, and stays for milliseconds.
 *
 * Not `Set` and `Map`: one of V8's that has been entered and left often enough moves to a fresh table, and the outgrown one goes on pointing
 * to it, for iterators under way. Once one of these has become old, dead or not, those that follow are kept with all that they held, each
 * of them copied twice, until the whole heap is looked through; which then comes often. [measured: 200 at a time through a `Map` that has
 * become old take twice the time that they take through this table, and eight times as many collections of the whole heap]
 */

/** Where something is in a chain. */
export interface Place<T> {
  readonly item: T;
}

interface Link<T> extends Place<T> {
  chain: Chain<T> | undefined;
  before: Link<T> | undefined;
  after: Link<T> | undefined;
}

/** A set, in the order of coming. Taking something out of it needs its place. */
export class Chain<T> {
  #first: Link<T> | undefined;
  #last: Link<T> | undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** What came first of what is here. */
  get first(): Place<T> | undefined {
    return this.#first;
  }

  add(item: T): Place<T> {
    const link: Link<T> = { item, chain: this, before: this.#last, after: undefined };
    if (this.#last === undefined) this.#first = link;
    else this.#last.after = link;
    this.#last = link;
    this.#size++;
    return link;
  }

  /** Tells whether it was here still. */
  remove(place: Place<T>): boolean {
    const link = place as Link<T>;
    const { chain, before, after } = link;
    if (chain !== this) return false;
    if (before === undefined) this.#first = after;
    else before.after = after;
    if (after === undefined) this.#last = before;
    else after.before = before;
    // What left points to nothing that came later.
    link.chain = link.before = link.after = undefined;
    this.#size--;
    return true;
  }

  /** All that is here now, in order. */
  all(): readonly Place<T>[] {
    const places: Place<T>[] = [];
    for (let link = this.#first; link !== undefined; link = link.after) places.push(link);
    return places;
  }
}

export interface Entry {
  readonly id: string;
  /** The table's own. */
  beside: this | undefined;
}

/** Entries by their id, of which several may have the same. */
export class IdTable<T extends Entry> {
  /** Who knows the ids of others does not know which of them meet. */
  readonly #seed = (Math.random() * 2 ** 32) | 0;
  #heads: (T | undefined)[] = new Array<T | undefined>(64).fill(undefined);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(entry: T): void {
    if (this.#size >= this.#heads.length) this.#grow();
    this.#put(entry);
    this.#size++;
  }

  /** The last that came with this id. */
  get(id: string): T | undefined {
    let entry = this.#heads[this.#slotOf(id)];
    while (entry !== undefined && entry.id !== id) entry = entry.beside;
    return entry;
  }

  /** All with this id. */
  allOf(id: string): readonly T[] {
    const found: T[] = [];
    for (let entry = this.#heads[this.#slotOf(id)]; entry !== undefined; entry = entry.beside) if (entry.id === id) found.push(entry);
    return found;
  }

  remove(entry: T): void {
    const slot = this.#slotOf(entry.id);
    let before: T | undefined;
    let at = this.#heads[slot];
    while (at !== undefined && at !== entry) {
      before = at;
      at = at.beside;
    }
    if (at === undefined) return;
    if (before === undefined) this.#heads[slot] = entry.beside;
    else before.beside = entry.beside;
    entry.beside = undefined;
    this.#size--;
  }

  all(): readonly T[] {
    const entries: T[] = [];
    for (const head of this.#heads) for (let entry = head; entry !== undefined; entry = entry.beside) entries.push(entry);
    return entries;
  }

  #put(entry: T): void {
    const slot = this.#slotOf(entry.id);
    entry.beside = this.#heads[slot];
    this.#heads[slot] = entry;
  }

  #grow(): void {
    const entries = this.all();
    this.#heads = new Array<T | undefined>(this.#heads.length * 2).fill(undefined);
    for (const entry of entries) this.#put(entry);
  }

  /** FNV-1a, with a seed. */
  #slotOf(id: string): number {
    let hash = this.#seed;
    for (let at = 0; at < id.length; at++) hash = Math.imul(hash ^ id.charCodeAt(at), 16_777_619);
    return (hash ^ (hash >>> 15)) & (this.#heads.length - 1);
  }
}
