/** The main program of each process of a benchmark: opens the end that it is told to, and does with it what it is told to. */
import { ends } from './ends.js';
import { closedLoop, type LoadSettings } from './load.js';
import type { Answered } from './processes.js';

const [name = '', settings = '{}'] = process.argv.slice(2);
const answer = (answered: Answered) => void process.send?.(answered);
const failed = (error: unknown) => answer({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) });

// The terminal's Ctrl-C reaches us as well; our parent says when to end.
process.on('SIGINT', () => undefined);
try {
  const find = ends[name];
  if (find === undefined) throw new Error(`there is no end "${name}"`);
  const end = await (await find())(JSON.parse(settings) as never);
  process.once('disconnect', () => void end.close().finally(() => process.exit(0)));
  process.on('message', ({ what, settings }: { what: string; settings: LoadSettings & Record<string, unknown> }) => {
    const doing = what === 'load' ? closedLoop((body) => end.request!(body, settings), settings) : end.tell?.(what, settings);
    Promise.resolve(doing).then((done) => answer({ done: done ?? null }), failed);
  });
  answer({ done: null });
} catch (error) {
  failed(error);
  process.disconnect();
}
