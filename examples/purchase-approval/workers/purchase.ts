/** The steps of a purchase: checked by rules, approved by people, ordered. */
import { Fault, task, worker } from 'answerback';

interface Purchase {
  readonly what: string;
  readonly amount: number;
  readonly supplier: string;
  readonly requestedBy: string;
}

/** Above it, two people must agree. */
const fourEyesAbove = 1_000;
const banned = ['Acme'];

export const check = worker<Purchase>({
  name: 'purchase.check',
  summary: 'Purchases to be checked against the rules',
  handle(purchase) {
    if (banned.includes(purchase.supplier)) throw new Fault('rejected', `nothing is bought from ${purchase.supplier}`);
    return purchase;
  },
});

export const approve = task<Purchase>({
  name: 'purchase.approve',
  title: ({ what, amount }) => `Approve ${what} for ${amount} €`,
  summary: ({ supplier, requestedBy }) => `from ${supplier}, for ${requestedBy}`,
  candidates: { groups: ['buyers'] },
  form: {
    type: 'object',
    properties: {
      costCentre: { type: 'string', title: 'Cost centre', enum: ['office', 'travel', 'it'] },
      remark: { type: 'string', title: 'Remark for the supplier', maxLength: 500 },
    },
  },
  // Whoever refuses says why, and need not know who would have paid.
  outcomes: {
    approve: { style: 'primary', needs: ['costCentre'] },
    reject: { style: 'danger', needs: ['comment'] },
  },
  approvals: ({ amount, requestedBy }) => ({ needed: amount > fourEyesAbove ? 2 : 1, never: [requestedBy] }),
  // Two working days; half way everybody is reminded, and after a day the head may decide, too.
  calendar: {
    zone: 'Europe/Berlin',
    hours: { mon: ['08:00-17:00'], tue: ['08:00-17:00'], wed: ['08:00-17:00'], thu: ['08:00-17:00'], fri: ['08:00-15:00'] },
  },
  due: '2d',
  reminders: [0.5],
  escalate: [{ after: '1d', to: ['heads'] }],
  attachments: { types: ['application/pdf', 'image/*'] },
  result: (purchase, { outcome, votes, data, comment }) => ({
    ...purchase,
    outcome,
    approvedBy: votes.map(({ by }) => by),
    data,
    comment,
  }),
});

interface Approved extends Purchase {
  readonly outcome: string;
  readonly approvedBy: readonly string[];
  readonly data: { readonly costCentre?: string };
  readonly comment?: string;
}

export const order = worker<Approved>({
  name: 'purchase.order',
  summary: 'Approved purchases to be ordered',
  handle({ what, outcome, approvedBy, data, comment }, { requestId }) {
    if (outcome !== 'approve') throw new Fault('rejected', `${what} was not approved: ${comment ?? 'no reason given'}`);
    // Derived from the request: who runs it twice orders once.
    return { order: `PO-${requestId.slice(-6)}`, what, approvedBy, costCentre: data.costCentre };
  },
});
