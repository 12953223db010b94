import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { Action } from '../../broker/tasks/action.js';
import { auditCsv, append, brokenAt, canonicalJson, type AuditEntry } from '../../broker/tasks/audit.js';
import { may, maySee } from '../../broker/tasks/rights.js';
import { act, create, refused as tried, wakeAtOf, type Acted } from '../../broker/tasks/rules.js';
import { openTally } from '../../broker/tasks/tally.js';
import { idsOf, stateOfTask, theHub, type Actor, type Member, type Task, type TaskPlan } from '../../broker/tasks/task.js';

const member = (name: string, groups: readonly string[] = ['buyers'], more: Partial<Member> = {}): Member => ({
  name,
  groups,
  roles: ['task-user'],
  ...more,
});
const actor = (who: Member, ...standsInFor: readonly Member[]): Actor => ({ ...who, via: 'page', standsInFor });

const [ana, bo, cem, req] = [member('ana'), member('bo'), member('cem'), member('req')];
const outsider = member('eve', ['sales']);
const boss = member('boss', [], { roles: ['admin', 'operator', 'task-user'] });

const plan: TaskPlan = {
  step: 'order.approve',
  requestId: 'r1',
  flow: 'order',
  title: 'Approve 500 €',
  summary: 'Chairs',
  context: { amount: 500 },
  form: { type: 'object', properties: { amount: { type: 'number', maximum: 1_000 } }, unevaluatedProperties: false },
  ui: null,
  outcomes: [
    { id: 'approve', label: 'Approve', style: 'primary', needs: ['amount'] },
    { id: 'reject', label: 'Reject', style: 'danger', needs: ['comment'] },
  ],
  candidates: { users: [], groups: ['buyers'] },
  claim: 'required',
  bulk: false,
  priority: null,
  attachable: { maxBytes: 100, types: ['image/*', 'application/pdf'] },
  never: [],
  dueAt: 1_000,
  followUpAt: null,
  dates: [],
};
const twoEyes: TaskPlan = { ...plan, never: ['req'], approvals: { needed: 2, of: 3, outcome: 'approve' } };

const approve: Action = { do: 'decide', outcome: 'approve', data: { amount: 5 }, undoMs: 0 };
const reject: Action = { do: 'decide', outcome: 'reject', data: undefined, comment: 'too dear', undoMs: 0 };

/** Does what is listed, in order; throws what is refused. */
function played(task: Task, ...moves: readonly (readonly [Action, Actor])[]): Task {
  return moves.reduce((soFar, [action, by], index) => {
    const acted = act(soFar, action, by, 10 + index);
    if (acted.refusal !== undefined) throw new Error(`${by.name} ${action.do}: ${acted.refusal.detail}`);
    return acted.task;
  }, task);
}

/** Who acts on something refused finds it in the audit. */
function refused({ task, refusal }: Acted): Acted['refusal'] {
  if (refusal !== undefined)
    expect(task.audit.at(-1)).toMatchObject({
      action: 'refused',
      detail: { code: refusal.code, why: refusal.errors === undefined ? refusal.detail : expect.stringMatching(/^wrong at #/) },
    });
  return refusal;
}

describe('a task', () => {
  it('goes to one of several who claim it; the others hear who has it', () => {
    const task = played(create(plan, 0), [{ do: 'claim' }, actor(ana)]);
    expect(refused(act(task, { do: 'claim' }, actor(bo), 20))).toEqual({
      code: 'conflict',
      detail: 'ana has had it in hand since 1970-01-01T00:00:00.010Z',
    });
    expect(act(task, { do: 'claim' }, actor(ana), 20)).not.toHaveProperty('refusal');
    expect(stateOfTask(task)).toBe('claimed');
  });

  it('is claimed before it is decided, unless its step says that this is not needed', () => {
    expect(refused(act(create(plan, 0), approve, actor(ana), 1))).toMatchObject({ code: 'conflict' });
    expect(stateOfTask(played(create({ ...plan, claim: 'optional' }, 0), [approve, actor(ana)]))).toBe('decided');
  });

  it('is for its candidates only, also when an administrator asks', () => {
    for (const action of [{ do: 'claim' }, approve, { do: 'return' }, { do: 'delegate', to: 'ana', person: ana }] as const)
      for (const who of [outsider, boss])
        expect(refused(act(create(plan, 0), action, actor(who), 1))).toMatchObject({ code: 'not-permitted' });
    expect(refused(act(create(plan, 0), { do: 'assign', to: 'boss', person: boss }, actor(boss), 1))).toMatchObject({
      code: 'not-permitted',
    });
    expect(maySee(create(plan, 0), actor(outsider))).toBe(false);
  });

  it('is returned, assigned, delegated and resolved', () => {
    const task = played(
      create(plan, 0),
      [{ do: 'claim' }, actor(ana)],
      [{ do: 'return' }, actor(ana)],
      [{ do: 'assign', to: 'bo', person: bo }, actor(boss)],
      [{ do: 'delegate', to: 'eve', person: outsider, text: 'you know them' }, actor(bo)],
    );
    expect([stateOfTask(task), task.holder?.name, task.holder?.behalf[0]?.name]).toEqual(['delegated', 'eve', 'bo']);
    expect(refused(act(task, approve, actor(bo), 20))).toMatchObject({ code: 'conflict' });
    const back = played(task, [{ do: 'resolve', text: 'fine' }, actor(outsider)]);
    expect([stateOfTask(back), back.holder?.name]).toEqual(['claimed', 'bo']);
    const decided = played(task, [approve, actor(outsider)]);
    expect(decided.decision).toMatchObject({ outcome: 'approve', by: 'eve', forWhom: ['bo'], data: { amount: 5 } });
  });

  it('lets a substitute act while somebody is away, with both names on record', () => {
    const away = member('ana', ['approvers']);
    const task = create({ ...plan, candidates: { users: ['ana'], groups: [] } }, 0);
    expect(refused(act(task, { do: 'claim' }, actor(bo), 1))).toMatchObject({ code: 'not-permitted' });
    const decided = played(task, [{ do: 'claim' }, actor(bo, away)], [approve, actor(bo, away)]);
    expect(decided.decision).toMatchObject({ by: 'bo', forWhom: ['ana'] });
    expect(decided.audit.filter(({ by }) => by === 'bo').every(({ forWhom }) => forWhom[0] === 'ana')).toBe(true);
  });

  it('says by JSON Pointer what is wrong with a decision, and has no field that its form does not name', () => {
    const task = played(create(plan, 0), [{ do: 'claim' }, actor(ana)]);
    const wrong = (data: unknown) => refused(act(task, { ...approve, data }, actor(ana), 20))?.errors;
    expect(wrong({ amount: 5_000 })).toEqual([{ pointer: '#/amount', detail: 'must be <= 1000' }]);
    expect(wrong({})).toEqual([{ pointer: '#/amount', detail: 'is missing: Approve needs it' }]);
    expect(wrong({ amount: 1, approvedBy: 'bo' })).toHaveLength(1);
    expect(wrong(undefined)).toHaveLength(1);
    expect(act(task, { ...approve, outcome: 'constructor' }, actor(ana), 20).refusal?.errors).toMatchObject([{ pointer: '#/outcome' }]);
    expect(act(task, { ...reject, comment: ' ' }, actor(ana), 20).refusal?.errors).toMatchObject([{ pointer: '#/comment' }]);
    expect(played(task, [reject, actor(ana)]).decision).toMatchObject({ outcome: 'reject', data: {}, comment: 'too dear' });
  });

  it('takes a vote back as long as that is possible, from whoever gave it', () => {
    const claimed = played(create(plan, 0), [{ do: 'claim' }, actor(ana)]);
    const { task } = act(claimed, { ...approve, undoMs: 8_000 }, actor(ana), 100);
    expect([stateOfTask(task), wakeAtOf(task)]).toEqual(['decided', 8_100]);
    expect(refused(act(task, { do: 'undo' }, actor(bo), 200))).toMatchObject({ code: 'ended' });
    expect(refused(act(task, { do: 'undo' }, actor(ana), 8_100))).toMatchObject({ code: 'ended' });
    expect(refused(act(act(task, { do: 'seal' }, theHub, 150).task, { do: 'undo' }, actor(ana), 200))).toMatchObject({ code: 'ended' });
    const back = act(task, { do: 'undo' }, actor(ana), 200).task;
    expect([stateOfTask(back), back.holder?.name, back.votes]).toEqual(['claimed', 'ana', []]);
  });

  it('is over once it is decided or withdrawn', () => {
    const decided = played(create(plan, 0), [{ do: 'claim' }, actor(ana)], [approve, actor(ana)]);
    const withdrawn = played(create(plan, 0), [{ do: 'claim' }, actor(ana)], [{ do: 'withdraw', why: 'cancelled' }, theHub]);
    for (const task of [decided, withdrawn])
      for (const action of [{ do: 'claim' }, approve, { do: 'comment', text: 'x' }, { do: 'undo' }] as const)
        expect(refused(act(task, action, actor(ana), 50))).toMatchObject({ code: 'ended' });
  });

  it('has dates that remind, let another group in, and decide', () => {
    const task = create(
      {
        ...plan,
        dates: [
          { at: 50, what: 'remind', share: 0.5 },
          { at: 80, what: 'escalate', groups: ['bosses'] },
          { at: 100, what: 'expire', outcome: 'reject' },
        ],
      },
      0,
    );
    const claimed = played(task, [{ do: 'claim' }, actor(ana)]);
    expect([wakeAtOf(claimed), may(claimed, 'claim', actor(member('dee', ['bosses'])))]).toEqual([
      50,
      'dee is not among those whom this task is for',
    ]);
    const escalated = act(claimed, { do: 'dates' }, theHub, 90).task;
    expect(escalated.audit.slice(-2).map(({ action }) => action)).toEqual(['reminded', 'escalated']);
    expect([stateOfTask(escalated), wakeAtOf(escalated), may(escalated, 'claim', actor(member('dee', ['bosses'])))]).toEqual([
      'open',
      100,
      true,
    ]);
    const expired = act(claimed, { do: 'dates' }, theHub, 1_000).task;
    expect([stateOfTask(expired), expired.decision?.outcome, expired.decision?.by]).toEqual(['expired', 'reject', null]);
    expect(act(expired, { do: 'dates' }, theHub, 2_000).task.audit).toEqual(expired.audit);
    expect(refused(act(claimed, { do: 'dates' }, actor(boss), 1_000))).toMatchObject({ code: 'not-permitted' });
  });

  it('takes attachments of the types and sizes that its step allows', () => {
    const task = played(create(plan, 0), [{ do: 'claim' }, actor(ana)]);
    const file = (type: string, size: number): Action => ({ do: 'attach', attachment: { id: 'a', name: 'x', type, size, sha256: '00' } });
    expect(act(task, file('image/png', 100), actor(ana), 20).task.attachments).toMatchObject([{ name: 'x', by: 'ana' }]);
    expect(act(task, file('image/png', 101), actor(ana), 20).refusal).toMatchObject({ code: 'invalid' });
    expect(act(task, file('text/html', 10), actor(ana), 20).refusal).toMatchObject({ code: 'invalid' });
    expect(refused(act(task, file('image/png', 100), actor(bo), 20))).toMatchObject({ code: 'conflict' });
  });
});

describe('four eyes', () => {
  const start = create(twoEyes, 0);
  const once = played(start, [{ do: 'claim' }, actor(ana)], [approve, actor(ana)]);

  it('needs different people, and is decided as soon as the result cannot change', () => {
    expect([stateOfTask(once), once.holder]).toEqual(['open', null]);
    const twice = played(once, [{ do: 'claim' }, actor(bo)], [approve, actor(bo)]);
    expect([stateOfTask(twice), twice.decision?.outcome, twice.votes.map(({ by }) => by)]).toEqual(['decided', 'approve', ['ana', 'bo']]);
    const split = played(once, [{ do: 'claim' }, actor(bo)], [reject, actor(bo)]);
    expect(stateOfTask(split)).toBe('open');
    expect(played(split, [{ do: 'claim' }, actor(cem)], [reject, actor(cem)]).decision).toMatchObject({ outcome: 'reject', data: {} });
  });

  it.each([
    ['the requestor', once, actor(req)],
    ['the requestor in capital letters', once, actor(member('REQ '))],
    [
      'an account with the requestor’s address',
      create({ ...twoEyes, never: ['req@x.org'] }, 0),
      actor(member('other', ['buyers'], { email: 'Req@X.org' })),
    ],
    ['who has voted already', once, actor(ana)],
    ['a substitute of who has voted', once, actor(outsider, ana)],
    ['who has voted, as a substitute', once, actor(ana, bo)],
    ['a substitute of the requestor', once, actor(outsider, req)],
    ['an administrator who made the request', once, actor(member('req', ['buyers'], { roles: ['task-user', 'admin'] }))],
  ])('refuses %s, and writes it down', (_who, task, who) => {
    expect(refused(act(task, { do: 'claim' }, who, 50))).toMatchObject({ code: 'not-permitted' });
    expect(refused(act(task, approve, who, 50))).toMatchObject({ code: 'not-permitted' });
  });

  it('refuses to hand the task to the requestor, or to who has voted', () => {
    const held = played(once, [{ do: 'claim' }, actor(bo)]);
    for (const to of [ana, req])
      for (const action of ['delegate', 'assign'] as const)
        expect(refused(act(held, { do: action, to: to.name, person: to }, actor(bo), 50))).toMatchObject({ code: 'not-permitted' });
    expect(create({ ...twoEyes, assign: req }, 0).audit.at(-1)).toMatchObject({ action: 'refused', detail: { to: 'req' } });
  });

  it('counts a delegate and who delegated as one, and both as having voted', () => {
    const byDelegate = played(
      start,
      [{ do: 'claim' }, actor(ana)],
      [{ do: 'delegate', to: 'bo', person: bo }, actor(ana)],
      [approve, actor(bo)],
    );
    for (const who of [ana, bo]) expect(refused(act(byDelegate, { do: 'claim' }, actor(who), 50))).toMatchObject({ code: 'not-permitted' });
    expect(may(byDelegate, 'claim', actor(cem))).toBe(true);
  });
});

const people = [ana, bo, cem, req, outsider, boss, member('dee', ['buyers', 'bosses']), member('fay', ['bosses'], { email: 'ANA' })];
const someone = fc.constantFrom(...people);
const anyActor: fc.Arbitrary<Actor> = fc
  .record({ who: someone, away: fc.subarray(people, { maxLength: 2 }) })
  .map(({ who, away }) => actor(who, ...away));
const anyAction: fc.Arbitrary<Action> = fc.oneof(
  fc.constantFrom<Action>(
    { do: 'claim' },
    { do: 'return' },
    { do: 'resolve' },
    { do: 'undo' },
    { do: 'comment', text: 'x' },
    { do: 'dates' },
  ),
  fc
    .record({ do: fc.constantFrom('assign' as const, 'delegate' as const), person: someone })
    .map((action) => ({ ...action, to: action.person.name })),
  fc.record({
    do: fc.constant('decide' as const),
    outcome: fc.constantFrom('approve', 'approve', 'reject', 'other'),
    data: fc.constantFrom({ amount: 1 }, { amount: 'x' }),
    comment: fc.constant('why'),
    undoMs: fc.constantFrom(0, 5),
  }),
);
const anyPlan: fc.Arbitrary<TaskPlan> = fc
  .record({
    needed: fc.integer({ min: 1, max: 3 }),
    spare: fc.nat(2),
    claim: fc.constantFrom('required' as const, 'optional' as const),
    escalate: fc.boolean(),
  })
  .map(({ needed, spare, claim, escalate }) => ({
    ...twoEyes,
    claim,
    approvals: { needed, of: needed + spare, outcome: 'approve' },
    dates: escalate ? [{ at: 15, what: 'escalate' as const, groups: ['bosses', 'sales'] }] : [],
  }));

describe('whatever people try, in whatever order', () => {
  it('nothing is approved by fewer different people than needed, nor by one who must not, nor twice by one', () => {
    fc.assert(
      fc.property(anyPlan, fc.array(fc.tuple(anyAction, anyActor), { maxLength: 40 }), (its, moves) => {
        let task = create(its, 0);
        let decided: string | undefined;
        moves.forEach(([action, by], index) => {
          const { task: next, refusal } = act(task, action, action.do === 'dates' ? theHub : by, index + 1);
          const refusedBefore = task.audit.filter((entry) => entry.action === 'refused').length;
          if (refusal !== undefined && refusedBefore < 20) expect(next.audit.length).toBeGreaterThan(task.audit.length);
          if (refusal !== undefined) expect({ ...next, audit: [] }).toEqual({ ...task, audit: [] });
          task = next;

          const voters = task.votes.flatMap(({ ids }) => ids);
          expect(new Set(voters).size).toBe(voters.length);
          expect(voters).not.toContain('req');
          if (task.holder !== null) {
            const holding = [task.holder, ...task.holder.behalf].flatMap(idsOf);
            expect(holding).not.toContain('req');
            if (task.ended === null) expect(holding.filter((id) => voters.includes(id))).toEqual([]);
          }
          const agreed = task.votes.filter(({ outcome }) => outcome === 'approve');
          if (task.decision?.outcome === 'approve') expect(agreed.length).toBe(its.approvals?.needed);
          if (task.decision?.outcome === 'reject')
            expect(agreed.length + its.approvals!.of - task.votes.length).toBeLessThan(its.approvals!.needed);
          // Once it is certain it is decided, and stays so unless it is taken back.
          if (agreed.length >= its.approvals!.needed) expect(task.decision).not.toBeNull();
          if (decided !== undefined && task.decision !== null) expect(task.decision.outcome).toBe(decided);
          decided = task.decision?.outcome;
        });
        expect(brokenAt(task.audit)).toBeUndefined();
      }),
      { numRuns: 1_000 },
    );
  });

  it('what may be done is what is not refused', () => {
    fc.assert(
      fc.property(anyPlan, fc.array(fc.tuple(anyAction, anyActor), { maxLength: 12 }), anyActor, (its, moves, who) => {
        const task = moves.reduce(
          (soFar, [action, by], index) => act(soFar, action, action.do === 'dates' ? theHub : by, index + 1).task,
          create(its, 0),
        );
        const tried: Readonly<Record<'claim' | 'return' | 'decide' | 'comment', Action>> = {
          claim: { do: 'claim' },
          return: { do: 'return' },
          decide: approve,
          comment: { do: 'comment', text: 'x' },
        };
        for (const what of ['claim', 'return', 'decide', 'comment'] as const)
          expect(may(task, what, who)).toBe(act(task, tried[what], who, 100).refusal?.detail ?? true);
      }),
      { numRuns: 500 },
    );
  });
});

describe('the audit', () => {
  const { audit } = played(
    create(plan, 0),
    [{ do: 'claim' }, actor(ana)],
    [{ do: 'comment', text: '=HYPERLINK("http://x")' }, actor(ana)],
    [approve, actor(ana)],
  );

  it('finds the entry from which on it was changed, removed or added to', () => {
    expect(brokenAt(audit)).toBeUndefined();
    const changed = audit.map((entry): AuditEntry => (entry.n === 3 ? { ...entry, by: 'bo' } : entry));
    expect(brokenAt(changed)).toBe(3);
    expect(brokenAt(audit.filter(({ n }) => n !== 2))).toBe(2);
    expect(brokenAt([...audit.slice(0, 2), ...append(audit.slice(0, 1), audit[2]!).slice(1), ...audit.slice(3)])).toBe(3);
    expect(brokenAt(append(audit, audit[0]!))).toBeUndefined();
  });

  it('is the same text whatever the order of keys', () => {
    expect(canonicalJson({ b: [1, { d: 'é', c: undefined }], a: null })).toBe('{"a":null,"b":[1,{"d":"é"}]}');
  });

  it('says what was done and no more than what people did', () => {
    expect(audit.map(({ by, action }) => `${by} ${action}`)).toEqual([
      'hub created',
      'ana claimed',
      'ana commented',
      'ana voted',
      'ana decided',
    ]);
  });

  it('exports lines that no spreadsheet takes for formulas', () => {
    const [entry] = append([], { at: 0, by: '=cmd|"/c calc"!A1', forWhom: ['+1'], via: 'page', action: '@x', detail: {} });
    expect(auditCsv([entry!]).split('\r\n')[1]).toMatch(
      /^"1","1970-01-01T00:00:00.000Z","'=cmd\|""\/c calc""!A1","'\+1","page","'@x","\{\}",/,
    );
  });

  it('grows no further for somebody who tries again and again', () => {
    let task = create(plan, 0);
    for (let n = 0; n < 500; n++) task = act(task, { do: 'claim' }, actor(outsider), n).task;
    expect(task.audit).toHaveLength(51);
    expect(task.audit.at(-1)?.detail).toHaveProperty('more');
  });

  it('tells at the 1st, 2nd, 4th, 8th time that somebody tries the same, and how often that was', () => {
    const tally = openTally({ now: () => 0 });
    let task = create(plan, 0);
    for (let n = 0; n < 100; n++) {
      const acted = act(task, { do: 'claim' }, actor(outsider), n, tally.next);
      tally.count(acted.what!);
      task = acted.task;
    }
    expect(task.audit.slice(1).map(({ detail }) => detail['times'] ?? 1)).toEqual([1, 2, 4, 8, 16, 32, 64]);
  });

  it('has where content was wrong, not the content, and hides nothing behind much of it', () => {
    let task = played(create(plan, 0), [{ do: 'claim' }, actor(ana)]);
    const data = (n: number) => ({ amount: 1, [`field-${n}`]: 'a secret' });
    for (let n = 0; n < 500; n++) task = act(task, { ...approve, data: data(n), outcome: `x${n}`.repeat(500) }, actor(ana), n).task;
    expect(task.audit).toHaveLength(2 + 20);
    expect(JSON.stringify(task.audit).length).toBeLessThan(20 * 800);
    expect(JSON.stringify(task.audit)).not.toContain('a secret');
    expect(task.audit.at(-1)?.detail).toHaveProperty('more');
    const { task: next } = act(task, { do: 'delegate', to: outsider.name, person: { ...outsider, roles: [] } }, actor(bo), 600);
    expect(next.audit).toHaveLength(2 + 20 + 1);
  });

  it('knows who was refused before it came to the rules, and says first that they may not do it at all', () => {
    const task = create(plan, 0);
    const unread = { code: 'invalid', detail: 'it was no JSON object' } as const;
    expect(refused(tried(task, 'claim', actor(ana), unread, 10))).toBe(unread);
    expect(refused(tried(task, 'decide', actor(ana), unread, 10))).toBe(unread);
    expect(refused(tried(task, 'claim', actor(outsider), unread, 10))).toMatchObject({ code: 'not-permitted' });
    const over = act(task, { do: 'withdraw', why: 'cancelled' }, theHub, 20).task;
    for (const what of ['undo', 'decide'] as const)
      expect(refused(tried(over, what, actor(ana), unread, 30))).toMatchObject({ code: 'ended' });
  });
});
