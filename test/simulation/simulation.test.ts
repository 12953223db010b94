/**
 * Simulated worlds: 2,000 seeds keep the promise, a seed is always the same world, and a hub that is wrong does not get through.
 */
import { spawn } from 'node:child_process';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeAll, describe, expect, it } from '@jest/globals';
import { simulate } from './simulation.js';

const minutes = 60_000;
const built = resolve('.hub/simulation');

/** What a program said and how it ended. */
function run(...args: readonly string[]): Promise<{ readonly code: number | null; readonly said: string }> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    child.stdout.on('data', (text) => (said += String(text)));
    child.on('error', fail);
    child.on('close', (code) => done({ code, said }));
  });
}

/** The hub with one mistake in it: texts of a file of `broker/`, as they are once types are gone, and what stands there instead. */
interface Mutant {
  readonly file: string;
  readonly change: Readonly<Record<string, string>>;
}

const enter = 'const inStore = await enterRecorded(envelope, recorded ? recordOf(envelope, ask) : undefined, true);';

const mutants: Readonly<Record<string, Mutant>> = {
  'shows an outcome before the journal has it': {
    file: 'settle',
    change: {
      'await stale.tell(requestId, outcome, record);': 'void stale.tell(requestId, outcome, record).catch(() => undefined);',
    },
  },
  'acknowledges before it has published': {
    file: 'runner',
    change: { 'await patiently(() => send(one));': 'void patiently(() => send(one)).catch(() => undefined);' },
  },
  'publishes before it expects': {
    file: 'requests',
    change: {
      [`try {\n            ${enter}`]: 'try {',
      'const wait = correlator.expect(id, !recorded, ': `${enter} const wait = correlator.expect(id, !recorded, `,
    },
  },
  'lets the last outcome win': {
    file: 'store-memory',
    change: { 'const known = kept.record.outcome;': 'const known = undefined;' },
  },
  'promises an answer that nobody keeps': {
    file: 'requests',
    change: { 'await store.create(record);': '' },
  },
  'takes what it is about to publish for published': {
    file: 'dispatch',
    change: {
      'if (envelope.slip.length === 1 &&':
        "await store.report(envelope.requestId, { state: 'waiting' }); if (envelope.slip.length === 1 &&",
    },
  },
  'calls a publish without confirm refused': {
    file: 'requests',
    change: { "(cause instanceof PublishError && cause.failure === 'unknown')": 'false' },
  },
  'forgets who has the key': {
    file: 'store-memory',
    change: { "const holder = claims.get(claim?.scope ?? '')": 'const holder = undefined' },
  },
  'sweeps before the deadline': {
    file: 'sweeper',
    change: { 'let due = await store.due(atOnce)': "let due = (await store.uncarried(0, '0', atOnce)).ids" },
  },
};

describe('in simulated worlds', () => {
  beforeAll(async () => {
    // Builds what the others run.
    expect((await run('scripts/simulation.mjs', '--seeds', '0')).code).toBe(0);
  }, minutes);

  it(
    '2,000 seeds keep the promise',
    async () => {
      const { code, said } = await run('scripts/simulation.mjs', '--seeds', '2000', '--from', '1');
      expect(said).toMatch(/^2000 seeds from 1: .*; 0 failed\n$/);
      expect(code).toBe(0);
    },
    10 * minutes,
  );

  it(
    'a seed is the same world, whenever and wherever it is run',
    async () => {
      const seeds = Array.from({ length: 30 }, (_, n) => n + 1);
      const worlds = async () => {
        const lines: string[] = [];
        for (const seed of seeds) {
          const { hash, events } = await simulate(seed, (line) => lines.push(line));
          lines.push(`${seed} ${events} ${hash}`);
        }
        return lines;
      };
      const first = await worlds();
      expect(await worlds()).toEqual(first);
      // Whether anybody looks on makes no difference.
      expect((await simulate(7)).hash).toBe(/^7 \d+ (\w+)$/.exec(first.find((line) => line.startsWith('7 '))!)![1]);
    },
    2 * minutes,
  );

  describe('a hub is found out that', () => {
    it.each(Object.keys(mutants))(
      '%s',
      async (name) => {
        const { file, change } = mutants[name]!;
        const folder = resolve('.hub/mutant');
        rmSync(folder, { recursive: true, force: true });
        cpSync(built, folder, { recursive: true });
        const path = join(folder, 'broker', `${file}.js`);
        let source = readFileSync(path, 'utf8');
        for (const [from, to] of Object.entries(change)) {
          // Otherwise nothing would be proved: the mistake has to be made anew in the code as it is now.
          expect(source).toContain(from);
          source = source.replace(from, to);
        }
        writeFileSync(path, source);
        const { code, said } = await run(join(folder, 'test/simulation/run.js'), '--from', '1', '--until', '2001', '--first');
        expect(said).toMatch(/^seed \d+:/);
        expect(code).toBe(1);
      },
      5 * minutes,
    );
  });
});
