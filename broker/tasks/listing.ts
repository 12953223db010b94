/** Pages of tasks out of several lists at once: each task once, in the order of their places. */
import type { Listed, Store } from '../store.js';
import { taskKind } from './parked.js';

/** How many are fetched at a time of those that may not fit. */
const pageSize = 100;
/** How many are looked at for one page: a search for something rare goes on with the next page. */
const mostLookedAt = 2_000;

export interface Paged {
  readonly found: readonly Listed[];
  /** Where to go on; absent: that was all. */
  readonly next?: string;
}

export interface ListingOptions {
  readonly limit: number;
  readonly cursor?: string;
  readonly highestFirst?: boolean;
  /** Nothing beyond this place. */
  readonly upTo?: number;
  readonly placeOf: (listed: Listed) => number;
  readonly fits: (listed: Listed) => boolean;
}

/** Where a list goes on after a task, whether it has it or not. */
const cursorAfter = (place: number, id: string): string => `${place} ${taskKind}/${id}`;

export async function pageOf(store: Store, lists: readonly string[], options: ListingOptions): Promise<Paged> {
  const { limit, highestFirst = false, upTo = Infinity, placeOf, fits } = options;
  const sign = highestFirst ? -1 : 1;
  const found: Listed[] = [];
  const seen = new Set<string>();
  let { cursor } = options;
  for (let looked = 0; looked < mostLookedAt;) {
    // Most lists give their share; where one gives more, the next round goes on from there.
    const share = Math.ceil((2 * (limit + 1 - found.length)) / lists.length);
    const size = Math.min(Math.max(share, 5), pageSize);
    const pages = await Promise.all(
      lists.map((list) => store.dossiers(list, { limit: size, highestFirst, ...(cursor === undefined ? {} : { cursor }) })),
    );
    // Beyond the end of a page that has more to come, another list may have tasks that belong before those.
    const ends = pages.flatMap(({ found: page, next }) => (next === undefined ? [] : [placeOf(page.at(-1)!) * sign]));
    const horizon = Math.min(...ends);
    const merged = pages
      .flatMap((page) => page.found)
      .map((listed) => ({ listed, place: placeOf(listed) }))
      .filter(({ place }) => place * sign <= horizon)
      .sort((a, b) => (a.place - b.place) * sign || compare(a.listed.id, b.listed.id) * sign);
    for (const { listed, place } of merged) {
      if (place > upTo) return { found };
      if (seen.has(listed.id)) continue;
      if (found.length === limit) return { found, next: encode(cursor ?? '') };
      seen.add(listed.id);
      looked++;
      cursor = cursorAfter(place, listed.id);
      if (fits(listed)) found.push(listed);
    }
    if (ends.length === 0) return { found };
  }
  return { found, next: encode(cursor ?? '') };
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

const encode = (cursor: string): string => Buffer.from(cursor).toString('base64url');

/** The cursor that a client sent back; undefined: it is none of ours. */
export function readCursor(text: string): string | undefined {
  const cursor = Buffer.from(text, 'base64url').toString('utf8');
  return /^\d+(\.\d+)? [\w/.-]+$/.test(cursor) ? cursor : undefined;
}

/** How many there are in these lists, each once as far as they are few; of many, one that stands in two lists may count twice. */
export async function countOf(store: Store, lists: readonly string[], upTo?: number): Promise<number> {
  const counts = await Promise.all(lists.map((list) => store.count(list, upTo)));
  const sum = counts.reduce((total, count) => total + count, 0);
  const filled = lists.filter((_, index) => counts[index] !== 0);
  if (filled.length < 2 || sum > pageSize) return sum;
  const pages = await Promise.all(filled.map((list, index) => store.dossiers(list, { limit: counts[lists.indexOf(list)] ?? index })));
  return new Set(pages.flatMap(({ found }) => found.map(({ id }) => id))).size;
}
