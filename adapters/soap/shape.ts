/**
 * JSON Schema as XML: what a schema can say that XSD can say, too. The same shape writes the XSD, reads XML into the JSON
 * that the flow would have got over HTTP, and writes a reply's JSON in the order that strict clients check. What XSD cannot
 * say becomes a string with JSON in it, and the WSDL says so.
 */
import type { Flaw } from '../../broker/fault.js';
import type { JsonSchema } from '../../broker/flow.js';
import { escapeText, type Element } from './xml.js';

export const xsi = 'http://www.w3.org/2001/XMLSchema-instance';

export type Shape =
  | { readonly kind: 'object'; readonly fields: readonly Field[]; readonly doc?: string }
  | { readonly kind: 'array'; readonly items: Shape; readonly nillable: boolean; readonly doc?: string }
  | { readonly kind: 'scalar'; readonly type: Scalar; readonly values: readonly string[]; readonly doc?: string }
  | { readonly kind: 'json'; readonly doc?: string };

export type Scalar = 'string' | 'long' | 'double' | 'decimal' | 'boolean';

export interface Field {
  /** Name in JSON. */
  readonly name: string;
  /** Name in XML. */
  readonly element: string;
  readonly shape: Shape;
  readonly required: boolean;
  readonly nillable: boolean;
}

type Schema = { readonly [keyword: string]: unknown };
interface Found {
  readonly shape: Shape;
  readonly nillable: boolean;
}

/** The shape of a whole body. */
export function shapeOf(schema: JsonSchema): Shape {
  const { shape, nillable } = find(schema, schema, []);
  return nillable ? json(schema, 'may be null') : shape;
}

function find(schema: unknown, root: JsonSchema, refs: readonly string[]): Found {
  if (!isSchema(schema)) return { shape: json({}, 'any JSON'), nillable: false };
  if (typeof schema['$ref'] === 'string') return refer(schema['$ref'], root, refs);
  const all = listOf(schema['allOf']);
  if (all.length > 0) return find(merge([{ ...schema, allOf: undefined }, ...all.map((each) => resolveRef(each, root))]), root, refs);
  const choices = [...listOf(schema['anyOf']), ...listOf(schema['oneOf'])];
  if (choices.length > 0) return choose(schema, choices, root, refs);

  const { types, nillable } = typesOf(schema);
  const [type] = types;
  if (types.length !== 1)
    return { shape: json(schema, types.length === 0 ? 'any JSON' : `one of the types ${types.join(', ')}`), nillable };
  return { shape: typed(type!, schema, root, refs), nillable };
}

function typed(type: string, schema: Schema, root: JsonSchema, refs: readonly string[]): Shape {
  switch (type) {
    case 'object':
      return objectShape(schema, root, refs);
    case 'array': {
      if (schema['prefixItems'] !== undefined) return json(schema, 'an array with a type for each place');
      const { shape, nillable } = find(schema['items'], root, refs);
      return { kind: 'array', items: shape, nillable, ...docOf(schema) };
    }
    case 'boolean':
      return { kind: 'scalar', type: 'boolean', values: [], ...docOf(schema) };
    case 'integer':
      return { kind: 'scalar', type: 'long', values: [], ...docOf(schema) };
    case 'number':
      // A step such as 0.01 means that decimal places count (money); a float type would not keep them.
      return {
        kind: 'scalar',
        type: typeof schema['multipleOf'] === 'number' && schema['multipleOf'] < 1 ? 'decimal' : 'double',
        values: [],
        ...docOf(schema),
      };
    case 'string':
      return {
        kind: 'scalar',
        type: 'string',
        values: valuesOf(schema).filter((value): value is string => typeof value === 'string'),
        ...docOf(schema),
      };
    default:
      return json(schema, `the type ${type}`);
  }
}

function objectShape(schema: Schema, root: JsonSchema, refs: readonly string[]): Shape {
  const properties = isSchema(schema['properties']) ? schema['properties'] : {};
  const names = Object.keys(properties);
  if (names.length === 0 && schema['additionalProperties'] !== false) return json(schema, 'an object with names of its own');
  const required = new Set(listOf(schema['required']));
  const fields = names.map((name) => ({
    name,
    element: elementName(name),
    required: required.has(name),
    ...find(properties[name], root, refs),
  }));
  return { kind: 'object', fields, ...docOf(schema) };
}

function refer(ref: string, root: JsonSchema, refs: readonly string[]): Found {
  if (refs.includes(ref)) return { shape: json({}, 'contains itself'), nillable: false };
  return find(resolveRef({ $ref: ref }, root), root, [...refs, ref]);
}

/** Only what is in the same document; undefined for the rest. */
function resolveRef(schema: unknown, root: JsonSchema): unknown {
  if (!isSchema(schema) || typeof schema['$ref'] !== 'string') return schema;
  if (schema['$ref'] === '#') return root;
  if (!schema['$ref'].startsWith('#/')) return undefined;
  const keys = schema['$ref']
    .slice(2)
    .split('/')
    .map((key) => decodeURIComponent(key).replaceAll('~1', '/').replaceAll('~0', '~'));
  return keys.reduce<unknown>(
    (node, key) => (typeof node === 'object' && node !== null && Object.hasOwn(node, key) ? (node as Schema)[key] : undefined),
    root,
  );
}

/** `allOf` of objects is one object with all of their properties. */
function merge(parts: readonly unknown[]): Schema {
  const schemas = parts.filter(isSchema);
  const properties = Object.fromEntries(schemas.flatMap((part) => Object.entries(isSchema(part['properties']) ? part['properties'] : {})));
  const required = schemas.flatMap((part) => listOf(part['required']));
  const together = schemas.reduce((one, other) => ({ ...one, ...other }), {});
  return {
    ...together,
    $ref: undefined,
    allOf: undefined,
    ...(Object.keys(properties).length > 0 ? { type: 'object', properties, required } : {}),
  };
}

/** `anyOf` with null is the other one, nillable; of constants is an enumeration; anything else is not for XSD. */
function choose(schema: Schema, choices: readonly unknown[], root: JsonSchema, refs: readonly string[]): Found {
  const others = choices.filter((choice) => !(isSchema(choice) && choice['type'] === 'null'));
  const nillable = others.length < choices.length;
  if (others.length === 1) return { ...find(others[0], root, refs), nillable };
  const constants = others.map((choice) => (isSchema(choice) ? choice['const'] : undefined));
  if (constants.every((value) => typeof value === 'string'))
    return { shape: { kind: 'scalar', type: 'string', values: constants, ...docOf(schema) }, nillable };
  return { shape: json(schema, 'one of several shapes'), nillable };
}

function typesOf(schema: Schema): { readonly types: readonly string[]; readonly nillable: boolean } {
  const said = schema['type'];
  const types = new Set<string>(Array.isArray(said) ? (said as string[]) : typeof said === 'string' ? [said] : inferred(schema));
  const nillable = types.delete('null');
  if (types.has('number')) types.delete('integer');
  return { types: [...types], nillable };
}

function inferred(schema: Schema): readonly string[] {
  if (schema['properties'] !== undefined) return ['object'];
  if (schema['items'] !== undefined) return ['array'];
  return valuesOf(schema).map((value) => (value === null ? 'null' : typeof value));
}

const valuesOf = (schema: Schema): readonly unknown[] => ('const' in schema ? [schema['const']] : listOf(schema['enum']));

const docOf = (schema: Schema): { doc?: string } => {
  const text = [
    schema['description'] ?? schema['title'],
    schema['format'] === undefined ? undefined : `Format: ${String(schema['format'])}.`,
  ]
    .filter((part) => typeof part === 'string')
    .join(' ');
  return text === '' ? {} : { doc: text };
};

const json = (schema: JsonSchema, why: string): Shape => ({
  kind: 'json',
  doc: [isSchema(schema) ? (docOf(schema).doc ?? '') : '', `JSON text: ${why}.`].join(' ').trim(),
});

const isSchema = (value: unknown): value is Schema => typeof value === 'object' && value !== null && !Array.isArray(value);

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? (value as unknown[]) : []);

/** What no XML name may have becomes `_xHHHH_`, as .NET does it. */
export function elementName(name: string): string {
  const inside = name.replace(
    /[^\p{L}\p{N}_.-]/gu,
    (character) => `_x${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}_`,
  );
  return /^[\p{L}_]/u.test(inside) ? inside : `_${inside}`;
}

// ---- XML → JSON

/** More are not listed. */
const mostFlaws = 100;

/** Reads the children of `element`; whatever XSD would refuse is a flaw. Types are the flow's schema's business: text that is no number stays text. */
export function readFields(
  element: Element,
  fields: readonly Field[],
  namespace: string,
  flaws: Flaw[],
  pointer = '#',
): Record<string, unknown> {
  const byElement = new Map(fields.map((field) => [field.element, field]));
  const found = new Map<Field, Element[]>();
  for (const child of element.children) {
    const field = child.uri === namespace || child.uri === '' ? byElement.get(child.name) : undefined;
    const among = field === undefined ? undefined : found.get(field);
    if (among !== undefined) among.push(child);
    else if (field !== undefined) found.set(field, [child]);
    else if (flaws.length < mostFlaws)
      flaws.push({
        pointer,
        detail: `has no element ${child.name}${child.uri === namespace || child.uri === '' ? '' : ` of the namespace ${child.uri}`}`,
      });
  }
  const body = Object.create(null) as Record<string, unknown>;
  for (const field of fields) {
    const value = readField(found.get(field) ?? [], field, namespace, flaws, `${pointer}/${escapePointer(field.name)}`);
    if (value !== undefined) body[field.name] = value;
  }
  return body;
}

function readField(
  elements: readonly Element[],
  { shape, required, nillable }: Field,
  namespace: string,
  flaws: Flaw[],
  pointer: string,
): unknown {
  const [first] = elements;
  if (first !== undefined && elements.length === 1 && nillable && isNil(first)) return null;
  if (shape.kind === 'array') {
    if (first === undefined && !required) return undefined;
    return elements.map((each, index) => (isNil(each) ? null : readShape(each, shape.items, namespace, flaws, `${pointer}/${index}`)));
  }
  if (first === undefined) return undefined;
  if (elements.length > 1 && flaws.length < mostFlaws) flaws.push({ pointer, detail: `stands there ${elements.length} times` });
  return isNil(first) ? null : readShape(first, shape, namespace, flaws, pointer);
}

function readShape(element: Element, shape: Shape, namespace: string, flaws: Flaw[], pointer: string): unknown {
  switch (shape.kind) {
    case 'object':
      return readFields(element, shape.fields, namespace, flaws, pointer);
    case 'array': // An array in an array: its items are <item>s.
      for (const { name } of element.children)
        if (name !== 'item' && flaws.length < mostFlaws) flaws.push({ pointer, detail: `has no element ${name}, only item` });
      return readField(element.children, { name: '', element: 'item', shape, required: true, nillable: false }, namespace, flaws, pointer);
    case 'scalar':
      if (element.children.length > 0 && flaws.length < mostFlaws)
        flaws.push({ pointer, detail: `must be text, not the element ${element.children[0]!.name}` });
      return readScalar(element.text, shape.type);
    case 'json':
      try {
        return JSON.parse(element.text) as unknown;
      } catch {
        if (flaws.length < mostFlaws) flaws.push({ pointer, detail: 'must be JSON text' });
        return undefined;
      }
  }
}

function readScalar(text: string, type: Scalar): unknown {
  if (type === 'string') return text;
  const word = text.trim();
  if (type === 'boolean') return word === 'true' || word === '1' ? true : word === 'false' || word === '0' ? false : text;
  return /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(word) ? Number(word) : text;
}

const isNil = ({ attributes }: Element): boolean => /^\s*(?:true|1)\s*$/.test(attributes.get(`{${xsi}}nil`) ?? '');

const escapePointer = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1');

// ---- JSON → XML

/** The children, in the schema's order. What the schema does not name is left out. */
export function writeFields(body: unknown, fields: readonly Field[]): string {
  return fields.map((field) => writeField(valueOf(body, field.name), field)).join('');
}

function writeField(value: unknown, { element, shape, nillable }: Field): string {
  if (value === undefined) return '';
  if (value === null) return nillable ? nil(element) : '';
  if (shape.kind !== 'array') return tag(element, writeShape(value, shape));
  const items = Array.isArray(value) ? (value as unknown[]) : [value];
  return items.map((item) => (item === null ? nil(element) : tag(element, writeShape(item, shape.items)))).join('');
}

function writeShape(value: unknown, shape: Shape): string {
  switch (shape.kind) {
    case 'object':
      return writeFields(value, shape.fields);
    case 'array':
      return writeField(value, { name: '', element: 'item', shape, required: true, nillable: false });
    case 'scalar':
      return escapeText(
        typeof value === 'number' && shape.type === 'decimal'
          ? decimal(value)
          : typeof value === 'object'
            ? JSON.stringify(value)
            : String(value),
      );
    case 'json':
      return escapeText(JSON.stringify(value));
  }
}

/** xs:decimal has no exponent. */
const decimal = (value: number): string => value.toLocaleString('en-US', { useGrouping: false, maximumFractionDigits: 20 });

const tag = (name: string, content: string): string => `<${name}>${content}</${name}>`;

const nil = (name: string): string => `<${name} xsi:nil="true"/>`;

const valueOf = (body: unknown, name: string): unknown =>
  typeof body === 'object' && body !== null && Object.hasOwn(body, name) ? (body as Record<string, unknown>)[name] : undefined;
