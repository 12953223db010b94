/** What every Later does, whoever keeps the appointments: runs on BullMQ and in memory (`later.test.ts`). */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import type { Appointment, Later } from '../../broker/later.js';
import type { Address, Message } from '../../broker/transport.js';
import { eventually } from '../support/eventually.js';

export type Publish = (to: Address, message: Message) => Promise<void>;

export interface LaterBench {
  readonly later: Later;
  /** Closes it and forgets every appointment. */
  close(): Promise<void>;
}

export function laterContract(name: string, open: (publish: Publish) => Promise<LaterBench>): void {
  describe(`appointments ${name}`, () => {
    let bench: LaterBench;
    let later: Later;
    let published: { to: Address; message: Message; at: number }[];
    let publish: Publish;

    beforeEach(async () => {
      published = [];
      publish = async (to, message) => void published.push({ to, message, at: Date.now() });
      bench = await open((to, message) => publish(to, message));
      later = bench.later;
    });
    afterEach(() => bench?.close());

    const texts = () => published.map(({ message }) => message.body.toString());

    it('are published at their time, untouched', async () => {
      await later.start();
      const message: Message = {
        body: Buffer.from(Array.from({ length: 300 }, (_, at) => at % 256)),
        messageId: 'm1',
        correlationId: 'r1',
        type: 'request',
        contentType: 'application/octet-stream',
        priority: 3,
        headers: { hub: 'flow=loan.quote, slip=(a b)', list: [1, null, { deep: true }] },
      };
      const to = { exchange: 'hub.work', routingKey: 'loan.best' };
      const at = Date.now() + 250;
      await later.schedule({ id: 'due', at, to, message });
      await eventually(() => expect(published).toHaveLength(1));
      expect(published[0]).toMatchObject({ to, message });
      expect(published[0]?.at).toBeGreaterThanOrEqual(at - 20);
    });

    it('of the past are published at once', async () => {
      await later.start();
      await later.schedule(appointment('past', -60_000));
      await eventually(() => expect(texts()).toEqual(['past']));
    });

    it('are published in the order of their times', async () => {
      await later.start();
      await later.schedule(appointment('third', 450));
      await later.schedule(appointment('first', 150));
      await later.schedule(appointment('second', 300));
      await eventually(() => expect(texts()).toEqual(['first', 'second', 'third']));
    });

    it('wait for the start', async () => {
      await later.schedule(appointment('early', -1_000));
      await later.schedule(appointment('second', 50));
      expect(texts()).toEqual([]);
      await later.start();
      await later.start();
      await eventually(() => expect(texts()).toEqual(['early', 'second']));
    });

    it('that are made twice are one, at the first time', async () => {
      await later.start();
      await later.schedule({ ...appointment('first', 200), id: 'same' });
      await later.schedule({ ...appointment('second', 0), id: 'same' });
      await later.schedule(appointment('afterwards', 400));
      await eventually(() => expect(texts()).toContain('afterwards'));
      expect(texts()).toEqual(['first', 'afterwards']);
    });

    it('may be made again once they were kept', async () => {
      await later.start();
      await later.schedule({ ...appointment('once', 0), id: 'again' });
      await eventually(() => expect(texts()).toEqual(['once']));
      await eventually(async () => {
        await later.schedule({ ...appointment('twice', 0), id: 'again' });
        expect(texts()).toContain('twice');
      });
    });

    it('are not published when they were taken back', async () => {
      await later.start();
      await later.schedule(appointment('taken back', 200));
      await later.schedule(appointment('kept', 400));
      await later.cancel('taken back');
      await eventually(() => expect(texts()).toContain('kept'));
      expect(texts()).toEqual(['kept']);
    });

    it('may be made again once they were taken back', async () => {
      await later.start();
      await later.schedule({ ...appointment('first', 60_000), id: 'again' });
      await later.cancel('again');
      await later.schedule({ ...appointment('second', 50), id: 'again' });
      await eventually(() => expect(texts()).toEqual(['second']));
    });

    it('that nobody made may be taken back', async () => {
      await later.cancel('never made');
      await later.cancel('never made');
    });

    it('have any id', async () => {
      await later.start();
      const ids = ['7', '0', '0:1', 'a:b:c', 'quiet/ä 🜁 %20', 'a%3Ab'];
      for (const id of ids) await later.schedule(appointment(id, 0));
      await eventually(() => expect(texts().sort()).toEqual([...ids].sort()));
    });

    it('are tried again until the broker has them', async () => {
      let failures = 0;
      const works = publish;
      publish = async (to, message) => {
        if (failures++ < 1) throw new Error('the broker is away');
        await works(to, message);
      };
      await later.start();
      await later.schedule(appointment('stubborn', 0));
      await eventually(() => expect(texts()).toEqual(['stubborn']), { withinMs: 10_000 });
      expect(failures).toBe(2);
    });

    it('are published once each, though 300 come at once', async () => {
      const ids = Array.from({ length: 300 }, () => randomUUID());
      await Promise.all(ids.map((id, number) => later.schedule(appointment(id, number % 100))));
      await later.start();
      await eventually(() => expect(published.length).toBeGreaterThanOrEqual(300), { withinMs: 15_000 });
      expect(texts().sort()).toEqual([...ids].sort());
    });

    it('that are being published are awaited by close, which ends everything', async () => {
      let finish = (): void => undefined;
      let begun = false;
      publish = async (to, message) => {
        begun = true;
        await new Promise<void>((resolve) => (finish = resolve));
        published.push({ to, message, at: Date.now() });
      };
      await later.start();
      await later.schedule(appointment('under way', 0));
      await eventually(() => expect(begun).toBe(true));
      let closed = false;
      const closing = later.close().then(() => (closed = true));
      await Promise.resolve();
      expect(closed).toBe(false);
      finish();
      await closing;
      expect(texts()).toEqual(['under way']);
      await expect(later.schedule(appointment('too late', 0))).rejects.toThrow();
      await expect(later.cancel('too late')).rejects.toThrow();
      await later.close();
    });
  });
}

export const appointment = (text: string, inMs: number): Appointment => ({
  id: text,
  at: Date.now() + inMs,
  to: { exchange: '', routingKey: 'q' },
  message: { body: Buffer.from(text) },
});
