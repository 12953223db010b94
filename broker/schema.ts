/** Bodies against the flows' JSON Schemas (2020-12): every flaw is listed, by JSON Pointer. */
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { Fault, type Flaw } from './fault.js';
import type { Flow, JsonSchema } from './flow.js';
import { bodyOf } from './step.js';

/** Throws a Fault `invalid` when a JSON body does not fit the flow's schema; other content types pass. */
export type Validate = (
  flow: Flow,
  message: { readonly body: Buffer; readonly contentType: string; readonly contentEncoding?: string },
) => void;

export function validator(flows: readonly Flow[]): Validate {
  if (flows.every(({ request }) => request === undefined)) return () => undefined;
  const ajv = new Ajv2020({ allErrors: true, strict: false });
  addFormats.default(ajv);
  const compiled = new Map<string, ValidateFunction>();
  for (const { name, request } of flows) if (request !== undefined) compiled.set(name, ajv.compile(request));

  return (flow, message) => {
    const check = compiled.get(flow.name);
    if (check === undefined) return;
    const body: unknown = bodyOf(message);
    if (Buffer.isBuffer(body) || check(body)) return;
    const errors = (check.errors ?? []).map(flawOf);
    throw new Fault(
      'invalid',
      `the body does not fit the schema of flow ${flow.name}: ${errors.map(({ pointer, detail }) => `${pointer} ${detail}`).join('; ')}`.slice(
        0,
        1_000,
      ),
      { errors, reason: 'schema' },
    );
  };
}

/** What is wrong with a value, by JSON Schema 2020-12. Throws when the schema itself is none. */
export function flawsOf(schema: JsonSchema, value: unknown): readonly Flaw[] {
  const ajv = new Ajv2020({ allErrors: true, strict: false });
  addFormats.default(ajv);
  const check = ajv.compile(schema);
  return check(value) ? [] : (check.errors ?? []).map(flawOf);
}

/** An error of ajv as a flaw. */
export function flawOf({ instancePath, keyword, params, message = 'is wrong' }: ErrorObject): Flaw {
  const missing =
    keyword === 'required'
      ? `/${String((params as { missingProperty?: string }).missingProperty)
          .replaceAll('~', '~0')
          .replaceAll('/', '~1')}`
      : '';
  const extra = keyword === 'additionalProperties' ? ` (${String((params as { additionalProperty?: string }).additionalProperty)})` : '';
  const allowed = keyword === 'enum' ? `: ${JSON.stringify((params as { allowedValues?: unknown }).allowedValues)}` : '';
  return { pointer: `#${instancePath}${missing}`, detail: missing === '' ? `${message}${extra}${allowed}` : 'is missing' };
}
