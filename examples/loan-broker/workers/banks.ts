/**
 * The lender gateway chooses the banks (EIP: Recipient List), the banks answer, the best offer is chosen (EIP: Aggregator).
 * `bank.harbour`, a SOAP service, is in `hub.yaml`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { aggregator, Fault, split, worker } from 'answerback';
import type { ScoredLoan } from './credit.js';

interface Offer {
  readonly bank: string;
  readonly rate: number;
}

/** Which banks lend to whom. */
const lenders: readonly { readonly step: string; readonly lendsTo: (loan: ScoredLoan) => boolean }[] = [
  { step: 'bank.nordic', lendsTo: ({ score }) => score >= 600 },
  { step: 'bank.harbour', lendsTo: ({ amount }) => amount <= 50_000 },
  { step: 'bank.slow', lendsTo: () => true },
  { step: 'bank.shaky', lendsTo: ({ historyMonths }) => historyMonths >= 12 },
  { step: 'bank.silent', lendsTo: () => true },
];

export const askBanks = worker({
  name: 'banks.ask',
  summary: 'Requests that wait to be sent to the banks',
  handle: (loan: ScoredLoan) => split(lenders.filter(({ lendsTo }) => lendsTo(loan)).map(({ step }) => ({ body: loan, steps: [step] }))),
});

/** A rate that depends on the customer, so that the same request gets the same answer. */
const rate = (base: number, { score, termMonths }: ScoredLoan): number =>
  Math.round((base + (850 - score) / 200 + termMonths / 120) * 100) / 100;

export const nordic = worker({
  name: 'bank.nordic',
  handle: (loan: ScoredLoan): Offer => ({ bank: 'nordic', rate: rate(3.1, loan) }),
});

export const slow = worker({
  name: 'bank.slow',
  async handle(loan: ScoredLoan, _envelope, { signal }): Promise<Offer> {
    await sleep(800, undefined, { signal });
    return { bank: 'slow', rate: rate(2.9, loan) };
  },
});

export const shaky = worker({
  name: 'bank.shaky',
  retry: ['200ms', '500ms'],
  handle(loan: ScoredLoan, { attempt }): Offer {
    // Fails every first try: the retry brings the answer in time.
    if (attempt === 1) throw new Error('connection reset by bank');
    if (loan.customer === 'C-666') throw new Error('ledger is corrupt');
    if (loan.amount > 90_000) throw new Fault('rejected', 'we do not lend that much');
    return { bank: 'shaky', rate: rate(3.4, loan) };
  },
});

export const silent = worker({
  name: 'bank.silent',
  timeoutMs: 600_000,
  concurrency: 1_000,
  // Never answers; the group's completion aborts it.
  handle: (_loan: ScoredLoan, _envelope, { signal }) =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })),
});

export const bestOffer = aggregator<Offer>({
  name: 'loan.best',
  summary: 'Offers on their way to the best one',
  timeout: '2s',
  combine(offers, { answered, failed, missing }) {
    const [best] = offers.map(({ body: { bank, rate } }) => ({ bank, rate: Number(rate) })).sort((a, b) => a.rate - b.rate);
    if (best === undefined) throw new Fault('unavailable', 'no bank has made an offer');
    return { best, answered, failed: failed.map(({ from }) => from), missing };
  },
});
