/** Everything dies at random under mixed load: hubs, workers, RabbitMQ, Redis. The order is that of the seed. */
import { dice, mixed } from '../mix.js';
import { rowOf, type Row, type Size, type Trial, type TrialContext } from '../trial.js';
import { inField, killAtRandom, type Field } from './field.js';

interface Batches {
  readonly requests: number;
  readonly kills: number;
  readonly batches: number;
  /** How many clients ask at once. */
  readonly clients: number;
}

/** Requests and kills of a batch; after each, everything is judged and forgotten. */
const sizes: Readonly<Record<Size, Batches>> = {
  quick: { requests: 1_000, kills: 10, batches: 1, clients: 40 },
  normal: { requests: 20_000, kills: 200, batches: 1, clients: 40 },
  long: { requests: 20_000, kills: 20, batches: 50, clients: 160 },
};

export const kills: Trial = {
  name: 'random kills',
  sizes: ['quick', 'normal', 'long'],
  async run(context) {
    const { seed, size, say } = context;
    return inField({ about: { seed, size, trial: 'random kills' } }, async (field) => {
      await field.scenario.legacy();
      const rows: Row[] = [];
      const batches = Number(process.env['FAULT_BATCHES'] ?? sizes[size].batches);
      for (let batch = 0; batch < batches; batch++) {
        rows.push(await runBatch(field, batch, context));
        say(`batch ${batch + 1}: ${JSON.stringify(rows.at(-1))}`);
      }
      return [sum(rows)];
    });
  },
};

async function runBatch(field: Field, batch: number, { seed, size, say }: TrialContext): Promise<Row> {
  const { scenario } = field;
  const { requests, kills, clients } = sizes[size];
  const random = dice(seed + batch);
  const ask = dice(seed + batch + 1_000_003);
  const load = scenario.clients.load(clients, mixed(ask, `b${batch}-`), requests);
  const requestors = batch === 0 ? await scenario.requestors() : undefined;
  const foreigners =
    requestors && Promise.all(Array.from({ length: 5 }, (_, n) => requestors.ask(n % 2 === 0 ? 'plain' : 'scatter', `b${batch}-amqp${n}`)));
  // RabbitMQ 3.10.8 loses its first stream for good when it is killed within a second of its making.
  const after = batch === 0 ? Math.min(400, requests / 2) : 0;
  await killAtRandom(field, { load, requests, kills, random, after, say });
  await load.ended;
  await foreigners;
  const violations = await scenario.atRest({ withinMs: 70_000, answeredWithinMs: 30_000 });
  const row = rowOf('random kills', scenario, violations, { kills, say });
  // Also of what is broken: it counts once, in its own batch.
  scenario.forget();
  return row;
}

/** The batches as one row. */
function sum(rows: readonly Row[]): Row {
  const total = (of: (row: Row) => number) => rows.reduce((all, row) => all + of(row), 0);
  return {
    name: rows[0]!.name,
    requests: total((row) => row.requests),
    kills: total((row) => row.kills),
    lost: total((row) => row.lost),
    doubled: total((row) => row.doubled),
    foreign: total((row) => row.foreign),
    hung: total((row) => row.hung),
  };
}
