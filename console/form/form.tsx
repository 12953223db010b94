/** Draws a form: each field with its label, help and error. Data goes up with each change; nothing is kept here but what cannot be read yet. */
import { Component, type ReactNode, useId, useState } from 'react';
import type { Flaw, Hints, Json, Schema } from '../contract.js';
import { type Field, type Fits, formOf, isObject, type Option, valueAt, withValue } from './model.js';

interface FormProps {
  readonly schema: Schema;
  readonly hints: Hints;
  readonly fits: Fits;
  readonly data: Json;
  readonly flaws: readonly Flaw[];
  readonly disabled: boolean;
  readonly onChange: (data: Json) => void;
  /** A box holds what is no JSON (why), or does again. */
  readonly onUnreadable: (pointer: string, why: string | undefined) => void;
}

interface Drawing {
  readonly data: Json;
  readonly flaws: readonly Flaw[];
  readonly set: (pointer: string, value: Json | undefined) => void;
  readonly onUnreadable: FormProps['onUnreadable'];
}

/** The element to focus for a flaw: the field's, or of the field that it is in. */
export function elementAt(pointer: string): HTMLElement | null {
  for (let at = pointer; ; at = at.slice(0, at.lastIndexOf('/'))) {
    const found = document.getElementById(idOf(at));
    if (found !== null || !at.includes('/')) return found;
  }
}

const idOf = (pointer: string): string => `field${pointer}`;

export function SchemaForm({ schema, hints, fits, data, flaws, disabled, onChange, onUnreadable }: FormProps) {
  const drawing: Drawing = { data, flaws, onUnreadable, set: (pointer, value) => onChange(withValue(data, pointer, value)) };
  const whole: Field = {
    pointer: '#',
    label: 'Decision',
    help: undefined,
    required: true,
    readOnly: false,
    example: undefined,
    unit: undefined,
    schema,
    kind: 'json',
  };
  return (
    <fieldset disabled={disabled} className="form">
      <legend className="hidden">Decision</legend>
      <Fallback instead={<JsonBox field={whole} drawing={drawing} />}>
        <Fields schema={schema} hints={hints} fits={fits} drawing={drawing} />
      </Fallback>
    </fieldset>
  );
}

function Fields({ schema, hints, fits, drawing }: Pick<FormProps, 'schema' | 'hints' | 'fits'> & { readonly drawing: Drawing }) {
  const form = formOf(schema, hints, drawing.data, fits);
  if (form.kind !== 'group') return <One field={form} drawing={drawing} />;
  return form.fields.map((field) => <One key={field.pointer} field={field} drawing={drawing} />);
}

interface FallbackProps {
  readonly instead: ReactNode;
  readonly children: ReactNode;
}

/** A schema that the generator fails on still gets its box. React knows this only as a class. */
class Fallback extends Component<FallbackProps, { failed: boolean }> {
  override state = { failed: false };
  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }
  override render(): ReactNode {
    return this.state.failed ? this.props.instead : this.props.children;
  }
}

interface OneProps<F extends Field = Field> {
  readonly field: F;
  readonly drawing: Drawing;
}

function One({ field, drawing }: OneProps) {
  switch (field.kind) {
    case 'group':
      return <Group field={field} drawing={drawing} />;
    case 'list':
      return <List field={field} drawing={drawing} />;
    case 'json':
      return <JsonBox field={field} drawing={drawing} />;
    case 'tick':
      return <Tick field={field} drawing={drawing} />;
    case 'radio':
    case 'ticks':
      return <Choices field={field} drawing={drawing} />;
    case 'select':
      return <Select field={field} drawing={drawing} />;
    case 'number':
      return <NumberInput field={field} drawing={drawing} />;
    default:
      return <TextInput field={field} drawing={drawing} />;
  }
}

const flawAt = ({ flaws }: Drawing, pointer: string): string | undefined => flaws.find((flaw) => flaw.pointer === pointer)?.detail;

/** What an input says of itself; its help and error are read with it. */
function inputProps({ pointer, help, required, readOnly, example }: Field, flaw: string | undefined) {
  const id = idOf(pointer);
  const describedBy = [...(help === undefined ? [] : [`${id}?`]), ...(flaw === undefined ? [] : [`${id}!`])].join(' ');
  return {
    id,
    name: pointer,
    readOnly,
    'aria-required': required,
    ...(example === undefined ? {} : { placeholder: example }),
    ...(describedBy === '' ? {} : { 'aria-describedby': describedBy }),
    ...(flaw === undefined ? {} : { 'aria-invalid': true as const }),
  };
}

function Label({ field }: { readonly field: Field }) {
  return (
    <>
      {field.label}
      {field.unit !== undefined && <span className="soft"> ({field.unit})</span>}
      {!field.required && <span className="soft"> (optional)</span>}
    </>
  );
}

function Notes({ field, flaw }: { readonly field: Field; readonly flaw: string | undefined }) {
  const id = idOf(field.pointer);
  return (
    <>
      {field.help !== undefined && (
        <p className="help" id={`${id}?`}>
          {field.help}
        </p>
      )}
      {flaw !== undefined && (
        <p className="flaw" id={`${id}!`}>
          <span aria-hidden="true">▲</span> {flaw}
        </p>
      )}
    </>
  );
}

function Labelled({ field, flaw, children }: { readonly field: Field; readonly flaw: string | undefined; readonly children: ReactNode }) {
  return (
    <div className="field">
      <label htmlFor={idOf(field.pointer)}>
        <Label field={field} />
      </label>
      {children}
      <Notes field={field} flaw={flaw} />
    </div>
  );
}

const htmlTypes: Readonly<Record<string, string>> = {
  email: 'email',
  url: 'url',
  date: 'date',
  time: 'time',
  'date-time': 'datetime-local',
};

function TextInput({ field, drawing }: OneProps) {
  const flaw = flawAt(drawing, field.pointer);
  const value = valueAt(drawing.data, field.pointer);
  const stamp = field.kind === 'date-time';
  const text =
    typeof value === 'string' ? (stamp ? toLocal(value) : value) : value === undefined || value === null ? '' : JSON.stringify(value);
  const write = (typed: string) => drawing.set(field.pointer, typed === '' ? undefined : stamp ? toStamp(typed) : typed);
  const props = { ...inputProps(field, flaw), value: text, onChange: (event: { target: { value: string } }) => write(event.target.value) };
  return (
    <Labelled field={field} flaw={flaw}>
      {field.kind === 'textarea' ? <textarea rows={4} {...props} /> : <input type={htmlTypes[field.kind] ?? 'text'} {...props} />}
    </Labelled>
  );
}

/** A time stamp as the browser's input has it: local, without zone. */
function toLocal(stamp: string): string {
  const at = new Date(stamp);
  return Number.isNaN(at.getTime()) ? '' : new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function toStamp(local: string): string {
  const at = new Date(local);
  return Number.isNaN(at.getTime()) ? local : at.toISOString();
}

/** What is no number stays as it was typed, and is a flaw then: a number input would lose it. */
function NumberInput({ field, drawing }: OneProps) {
  const flaw = flawAt(drawing, field.pointer);
  const value = valueAt(drawing.data, field.pointer);
  const [typed, setTyped] = useState<string>();
  const shown = value === undefined || value === null ? '' : typeof value === 'string' ? value : JSON.stringify(value);
  // "4." means 4, and must still read "4." while somebody types on.
  const text = typed !== undefined && numberOf(typed) === (value ?? undefined) ? typed : shown;
  const write = (next: string) => {
    setTyped(next);
    drawing.set(field.pointer, numberOf(next));
  };
  return (
    <Labelled field={field} flaw={flaw}>
      <input type="text" inputMode="decimal" {...inputProps(field, flaw)} value={text} onChange={(event) => write(event.target.value)} />
    </Labelled>
  );
}

function numberOf(text: string): number | string | undefined {
  const plain = text.trim();
  if (plain === '') return undefined;
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : text;
}

function Tick({ field, drawing }: OneProps) {
  const flaw = flawAt(drawing, field.pointer);
  return (
    <div className="field">
      <label className="tick">
        <input
          type="checkbox"
          {...inputProps(field, flaw)}
          checked={valueAt(drawing.data, field.pointer) === true}
          onChange={(event) => drawing.set(field.pointer, event.target.checked || field.required ? event.target.checked : undefined)}
        />{' '}
        {field.label}
      </label>
      <Notes field={field} flaw={flaw} />
    </div>
  );
}

const same = (a: Json | undefined, b: Json): boolean => JSON.stringify(a) === JSON.stringify(b);

/** One of a few (`radio`), or several of them (`ticks`). */
function Choices({ field, drawing }: OneProps<Extract<Field, { options: readonly Option[] }>>) {
  const { name, ...props } = inputProps(field, flawAt(drawing, field.pointer));
  const value = valueAt(drawing.data, field.pointer);
  const several = field.kind === 'ticks';
  const chosen = several && Array.isArray(value) ? (value as readonly Json[]) : [];
  const choose = (option: Json, on: boolean) =>
    drawing.set(field.pointer, several ? [...chosen.filter((one) => !same(one, option)), ...(on ? [option] : [])] : option);
  return (
    <fieldset className="field" aria-describedby={props['aria-describedby']}>
      <legend>
        <Label field={field} />
      </legend>
      {field.options.map((option, index) => (
        <label key={option.label} className="tick">
          <input
            type={several ? 'checkbox' : 'radio'}
            id={index === 0 ? props.id : undefined}
            name={name}
            disabled={field.readOnly}
            checked={several ? chosen.some((one) => same(one, option.value)) : same(value, option.value)}
            onChange={(event) => choose(option.value, event.target.checked)}
          />{' '}
          {option.label}
        </label>
      ))}
      <Notes field={field} flaw={flawAt(drawing, field.pointer)} />
    </fieldset>
  );
}

function Select({ field, drawing }: OneProps<Extract<Field, { options: readonly Option[] }>>) {
  const flaw = flawAt(drawing, field.pointer);
  const { readOnly, placeholder: _, ...props } = inputProps(field, flaw) as ReturnType<typeof inputProps> & { placeholder?: string };
  const at = field.options.findIndex(({ value }) => same(valueAt(drawing.data, field.pointer), value));
  return (
    <Labelled field={field} flaw={flaw}>
      <select
        {...props}
        disabled={readOnly}
        value={at < 0 ? '' : at}
        onChange={(event) => drawing.set(field.pointer, field.options[event.target.value === '' ? -1 : Number(event.target.value)]?.value)}
      >
        <option value="">Choose…</option>
        {field.options.map(({ label }, index) => (
          <option key={label} value={index}>
            {label}
          </option>
        ))}
      </select>
    </Labelled>
  );
}

function Group({ field, drawing }: OneProps<Extract<Field, { fields: readonly Field[] }>>) {
  return (
    <fieldset className="group" id={idOf(field.pointer)} tabIndex={-1}>
      <legend>
        <Label field={field} />
      </legend>
      <Notes field={field} flaw={flawAt(drawing, field.pointer)} />
      {field.fields.map((inner) => (
        <One key={inner.pointer} field={inner} drawing={drawing} />
      ))}
    </fieldset>
  );
}

/** Things that can be added, taken away and moved, by buttons. */
function List({ field, drawing }: OneProps<Extract<Field, { items: readonly Field[] }>>) {
  const value = valueAt(drawing.data, field.pointer);
  const data = Array.isArray(value) ? (value as readonly Json[]) : [];
  const set = (items: readonly Json[]) => drawing.set(field.pointer, items);
  const swap = (a: number, b: number) =>
    set(data.map((one, index) => (index === a ? (data[b] ?? null) : index === b ? (data[a] ?? null) : one)));
  return (
    <fieldset className="group" id={idOf(field.pointer)} tabIndex={-1}>
      <legend>
        <Label field={field} />
      </legend>
      <Notes field={field} flaw={flawAt(drawing, field.pointer)} />
      {field.items.map((item, index) => (
        <div className="item" key={item.pointer}>
          <One field={item} drawing={drawing} />
          <div className="actions">
            <button type="button" disabled={index === 0} onClick={() => swap(index, index - 1)} aria-label={`Move ${item.label} up`}>
              ↑
            </button>
            <button
              type="button"
              disabled={index === data.length - 1}
              onClick={() => swap(index, index + 1)}
              aria-label={`Move ${item.label} down`}
            >
              ↓
            </button>
            <button type="button" onClick={() => set(data.filter((_, at) => at !== index))} aria-label={`Remove ${item.label}`}>
              Remove
            </button>
          </div>
        </div>
      ))}
      <button type="button" onClick={() => set([...data, field.fresh])}>
        Add to “{field.label}”
      </button>
    </fieldset>
  );
}

/** What the generator cannot draw: the JSON itself, checked as it is written. */
function JsonBox({ field, drawing }: OneProps) {
  const value = valueAt(drawing.data, field.pointer);
  const [typed, setTyped] = useState<{ readonly text: string; readonly value: Json | undefined; readonly why?: string }>();
  const about = useId();
  // What came from elsewhere (a draft) replaces what was typed before it.
  const current = typed !== undefined && (typed.why !== undefined || same(value, typed.value ?? null) || value === typed.value);
  const text = current
    ? typed.text
    : value === undefined || (isObject(value) && Object.keys(value).length === 0)
      ? ''
      : JSON.stringify(value, null, 2);
  const flaw = (current ? typed.why : undefined) ?? flawAt(drawing, field.pointer) ?? below(drawing, field.pointer);
  const write = (next: string) => {
    try {
      const parsed = next.trim() === '' ? undefined : (JSON.parse(next) as Json);
      setTyped({ text: next, value: parsed });
      drawing.onUnreadable(field.pointer, undefined);
      drawing.set(field.pointer, parsed);
    } catch (error) {
      const why = `This is not JSON yet: ${(error as Error).message}`;
      setTyped({ text: next, value: undefined, why });
      drawing.onUnreadable(field.pointer, why);
    }
  };
  return (
    <Labelled field={field} flaw={flaw}>
      <textarea
        className="json"
        rows={6}
        spellCheck={false}
        {...inputProps(field, flaw)}
        value={text}
        onChange={(event) => write(event.target.value)}
      />
      <details id={about}>
        <summary>Written as JSON; what is allowed</summary>
        <pre>{JSON.stringify(field.schema, null, 2)}</pre>
      </details>
    </Labelled>
  );
}

/** Flaws inside of a box have no field of their own. */
function below({ flaws }: Drawing, pointer: string): string | undefined {
  const inner = flaws.filter((flaw) => flaw.pointer.startsWith(`${pointer}/`));
  return inner.length === 0 ? undefined : inner.map((flaw) => `${flaw.pointer.slice(pointer.length)}: ${flaw.detail}`).join(' ');
}
