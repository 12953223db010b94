// `npm test`: the tests on a real RabbitMQ and Redis, wherever they come from. Nothing is skipped for want of them.
// The last line is "N passed, N failed" and counts tests; a test file that does not even load counts as one failed.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensureBuilt, project, requireNode } from './build.mjs';
import { ensureServices } from './services.mjs';

requireNode();
const args = process.argv.slice(2);
const abort = new AbortController();
/** @type {import('node:child_process').ChildProcess | undefined} */
let jest;
// A terminal's Ctrl-C reaches jest by itself; we stay to stop the services.
process.on('SIGINT', () => abort.abort(new Error('interrupted')));
process.on('SIGTERM', () => {
  abort.abort(new Error('terminated'));
  jest?.kill('SIGTERM');
});

let outcome = { code: 1, passed: 0, failed: 1 };
try {
  await ensureBuilt();
  const { rabbitmq, redis, stop } = await ensureServices({ signal: abort.signal });
  console.error(`RabbitMQ: ${rabbitmq.from}\nRedis: ${redis.from}`);
  try {
    outcome = await runJest({
      HUB_RABBITMQ_URL: rabbitmq.url,
      HUB_REDIS_URL: redis.url,
      ...(rabbitmq.managementUrl ? { HUB_RABBITMQ_MANAGEMENT_URL: rabbitmq.managementUrl } : {}),
    });
  } finally {
    await stop();
  }
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
}
console.log(`${outcome.passed} passed, ${outcome.failed} failed`);
process.exit(outcome.code);

/** @param {Record<string, string>} services @returns {Promise<typeof outcome>} */
async function runJest(services) {
  const folder = mkdtempSync(join(tmpdir(), 'answerback-test-'));
  const results = join(folder, 'results.json');
  // Tests that take minutes, and those that kill what others would share a machine with, live in folders of these names, and run only
  // when a path names that folder.
  const unasked = ['simulation', 'fault', 'cluster', 'long'].filter((folder) => !args.some((arg) => arg.split('/').includes(folder)));
  const ignored = ['/node_modules/', ...unasked.map((folder) => `/test/(.+/)?${folder}/`)].flatMap((path) => [
    '--testPathIgnorePatterns',
    path,
  ]);
  jest = spawn(
    process.execPath,
    [
      '--experimental-vm-modules',
      '--no-warnings',
      join(project, 'node_modules/jest/bin/jest.js'),
      ...args,
      ...ignored,
      '--json',
      `--outputFile=${results}`,
    ],
    { cwd: project, env: { ...process.env, ...services }, stdio: 'inherit' },
  );
  /** @type {number} */
  const code = await new Promise((resolve) => jest?.on('exit', (exit) => resolve(exit ?? 1)).on('error', () => resolve(1)));
  try {
    const { numPassedTests, numFailedTests, numRuntimeErrorTestSuites } = JSON.parse(readFileSync(results, 'utf8'));
    const failed = numFailedTests + numRuntimeErrorTestSuites;
    // Green tests with a red exit: no test found, a coverage limit, an open handle. Not a success either.
    return { code, passed: numPassedTests, failed: failed === 0 && code !== 0 ? 1 : failed };
  } catch {
    return { code: code || 1, passed: 0, failed: 1 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
