/** Events as lines of JSON on stderr. `error` means that an operator must act; no body and no secret gets here. */
import { pino } from 'pino';
import type { Emit } from './emit.js';
import { messageOf } from './fault.js';

/** Events that are not `info`. */
const levels: Readonly<Record<string, 'error' | 'warn' | 'debug'>> = {
  'step.dead': 'error',
  'topology.failed': 'error',
  'hub.buried': 'error',
  'step.retry': 'warn',
  'publish.again': 'warn',
  'sweeper.failed': 'warn',
  'request.refused': 'warn',
  'request.undeliverable': 'warn',
  'publish.undeliverable': 'warn',
  'transport.disconnected': 'warn',
  'transport.blocked': 'warn',
  'job.retry': 'warn',
  'job.ignores-cancel': 'warn',
  'job.began': 'debug',
  'job.done': 'debug',
  'step.done': 'debug',
  'step.absorbed': 'debug',
  'step.fault': 'debug',
  'step.dropped': 'debug',
  'step.expired': 'debug',
  'request.accepted': 'debug',
  'request.detached': 'debug',
  'request.shed': 'debug',
  'request.settled': 'debug',
  'entrance.refused': 'debug',
};

export function openLog(level: string, about: Readonly<Record<string, unknown>>): Emit {
  // pino knows errors as "err" only, and shows any other as {}.
  const serializers = { error: (error: unknown) => (error instanceof Error ? messageOf(error) : error) };
  const log = pino({ level, base: about, serializers, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }));
  return (event, fields = {}) => {
    const level = levels[event] ?? (event.endsWith('.failed') ? 'warn' : 'info');
    if (log.isLevelEnabled(level)) log[level]({ event, ...fields });
  };
}
