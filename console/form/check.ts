/**
 * Form data against its JSON Schema 2020-12, in words that say how to mend it. Without compiled code, which the page's policy
 * forbids. The hub checks again, and is the judge.
 */
import { type OutputUnit, type Schema as Draft, Validator } from '@cfworker/json-schema';
import type { Flaw, Json, Schema } from '../contract.js';
import { isObject, spoken, valueAt } from './model.js';

/** Keywords that only say that something below them is wrong. */
const carriers = [
  'properties',
  'items',
  'prefixItems',
  'allOf',
  '$ref',
  'if',
  'then',
  'else',
  'additionalProperties',
  'dependentSchemas',
  'unevaluatedProperties',
];

/** A checker of one schema. Throws when it is no schema. */
export function checkerOf(root: Schema): (data: Json) => readonly Flaw[] {
  const validator = new Validator(root as Draft, '2020-12', false);
  return (data) => {
    const { valid, errors } = validator.validate(data);
    if (valid) return [];
    const told = errors.filter(({ keyword, error }) => !carriers.includes(keyword) || error === 'False boolean schema.');
    // Below a choice each branch has its own complaints: the choice itself says enough.
    const choices = errors
      .filter(({ keyword }) => keyword === 'anyOf' || keyword === 'oneOf')
      .map(({ keywordLocation }) => keywordLocation);
    const flaws = told
      .filter(({ keywordLocation }) => !choices.some((choice) => keywordLocation !== choice && keywordLocation.startsWith(`${choice}/`)))
      .map((unit) => flawOf(unit, root));
    const seen = new Set<string>();
    const once = flaws.filter(({ pointer }) => !seen.has(pointer) && seen.add(pointer));
    return once.length > 0 ? once : [{ pointer: '#', detail: 'This is not valid.' }];
  };
}

/** Whether data fits a part of a schema that may refer to the rest of it. */
export function fitsWithin(root: Schema): (schema: Schema, data: Json) => boolean {
  const known = new WeakMap<object, Validator>();
  return (schema, data) => {
    let validator = known.get(schema);
    if (validator === undefined) {
      validator = new Validator({ ...schema, ...(root.$defs === undefined ? {} : { $defs: root.$defs }) } as Draft, '2020-12');
      known.set(schema, validator);
    }
    return validator.validate(data).valid;
  };
}

function flawOf({ keyword, keywordLocation, instanceLocation, error }: OutputUnit, root: Schema): Flaw {
  const missing = keyword === 'required' || keyword === 'dependentRequired' ? /property "(.*)"\.$|not have "(.*)"\.$/.exec(error) : null;
  if (missing !== null) {
    const name = missing[1] ?? missing[2] ?? '';
    const at = name.replaceAll('~', '~0').replaceAll('/', '~1');
    const field = valueAt(root as unknown as Json, keywordLocation.replace(/[^/]*$/, `properties/${at}`));
    const isChoice = isObject(field) && (field['enum'] !== undefined || field['oneOf'] !== undefined);
    return { pointer: `${instanceLocation}/${at}`, detail: isChoice ? 'Choose one.' : 'Fill this in.' };
  }
  const limit = valueAt(root as unknown as Json, keywordLocation);
  return { pointer: instanceLocation, detail: words(keyword, limit, error) };
}

function words(keyword: string, limit: Json | undefined, error: string): string {
  const said = limit === undefined || typeof limit === 'object' ? undefined : String(limit);
  const sentence: Readonly<Record<string, string>> = {
    minimum: `Enter ${said} or more.`,
    maximum: `Enter ${said} or less.`,
    exclusiveMinimum: `Enter more than ${said}.`,
    exclusiveMaximum: `Enter less than ${said}.`,
    multipleOf: `Enter a multiple of ${said}.`,
    minLength: said === '1' ? 'Fill this in.' : `Write at least ${said} characters.`,
    maxLength: `Write at most ${said} characters.`,
    minItems: `Choose or add at least ${said}.`,
    maxItems: `Choose or add at most ${said}.`,
    format: `Enter ${article(said ?? '')}.`,
    pattern: `Write it as the pattern ${said} asks.`,
    type: `Enter ${article(said === 'string' ? 'text' : (said ?? 'value'))}.`,
    const: limit === true ? 'Tick this to go on.' : `Only ${said} can be entered.`,
  };
  if (said !== undefined && sentence[keyword] !== undefined) return sentence[keyword];
  if (keyword === 'enum') return 'Choose one of the values.';
  if (keyword === 'oneOf' || keyword === 'anyOf') return 'Choose one of the values that are allowed.';
  if (keyword === 'uniqueItems') return 'No two may be the same.';
  if (error === 'False boolean schema.') return 'This is not asked for.';
  return error;
}

const formats: Readonly<Record<string, string>> = {
  email: 'an e-mail address, like name@example.com',
  uri: 'a web address, like https://example.com',
  date: 'a date',
  'date-time': 'a date and a time',
  integer: 'a whole number',
  number: 'a number',
  text: 'text',
};
const article = (what: string): string => formats[what] ?? `a valid ${spoken(what).toLowerCase()}`;
