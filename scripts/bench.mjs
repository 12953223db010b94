// `npm run bench`: builds what is missing, brings RabbitMQ and Redis, and runs dist/bench/run.js. With --json, stdout has
// one JSON object and nothing else.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ensureBuilt, project, requireNode } from './build.mjs';
import { ensureServices } from './services.mjs';

requireNode();
const abort = new AbortController();
// A terminal's Ctrl-C reaches the benchmark by itself; we stay to stop the services.
process.on('SIGINT', () => abort.abort(new Error('interrupted')));
process.on('SIGTERM', () => abort.abort(new Error('terminated')));

try {
  await ensureBuilt();
  const { rabbitmq, redis, stop } = await ensureServices({ signal: abort.signal });
  console.error(`RabbitMQ: ${rabbitmq.from}\nRedis: ${redis.from}`);
  try {
    process.exitCode = await run({ HUB_RABBITMQ_URL: rabbitmq.url, HUB_REDIS_URL: redis.url });
  } finally {
    await stop();
  }
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
  process.exitCode = 1;
}

/** @param {Record<string, string>} services @returns {Promise<number>} */
function run(services) {
  const args = ['--enable-source-maps', join(project, 'dist/bench/run.js'), ...process.argv.slice(2)];
  const child = spawn(process.execPath, args, { cwd: project, env: { ...process.env, ...services }, stdio: 'inherit' });
  abort.signal.addEventListener('abort', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => child.on('error', reject).on('exit', (code) => resolve(code ?? 1)));
}
