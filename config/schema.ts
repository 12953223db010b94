/**
 * The hub's own settings. In hub.yaml they are under `settings`; in the environment each is `HUB_` and its path in upper
 * case (`limits.inFlight` is HUB_LIMITS_IN_FLIGHT). Durations are milliseconds and sizes bytes once they are resolved.
 */
import { hostname } from 'node:os';
import type { SettingSpec } from './formats.js';
import { upperSnake } from './settings.js';

/** A host name as a part of a queue name: `Büro_PC.Local` → `b-ro-pc.local`. */
export function fitForQueue(name: string): string {
  const words = name
    .toLowerCase()
    .split('.')
    .map((word) => word.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, ''));
  return (
    words
      .filter((word) => word !== '')
      .join('.')
      .slice(0, 100)
      .replace(/[.-]+$/, '') || 'hub'
  );
}

export const core = {
  name: {
    doc: 'Name of this hub: its reply queue is hub.reply.<name>, so it must stay the same over a restart and differ between hubs',
    format: 'name',
    default: fitForQueue(hostname()),
  },
  namespace: {
    doc: 'First word of every exchange, queue and key, so that several hubs can share one RabbitMQ and one Redis',
    format: 'word',
    default: 'hub',
  },
  rabbitmq: {
    url: {
      doc: 'Where RabbitMQ is; the nodes of a cluster with commas between them: the first is preferred, the next one is tried when a node is lost',
      format: 'secretUrls',
      default: 'amqp://guest:guest@127.0.0.1:5672',
      protocols: ['amqp', 'amqps'],
    },
    managementUrl: {
      doc: "Where RabbitMQ's management API is; empty for none",
      format: 'secretUrl',
      default: 'http://127.0.0.1:15672',
      protocols: ['http', 'https'],
      mayBeEmpty: true,
    },
    confirm: { doc: 'How long RabbitMQ may take to confirm a message before the request is refused', format: 'duration', default: '5s' },
  },
  redis: {
    url: { doc: 'Where Redis (or Valkey) is', format: 'secretUrl', default: 'redis://127.0.0.1:6379', protocols: ['redis', 'rediss'] },
  },
  retention: { doc: 'How long an answer is kept for its requestor', format: 'duration', default: '24h' },
  journal: {
    maxAge: { doc: 'How long the journal keeps what happened, as RabbitMQ writes it', format: 'age', default: '7D' },
  },
  limits: {
    inFlight: {
      doc: 'How many requests this hub holds or publishes at once; more are refused with "busy"',
      format: 'count',
      default: 20_000,
    },
    delay: {
      doc: 'How long requests may wait on this hub (for a busy event loop, for RabbitMQ to confirm them); those that would wait longer are refused, in a burst those that would wait twice as long; 0: none is refused for it',
      format: 'duration',
      default: '50ms',
    },
  },
  defaults: {
    wait: { doc: 'How long a requestor is held when neither it nor its flow says', format: 'duration', default: '25s' },
    maxWait: { doc: 'How long a requestor is held at most when its flow does not say', format: 'duration', default: '60s' },
    deadline: { doc: 'How long a request lives when neither its requestor nor its flow says', format: 'duration', default: '1h' },
    maxDeadline: { doc: 'How long a request lives at most when its flow does not say', format: 'duration', default: '30d' },
  },
  log: {
    level: {
      doc: 'The least important events that are logged',
      format: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
      default: 'info',
    },
  },
  stopWithin: { doc: 'How long a stop may take before what is left is abandoned to redelivery', format: 'duration', default: '25s' },
} as const;

type ValueOf<Format> = Format extends 'duration' | 'size' | 'count'
  ? number
  : Format extends 'secretUrls'
    ? readonly string[]
    : Format extends readonly (infer Word)[]
      ? Word
      : string;
type SettingsOf<Tree> = {
  readonly [Key in keyof Tree]: Tree[Key] extends { readonly format: infer Format } ? ValueOf<Format> : SettingsOf<Tree[Key]>;
};

/** The resolved settings: nested as in `core`, durations in ms, sizes in bytes. */
export type Settings = SettingsOf<typeof core>;

export interface CoreSetting {
  readonly path: readonly string[];
  /** `limits.inFlight` */
  readonly name: string;
  /** `HUB_LIMITS_IN_FLIGHT` */
  readonly env: string;
  readonly spec: SettingSpec;
}

/** Every core setting, in the order of `core`. */
export const coreSettings: readonly CoreSetting[] = leaves(core, []);

function leaves(tree: object, above: readonly string[]): CoreSetting[] {
  return Object.entries(tree).flatMap(([key, node]: [string, object]) => {
    const path = [...above, key];
    if (!isSpec(node)) return leaves(node, path);
    return [{ path, name: path.join('.'), env: `HUB_${path.map(upperSnake).join('_')}`, spec: node }];
  });
}

function isSpec(node: object): node is SettingSpec {
  return 'format' in node && 'doc' in node;
}

/** Nests the values by the paths of their settings. */
export function nest(values: ReadonlyMap<string, unknown>): Settings {
  const root: Record<string, unknown> = {};
  for (const { path, name } of coreSettings) {
    const parent = path.slice(0, -1).reduce((node, key) => (node[key] ??= {}) as Record<string, unknown>, root);
    parent[path.at(-1)!] = values.get(name);
  }
  return root as Settings;
}
