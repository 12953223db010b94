/**
 * The `flows` of hub.yaml: `hello: [hello]` in short, or a mapping with times, schemas and an example.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { formats, isMapping, type FormatName } from './formats.js';
import type { HubFile, Path } from './hubfile.js';
import type { Settings } from './schema.js';
import { accept } from './settings.js';

export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/** Structurally the `PartsLimits` of `broker/flow.ts`. */
export interface PartsLimits {
  readonly leaseMs: number;
  readonly count: number;
  readonly size: number;
  readonly total: number;
}

/** Structurally the `Flow` of `broker/flow.ts`. */
export interface Flow {
  readonly name: string;
  readonly summary?: string;
  readonly steps: readonly string[];
  readonly waitMs: number;
  readonly maxWaitMs: number;
  readonly deadlineMs: number;
  readonly maxDeadlineMs: number;
  readonly durable: boolean;
  readonly journal?: boolean;
  readonly urgent?: boolean;
  readonly parts?: PartsLimits;
  readonly late?: 'journal' | 'amend';
  readonly amendForMs?: number;
  readonly request?: JsonSchema;
  readonly reply?: JsonSchema;
  readonly example?: unknown;
  /** What the example is answered with, for documents and the banner of `answerback dev`. */
  readonly exampleReply?: unknown;
}

/** What a flow may say in hub.yaml. */
export const flowKeys = {
  steps: 'Names of its steps, in order',
  summary: 'One sentence for the documents',
  request: 'JSON Schema (2020-12) of the body, or the name of a file with one; what does not fit is refused',
  reply: 'JSON Schema of the reply, or the name of a file with one: for the documents',
  wait: 'How long a requestor is held when it does not say',
  maxWait: 'How long a requestor is held at most',
  deadline: 'How long a request lives when its requestor does not say',
  maxDeadline: 'How long a request lives at most',
  durable: '`false`: volatile. Transient messages without confirms, answered on the line or not at all: for reads that may be repeated',
  journal:
    '`false`: its messages are not in the journal. They are kept and confirmed like any, and cheaper; but `answerback trace` knows nothing of them, and what Redis knew of them (202s, idempotency keys) cannot be rebuilt when Redis is lost',
  batch:
    '`true`: requests that come at once share a message, and so do replies: several times the throughput, for a shared fate, and queues that only our own workers can read. Volatile flows only',
  urgent:
    '`true`: its requests may be urgent (`Hub-Priority: urgent`), and then overtake what waits at their steps, which get a second queue',
  parts:
    '`true`, or a mapping: its requests may arrive in parts (`POST /requests/{flow}/parts`). `lease`: how long one stays open after its last part (10m); `count`: how many parts (1000); `size`: bytes of a part (1mb), `total`: of all together (8mb)',
  late: 'What becomes of a part that comes when its group is complete: `journal` (it is written down, no more) or `amend` (a corrected result, a further version of the reply; its last step must be an aggregator)',
  amendFor: 'With `late: amend`: how long after the reply it may be amended; default and at most: the deadline of the request',
  example: 'A body to show in documents and in the curl that can be pasted',
  exampleReply: 'What the example is answered with',
} as const;

/** What `parts` may say. */
const partsKeys = {
  lease: ['duration', 600_000],
  count: ['count', 1_000],
  size: ['size', 1_048_576],
  total: ['size', 8 * 1_048_576],
} as const;

interface Source {
  readonly file: HubFile;
  readonly folder: string;
  readonly defaults: Settings['defaults'];
}

/** All flows that could be read; what is wrong with the others is noted in the file. */
export function readFlows(source: Source): Flow[] {
  return source.file.entries(['flows'], 'flows').flatMap(([name, value]) => {
    const flow = new FlowReader(source, name).read(value);
    return flow === undefined ? [] : [flow];
  });
}

/** Reads one flow; every problem begins with its name. */
class FlowReader {
  readonly #source: Source;
  readonly #name: string;
  readonly #path: Path;

  constructor(source: Source, name: string) {
    this.#source = source;
    this.#name = name;
    this.#path = ['flows', name];
  }

  read(value: unknown): Flow | undefined {
    if (!formats.name.holds(this.#name)) this.#complain([], `a name has ${formats.name.says}`);
    if (Array.isArray(value)) return this.#flow(this.#steps([]), {});
    if (!isMapping(value)) {
      this.#complain(
        [],
        `write its steps as a list, as in ${formats.name.holds(this.#name) ? this.#name : 'hello'}: [${typeof value === 'string' ? value : 'first.step, second.step'}]`,
      );
      return undefined;
    }
    this.#source.file.knows(this.#path, Object.keys(flowKeys), `flow ${this.#name}: `);
    return this.#flow(this.#steps(['steps']), value);
  }

  #flow(steps: string[], value: Readonly<Record<string, unknown>>): Flow {
    const { defaults } = this.#source;
    const summary = this.#setting(['summary'], 'text') as string | undefined;
    const maxWaitMs = this.#ms('maxWait') ?? defaults.maxWait;
    const maxDeadlineMs = this.#ms('maxDeadline') ?? defaults.maxDeadline;
    const request = this.#schema('request');
    const reply = this.#schema('reply');
    const journal = this.#setting(['journal'], 'bool') as boolean | undefined;
    const batch = this.#setting(['batch'], 'bool') as boolean | undefined;
    const urgent = this.#setting(['urgent'], 'bool') as boolean | undefined;
    const parts = this.#parts(value['parts']);
    const late = this.#oneOf('late', ['journal', 'amend']);
    const amendForMs = this.#ms('amendFor');
    if (request !== undefined && 'example' in value) this.#checkExample(request.validate, value['example']);
    return {
      name: this.#name,
      steps,
      // A default gives way to the flow's own limit; what the flow says itself is compared by `checkFlows`.
      waitMs: this.#ms('wait') ?? Math.min(defaults.wait, maxWaitMs),
      maxWaitMs,
      deadlineMs: this.#ms('deadline') ?? Math.min(defaults.deadline, maxDeadlineMs),
      maxDeadlineMs,
      durable: (this.#setting(['durable'], 'bool') as boolean | undefined) ?? true,
      ...(journal === undefined ? {} : { journal }),
      ...(batch === undefined ? {} : { batch }),
      ...(urgent === undefined ? {} : { urgent }),
      ...(parts === undefined ? {} : { parts }),
      ...(late === undefined ? {} : { late }),
      ...(amendForMs === undefined ? {} : { amendForMs }),
      ...(summary === undefined ? {} : { summary }),
      ...(request === undefined ? {} : { request: request.schema }),
      ...(reply === undefined ? {} : { reply: reply.schema }),
      ...('example' in value ? { example: value['example'] } : {}),
      ...('exampleReply' in value ? { exampleReply: value['exampleReply'] } : {}),
    };
  }

  #steps(below: Path): string[] {
    const value = this.#source.file.at([...this.#path, ...below]);
    if (!Array.isArray(value) || value.length === 0) {
      this.#complain(
        below,
        value === undefined || Array.isArray(value)
          ? 'it has no steps: name at least one'
          : 'steps must be a list, as in [first.step, second.step]',
      );
      return [];
    }
    value.forEach((step: unknown, index) => {
      if (!formats.name.holds(step)) this.#complain([...below, index], `step ${JSON.stringify(step)}: a name has ${formats.name.says}`);
    });
    return value.filter((step): step is string => typeof step === 'string');
  }

  #parts(value: unknown): PartsLimits | undefined {
    if (value === undefined) return undefined;
    if (!isMapping(value)) {
      const isOn = this.#setting(['parts'], 'bool', 'must be true or false, or a mapping of lease, count, size and total');
      if (isOn !== true) return undefined;
    } else this.#source.file.knows([...this.#path, 'parts'], Object.keys(partsKeys), `flow ${this.#name}: parts: `);
    const limit = (key: keyof typeof partsKeys): number => {
      const [format, usual] = partsKeys[key];
      return isMapping(value) ? ((this.#setting(['parts', key], format) as number | undefined) ?? usual) : usual;
    };
    const limits = { leaseMs: limit('lease'), count: limit('count'), size: limit('size'), total: limit('total') };
    if (limits.size > limits.total)
      this.#complain(['parts'], 'parts: size is larger than total: a part cannot be larger than all together');
    if (limits.leaseMs > 7 * 86_400_000)
      this.#complain(['parts', 'lease'], 'parts: lease is longer than 7d, after which an open request ends in any case');
    return limits;
  }

  #oneOf<Value extends string>(key: string, values: readonly Value[]): Value | undefined {
    return this.#setting([key], values) as Value | undefined;
  }

  #ms(key: string): number | undefined {
    return this.#setting([key], 'duration') as number | undefined;
  }

  #setting(path: readonly string[], format: FormatName | readonly string[], otherwise?: string): unknown {
    const raw = this.#source.file.at([...this.#path, ...path]);
    if (raw === undefined) return undefined;
    try {
      return accept({ doc: '', format, default: undefined }, raw);
    } catch (error) {
      const shown = raw === null || typeof raw === 'object' ? '' : ` ${JSON.stringify(raw)}`;
      this.#complain(path, `${path.join('.')}${shown} ${otherwise ?? (error as Error).message}`);
      return undefined;
    }
  }

  /** A schema in the file itself, or in a JSON file beside it. */
  #schema(key: 'request' | 'reply'): { schema: JsonSchema; validate: ValidateFunction } | undefined {
    const given = this.#source.file.at([...this.#path, key]);
    if (given === undefined) return undefined;
    const label = typeof given === 'string' ? `${key}: ${given}` : key;
    try {
      const schema = typeof given === 'string' ? readJson(join(this.#source.folder, given)) : given;
      if (typeof schema !== 'boolean' && !isMapping(schema)) throw new Error('is neither a JSON Schema nor the name of a file with one');
      return { schema, validate: compile(schema) };
    } catch (error) {
      this.#complain([key], `${label} ${(error as Error).message}`);
      return undefined;
    }
  }

  #checkExample(validate: ValidateFunction, example: unknown): void {
    if (validate(example) === true) return;
    const [first] = validate.errors ?? [];
    this.#complain(
      ['example'],
      `example does not fit its request schema: ${first?.instancePath ?? ''} ${first?.message ?? 'it is refused'}`,
    );
  }

  #complain(below: Path, message: string): void {
    this.#source.file.complain([...this.#path, ...below], `flow ${this.#name}: ${message}`);
  }
}

function readJson(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw new Error(missing ? `does not exist (looked for ${file})` : `cannot be read: ${(error as Error).message}`, { cause: error });
  }
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new Error(`is not valid JSON: ${(error as Error).message}`, { cause: error });
  }
}

/** Throws when the schema is not one of JSON Schema 2020-12. A new Ajv each, since two files may have the same `$id`. */
function compile(schema: JsonSchema): ValidateFunction {
  const ajv = new Ajv2020({ strict: false, logger: false });
  addFormats.default(ajv);
  try {
    return ajv.compile(schema);
  } catch (error) {
    throw new Error(`is not valid JSON Schema 2020-12: ${(error as Error).message}`, { cause: error });
  }
}
