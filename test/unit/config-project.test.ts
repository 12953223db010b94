/** A project: where values come from, what is refused and where, and that no password is ever shown. */
import { afterAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KeyedPrincipal as BrokerPrincipal } from '../../broker/access.js';
import type { Adapter } from '../../broker/adapter.js';
import type { Flow as BrokerFlow } from '../../broker/flow.js';
import { ConfigError, loadProject, secretOf, type Project, type ProjectOptions } from '../../config/project.js';

const root = mkdtempSync(join(tmpdir(), 'answerback-config-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const adapters: ProjectOptions['adapters'] = [
  {
    name: 'http',
    settings: {
      port: { doc: 'Port', format: 'port', default: 8080 },
      host: { doc: 'Host', format: String, default: '127.0.0.1', env: 'HUB_LISTEN' },
    },
  },
  {
    name: 'file',
    settings: {
      folder: { doc: 'The folder that is watched.', format: String, default: null },
      every: { doc: 'Pause', format: 'duration', default: '1s' },
    },
  },
  {
    name: 'soap',
    settings: {
      tls: { doc: 'TLS', format: 'bool', default: false },
      password: { doc: 'Password', format: String, default: '', sensitive: true },
      url: { doc: 'Proxy', format: 'url', default: '' },
    },
  },
];

let count = 0;
/** A project folder with these files; `hub.yaml` as text. */
function folderOf(yaml: string | Uint8Array, files: Readonly<Record<string, string>> = {}): string {
  const folder = join(root, `p${++count}`);
  mkdirSync(join(folder, 'schemas'), { recursive: true });
  writeFileSync(join(folder, 'hub.yaml'), yaml);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

interface Rest extends Partial<ProjectOptions> {
  readonly files?: Readonly<Record<string, string>>;
}

const load = (yaml: string, { files = {}, ...options }: Rest = {}): Project =>
  loadProject(folderOf(yaml, files), { env: {}, adapters, ...options });

function problemsOf(yaml: string, rest: Rest = {}): readonly string[] {
  try {
    load(yaml, rest);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

const sourceOf = (project: Project, name: string): string | undefined => project.effective().find((line) => line.name === name)?.source;
const valueOf = (project: Project, name: string): string | undefined => project.effective().find((line) => line.name === name)?.value;

describe('a project', () => {
  it('is one flow in short form, and all the rest has defaults', () => {
    const project = load('flows:\n  hello: [hello]\n');
    expect(project.flows).toEqual([
      {
        name: 'hello',
        steps: ['hello'],
        waitMs: 25_000,
        maxWaitMs: 60_000,
        deadlineMs: 3_600_000,
        maxDeadlineMs: 2_592_000_000,
        durable: true,
      },
    ]);
    expect(project.settings).toMatchObject({
      namespace: 'hub',
      retention: 86_400_000,
      journal: { maxAge: '7D' },
      limits: { inFlight: 20_000 },
      log: { level: 'info' },
      stopWithin: 25_000,
    });
    expect(project.adapters).toEqual(new Map([['http', { port: 8080, host: '127.0.0.1' }]]));
    expect([project.steps, project.principals, project.unknownEnv]).toEqual([[], [], []]);
    expect(project.title).toMatch(/^p\d+$/);
  });

  it('is read whole', () => {
    const hash = 'a'.repeat(64);
    const yaml = `name: loan-broker
settings: { retention: 1h, limits: { inFlight: 100 } }
flows:
  loan.quote:
    summary: Best offer of five banks
    steps: [credit.score, loan.best]
    request: schemas/loan.quote.request.json
    reply: { type: object }
    wait: 10s
    maxWait: 30s
    deadline: 1m
    maxDeadline: 1d
    durable: no
    journal: no
    example: {"customer":"C-1042"}
  hello: { steps: [hello] }
steps:
  bank.harbour: { use: soap, wsdl: systems/harbour.wsdl, operation: Quote }
  legacy.price: { foreign: true, summary: Prices }
adapters:
  http: { port: 8081 }
  file: { folder: inbox }
  soap: true
principals:
  webshop: { keys: ["1f:${hash}"], flows: ["loan.*", hello], topics: ["*"] }
`;
    const project = load(yaml, { files: { 'schemas/loan.quote.request.json': '{"type":"object","required":["customer"]}' } });
    expect(project.title).toBe('loan-broker');
    expect(project.flows[0]).toEqual({
      name: 'loan.quote',
      summary: 'Best offer of five banks',
      steps: ['credit.score', 'loan.best'],
      waitMs: 10_000,
      maxWaitMs: 30_000,
      deadlineMs: 60_000,
      maxDeadlineMs: 86_400_000,
      durable: false,
      journal: false,
      request: { type: 'object', required: ['customer'] },
      reply: { type: 'object' },
      example: { customer: 'C-1042' },
    });
    expect(project.steps).toEqual([
      { name: 'bank.harbour', foreign: false, use: 'soap', settings: { wsdl: 'systems/harbour.wsdl', operation: 'Quote' } },
      { name: 'legacy.price', foreign: true, summary: 'Prices', settings: {} },
    ]);
    expect([...project.adapters]).toEqual([
      ['http', { port: 8081, host: '127.0.0.1' }],
      ['file', { folder: 'inbox', every: 1_000 }],
      ['soap', { tls: false, password: '', url: '' }],
    ]);
    expect(project.principals).toEqual([{ name: 'webshop', keys: [`1f:${hash}`], flows: ['loan.*', 'hello'], topics: ['*'] }]);
    expect(project.settings.retention).toBe(3_600_000);
    expect(project.locate(['flows', 'loan.quote', 'steps', 1])).toBe('hub.yaml:6:27');
    expect(project.locate(['flows', 'loan.quote', 'nothing', 'here'])).toBe('hub.yaml:4:3');
    expect(project.locate([])).toBe('hub.yaml:1:1');
  });

  it('fits the types of the broker', () => {
    const project = load('flows: { hello: [hello] }');
    const flows: readonly BrokerFlow[] = project.flows;
    const principals: readonly BrokerPrincipal[] = project.principals;
    const ofAdapter = (adapter: Adapter): ProjectOptions['adapters'][number] => adapter;
    expect([flows.length, principals.length, typeof ofAdapter]).toEqual([1, 0, 'function']);
  });

  it("holds a flow's default time within the flow's own limit", () => {
    expect(load('flows: { hello: { steps: [hello], maxWait: 5s, maxDeadline: 1m } }').flows[0]).toMatchObject({
      waitMs: 5_000,
      deadlineMs: 60_000,
    });
  });

  it('takes requests in parts if it says so, with limits of its own', () => {
    const usual = { leaseMs: 600_000, count: 1_000, size: 1_048_576, total: 8_388_608 };
    const partsOf = (parts: string) => load(`flows: { hello: { steps: [hello], parts: ${parts} } }`).flows[0]?.parts;
    expect(partsOf('true')).toEqual(usual);
    expect(partsOf('false')).toBeUndefined();
    expect(partsOf('{ lease: 2h, total: 2mb }')).toEqual({ ...usual, leaseMs: 7_200_000, total: 2_097_152 });
  });

  it('says what becomes of late parts, and for how long', () => {
    expect(load('flows: { hello: { steps: [a], late: amend, amendFor: 5m } }').flows[0]).toMatchObject({
      late: 'amend',
      amendForMs: 300_000,
    });
    expect(load('flows: { hello: { steps: [a], late: journal } }').flows[0]).toMatchObject({ late: 'journal' });
    expect(load('flows: { hello: [a] }').flows[0]).not.toHaveProperty('late');
  });

  it('finds its way through anchors and aliases', () => {
    const project = load('flows:\n  a: &slip { steps: [one] }\n  b: *slip\n');
    expect(project.flows.map(({ steps }) => steps)).toEqual([['one'], ['one']]);
    expect(project.locate(['flows', 'b', 'steps'])).toBe('hub.yaml:2:14');
  });
});

describe('a setting', () => {
  const yaml = 'settings:\n  retention: 2h\nadapters:\n  http:\n    port: 8081\n';

  it('comes from its default, hub.yaml, the environment or the command line, the last one wins, and effective() says which', () => {
    const env = { HUB_RETENTION: '3h', HUB_HTTP_PORT: '8082' };
    const steps = [
      load('{}'),
      load(yaml),
      load(yaml, { env }),
      load(yaml, { env, overrides: { retention: '4h', 'adapters.http.port': '8083' } }),
    ];
    expect(steps.map(({ settings }) => settings.retention / 3_600_000)).toEqual([24, 2, 3, 4]);
    expect(steps.map((project) => project.adapters.get('http')?.['port'])).toEqual([8080, 8081, 8082, 8083]);
    expect(steps.map((project) => sourceOf(project, 'retention'))).toEqual([
      'default',
      'hub.yaml:2:3',
      'environment HUB_RETENTION',
      'command line',
    ]);
    expect(steps.map((project) => sourceOf(project, 'adapters.http.port'))).toEqual([
      'default',
      'hub.yaml:5:5',
      'environment HUB_HTTP_PORT',
      'command line',
    ]);
    expect(valueOf(steps[1]!, 'retention')).toBe('2h');
  });

  it('of an adapter may have a name of its own in the environment', () => {
    expect(load('{}', { env: { HUB_LISTEN: '0.0.0.0' } }).adapters.get('http')).toEqual({ port: 8080, host: '0.0.0.0' });
  });

  it('that is wrong is told where it was given, also when another one wins', () => {
    expect(
      problemsOf('settings: { retention: soon }', {
        env: { HUB_RETENTION: 'later', HUB_LOG_LEVEL: 'inof' },
        overrides: { retention: '1h', 'limits.inFlight': '0', retenion: '1h' },
      }),
    ).toEqual([
      'hub.yaml:1:13: retention "soon" must be a duration: a number and ms, s, m, h or d, as in 200ms, 5s, 1m, 2h, 7d',
      'environment HUB_RETENTION: retention "later" must be a duration: a number and ms, s, m, h or d, as in 200ms, 5s, 1m, 2h, 7d',
      'command line: limits.inFlight "0" must be a whole number, 1 or more',
      'environment HUB_LOG_LEVEL: log.level "inof" must be one of trace, debug, info, warn, error, fatal, silent; did you mean "info"?',
      'command line: unknown setting "retenion"; did you mean "retention"?',
    ]);
  });

  it('for the management API may be empty, the others not', () => {
    expect(load('{}', { env: { HUB_RABBITMQ_MANAGEMENT_URL: '' } }).settings.rabbitmq.managementUrl).toBe('');
    expect(problemsOf('{}', { env: { HUB_RABBITMQ_URL: '' } })).toEqual([
      'environment HUB_RABBITMQ_URL: rabbitmq.url must be a URL that begins with amqp:// or amqps://; several, the nodes of a cluster, with commas between them',
    ]);
  });

  it('for RabbitMQ may name the nodes of a cluster, in the environment and in hub.yaml, and a comma in a password is no end', () => {
    const nodes = ['amqp://u:a,b@one:5672', 'amqps://u:p@two/v'];
    expect(load('{}', { env: { HUB_RABBITMQ_URL: nodes.join(',') } }).settings.rabbitmq.url).toEqual(nodes);
    expect(load(`settings: { rabbitmq: { url: ["${nodes.join('", "')}"] } }`).settings.rabbitmq.url).toEqual(nodes);
    expect(load('{}').settings.rabbitmq.url).toEqual(['amqp://guest:guest@127.0.0.1:5672']);
  });

  it('keep the journal as long as answers, and a day, or are refused with what to set', () => {
    expect(problemsOf('settings:\n  retention: 7d\n')[0]).toMatch(
      /journal\.maxAge 7D is shorter than retention \(7d\) and a day.*to 8D or more/,
    );
    expect(problemsOf('settings:\n  journal: { maxAge: 36h }\n')[0]).toMatch(/^hub\.yaml:2:\d+: journal\.maxAge 36h .*to 2D or more/);
    expect(load('settings: { retention: 7d, journal: { maxAge: 8D } }').settings.journal.maxAge).toBe('8D');
  });

  it('misspelt in the environment is a warning with a suggestion, without its value', () => {
    const env = { HUB_RETENTON: 'canary', HUB_SOAP_TLS: 'yes', HUB_TEST_ONLY: '1', OTHER: 'x' };
    expect(load('{}', { env, knownEnv: ['HUB_TEST_ONLY'] }).unknownEnv).toEqual([
      'HUB_RETENTON in the environment matches no setting; did you mean HUB_RETENTION?',
    ]);
  });
});

describe('an adapter', () => {
  it.each([
    ['true', true],
    ['yes', true],
    ['on', true],
    ['', true],
    ['{}', true],
    ['false', false],
    ['off', false],
  ])('with the value "%s" is on: %p', (value, on) => {
    expect(load(`adapters:\n  soap: ${value}\n`).adapters.has('soap')).toBe(on);
  });

  it('http is on unless it is switched off', () => {
    expect(load('{}').adapters.has('http')).toBe(true);
    expect(load('adapters: { http: false }').adapters.size).toBe(0);
    expect(load('adapters: { http: false }', { overrides: { 'adapters.http': 'on' } }).adapters.has('http')).toBe(true);
  });

  it('that needs a setting says what it is for', () => {
    expect(problemsOf('adapters:\n  file: true\n')).toEqual([
      'hub.yaml:2:3: adapters.file.folder is needed (The folder that is watched) and must be text (put it in quotes)',
    ]);
    expect(load('adapters:\n  file: true\n', { env: { HUB_FILE_FOLDER: 'in' } }).adapters.get('file')).toEqual({
      folder: 'in',
      every: 1_000,
    });
  });
});

describe('a password', () => {
  const canary = 'canary-8d2f';

  it('is never in effective()', () => {
    const project = load(
      `settings: { redis: { url: "redis://:${canary}@r:6379" } }\nadapters: { soap: { password: ${canary}, url: "http://me:${canary}@proxy" } }`,
      {
        env: {
          HUB_RABBITMQ_URL: `amqp://user:${canary}@host, amqp://user:${canary},x@other:5673/v`,
          HUB_RABBITMQ_MANAGEMENT_URL: `http://user:${canary} x@host`,
        },
      },
    );
    expect(JSON.stringify(project.effective())).not.toContain(canary);
    expect(valueOf(project, 'rabbitmq.url')).toBe('amqp://user:****@host, amqp://user:****@other:5673/v');
    expect(valueOf(project, 'redis.url')).toBe('redis://:****@r:6379');
    expect(valueOf(project, 'adapters.soap.password')).toBe('****');
    expect(valueOf(project, 'adapters.soap.url')).toBe('http://me:****@proxy');
    expect(project.settings.rabbitmq.url.join()).toContain(canary);
  });

  it.each([
    ['of a URL with the wrong protocol', '{}', { HUB_RABBITMQ_URL: `http://user:${canary}@host` }],
    ['of one of several URLs', '{}', { HUB_RABBITMQ_URL: `amqp://user:${canary}@host,http://user:${canary}@other` }],
    ['of a URL that is none', '{}', { HUB_RABBITMQ_URL: `amqp:/user:${canary}@host` }],
    ['of a wrong type', `adapters: { soap: { password: [${canary}] } }`, {}],
    ['of an adapter URL', `adapters: { soap: { url: "amqp://u:${canary}@h:99999" } }`, {}],
    ['of an adapter URL that is none', `adapters: { soap: { url: "amqp:/u:${canary}@h" } }`, {}],
    ['in a key', `settings: { "amqp://u:${canary}@h": 1 }`, {}],
    ['in broken YAML', `settings: { redis: { url: "redis://:${canary}@h" }\n  x: "${canary}`, {}],
    ['where a key was pasted instead of its hash', `principals: { shop: { keys: [ab_1f_${canary}] } }`, {}],
  ])('%s is never in an error', (_what, yaml, env) => {
    const problems = problemsOf(yaml, { env });
    expect(problems.length).toBeGreaterThan(0);
    expect(problems.join()).not.toContain(canary);
  });
});

describe('a refusal names its line', () => {
  const cases: readonly (readonly [what: string, yaml: string, problem: string])[] = [
    ['an unknown key at the top', 'flow: {}', 'hub.yaml:1:1: unknown key "flow"; did you mean "flows"?'],
    ['a title that is no text', 'name: 5', 'hub.yaml:1:1: name must be text (put it in quotes)'],
    ['an unknown setting', 'settings:\n  retenton: 1h', 'hub.yaml:2:3: unknown setting "retenton"; did you mean "retention"?'],
    [
      'a setting in the wrong group',
      'settings:\n  inFlight: 5',
      'hub.yaml:2:3: unknown setting "inFlight"; did you mean "limits.inFlight"?',
    ],
    [
      'an unknown setting in a group',
      'settings: { limits: { inflght: 1 } }',
      'hub.yaml:1:23: unknown setting "limits.inflght"; did you mean "limits.inFlight"?',
    ],
    ['a group that is a value', 'settings: { limits: 5 }', 'hub.yaml:1:13: settings.limits must be a mapping of names to values'],
    ['a setting without a value', 'settings:\n  retention:\n', 'hub.yaml:2:3: retention has no value: write one, or remove the line'],
    [
      'defaults that contradict each other',
      'settings: { defaults: { wait: 2m } }',
      'hub.yaml:1:25: defaults.wait is longer than defaults.maxWait',
    ],
    ['flows that are a list', 'flows: [hello]', 'hub.yaml:1:1: flows must be a mapping of names to values'],
    ['a flow that is a text', 'flows:\n  hello: hello', 'hub.yaml:2:3: flow hello: write its steps as a list, as in hello: [hello]'],
    ['a flow without steps', 'flows:\n  hello: { summary: Hi }', 'hub.yaml:2:3: flow hello: it has no steps: name at least one'],
    ['a flow with no steps', 'flows: { hello: [] }', 'hub.yaml:1:10: flow hello: it has no steps: name at least one'],
    [
      'steps that are a text',
      'flows: { hello: { steps: hello } }',
      'hub.yaml:1:19: flow hello: steps must be a list, as in [first.step, second.step]',
    ],
    [
      'a step that is no name',
      'flows:\n  hello:\n    steps:\n      - one\n      - Two_',
      'hub.yaml:5:9: flow hello: step "Two_": a name has lower case letters, digits, dots and hyphens, as in "loan.quote"',
    ],
    [
      'a flow name unfit for a queue',
      'flows: { Hello: [hello] }',
      'hub.yaml:1:10: flow Hello: a name has lower case letters, digits, dots and hyphens, as in "loan.quote"',
    ],
    [
      'an unknown key of a flow',
      'flows: { hello: { steps: [a], dedline: 1m } }',
      'hub.yaml:1:31: flow hello: unknown key "dedline"; did you mean "deadline"?',
    ],
    [
      'a time that is none',
      'flows: { hello: { steps: [a], wait: soon } }',
      'hub.yaml:1:31: flow hello: wait "soon" must be a duration: a number and ms, s, m, h or d, as in 200ms, 5s, 1m, 2h, 7d',
    ],
    [
      'a durable that is neither',
      'flows: { hello: { steps: [a], durable: maybe } }',
      'hub.yaml:1:31: flow hello: durable "maybe" must be one of true, yes, on, 1, false, no, off, 0',
    ],
    [
      'parts that are neither',
      'flows: { hello: { steps: [a], parts: some } }',
      'hub.yaml:1:31: flow hello: parts "some" must be true or false, or a mapping of lease, count, size and total',
    ],
    [
      'an unknown limit of parts',
      'flows: { hello: { steps: [a], parts: { leese: 1m } } }',
      'hub.yaml:1:40: flow hello: parts: unknown key "leese"; did you mean "lease"?',
    ],
    [
      'a limit of parts that is none',
      'flows: { hello: { steps: [a], parts: { size: big } } }',
      'hub.yaml:1:40: flow hello: parts.size "big" must be a size: a number and b, kb, mb or gb, as in 64kb, 1mb',
    ],
    [
      'a part that is larger than all',
      'flows: { hello: { steps: [a], parts: { size: 9mb } } }',
      'hub.yaml:1:31: flow hello: parts: size is larger than total: a part cannot be larger than all together',
    ],
    [
      'a lease that is longer than a week',
      'flows: { hello: { steps: [a], parts: { lease: 8d } } }',
      'hub.yaml:1:40: flow hello: parts: lease is longer than 7d, after which an open request ends in any case',
    ],
    [
      'a late that is neither',
      'flows: { hello: { steps: [a], late: ammend } }',
      'hub.yaml:1:31: flow hello: late "ammend" must be one of journal, amend; did you mean "amend"?',
    ],
    [
      'an inline schema that is none',
      'flows: { hello: { steps: [a], reply: 5 } }',
      'hub.yaml:1:31: flow hello: reply is neither a JSON Schema nor the name of a file with one',
    ],
    [
      'an example that its schema refuses',
      'flows: { hello: { steps: [a], request: { required: [x] }, example: {} } }',
      "hub.yaml:1:59: flow hello: example does not fit its request schema:  must have required property 'x'",
    ],
    [
      'a step that is nothing',
      'steps: { bank: { summary: A bank } }',
      'hub.yaml:1:10: step bank: say what serves it: use: <adapter> or foreign: true',
    ],
    [
      'a step that is two things',
      'steps: { bank: { use: soap, foreign: true } }',
      'hub.yaml:1:18: step bank: it is either foreign or uses an adapter, not both',
    ],
    [
      'a step of an unknown adapter',
      'steps: { bank: { use: saop } }',
      'hub.yaml:1:18: step bank: there is no adapter "saop"; did you mean "soap"?',
    ],
    [
      'an unknown key of a foreign step',
      'steps: { bank: { foreign: true, sumary: x } }',
      'hub.yaml:1:33: step bank: unknown key "sumary"; did you mean "summary"?',
    ],
    ['an unknown adapter', 'adapters:\n  htpp: true', 'hub.yaml:2:3: there is no adapter "htpp"; did you mean "http"?'],
    [
      'an unknown setting of an adapter',
      'adapters:\n  http: { prot: 1 }',
      'hub.yaml:2:11: adapter http: unknown key "prot"; did you mean "port"?',
    ],
    [
      'a wrong setting of an adapter',
      'adapters:\n  http: { port: 80x }',
      'hub.yaml:2:11: adapters.http.port "80x" must be a port: a whole number from 0 to 65535',
    ],
    [
      'an adapter that is a number',
      'adapters: { http: 8080 }',
      'hub.yaml:1:13: adapter http: write true, false, or a mapping of its settings',
    ],
    [
      'an unknown key of a principal',
      'principals: { shop: { flow: [] } }',
      'hub.yaml:1:23: principal shop: unknown key "flow"; did you mean "flows"?',
    ],
    [
      'a limit of a principal that is none',
      'principals: { shop: { limits: { perSecond: 0 } } }',
      'hub.yaml:1:33: principal shop: perSecond must be a whole number from 1',
    ],
    [
      'a principal of an unknown flow',
      'flows: { hello: [a] }\nprincipals: { shop: { flows: [helo] } }',
      'hub.yaml:2:31: principal shop: there is no flow "helo"; did you mean "hello"?',
    ],
    [
      'a star in the middle',
      'principals: { shop: { topics: ["a.*.b"] } }',
      'hub.yaml:1:32: principal shop: "a.*.b" in topics must be a name, or a beginning and one * at the end, as in "loan.*"',
    ],
    [
      'a key that is no hash',
      'principals: { shop: { keys: ["1f:abc"] } }',
      'hub.yaml:1:30: principal shop: key 1 must be "<id>:<SHA-256 of the secret, 64 hex digits>"',
    ],
    [
      'principals that let everybody in by mistake',
      'principals:\n#  shop: {}\n',
      'hub.yaml:1:1: principals is empty, which would let everybody in: name one, or remove the key to mean it',
    ],
    ['a key given twice', 'settings: {}\nsettings: {}', 'hub.yaml:2:1: not valid YAML: Map keys must be unique'],
    [
      'a list instead of a mapping',
      '- a',
      'hub.yaml:1:1: the file is not a mapping; these three lines make a hub:\n  name: my-hub\n  flows:\n    hello: [hello]',
    ],
  ];

  it.each(cases)('of %s', (_what, yaml, problem) => expect(problemsOf(yaml)).toEqual([problem]));

  it('of YAML that is broken', () =>
    expect(problemsOf('flows:\n  hello: [hello\nname: x')[0]).toMatch(/^hub\.yaml:\d+:\d+: not valid YAML: /));

  it('of every problem at once, in the order of the file', () => {
    const problems = problemsOf(
      'principals: { shop: 1 }\nadapters: { nope: 1 }\nsteps: { a: 1 }\nflows: { a: 1 }\nsettings: { b: 1 }\nflos: 1\n',
    );
    expect(problems.map((problem) => problem.split(':')[1])).toEqual(['1', '2', '3', '4', '5', '6']);
  });

  it('of two keys with one id', () => {
    const key = `"1f:${'0'.repeat(64)}"`;
    expect(problemsOf(`principals: { a: { keys: [${key}] }, b: { keys: [${key}] } }`)[0]).toContain(
      'principal b: key 1 has the same id as one of principal a',
    );
  });
});

describe('a schema file', () => {
  const flow = (file: string): string => `flows:\n  hello:\n    steps: [a]\n    request: ${file}\n`;

  it.each([
    [
      'that is missing',
      'schemas/gone.json',
      {},
      /^hub\.yaml:4:5: flow hello: request: schemas\/gone\.json does not exist \(looked for .*\)$/,
    ],
    ['that is a folder', 'schemas', {}, /request: schemas cannot be read/],
    [
      'that is not JSON',
      'schemas/a.json',
      { 'schemas/a.json': '{"type":' },
      /^hub\.yaml:4:5: flow hello: request: schemas\/a\.json is not valid JSON: /,
    ],
    [
      'that is not a schema',
      'schemas/a.json',
      { 'schemas/a.json': '{"type":"objekt"}' },
      /schemas\/a\.json is not valid JSON Schema 2020-12: .*type/,
    ],
    ['that is a list', 'schemas/a.json', { 'schemas/a.json': '[]' }, /schemas\/a\.json is neither a JSON Schema/],
    [
      'of another draft',
      'schemas/a.json',
      { 'schemas/a.json': '{"$schema":"http://json-schema.org/draft-04/schema#"}' },
      /is not valid JSON Schema 2020-12: .*draft-04/,
    ],
    [
      'with a reference to nothing',
      'schemas/a.json',
      { 'schemas/a.json': '{"$ref":"#/$defs/x"}' },
      /is not valid JSON Schema 2020-12: .*can't resolve reference/,
    ],
  ] as const)('%s is refused with its name', (_what, file, files, problem) => {
    expect(problemsOf(flow(file), { files })).toEqual([expect.stringMatching(problem)]);
  });

  it('may be used by two flows, with $id and formats', () => {
    const files = {
      'schemas/a.json':
        '{"$id":"https://example.com/a","$schema":"https://json-schema.org/draft/2020-12/schema","type":"string","format":"date"}',
    };
    expect(
      load('flows:\n  a: { steps: [x], request: schemas/a.json, reply: schemas/a.json }\n  b: { steps: [x], request: schemas/a.json }\n', {
        files,
      }).flows,
    ).toHaveLength(2);
  });
});

describe('a folder', () => {
  const problemOf = (folder: string): string => {
    try {
      loadProject(folder, { env: {}, adapters });
    } catch (error) {
      if (error instanceof ConfigError) return error.message;
      throw error;
    }
    return '';
  };

  it('without hub.yaml is told the three lines that make one', () => {
    expect(problemOf(join(root, 'nowhere'))).toMatch(
      /hub\.yaml does not exist\. A project is a folder with a hub\.yaml; these three lines make one:\n {2}name: my-hub\n {2}flows:\n {4}hello: \[hello\]$/,
    );
  });

  it('with hub.yml is told to rename it', () => {
    writeFileSync(join(root, 'hub.yml'), '');
    expect(problemOf(root)).toContain('there is a hub.yml: rename it');
  });

  it('with an empty hub.yaml, a folder of that name, or another encoding is refused', () => {
    expect(problemOf(folderOf('# nothing\n'))).toContain('the file is empty');
    expect(problemOf(folderOf(new Uint8Array([0xff, 0xfe, 0x61, 0])))).toBe('hub.yaml: not UTF-8 text');
    mkdirSync(join(root, 'strange', 'hub.yaml'), { recursive: true });
    expect(problemOf(join(root, 'strange'))).toContain('cannot be read');
  });
});

describe('whatever is in hub.yaml', () => {
  const folder = folderOf('');
  const survive = (content: string | Uint8Array): void => {
    writeFileSync(join(folder, 'hub.yaml'), content);
    try {
      loadProject(folder, { env: {}, adapters }).effective();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      expect(error.problems.length).toBeGreaterThan(0);
    }
  };

  it('random bytes end in a ConfigError at worst', () =>
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), survive), { numRuns: 300 }));

  it('random YAML-like text does too', () => {
    const piece = fc.constantFrom(
      'flows',
      'settings',
      'principals',
      'adapters',
      'steps',
      'hello',
      'http',
      ': ',
      '\n',
      '\n  ',
      '- ',
      '[',
      ']',
      '{',
      '}',
      ', ',
      '&a ',
      '*a',
      '"',
      "'",
      '|',
      '!x ',
      '? ',
      '#',
      '<<',
      '__proto__',
      'constructor',
      '0',
      '\t',
      '%',
      '---',
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => survive(pieces.join(''))),
      { numRuns: 500 },
    );
  });

  it('any data in any place does too', () => {
    const place = fc.constantFrom(
      ['flows'],
      ['flows', 'a'],
      ['flows', 'a', 'request'],
      ['flows', 'a', 'steps'],
      ['settings'],
      ['settings', 'limits'],
      ['steps'],
      ['steps', 'a'],
      ['adapters'],
      ['adapters', 'soap'],
      ['principals'],
      ['principals', 'a'],
      ['principals', 'a', 'keys'],
    );
    fc.assert(
      fc.property(place, fc.jsonValue(), (path, value) =>
        survive(JSON.stringify(path.reduceRight<unknown>((below, key) => ({ [key]: below }), value))),
      ),
      { numRuns: 500 },
    );
  });

  it.each([
    ['an alias inside of itself', 'flows: &a { x: *a }'],
    [
      'a billion laughs',
      `a: &a [x,x,x,x,x,x,x,x,x]\n${[...'bcdefghi'].map((name, i) => `${name}: &${name} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`).join('\n')}`,
    ],
    ['a very deep nest', '['.repeat(20_000)],
    ['a very deep schema', `flows: { a: { steps: [x], request: ${'{"not":'.repeat(500)}true${'}'.repeat(500)} } }`],
    [
      'keys of the prototype',
      'flows: { __proto__: [a], constructor: [b] }\nsettings: { __proto__: { x: 1 }, toString: 1 }\nadapters: { constructor: {} }',
    ],
  ])('%s does too', (_what, yaml) => {
    survive(yaml);
    expect(({} as Record<string, unknown>)['x']).toBeUndefined();
  });
});

describe('callbacks', () => {
  const flow = 'flows:\n  hello: [hello]\n';
  const principals = `principals:\n  crm: { keys: ["a:${'0'.repeat(64)}"], flows: [hello] }\n`;

  it('are addresses with names of secrets, never secrets', () => {
    const { callbacks, folder } = load(
      `${flow}${principals}callbacks:
  crm: { url: "https://crm.example.com/answers?x=1", secrets: [{ env: CRM }, { file: old }], principals: [crm], headers: { X-Tenant: acme, authorization: { env: TOKEN } } }
  partners: { prefix: "https://Hooks.example.com:443/acme/", secrets: [{ env: P }] }
  intern: { url: "http://warehouse:8080/", secrets: [{ env: P }], networks: [10.20.0.0/16] }
`,
      { files: { old: ' from the file\n' } },
    );
    expect(callbacks).toEqual([
      {
        name: 'crm',
        url: 'https://crm.example.com/answers?x=1',
        secrets: [{ env: 'CRM' }, { file: 'old' }],
        principals: ['crm'],
        headers: { 'x-tenant': 'acme', authorization: { env: 'TOKEN' } },
        networks: [],
      },
      { name: 'partners', prefix: 'https://hooks.example.com/acme/', secrets: [{ env: 'P' }], headers: {}, networks: [] },
      { name: 'intern', url: 'http://warehouse:8080/', secrets: [{ env: 'P' }], headers: {}, networks: ['10.20.0.0/16'] },
    ]);
    expect(secretOf({ env: 'CRM' }, folder, { CRM: 'from the environment' })).toBe('from the environment');
    expect(secretOf({ file: 'old' }, folder, {})).toBe('from the file');
    expect(() => secretOf({ env: 'CRM' }, folder, {})).toThrow('the environment variable CRM is not set');
    expect(() => secretOf({ file: 'gone' }, folder, {})).toThrow('the file gone cannot be read (ENOENT)');
  });

  it.each([
    ['a: https://a.example/', 'must be a mapping'],
    ['a: { secrets: [{ env: A }] }', 'either url or prefix'],
    ['a: { url: "https://a/", prefix: "https://b/", secrets: [{ env: A }] }', 'either url or prefix'],
    ['a: { url: "http://a/", secrets: [{ env: A }] }', 'must begin with https://'],
    ['a: { url: "ftp://a/", secrets: [{ env: A }] }', 'must be a URL'],
    ['a: { url: "https://u:geheim@a/", secrets: [{ env: A }] }', 'no user, no password'],
    ['a: { prefix: "https://a.example/hooks", secrets: [{ env: A }] }', 'must end with /'],
    ['a: { url: "https://a/" }', 'secrets must be a list'],
    ['a: { url: "https://a/", secrets: [whsec_geheim] }', 'never the secret itself'],
    ['a: { url: "https://a/", secrets: [{ env: A }], headers: { webhook-id: x } }', 'cannot be set'],
    ['a: { url: "https://a/", secrets: [{ env: A }], networks: [10.0.0.0] }', 'is not a network'],
    ['a: { url: "https://a/", secrets: [{ env: A }], principals: [cmr] }', 'there is no principal "cmr"; did you mean "crm"?'],
    ['a: { url: "https://a/", secrets: [{ env: A }], secret: x }', 'unknown key "secret"'],
  ])('%s is refused', (line, because) => {
    const problems = problemsOf(`${flow}${principals}callbacks:\n  ${line}\n`);
    expect(problems).toEqual([expect.stringContaining(because)]);
    expect(problems[0]).toMatch(/^hub\.yaml:\d+:\d+: callback a: /);
    expect(problems[0]).not.toContain('geheim');
  });
});
