/** What the authors of workers and adapters use: `import { worker, split, aggregator, Fault } from 'answerback'`. */
export {
  worker,
  foreign,
  split,
  route,
  raw,
  type Handle,
  type Pause,
  type Step,
  type StepContext,
  type WorkerOptions,
} from './broker/step.js';
export { ask, type Asking, type Turn } from './broker/ask.js';
export { aggregator, type AggregatorOptions, type Answer, type Manifest } from './workers/aggregator.js';
export { job, type JobContext, type JobHandle, type JobOptions, type JobProgress } from './workers/job.js';
export { timer, type TimerOptions } from './workers/timer.js';
export { task, type ApprovalsOptions, type Of, type OutcomeOptions, type TaskDecision, type TaskOptions } from './workers/task.js';
export type { CalendarOptions, Span } from './broker/tasks/calendar.js';
export { Fault, type FaultCode } from './broker/fault.js';
export type { Envelope } from './broker/envelope.js';
export { adapter, type Adapter, type AdapterContext, type Open, type OutgoingCall } from './broker/adapter.js';
export type { Answer as GatewayAnswer, Ask, Gateway, Status } from './broker/gateway.js';
