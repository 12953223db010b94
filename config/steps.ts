/**
 * The `steps` of hub.yaml: those that are not code of the project's workers. `use:` an outbound adapter, or `foreign: true`.
 */
import { formats, isMapping } from './formats.js';
import type { HubFile } from './hubfile.js';
import { didYouMean } from './problems.js';
import { accept } from './settings.js';

export interface ConfiguredStep {
  readonly name: string;
  readonly summary?: string;
  /** Served by a program of somebody else. */
  readonly foreign: boolean;
  /** The adapter that calls the system. */
  readonly use?: string;
  /** What else stands beside `use`; `checkCallSettings` checks it against the adapter's `callSettings`. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/** All steps that could be read. */
export function readSteps(file: HubFile, adapters: readonly string[]): ConfiguredStep[] {
  return file.entries(['steps'], 'steps').flatMap(([name, value]) => {
    const complain = (key: string | undefined, message: string): void =>
      file.complain(['steps', name, ...(key === undefined ? [] : [key])], `step ${name}: ${message}`);
    if (!formats.name.holds(name)) complain(undefined, `a name has ${formats.name.says}`);
    if (!isMapping(value)) {
      complain(undefined, 'must be a mapping, as in { use: soap } or { foreign: true }');
      return [];
    }
    const { use, summary, foreign: said, ...settings } = value;
    const foreign = isForeign(said, complain);
    if (summary !== undefined && typeof summary !== 'string') complain('summary', `summary must be ${formats.text.says}`);
    if (use === undefined && !foreign) complain(undefined, 'say what serves it: use: <adapter> or foreign: true');
    if (use !== undefined && foreign) complain('use', 'it is either foreign or uses an adapter, not both');
    if (use !== undefined) checkUse(use, adapters, complain);
    else file.knows(['steps', name], ['use', 'foreign', 'summary'], `step ${name}: `);
    return [{ name, foreign, settings, ...(typeof use === 'string' ? { use } : {}), ...(typeof summary === 'string' ? { summary } : {}) }];
  });
}

type Complain = (key: string | undefined, message: string) => void;

function isForeign(value: unknown, complain: Complain): boolean {
  if (value === undefined) return false;
  try {
    return accept({ doc: '', format: 'bool', default: false }, value) === true;
  } catch (error) {
    complain('foreign', `foreign ${(error as Error).message}`);
    return false;
  }
}

function checkUse(use: unknown, adapters: readonly string[], complain: Complain): void {
  if (typeof use !== 'string') complain('use', 'use must be the name of an adapter');
  else if (!adapters.includes(use)) complain('use', `there is no adapter "${use}"${didYouMean(use, adapters)}`);
}
