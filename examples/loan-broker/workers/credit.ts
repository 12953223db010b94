/** The credit bureau (EIP: Content Enricher): adds the score and the history of a customer. */
import { Fault, worker } from 'answerback';

export interface LoanRequest {
  readonly customer: string;
  readonly amount: number;
  readonly termMonths: number;
}

export interface ScoredLoan extends LoanRequest {
  readonly score: number;
  readonly historyMonths: number;
}

/** A bureau for the demo: the customer number decides. C-1042 scores 714 with 42 months of history. */
function bureau(customer: string): { score: number; historyMonths: number } {
  const number = Number(customer.slice(2));
  return { score: 300 + ((number * 37 + 360) % 550), historyMonths: number % 100 };
}

export const creditScore = worker({
  name: 'credit.score',
  summary: 'Requests that wait for the credit bureau',
  handle(loan: LoanRequest): ScoredLoan {
    if (loan.customer === 'C-0') throw new Fault('rejected', 'the credit bureau does not know customer C-0');
    return { ...loan, ...bureau(loan.customer) };
  },
});
