/** Somebody deletes the queue of a step with work in it: the journal has it. On both sets of ports. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { aggregator, split, worker } from '../../index.js';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';

/** A step of one at a time that waits for the test, and the rest of them in the queue. */
function gated(name: string) {
  let isOpen = false;
  const waiting: (() => void)[] = [];
  const handled: unknown[] = [];
  const step = worker({
    name,
    concurrency: 1,
    async handle(body) {
      if (!isOpen) await new Promise<void>((resolve) => waiting.push(resolve));
      handled.push(body);
      return body;
    },
  });
  return { step, handled, waiting, open: () => ((isOpen = true), waiting.splice(0).forEach((resolve) => resolve())) };
}

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('the work in a queue that is deleted %s', (_where, openHub) => {
  let hub: TestHub;
  const open = async (options: TestHubOptions) => (hub = await openHub(options));
  afterEach(() => hub?.close());
  /** From another connection: the hub's own would forget that the queue is to be there. */
  const remove = async (step: string) => {
    const other = await hub.another({ idle: true, name: 'other' });
    await other.ports.transport.removeQueue(hub.hub.names.workQueue(step));
  };
  const collect = async (id: string) => {
    const answer = await hub.gateway.collect(id, anonymous, 15_000);
    return answer?.kind === 'outcome' ? (JSON.parse(answer.outcome.body.toString()) as unknown) : answer;
  };

  it('is done all the same, what waited and what was being done', async () => {
    const gate = gated('slow');
    await open({ flows: { slow: ['slow'] }, steps: [gate.step] });
    const done = await hub.ask('slow', { n: 'done' }, { waitMs: 0 });
    await eventually(() => expect(gate.waiting.length).toBe(1));
    gate.waiting.pop()!();
    expect(await collect(done.id)).toEqual({ n: 'done' });
    const asked = await Promise.all(Array.from({ length: 10 }, (_, n) => hub.ask('slow', { n }, { waitMs: 0 })));
    await eventually(() => expect(gate.waiting.length).toBe(1));
    await remove('slow');
    await eventually(() => expect(hub.events).toContainEqual({ event: 'queue.resurrected', fields: { step: 'slow', messages: 10 } }), {
      withinMs: 10_000,
    });
    gate.open();
    for (const [n, { id }] of asked.entries()) expect(await collect(id)).toEqual({ n });
    expect(gate.handled.filter((body) => (body as { n: unknown }).n === 'done').length).toBe(1);
  });

  it('is in its group once', async () => {
    const gate = gated('part');
    await open({
      flows: { quote: ['spread', 'part', 'gather'] },
      steps: [
        worker({ name: 'spread', handle: () => split([1, 2, 3].map((body) => ({ body, name: `p${body}` }))) }),
        gate.step,
        aggregator({ name: 'gather', timeout: '20s' }),
      ],
    });
    const { id } = await hub.ask('quote', 1, { waitMs: 0 });
    await eventually(() => expect(gate.waiting.length).toBe(1));
    gate.waiting.pop()!();
    await eventually(() => expect(gate.waiting.length).toBe(1));
    await remove('part');
    await eventually(() => expect(hub.events.map(({ event }) => event)).toContain('queue.resurrected'), { withinMs: 10_000 });
    gate.open();
    expect(await collect(id)).toMatchObject({ answered: ['p1', 'p2', 'p3'], completedBy: 'all' });
  });
});

it('what was sent to a queue that was gone, and that nobody consumes, is there when it is missed', async () => {
  const clock = testClock();
  const hub = await memoryHub({
    clock,
    flows: { later: { steps: ['later'], deadlineMs: 600_000, maxDeadlineMs: 600_000 } },
    steps: [worker({ name: 'later', handle: (body) => body })],
    idle: true,
  });
  const other = await hub.another();
  await other.ports.transport.removeQueue(hub.hub.names.workQueue('later'));
  // The journal is bound under the same key: the broker confirms it.
  const asking = hub.ask('later', 'x', { waitMs: 0 });
  await clock.advance(1_000);
  const { id } = await asking;
  await clock.advance(31_000);
  expect(await hub.ports.transport.inspect(hub.hub.names.workQueue('later'))).toMatchObject({ ready: 1 });
  expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'accepted' });
  await Promise.all([hub.close(), clock.advance(60_000)]);
});
