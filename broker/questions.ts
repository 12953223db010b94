/** What is asked of requestors (`ask.ts`), for the hub: to show, and to answer. */
import { talkOf, type Question, type Talk } from './ask.js';
import type { Dossiers } from './dossiers.js';
import { Fault, type Flaw } from './fault.js';
import { flawsOf } from './schema.js';
import type { Store } from './store.js';

export interface Questions {
  /** What is asked of the requestor of this request, oldest first. */
  open(requestId: string): Promise<readonly Question[]>;
  /**
   * Answers a question; without `questionId` the oldest that is open. `answered` also when this very answer was given before; `none`: nothing
   * of this name is asked, or it was answered otherwise. Throws a Fault `invalid` when the answer does not fit the question's schema.
   */
  answer(requestId: string, answer: unknown, questionId?: string): Promise<'answered' | 'none'>;
}

export function openQuestions({ store, dossiers }: { readonly store: Store; readonly dossiers: Dossiers }): Questions {
  async function talks(requestId: string): Promise<readonly { readonly id: string; readonly talk: Talk }[]> {
    const { found } = await store.dossiers(`of:${requestId}`, { limit: 1_000 });
    return found.filter(({ kind }) => kind === 'ask').map((dossier) => ({ id: dossier.id, talk: talkOf(dossier) }));
  }

  const openIn = (all: Awaited<ReturnType<typeof talks>>) =>
    all.flatMap(({ talk: { open } }) => open ?? []).sort((a, b) => a.askedAt - b.askedAt);

  return {
    open: async (requestId) => openIn(await talks(requestId)),
    async answer(requestId, answer, questionId) {
      const all = await talks(requestId);
      const meant = questionId ?? openIn(all)[0]?.id ?? all.flatMap(({ talk }) => talk.turns.at(-1) ?? []).at(-1)?.id;
      const place = all.find(({ talk: { open, turns } }) => open?.id === meant || turns.some((turn) => turn.id === meant));
      if (meant === undefined || place === undefined) return 'none';
      const answered = await dossiers.change<'answered' | 'none'>('ask', place.id, (dossier, now) => {
        const { open, turns, ...kept } = talkOf(dossier);
        const given = turns.find((turn) => turn.id === meant);
        if (given !== undefined) return { result: JSON.stringify(given.answer) === JSON.stringify(answer) ? 'answered' : 'none' };
        if (!dossier.isOpen || open?.id !== meant) return { result: 'none' };
        const errors = open.schema === undefined ? [] : flawsOf(open.schema, answer);
        if (errors.length > 0) throw unfit(errors);
        const data: Talk = { ...kept, turns: [...turns, { ...open, answer, answeredAt: now }] };
        return { next: { data, wakeAt: now }, result: 'answered' };
      });
      if (answered === 'answered') await store.report(requestId, { state: 'running', waitingOn: null });
      return answered ?? 'none';
    },
  };
}

const unfit = (errors: readonly Flaw[]): Fault =>
  new Fault('invalid', `the answer does not fit the question: ${errors.map(({ pointer, detail }) => `${pointer} ${detail}`).join('; ')}`, {
    errors,
    reason: 'schema',
  });
