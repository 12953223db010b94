/** What `answerback journal verify` finds in a journal: each way of breaking the promise, and that nothing is found where none is. */
import { describe, expect, it } from '@jest/globals';
import { correctsHeaders, versionHeader } from '../../broker/amendable.js';
import { deriveId, follow, type Envelope } from '../../broker/envelope.js';
import { namesIn } from '../../broker/topology.js';
import type { Delivery, Message } from '../../broker/transport.js';
import { encode, recordHeader } from '../../broker/wire.js';
import { verify } from '../../cli/verify.js';

const names = namesIn('v');
const began = 1_800_000_000_000;
const deadline = began + 60_000;
const body = (text: string) => ({ body: Buffer.from(text), contentType: 'text/plain' });

const first = (id: string, more: Partial<Envelope> = {}): Envelope => ({
  id,
  requestId: id,
  type: 'request',
  flow: 'loan',
  slip: ['only'],
  step: 1,
  attempt: 1,
  deadline,
  replyTo: names.reply('h'),
  groups: [],
  durable: true,
  journal: true,
  recorded: false,
  at: began,
  ...body('q'),
  ...more,
});
const delivered = (message: Message, exchange: string, routingKey: string): Delivery => ({
  ...message,
  headers: message.headers ?? {},
  exchange,
  routingKey,
  redelivered: false,
  deliveries: 0,
});
const asked = (id: string, more: Partial<Envelope> = {}) => delivered(encode(first(id, more)), names.work, 'only');
const replied = (id: string, text: string, at = began + 10, more: Partial<Envelope> = {}) =>
  delivered(encode({ ...follow(first(id), { at, ...body(text) }), ...more }), names.replies, names.reply('h'));
const note = (kind: string, id: string, at: number, headers: Message['headers'] = {}, message: Partial<Message> = {}) =>
  delivered(
    { body: Buffer.alloc(0), type: 'event', ...message, correlationId: id, headers: { ...headers, 'hub-note': kind, 'hub-note-at': at } },
    '',
    names.journal,
  );
const decided = (id: string, kind: string, text: string, at = began + 20) =>
  note('outcome', id, at, { 'hub-outcome': kind }, { type: kind === 'reply' ? 'reply' : 'fault', ...body(text) });
const keyed = (id: string) =>
  asked(id, {
    extra: recordHeader({
      id,
      flow: 'loan',
      state: 'accepted',
      published: false,
      acceptedAt: began + Number(id.slice(1)),
      deadline,
      claim: { scope: 'the key', fingerprint: 'x' },
    }),
  });

const verdictOn = (entries: readonly Delivery[], more: { readonly now?: number; readonly most?: number } = {}) =>
  verify({
    journal: {
      async replay(_from, entry) {
        for (const one of entries) await entry(one);
      },
    },
    names,
    from: 'first',
    now: deadline + 60_000,
    retentionMs: 86_400_000,
    ...more,
  });

describe('a journal in which the promise is kept', () => {
  const kept = [
    asked('r1'),
    replied('r1', 'a'),
    replied('r1', 'a'),
    asked('r2'),
    decided('r2', 'timeout', '{"code":"timeout","message":"late"}', deadline + 500),
    replied('r2', 'too late', deadline + 900),
    note('late', 'r2', deadline + 900),
    asked('r3'),
    decided('r3', 'cancelled', '{"code":"cancelled","message":"x"}'),
    asked('r4', { replyTo: undefined as never }),
    note('done', 'r4', began + 5),
    asked('r5', { deadline: deadline + 600_000 }),
  ];

  it('has no violation, and what was accepted is the sum of what became of it', async () => {
    expect(await verdictOn(kept)).toMatchObject({
      accepted: 4,
      replied: 1,
      timedOut: 1,
      cancelled: 1,
      pending: 1,
      lost: 0,
      late: 1,
      oneWay: { sent: 1, done: 1, dead: 0 },
      violations: [],
    });
  });

  it('is told the same when only a few requests may be in memory at once', async () => {
    expect(await verdictOn(kept, { most: 2 })).toEqual(await verdictOn(kept));
  });
});

const group = (index: number) => [{ id: 'g', index, size: 2, at: 'gather', deadline, name: `p${index}` }];
const corrects = (rank: number) => correctsHeaders({ group: 'g', rank, by: 'p1' });
const corrected = (id: string, text: string, rank: number) => replied(id, text, began + 30, { extra: corrects(rank) });
const amended = (id: string, version: number, rank: number, text: string) =>
  note('amended', id, began + 40, { ...corrects(rank), ...versionHeader(version) }, { type: 'reply', ...body(text) });

it('finds nothing wrong with versions that follow one another, told twice or not', async () => {
  const first = [asked('r1'), replied('r1', 'a'), corrected('r1', 'b', 1), corrected('r1', 'd', 3)];
  const told = [amended('r1', 2, 1, 'b'), amended('r1', 3, 3, 'd')];
  expect(await verdictOn([...first, ...told, ...told])).toMatchObject({ replied: 1, amended: 2, violations: [] });
});

it('takes what counts instead of an outcome that was lost with the state', async () => {
  const stale = note('outcome', 'r1', began + 20, { 'hub-outcome': 'cancelled' }, { type: 'fault', ...body('no more') });
  const instead = note(
    'outcome',
    'r1',
    began + 30,
    { 'hub-outcome': 'reply', 'hub-instead-of': 'cancelled' },
    { type: 'reply', ...body('a') },
  );
  for (const told of [
    [stale, instead],
    [instead, stale],
  ])
    expect(await verdictOn([asked('r1'), replied('r1', 'a'), ...told])).toMatchObject({ replied: 1, cancelled: 0, violations: [] });
});

const partOf = (id: string, message: string) =>
  delivered(encode({ ...first(id, { slip: ['gather'], step: 3, groups: group(0) }), id: message }), names.work, 'gather');

it.each([
  ['a request without outcome', [asked('r1')], /has no outcome, 60 s after its deadline/],
  ['outcomes that differ', [asked('r1'), decided('r1', 'reply', 'a'), decided('r1', 'reply', 'b')], /has 2 outcomes that differ/],
  [
    'a timeout before the deadline',
    [asked('r1'), decided('r1', 'timeout', '{"code":"timeout","message":"x"}')],
    /timed out \d+ ms before its deadline/,
  ],
  ['an outcome long after the deadline', [asked('r1'), replied('r1', 'a', deadline + 20_000)], /had its outcome \(reply\) 20 s after/],
  ['a reply that no worker sent', [asked('r1'), replied('r1', 'a'), decided('r1', 'reply', 'b')], /a reply that no worker sent/],
  ['an answer of another step', [asked('r1'), replied('r1', 'a', began, { from: 'stranger' })], /was answered by stranger/],
  ['two requests of one key', [keyed('r1'), replied('r1', 'a'), keyed('r2'), replied('r2', 'a')], /has the idempotency key of request r1/],
  [
    'a part that came as two messages',
    [asked('r1'), partOf('r1', 'm1'), partOf('r1', deriveId('m1', 'x')), replied('r1', 'a', began, { from: 'gather' })],
    /came 2 times/,
  ],
  [
    'a group that was completed twice',
    [
      asked('r1'),
      replied('r1', 'a', began, { extra: { 'hub-group': 'g', 'hub-completed-by': 'all' } }),
      replied('r1', 'a', began, { extra: { 'hub-group': 'g', 'hub-completed-by': 'deadline' } }),
    ],
    /group g was completed 2 times: by all, deadline/,
  ],
  [
    'a further version of what is no reply',
    [asked('r1'), decided('r1', 'cancelled', '{"code":"cancelled","message":"x"}'), corrected('r1', 'b', 1), amended('r1', 2, 1, 'b')],
    /has versions of a reply, and its outcome is a cancelled/,
  ],
  [
    'a hole in the versions',
    [asked('r1'), replied('r1', 'a'), corrected('r1', 'b', 1), amended('r1', 3, 1, 'b')],
    /has version 3 of its reply after version 1/,
  ],
  [
    'a version that counts no more than the one before',
    [asked('r1'), replied('r1', 'a'), corrected('r1', 'b', 1), corrected('r1', 'c', 1), amended('r1', 2, 1, 'b'), amended('r1', 3, 1, 'c')],
    /version 3 of its reply counts 1 late parts, and the one before 1/,
  ],
  [
    'a version that is told in two ways',
    [asked('r1'), replied('r1', 'a'), corrected('r1', 'b', 1), corrected('r1', 'c', 1), amended('r1', 2, 1, 'b'), amended('r1', 2, 1, 'c')],
    /version 2 of its reply is told in 2 ways/,
  ],
  [
    'a version that nobody sent',
    [asked('r1'), replied('r1', 'a'), corrected('r1', 'b', 1), amended('r1', 2, 1, 'c')],
    /version 2 of its reply was sent by no aggregator/,
  ],
  ['a one-way message that is nowhere', [asked('r1', { replyTo: undefined as never })], /neither done nor a dead letter/],
])('%s is found', async (_what, entries, expected) => {
  const { violations } = await verdictOn(entries);
  expect(violations.map(({ what }) => what)).toEqual([expect.stringMatching(expected)]);
});
