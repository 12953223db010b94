/** The checker itself: a checker that finds nothing proves nothing. */
import { describe, expect, it } from '@jest/globals';
import { broken, openHistory, type Effect } from './history.js';

const effect = (id: string, token: string, said?: unknown): Effect => ({
  what: 'end',
  id,
  token,
  step: 'last',
  pid: 1,
  attempt: 1,
  at: 0,
  ...(said === undefined ? {} : { said }),
});
const reply = (said: unknown) => Buffer.from(JSON.stringify(said));

describe('the checker of histories', () => {
  let now = 0;
  const history = () => ((now = 0), openHistory({ now: () => now }));

  it('finds nothing wrong with a history that keeps the promise', () => {
    const { seen, ask } = history();
    const first = ask('a', { key: 'k', deadlineMs: 5_000 });
    first.unknown('the line broke');
    const second = ask('a', { key: 'k', deadlineMs: 5_000 });
    second.accepted('1');
    second.outcome('1', 'reply', reply({ n: 1 }));
    ask('b').refused('broker away');
    const third = ask('c', { deadlineMs: 500 });
    third.accepted('3');
    now = 600;
    third.outcome('3', 'timeout', reply({}));
    expect(broken(seen, [effect('1', 'a', { n: 1 })], { withinMs: 1_000, once: true })).toEqual([]);
  });

  const decided = (...votes: readonly (readonly [by: string, mark: string])[]) => ({
    token: 'a',
    decision: { outcome: 'approve', needed: 2, of: 2, votes: votes.map(([by, mark]) => ({ by, outcome: 'approve', mark })) },
  });

  it('finds nothing wrong with what two people decided', () => {
    const { seen, ask, vote } = history();
    for (const by of ['ana', 'bo']) vote({ by, task: 't', id: '1', mark: `${by}-1`, outcome: 'approve' })('done');
    vote({ by: 'cem', task: 't', id: '1', mark: 'cem-1', outcome: 'approve' })('refused');
    ask('a').outcome('1', 'reply', reply(decided(['ana', 'ana-1'], ['bo', 'bo-1'])));
    expect(broken(seen, [], { withinMs: 1_000 })).toEqual([]);
  });

  it.each<[string, readonly (readonly [by: string, mark: string])[], readonly string[], RegExp]>([
    [
      'a vote that nobody gave',
      [
        ['ana', 'ana-1'],
        ['bo', 'bo-1'],
      ],
      ['ana-1'],
      /vote bo-1 that bo did not give/,
    ],
    [
      'one person as two',
      [
        ['ana', 'ana-1'],
        ['ana', 'ana-2'],
      ],
      ['ana-1', 'ana-2'],
      /by one person twice/,
    ],
    ['a decision of too few', [['ana', 'ana-1']], ['ana-1'], /was decided as approve by/],
    [
      'a vote that was taken and is not heard',
      [
        ['ana', 'ana-1'],
        ['bo', 'bo-1'],
      ],
      ['ana-1', 'bo-1', 'cem-1'],
      /without cem-1/,
    ],
  ])('finds %s', (_what, counted, given, sentence) => {
    const { seen, ask, vote } = history();
    for (const mark of given) vote({ by: mark.split('-')[0]!, task: 't', id: '1', mark, outcome: 'approve' })('done');
    ask('a').outcome('1', 'reply', reply(decided(...counted)));
    expect(broken(seen, [], { withinMs: 1_000 })).toEqual([expect.stringMatching(sentence)]);
  });

  it.each<[string, (ask: ReturnType<typeof openHistory>['ask']) => void, readonly Effect[], RegExp]>([
    ['an operation that never ended', (ask) => void ask('a'), [], /never ended/],
    [
      'one that took too long',
      (ask) => {
        const op = ask('a');
        now = 2_000;
        op.refused('late');
      },
      [],
      /took 2000 ms/,
    ],
    [
      'an accepted request without outcome',
      (ask) => {
        const op = ask('a');
        op.accepted('1');
        op.unknown('gave up');
      },
      [],
      /accepted and has 0 outcomes/,
    ],
    [
      'two outcomes',
      (ask) => {
        for (const kind of ['fault', 'timeout']) {
          const op = ask('a', { key: 'k' });
          op.outcome('1', kind, reply({}));
        }
      },
      [],
      /has 2 outcomes/,
    ],
    [
      'two requests of one key',
      (ask) => {
        for (const id of ['1', '2']) ask('a', { key: 'k' }).outcome(id, 'fault', reply({}));
      },
      [],
      /key k became 2 requests/,
    ],
    [
      "somebody else's request",
      (ask) => {
        for (const token of ['a', 'b']) ask(token).outcome('1', 'fault', reply({}));
      },
      [],
      /given to a and b/,
    ],
    [
      "somebody else's reply",
      (ask) => ask('a').outcome('1', 'reply', reply({ n: 2 })),
      [effect('1', 'a', { n: 1 }), effect('2', 'b', { n: 2 })],
      /no worker said for 1/,
    ],
    [
      'a timeout before the deadline',
      (ask) => ask('a', { deadlineMs: 100 }).outcome('1', 'timeout', reply({})),
      [],
      /100 ms before its deadline/,
    ],
    [
      'a timeout of what got stuck',
      (ask) => {
        const op = ask('a', { deadlineMs: 900 });
        op.accepted('1');
        now = 900;
        op.outcome('1', 'timeout', reply({}));
      },
      [],
      /waited for 900 ms and timed out/,
    ],
    ['a refusal that had an effect', (ask) => ask('a').refused('away'), [effect('1', 'a')], /refused, and worked on/],
    ['an effect that happened twice', () => undefined, [effect('1', 'a'), effect('1', 'a')], /happened 2 times/],
  ])('finds %s', (_what, tell, effects, sentence) => {
    const { seen, ask } = history();
    tell(ask);
    expect(broken(seen, effects, { withinMs: 1_000, answeredWithinMs: 800, once: true })).toEqual([expect.stringMatching(sentence)]);
  });
});
