/**
 * What an adapter is (EIP: Channel Adapter): one protocol, in (`open`: requests enter) and/or out (`call`: a legacy
 * system is called by a step). One file or folder in `adapters/`, one line in `adapters/index.ts`.
 */
import type { Access } from './access.js';
import type { Envelope } from './envelope.js';
import type { Gateway } from './gateway.js';
import type { People } from './people.js';
import type { Raw, StepContext } from './step.js';
import type { Tasks } from './tasks/tasks.js';

/** A convict schema of one level: each setting with its doc, format and default (`config/formats.ts` has ours: `duration`, `bool`, `port`...). */
export type SettingsSchema = Readonly<
  Record<
    string,
    { readonly doc: string; readonly format: unknown; readonly default: unknown; readonly env?: string; readonly sensitive?: boolean }
  >
>;

export interface Open {
  /** Where it listens, for the banner: `http://127.0.0.1:8080`. */
  readonly urls: readonly string[];
  /** Takes nothing new, ends what it holds (the hub has already turned holds into 202 or outcomes). Resolves within 10 s. */
  close(): Promise<void>;
}

export interface AdapterContext {
  readonly gateway: Gateway;
  readonly access: Access;
  /** Who signs in, and the tasks that they answer. Absent: nobody does. */
  readonly inbox?: { readonly people: People; readonly tasks: Tasks };
  /** Folder of the hub's project (where `hub.yaml` is); relative paths in settings start there. */
  readonly projectFolder: string;
  /** Event for the log: a dotted name and fields; never a body or a secret. */
  readonly log: (event: string, fields?: Readonly<Record<string, unknown>>) => void;
  /** Text of `/metrics` in the Prometheus format. */
  readonly metrics: () => Promise<string>;
  readonly version: string;
  /** First word of the names on RabbitMQ. */
  readonly namespace: string;
  /** How long an outcome is kept (ms). */
  readonly retentionMs: number;
  /** Aborts when the hub begins to stop: answer what is held soon, refuse what is new. */
  readonly stopping: AbortSignal;
}

/** A message that goes out to a legacy system. */
export interface OutgoingCall {
  readonly body: Buffer;
  readonly contentType: string;
  readonly envelope: Envelope;
  readonly context: StepContext;
  readonly projectFolder: string;
}

/** A legacy system, ready to be called. */
export interface Callee {
  call(outgoing: OutgoingCall): Promise<Raw>;
  close(): Promise<void>;
}

export interface Adapter<Settings = Readonly<Record<string, unknown>>> {
  readonly name: string;
  readonly summary: string;
  /** How this protocol says each of the four things that a requestor can hear (documentation). */
  readonly says?: { readonly reply: string; readonly accepted: string; readonly fault: string; readonly oneWay: string };
  /** Settings of `open`; under `adapters.<name>` in hub.yaml, or `HUB_<NAME>_…` in the environment. */
  readonly settings: SettingsSchema;
  /** Begins to take requests. Rejects with a clear error when it cannot (taken port, missing folder). */
  open?(settings: Settings, context: AdapterContext): Promise<Open>;
  /** Settings of `call`; beside `use: <name>` of a step in hub.yaml. */
  readonly callSettings?: SettingsSchema;
  /**
   * Prepares calls with one step's settings; the returned function is the step's handler: it resolves with the reply's body, throws a
   * Fault for what the requestor must know, and anything else to be tried again. `close` at stop.
   */
  call?(settings: Settings, projectFolder: string): Promise<Callee>;
}

/** Defines an adapter; only gives it its type. */
export function adapter<Settings>(definition: Adapter<Settings>): Adapter<Settings> {
  return definition;
}
