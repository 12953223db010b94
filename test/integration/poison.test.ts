/** A message that comes back again and again: of whoever looks into the queue nobody dies, of poison everybody does. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { connect } from 'amqplib';
import { worker } from '../../index.js';
import { openMarks } from '../../broker/poison.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, rabbitmqUrl, realHub, type TestHub } from '../support/hub.js';

const echo = worker({ name: 'echo', handle: (body) => body });

let hub: TestHub;
afterEach(() => hub?.close());

it('a message that an operator looked at six times is worked on like any other', async () => {
  hub = await realHub({ flows: { echo: ['echo'] }, steps: [echo], idle: true });
  const queue = hub.hub.names.workQueue('echo');
  const answer = hub.ask('echo', 'looked at');
  await eventually(async () => expect(await hub.ports.transport.inspect(queue)).toMatchObject({ ready: 1 }));
  const connection = await connect(rabbitmqUrl());
  const channel = await connection.createChannel();
  for (let look = 0; look < 6; look++)
    await eventually(async () => {
      const message = await channel.get(queue);
      expect(message).not.toBe(false);
      if (message !== false) channel.nack(message);
    });
  await connection.close();
  const serving = await hub.another({ idle: false });
  expect(await answer).toMatchObject({ kind: 'outcome', outcome: { kind: 'reply' } });
  await serving.close();
});

describe.each([
  ['in memory', memoryHub],
  ['in Redis', realHub],
])('marks %s', (_where, openHub) => {
  const open = async () => (hub = await openHub({ flows: { echo: ['echo'] }, steps: [echo] })).ports.store;

  it('are there for three processes that died over one message; the next one does not take it', async () => {
    const store = await open();
    for (const process of ['a', 'b', 'c']) expect(await openMarks(store, process).leave('m1')).toBeDefined();
    expect(await openMarks(store, 'd').leave('m1')).toBeUndefined();
    expect(await openMarks(store, 'd').leave('m2')).toBeDefined();
  });

  it('count once for the same process, and no more for one that lives', async () => {
    const store = await open();
    const [one, two, three, four] = ['a', 'b', 'c', 'd'].map((process) => openMarks(store, process));
    const mark = await one!.leave('m1');
    expect(await one!.leave('m1')).toBe(mark);
    await two!.leave('m1');
    await three!.leave('m1');
    await one!.remove(mark!);
    await eventually(async () => expect(await four!.leave('m1')).toBe(mark));
  });
});
