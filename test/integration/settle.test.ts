/** What becomes of an outcome when the state is lost after it was settled, and before the journal has it. */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { testClock } from '../../broker/clock.js';
import { openControl } from '../../broker/control.js';
import { openCorrelator } from '../../broker/correlator.js';
import { Fault } from '../../broker/fault.js';
import type { Journal } from '../../broker/journal.js';
import { openSettler, outcomeOfFault, type Settler } from '../../broker/settle.js';
import { memoryState, type MemoryState } from '../../broker/store-memory.js';
import { StoreError, type NewRecord, type Outcome, type Store } from '../../broker/store.js';
import { namesIn } from '../../broker/topology.js';
import { PublishError } from '../../broker/transport.js';
import { memoryBroker } from '../../broker/transport-memory.js';
import { eventually } from '../support/eventually.js';

const reply = (text: string): Outcome => ({ kind: 'reply', body: Buffer.from(text), contentType: 'text/plain', at: 0 });
const cancelled = outcomeOfFault('cancelled', new Fault('cancelled', 'no more'), 0);

describe('an outcome that was settled when the state was lost', () => {
  const clock = testClock();
  let state: MemoryState;
  let store: Store;
  let settler: Settler;
  let record: NewRecord;
  /** What the journal was told: `reply`, `reply instead of cancelled`. */
  let told: string[];
  /** What happens to the next outcome that the journal is told. */
  let onTheWay: (() => Promise<void>) | undefined;

  beforeEach(async () => {
    state = memoryState({ clock });
    store = state.connect();
    told = [];
    onTheWay = undefined;
    record = {
      id: randomUUID(),
      flow: 'loan.quote',
      state: 'accepted',
      acceptedAt: clock.now(),
      deadline: clock.now() + 60_000,
      published: true,
    };
    await rebuilt();
    await store.create(record);
    const transport = memoryBroker({ clock }).connect();
    const names = namesIn('settle');
    await transport.declare({ exchanges: [{ name: names.control, type: 'fanout' }], queues: [], bindings: [] });
    const journal: Pick<Journal, 'outcome' | 'note'> = {
      note: async () => undefined,
      async outcome(_id, { kind }, _record, insteadOf) {
        const happens = onTheWay;
        onTheWay = undefined;
        await happens?.();
        told.push(insteadOf === undefined ? kind : `${kind} instead of ${insteadOf}`);
      },
    };
    settler = openSettler({
      store,
      journal: journal as Journal,
      correlator: openCorrelator(clock),
      control: await openControl(transport, names),
      dossiers: undefined,
      forward: { outcome: async () => undefined, amendment: async () => undefined },
      leftOut: new Set(),
      clock,
      emit: () => undefined,
      stopping: new AbortController().signal,
    });
  });

  /** As a rebuild that finds these in the journal. */
  async function rebuilt(...found: readonly NewRecord[]): Promise<void> {
    await store.lease('rebuild', 'test', 1_000);
    const restoring = store.restoring('test');
    for (const one of found) await restoring.record(one);
    await restoring.complete();
  }

  async function lost(): Promise<void> {
    state.lose();
    await rebuilt(record);
  }

  it('is the outcome of the record that the rebuild made', async () => {
    onTheWay = lost;
    expect(await settler.settle(record.id, cancelled, false)).toBe('won');
    expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: cancelled });
    expect(told).toEqual(['cancelled']);
  });

  it('gives way to one that was settled since then, and the journal hears so', async () => {
    onTheWay = async () => {
      await lost();
      expect(await settler.settle(record.id, reply('done'), true)).toBe('won');
    };
    expect(await settler.settle(record.id, cancelled, false)).toBe('late');
    expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: reply('done') });
    // The reply was in the journal already, and a rebuild between the two would go by what a hub said: so it is told at once. What counts is told
    // once more with each that is late.
    expect(told).toEqual(['reply', 'cancelled', 'reply instead of cancelled', 'reply']);
  });

  it('does the same when nobody knows whether the journal has it', async () => {
    onTheWay = async () => {
      await lost();
      await settler.settle(record.id, reply('done'), true);
      throw new PublishError('unknown', 'no confirm');
    };
    await expect(settler.settle(record.id, cancelled, false)).rejects.toThrow('no confirm');
    expect(told).toEqual(['reply']);
    await eventually(async () => {
      await clock.advance(1_000);
      expect(told).toEqual(['reply', 'reply instead of cancelled']);
    });
  });

  it('is brought to its end when nobody knows whether the journal has it, and no other came', async () => {
    onTheWay = async () => {
      await lost();
      throw new PublishError('unknown', 'no confirm');
    };
    await expect(settler.settle(record.id, cancelled, false)).rejects.toThrow('no confirm');
    await eventually(async () => {
      await clock.advance(1_000);
      expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: cancelled });
    });
    expect(told).toEqual(['cancelled']);
  });

  it('does not count any more when it was told once more for a late reply, and the journal hears so', async () => {
    await store.settle(record.id, cancelled, false);
    onTheWay = async () => {
      await lost();
      await store.settle(record.id, reply('done'), true);
      throw new PublishError('unknown', 'no confirm');
    };
    await expect(settler.settle(record.id, reply('done'), true)).rejects.toThrow('no confirm');
    await eventually(async () => {
      await clock.advance(1_000);
      expect(told).toEqual(['reply instead of cancelled']);
    });
  });

  it('does not count any more either when Redis could not be asked then', async () => {
    await store.settle(record.id, cancelled, false);
    // The rebuild finds the reply in the journal before that.
    onTheWay = async () => state.lose();
    await expect(settler.settle(record.id, reply('done'), true)).rejects.toMatchObject({ reason: 'incomplete' });
    await rebuilt(record);
    await store.settle(record.id, reply('done'), true);
    await eventually(async () => {
      await clock.advance(1_000);
      expect(told).toEqual(['cancelled', 'reply instead of cancelled']);
    });
  });

  it('is brought to its end when the journal has it, and it cannot be shown while the state is rebuilt', async () => {
    onTheWay = async () => state.lose();
    await expect(settler.settle(record.id, cancelled, false)).rejects.toMatchObject({ reason: 'incomplete' });
    // From what the journal had before.
    await rebuilt(record);
    await eventually(async () => {
      await clock.advance(1_000);
      expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: cancelled });
    });
  });

  it('is brought to its end when its requestor was told, and Redis could not be', async () => {
    const settle = store.settle.bind(store);
    store.settle = async () => {
      throw new StoreError('away', 'Redis is away');
    };
    await expect(settler.seat(record.id, reply('done'))).rejects.toThrow('Redis is away');
    store.settle = settle;
    await eventually(async () => {
      await clock.advance(1_000);
      expect(await store.get(record.id)).toMatchObject({ shown: true, outcome: reply('done') });
    });
  });

  it('is told to the journal when it overtook a reply that the store could not be told', async () => {
    const settle = store.settle.bind(store);
    store.settle = async () => {
      throw new StoreError('away', 'Redis is away');
    };
    await expect(settler.settle(record.id, reply('first'), true)).rejects.toThrow('Redis is away');
    store.settle = settle;
    expect(await settler.settle(record.id, reply('second'), true)).toBe('won');
    // A rebuild finds the first one first.
    expect(told).toEqual(['reply']);
  });
});
