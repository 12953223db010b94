/**
 * Those who ask in a simulation: clients of the gateway (held, told to come back, cut off when their hub dies), foreign
 * requestors and foreign workers, who know nothing but the broker. They write down what they see.
 */
import { anonymous } from '../../broker/access.js';
import { pause } from '../../broker/clock.js';
import { isFault } from '../../broker/fault.js';
import type { Answer, Ask, Gateway } from '../../broker/gateway.js';
import { PublishError, type Delivery } from '../../broker/transport.js';
import type { History, Operation } from '../fault/history.js';
import { textOf, type Told } from './judge.js';
import type { Machine } from './machine.js';
import { foreignSteps, type Body, type Deeds } from './project.js';
import type { World } from './world.js';

/** A hub that clients can reach now. */
export interface Open {
  readonly machine: Machine;
  readonly gateway: Gateway;
}

export interface Question {
  readonly token: string;
  readonly flow: string;
  readonly acts: Body['acts'];
  readonly atMs: number;
  readonly waitMs: number;
  readonly deadlineMs: number;
  /** `Idempotency-Key`, and how many clients ask under it; the last of them with another body, if `odd`. */
  readonly key?: string;
  readonly askers: number;
  readonly odd: boolean;
  /** Once it is accepted, it is cancelled after so long. */
  readonly cancelAfterMs?: number;
  readonly hangUpAfterMs?: number;
  /** Through the gateway, or a message of a foreign program. */
  readonly by: 'client' | 'foreign';
  readonly oneWay: boolean;
}

export interface ClientsOptions {
  readonly world: World;
  readonly history: History;
  readonly told: Told;
  readonly deeds: Deeds;
  readonly hubs: () => readonly Open[];
  /** Nothing is waited for any longer than that, since the beginning. */
  readonly patienceMs: number;
}

const restMs = 200;

export function openClients({ world, history, told, deeds, hubs, patienceMs }: ClientsOptions) {
  const { clock, scheduler, names } = world;
  const { random } = scheduler;
  const hasPatience = () => scheduler.elapsedMs() < patienceMs;
  const rest = () => pause(clock, restMs + random.next() * restMs);
  /** Requests whose outcome everybody may read afterwards, if it is kept at all, and their tokens. */
  const known = new Map<string, { readonly token: string; readonly isKept: boolean }>();

  let readers = 0;

  async function someHub(): Promise<Open> {
    for (;;) {
      const open = hubs();
      if (open.length > 0) return random.pick(open);
      await rest();
    }
  }

  type Line<T> = { readonly said: T } | { readonly failed: unknown } | { readonly broke: true };

  /** What comes back over a line that breaks when the process dies. */
  const over = <T>({ machine }: Open, work: Promise<T>): Promise<Line<T>> =>
    new Promise((resolve) => {
      machine.onDeath(() => resolve({ broke: true }));
      work.then(
        (said) => resolve({ said }),
        (failed: unknown) => resolve({ failed }),
      );
    });

  /** Journal first, then show. */
  function outcome(operation: Operation, id: string, kind: string, body: Buffer, isKept: boolean): void {
    operation.outcome(id, kind, body);
    world.trace?.('client', `reads ${kind} of ${id}`);
    if (isKept && world.journal.told.get(id)?.has(textOf(kind, body)) !== true)
      told.wrong.push(`${kind} of ${id} was shown before the journal had it`);
  }

  /** True when the story is over. */
  async function hear(line: Line<Answer>, operation: Operation, question: Question, deadline: number): Promise<boolean> {
    if ('broke' in line) return (operation.unknown('the line broke'), question.key === undefined);
    if ('failed' in line) return refused(line.failed, operation, question);
    const { said } = line;
    operation.accepted(said.id);
    known.set(said.id, { token: question.token, isKept: said.kind === 'accepted' || question.key !== undefined });
    world.trace?.('client', `${question.token} is ${said.id}: ${said.kind}`);
    // Asked on the line, it may get its record while the journal is away; what is to be answered later has one from the start.
    const hasRecord = said.kind === 'accepted' && (question.key !== undefined || question.waitMs === 0);
    if (hasRecord && !world.journal.recorded.has(said.id)) told.wrong.push(`${said.id} was promised an answer before the broker had it`);
    if (said.kind === 'outcome') outcome(operation, said.id, said.outcome.kind, said.outcome.body, question.flow !== 'quick');
    else await Promise.all([collect(said.id, operation, deadline), watch(said.id), cancel(said.id, question)]);
    return true;
  }

  function refused(failed: unknown, operation: Operation, { token, key }: Question): boolean {
    const reason = isFault(failed) ? `${failed.code} ${failed.reason ?? ''}` : String(failed);
    if (isFault(failed) && failed.code === 'unavailable') {
      operation[failed.reason === 'unknown' ? 'unknown' : 'refused'](reason);
      return key === undefined || !hasPatience();
    }
    operation.refused(reason);
    if (!isFault(failed) || failed.reason !== 'idempotency-mismatch') told.wrong.push(`${token} was answered ${reason}`);
    return true;
  }

  async function askOnce(question: Question, key: { readonly key?: string; readonly deadline: number }): Promise<boolean> {
    const hub = await someHub();
    const hangUp = new AbortController();
    const ask: Ask = {
      flow: question.flow,
      principal: anonymous,
      body: Buffer.from(JSON.stringify({ token: question.token, acts: question.acts } satisfies Body)),
      contentType: 'application/json',
      waitMs: question.waitMs,
      deadlineMs: question.deadlineMs,
      ...(question.key === undefined ? {} : { idempotencyKey: question.key }),
      signal: hangUp.signal,
    };
    world.trace?.('client', `asks ${hub.machine.name} for ${question.flow}: ${question.token}`);
    const operation = history.ask(question.token, key);
    if (question.hangUpAfterMs === undefined) return hear(await over(hub, hub.gateway.request(ask)), operation, question, key.deadline);
    const line = over(hub, hub.gateway.request(ask));
    clock.after(question.hangUpAfterMs, () => hangUp.abort());
    await pause(clock, question.hangUpAfterMs, hangUp.signal);
    // Nobody hears what is said now.
    await line;
    operation.unknown('hung up');
    return question.key === undefined;
  }

  async function story(question: Question, began: number): Promise<void> {
    // Of whoever asks first under the key.
    const deadline = began + question.deadlineMs;
    // A volatile request lives as long as its hub holds it, and no longer than that hub.
    const about = { ...(question.key === undefined ? {} : { key: question.key }), deadline: question.flow === 'quick' ? 0 : deadline };
    let current = question;
    while (!(await askOnce(current, about))) {
      const { hangUpAfterMs: _once, ...again } = current;
      current = again;
      await rest();
    }
  }

  async function collect(id: string, operation: Operation, deadline: number): Promise<void> {
    for (; ; await rest()) {
      const hub = await someHub();
      const line = await over(hub, hub.gateway.collect(id, anonymous, Math.max(0, Math.min(5_000, deadline - clock.now()))));
      if ('said' in line && line.said === undefined) told.states.push({ id, reader: ++readers, state: undefined });
      if ('said' in line && line.said?.kind === 'outcome')
        return outcome(operation, id, line.said.outcome.kind, line.said.outcome.body, true);
      if ('failed' in line && !(isFault(line.failed) && line.failed.code === 'unavailable'))
        told.wrong.push(`collecting ${id} was answered ${String(line.failed)}`);
      if (!hasPatience()) return;
    }
  }

  /** Looks now and then what has become of it. */
  async function watch(id: string): Promise<void> {
    const reader = ++readers;
    for (let looks = random.between(0, 4); looks > 0; looks--) {
      await pause(clock, random.between(1, 4_000));
      const hub = await someHub();
      const line = await over(hub, hub.gateway.status(id, anonymous));
      if ('said' in line) told.states.push({ id, reader, state: line.said?.state });
    }
  }

  async function cancel(id: string, { cancelAfterMs }: Question): Promise<void> {
    if (cancelAfterMs === undefined) return;
    await pause(clock, cancelAfterMs);
    const hub = await someHub();
    world.trace?.('client', `cancels ${id}`);
    const line = await over(hub, hub.gateway.cancel(id, anonymous));
    if ('said' in line && line.said === 'cancelled') told.cancelled.push({ id });
  }

  async function sendOneWay(question: Question): Promise<void> {
    for (let tries = 0; hasPatience(); tries++) {
      const hub = await someHub();
      const { token, flow, acts, key } = question;
      const line = await over(
        hub,
        hub.gateway.send({
          flow,
          principal: anonymous,
          body: Buffer.from(JSON.stringify({ token, acts })),
          contentType: 'application/json',
          ...(key === undefined ? {} : { idempotencyKey: key }),
        }),
      );
      if ('said' in line) return void told.sent.push({ id: line.said, token });
      if (key === undefined || tries > 20) return;
      await rest();
    }
  }

  /** Publishes until the broker has it; a program that is not ours does not lose its connection in these stories. */
  async function publish(
    queue: string,
    exchange: string,
    message: Omit<Delivery, 'exchange' | 'routingKey' | 'redelivered' | 'deliveries'>,
  ) {
    for (;;) {
      await pause(clock, world.latencyMs());
      if (world.away.broker || world.away.blocked) {
        await rest();
        continue;
      }
      try {
        await world.arrive({ exchange, routingKey: queue }, message);
        if (!random.chance(world.weather.lostAfter)) return;
      } catch (error) {
        if (!(error instanceof PublishError)) throw error;
        if (error.failure === 'unroutable') return;
      }
      await rest();
    }
  }

  let foreigners = 0;

  /** Any program: a body to the exchange of requests, and a queue of its own for the answer. */
  async function foreignStory(question: Question): Promise<void> {
    const queue = `foreigner.${++foreigners}`;
    const { token, flow, acts } = question;
    await world.wire.declare({ exchanges: [], bindings: [], queues: [{ name: queue, type: 'quorum', about: 'a foreign requestor' }] });
    const operation = history.ask(token, { key: token, deadline: 0 });
    let hear: () => void = () => undefined;
    const heard = new Promise<void>((resolve) => (hear = resolve));
    await world.wire.consume(queue, { prefetch: 10, tag: queue }, async (delivery) => {
      const id = String(delivery.headers['hub-request-id']);
      if (delivery.correlationId !== `its own ${token}`)
        told.wrong.push(`${token} was answered with correlation id ${delivery.correlationId}`);
      const state = String(delivery.headers['hub-state']);
      const kind = { replied: 'reply', faulted: 'fault', 'timed-out': 'timeout', cancelled: 'cancelled' }[state] ?? state;
      operation.accepted(id);
      known.set(id, { token, isKept: true });
      outcome(operation, id, kind, delivery.body, true);
      hear();
    });
    await publish(flow, names.requests, {
      body: Buffer.from(JSON.stringify({ token, acts })),
      contentType: 'application/json',
      replyTo: queue,
      correlationId: `its own ${token}`,
      messageId: token,
      headers: {},
    });
    await heard;
  }

  async function foreignNote({ token, flow, acts }: Question): Promise<void> {
    await publish(flow, names.requests, {
      body: Buffer.from(JSON.stringify({ token, acts })),
      contentType: 'application/json',
      messageId: token,
      headers: {},
    });
  }

  /** A worker that is not ours: knows its queue, `reply_to` and `correlation_id`. */
  async function work(step: string, machine: Machine): Promise<void> {
    await machine.ports.transport.consume(names.workQueue(step), { prefetch: 5, tag: step }, async (delivery) => {
      const { token, acts } = JSON.parse(delivery.body.toString()) as Body;
      const id = String(delivery.headers['hub-request-id'] ?? delivery.correlationId);
      const act = acts[step] ?? { does: 'work', afterMs: 0 };
      deeds.note(machine, 'start', step, token, id, 1);
      if (act.does === 'hang') return;
      if (act.does === 'work' && act.afterMs > 0) await pause(machine.clock, act.afterMs);
      const said = step === 'oracle' ? { token, for: id, mark: deeds.mark() } : { token, acts };
      deeds.note(machine, 'end', step, token, id, 1, said);
      if (delivery.replyTo === undefined) return;
      const answer = {
        body: Buffer.from(act.does === 'refuse' ? 'no' : JSON.stringify(said)),
        contentType: 'application/json',
        ...(act.does === 'refuse' ? { type: 'fault' } : {}),
        ...(delivery.correlationId === undefined ? {} : { correlationId: delivery.correlationId }),
      };
      await machine.ports.transport.publish({ exchange: '', routingKey: delivery.replyTo }, answer);
      // Some programs say everything twice.
      if (act.does === 'fail') await machine.ports.transport.publish({ exchange: '', routingKey: delivery.replyTo }, answer);
    });
  }

  return {
    /** Requests that somebody was told of. */
    known: (): Iterable<string> => known.keys(),
    async serveForeignSteps(machine: Machine): Promise<void> {
      for (const step of foreignSteps) await work(step, machine);
    },
    /** Resolves when the question's story is over. */
    async live(question: Question): Promise<void> {
      await pause(clock, question.atMs);
      if (question.by === 'foreign') return question.oneWay ? foreignNote(question) : foreignStory(question);
      if (question.oneWay) return sendOneWay(question);
      const began = clock.now();
      await Promise.all(
        Array.from({ length: question.askers }, async (_, asker) => {
          await pause(clock, asker === 0 ? 0 : random.between(0, 3_000));
          const isOdd = question.odd && asker === question.askers - 1 && asker > 0;
          return story(isOdd ? { ...question, token: `${question.token}-odd` } : question, began);
        }),
      );
    },
    /** Everybody reads every outcome that is kept, once more. */
    async readAgain(excused: ReadonlySet<string>): Promise<void> {
      for (const [id, { token, isKept }] of known)
        if (!excused.has(id))
          for (const hub of hubs()) {
            const line = await over(hub, hub.gateway.collect(id, anonymous, 0));
            if ('said' in line && line.said?.kind === 'outcome') {
              const operation = history.ask(token, { key: `read again ${id}` });
              outcome(operation, id, line.said.outcome.kind, line.said.outcome.body, true);
            } else if ('said' in line && (isKept || line.said !== undefined))
              told.wrong.push(`${id} has no outcome at rest: ${line.said?.kind ?? 'not known'}`);
            else if (!('said' in line)) told.wrong.push(`${id} cannot be read at rest`);
          }
    },
  };
}
