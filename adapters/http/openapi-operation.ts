/** An operation of the OpenAPI document, and the problems that it may answer with. */
import { ref } from './openapi-parts.js';

export type Responses = Readonly<Record<string, object>>;

export const problems = (...statuses: readonly number[]): Responses =>
  Object.fromEntries(statuses.map((status) => [status, ref('responses', `Problem${status}`)]));

export function operation(
  operationId: string,
  tag: string,
  summary: string,
  rest: { readonly responses: Responses } & Readonly<Record<string, unknown>>,
): object {
  return { operationId, summary, tags: [tag], ...rest };
}
