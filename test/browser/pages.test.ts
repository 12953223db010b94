/** The pages in a real Chromium, on a pretended hub: keyboard, accessibility, policy, and what must not be lost. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { eventually } from '../support/eventually.js';
import { axe, complaints, launch } from './chromium.js';
import { aTask, pretendHub, type PretendHub, type PretendTask } from './pretend-hub.js';

jest.setTimeout(60_000);

let browser: Browser;
let hub: PretendHub;
const open: BrowserContext[] = [];
const said: string[] = [];
const requestId = '01890000-0000-7000-8000-000000000001';

beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());
beforeEach(async () => {
  hub = await pretendHub({ undoMs: 8_000 });
});
afterEach(async () => {
  for (const context of open.splice(0)) await context.close();
  await hub.close();
  // No test ends with an error in the console, nor with anything that the page's policy forbade.
  expect(said.splice(0)).toEqual([]);
});

interface Visit {
  readonly as?: 'ana' | 'bo';
  readonly theme?: 'light' | 'dark';
  readonly width?: number;
}

/** A browser of its own, with somebody signed in. */
async function visit(path: string, { as = 'ana', theme = 'light', width = 1_280 }: Visit = {}): Promise<Page> {
  const context = await browser.newContext({ colorScheme: theme, viewport: { width, height: 800 }, reducedMotion: 'reduce' });
  open.push(context);
  context.setDefaultTimeout(15_000);
  await context.addCookies([{ name: 'who', value: as, url: hub.url }]);
  return tab(context, path);
}

async function tab(context: BrowserContext, path: string): Promise<Page> {
  const page = await context.newPage();
  const heard = complaints(page);
  page.on('close', () => said.push(...heard));
  await page.goto(hub.url + path);
  return page;
}

function add(more: Partial<PretendTask> = {}): PretendTask {
  const task = aTask(more);
  hub.tasks.set(task.id, task);
  return task;
}

const focused = (page: Page) => page.evaluate<string>('document.activeElement.textContent || document.activeElement.id');

describe('the keyboard alone', () => {
  it('finds, claims, fills in, mends, decides and takes back a task', async () => {
    add({ title: 'First' });
    const task = add({ title: 'Second' });
    const page = await visit('/inbox?view=groups');
    const { keyboard } = page;
    await page.getByRole('link', { name: 'Second' }).waitFor();

    await keyboard.press('j');
    await keyboard.press('j');
    expect(await focused(page)).toBe('Second');
    await keyboard.press('k');
    expect(await focused(page)).toBe('First');
    await keyboard.press('j');
    await keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Your decision' }).waitFor();
    await eventually(async () => expect(await focused(page)).toBe('Second'));

    await keyboard.press('c');
    await eventually(() => expect(task.assignee).toBe('ana'));
    await page.getByText('yours', { exact: true }).first().waitFor();
    await keyboard.press('a');
    await page.getByText('One thing to mend').waitFor();
    // The summary has the focus; its first link leads to the field.
    await keyboard.press('Tab');
    await keyboard.press('Enter');
    expect(await focused(page)).toBe('field#/rate');
    await keyboard.type('abc');
    await keyboard.press('Control+Enter');
    await page.getByRole('link', { name: 'Rate: Enter a number.' }).waitFor();
    await page.getByLabel('Rate').focus();
    await keyboard.press('Control+A');
    await keyboard.type('4.25');
    await keyboard.press('Control+Enter');
    await eventually(() => expect(task.decision).toMatchObject({ outcome: 'approve', data: { rate: 4.25 } }));

    await page.getByText('Approve: Second.').waitFor();
    await keyboard.press('u');
    await eventually(() => expect(task.state).toBe('claimed'));
    await keyboard.press('Escape');
    expect(page.url()).not.toContain(task.id);
    await eventually(async () => expect(await page.evaluate<string>('document.activeElement.id')).toBe(`row-${task.id}`));
  });

  it('comments, delegates and rejects, and says what a rejection needs', async () => {
    const task = add({ assignee: 'ana', state: 'claimed', form: null, hasForm: false });
    const page = await visit(`/inbox/${task.id}`);
    const { keyboard } = page;
    await page.getByRole('heading', { name: 'Your decision' }).waitFor();
    await keyboard.press('m');
    await keyboard.type('a c r d j');
    await keyboard.press('Control+Enter');
    await eventually(() => expect(task.comments.map(({ text }) => text)).toEqual(['a c r d j']));
    await keyboard.press('Escape');

    await keyboard.press('r');
    await page.getByText('“Reject” needs a comment').first().waitFor();
    expect(task.decision).toBeNull();
    await keyboard.press('d');
    await page.getByRole('dialog').waitFor();
    await keyboard.type('bo');
    await keyboard.press('Control+Enter');
    await eventually(() => expect(task).toMatchObject({ assignee: 'bo', owner: 'ana', state: 'delegated' }));
  });

  it('can be told to leave single keys alone', async () => {
    add({ title: 'First' });
    const page = await visit('/inbox?view=groups');
    await page.getByRole('link', { name: 'First' }).waitFor();
    await page.keyboard.press('?');
    await page.getByLabel('Shortcuts of a single key are on').uncheck();
    await page.keyboard.press('Escape');
    await page.keyboard.press('j');
    expect(await focused(page)).not.toBe('First');
  });
});

describe('what must not be lost', () => {
  it('keeps the text of who lost the race for a task, and says who won', async () => {
    const task = add();
    const [ana, bo] = await Promise.all([visit(`/inbox/${task.id}`), visit(`/inbox/${task.id}`, { as: 'bo' })]);
    await Promise.all([ana, bo].map((page) => page.getByLabel('Reason').fill('because of the income')));
    // Neither page hears of the other before it claims: the answer to the claim itself must tell.
    await Promise.all([ana, bo].map((page) => page.route('**/tasks/events', (route) => route.abort())));
    // Pressed at once: waiting until it stands still, as click() does, one page may hear of the other's claim.
    await Promise.all([ana, bo].map((page) => page.getByRole('button', { name: 'Claim', exact: true }).dispatchEvent('click')));

    await eventually(() => expect(task.assignee).not.toBeNull());
    const loser = task.assignee === 'ana' ? bo : ana;
    const winner = task.assignee === 'ana' ? ana : bo;
    await loser.getByText(/(ana|bo) claimed this at .* Your text is kept here\./).waitFor();
    expect(await loser.getByLabel('Reason').inputValue()).toBe('because of the income');
    expect(await loser.getByRole('button', { name: 'Approve', exact: true }).getAttribute('aria-disabled')).toBe('true');
    await winner.getByLabel('Rate').fill('4');
    await winner.getByRole('button', { name: 'Approve', exact: true }).click();
    await eventually(() => expect(task.decision).toMatchObject({ data: { rate: 4, reason: 'because of the income' } }));
    await loser.getByText('Approve', { exact: true }).first().waitFor();
  });

  it('saves a draft by itself, and shows it in another browser', async () => {
    const task = add({ assignee: 'ana', state: 'claimed' });
    const page = await visit(`/inbox/${task.id}`);
    await page.getByLabel('Reason').fill('a long story');
    await page.getByText('Draft saved', { exact: true }).waitFor();
    expect(task.draft).toEqual({ reason: 'a long story' });
    const other = await visit(`/inbox/${task.id}`);
    expect(await other.getByLabel('Reason').inputValue()).toBe('a long story');
  });

  it('keeps the page under the sign-in dialog when the session ends', async () => {
    const task = add({ assignee: 'ana', state: 'claimed' });
    const page = await visit(`/inbox/${task.id}`);
    await page.getByLabel('Reason').fill('typed before');
    await page.context().clearCookies();
    await page.getByRole('button', { name: 'Return', exact: true }).click();
    await page.getByRole('heading', { name: 'Your session has ended' }).waitFor();
    await page.getByLabel('User name').fill('ana');
    await page.getByLabel('Password').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('do not fit').waitFor();
    await page.getByLabel('Password').fill('demo');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    expect(await page.getByLabel('Reason').inputValue()).toBe('typed before');
  });

  it('tells who has a task open that it was withdrawn', async () => {
    const task = add();
    const page = await visit(`/inbox/${task.id}`);
    await page.getByRole('heading', { name: 'Your decision' }).waitFor();
    await eventually(() => expect(hub.streams()).toBe(1));
    Object.assign(task, { state: 'withdrawn', version: task.version + 1 });
    hub.tell(task);
    await page.getByText('nothing is to be decided any more').waitFor();
  });
});

describe('the list', () => {
  it('shows a task that comes in only when asked, and never moves a row', async () => {
    add({ title: 'There before' });
    const page = await visit('/inbox?view=groups');
    await page.getByRole('link', { name: 'There before' }).waitFor();
    await page.getByText('Live').waitFor();
    // What happened before is being looked for.
    await page.locator('.rows[aria-busy="false"]').waitFor();
    hub.tell(add({ title: 'Newcomer', dueAt: new Date(0).toISOString() }));
    await page.getByRole('button', { name: '1 newer' }).waitFor();
    expect(await page.getByRole('link', { name: 'Newcomer' }).count()).toBe(0);
    await page.getByRole('button', { name: '1 newer' }).click();
    await page.getByRole('link', { name: 'Newcomer' }).waitFor();
  });

  it('still announces a task that came in while the list was on its way', async () => {
    add({ title: 'There before' });
    const page = await visit('/inbox?view=groups');
    await page.getByText('Live').waitFor();
    await page.locator('.rows[aria-busy="false"]').waitFor();
    const soon = new Date(0).toISOString();
    hub.tell(add({ title: 'First', dueAt: soon }));
    await page.getByRole('button', { name: '1 newer' }).waitFor();
    await page.route(
      '**/tasks?*',
      async (route) => {
        const response = await route.fetch();
        hub.tell(add({ title: 'Second', dueAt: soon }));
        await page.getByRole('button', { name: '2 newer' }).waitFor();
        await route.fulfill({ response });
      },
      { times: 1 },
    );
    await page.getByRole('button', { name: '1 newer' }).click();
    await page.getByRole('link', { name: 'First' }).waitFor();
    await page.getByRole('button', { name: '1 newer' }).waitFor();
    expect(await page.getByRole('link', { name: 'Second' }).count()).toBe(0);
  });

  it('decides several at once, and says which was refused and why', async () => {
    const tasks = ['One', 'Two', 'Three'].map((title) => add({ title, form: null, hasForm: false }));
    hub.forbidden.set(`${tasks[1]!.id}/ana`, 'you entered this request yourself');
    const page = await visit('/inbox?view=groups');
    await page.getByRole('link', { name: 'Three' }).waitFor();
    await page.keyboard.press('j');
    await page.keyboard.press('x');
    await page.keyboard.press('j');
    await page.keyboard.press('j');
    await page.keyboard.press('Shift+X');
    await page.getByText('3 selected').waitFor();
    await page.getByRole('button', { name: 'Approve', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Approve' }).click();
    await page.getByText('Two: you entered this request yourself').waitFor();
    expect(tasks.map(({ state }) => state)).toEqual(['decided', 'open', 'decided']);
  });

  it('says that somebody is waiting on the line, and for how long', async () => {
    add({ holdingUntil: Date.now() + 42_000 });
    const page = await visit('/inbox?view=groups');
    await page.getByText(/Someone is waiting on the line right now: (4[0-2]|3\d) s left/).waitFor();
  });

  it('searches, and jumps to the request whose id is searched for', async () => {
    add({ title: 'A needle' });
    add({ title: 'Some hay' });
    const page = await visit('/inbox?view=groups');
    await page.getByRole('link', { name: 'Some hay' }).waitFor();
    await page.keyboard.press('/');
    await page.keyboard.type('needle');
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'Some hay' }).waitFor({ state: 'detached' });
    await page.getByRole('searchbox').fill(requestId);
    await page.keyboard.press('Enter');
    await page.getByText(`There is no request ${requestId}`).waitFor();
  });

  it('has one event stream for all tabs of a browser', async () => {
    const task = add();
    const first = await visit('/inbox?view=groups');
    const tabs = [first, await tab(first.context(), '/inbox?view=groups'), await tab(first.context(), `/inbox/${task.id}`)];
    await Promise.all(tabs.map((page) => page.getByText('● Live').waitFor()));
    expect(hub.streams()).toBe(1);
    await first.close();
    task.title = 'Another title';
    task.version++;
    hub.tell(task);
    await tabs[2]!.getByRole('heading', { name: 'Another title' }).waitFor();
    expect(hub.streams()).toBe(1);
  });
});

describe('the form', () => {
  it('becomes a box for JSON where the generator has no field, and still checks it', async () => {
    const task = add({
      assignee: 'ana',
      state: 'claimed',
      form: {
        type: 'object',
        required: ['split'],
        properties: { split: { anyOf: [{ type: 'number' }, { type: 'array', items: { type: 'number' } }], title: 'Split' } },
      },
    });
    const page = await visit(`/inbox/${task.id}`);
    await page.getByLabel('Split').fill('[1, ');
    await page.getByText('This is not JSON yet').waitFor();
    await page.getByRole('button', { name: 'Approve', exact: true }).click();
    await page.getByText('One thing to mend').waitFor();
    await page.getByLabel('Split').fill('["one"]');
    await page.getByRole('button', { name: 'Approve', exact: true }).click();
    await page.getByText('Choose one of the values that are allowed').first().waitFor();
    expect(task.decision).toBeNull();
    await page.getByLabel('Split').fill('[1, 2]');
    await page.getByRole('button', { name: 'Approve', exact: true }).click();
    await eventually(() => expect(task.decision).toMatchObject({ data: { split: [1, 2] } }));
  });

  it('is never a blank page, whatever the schema is', async () => {
    const broken = { type: 'object', required: 5, properties: { a: { type: 'string' } } } as never;
    const task = add({ assignee: 'ana', state: 'claimed', form: broken });
    const page = await visit(`/inbox/${task.id}`);
    await page.getByLabel('Decision', { exact: true }).and(page.getByRole('textbox')).fill('{"a": 1}');
    await page.getByRole('button', { name: 'Approve', exact: true }).waitFor();
    // React reports what the fallback caught.
    await page.close();
    said.length = 0;
  });

  it('shows what the hub refuses beside the field, and gives it the focus', async () => {
    const task = add({ assignee: 'ana', state: 'claimed' });
    const page = await visit(`/inbox/${task.id}`);
    await page.route('**/decide', (route) =>
      route.fulfill({
        status: 422,
        json: { code: 'invalid', detail: 'no', errors: [{ pointer: '#/rate', detail: 'is above what the desk may grant' }] },
      }),
    );
    await page.getByLabel('Rate').fill('5');
    await page.getByRole('button', { name: 'Approve', exact: true }).click();
    await page.getByRole('link', { name: 'Rate: is above what the desk may grant' }).click();
    expect(await focused(page)).toBe('field#/rate');
    expect(await page.getByLabel('Rate').getAttribute('aria-invalid')).toBe('true');
  });
});

describe('every page', () => {
  const story = {
    id: requestId,
    flow: 'loan.quote',
    state: 'waiting',
    waitingOn: { kind: 'task', text: 'somebody of credit-team', taskId: 'task-1' },
    requestor: { kind: 'holding', until: Date.now() + 60_000 },
    acceptedAt: new Date().toISOString(),
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
    mayCancel: true,
    story: [{ at: new Date().toISOString(), text: 'asked five banks', step: 'banks.ask', kind: 'step' }],
    parts: [
      { name: 'bank-a', state: 'answered', ms: 290 },
      { name: 'bank-e', state: 'waiting', ms: null },
      { name: 'bank-c', state: 'answered', ms: 510 },
    ],
  };

  it.each(['light', 'dark'] as const)('has no serious finding of axe in the %s theme, and fits into 320 px', async (theme) => {
    const rich = add({
      title: 'Everything at once',
      assignee: 'ana',
      state: 'claimed',
      holdingUntil: Date.now() + 42_000,
      dueAt: new Date(0).toISOString(),
      votes: { needed: 2, of: 3, given: 1 },
      comments: [{ by: 'bo', at: new Date().toISOString(), text: 'A word' }],
      context: { items: [{ article: 'Workstation', count: 12 }], note: 'two\nlines', nested: { urgent: true } },
      form: {
        type: 'object',
        required: ['kind', 'sure'],
        properties: {
          kind: { enum: ['a', 'b'], title: 'Kind' },
          many: { enum: ['a', 'b', 'c', 'd', 'e', 'f'], title: 'Many' },
          on: { type: 'string', format: 'date', title: 'On' },
          rows: { type: 'array', title: 'Rows', default: [{}], items: { type: 'object', properties: { text: { type: 'string' } } } },
          some: { type: 'array', uniqueItems: true, title: 'Some', items: { enum: ['x', 'y'] } },
          free: { title: 'Free' },
          fixed: { type: 'string', readOnly: true, default: 'fixed' },
          sure: { type: 'boolean', const: true, title: 'Sure', description: 'Tick when you are.' },
        },
      },
    });
    add({
      title: 'Done',
      state: 'decided',
      decision: { outcome: 'approve', data: {}, at: new Date().toISOString(), by: 'bo', forWhom: [], comment: 'fine' },
      undoUntil: Date.now() + 60_000,
    });
    hub.stories.set(requestId, story);
    const page = await visit('/inbox?view=due', { theme });
    const found: string[] = [];
    const look = async (where: string) => {
      found.push(...(await axe(page)).map((finding) => `${where}: ${finding}`));
      await page.setViewportSize({ width: 320, height: 800 });
      if (await page.evaluate<boolean>('document.documentElement.scrollWidth > innerWidth')) found.push(`${where} scrolls sideways`);
      await page.setViewportSize({ width: 1_280, height: 800 });
    };

    await page.getByRole('link', { name: 'Everything' }).waitFor();
    await page.getByRole('checkbox').first().check();
    await look('list');
    await page.getByRole('link', { name: 'Everything' }).click();
    await page.getByRole('button', { name: 'Approve', exact: true }).last().click();
    await page.getByText('to mend before').waitFor();
    await look('task');
    await page.keyboard.press('?');
    await page.getByRole('dialog').waitFor();
    await look('keys');
    await page.keyboard.press('Escape');
    await page.goto(`${hub.url}/inbox/${rich.id}?view=done`);
    await page.getByRole('link', { name: 'Done', exact: true }).last().waitFor();
    await look('done');
    await page.goto(`${hub.url}/requests/${requestId}`);
    await page.getByText('asked five banks').waitFor();
    await look('request');
    expect(await page.getByRole('row').nth(1).textContent()).toContain('bank-e');
    await page.goto(`${hub.url}/inbox/away`);
    await page.getByLabel('Substitute').waitFor();
    await look('away');
    await page.context().clearCookies();
    await page.goto(`${hub.url}/inbox`);
    await page.getByLabel('Password').waitFor();
    await look('sign-in');
    expect(found).toEqual([]);
  });

  it('lets the users of a demo in by a button', async () => {
    const page = await visit('/inbox');
    await page.context().clearCookies();
    await page.reload();
    await page.getByRole('button', { name: 'ana / demo' }).click();
    await page.getByText('Nothing waits here').waitFor();
    await page.getByText('Ana Weber').click();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Password').waitFor();
    await eventually(() => expect(hub.streams()).toBe(0));
  });

  it('has its theme before anything is painted, and keeps the chosen one', async () => {
    const page = await visit('/inbox', { theme: 'light' });
    await page.getByRole('button', { name: 'Theme: auto' }).click();
    await page.getByRole('button', { name: 'Theme: light' }).click();
    // The page's own code never comes: what is seen now is what is seen first.
    await page.route('**/assets/*.js', (route) => route.abort());
    await page.reload();
    expect(await page.evaluate('getComputedStyle(document.body).backgroundColor')).toBe('rgb(20, 23, 28)');
  });

  it('shows the list for at most 150 kB, before the code of forms is loaded', async () => {
    add();
    const page = await visit('/inbox?view=groups');
    await page.getByRole('link', { name: 'Approve loan' }).waitFor();
    const loaded = await page.evaluate<readonly (readonly [string, number])[]>(
      'performance.getEntriesByType("navigation").concat(performance.getEntriesByType("resource")).filter(({ name }) => !/tasks|session/.test(name)).map(({ name, encodedBodySize }) => [name.replace(/.*inbox/, ""), encodedBodySize])',
    );
    const sum = loaded.reduce((bytes, [, size]) => bytes + size, 0);
    expect(sum).toBeGreaterThan(30_000);
    expect(sum).toBeLessThan(150_000);
    expect(loaded.map(([name]) => name).filter((name) => name.includes('task-'))).toEqual([]);
  });
});
