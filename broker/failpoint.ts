/**
 * Failpoints: named places between accept and outcome where a fault test lets this very process die or stand still. They are off
 * unless HUB_FAILPOINT is set when the process starts; then `failpoint` is an empty function.
 *
 * `HUB_FAILPOINT=settle.before-journal:3:kill`: the third time it comes by there, the process gets a SIGKILL (`stop`: a SIGSTOP).
 * Several, separated by commas. Every name is driven by `test/fault/failpoints.ts`.
 */

export const failpointNames = [
  // A request enters.
  'accept.before-record',
  'accept.after-record',
  'accept.before-publish',
  'accept.after-publish',
  'accept.before-discard',
  'accept.before-answer',
  'accept.before-repeat',
  'send.before-record',
  'send.before-done',
  'entrance.before-request',
  'entrance.after-request',
  // The hold ends before the answer.
  'detach.before-record',
  'detach.after-record',
  // A step works.
  'work.before-step',
  'work.after-step',
  'work.between-messages',
  'work.before-ack',
  'retry.before-publish',
  'retry.after-publish',
  'dead.before-letter',
  'dead.after-letter',
  'split.before-group',
  'split.after-group',
  'gather.before-part',
  'gather.after-part',
  'gather.before-done',
  'gather.after-done',
  'park.before-publish',
  'continue.before-publish',
  'continue.after-publish',
  'later.before-publish',
  'later.after-publish',
  // Work outlives its delivery.
  'dossier.before-keep',
  'dossier.after-keep',
  'dossier.after-journal',
  'dossier.before-ring',
  'dossier.after-ring',
  'job.before-add',
  'job.before-finish',
  'job.after-finish',
  'job.before-again',
  'job.before-interrupt',
  'job.before-way',
  // The outcome.
  'reply.before-settle',
  'reply.before-ack',
  'cancel.before-settle',
  'settle.before-store',
  'settle.after-store',
  'settle.before-journal',
  'settle.after-journal',
  'settle.after-show',
  'settle.before-forward',
  'settle.after-forward',
  'settle.before-late',
  'late.before-part',
  'late.after-part',
  'amend.before-store',
  'amend.before-journal',
  'amend.after-journal',
  'amend.after-show',
  'settle.alone-before-journal',
  'settle.alone-after-journal',
  'sweep.before-ring',
  'sweep.after-ring',
  'sweep.before-timeout',
  'sweep.after-timeout',
  'sweep.before-finish',
  'sweep.after-finish',
] as const;

export type FailpointName = (typeof failpointNames)[number];

const setting = process.env['HUB_FAILPOINT'];

/** This process comes by the place of that name. */
export const failpoint: (name: FailpointName) => void = setting === undefined ? () => undefined : armed(setting);

/** Throws for a name that is not in the list: a test that never fires would prove nothing. */
function armed(text: string): (name: FailpointName) => void {
  const points = new Map(
    text.split(',').map((point) => {
      const [name = '', count = '1', act = 'kill'] = point.split(':');
      if (!(failpointNames as readonly string[]).includes(name) || !/^[1-9]\d*$/.test(count) || (act !== 'kill' && act !== 'stop'))
        throw new Error(
          `HUB_FAILPOINT: ${JSON.stringify(point)} is not <name>:<count>:kill or <name>:<count>:stop with a name that there is`,
        );
      return [name, { left: Number(count), signal: act === 'kill' ? 'SIGKILL' : 'SIGSTOP' } as const];
    }),
  ) as Map<FailpointName, { left: number; readonly signal: 'SIGKILL' | 'SIGSTOP' }>;
  return (name) => {
    const point = points.get(name);
    if (point !== undefined && --point.left === 0) process.kill(process.pid, point.signal);
  };
}
