/** What is there on this machine, and what mends what is missing. */
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
