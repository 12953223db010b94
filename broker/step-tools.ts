/** What a step may use while it runs: the tools of an attempt, as the runner hands them to it. */
import { amendsUntil } from './amendable.js';
import { openAside, type Aside } from './aside.js';
import type { Attempt } from './attempt.js';
import type { Clock } from './clock.js';
import type { Control } from './control.js';
import type { Dossiers } from './dossiers.js';
import type { Envelope } from './envelope.js';
import type { Jobs } from './jobs.js';
import { freshMs } from './journal.js';
import type { Later } from './later.js';
import { partEvent } from './parts.js';
import type { RunnerOptions } from './runner.js';
import type { StepTools } from './step.js';
import type { Progress, Store } from './store.js';
import { announcer } from './topics.js';
import { workAddress, type Names } from './topology.js';
import { encode } from './wire.js';

type Options = Pick<
  RunnerOptions,
  'flows' | 'transport' | 'store' | 'later' | 'jobs' | 'clock' | 'names' | 'journal' | 'control' | 'dossiers' | 'emit' | 'steps'
>;

/** What the tools of all attempts have in common. */
interface Common extends Pick<
  StepTools,
  'store' | 'later' | 'jobs' | 'dossiers' | 'announce' | 'tellQuestion' | 'clock' | 'drop' | 'absorbed' | 'late' | 'amendsUntil'
> {
  readonly aside: Aside;
  readonly names: Names;
  readonly control: Control;
}

/** Makes them once for a process. */
export function commonTools(options: Options): Common {
  const { store, later, jobs, dossiers, clock, names, control, journal } = options;
  const announce = announcer(options);
  const aside = openAside(options.transport, options.emit);
  const parks = [...options.steps.values()].some((step) => step.parks === true);
  const amended = new Map(options.flows.filter((flow) => flow.late === 'amend').map((flow) => [flow.name, flow]));
  return {
    names,
    control,
    store,
    later,
    jobs,
    dossiers,
    announce,
    aside,
    tellQuestion: aside.ask,
    clock,
    drop: async (id) => {
      await control.drop(id);
      if (parks) await dossiers.withdraw(id, 'others have answered, and that was enough');
    },
    absorbed: async (part) => {
      if (part.journal && clock.now() - part.at > freshMs) await journal.note('part', part.requestId, encode(part), encode(part).headers);
    },
    amendsUntil: (envelope) => amendsUntil(amended.get(envelope.flow), envelope, clock.now()),
    late: async (late) => {
      if (late.journal) await journal.note('late', late.requestId, { messageId: late.id }, { 'hub-late-from': late.from ?? '' });
    },
  };
}

/**
 * The tools of one attempt. What depends on its message is made when a handler looks at it, since few do, and may be taken out by
 * destructuring: hence functions behind getters, not methods. Others are made with it as prototype: hence no `#`.
 */
export class Tools implements StepTools {
  readonly store: Store;
  readonly later: Later;
  readonly jobs: Jobs;
  readonly dossiers: Dossiers;
  readonly announce: StepTools['announce'];
  readonly tellQuestion: StepTools['tellQuestion'];
  readonly clock: Clock;
  readonly answers: StepTools['answers'] = [];
  readonly kept: StepTools['kept'] = undefined;
  readonly drop: StepTools['drop'];
  readonly absorbed: StepTools['absorbed'];
  readonly late: StepTools['late'];
  readonly amendsUntil: StepTools['amendsUntil'];
  private readonly common: Common;
  private readonly envelope: Envelope;
  private readonly tried: Attempt;
  private told: StepTools['progress'] | undefined = undefined;

  constructor(common: Common, envelope: Envelope, tried: Attempt) {
    this.store = common.store;
    this.later = common.later;
    this.jobs = common.jobs;
    this.dossiers = common.dossiers;
    this.announce = common.announce;
    this.tellQuestion = common.tellQuestion;
    this.clock = common.clock;
    this.drop = common.drop;
    this.absorbed = common.absorbed;
    this.late = common.late;
    this.amendsUntil = common.amendsUntil;
    this.common = common;
    this.envelope = envelope;
    this.tried = tried;
  }

  get signal(): AbortSignal {
    return this.tried.signal;
  }

  get remainingMs(): StepTools['remainingMs'] {
    return () => Math.max(0, this.envelope.deadline - this.clock.now());
  }

  get addressOf(): StepTools['addressOf'] {
    return (step) => workAddress(this.common.names, step, this.envelope);
  }

  get isWatched(): boolean {
    return this.common.control.isWatched(this.envelope);
  }

  get report(): StepTools['report'] {
    return (id, what, event) => (this.isWatched ? this.store.report(id, what, event) : Promise.resolve(false));
  }

  get progress(): StepTools['progress'] {
    this.told ??= throttled(this.clock, (progress) => {
      if (!this.isWatched) return;
      void this.store.report(this.envelope.requestId, { progress }, { name: 'progress', data: { ...progress } }).catch(() => undefined);
    });
    return this.told;
  }

  get part(): StepTools['part'] {
    // A store that is away is waited for once, not with each part: the reply has them all.
    let isHeard = true;
    return async (part) => {
      await this.common.aside.part(this.envelope, part);
      if (!this.isWatched) return;
      const told = this.store.report(this.envelope.requestId, {}, partEvent(this.envelope, part)).then(
        () => true,
        () => false,
      );
      if (isHeard) isHeard = await told;
    };
  }
}

/** At most 4 a second. */
function throttled(clock: Clock, report: (progress: Progress) => void): (progress: Progress) => void {
  let last = -Infinity;
  return (progress) => {
    if (progress.percent !== 100 && clock.now() - last < 250) return;
    last = clock.now();
    report(progress);
  };
}
