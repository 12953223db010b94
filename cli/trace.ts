/** Tells the story of one request from the journal: accepted, each step with attempt and duration, parts, outcome. */
import { calledBack, callbackKind, type CallbackData } from '../broker/callback.js';
import { dossierIn } from '../broker/dossiers.js';
import { openedIn, openedKind, openedStatus, partKind, type Opened, type PartData } from '../broker/opened.js';
import type { Dossier } from '../broker/store.js';
import type { Delivery } from '../broker/transport.js';
import type { Names } from '../broker/topology.js';
import { decode, isUndecodable } from '../broker/wire.js';
import type { Envelope } from '../broker/envelope.js';

export interface TraceLine {
  /** ms since 1970. */
  readonly at: number;
  readonly what: string;
}

/** What each journal entry says, in order of the journal. */
export function storyOf(entries: readonly Delivery[], names: Names): readonly TraceLine[] {
  const seen = new Set<string>();
  return entries.flatMap((entry) => {
    const again = entry.messageId !== undefined && seen.has(keyOf(entry)) ? ' (again: the same message, a repetition)' : '';
    seen.add(keyOf(entry));
    const line = lineOf(entry, names);
    return line === undefined ? [] : [{ at: line.at, what: line.what + again }];
  });
}

/** A message keeps its id over retries; only what is the same on the same attempt is a repetition. */
const keyOf = ({ exchange, messageId, headers }: Delivery): string =>
  `${exchange} ${messageId ?? ''} ${/attempt=\d+/.exec(String(headers['hub']))?.[0] ?? ''}`;

function lineOf(entry: Delivery, names: Names): TraceLine | undefined {
  const note = entry.headers['hub-note'];
  if (typeof note === 'string') return noted(entry, note);
  const envelope = decode(entry);
  if (isUndecodable(envelope))
    return { at: (entry.timestamp ?? 0) * 1_000, what: `${entry.exchange}: a message that cannot be read (${envelope.undecodable})` };
  const at = envelope.at;
  if (entry.exchange === names.replies)
    return {
      at,
      what: `${done(envelope)}${completed(envelope)}${envelope.type === 'fault' ? `fault ${faultText(entry)}` : `reply, ${size(entry)}`} → ${entry.routingKey}`,
    };
  if (entry.exchange === names.dead)
    return { at, what: `gave up at ${entry.routingKey}: ${faultText(entry)} → ${names.deadQueue(entry.routingKey)}` };
  if (entry.exchange.startsWith(`${names.namespace}.retry.`))
    return {
      at,
      what: `${entry.routingKey} failed on attempt ${envelope.attempt - 1} after ${envelope.took ?? 0} ms: ${faultText(entry)}; again in ${entry.exchange.slice(names.retry('').length)}`,
    };
  if (entry.exchange !== names.work) return undefined;
  if (envelope.from === entry.routingKey && envelope.attempt > 1) return { at, what: `${entry.routingKey}, attempt ${envelope.attempt}` };
  if (calledBack(envelope) !== undefined) return undefined;
  if (envelope.step === 1)
    return { at, what: `accepted for ${envelope.flow} by ${envelope.principal ?? 'nobody known'}, ${size(entry)} → ${entry.routingKey}` };
  const [group] = envelope.groups;
  if (envelope.type === 'event') return { at, what: `${entry.routingKey} looks at its group: ${String(envelope.extra?.['hub-ring'])}` };
  const part = group === undefined ? '' : ` (part ${group.index + 1} of ${group.size})`;
  return {
    at,
    what: `${done(envelope)}${completed(envelope)}${envelope.type === 'fault' ? `fault ${faultText(entry)} ` : ''}→ ${entry.routingKey}${part}`,
  };
}

function noted(entry: Delivery, note: string): TraceLine | undefined {
  const at = Number(entry.headers['hub-note-at'] ?? 0);
  const dossier = dossierIn(entry);
  if (dossier?.kind === callbackKind) {
    const what = callbackText(dossier);
    return what === undefined ? undefined : { at, what };
  }
  if (dossier?.kind === openedKind) return { at, what: openedText(openedIn(dossier)) };
  if (dossier?.kind === partKind) return dossier.isOpen ? { at, what: `part ${(dossier.data as PartData).sequence} came` } : undefined;
  const texts: Readonly<Record<string, string>> = {
    recorded: 'the hold is over: 202, from here on there is a record',
    outcome: `the outcome is on record${entry.headers['hub-instead-of'] === undefined ? '' : `, instead of ${String(entry.headers['hub-instead-of'])}`}: ${String(entry.headers['hub-outcome'])}${entry.type === 'fault' ? ` ${entry.body.toString('utf8').slice(0, 200)}` : ''}`,
    done: 'one-way: the slip is done',
    carried: 'still pending: its record is told to the journal again',
    forwarded:
      entry.headers['hub-callback'] === undefined
        ? "the answer is in the requestor's own queue"
        : `the answer is on its way to callback ${String(entry.headers['hub-callback'])}`,
    refused: 'it was never accepted: RabbitMQ refused it, or its key had become that of another',
    duplicate: `this very outcome came once more: ${String(entry.headers['hub-outcome'])}`,
    late: `too late to count${entry.headers['hub-late-from'] === undefined ? '' : `: ${String(entry.headers['hub-late-from'])}`}${entry.headers['hub-outcome'] === undefined ? '' : `: ${String(entry.headers['hub-outcome'])} (${String(entry.headers['hub-late-because'])})`}`,
    amended: `corrected: version ${String(entry.headers['hub-reply-version'])} of the reply, with ${String(entry.headers['hub-amended-by'])}, ${size(entry)}`,
    undeliverable: "the requestor's queue is gone: the answer is kept, not delivered",
  };
  return { at, what: texts[note] ?? note };
}

/** How a request stands that arrives in parts. */
function openedText(data: Opened): string {
  const { received, bytes, flow, state } = openedStatus('', data);
  return `in parts, for ${flow} by ${data.principal}: ${state}, ${received} here, ${bytes} B${data.remindedAt === undefined ? '' : ', reminded'}`;
}

/** What came of an attempt; nothing of one that begins. */
function callbackText({ data, wakeAt }: Dossier): string | undefined {
  const { callback, state, attempts } = data as CallbackData;
  const last = attempts.at(-1);
  if (last === undefined || state === 'posting') return undefined;
  const said = last.status === undefined ? (last.error ?? 'not known') : `answered ${last.status}`;
  if (state === 'delivered') return `callback ${callback}: delivered, ${said}`;
  if (state === 'failed') return `callback ${callback}: given up, ${said}`;
  return `callback ${callback}: ${said}, again at ${new Date(wakeAt ?? 0).toISOString()}`;
}

const done = ({ from, took }: Envelope): string => (from === undefined ? '' : `${from} done in ${took ?? 0} ms `);
/** What completed a group, on the aggregator's result. */
const completed = ({ extra }: Envelope): string =>
  extra?.['hub-group'] !== undefined
    ? `group complete (${String(extra['hub-completed-by'])}) `
    : extra?.['hub-amended-group'] !== undefined
      ? `once more, with ${String(extra['hub-amended-by'])}, who came late: `
      : '';
const size = ({ body, contentType }: Delivery): string => `${body.length} B ${contentType ?? ''}`.trim();
const faultText = ({ headers }: Delivery): string =>
  `${String(headers['hub-error-code'] ?? '')} ${String(headers['hub-error'] ?? '')}`.trim();
