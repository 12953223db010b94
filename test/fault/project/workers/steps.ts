/**
 * Steps that append what they do to the file FAULT_EFFECTS, one line each, as the checker reads it. `gated` goes on when the file
 * FAULT_EFFECTS + '.open' is there.
 */
import { appendFileSync, existsSync } from 'node:fs';
import { aggregator, split, worker, type Envelope } from 'answerback';

interface Body {
  readonly token: string;
  readonly deadly?: boolean;
}

const file = process.env['FAULT_EFFECTS'] ?? '/dev/null';

function note(what: 'start' | 'end', step: string, token: string, { requestId, attempt }: Envelope, said?: unknown): void {
  appendFileSync(file, `${JSON.stringify({ what, step, token, id: requestId, attempt, pid: process.pid, at: Date.now(), said })}\n`);
}

/** A step that writes down its beginning and its end; `work` is what lies between. */
const noted = (name: string, work: (body: Body, envelope: Envelope, signal: AbortSignal) => unknown) =>
  worker<Body>({
    name,
    retry: ['200ms', '1s'],
    async handle(body, envelope, { signal }) {
      note('start', name, body.token, envelope);
      const said = await work(body, envelope, signal);
      note('end', name, body.token, envelope, said);
      return said;
    },
  });

/** An answer that nobody else gives. */
const answer = ({ token }: Body, { requestId }: Envelope) => ({ token, for: requestId, by: process.pid, mark: Math.random() });

export const first = noted('first', (body) => body);
export const last = noted('last', answer);
export const part = noted('part', (body) => body);
export const gated = noted('gated', async (body, envelope, signal) => {
  while (!existsSync(`${file}.open`) && !signal.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
  return answer(body, envelope);
});
export const poison = noted('poison', (body, envelope) => {
  if (body.deadly === true) process.kill(process.pid, 'SIGKILL');
  return answer(body, envelope);
});

export const spread = worker<Body>({ name: 'spread', handle: (body) => split(['a', 'b', 'c'].map((name) => ({ body, name }))) });
export const gather = aggregator<Body>({ name: 'gather', combine: ([first], manifest) => ({ ...first!.body, manifest }) });
