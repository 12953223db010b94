/** The `Prefer` request header (RFC 7240): how long the client stays on the line, and whether it takes an answer later. */

export interface Preferences {
  /** `wait=N`, in ms. */
  readonly waitMs?: number;
  readonly respondAsync: boolean;
}

/** Elements of a list header; a comma inside quotes does not separate. */
const elements = /(?:[^,"]|"(?:[^"\\]|\\.)*"?)+/g;
const preference = /^([\w!#$%&'*+.^`|~-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*)))?\s*(?:;|$)/;

/** Reads every `Prefer` header of the request (Node joins them). The first of a name counts; what is not understood is ignored. */
export function readPrefer(header: string | readonly string[] | undefined): Preferences {
  const text = typeof header === 'string' ? header : (header ?? []).join(',');
  let waitMs: number | undefined;
  let respondAsync = false;
  for (const element of text.match(elements) ?? []) {
    const [, name = '', quoted, bare = ''] = preference.exec(element.trim()) ?? [];
    const value = quoted ?? bare;
    if (name.toLowerCase() === 'respond-async' && value === '') respondAsync = true;
    if (name.toLowerCase() === 'wait' && waitMs === undefined && /^\d{1,9}$/.test(value)) waitMs = Number(value) * 1_000;
  }
  return { respondAsync, ...(waitMs === undefined ? {} : { waitMs }) };
}

/**
 * How long to hold: what was asked for, at most `maxMs`. `respond-async` alone means not at all, together with `wait` it
 * means "after that". Undefined: the client has no wish, the flow's default holds.
 */
export function holdMs({ waitMs, respondAsync }: Preferences, maxMs: number): number | undefined {
  if (waitMs === undefined) return respondAsync ? 0 : undefined;
  return Math.min(waitMs, maxMs);
}

/** `Preference-Applied` for what was done; undefined when no preference made a difference. */
export function preferenceApplied(
  asked: Preferences,
  done: { readonly accepted: boolean; readonly holdMs: number | undefined; readonly heldMs: number },
): string | undefined {
  // Held for less than agreed without an outcome (the hub stops): `wait` was not applied.
  const waited = asked.waitMs !== undefined && done.holdMs !== undefined && (!done.accepted || done.heldMs >= done.holdMs - 50);
  const applied = [
    ...(asked.respondAsync && done.accepted ? ['respond-async'] : []),
    ...(waited ? [`wait=${Math.floor((done.holdMs ?? 0) / 1_000)}`] : []),
  ];
  return applied.length === 0 ? undefined : applied.join(', ');
}
