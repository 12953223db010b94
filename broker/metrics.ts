/** Events as numbers for Prometheus: `/metrics`. No ids in labels; seconds; `_total` for counters. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Emit, Fields } from './emit.js';
import type { TransportState } from './transport.js';
import { version } from './version.js';

export interface Metrics {
  readonly emit: Emit;
  /** What is read at the moment of scraping. */
  watch(now: { holding(): number; transport(): TransportState }): void;
  text(): Promise<string>;
}

const label = (fields: Fields, name: string): string => String(fields[name] ?? '');

/** A counter that is told its sums when it is read: each `inc` of its own takes a microsecond. */
function counted(name: string, help: string, labelNames: readonly string[], registers: Registry[]): (...values: string[]) => void {
  const sums = new Map<string, { readonly values: readonly string[]; sum: number }>();
  new Counter({
    name,
    help,
    labelNames: [...labelNames],
    registers,
    collect() {
      for (const { values, sum } of sums.values())
        this.inc(Object.fromEntries(values.map((value, index) => [labelNames[index]!, value])), sum);
      sums.clear();
    },
  });
  return (...values) => {
    const key = values.join('\n');
    const known = sums.get(key);
    if (known === undefined) sums.set(key, { values, sum: 1 });
    else known.sum++;
  };
}

export function openMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const counter = (name: string, help: string, labelNames: readonly string[]) => counted(name, help, labelNames, registers);
  new Gauge({ name: 'hub_build_info', help: 'Version of the hub', labelNames: ['version'], registers }).labels(version).set(1);
  const requests = counter('hub_requests_total', 'Requests that were accepted', ['flow']);
  const outcomes = counter('hub_outcomes_total', 'Outcomes by kind, and whether they won, were the same again, late or unknown', [
    'kind',
    'settled',
  ]);
  const refused = counter('hub_requests_refused_total', 'Requests that the broker did not take', ['failure']);
  const shed = counter('hub_requests_shed_total', 'Requests that were not taken because the hub had too much to do', []);
  const detached = counter('hub_requests_detached_total', 'Holds that became 202', ['flow']);
  const attempts = counter('hub_step_attempts_total', 'Attempts of steps', ['step', 'result']);
  const durations = new Histogram({
    name: 'hub_step_duration_seconds',
    help: 'How long steps ran',
    labelNames: ['step'],
    buckets: [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30],
    registers,
  });
  const again = counter('hub_publish_again_total', 'Publishes that had to be repeated', ['failure']);

  /** What each event counts. */
  const counts: Readonly<Record<string, (fields: Fields) => void>> = {
    'request.accepted': (fields) => requests(label(fields, 'flow')),
    'request.settled': (fields) => outcomes(label(fields, 'kind'), label(fields, 'settled')),
    'request.refused': (fields) => refused(label(fields, 'failure')),
    'request.shed': () => shed(),
    'request.detached': (fields) => detached(label(fields, 'flow')),
    'publish.again': (fields) => again(label(fields, 'failure')),
    'step.done': (fields) => {
      attempts(label(fields, 'step'), 'done');
      durations.labels(label(fields, 'step')).observe(Number(fields['tookMs'] ?? 0) / 1_000);
    },
    ...Object.fromEntries(
      ['fault', 'retry', 'dead', 'dropped', 'expired'].map((result) => [
        `step.${result}`,
        (fields: Fields) => attempts(label(fields, 'step'), result),
      ]),
    ),
  };

  return {
    emit: (event, fields = {}) => counts[event]?.(fields),
    watch({ holding, transport }) {
      new Gauge({
        name: 'hub_requestors_holding',
        help: 'Requestors on the line',
        registers,
        collect() {
          this.set(holding());
        },
      });
      new Gauge({
        name: 'hub_amqp_connected',
        help: '1 when RabbitMQ is connected',
        registers,
        collect() {
          this.set(transport() === 'disconnected' ? 0 : 1);
        },
      });
      new Gauge({
        name: 'hub_amqp_blocked',
        help: '1 when RabbitMQ takes no messages',
        registers,
        collect() {
          this.set(transport() === 'blocked' ? 1 : 0);
        },
      });
    },
    text: () => registry.metrics(),
  };
}
