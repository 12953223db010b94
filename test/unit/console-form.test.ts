import { describe, expect, it } from '@jest/globals';
import { checkerOf, fitsWithin } from '../../console/form/check.js';
import { type Field, formOf, pruned, startOf, valueAt, withValue } from '../../console/form/model.js';
import type { Hints, Json, Schema } from '../../console/contract.js';

/** Each field's pointer and kind, nested ones too. */
const kinds = (field: Field): readonly string[] => [
  `${field.pointer} ${field.kind}`,
  ...(field.kind === 'group' ? field.fields : field.kind === 'list' ? field.items : []).flatMap(kinds),
];
const form = (schema: Schema, data: Json = {}, hints: Hints = {}) => formOf(schema, hints, data, fitsWithin(schema));
const kindOf = (schema: Schema, hints: Hints = {}): string =>
  kinds(form({ type: 'object', properties: { x: schema } }, {}, hints))[1]!.split(' ')[1]!;

describe('the form of a schema', () => {
  it.each<readonly [string, Schema]>([
    ['text', { type: 'string' }],
    ['textarea', { type: 'string', maxLength: 500 }],
    ['email', { type: 'string', format: 'email' }],
    ['url', { type: 'string', format: 'uri' }],
    ['date', { type: 'string', format: 'date' }],
    ['date-time', { type: 'string', format: 'date-time' }],
    ['number', { type: 'number' }],
    ['number', { type: ['integer', 'null'] }],
    ['tick', { type: 'boolean' }],
    ['radio', { enum: ['a', 'b'] }],
    ['select', { enum: ['a', 'b', 'c', 'd', 'e', 'f'] }],
    [
      'radio',
      {
        oneOf: [
          { const: 1, title: 'One' },
          { const: 2, title: 'Two' },
        ],
      },
    ],
    ['ticks', { type: 'array', uniqueItems: true, items: { enum: ['a', 'b'] } }],
    ['list', { type: 'array', items: { type: 'string' } }],
    ['group', { type: 'object', properties: { a: { type: 'string' } } }],
    ['json', { type: 'object' }],
    ['json', {}],
    ['json', { anyOf: [{ type: 'string' }, { type: 'number' }] }],
    ['json', { type: 'object', properties: { a: { type: 'string' } }, patternProperties: { '^x': { type: 'number' } } }],
    ['json', { type: ['string', 'number'] }],
    ['json', { type: 'array', prefixItems: [{ type: 'string' }], items: { type: 'string' } }],
  ])('draws a %s for %j', (kind, schema) => expect(kindOf(schema)).toBe(kind));

  it('takes hints for order, widget, unit and help, and lets none change what is asked', () => {
    const schema: Schema = { type: 'object', required: ['b'], properties: { a: { type: 'string' }, b: { type: 'number', title: 'Rate' } } };
    const drawn = form(schema, {}, { order: ['b'], widgets: { a: 'textarea' }, units: { b: '%' }, help: { b: 'a year' } });
    expect(kinds(drawn)).toEqual(['# group', '#/b number', '#/a textarea']);
    expect(drawn).toMatchObject({
      fields: [
        { label: 'Rate', unit: '%', help: 'a year', required: true },
        { label: 'A', required: false },
      ],
    });
  });

  it('follows references, and stops where a schema contains itself', () => {
    const schema: Schema = {
      type: 'object',
      properties: { person: { $ref: '#/$defs/person' } },
      $defs: { person: { type: 'object', properties: { name: { type: 'string' }, boss: { $ref: '#/$defs/person' } } } },
    };
    const drawn = kinds(form(schema));
    expect(drawn).toContain('#/person/boss/name text');
    expect(drawn.at(-1)).toMatch(/boss json$/);
  });

  it('shows what `then` asks for while `if` holds, and sends nothing of it when it does not', () => {
    const schema: Schema = {
      type: 'object',
      properties: { kind: { enum: ['card', 'cash'] } },
      if: { properties: { kind: { const: 'card' } }, required: ['kind'] },
      then: { properties: { number: { type: 'string' } }, required: ['number'] },
    };
    expect(kinds(form(schema, { kind: 'card' }))).toContain('#/number text');
    expect(kinds(form(schema, { kind: 'cash' }))).not.toContain('#/number text');
    expect(pruned(schema, { kind: 'cash', number: '12' }, fitsWithin(schema))).toEqual({ kind: 'cash' });
    expect(pruned(schema, { kind: 'card', number: '12' }, fitsWithin(schema))).toEqual({ kind: 'card', number: '12' });
  });

  it('begins with defaults, and with no for a box that must say yes or no', () => {
    const schema: Schema = {
      type: 'object',
      required: ['sure', 'address'],
      properties: {
        rate: { type: 'number', default: 4 },
        sure: { type: 'boolean' },
        maybe: { type: 'boolean' },
        address: { type: 'object', properties: { city: { type: 'string', default: 'Bern' } } },
        other: { type: 'object', properties: { sure: { type: 'boolean' } } },
      },
    };
    expect(startOf(schema, schema)).toEqual({ rate: 4, sure: false, address: { city: 'Bern' } });
  });
});

describe('data of a form', () => {
  it('is changed by pointer, as a copy, and loses what is emptied', () => {
    const before: Json = { a: { 'x/y': [1, { z: 2 }] }, b: 1 };
    const after = withValue(before, '#/a/x~1y/1/z', 3);
    expect(after).toEqual({ a: { 'x/y': [1, { z: 3 }] }, b: 1 });
    expect(before).toEqual({ a: { 'x/y': [1, { z: 2 }] }, b: 1 });
    expect(withValue(before, '#/b', undefined)).toEqual({ a: { 'x/y': [1, { z: 2 }] } });
    expect(valueAt(after, '#/a/x~1y/1/z')).toBe(3);
    expect(valueAt(after, '#/a/toString')).toBeUndefined();
  });
});

describe('the check in the browser', () => {
  const check = (schema: Schema, data: Json) => checkerOf(schema)(data).map(({ pointer, detail }) => `${pointer} ${detail}`);

  it('names the field and says how to mend it', () => {
    const schema: Schema = {
      type: 'object',
      required: ['rate', 'sure'],
      properties: {
        rate: { type: 'number', maximum: 10 },
        sure: { const: true, type: 'boolean' },
        mail: { type: 'string', format: 'email' },
        rows: { type: 'array', items: { type: 'object', required: ['n'], properties: { n: { type: 'integer', minimum: 1 } } } },
      },
    };
    expect(check(schema, {})).toEqual(['#/rate Fill this in.', '#/sure Fill this in.']);
    expect(check(schema, { rate: 11, sure: false, mail: 'nobody', rows: [{}, { n: 0 }] })).toEqual([
      '#/rate Enter 10 or less.',
      '#/sure Tick this to go on.',
      '#/mail Enter an e-mail address, like name@example.com.',
      '#/rows/0/n Fill this in.',
      '#/rows/1/n Enter 1 or more.',
    ]);
    expect(check(schema, { rate: '4,5', sure: true })).toEqual(['#/rate Enter a number.']);
    expect(check(schema, { rate: 4.5, sure: true })).toEqual([]);
  });

  it('asks for a choice where there are options', () => {
    const schema: Schema = { type: 'object', required: ['kind'], properties: { kind: { enum: ['a', 'b'] } } };
    expect(check(schema, {})).toEqual(['#/kind Choose one.']);
    expect(check(schema, { kind: 'c' })).toEqual(['#/kind Choose one of the values.']);
  });

  it('says of a choice that none fits, not what each of them lacks', () => {
    const schema: Schema = { type: 'object', properties: { x: { anyOf: [{ type: 'number' }, { type: 'boolean' }] } } };
    expect(check(schema, { x: 'a' })).toEqual(['#/x Choose one of the values that are allowed.']);
  });

  it('finds what the form does not ask for, as the hub does', () => {
    const schema: Schema = { type: 'object', properties: { a: { type: 'number' } }, unevaluatedProperties: false };
    expect(check(schema, { a: 1, b: 2 })).toEqual(['#/b This is not asked for.']);
    expect(check(schema, { a: 1 })).toEqual([]);
  });
});
