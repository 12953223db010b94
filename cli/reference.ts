/** docs/reference.md, made from the code: settings, adapters, fault codes, names in RabbitMQ. */
import type { Adapter, SettingsSchema } from '../broker/adapter.js';
import { faultCodes } from '../broker/fault.js';
import { callbackKeys } from '../config/callbacks.js';
import { flowKeys } from '../config/flows.js';
import { coreSettings } from '../config/schema.js';

const row = (...cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
const code = (value: unknown): string =>
  value === '' || value === undefined || value === null ? '' : `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``;
const upperSnake = (text: string): string =>
  text
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .replace(/[.-]/g, '_')
    .toUpperCase();

function settingsTable(schema: SettingsSchema, environment: ((name: string) => string) | undefined): string[] {
  const variable = environment === undefined ? [] : ['Environment'];
  return [
    row('Setting', ...variable, 'Default', 'What it is'),
    row('---', ...variable.map(() => '---'), '---', '---'),
    ...Object.entries(schema).map(([name, { doc, default: value, env }]) =>
      row(`\`${name}\``, ...variable.map(() => `\`${env ?? environment!(name)}\``), code(value), doc),
    ),
  ];
}

function adapterPages({ name, summary, says, settings, callSettings, open }: Adapter<never>): string[] {
  return [
    `### ${name}`,
    '',
    summary,
    '',
    ...(says === undefined
      ? []
      : [
          row('The hub says', 'as'),
          row('---', '---'),
          row('reply', says.reply),
          row('accepted, answer later', says.accepted),
          row('fault', says.fault),
          row('one-way', says.oneWay),
          '',
        ]),
    ...(open === undefined
      ? []
      : [
          `In, under \`adapters.${name}\` in hub.yaml:`,
          '',
          ...settingsTable(settings, (setting) => `HUB_${upperSnake(name)}_${upperSnake(setting)}`),
          '',
        ]),
    ...(callSettings === undefined
      ? []
      : [`Out, beside \`use: ${name}\` of a step in hub.yaml:`, '', ...settingsTable(callSettings, undefined), '']),
  ];
}

export function reference(adapters: readonly Adapter<never>[]): string {
  return [
    '# Reference',
    '',
    'Made from the code by `answerback reference`; CI compares it.',
    '',
    '## Settings',
    '',
    'Under `settings:` in hub.yaml, or in the environment, which wins. Durations: `200ms`, `5s`, `1m`, `2h`, `7d`. Sizes: `64kb`, `1mb`.',
    '',
    row('Setting', 'Environment', 'Default', 'What it is'),
    row('---', '---', '---', '---'),
    ...coreSettings.map(({ name, env, spec }) =>
      row(`\`${name}\``, `\`${env}\``, name === 'name' ? "this machine's name" : code(spec.default), spec.doc),
    ),
    '',
    '## Flows',
    '',
    'Each under its name in `flows:`: a list of steps, or a mapping with',
    '',
    row('Key', 'What it is'),
    row('---', '---'),
    ...Object.entries(flowKeys).map(([name, doc]) => row(`\`${name}\``, doc)),
    '',
    '## Callbacks',
    '',
    'Each under its name in `callbacks:` ([how they are received](callbacks.md)):',
    '',
    row('Key', 'What it is'),
    row('---', '---'),
    ...Object.entries(callbackKeys).map(([name, doc]) => row(`\`${name}\``, doc)),
    '',
    '## Adapters',
    '',
    ...adapters.flatMap(adapterPages),
    '## Fault codes',
    '',
    row('Code', 'What it means', 'Worth asking again'),
    row('---', '---', '---'),
    ...Object.entries(faultCodes).map(([name, { summary, retriable }]) => row(`\`${name}\``, summary, retriable ? 'yes' : 'no')),
    '',
  ].join('\n');
}
