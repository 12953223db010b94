/**
 * A step puts a question to the requestor and goes on with the answer: that is how one request becomes a conversation of several
 * interchanges (EIP: Process Manager). The handler returns `ask(…)`; once the answer is there it is called again, with all answers so far.
 * What was asked and answered is a dossier of kind `ask`.
 */
import type { Dossiers } from './dossiers.js';
import { deriveId, type Envelope } from './envelope.js';
import type { JsonSchema } from './flow.js';
import type { Dossier, Store } from './store.js';

const mark = Symbol.for('answerback.ask');

export interface Asking {
  readonly [mark]: true;
  readonly question: unknown;
  readonly schema: JsonSchema | undefined;
  readonly keep: unknown;
}

/**
 * What a handler returns that wants to know something of the requestor. `question` is shown as it is; an answer that does not fit
 * `schema` (JSON Schema 2020-12) is refused; `keep` is what the next call of the handler finds as `kept`.
 */
export const ask = (question: unknown, { schema, keep }: { readonly schema?: JsonSchema; readonly keep?: unknown } = {}): Asking => ({
  [mark]: true,
  question,
  schema,
  keep,
});

export const isAsking = (value: unknown): value is Asking => typeof value === 'object' && value !== null && mark in value;

/** What waits for the requestor says so in its status. */
export const theRequestor = 'requestor';

/** A question that waits for its answer. */
export interface Question {
  readonly id: string;
  readonly question: unknown;
  readonly schema?: JsonSchema;
  readonly askedAt: number;
}

/** A question and its answer. */
export interface Turn extends Question {
  readonly answer: unknown;
  readonly answeredAt: number;
}

/** The data of a dossier of kind `ask`. */
export interface Talk {
  /** Absent: answered, and the step is to go on. */
  readonly open?: Question;
  readonly turns: readonly Turn[];
  readonly kept?: unknown;
}

export const talkOf = ({ data }: Pick<Dossier, 'data'>): Talk => data as Talk;

/** A further question of the step that this envelope came to. */
export function talkOn(id: string, { turns }: Pick<Talk, 'turns'>, { question, schema, keep }: Asking, askedAt: number): Talk {
  const open = { id: deriveId(id, 'ask', turns.length + 1), question, ...(schema === undefined ? {} : { schema }), askedAt };
  return { open, turns, ...(keep === undefined ? {} : { kept: keep }) };
}

/** Keeps the question and tells the requestor; the step's delivery may go then. `dossier`: of a talk that is under way. */
export async function putQuestion(
  asking: Asking,
  envelope: Envelope,
  dossier: Dossier | undefined,
  {
    dossiers,
    report,
    tellQuestion,
    now,
  }: {
    readonly dossiers: Dossiers;
    readonly report: Store['report'];
    readonly tellQuestion: (envelope: Envelope, question: Question) => Promise<void>;
    readonly now: number;
  },
): Promise<void> {
  const begun = dossier === undefined ? { turns: [] } : talkOf(dossier);
  const talk = talkOn(envelope.id, begun, asking, now);
  if (dossier === undefined) await dossiers.park('ask', envelope, { data: talk });
  else
    await dossiers.change('ask', dossier.id, ({ data, isOpen }) =>
      // Somebody else has asked it, on another delivery of the same ring.
      isOpen && (data as Talk).open === undefined && (data as Talk).turns.length === begun.turns.length
        ? { next: { data: talk }, result: undefined }
        : { result: undefined },
    );
  const [step = ''] = envelope.slip;
  const { id, question, schema } = talk.open!;
  await report(
    envelope.requestId,
    { state: 'waiting', step, waitingOn: theRequestor },
    { name: 'ask', data: { id, question, ...(schema === undefined ? {} : { schema }) } },
  );
  await tellQuestion(envelope, talk.open!);
}
