/**
 * What happens, told as events with fields: `emit('step.failed', { step, requestId, attempt })`. The core only emits;
 * log and metrics listen (`main.ts`). Never a body, never a secret.
 */
export type Fields = Readonly<Record<string, unknown>>;
export type Emit = (event: string, fields?: Fields) => void;
