/** Loads the steps of a project: every export of `<project>/workers/*` that `worker()`, `aggregator()`, `timer()`, `job()` made. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isStep, type Step } from '../broker/step.js';

const source = /(?<!\.d)\.(ts|mts|js|mjs)$/;

/** Steps by file. Rejects with the file's name when one cannot be loaded, or when two steps share a name. */
export async function loadSteps(projectFolder: string): Promise<readonly Step[]> {
  const folder = join(projectFolder, 'workers');
  const files = (await readdir(folder).catch(() => [])).filter((file) => source.test(file)).sort();
  const owner = new Map<string, string>();
  const steps: Step[] = [];
  for (const file of files) {
    const path = join(folder, file);
    for (const [name, exported] of Object.entries(await load(path))) {
      if (!isStep(exported)) continue;
      const step = exported.exported?.(path, name) ?? exported;
      const other = owner.get(step.name);
      if (other !== undefined)
        throw new Error(`step "${step.name}" is defined in workers/${other} and again in workers/${file}: give one another name`);
      owner.set(step.name, file);
      steps.push(step);
    }
  }
  return steps;
}

/** What a file exports. Rejects with the file's name. */
export async function load(file: string): Promise<Record<string, unknown>> {
  try {
    if (file.endsWith('ts')) await understandTypeScript();
    return (await import(pathToFileURL(file).href)) as Record<string, unknown>;
  } catch (cause) {
    throw new Error(`${file} cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

let understood: Promise<void> | undefined;

/** Node 20 does not run TypeScript by itself. Under Jest the transform does. */
function understandTypeScript(): Promise<void> {
  understood ??= (async () => {
    if ('jest' in import.meta || ('typescript' in process.features && process.features.typescript !== false)) return;
    const { register } = await import('tsx/esm/api');
    register();
  })();
  return understood;
}
