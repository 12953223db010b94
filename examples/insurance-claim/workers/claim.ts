/** The steps of a claim: completed, scored, looked at by experts, decided by the board. */
import { aggregator, ask, Fault, job, split, task, worker } from 'answerback';

interface Claim {
  readonly policy: string;
  readonly kind: 'theft' | 'accident' | 'storm';
  readonly amount: number;
  readonly story: string;
  readonly policeReport?: string;
}

/** Asks the requestor for what is missing. */
export const complete = worker<Claim>({
  name: 'claim.complete',
  summary: 'Claims to be looked through for what is missing',
  asks: true,
  handle(claim, _envelope, { answers: [report] }) {
    if (claim.kind !== 'theft' || claim.policeReport !== undefined) return claim;
    if (report === undefined)
      return ask('What is the number of the police report?', { schema: { type: 'string', pattern: '^[A-Z]{2}-[0-9]{4,10}$' } });
    return { ...claim, policeReport: String(report.answer) };
  },
});

interface Scored extends Claim {
  readonly score: number;
}

const rounds = 40;

/** Compares with what was claimed before: a computation, so it has a thread of its own, and goes on from its checkpoint. */
export const fraud = job<Claim, { readonly round: number; readonly sum: number }>({
  name: 'claim.fraud',
  summary: 'Claims that are being compared with earlier ones',
  cpu: true,
  async handle(claim, _envelope, { progress, checkpoint, heartbeat, state }) {
    let sum = state?.sum ?? 0;
    for (let round = state?.round ?? 0; round < rounds; round++) {
      sum += likeness(claim, round);
      progress({ done: round + 1, total: rounds, message: 'compares with earlier claims' });
      if (round % 10 === 9) await checkpoint({ round: round + 1, sum });
      await heartbeat();
    }
    return { ...claim, score: Math.round((sum / rounds) * 100) / 100 } satisfies Scored;
  },
});

/** Some work for a processor: how alike two texts are. */
function likeness({ story }: Claim, seed: number): number {
  let hash = seed;
  for (let n = 0; n < 200_000; n++) hash = (Math.imul(hash, 31) + story.charCodeAt(n % story.length)) | 0;
  return (hash >>> 0) / 2 ** 32;
}

/** Two experts, side by side. */
export const experts = worker<Scored>({
  name: 'claim.experts',
  summary: 'Claims to be shown to the experts',
  handle: (claim) =>
    split([
      { name: 'vehicle', body: claim, steps: ['claim.expert.vehicle'] },
      { name: 'law', body: claim, steps: ['claim.expert.law'] },
    ]),
});

const opinion = (field: 'vehicle' | 'law') =>
  task<Scored>({
    name: `claim.expert.${field}`,
    title: ({ policy, kind }) => `Your opinion on the ${kind} of ${policy}`,
    summary: ({ score }) => `likeness to earlier claims ${score}`,
    candidates: { groups: [`${field}-experts`] },
    outcomes: { plausible: { style: 'primary' }, doubtful: { style: 'danger', needs: ['comment'] } },
    form: {
      type: 'object',
      required: ['worth'],
      properties: { worth: { type: 'number', title: 'What the damage is worth, in euros', minimum: 0 } },
    },
    attachments: { types: ['application/pdf', 'image/*'] },
    result: (claim, { outcome, data, by, comment }) => ({ claim, opinion: { outcome, by, comment, ...(data as { worth: number }) } }),
  });

export const vehicle = opinion('vehicle');
export const law = opinion('law');

interface Opinion {
  readonly claim: Scored;
  readonly opinion: { readonly outcome: string; readonly by: string; readonly worth: number; readonly comment?: string };
}

interface Assessed extends Scored {
  readonly opinions: readonly Opinion['opinion'][];
}

export const opinions = aggregator<Opinion>({
  name: 'claim.opinions',
  summary: 'Opinions on their way together',
  timeout: '30d',
  combine(answers): Assessed {
    const [first] = answers;
    if (first === undefined) throw new Fault('unavailable', 'no expert had an opinion within a month');
    return { ...first.body.claim, opinions: answers.map(({ body }) => body.opinion) };
  },
});

export const board = task<Assessed>({
  name: 'claim.board',
  title: ({ policy, amount }) => `Pay ${amount} € for ${policy}?`,
  summary: ({ opinions: all }) => all.map(({ by, outcome, worth }) => `${by}: ${outcome}, worth ${worth} €`).join('; '),
  candidates: { groups: ['board'] },
  outcomes: { pay: { style: 'primary' }, refuse: { style: 'danger', needs: ['comment'] } },
  approvals: { needed: 2, of: 3 },
  result: (claim, { outcome, votes, comment }) => ({ claim, outcome, votes: votes.map(({ by }) => by), comment }),
});

export const letter = worker<{ claim: Assessed; outcome: string; votes: readonly string[]; comment?: string }>({
  name: 'claim.letter',
  summary: 'Decided claims to be told of',
  handle({ claim, outcome, votes, comment }) {
    if (outcome !== 'pay') throw new Fault('rejected', `nothing is paid for ${claim.policy}: ${comment ?? 'the board has refused'}`);
    const worth = claim.opinions.reduce((sum, { worth: each }) => sum + each, 0) / claim.opinions.length;
    return { policy: claim.policy, pays: Math.min(claim.amount, Math.round(worth)), decidedBy: votes, policeReport: claim.policeReport };
  },
});
