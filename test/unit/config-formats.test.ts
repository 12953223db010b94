/** How the values of settings are written, what is refused, and what is shown. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { maskUrl, maskUrls, type SettingSpec } from '../../config/formats.js';
import { ConfigError, didYouMean } from '../../config/problems.js';
import { coreSettings, fitForQueue } from '../../config/schema.js';
import { accept, checkCallSettings, upperSnake, type SettingsSchemaLike } from '../../config/settings.js';

const spec = (format: unknown, more: Partial<SettingSpec> = {}): SettingSpec => ({ doc: 'A test', format, default: undefined, ...more });

describe('a duration', () => {
  it.each([
    ['200ms', 200],
    ['5s', 5_000],
    ['1m', 60_000],
    ['2h', 7_200_000],
    ['7d', 604_800_000],
    ['1.5s', 1_500],
    ['250', 250],
    [250, 250],
    [' 5 S ', 5_000],
    ['0', 0],
  ])('reads %p as %p ms', (raw, ms) => expect(accept(spec('duration'), raw)).toBe(ms));

  it.each(['', '5', 's', '5 weeks', '-5s', '1e3s', '5s5', '1.5', 'Infinity', '999999999999999d', -1, 1.5, NaN, true, [5], {}])(
    'refuses %p, except whole numbers, and says how one is written',
    (raw) => {
      if (raw === '5') return expect(accept(spec('duration'), raw)).toBe(5);
      return expect(() => accept(spec('duration'), raw)).toThrow(/must be a duration: .*200ms, 5s, 1m, 2h, 7d/);
    },
  );
});

describe('a bool', () => {
  it.each([
    ['true', true],
    ['YES', true],
    ['on', true],
    ['1', true],
    [true, true],
    ['false', false],
    ['No', false],
    ['off', false],
    ['0', false],
    [false, false],
  ])('reads %p as %p', (raw, value) => {
    expect(accept(spec('bool'), raw)).toBe(value);
    expect(accept(spec(Boolean), raw)).toBe(value);
  });

  it.each(['', 'y', 'nope', 'enabled', '2', 1, 0])('refuses %p and lists the words it takes', (raw) => {
    expect(() => accept(spec('bool'), raw)).toThrow('must be one of true, yes, on, 1, false, no, off, 0');
    expect(() => accept(spec(Boolean), raw)).toThrow('must be one of');
  });
});

describe('the other formats', () => {
  it.each([
    ['64kb', 65_536],
    ['1mb', 1_048_576],
    ['2 GB', 2_147_483_648],
    ['10b', 10],
    ['100', 100],
    [100, 100],
  ])('size reads %p as %p bytes', (raw, bytes) => expect(accept(spec('size'), raw)).toBe(bytes));

  it.each(['1tb', 'kb', '-1kb', '', 1.5])('size refuses %p', (raw) => expect(() => accept(spec('size'), raw)).toThrow('must be a size'));

  it('port, nat, int, count and number read text strictly, where convict alone takes "80x" for 80', () => {
    expect(accept(spec('port'), '8080')).toBe(8080);
    expect(accept(spec(Number), '1.5')).toBe(1.5);
    for (const format of ['port', 'nat', 'int', 'integer', 'count', 'number', Number])
      expect(() => accept(spec(format), '80x')).toThrow('must be a');
    expect(() => accept(spec('port'), 65_536)).toThrow('from 0 to 65535');
    expect(() => accept(spec('count'), 0)).toThrow('1 or more');
  });

  it('url takes the protocols it was given, and the empty text only where that has a meaning', () => {
    expect(accept(spec('url', { protocols: ['amqp'] }), 'amqp://h')).toBe('amqp://h');
    expect(() => accept(spec('url', { protocols: ['amqp', 'amqps'] }), 'http://h')).toThrow(
      'must be a URL that begins with amqp:// or amqps://',
    );
    expect(() => accept(spec('url'), 'localhost')).toThrow('must be a URL');
    expect(() => accept(spec('url'), '')).toThrow('must be a URL');
    expect(accept(spec('url', { mayBeEmpty: true }), '')).toBe('');
    expect(accept(spec('url', { default: '' }), '')).toBe('');
  });

  it('list reads commas, and refuses what is not text', () => {
    expect(accept(spec('list'), ' a, b ,,c')).toEqual(['a', 'b', 'c']);
    expect(accept(spec(Array), ['a'])).toEqual(['a']);
    expect(() => accept(spec('list'), [1])).toThrow('must be a list of texts');
  });

  it('a mapping keeps keys with dots, which convict alone trips over', () => {
    expect(accept(spec('mapping'), { 'x.y': { z: 1 }, '': 2 })).toEqual({ 'x.y': { z: 1 }, '': 2 });
    expect(accept(spec(Object), '{"a.b":1}')).toEqual({ 'a.b': 1 });
    expect(() => accept(spec('mapping'), 'a=b')).toThrow('must be a mapping');
    expect(() => accept(spec('port'), { a: 1 })).toThrow('not a mapping');
  });

  it('a list of accepted values suggests the one that was meant', () => {
    expect(accept(spec(['poll', 'push']), 'poll')).toBe('poll');
    expect(accept(spec([1, 2]), '2')).toBe(2);
    expect(() => accept(spec(['poll', 'push']), 'pol')).toThrow('must be one of poll, push; did you mean "poll"?');
  });

  it('text refuses a number, so that 007 keeps its zeros', () => expect(() => accept(spec(String), 7)).toThrow('put it in quotes'));

  it("a function of the adapter's own decides by throwing", () => {
    const even = (value: unknown): void => {
      if (Number(value) % 2 !== 0) throw new Error('must be even');
    };
    expect(accept(spec(even), 2)).toBe(2);
    expect(() => accept(spec(even), 3)).toThrow(/^must be even$/);
  });

  it('a format that does not exist is a mistake of the adapter, not of the configuration', () => {
    expect(() => accept(spec('milliseconds'), 1)).toThrow(TypeError);
  });

  it('never throws anything but an Error with a sentence, whatever the value', () => {
    const known = [
      'text',
      'name',
      'word',
      'bool',
      'duration',
      'size',
      'age',
      'count',
      'nat',
      'int',
      'number',
      'port',
      'url',
      'list',
      'mapping',
      ['a'],
      '*',
    ];
    fc.assert(
      fc.property(fc.constantFrom(...known), fc.anything(), (format, raw) => {
        try {
          accept(spec(format), raw);
        } catch (error) {
          expect((error as Error).message).toMatch(/^(must be|has no value)/);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('masking', () => {
  it.each([
    ['amqp://user:canary@host:5672/vhost', 'amqp://user:****@host:5672/vhost'],
    ['redis://:canary@host', 'redis://:****@host'],
    ['amqp://user:canary/with@at@host', 'amqp://user:****@host'],
    ['https://canary@host/path', 'https://****@host/path'],
    ['redis://host?password=canary&db=1', 'redis://host?password=****&db=1'],
    ['http://host:8080/path', 'http://host:8080/path'],
  ])('shows %s as %s', (url, masked) => {
    expect(maskUrl(url)).toBe(masked);
    expect(maskUrls(`see "${url}"`)).not.toContain('canary');
  });

  it('hides any password of any valid URL', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (text) => {
        const url = `amqp://user:canary${text}canary@host`;
        if (URL.canParse(url) && new URL(url).password !== '') expect(maskUrl(url)).not.toContain('canary');
      }),
    );
  });

  it('holds for every problem of a ConfigError', () => {
    const error = new ConfigError(['x: amqp://user:canary@host is wrong']);
    expect(`${error.message} ${error.problems.join()} ${error.stack}`).not.toContain('canary');
  });
});

describe('names', () => {
  it('of settings become names in the environment', () => {
    expect(['inFlight', 'managementUrl', 'hl7-mllp', 'ackURL'].map(upperSnake)).toEqual([
      'IN_FLIGHT',
      'MANAGEMENT_URL',
      'HL7_MLLP',
      'ACK_URL',
    ]);
    expect(coreSettings.map(({ env }) => env)).toEqual(
      expect.arrayContaining([
        'HUB_NAME',
        'HUB_RABBITMQ_MANAGEMENT_URL',
        'HUB_LIMITS_IN_FLIGHT',
        'HUB_DEFAULTS_MAX_DEADLINE',
        'HUB_STOP_WITHIN',
      ]),
    );
  });

  it('of hosts are made fit for a queue name', () => {
    expect(['Büro_PC.Local', '-x-', '..', 'a'.repeat(200)].map(fitForQueue)).toEqual(['b-ro-pc.local', 'x', 'hub', 'a'.repeat(100)]);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (name) =>
        expect(accept(spec('name'), fitForQueue(name))).toBe(fitForQueue(name)),
      ),
    );
  });

  it('that are near are suggested, and the others listed', () => {
    expect(didYouMean('loan.qoute', ['loan.quote', 'hello'])).toBe('; did you mean "loan.quote"?');
    expect(didYouMean('zzzzz', ['b', 'a'])).toBe('; there is a, b');
    expect(didYouMean('x', [])).toBe('; none are defined');
  });

  it('and docs are complete: each core setting has a sentence, and a default that it accepts itself', () => {
    for (const { spec: core } of coreSettings) {
      expect(core.doc.length).toBeGreaterThan(10);
      expect(() => accept(core, core.default)).not.toThrow();
    }
  });
});

describe('the settings of a call', () => {
  const schema: SettingsSchemaLike = {
    wsdl: { doc: 'The WSDL of the system', format: String, default: null },
    timeout: { doc: 'How long one call may take', format: 'duration', default: '10s' },
    password: { doc: 'Password of the system', format: String, default: undefined, sensitive: true },
  };

  it('are resolved with their defaults; what may be left out has no key', () => {
    expect(checkCallSettings(schema, { wsdl: 'a.wsdl' }, 'here')).toEqual({ settings: { wsdl: 'a.wsdl', timeout: 10_000 }, problems: [] });
  });

  it('are refused all at once, at their place, without the secret', () => {
    const { problems } = checkCallSettings(schema, { timeuot: '5s', timeout: 'soon', password: 12345 }, 'hub.yaml:9:3: step bank');
    expect(problems).toEqual([
      'hub.yaml:9:3: step bank: unknown setting "timeuot"; did you mean "timeout"?',
      'hub.yaml:9:3: step bank: wsdl is needed (The WSDL of the system) and must be text (put it in quotes)',
      'hub.yaml:9:3: step bank: timeout "soon" must be a duration: a number and ms, s, m, h or d, as in 200ms, 5s, 1m, 2h, 7d',
      'hub.yaml:9:3: step bank: password must be text (put it in quotes)',
    ]);
  });

  it('take nothing from the environment', () => {
    process.env['HUB_TEST_WSDL'] = 'environment.wsdl';
    const { problems } = checkCallSettings({ wsdl: { ...schema['wsdl']!, env: 'HUB_TEST_WSDL' } }, {}, 'here');
    delete process.env['HUB_TEST_WSDL'];
    expect(problems).toHaveLength(1);
  });
});
