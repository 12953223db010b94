/** Which process has which processor, where a bench measures one process and all share a machine. Where there is no `taskset`, the system decides. */
import { spawnSync } from 'node:child_process';
import { cpus } from 'node:os';

type Pids = readonly (number | null)[];

/** Gives `one` the first processor, and the others the rest, until the returned function is called for those that go on. */
export function apart(one: number, others: Pids): (goOn: Pids) => void {
  const last = cpus().length - 1;
  const onto = (processors: string, pids: Pids) =>
    pids.forEach((pid) => pid !== null && spawnSync('taskset', ['-acp', processors, `${pid}`], { stdio: 'ignore' }));
  if (last > 0) {
    onto('0', [one]);
    onto(`1-${last}`, others);
  }
  return (goOn) => onto(`0-${last}`, goOn);
}
