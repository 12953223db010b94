/**
 * Runs what the documents show. In a ```console block, lines with `$ ` are commands and the others are what they print;
 * `…` stands for anything within a line, a line that is only `…` for any number of lines.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

export interface Shown {
  readonly command: string;
  readonly expected: string;
}

export interface Document {
  /** ```console blocks by the project that must be running (`<!-- project: … -->` before the block; else `standard`). */
  readonly sessions: ReadonlyMap<string, readonly Shown[]>;
  /** Blocks that show a file (`<!-- file: … -->` before the block). */
  readonly files: readonly { readonly path: string; readonly text: string }[];
}

export function readDocument(path: string, standard: string): Document {
  const sessions = new Map<string, Shown[]>();
  const files: { path: string; text: string }[] = [];
  for (const [, comment, about, language, text] of readFileSync(path, 'utf8').matchAll(
    /(?:<!-- (file|project): (\S+) -->\n)?```(\w*)\n([\s\S]*?)```/g,
  )) {
    if (comment === 'file') files.push({ path: about!, text: text! });
    if (language !== 'console') continue;
    const project = comment === 'project' ? about! : standard;
    sessions.set(project, [...(sessions.get(project) ?? []), ...shownIn(text!)]);
  }
  return { sessions, files };
}

function shownIn(text: string): Shown[] {
  return text
    .split(/^\$ /m)
    .slice(1)
    .map((piece) => {
      const [command = '', ...lines] = piece.split('\n');
      return { command, expected: lines.join('\n').trimEnd() };
    });
}

/** What a document shows, as a pattern for what is printed. */
export function patternOf(expected: string): RegExp {
  const lines = expected.split('\n').map((line) =>
    line === '…'
      ? '(?:.*\n)*?(?:.*)'
      : line
          .split('…')
          .map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
          .join('.*'),
  );
  return new RegExp(`^${lines.join('\n')}$`);
}

/** Runs commands one after the other in one shell, and gives back what each printed. */
export async function runInShell(commands: readonly string[], prelude: string, env: NodeJS.ProcessEnv): Promise<readonly string[]> {
  const mark = randomUUID();
  const script = [prelude, ...commands.flatMap((command) => [command, `echo; echo ${mark}`])].join('\n');
  const shell = spawn('bash', ['-s'], { env, stdio: ['pipe', 'pipe', 'pipe'] });
  let out = '';
  shell.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  shell.stderr.on('data', (chunk: Buffer) => (out += chunk.toString()));
  shell.stdin.end(script);
  await new Promise((resolve) => shell.once('close', resolve));
  return out
    .split(`${mark}\n`)
    .slice(0, commands.length)
    .map((text) => text.replaceAll('\r', '').trimEnd());
}
