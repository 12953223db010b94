/** Messages of volatile flows that travel together. */
import { describe, expect, it } from '@jest/globals';
import { batchType, oneByOne, publisher, unpacked } from '../../broker/batches.js';
import type { Address, Delivery, Message, PublishOptions } from '../../broker/transport.js';

const to = { exchange: 'x', routingKey: 'k' };
const way = { durable: false, batch: true };
const message = (body: string, more: Partial<Message> = {}): Message => ({ body: Buffer.from(body), contentType: 'text/plain', ...more });

/** A publisher whose turns end when told. */
function published() {
  const sent: { readonly to: Address; readonly message: Message; readonly options: PublishOptions | undefined }[] = [];
  const turn: (() => void)[] = [];
  let failure: Error | undefined;
  const publish = publisher(
    {
      async publish(address, one, options) {
        if (failure !== undefined) throw failure;
        sent.push({ to: address, message: one, options });
      },
    },
    (run) => void turn.push(run),
  );
  return {
    sent,
    publish,
    endTurn: () => turn.splice(0).forEach((run) => run()),
    fail: (error: Error) => (failure = error),
  };
}

const arrived = ({ to: address, message: { headers = {}, ...one } }: { to: Address; message: Message }): Delivery => ({
  ...one,
  ...address,
  headers,
  redelivered: false,
  deliveries: 0,
});

describe('messages that may travel together', () => {
  it('are one message for each place and turn, and come out as they went in', async () => {
    const { sent, publish, endTurn } = published();
    const messages = [
      message('a', { messageId: '1', headers: { hub: 'flow=ä' } }),
      message('', { correlationId: '2', replyTo: 'q', contentEncoding: 'gzip' }),
      message('ünï'),
    ];
    const all = [...messages.map((one) => publish(to, one, way)), publish({ ...to, routingKey: 'other' }, message('o'), way)];
    expect(sent).toEqual([]);
    endTurn();
    await Promise.all(all);
    expect(sent.map(({ to: { routingKey }, message: { contentType }, options }) => [routingKey, contentType, options])).toEqual([
      ['k', batchType, { durable: false }],
      ['other', 'text/plain', { durable: false }],
    ]);
    expect(unpacked(arrived(sent[0]!))).toEqual(messages.map((one) => arrived({ to, message: one })));
    await Promise.all([publish(to, message('b'), way), Promise.resolve().then(endTurn)]);
    expect(sent[2]!.message).toEqual(message('b'));
  });

  it('go by themselves when they are large, and in several when they are many', async () => {
    const { sent, publish, endTurn } = published();
    const all = Array.from({ length: 250 }, (_, n) => publish(to, message(String(n)), way));
    all.push(publish(to, message('x'.repeat(20_000)), way));
    endTurn();
    await Promise.all(all);
    expect(sent.map((one) => unpacked(arrived(one)).length)).toEqual([1, 100, 100, 50]);
  });

  it('share what happens to their message', async () => {
    const { publish, endTurn, fail } = published();
    fail(new Error('away'));
    const all = Promise.allSettled([publish(to, message('a'), way), publish(to, message('b'), way)]);
    endTurn();
    expect((await all).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });

  it('are done when each of them is', async () => {
    const { sent, publish, endTurn } = published();
    for (const body of ['a', 'b']) void publish(to, message(body), way);
    endTurn();
    const seen: string[] = [];
    await oneByOne(async ({ body }) => void seen.push(body.toString()))(arrived(sent[0]!));
    expect(seen).toEqual(['a', 'b']);
    const failing = oneByOne(({ body }) => (body.toString() === 'b' ? Promise.reject(new Error('no')) : Promise.resolve()));
    await expect(failing(arrived(sent[0]!))).rejects.toThrow('no');
  });

  it('are no messages when they cannot be read', () => {
    for (const body of ['', '\0\0\0\x02[]'.slice(0, 3), '\0\0\0\x08[[9,{}]]', '\0\0\0\x01{']) {
      const broken = arrived({ to, message: { body: Buffer.from(body, 'latin1'), contentType: batchType } });
      expect(unpacked(broken)).toEqual([broken]);
    }
  });
});
