/** What is there on this machine, or in the services of a project, and what mends what is missing. */
import { examine } from '../main.js';

export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  readonly mend: string;
  /** Nothing runs without it. */
  readonly needed: boolean;
}

/** The checks are in `scripts/`, since they must run before anything is installed. */
export async function doctor(): Promise<readonly Finding[]> {
  const { whatIsThere } = (await import(new URL('../../scripts/services.mjs', import.meta.url).href)) as {
    whatIsThere(): Promise<readonly Omit<Finding, 'needed'>[]>;
  };
  return (await whatIsThere()).map((row) => ({ ...row, needed: /node/i.test(row.name) }));
}

/** Of the services of a project: what would keep a hub from starting. The problem says the command that mends it. */
export const doctorOf = async (folder: string): Promise<readonly Finding[]> =>
  (await examine({ folder })).map(({ name, problem }) => ({
    name,
    ok: problem === undefined,
    found: problem === undefined ? 'answers' : 'of no use',
    mend: problem ?? '',
    needed: true,
  }));
