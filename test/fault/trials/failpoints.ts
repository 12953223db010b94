/**
 * Every failpoint of the hub: a process comes by there and dies, under the load that leads it there; it is started again, and everybody's
 * story ends well. The next start is at the same time the next failpoint's: one process dies of all of them, one after the other.
 */
import { failpointNames, type FailpointName } from '../../../broker/failpoint.js';
import { faultProxy } from '../../support/proxy.js';
import { rabbitmqUrl } from '../../support/hub.js';
import type { Question } from '../clients.js';
import { dice, mixed, oneOf } from '../mix.js';
import { inScenario, type Process, type Role, type Scenario } from '../processes.js';
import type { Requestors } from '../systems.js';
import { rowOf, unless, until, type Row, type Trial, type TrialContext } from '../trial.js';

interface Drill {
  readonly dies: Role;
  /** What leads there; default: some of everything. */
  readonly ask?: readonly Omit<Question, 'token'>[];
  /** By requestors on plain AMQP. */
  readonly amqp?: true;
  /** It takes a process that died somewhere else before. */
  readonly after?: FailpointName;
  /** The connections to the broker are cut while it publishes. */
  readonly cut?: true;
}

const keyed = { key: 'keyed' };
const plain = [{ flow: 'plain' }, { flow: 'plain', ...keyed }, { flow: 'plain', waitSeconds: 0 }] as const;
const silent = { flow: 'silent', deadlineSeconds: 2, waitSeconds: 0 } as const;
const detached = { flow: 'silent', deadlineSeconds: 3, waitSeconds: 1 } as const;
const twice = { flow: 'legacy.last', body: { again: true } } as const;
const cancelled = { flow: 'silent', cancel: true } as const;
const hub: Drill = { dies: 'hub', ask: plain };
const worker: Drill = { dies: 'worker' };
const scatter: Drill = { dies: 'worker', ask: [{ flow: 'scatter' }, { flow: 'scatter', ...keyed }] };
const timed: Drill = { dies: 'worker', ask: [{ flow: 'timed' }, { flow: 'timed', ...keyed }] };
const job: Drill = { dies: 'worker', ask: [{ flow: 'job' }, { flow: 'job', ...keyed }] };
const way: Drill = {
  dies: 'worker',
  ask: [
    { flow: 'job.way', waitSeconds: 0 },
    { flow: 'job.way', urgent: true, ...keyed },
  ],
};
const partial: Drill = { dies: 'hub', ask: [{ flow: 'partial' }, { flow: 'partial', ...keyed }] };
const quiet: Drill = { dies: 'worker', ask: [{ flow: 'quiet' }, { flow: 'quiet', ...keyed }] };

const amended: Drill = { dies: 'worker', ask: [{ flow: 'amended' }, { flow: 'amended', ...keyed }] };

const drills: Readonly<Record<FailpointName, Drill>> = {
  'accept.before-record': hub,
  'accept.after-record': hub,
  'accept.before-publish': hub,
  'accept.after-publish': hub,
  'accept.before-discard': { ...hub, cut: true },
  'accept.before-answer': hub,
  'accept.before-repeat': { dies: 'hub', amqp: true, after: 'accept.after-record' },
  'send.before-record': { dies: 'hub', ask: [{ flow: 'plain', oneWay: true, ...keyed }] },
  'send.before-done': { dies: 'hub', ask: [{ flow: 'plain', oneWay: true, ...keyed }] },
  'entrance.before-request': { dies: 'hub', amqp: true },
  'entrance.after-request': { dies: 'hub', amqp: true },
  'detach.before-record': { dies: 'hub', ask: [detached] },
  'detach.after-record': { dies: 'hub', ask: [detached] },
  'work.before-step': worker,
  'work.after-step': worker,
  'work.between-messages': scatter,
  'work.before-ack': worker,
  'retry.before-publish': { dies: 'worker', ask: [{ flow: 'flaky' }, { flow: 'flaky', ...keyed }] },
  'retry.after-publish': { dies: 'worker', ask: [{ flow: 'flaky' }, { flow: 'flaky', ...keyed }] },
  'dead.before-letter': { dies: 'worker', ask: [{ flow: 'failing' }] },
  'dead.after-letter': { dies: 'worker', ask: [{ flow: 'failing' }] },
  'split.before-group': scatter,
  'split.after-group': scatter,
  'gather.before-part': scatter,
  'gather.after-part': scatter,
  'gather.before-done': scatter,
  'gather.after-done': scatter,
  'park.before-publish': { dies: 'worker', ask: [{ flow: 'legacy' }, { flow: 'legacy', ...keyed }] },
  'continue.before-publish': { dies: 'hub', ask: [{ flow: 'legacy' }, { flow: 'legacy', ...keyed }] },
  'continue.after-publish': { dies: 'hub', ask: [{ flow: 'legacy' }, { flow: 'legacy', ...keyed }] },
  'later.before-publish': quiet,
  'later.after-publish': quiet,
  'dossier.before-keep': timed,
  'dossier.after-keep': timed,
  'dossier.after-journal': timed,
  'dossier.before-ring': { ...timed, dies: 'hub' },
  'dossier.after-ring': { ...timed, dies: 'hub' },
  'job.before-add': job,
  'job.before-finish': job,
  'job.after-finish': job,
  'job.before-again': { dies: 'worker', ask: [{ flow: 'job.flaky' }, { flow: 'job.flaky', ...keyed }] },
  'job.before-interrupt': way,
  'job.before-way': way,
  'reply.before-settle': hub,
  'reply.before-ack': hub,
  'cancel.before-settle': { dies: 'hub', ask: [cancelled] },
  'settle.before-store': hub,
  'settle.after-store': hub,
  'settle.before-journal': hub,
  'settle.after-journal': hub,
  'settle.after-show': hub,
  'settle.before-forward': { dies: 'hub', amqp: true },
  'settle.after-forward': { dies: 'hub', amqp: true },
  'settle.before-late': { dies: 'hub', ask: [twice, { ...twice, ...keyed }] },
  'settle.alone-before-journal': { dies: 'hub', ask: [twice, { flow: 'legacy.last' }] },
  'settle.alone-after-journal': { dies: 'hub', ask: [twice, { flow: 'legacy.last' }] },
  'late.before-part': amended,
  'late.after-part': amended,
  'amend.before-store': { ...amended, dies: 'hub' },
  'amend.before-journal': { ...amended, dies: 'hub' },
  'amend.after-journal': { ...amended, dies: 'hub' },
  'amend.after-show': { ...amended, dies: 'hub' },
  'sweep.before-ring': partial,
  'sweep.after-ring': partial,
  'sweep.before-timeout': { dies: 'hub', ask: [silent] },
  'sweep.after-timeout': { dies: 'hub', ask: [silent] },
  'sweep.before-finish': { dies: 'hub', ask: [cancelled], after: 'settle.after-store' },
  'sweep.after-finish': { dies: 'hub', ask: [cancelled], after: 'settle.after-store' },
};

/** How many clients lead a process to its failpoint. */
const clientsAtOnce = 6;

export const failpoints: Trial = {
  name: 'failpoint',
  sizes: ['normal', 'long'],
  async run(context) {
    // The quick size takes every fourth of them, others for other seeds.
    const meant = failpointNames.filter((_, n) => context.size !== 'quick' || n % 4 === context.seed % 4);
    const lanes = (['hub', 'worker'] as const).map((role) =>
      lane(
        role,
        meant.filter((name) => drills[name].dies === role),
        context,
      ),
    );
    return (await Promise.all(lanes)).flat();
  },
};

/** All failpoints of one kind of process. */
async function lane(role: Role, names: readonly FailpointName[], context: TrialContext): Promise<readonly Row[]> {
  const proxy = await faultProxy(rabbitmqUrl());
  try {
    return await inScenario(
      { via: proxy.url, about: { seed: context.seed, size: context.size, trial: `failpoints of a ${role}` } },
      async (scenario) => {
        const other = await (role === 'hub' ? scenario.worker() : scenario.hub('h1'));
        if (role === 'worker') scenario.front = [other];
        await scenario.legacy();
        const requestors = await scenario.requestors();
        const lead: Lead = { scenario, role, requestors, cut: proxy.cut, random: dice(context.seed), stories: [], downAt: Date.now() };
        const silent: FailpointName[] = [];
        for (const name of names) {
          const { after } = drills[name];
          for (const point of after === undefined ? [name] : [after, name]) {
            if (!(await dieAt(lead, point, name))) silent.push(name);
          }
        }
        await start(lead, undefined);
        await Promise.all(lead.stories);
        const violations = await scenario.atRest({ withinMs: 80_000 });
        return names
          .map((name) => {
            const about = violations.filter(({ sentence }) => sentence.includes(`${name}-`));
            const its = scenario.history.seen.filter((one) => one.what === 'ask' && one.token.startsWith(`${name}-`));
            const row = rowOf(
              `failpoint ${name}`,
              { history: { ...scenario.history, seen: its } },
              [...about, ...unless(!silent.includes(name), `nobody came by ${name}`)],
              { kills: 1, say: context.say },
            );
            return row;
          })
          .concat(
            rowOf(
              `failpoints of a ${role}, all else`,
              { history: { ...scenario.history, seen: [] } },
              violations.filter(({ sentence }) => !names.some((name) => sentence.includes(`${name}-`))),
              context,
            ),
          );
      },
    );
  } finally {
    await proxy.close();
  }
}

interface Lead {
  readonly scenario: Scenario;
  readonly role: Role;
  readonly requestors: Requestors;
  readonly cut: () => void;
  readonly random: () => number;
  /** Stories that go on when the process has died. */
  readonly stories: Promise<unknown>[];
  /** Since when there is none of these processes. */
  downAt: number;
}

/** Starts the process again. It may die of what the one before it left, before it is ready. */
async function start(lead: Lead, point: FailpointName | undefined): Promise<Process> {
  const { scenario, role, downAt } = lead;
  const started = scenario.begin(role, role === 'hub' ? 'h1' : 'worker', point === undefined ? {} : { HUB_FAILPOINT: `${point}:1:kill` });
  if (!(await started.ready)) return started;
  if (role === 'hub') scenario.front = [started];
  scenario.history.outage(`no ${role}`, downAt);
  void started.ended.then(() => (lead.downAt = Date.now()));
  return started;
}

/** Starts a process that will die at `point`, and leads it there by the questions of `drill`. Resolves with whether it died of that. */
async function dieAt(lead: Lead, point: FailpointName, drill: FailpointName): Promise<boolean> {
  const { scenario, requestors, cut, random, stories } = lead;
  const { ask, amqp, cut: isCut } = drills[drill];
  const doomed = await start(lead, point);
  const some = mixed(random);
  const question = (n: number): Question => {
    const token = `${drill}-${point === drill ? '' : 'before-'}${n}`;
    const { key, ...rest } = ask === undefined ? some(n) : oneOf(random, ask);
    return { ...rest, token, ...(key === undefined ? {} : { key: token }) };
  };
  const load = amqp === true ? undefined : scenario.clients.load(clientsAtOnce, question);
  if (amqp === true)
    stories.push(
      ...Array.from({ length: clientsAtOnce }, (_, n) => requestors.ask('plain', `${drill}-${point === drill ? '' : 'before-'}${n}`)),
    );
  if (isCut === true) {
    // Again and again, until it meets a publish that waits for its confirm.
    const cutting = setInterval(cut, 100);
    void doomed.ended.then(() => clearInterval(cutting));
  }
  const fired = await until(() => !doomed.isRunning(), `it dies at ${point}`, 30_000).then(
    () => doomed.diedOf() === 'SIGKILL',
    () => false,
  );
  await doomed.kill();
  if (load !== undefined) stories.push(load.stop());
  return fired;
}
