import { afterEach, describe, expect, it } from '@jest/globals';
import type { User } from '../../broker/people.js';
import type { Actor } from '../../broker/tasks/task.js';
import type { Summary } from '../../broker/tasks/view.js';
import { task } from '../../index.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub } from '../support/hub.js';

interface Order {
  readonly amount: number;
  readonly enteredBy?: string;
}

export const approve = task<Order>({
  name: 'order.approve',
  title: ({ amount }) => `Approve ${amount} €`,
  form: { type: 'object', required: ['rate'], properties: { rate: { type: 'number' } } },
  candidates: { groups: ['buyers'] },
});

const person = (name: string, groups: readonly string[] = ['buyers']): User => ({ name, groups, roles: ['task-user'] });
const users = [person('ana'), person('bo'), person('cem'), person('eve', ['sales'])];

describe.each([
  ['in memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
])('tasks %s', (_where, open) => {
  let hub: TestHub;
  afterEach(() => hub?.close());

  const as = async (name: string): Promise<Actor> => hub.hub.people.actor((await hub.hub.people.find(name))!, 'page');
  const seen = async (name: string, view: 'groups' | 'mine' | 'done' = 'groups'): Promise<readonly Summary[]> =>
    (await hub.hub.tasks.list(await as(name), { view, limit: 50 })).tasks;
  const found = (name: string): Promise<Summary> =>
    eventually(async () => {
      const [first] = await seen(name);
      if (first === undefined) throw new Error('no task yet');
      return first;
    });

  it('goes from a request to whoever claims it, and from the decision to who holds the line', async () => {
    hub = await open({ flows: { order: ['order.approve'] }, steps: [approve], users });
    const reply = hub.reply('order', { amount: 500 });
    const { id, title, holdingUntil } = await found('ana');
    expect([title, typeof holdingUntil]).toEqual(['Approve 500 €', 'number']);
    const { tasks } = hub.hub;
    expect(await tasks.act(id, { do: 'claim' }, await as('ana'))).toMatchObject({ result: 'done', task: { state: 'claimed' } });
    expect(await tasks.act(id, { do: 'claim' }, await as('bo'))).toMatchObject({ result: 'refused', refusal: { code: 'conflict' } });
    expect([await seen('bo'), (await seen('ana', 'mine')).length]).toEqual([[], 1]);
    const began = Date.now();
    expect(await tasks.act(id, { do: 'decide', outcome: 'approve', data: { rate: 4 } }, await as('ana'))).toMatchObject({ result: 'done' });
    expect(await reply).toMatchObject({ outcome: 'approve', data: { rate: 4 }, by: 'ana', votes: [{ by: 'ana' }] });
    expect(Date.now() - began).toBeLessThan(300);
    await eventually(async () => expect(await seen('ana', 'done')).toMatchObject([{ id, state: 'decided' }]));
    expect(await seen('ana', 'mine')).toEqual([]);
  });
});
