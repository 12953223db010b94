// Node, node_modules and dist: new enough, or made so. Only node: built-ins, because it makes the rest.

import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './processes.mjs';

export const project = dirname(dirname(fileURLToPath(import.meta.url)));

/** Everything that becomes dist/. */
const sources = [
  'broker',
  'adapters',
  'workers',
  'config',
  'console',
  'cli',
  'bench',
  'tsconfig.json',
  'tsconfig.build.json',
  'package.json',
];

/** Ends the process with 2 if this Node is too old for the hub. */
export function requireNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  console.error(`Answerback needs Node.js 20.19 or newer; this is ${process.version}. Get one at https://nodejs.org.`);
  process.exit(2);
}

/** Installs and builds what is missing or older than its source. Two callers at once do it once.
 * @param {(line: string) => void} [log] @returns {Promise<void>} rejects if npm or the compiler fails */
export async function ensureBuilt(log = console.error) {
  mkdirSync(join(project, '.hub'), { recursive: true });
  await withLock(join(project, '.hub', 'build.lock'), async () => {
    if (mtime('node_modules/.package-lock.json') < mtime('package-lock.json')) {
      log('Installing the npm packages (npm ci) ...');
      await npm('ci', '--no-audit', '--no-fund');
    }
    if (mtime('dist/.built') < newest()) {
      log('Building ...');
      const began = new Date();
      await npm('run', '-s', 'build');
      // The stamp bears the time of the beginning: a file saved during the build is newer than it.
      writeFileSync(join(project, 'dist', '.built'), began.toISOString());
      utimesSync(join(project, 'dist', '.built'), began, began);
    }
  });
}

/** When a file was changed; 0 if there is none. @param {string} file */
function mtime(file) {
  return statSync(join(project, file), { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

function newest() {
  const top = readdirSync(project).filter((name) => name.endsWith('.ts'));
  const files = [...sources, ...top].flatMap((name) => {
    const at = statSync(join(project, name), { throwIfNoEntry: false });
    return at?.isDirectory() ? readdirSync(join(project, name), { recursive: true }).map((file) => join(name, `${file}`)) : [name];
  });
  // The benchmarks' peers have packages of their own.
  return Math.max(1, ...files.filter((file) => !file.includes('node_modules')).map(mtime));
}

/** Runs npm with our output as its own. @param {string[]} args @returns {Promise<void>} */
function npm(...args) {
  return new Promise((resolve, reject) => {
    const child = spawn('npm', args, { cwd: project, stdio: ['ignore', 2, 2] });
    child.on('error', reject);
    child.on('exit', (code, signal) => (code === 0 ? resolve() : reject(new Error(`npm ${args.join(' ')} ended with ${signal ?? code}`))));
  });
}
