// `npm start`: from a fresh checkout to a running hub. `npm start -- <hub folder or options>`; without: the loan broker.
// Installs and builds if needed, then runs `answerback dev`, which brings RabbitMQ and Redis by services.mjs.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ensureBuilt, project, requireNode } from './build.mjs';

requireNode();
try {
  await ensureBuilt();
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
  process.exit(1);
}

const args = process.argv.slice(2);
const named = args.some((arg) => !arg.startsWith('-'));
// Its own process group: a terminal's Ctrl-C goes to npm and to us, npm hands it on as well, and the hub gets it from us,
// once. The ipc channel closes when we die, even by kill -9: the hub then stops by itself (`disconnect`).
const hub = spawn(
  process.execPath,
  // As in the Dockerfile.
  [
    '--enable-source-maps',
    '--max-semi-space-size=32',
    join(project, 'dist/cli/answerback.js'),
    'dev',
    ...args,
    ...(named ? [] : [join('examples', 'loan-broker')]),
  ],
  { cwd: project, detached: true, stdio: ['inherit', 'inherit', 'inherit', 'ipc'] },
);

/** @type {NodeJS.Timeout | undefined} */
let patience;
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => {
    if (patience) return;
    hub.kill(signal === 'SIGINT' ? 'SIGINT' : 'SIGTERM');
    patience = setTimeout(() => {
      hub.kill('SIGKILL');
    }, 60_000);
  });
}
hub.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
hub.on('exit', (code) => process.exit(code ?? 1));
