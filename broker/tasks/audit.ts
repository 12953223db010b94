/**
 * The audit of a task: who did what, and what was refused, each entry hashed together with the one before it, so that nobody can change,
 * remove or slip in an entry without changing all that follow. Export as JSON and CSV.
 */
import { createHash } from 'node:crypto';

export interface AuditEntry {
  /** From 1. */
  readonly n: number;
  /** ms since 1970. */
  readonly at: number;
  readonly by: string;
  /** On whose behalf, nearest first. */
  readonly forWhom: readonly string[];
  /** The entry by which it came: `page`, `key`, `amqp`; `hub`: a date came, or the request ended. */
  readonly via: string;
  /** What was done: `claimed`, `voted`, ...; `refused` when it was not. */
  readonly action: string;
  readonly detail: Readonly<Record<string, unknown>>;
  /** SHA-256, hex, of the hash before (nothing, for the first) and the canonical JSON of this entry without its hash. */
  readonly hash: string;
}

export type NewEntry = Omit<AuditEntry, 'n' | 'hash'>;

/** JSON that is the same for the same value: keys in order, no spaces (RFC 8785). */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((each) => canonicalJson(each === undefined ? null : each)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}

const hashOf = (before: string, entry: Omit<AuditEntry, 'hash'>): string =>
  createHash('sha256')
    .update(before + canonicalJson(entry))
    .digest('hex');

export function append(audit: readonly AuditEntry[], entry: NewEntry): readonly AuditEntry[] {
  const { at, by, forWhom, via, action, detail } = entry;
  const numbered = { n: audit.length + 1, at, by, forWhom, via, action, detail };
  return [...audit, { ...numbered, hash: hashOf(audit.at(-1)?.hash ?? '', numbered) }];
}

/** The number of the first entry that is not what was written; undefined: all are. That the last ones are missing only another copy can tell. */
export function brokenAt(audit: readonly AuditEntry[]): number | undefined {
  const index = audit.findIndex(
    ({ hash, ...entry }, at) => entry.n !== at + 1 || hash !== hashOf(at === 0 ? '' : audit[at - 1]!.hash, entry),
  );
  return index === -1 ? undefined : index + 1;
}

const columns = ['n', 'at', 'by', 'forWhom', 'via', 'action', 'detail', 'hash'] as const;

/** RFC 4180. */
export function auditCsv(audit: readonly AuditEntry[]): string {
  const rows = audit.map((entry) => [
    String(entry.n),
    new Date(entry.at).toISOString(),
    entry.by,
    entry.forWhom.join('; '),
    entry.via,
    entry.action,
    canonicalJson(entry.detail),
    entry.hash,
  ]);
  return [columns, ...rows].map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

/** A text that a spreadsheet would take for a formula is made a text by an apostrophe (OWASP: CSV Injection). */
const cell = (text: string): string => `"${(/^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
