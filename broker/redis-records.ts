/** Records, events and groups as Redis keeps them: short fields of hashes. */
import { createHash } from 'node:crypto';
import type { Message } from './transport.js';
import type {
  Amendable,
  Amended,
  Amendment,
  Correction,
  Dossier,
  GroupState,
  Listed,
  NewRecord,
  Outcome,
  OutcomeKind,
  Part,
  Progress,
  Report,
  RequestEvent,
  RequestRecord,
  RequestState,
  Turn,
} from './store.js';

export type Hash = Readonly<Record<string, Buffer | undefined>>;

export const digestOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('base64url');
export const atLeastOne = (ms: number): number => Math.max(1, Math.ceil(ms));
export const texts = (reply: unknown): string[] => (reply as Buffer[]).map((text) => text.toString());

export function hashOf(pairs: readonly Buffer[]): Hash {
  const hash: Record<string, Buffer> = Object.create(null) as Record<string, Buffer>;
  for (let at = 0; at + 1 < pairs.length; at += 2) hash[String(pairs[at])] = pairs[at + 1] as Buffer;
  return hash;
}

/** Names and values, without those that are undefined. */
export function fieldsOf(values: Readonly<Record<string, string | number | Buffer | undefined>>): (string | number | Buffer)[] {
  const fields: (string | number | Buffer)[] = [];
  for (const name of Object.keys(values)) {
    const value = values[name];
    if (value !== undefined) fields.push(name, value);
  }
  return fields;
}

export const recordFields = (record: NewRecord) =>
  fieldsOf({
    flow: record.flow,
    state: record.state,
    at: record.acceptedAt,
    due: Math.round(record.deadline),
    pub: record.published ? 1 : undefined,
    who: record.principal,
    key: record.key,
    conv: record.conversation === undefined ? undefined : JSON.stringify(record.conversation),
    fwdq: record.forward?.queue,
    fwdc: record.forward?.correlationId,
    fwdb: record.forward?.callback,
    fwda: record.forward?.amended === true ? 1 : undefined,
    claim: record.claim?.scope,
    sup: record.supersedes,
    print: record.claim?.fingerprint,
    det: record.detached === true ? 1 : undefined,
    carr: record.carriedAt,
  });

export const reportFields = (report: Report) =>
  fieldsOf({
    pub: report.published === true ? 1 : undefined,
    step: report.step,
    try: report.attempt,
    wait: report.waitingOn ?? undefined,
    prog: report.progress === undefined ? undefined : JSON.stringify(report.progress),
  });

export const outcomeFields = ({ body, contentType, contentEncoding, parts, at, amendable }: Outcome) =>
  fieldsOf({
    body,
    type: contentType,
    enc: contentEncoding,
    parts,
    oat: at,
    late: amendable === undefined ? undefined : JSON.stringify(amendable),
  });

/** What is kept of a correction beside its body. `missing` is read by the script, too. */
export function correctionMeta({ rank, by, outcome: { body: _body, kind: _kind, ...outcome } }: Correction): string {
  return JSON.stringify({ rank, by, missing: outcome.amendable?.missing ?? 0, outcome });
}

/** What `amend` and `amendment` return; undefined when there is none. */
export function readAmended(reply: unknown): Amended | undefined {
  const [result, version, meta, body] = reply as [Buffer?, number?, Buffer?, Buffer?];
  if (result === undefined) return undefined;
  if (meta === undefined) return { result: String(result) as Exclude<Amended['result'], 'amended' | 'behind'> };
  const { rank, by, outcome } = JSON.parse(String(meta)) as Pick<Amendment, 'rank' | 'by'> & { outcome: Omit<Outcome, 'kind' | 'body'> };
  return {
    result: String(result) as 'amended' | 'behind',
    amendment: { version: Number(version), rank, by, outcome: { kind: 'reply', body: body ?? Buffer.alloc(0), ...outcome } },
  };
}

export const partFields = ({ index, body, kind, contentType, at }: Part): (string | number | Buffer)[] => [
  index,
  JSON.stringify({ kind, contentType, at }),
  body,
];

export function readRecord(id: string, hash: Hash): RequestRecord {
  const text = (name: string) => hash[name]?.toString();
  return {
    id,
    flow: text('flow') ?? '',
    state: (text('state') ?? 'accepted') as RequestState,
    acceptedAt: Number(text('at')),
    updatedAt: Number(text('upd')),
    deadline: Number(text('due')),
    published: hash['pub'] !== undefined,
    shown: hash['shown'] !== undefined,
    ...given('principal', text('who')),
    ...given('key', text('key')),
    ...given('step', text('step')),
    ...given('attempt', hash['try'] && Number(text('try'))),
    ...given('waitingOn', text('wait')),
    ...given('progress', hash['prog'] && (JSON.parse(hash['prog'].toString()) as Progress)),
    ...given('conversation', hash['conv'] && (JSON.parse(hash['conv'].toString()) as Turn)),
    ...given(
      'forward',
      hash['fwdq'] && {
        queue: hash['fwdq'].toString(),
        ...given('correlationId', text('fwdc')),
        ...given('callback', text('fwdb')),
        ...given('amended', hash['fwda'] && true),
      },
    ),
    ...given('forwarded', hash['fwdd'] && true),
    ...given('claim', hash['claim'] && { scope: hash['claim'].toString(), fingerprint: text('print') ?? '' }),
    ...given('supersedes', text('sup')),
    ...given('detached', hash['det'] && true),
    ...given('carriedAt', hash['carr'] && Number(text('carr'))),
    ...given('outcome', readOutcome(hash)),
    ...given('amended', hash['ver'] && { version: Number(text('ver')), missing: Number(text('miss')) }),
  };
}

function readOutcome(hash: Hash): Outcome | undefined {
  const { kind, body, type, enc, parts, oat, late } = hash;
  if (kind === undefined || body === undefined) return undefined;
  return {
    kind: kind.toString() as OutcomeKind,
    body,
    contentType: String(type),
    at: Number(oat),
    ...given('contentEncoding', enc?.toString()),
    ...given('parts', parts && Number(String(parts))),
    ...given('amendable', late && (JSON.parse(String(late)) as Amendable)),
  };
}

/** `{ name: value }`, or nothing: an optional property is absent, never undefined. */
export function given<Name extends string, Value>(name: Name, value: Value | undefined): { [N in Name]?: Value } {
  return value === undefined ? {} : ({ [name]: value } as { [N in Name]: Value });
}

export function readEvent(line: string, sequence: number): RequestEvent {
  const [, at, name, data] = /^(\d+) (\S+) (.*)$/s.exec(line) ?? [];
  return { sequence, at: Number(at), name: name as RequestEvent['name'], data: JSON.parse(data ?? '{}') as RequestEvent['data'] };
}

export const readGroup = (reply: unknown): GroupState => groupOf(hashOf(reply as Buffer[]));

export function groupOf(hash: Hash): GroupState {
  const { state, members, due, touched, reason, late } = hash;
  if (state === undefined) return { state: 'unknown', parts: [], members: [], deadline: 0, touchedAt: 0 };
  return {
    state: state.toString() as GroupState['state'],
    parts: partsOf(hash),
    members: JSON.parse(String(members)) as string[],
    deadline: Number(due),
    touchedAt: Number(touched),
    ...given('reason', reason?.toString()),
    ...given(
      'late',
      late &&
        String(late)
          .split(' ')
          .map(Number)
          .map((index) => partIn(hash, index, 'l')),
    ),
  };
}

function partsOf(hash: Hash): Part[] {
  const parts = Object.keys(hash).flatMap((field) => {
    const index = /^m(\d+)$/.exec(field)?.[1];
    if (index === undefined) return [];
    return [partIn(hash, Number(index))];
  });
  return parts.sort((a, b) => a.index - b.index);
}

function partIn(hash: Hash, index: number, before = ''): Part {
  const meta = JSON.parse(String(hash[`${before}m${index}`])) as Omit<Part, 'index' | 'body'>;
  return { index, ...meta, body: hash[`${before}b${index}`] ?? Buffer.alloc(0) };
}

export const nameOf = ({ kind, id }: Pick<Dossier, 'kind' | 'id'>): string => `${kind}/${id}`;

export function dossierFields({ requestId, step, data, message: { body, ...properties } }: Dossier) {
  return fieldsOf({ req: requestId, step, data: JSON.stringify(data), props: JSON.stringify(properties), body });
}

export function readDossier(name: string, hash: Hash): Dossier {
  const text = (field: string) => String(hash[field] ?? '');
  return {
    ...readListed(name, ['v', 'open', 'req', 'step', 'data', 'wake'].map(text)),
    message: { ...(JSON.parse(text('props')) as Omit<Message, 'body'>), body: hash['body'] ?? Buffer.alloc(0) },
    index: JSON.parse(text('idx')) as Dossier['index'],
  };
}

export function readListed(name: string, [version, open, requestId, step, data, wakeAt]: readonly string[]): Listed {
  const slash = name.indexOf('/');
  return {
    kind: name.slice(0, slash),
    id: name.slice(slash + 1),
    requestId: requestId ?? '',
    step: step ?? '',
    version: Number(version),
    isOpen: open === '1',
    data: JSON.parse(data ?? 'null') as unknown,
    ...given('wakeAt', wakeAt ? Number(wakeAt) : undefined),
  };
}
