/** An end with an inbox: makes tasks, and does over HTTP what people do with them, noting how long each takes. */
import { anonymous } from '../broker/access.js';
import { newId } from '../broker/envelope.js';
import { nextOf, taskIn, taskKind } from '../broker/tasks/parked.js';
import type { Summary } from '../broker/tasks/view.js';
import { decode, encode, isUndecodable } from '../broker/wire.js';
import type { End } from './ends.js';
import { decider, openOurs, teams, type OurSettings } from './ours.js';
import { percentile } from './statistics.js';

export interface Times {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly most: number;
}

const inFlight = 200;

export async function inboxEnd(settings: OurSettings): Promise<End> {
  const { hub, ports, url = '', close } = await openOurs({ ...settings, tasks: true, both: true, http: true });
  const signedIn = await fetch(`${url}/session`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name: decider.name, password: decider.demoPassword }),
  });
  const cookie = signedIn.headers.get('set-cookie')?.split(';')[0] ?? '';

  async function call<T>(method: string, path: string, body?: object): Promise<T> {
    const answer = await fetch(url + path, {
      method,
      headers: { cookie, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as T;
  }

  const page = (query = '') => call<{ readonly tasks: readonly Summary[]; readonly total: number }>('GET', `/tasks?view=groups${query}`);

  /** One task as requests make them, and copies of it, straight into the store: the inbox is what is measured. */
  async function fill(count: number): Promise<void> {
    const body = Buffer.from(JSON.stringify({ n: 0 }));
    await hub.gateway.send({ flow: 'approve', principal: anonymous, body, contentType: 'application/json', deadlineMs: 86_000_000 });
    const id = await eventually(async () => (await page('&limit=1')).tasks[0]?.id);
    const first = (await ports.store.dossier(taskKind, id))!;
    const envelope = decode(first.message);
    if (isUndecodable(envelope)) throw new Error(envelope.undecodable);
    let next = 1;
    const one = async () => {
      while (next < count) {
        const [n, copy] = [next++, newId()];
        const task = { ...taskIn(first), title: `Approve order ${n}`, candidates: { users: [], groups: [teams[n % teams.length]!] } };
        const { data, index = {} } = nextOf(copy, task);
        const dossier = { ...first, id: copy, requestId: copy, data, index, message: encode({ ...envelope, id: copy, requestId: copy }) };
        await ports.store.keep(dossier);
        await ports.store.told(dossier, 86_000_000);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, one));
    await eventually(async () => ((await page('&limit=1')).total >= count ? true : undefined));
  }

  async function timed(count: number, atOnce: number, run: (index: number) => Promise<unknown>): Promise<Times> {
    const took: number[] = [];
    let next = 0;
    const one = async () => {
      while (next < count) {
        const index = next++;
        const began = performance.now();
        await run(index);
        took.push(performance.now() - began);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, one));
    return timesOf(took);
  }

  async function claims(count: number): Promise<Times> {
    const ids: string[] = [];
    for (let cursor = ''; ids.length < count;) {
      const { tasks, next } = await call<{ readonly tasks: readonly Summary[]; readonly next: string }>(
        'GET',
        `/tasks?view=groups&limit=200${cursor}`,
      );
      ids.push(...tasks.map(({ id }) => id));
      cursor = `&cursor=${next}`;
    }
    return timed(count, 4, (index) => call('POST', `/tasks/${ids[index]}/claim`, {}));
  }

  /** From the moment at which a decision is sent until whoever holds the line has the answer. */
  async function decisions(count: number): Promise<Times> {
    const took: number[] = [];
    for (let n = 0; n < count; n++) {
      const body = Buffer.from(JSON.stringify({ n }));
      let freedAt = 0;
      // Due before all others: it is the first in the list.
      const freed = hub.gateway
        .request({ flow: 'approve', principal: anonymous, body, contentType: 'application/json', deadlineMs: 50_000 })
        .then(() => (freedAt = performance.now()));
      const id = await first(n);
      await call('POST', `/tasks/${id}/claim`, {});
      const began = performance.now();
      await call('POST', `/tasks/${id}/decide`, { outcome: 'approve', data: {} });
      await freed;
      took.push(freedAt - began);
    }
    return timesOf(took);
  }

  async function first(n: number): Promise<string> {
    for (;;) {
      const [task] = (await page('&limit=1')).tasks;
      if (task?.title === `Approve order ${n}` && task.holdingUntil !== null) return task.id;
    }
  }

  return {
    async tell(what, { count = 0 }) {
      if (what === 'fill') return fill(Number(count));
      if (what === 'pages') return timed(Number(count), 1, () => page());
      if (what === 'claims') return claims(Number(count));
      return decisions(Number(count));
    },
    close,
  };
}

async function eventually<T>(look: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function timesOf(took: readonly number[]): Times {
  const sorted = took.toSorted((a, b) => a - b);
  return { p50Ms: percentile(sorted, 0.5), p99Ms: percentile(sorted, 0.99), most: sorted.at(-1) ?? NaN };
}
