/** What a test starts goes when the test does, however that ends: children do not die with their parent. */
import { spawn, type ChildProcess } from 'node:child_process';

/** Kills the child when this process is gone: then its end of the pipe to the guard closes. */
export function guard(child: ChildProcess): void {
  const keeper = spawn('sh', ['-c', 'cat >/dev/null; kill -9 "$1"', 'guard', String(child.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  child.once('exit', () => {
    keeper.kill('SIGKILL');
    keeper.stdin.destroy();
  });
}
