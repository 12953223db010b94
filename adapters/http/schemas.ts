/** What the OpenAPI and the AsyncAPI document have in common: a flow's JSON Schemas, as both want them, and how a request in parts stands. */
import type { Flow, JsonSchema } from '../../broker/flow.js';

/** Keywords whose value is data, not schema. */
const data = new Set(['const', 'enum', 'default', 'examples', 'example']);

/**
 * The schema as a part of a larger document at `at` (a JSON Pointer as a URI fragment): references into itself start
 * there now, and `$id` and `$schema`, which would say otherwise, are left out.
 */
export function embedded(schema: JsonSchema, at: string): object {
  // AsyncAPI has no boolean schemas.
  if (typeof schema === 'boolean') return schema ? {} : { not: {} };
  const own = typeof schema['$id'] === 'string' ? schema['$id'].replace(/#$/, '') : undefined;
  const moved = (reference: string): string => {
    const local = own !== undefined && reference.startsWith(own) ? reference.slice(own.length) || '#' : reference;
    return local === '#' || local.startsWith('#/') ? at + local.slice(1) : reference;
  };
  const walk = (value: unknown, top: boolean): unknown => {
    if (Array.isArray(value)) return value.map((item) => walk(item, false));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .filter(([keyword]) => !top || (keyword !== '$id' && keyword !== '$schema'))
        .map(([keyword, inner]) => [
          keyword,
          keyword === '$ref' && typeof inner === 'string' ? moved(inner) : data.has(keyword) ? inner : walk(inner, false),
        ]),
    );
  };
  return walk(schema, true) as object;
}

/** Name of a flow in the characters that both documents allow for keys. */
export const partName = (flow: Flow): string => flow.name.replace(/[^\w.-]/g, '_');

const componentName = (flow: Flow, part: 'request' | 'reply'): string => `${partName(flow)}.${part}`;

/** Components of all flows that have a schema. */
export function flowSchemas(flows: readonly Flow[]): Readonly<Record<string, object>> {
  const parts = ['request', 'reply'] as const;
  return Object.fromEntries(
    flows.flatMap((flow) =>
      parts.flatMap((part) => {
        const schema = flow[part];
        const name = componentName(flow, part);
        return schema === undefined ? [] : [[name, embedded(schema, `#/components/schemas/${name}`)]];
      }),
    ),
  );
}

/** Reference to a flow's schema; undefined when it has none. */
export function schemaOf(flow: Flow, part: 'request' | 'reply'): { readonly $ref: string } | undefined {
  return flow[part] === undefined ? undefined : { $ref: `#/components/schemas/${componentName(flow, part)}` };
}

const string = { type: 'string' } as const;
const time = { type: 'string', format: 'date-time' } as const;

/** As `openedDocument` in `broker/opened.ts` writes it. */
export const openedSchema = {
  type: 'object',
  description: 'A request that arrives in parts.',
  required: ['id', 'flow', 'state', 'received', 'bytes', 'missing', 'openedAt', 'updatedAt', 'expiresAt'],
  properties: {
    id: string,
    flow: string,
    state: { enum: ['open', 'closing', 'closed', 'expired', 'abandoned'] },
    contentType: { type: 'string', description: 'That of all its parts.' },
    received: { type: 'integer', description: 'How many parts are here.' },
    bytes: { type: 'integer', description: 'Of all of them.' },
    missing: {
      type: 'array',
      items: { type: 'integer' },
      description: 'Numbers that have not come, up to `total`, or to the highest that has.',
    },
    total: { type: 'integer', description: 'How many parts it has, once that was said.' },
    openedAt: time,
    updatedAt: time,
    expiresAt: { ...time, description: 'When it ends, unless a part comes before.' },
    remindedAt: time,
    callback: { type: 'string', description: 'Where its requestor is called back.' },
    requestId: { type: 'string', description: 'The request that it is, once it is closed.' },
  },
} as const;
