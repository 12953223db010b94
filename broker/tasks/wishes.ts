/** What people ask for as it comes from outside, as JSON: read strictly, so that a field that means nothing is refused and none is believed. */
import type { Flaw } from '../fault.js';
import type { Wish } from './tasks.js';

type Field = 'text' | 'text?' | 'any';

/** The fields of each action: `any` may be left out. */
export const wishes = {
  claim: {},
  return: { text: 'text?' },
  delegate: { to: 'text', text: 'text?' },
  resolve: { text: 'text?' },
  assign: { to: 'text' },
  comment: { text: 'text' },
  draft: { data: 'any' },
  decide: { outcome: 'text', data: 'any', comment: 'text?' },
  undo: {},
} as const satisfies Readonly<Record<Wish['do'], Readonly<Record<string, Field>>>>;

export const isAction = (name: string): name is Wish['do'] => Object.hasOwn(wishes, name);

/** The wish, or what is wrong with it. */
export function readWish(action: Wish['do'], body: unknown): Wish | readonly Flaw[] {
  const fields: Readonly<Record<string, Field>> = wishes[action];
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return [{ pointer: '#', detail: 'must be an object' }];
  const given = body as Readonly<Record<string, unknown>>;
  const flaws = [
    ...Object.keys(given)
      .filter((name) => !Object.hasOwn(fields, name))
      .map((name) => ({ pointer: `#/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`, detail: `means nothing to ${action}` })),
    ...Object.entries(fields).flatMap(([name, field]) => {
      const value = given[name];
      if (field === 'any' || (field === 'text?' && (value === undefined || value === null)) || typeof value === 'string') return [];
      return [{ pointer: `#/${name}`, detail: value === undefined ? 'is missing' : 'must be a text' }];
    }),
  ];
  if (flaws.length > 0) return flaws;
  const said = Object.entries(given).filter(([, value]) => value !== null && value !== undefined);
  return { do: action, ...Object.fromEntries(said) } as unknown as Wish;
}
