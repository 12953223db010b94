/** The form of a decision: its schema is checked when the task is defined, and every decision against it, whoever sends it. */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import type { Flaw } from '../fault.js';
import type { JsonSchema } from '../flow.js';
import { flawOf } from '../schema.js';

/** How many schemas stay compiled: those of a project, and some of forms that depend on the body. */
const kept = 200;
const compiled = new Map<string, ValidateFunction>();

function compile(schema: JsonSchema): ValidateFunction {
  const text = JSON.stringify(schema);
  const known = compiled.get(text);
  if (known !== undefined) return known;
  // One instance per schema: an `$id` that two of them share is no matter, and what is forgotten is forgotten.
  const ajv = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictTuples: false, strictRequired: false });
  addFormats.default(ajv);
  const made = ajv.compile(schema);
  compiled.set(text, made);
  if (compiled.size > kept) compiled.delete(compiled.keys().next().value as string);
  return made;
}

/**
 * The schema as it is pinned to the task: a form has only the fields that it names, unless it says more. Throws what is wrong with it
 * (an unknown keyword or format, too: a word that checks nothing is a mistake).
 */
export function formOf(schema: JsonSchema): JsonSchema {
  compile(schema);
  if (typeof schema === 'boolean' || !('properties' in schema)) return schema;
  return 'additionalProperties' in schema || 'unevaluatedProperties' in schema ? schema : { ...schema, unevaluatedProperties: false };
}

/** Everything that is wrong with a decision's data, by JSON Pointer. */
export function flawsOf(form: JsonSchema | null, data: unknown): readonly Flaw[] {
  if (form === null) {
    const isEmpty = data === undefined || data === null || (typeof data === 'object' && Object.keys(data).length === 0);
    return isEmpty ? [] : [{ pointer: '#', detail: 'must be left out: this task has no form' }];
  }
  const check = compile(form);
  if (check(data ?? {})) return [];
  return (check.errors ?? []).map(flawOf);
}
