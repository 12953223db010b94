/** Jobs: on memory and on the real services. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { resolve } from 'node:path';
import { anonymous } from '../../broker/access.js';
import { testClock } from '../../broker/clock.js';
import { Fault } from '../../broker/fault.js';
import { split, worker, type Step } from '../../broker/step.js';
import type { Dossier, RequestEvent } from '../../broker/store.js';
import { aggregator } from '../../workers/aggregator.js';
import { interruptibleOf } from '../../workers/job-rules.js';
import { job, type JobContext, type JobOptions } from '../../workers/job.js';
import { eventually } from '../support/eventually.js';
import { memoryHub, realHub, type TestHub, type TestHubOptions } from '../support/hub.js';

const hubs = [
  ['on memory', memoryHub],
  ['on RabbitMQ and Redis', realHub],
] as const;

describe.each(hubs)('a job %s', (_name, openHub) => {
  let hub: TestHub;
  afterEach(() => hub?.close());

  const open = async (options: TestHubOptions) => (hub = await openHub(options));
  const openFor = (handle: JobOptions<never, never>['handle'], more: Partial<JobOptions<never, never>> = {}) =>
    open({
      flows: { report: ['compute'] },
      steps: [job<never, never>({ name: 'compute', retry: ['100ms', '100ms'], grace: '300ms', handle, ...more })],
    });
  const ask = async (body: unknown) => (await hub.ask('report', body, { waitMs: 0 })).id;
  const status = (id: string) => hub.gateway.status(id, anonymous);
  const collect = (id: string) => hub.gateway.collect(id, anonymous, 10_000);
  const textOf = async (id: string) => {
    const answer = await collect(id);
    return answer?.kind === 'outcome' ? answer.outcome.body.toString() : 'no outcome';
  };
  const dossierOf = async (id: string): Promise<Dossier> => {
    const [listed] = (await hub.ports.store.dossiers(`of:${id}`, { limit: 1 })).found;
    const dossier = listed && (await hub.ports.store.dossier('job', listed.id));
    if (dossier === undefined) throw new Error('no dossier');
    return dossier;
  };
  const happened = (event: string) => hub.events.filter((one) => one.event === event).map(({ fields }) => fields);

  /** A handler that goes on until it is let go. */
  function gate() {
    let open: () => void = () => undefined;
    const opened = new Promise<void>((resolve) => (open = resolve));
    return { open: () => open(), opened };
  }

  it('goes on with what its handler returned, once, and leaves nothing open', async () => {
    const ran: unknown[] = [];
    const note = worker({ name: 'note', handle: (body: unknown) => (ran.push(body), { noted: body }) });
    await open({
      flows: { report: ['compute', 'note'] },
      steps: [job({ name: 'compute', handle: ({ n }: { n: number }) => ({ twice: 2 * n }) }), note],
    });
    expect(await hub.reply('report', { n: 21 })).toEqual({ noted: { twice: 42 } });
    const { id } = await hub.ask('report', { n: 1 }, { waitMs: 0 });
    expect(await textOf(id)).toBe('{"noted":{"twice":2}}');
    expect(ran).toHaveLength(2);
    await eventually(async () => expect((await hub.ports.store.dossiers(`of:${id}`, { limit: 9 })).found).toEqual([]));
  });

  it('holds no delivery meanwhile, and says where it is', async () => {
    const { open: finish, opened } = gate();
    await openFor(() => opened);
    const id = await ask(1);
    await eventually(async () => expect(await status(id)).toMatchObject({ state: 'running', step: 'compute', attempt: 1 }));
    expect(await hub.ports.transport.inspect(hub.hub.names.workQueue('compute'))).toMatchObject({ ready: 0 });
    await eventually(async () => expect((await dossierOf(id)).data).toMatchObject({ state: 'running', token: 1 }));
    finish();
    expect(await textOf(id)).toBe('null');
  });

  it('that returns a split, a route, a text or bytes does with it what a worker does', async () => {
    const part = worker({ name: 'part', handle: (n: number) => n * 10 });
    const all = aggregator<number>({ name: 'all', timeout: '10s', combine: (answers) => answers.map(({ body }) => body) });
    const spread = job({ name: 'spread', handle: (ns: number[]) => split(ns.map((body) => ({ body }))) });
    const text = job({ name: 'text', handle: () => Buffer.from('bytes') });
    await open({ flows: { many: ['spread', 'part', 'all'], text: ['text'] }, steps: [spread, part, all, text] });
    expect(await hub.reply('many', [1, 2, 3])).toEqual([10, 20, 30]);
    const answer = await hub.ask('text', 1);
    expect(answer).toMatchObject({ outcome: { contentType: 'application/octet-stream', body: Buffer.from('bytes') } });
  });

  it('in a group is a part like any other', async () => {
    const spread = worker({
      name: 'spread',
      handle: () =>
        split([
          { body: 1, steps: ['compute'] },
          { body: 2, steps: ['compute'] },
        ]),
    });
    const all = aggregator<number>({ name: 'all', timeout: '20s', combine: (answers) => answers.map(({ body }) => body) });
    await open({ flows: { many: ['spread', 'all'] }, steps: [spread, all, job({ name: 'compute', handle: (n: number) => n * 10 })] });
    expect(await hub.reply('many', 1)).toEqual([10, 20]);
  });

  it('whose group is complete without it is told so', async () => {
    let aborted: unknown;
    const { open: begun, opened } = gate();
    const slow = job({
      name: 'slow',
      handle: (_body: unknown, _envelope, { signal }) =>
        new Promise((done) => {
          signal.addEventListener('abort', () => done((aborted = signal.reason)));
          begun();
        }),
    });
    const spread = worker({
      name: 'spread',
      handle: () =>
        split([
          { body: 1, steps: ['quick'] },
          { body: 2, steps: ['slow'] },
        ]),
    });
    const first = aggregator({ name: 'first', atLeast: 1, timeout: '20s' });
    await open({
      flows: { race: ['spread', 'first'] },
      steps: [spread, first, slow, worker({ name: 'quick', handle: (n: number) => opened.then(() => n) })],
    });
    await hub.reply('race', 1);
    await eventually(() => expect(String(aborted)).toContain('cancelled'));
  });

  it('that throws a Fault ends the request', async () => {
    await openFor(() => {
      throw new Fault('rejected', 'too old', { reason: 'age' });
    });
    const answer = await hub.ask('report', 1);
    expect(answer).toMatchObject({ outcome: { kind: 'fault' } });
    expect(await textOf(answer.id)).toBe('{"code":"rejected","message":"too old","step":"compute","reason":"age"}');
    await eventually(async () => expect((await hub.ports.store.dossiers(`of:${answer.id}`, { limit: 9 })).found).toEqual([]));
  });

  it('that fails is tried again after a pause, from its checkpoint', async () => {
    const seen: [number, unknown][] = [];
    await openFor(async (_body: unknown, { attempt }: { attempt: number }, { state, checkpoint }: JobContext<number>) => {
      seen.push([attempt, state]);
      if (attempt < 3) {
        await checkpoint(attempt * 10);
        throw new Error('not yet');
      }
      return state;
    });
    const id = await ask(1);
    expect(await textOf(id)).toBe('20');
    expect(seen).toEqual([
      [1, undefined],
      [2, 10],
      [3, 20],
    ]);
    expect(happened('job.retry')).toHaveLength(2);
  });

  it('that fails for good leaves the message that came to it among the dead letters, and a fault', async () => {
    let attempts = 0;
    await openFor(() => {
      attempts++;
      throw new Error('never');
    });
    const body = { n: Math.random() };
    const id = await ask(body);
    expect(await textOf(id)).toBe('{"code":"internal","message":"never","step":"compute"}');
    expect(attempts).toBe(3);
    const letters: { body: string; why: unknown; type: unknown }[] = [];
    const consumer = await hub.ports.transport.consume(
      hub.hub.names.deadQueue('compute'),
      { prefetch: 10, tag: 'test' },
      async (letter) => {
        letters.push({ body: letter.body.toString(), why: letter.headers['hub-error'], type: letter.type });
      },
    );
    await eventually(() => expect(letters).toEqual([{ body: JSON.stringify(body), why: 'never', type: 'request' }]));
    await consumer.close();
  });

  it('that is done rings its step once, also when RabbitMQ confirms it after others have looked', async () => {
    await openFor(() => 'done');
    const { store, transport } = hub.ports;
    const { wakeable, publish } = { wakeable: store.wakeable.bind(store), publish: transport.publish.bind(transport) };
    let looks = 0;
    const rung: string[] = [];
    store.wakeable = (limit) => (looks++, wakeable(limit));
    transport.publish = async (to, message, options) => {
      const dossier = message.headers?.['hub-dossier'];
      if (to.exchange === hub.hub.names.work && dossier !== undefined) {
        const until = looks + 3;
        if (rung.push(String(dossier)) === 1) await eventually(() => expect(looks).toBeGreaterThanOrEqual(until));
      }
      return publish(to, message, options);
    };
    expect(await textOf(await ask(1))).toBe('done');
    expect(rung).toEqual([expect.stringMatching(/^job\//)]);
  });

  it('that is done rings its step once, also when who keeps it hears late that the journal has it', async () => {
    await openFor(() => 'done');
    const { store, transport } = hub.ports;
    const { wakeable, told, publish } = {
      wakeable: store.wakeable.bind(store),
      told: store.told.bind(store),
      publish: transport.publish.bind(transport),
    };
    let looks = 0;
    const rung: string[] = [];
    store.wakeable = (limit) => (looks++, wakeable(limit));
    store.told = async (dossier, againMs) => {
      await told(dossier, againMs);
      const until = looks + 3;
      await eventually(() => expect(looks).toBeGreaterThanOrEqual(until));
    };
    transport.publish = (to, message, options) => {
      if (to.exchange === hub.hub.names.work && message.headers?.['hub-dossier'] !== undefined)
        rung.push(String(message.headers['hub-dossier']));
      return publish(to, message, options);
    };
    expect(await textOf(await ask(1))).toBe('done');
    // It has looked whether it is to ring.
    const until = looks + 3;
    await eventually(() => expect(looks).toBeGreaterThanOrEqual(until));
    expect(rung).toEqual([expect.stringMatching(/^job\//)]);
  });

  it('that takes longer than it may is told to end, and tried again', async () => {
    const reasons: string[] = [];
    await openFor(
      (_body: unknown, { attempt }: { attempt: number }, { signal }: JobContext) =>
        attempt === 2
          ? 'in time'
          : new Promise((_, reject) =>
              signal.addEventListener('abort', () => (reasons.push(String(signal.reason)), reject(new Error('ended')))),
            ),
      { timeout: '200ms' },
    );
    expect(await textOf(await ask(1))).toBe('in time');
    expect(reasons).toEqual(['Error: no result within 200 ms']);
  });

  it('is told of a cancel at any process, and what it came to is dropped', async () => {
    const { open: finish, opened } = gate();
    let aborted: unknown;
    await openFor((_body: unknown, _envelope: unknown, { signal }: JobContext) => {
      signal.addEventListener('abort', () => void (aborted = signal.reason));
      return opened;
    });
    const other = await hub.another({ idle: true });
    const id = await ask(1);
    await eventually(() => expect(happened('job.began')).toHaveLength(1));
    expect(await other.gateway.cancel(id, anonymous)).toBe('cancelled');
    await eventually(() => expect(String(aborted)).toContain('cancelled'), { withinMs: 1_000 });
    // It goes on all the same.
    await eventually(() => expect(happened('job.ignores-cancel')).toMatchObject([{ step: 'compute', requestId: id, why: 'withdrawn' }]));
    finish();
    await eventually(() => expect(happened('job.dropped')).toMatchObject([{ why: 'withdrawn' }, { why: 'late', how: 'returned' }]));
    expect(await status(id)).toMatchObject({ state: 'cancelled' });
    expect(happened('job.done')).toEqual([]);
  });

  it('is told of the end of its request’s time', async () => {
    let aborted: unknown;
    await openFor(
      (_body: unknown, _envelope: unknown, { signal }: JobContext) =>
        new Promise((done) => signal.addEventListener('abort', () => done((aborted = signal.reason)))),
    );
    const { id } = await hub.ask('report', 1, { waitMs: 0, deadlineMs: 1_000 });
    await eventually(async () => expect(await status(id)).toMatchObject({ state: 'timed-out' }));
    await eventually(() => expect(aborted).toBeDefined());
    await eventually(() => expect(happened('job.dropped')).toMatchObject([{ why: 'withdrawn' }]));
  });

  it('that was cancelled before it began does not begin', async () => {
    const { open: finish, opened } = gate();
    const ran: unknown[] = [];
    await openFor(async (body: unknown) => void (ran.push(body), await opened), { concurrency: 1 });
    const first = await ask('first');
    await eventually(() => expect(ran).toEqual(['first']));
    const second = await ask('second');
    await eventually(() => dossierOf(second));
    await hub.gateway.cancel(second, anonymous);
    finish();
    await collect(first);
    const third = await ask('third');
    await collect(third);
    expect(ran).toEqual(['first', 'third']);
  });

  it('tells whoever watches how far it is, within a second, at most 4 times a second, and how long it takes still', async () => {
    const { open: finish, opened } = gate();
    await openFor(async (_body: unknown, _envelope: unknown, { progress }: JobContext) => {
      for (let done = 0; done <= 50; done++) {
        progress({ done, total: 100, message: `part ${done}` });
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      await opened;
      progress({ percent: 99 });
      return 'done';
    });
    const id = await ask(1);
    const events: (RequestEvent & { seenAt: number })[] = [];
    const watching = new AbortController();
    const watched = hub.gateway.events(id, anonymous, 0, (event) => void events.push({ ...event, seenAt: Date.now() }), watching.signal);
    // The last one is told, though nothing follows it.
    await eventually(async () =>
      expect(await status(id)).toMatchObject({ progress: { percent: 50, done: 50, total: 100, message: 'part 50' } }),
    );
    const { progress } = (await status(id))!;
    expect(progress!.leftMs).toBeGreaterThan(500);
    finish();
    await watched;
    const told = events.filter(({ name }) => name === 'progress');
    const took = told.at(-1)!.at - told[0]!.at;
    expect(told.length).toBeGreaterThanOrEqual(3);
    expect(told.length).toBeLessThanOrEqual(took / 250 + 3);
    expect(told.at(-1)!.data).toMatchObject({ percent: 99 });
    expect(Math.max(...told.map(({ at, seenAt }) => seenAt - at))).toBeLessThan(1_000);
  });

  it('goes on at another process, from its checkpoint, when this one stops; the attempt does not count', async () => {
    const seen: [string, number, unknown][] = [];
    const compute = (name: string) =>
      job<unknown, number>({
        name: 'compute',
        grace: '300ms',
        async handle(_body, { attempt }, { state, checkpoint, signal }) {
          seen.push([name, attempt, state]);
          if (name === 'second') return state;
          await checkpoint(7);
          return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
        },
      });
    await open({ flows: { report: ['compute'] }, steps: [compute('second')], idle: true });
    const first = await hub.another({ steps: [compute('first')], idle: false });
    const id = await ask(1);
    await eventually(async () => expect((await dossierOf(id)).data).toMatchObject({ checkpoint: { state: 7 } }));
    await hub.another({ steps: [compute('second')], idle: false });
    const stoppedAt = Date.now();
    await first.close();
    expect(await textOf(id)).toBe('7');
    expect(Date.now() - stoppedAt).toBeLessThan(5_000);
    expect(seen).toEqual([
      ['first', 1, undefined],
      ['second', 1, 7],
    ]);
    expect(first.events.filter(({ event }) => event === 'job.given-back')).toHaveLength(1);
  });

  it('that another one has begun since cannot be finished, nor write a checkpoint', async () => {
    const { open: finish, opened } = gate();
    let refused: unknown;
    await openFor(async (_body: unknown, _envelope: unknown, { checkpoint, signal }: JobContext) => {
      await opened;
      refused = await checkpoint(1).catch((error: unknown) => error);
      expect(signal.aborted).toBe(true);
      return 'a result of before';
    });
    const id = await ask(1);
    await eventually(() => expect(happened('job.began')).toHaveLength(1));
    const dossier = await dossierOf(id);
    // What a process does that takes over.
    const taken = { ...dossier, version: dossier.version + 1, data: { ...(dossier.data as object), token: 2, by: 'another' } };
    expect(await hub.ports.store.keep(taken)).toBe('kept');
    finish();
    await eventually(() => expect(happened('job.dropped')).toMatchObject([{ why: 'superseded' }]));
    expect(String(refused)).toContain('another process has taken over');
    expect(await status(id)).toMatchObject({ state: 'running' });
  });

  describe('of a step that may be interrupted', () => {
    type Body = { readonly name: string; readonly steps?: number };
    let seen: string[];
    let gates: Record<string, ReturnType<typeof gate>>;
    beforeEach(() => {
      seen = [];
      gates = {};
    });
    const gateOf = (name: string) => (gates[name] ??= gate());
    /** Goes on until its gate is open or it is told to end; `steps`: so many checkpoints before that. */
    const compute = (more: Partial<JobOptions<Body, number>> = {}) =>
      job<Body, number>({
        name: 'compute',
        concurrency: 1,
        grace: '300ms',
        interruptible: true,
        async handle({ name, steps = 0 }, { attempt }, { signal, checkpoint, state }) {
          seen.push(`${name} ${attempt} ${state ?? '-'}`);
          if (state === undefined) for (let step = 1; step <= steps; step++) await checkpoint(step);
          await Promise.race([gateOf(name).opened, new Promise((resolve) => signal.addEventListener('abort', resolve))]);
          signal.throwIfAborted();
          return name;
        },
        ...more,
      });
    const openWith = (step: Step) => open({ flows: { report: { steps: [step.name], urgent: true } }, steps: [step] });
    const askFor = async (name: string, more: object = {}, urgent = false) =>
      (await hub.ask('report', { name, ...more }, { waitMs: 0, ...(urgent ? { priority: 9 } : {}) })).id;
    const begun = (...starts: string[]) => eventually(() => expect(seen).toEqual(starts));

    it('gives way to an urgent one when nobody is free, and goes on from its checkpoint before those that wait', async () => {
      await openWith(compute());
      const long = await askFor('long', { steps: 2 });
      await eventually(async () => expect((await dossierOf(long)).data).toMatchObject({ checkpoint: { state: 2 } }));
      const next = await askFor('next');
      const at = Date.now();
      const urgent = await askFor('urgent', {}, true);
      await begun('long 1 -', 'urgent 1 -');
      expect(Date.now() - at).toBeLessThan(3_000);
      expect(await status(long)).toMatchObject({
        state: 'waiting',
        step: 'compute',
        waitingOn: 'job compute, interrupted by an urgent request',
      });
      const story = await hub.gateway.story(long, { principal: anonymous.name });
      expect(story?.lines.map(({ text }) => text)).toContain('interrupted by an urgent request');
      gateOf('urgent').open();
      expect(await textOf(urgent)).toBe('urgent');
      await begun('long 1 -', 'urgent 1 -', 'long 1 2');
      gateOf('long').open();
      gateOf('next').open();
      expect([await textOf(long), await textOf(next)]).toEqual(['long', 'next']);
      expect(happened('job.interrupted')).toMatchObject([{ requestId: long, attempt: 1 }]);
      expect(happened('job.retry')).toEqual([]);
    });

    it('tells its handler why', async () => {
      let reason: unknown;
      await openWith(
        compute({
          async handle({ name }, _envelope, { signal }) {
            if (name === 'urgent' || reason !== undefined) return name;
            await new Promise((resolve) => signal.addEventListener('abort', resolve));
            throw (reason = signal.reason);
          },
        }),
      );
      const long = await askFor('long');
      await eventually(() => expect(happened('job.began')).toHaveLength(1));
      await askFor('urgent', {}, true);
      expect(await textOf(long)).toBe('long');
      expect(reason).toMatchObject({ code: 'unavailable', reason: 'interrupted', message: 'interrupted by an urgent request' });
    });

    it('goes on undisturbed while somebody is free, and while only others come that are not urgent', async () => {
      await openWith(compute({ concurrency: 2 }));
      await askFor('long');
      const urgent = await askFor('urgent', {}, true);
      await eventually(() => expect(seen.sort()).toEqual(['long 1 -', 'urgent 1 -']));
      const next = await askFor('next');
      gateOf('urgent').open();
      gateOf('next').open();
      await Promise.all([textOf(urgent), textOf(next)]);
      expect(happened('job.interrupted')).toEqual([]);
    });

    it('gives way at any process: one for one, the one that loses least', async () => {
      await openWith(compute());
      const other = await hub.another({ steps: [compute()], idle: false });
      const fresh = await askFor('first', { steps: 1 });
      await eventually(async () => expect((await dossierOf(fresh)).data).toMatchObject({ checkpoint: { state: 1 } }));
      await askFor('second', { steps: 1 });
      await begun('first 1 -', 'second 1 -');
      const urgent = await askFor('urgent', {}, true);
      await begun('first 1 -', 'second 1 -', 'urgent 1 -');
      gateOf('urgent').open();
      await textOf(urgent);
      await begun('first 1 -', 'second 1 -', 'urgent 1 -', 'second 1 1');
      expect([...hub.events, ...other.events].filter(({ event }) => event === 'job.interrupted')).toHaveLength(1);
    });

    it('is not interrupted again before it has written a checkpoint', async () => {
      const { open: write, opened: written } = gate();
      await openWith(
        compute({
          async handle({ name }, _envelope, { signal, checkpoint, state }) {
            seen.push(`${name} ${state ?? '-'}`);
            const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve));
            const first = await Promise.race([gateOf(name).opened, aborted, written.then(() => 'write')]);
            if (name === 'long' && first === 'write' && state === undefined) await checkpoint(1).then(() => aborted);
            signal.throwIfAborted();
            return name;
          },
        }),
      );
      const long = await askFor('long');
      await begun('long -');
      gateOf('urgent').open();
      await textOf(await askFor('urgent', {}, true));
      await begun('long -', 'urgent -', 'long -');
      const second = await askFor('urgent', {}, true);
      expect((await hub.ports.store.dossiers(interruptibleOf('compute'), { limit: 9 })).found).toEqual([]);
      await eventually(async () => expect(await status(second)).toMatchObject({ state: 'waiting', waitingOn: 'job compute' }));
      expect(seen).toEqual(['long -', 'urgent -', 'long -']);
      write();
      expect(await textOf(second)).toBe('urgent');
      gateOf('long').open();
      expect(await textOf(long)).toBe('long');
      expect(seen).toEqual(['long -', 'urgent -', 'long -', 'urgent -', 'long 1']);
    }, 30_000);

    it('whose handler does not care is reported, goes on afterwards, and what it comes to late is dropped', async () => {
      const { open: finish, opened } = gate();
      await openWith(
        compute({
          async handle({ name }) {
            seen.push(name);
            if (seen.length === 1) return opened.then(() => 'of before');
            return name;
          },
        }),
      );
      const long = await askFor('long');
      await begun('long');
      await askFor('urgent', {}, true);
      expect(await textOf(long)).toBe('long');
      expect(seen).toEqual(['long', 'urgent', 'long']);
      expect(happened('job.ignores-cancel')).toMatchObject([{ requestId: long, why: 'interrupted' }]);
      finish();
      await eventually(() => expect(happened('job.dropped')).toMatchObject([{ why: 'late' }]));
    });

    it('that comes to its result all the same has it', async () => {
      await openWith(
        compute({
          async handle({ name }, _envelope, { signal }) {
            seen.push(name);
            if (name === 'long') await new Promise((resolve) => signal.addEventListener('abort', resolve));
            return name;
          },
        }),
      );
      const long = await askFor('long');
      await begun('long');
      await askFor('urgent', {}, true);
      expect(await textOf(long)).toBe('long');
      await begun('long', 'urgent');
      expect(happened('job.interrupted')).toEqual([]);
    });

    it('may be cancelled while it waits for the urgent one', async () => {
      await openWith(compute());
      const long = await askFor('long');
      await begun('long 1 -');
      const urgent = await askFor('urgent', {}, true);
      await begun('long 1 -', 'urgent 1 -');
      expect(await hub.gateway.cancel(long, anonymous)).toBe('cancelled');
      gateOf('urgent').open();
      await textOf(urgent);
      gateOf('next').open();
      await textOf(await askFor('next'));
      expect(seen).toEqual(['long 1 -', 'urgent 1 -', 'next 1 -']);
    });

    it('gives way when the store was lost while it ran', async () => {
      await openWith(compute());
      const long = await askFor('long', { steps: 1 });
      await eventually(async () => expect((await dossierOf(long)).data).toMatchObject({ checkpoint: { state: 1 } }));
      await hub.lose();
      const urgent = await eventually(() => askFor('urgent', {}, true), { withinMs: 20_000 });
      gateOf('urgent').open();
      gateOf('long').open();
      await eventually(async () => expect([await textOf(urgent), await textOf(long)]).toEqual(['urgent', 'long']), {
        withinMs: 20_000,
      });
    }, 60_000);
  });

  it('outlives the store', async () => {
    const { open: finish, opened } = gate();
    let ran = 0;
    await openFor(async () => {
      ran++;
      await opened;
      return 'after all';
    });
    const id = await ask(1);
    await eventually(() => expect(ran).toBe(1));
    await hub.lose();
    finish();
    await eventually(async () => expect(await textOf(id)).toBe('after all'), { withinMs: 20_000 });
  });

  it('runs in a thread when it computes, where it says how far it is, keeps checkpoints, and is told of a cancel', async () => {
    const threads = (await import(resolve('test/support/computing.mjs'))) as Record<'spin' | 'deaf' | 'fails', ReturnType<typeof job>>;
    const file = resolve('test/support/computing.mjs');
    const { spin, deaf, fails } = threads;
    await open({
      flows: { spin: ['spin'], deaf: ['deaf'], fails: ['fails'] },
      steps: [spin.exported!(file, 'spin'), deaf.exported!(file, 'deaf'), fails.exported!(file, 'fails')],
    });
    const { id } = await hub.ask('spin', { ms: 400 }, { waitMs: 0 });
    await eventually(async () => expect((await status(id))?.progress?.percent).toBeGreaterThan(0));
    expect(JSON.parse(await textOf(id))).toMatchObject({ spun: 400, thread: expect.any(Number), state: null });
    const answer = await hub.ask('fails', 1);
    expect(answer).toMatchObject({ outcome: { kind: 'fault' } });

    // One that asks now and then hears of it, one that never does is ended.
    const endless = await hub.ask('spin', { ms: 60_000 }, { waitMs: 0 });
    await eventually(async () => expect((await status(endless.id))?.progress?.percent).toBeGreaterThan(0));
    const before = happened('job.dropped').length;
    await hub.gateway.cancel(endless.id, anonymous);
    await eventually(() => expect(happened('job.dropped')).toHaveLength(before + 1), { withinMs: 1_000 });
    expect(happened('job.ignores-cancel')).toEqual([]);
    const unheard = await hub.ask('deaf', 1, { waitMs: 0 });
    await eventually(async () => expect(await status(unheard.id)).toMatchObject({ progress: { message: 'deaf' } }));
    await hub.gateway.cancel(unheard.id, anonymous);
    await eventually(() => expect(happened('job.ignores-cancel')).toMatchObject([{ step: 'deaf' }]));
    await eventually(() => expect(happened('job.dropped')).toContainEqual(expect.objectContaining({ step: 'deaf', how: 'threw' })));
  });

  it('gives way in a thread, too', async () => {
    const file = resolve('test/support/computing.mjs');
    const { yielding } = (await import(file)) as Record<'yielding', ReturnType<typeof job>>;
    await open({
      flows: { yielding: { steps: ['yielding'], urgent: true } },
      steps: [yielding.exported!(file, 'yielding')],
    });
    const long = await hub.ask('yielding', { rounds: 60 }, { waitMs: 0 });
    await eventually(async () => expect((await status(long.id))?.progress?.percent).toBeGreaterThan(0));
    const urgent = await hub.ask('yielding', { rounds: 1 }, { priority: 9, waitMs: 20_000 });
    expect(urgent).toMatchObject({ outcome: { kind: 'reply' } });
    expect(await status(long.id)).not.toMatchObject({ state: 'replied' });
    await eventually(async () => expect((JSON.parse(await textOf(long.id)) as { from: number }).from).toBeGreaterThan(0), {
      withinMs: 30_000,
    });
    expect(happened('job.interrupted')).toHaveLength(1);
  }, 60_000);
});

describe('a job', () => {
  it('is not interruptible when it waits for a rate', () => {
    expect(() => job({ name: 'compute', interruptible: true, rateLimit: { max: 1, per: '1s' }, handle: () => 1 })).toThrow(
      /job compute is interruptible and has a rateLimit: .* Leave out one of them/,
    );
  });

  it('that computes must be exported, so that a thread can load it', async () => {
    const compute = job({ name: 'compute', cpu: true, handle: () => 1 });
    await expect(compute.serve!({} as never)).rejects.toThrow(/is no export of a file in workers/);
  });

  it('waits for its next attempt by a test clock', async () => {
    const clock = testClock();
    const attempts: number[] = [];
    const compute = job({
      name: 'compute',
      retry: ['2h'],
      handle(_body: unknown, { attempt }) {
        attempts.push(attempt);
        if (attempt === 1) throw new Error('not yet');
        return 'now';
      },
    });
    const hub = await memoryHub({
      clock,
      flows: { report: { steps: ['compute'], deadlineMs: 86_400_000, maxDeadlineMs: 86_400_000 } },
      steps: [compute],
    });
    const asked = hub.ask('report', 1, { waitMs: 0 });
    await clock.advance(1_000);
    const { id } = await asked;
    await clock.advance(3_600_000);
    expect(attempts).toEqual([1]);
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'waiting', waitingOn: 'retry 2 of 2 of compute in 7200 s' });
    await clock.advance(3_700_000);
    expect(attempts).toEqual([1, 2]);
    expect(await hub.gateway.status(id, anonymous)).toMatchObject({ state: 'replied' });
    await hub.close();
  });
});
