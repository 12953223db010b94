// `npm run test:fault`: first the fault tests that jest runs, then the trials (test/fault/run.ts). All but the report goes to stderr.
//
//   npm run test:fault                          the jest tests, then every trial at its normal size
//   npm run -s test:fault -- --quick --json     the trials alone, in less than two minutes; one JSON object on stdout
//   npm run test:fault -- --long                1,000 kills over 1,000,000 requests
//   npm run test:fault -- --only <words>        trials whose name has these words; --seed <n> repeats a run
//   npm run test:fault:long-work                jobs, tasks, timers, groups: 200 kills over 2,000 of them; Redis flushed under 10,000

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ensureBuilt, project, requireNode } from './build.mjs';
import { ensureServices } from './services.mjs';

requireNode();
const args = process.argv.slice(2);
const abort = new AbortController();
/** @type {import('node:child_process').ChildProcess | undefined} */
let running;
process.on('SIGINT', () => abort.abort(new Error('interrupted')));
process.on('SIGTERM', () => {
  abort.abort(new Error('terminated'));
  running?.kill('SIGTERM');
});

let code = 1;
try {
  const built = ensureBuilt();
  built.catch(() => undefined); // told below, once the services are there to be stopped
  const { rabbitmq, redis, stop } = await ensureServices({ signal: abort.signal });
  const env = { ...process.env, HUB_RABBITMQ_URL: rabbitmq.url, HUB_REDIS_URL: redis.url };
  try {
    await built;
    code = args.some((arg) => arg.startsWith('--'))
      ? 0
      : await run([join(project, 'scripts/test.mjs'), 'test/fault', '--maxWorkers=1'], env, 2);
    code ||= await run(['--import', 'tsx', join(project, 'test/fault/run.ts'), ...args], env, 1);
  } finally {
    await stop();
  }
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
}
process.exit(code);

/** @param {string[]} argv @param {NodeJS.ProcessEnv} env @param {1 | 2} stdout @returns {Promise<number>} */
function run(argv, env, stdout) {
  running = spawn(process.execPath, argv, { cwd: project, env, stdio: ['inherit', stdout, 2] });
  return new Promise((resolve) => running?.on('exit', (exit) => resolve(exit ?? 1)).on('error', () => resolve(1)));
}
