/**
 * What a form looks like: fields from a JSON Schema 2020-12. Common shapes become inputs; a field of any other shape
 * becomes a box for its JSON. What is valid is never decided here.
 */
import type { Hints, Json, Schema } from '../contract.js';

interface Base {
  /** JSON Pointer into the data, as a URI fragment: `#/address/city`. */
  readonly pointer: string;
  readonly label: string;
  readonly help: string | undefined;
  readonly required: boolean;
  readonly readOnly: boolean;
  readonly example: string | undefined;
  readonly unit: string | undefined;
  readonly schema: Schema;
}

export interface Option {
  readonly value: Json;
  readonly label: string;
}

export type Field = Base &
  (
    | { readonly kind: 'text' | 'textarea' | 'email' | 'url' | 'date' | 'time' | 'date-time' | 'number' | 'tick' | 'json' }
    | { readonly kind: 'radio' | 'select' | 'ticks'; readonly options: readonly Option[] }
    | { readonly kind: 'group'; readonly fields: readonly Field[] }
    | { readonly kind: 'list'; readonly items: readonly Field[]; readonly fresh: Json }
  );

/** Whether data fits a part of the schema (`if`). */
export type Fits = (schema: Schema, data: Json) => boolean;

interface Needs {
  readonly root: Schema;
  readonly hints: Hints;
  readonly fits: Fits;
}

/** The whole form, for the data as it is now: `if` may show other fields. */
export function formOf(root: Schema, hints: Hints, data: Json, fits: Fits): Field {
  return fieldOf(root, { pointer: '#', name: '', required: true, data, depth: 0 }, { root, hints, fits });
}

interface Place {
  readonly pointer: string;
  readonly name: string;
  readonly required: boolean;
  readonly data: Json | undefined;
  readonly depth: number;
}

/** With more, a form is no form any more; and a schema may contain itself. */
const deepest = 4;

function fieldOf(given: Schema, place: Place, needs: Needs): Field {
  const schema = resolved(given, needs.root);
  const { pointer, name, required, data } = place;
  const at = pathOf(pointer);
  const base: Base = {
    pointer,
    label: schema.title ?? spoken(name),
    help: needs.hints.help?.[at] ?? schema.description,
    required,
    readOnly: schema.readOnly === true || schema.const !== undefined,
    example: typeof schema.examples?.[0] === 'string' || typeof schema.examples?.[0] === 'number' ? String(schema.examples[0]) : undefined,
    unit: needs.hints.units?.[at],
    schema,
  };
  const wanted = needs.hints.widgets?.[at];
  if (wanted === 'json' || place.depth > deepest) return { ...base, kind: 'json' };

  const options = optionsOf(schema);
  if (options !== undefined)
    return { ...base, kind: wanted === 'select' || (options.length > 5 && wanted !== 'radio') ? 'select' : 'radio', options };
  if (unknown.some((keyword) => schema[keyword] !== undefined)) return { ...base, kind: 'json' };

  const type = typeOf(schema);
  if (type === 'object' && schema.properties !== undefined) return { ...base, kind: 'group', fields: fieldsOf(schema, place, needs) };
  if (type === 'array' && typeof schema.items === 'object') return listOf(schema, base, place, needs);
  if (type === 'boolean') return { ...base, kind: 'tick' };
  if (type === 'number' || type === 'integer') return { ...base, kind: 'number' };
  if (type !== 'string') return { ...base, kind: 'json' };
  if (wanted === 'textarea' || (wanted === undefined && isLong(schema, data))) return { ...base, kind: 'textarea' };
  return { ...base, kind: inputs[schema.format ?? ''] ?? 'text' };
}

/** Keywords that may ask for data which the fields below cannot give. */
const unknown = [
  'anyOf',
  'oneOf',
  'allOf',
  'dependentSchemas',
  'patternProperties',
  'propertyNames',
  'prefixItems',
  'contains',
  '$dynamicRef',
];

const inputs: Readonly<Record<string, 'email' | 'url' | 'date' | 'time' | 'date-time'>> = {
  email: 'email',
  uri: 'url',
  date: 'date',
  'date-time': 'date-time',
};

const isLong = ({ maxLength, format }: Schema, data: Json | undefined): boolean =>
  format === undefined && ((maxLength ?? 0) > 120 || (typeof data === 'string' && data.includes('\n')));

function fieldsOf(given: Schema, place: Place, needs: Needs): readonly Field[] {
  const schema = effective(given, place.data ?? {}, needs);
  const { order = [] } = needs.hints;
  const names = Object.keys(schema.properties ?? {});
  const rank = (name: string) => {
    const at = order.indexOf(pathOf(`${place.pointer}/${escaped(name)}`));
    return at < 0 ? order.length + names.indexOf(name) : at;
  };
  return names
    .sort((a, b) => rank(a) - rank(b))
    .map((name) =>
      fieldOf(
        schema.properties?.[name] ?? {},
        {
          pointer: `${place.pointer}/${escaped(name)}`,
          name,
          required: schema.required?.includes(name) === true,
          data: isObject(place.data) ? place.data[name] : undefined,
          depth: place.depth + 1,
        },
        needs,
      ),
    );
}

function listOf(schema: Schema, base: Base, place: Place, needs: Needs): Field {
  const item = resolved(schema.items ?? {}, needs.root);
  const options = schema.uniqueItems === true ? optionsOf(item) : undefined;
  if (options !== undefined) return { ...base, kind: 'ticks', options };
  const data = Array.isArray(place.data) ? (place.data as readonly Json[]) : [];
  const items = data.map((value, index) => {
    const name = `${base.label} ${index + 1}`;
    return fieldOf(item, { pointer: `${place.pointer}/${index}`, name, required: true, data: value, depth: place.depth + 1 }, needs);
  });
  return { ...base, kind: 'list', items, fresh: startOf(item, needs.root) ?? null };
}

/** The object's schema with what `then` or `else` add for this data. */
function effective(schema: Schema, data: Json, { root, fits }: Needs): Schema {
  if (schema.if === undefined) return schema;
  const added = fits(schema.if, data) ? schema.then : schema.else;
  if (added === undefined) return schema;
  const more = resolved(added, root);
  const properties: Record<string, Schema> = { ...schema.properties };
  for (const [name, field] of Object.entries(more.properties ?? {})) properties[name] = { ...properties[name], ...field };
  return { ...schema, properties, required: [...(schema.required ?? []), ...(more.required ?? [])] };
}

/** Data without what only a branch that does not hold any more asked for. */
export function pruned(schema: Schema, data: Json, fits: Fits): Json {
  if (schema.if === undefined || !isObject(data)) return data;
  const holds = fits(schema.if, data) ? schema.then : schema.else;
  const other = holds === schema.then ? schema.else : schema.then;
  const kept = { ...schema.properties, ...holds?.properties };
  return Object.fromEntries(Object.entries(data).filter(([name]) => Object.hasOwn(kept, name) || other?.properties?.[name] === undefined));
}

/** What a field begins with: its default, its only value, false for a box that must say yes or no. */
export function startOf(given: Schema, root: Schema, depth = 0): Json | undefined {
  const schema = resolved(given, root);
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined && typeof schema.const !== 'boolean') return schema.const;
  const type = typeOf(schema);
  if (type === 'boolean') return false;
  if (type !== 'object' || depth > deepest) return undefined;
  const parts = Object.entries(schema.properties ?? {}).flatMap(([name, part]) => {
    const needed = schema.required?.includes(name) === true;
    const value = startOf(part, root, depth + 1);
    // An optional group or box is not there before somebody fills it in.
    const empty = value === false || (isObject(value) && resolved(part, root).default === undefined);
    return value === undefined || (empty && !needed) ? [] : [[name, value] as const];
  });
  return Object.fromEntries(parts);
}

function optionsOf(schema: Schema): readonly Option[] | undefined {
  if (schema.enum !== undefined && schema.enum.every((value) => typeof value !== 'object' || value === null)) {
    return schema.enum.map((value) => ({
      value,
      label: value === null ? 'none' : typeof value === 'string' ? spoken(value) : String(value),
    }));
  }
  const choices = schema.oneOf;
  if (choices === undefined || choices.length === 0 || choices.some((choice) => choice.const === undefined)) return undefined;
  return choices.map((choice) => ({ value: choice.const ?? null, label: choice.title ?? String(choice.const) }));
}

/** The one type besides null. */
function typeOf({ type }: Schema): string | undefined {
  if (typeof type === 'string' || type === undefined) return type;
  const types = type.filter((one) => one !== 'null');
  return types.length === 1 ? types[0] : undefined;
}

/** Follows `$ref` inside of the document; what cannot be found asks for nothing, and becomes a box. */
export function resolved(schema: Schema, root: Schema): Schema {
  let found = schema;
  for (let hops = 0; found.$ref !== undefined && hops < 10; hops++) {
    const { $ref, ...beside } = found;
    const target = $ref.startsWith('#') ? valueAt(root as unknown as Json, $ref) : undefined;
    if (!isObject(target)) return beside;
    found = { ...(target as Schema), ...beside };
  }
  return found;
}

/** `deliveryDate` and `delivery_date` as people write them: Delivery date. */
export function spoken(name: string): string {
  const words = name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .replace(/[_-]+/g, ' ')
    .trim()
    .toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export const isObject = (value: unknown): value is { readonly [name: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const escaped = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1');
const names = (pointer: string): readonly string[] =>
  pointer
    .replace(/^#/, '')
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
/** As hints name fields: `address/city`. */
const pathOf = (pointer: string): string => names(pointer).join('/');

export function valueAt(data: Json | undefined, pointer: string): Json | undefined {
  let found: Json | undefined = data;
  for (const name of names(pointer)) {
    if (Array.isArray(found)) found = (found as readonly Json[])[Number(name)];
    else found = isObject(found) && Object.hasOwn(found, name) ? found[name] : undefined;
  }
  return found;
}

/** A copy of the data with another value at a place; `undefined` takes it away. */
export function withValue(data: Json | undefined, pointer: string, value: Json | undefined): Json {
  return changed(data, names(pointer), value) ?? {};
}

function changed(data: Json | undefined, [name, ...rest]: readonly string[], value: Json | undefined): Json | undefined {
  if (name === undefined) return value;
  if (Array.isArray(data))
    return (data as readonly Json[]).map((one, index) => (String(index) === name ? (changed(one, rest, value) ?? null) : one));
  const before = isObject(data) ? data : {};
  const inner = changed(before[name], rest, value);
  const { [name]: _, ...others } = before;
  // In the old place: a form's data keeps its order.
  if (inner === undefined) return others;
  return Object.hasOwn(before, name) ? { ...before, [name]: inner } : { ...others, [name]: inner };
}
