/**
 * Corrected results (`late: amend` on a flow). The request has one outcome, its reply; a part that comes when its group is complete makes a
 * further version of it. The aggregator sends the result once more to the return address, under an id that derives from the group and from
 * how many late parts count in it; the hub numbers it, journals that, shows it, and tells whoever was told of the reply.
 */
import type { Emit } from './emit.js';
import { failpoint } from './failpoint.js';
import type { Forward } from './forward.js';
import type { Journal } from './journal.js';
import type { Amendment, Correction, Store } from './store.js';

interface Needs {
  readonly store: Store;
  readonly journal: Journal;
  readonly forward: Forward;
  readonly emit: Emit;
}

/** Takes in a correction: numbers it, then journal, show, forward. Each may be done again. Rejects when it must come again. */
export function openAmend({ store, journal, forward, emit }: Needs) {
  async function finish(requestId: string, group: string, amendment: Amendment): Promise<void> {
    failpoint('amend.before-journal');
    await journal.amended(requestId, group, amendment);
    failpoint('amend.after-journal');
    await store.showAmendment(requestId, amendment.version);
    failpoint('amend.after-show');
    const record = await store.get(requestId);
    if (record !== undefined) await forward.amendment(record, amendment);
    emit('request.amended', { requestId, version: amendment.version, by: amendment.by });
  }

  return async function amend(requestId: string, group: string, correction: Correction): Promise<void> {
    for (;;) {
      failpoint('amend.before-store');
      const amended = await store.amend(requestId, correction);
      if (amended.result === 'behind') await finish(requestId, group, amended.amendment);
      else if (amended.result === 'amended') return finish(requestId, group, amended.amendment);
      // The aggregator has seen the reply: a store that is rebuilt meanwhile has it soon.
      else if (amended.result === 'early') throw new Error(`request ${requestId} is amended, and has no reply yet`);
      else return journal.note('late', requestId, {}, { 'hub-outcome': 'reply', 'hub-late-because': amended.result });
    }
  };
}
