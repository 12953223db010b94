/** Calls to the hub: JSON there and back, refusals as `Refused`, and the hub's clock. */
import type { Problem } from './contract.js';

/** What the hub refused, or `status` 0: it could not be asked. */
export class Refused extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.detail);
    this.name = 'Refused';
    this.problem = problem;
  }
}

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

let onSignedOut: () => void = () => undefined;
/** Told whenever the hub says that nobody is signed in (any more). */
export function whenSignedOut(tell: () => void): void {
  onSignedOut = tell;
}

/** How far the hub's clock is before ours (ms). The Date header counts seconds: less than two says nothing. */
let ahead = 0;
export const hubNow = (): number => Date.now() + ahead;

/** Rejects with `Refused`, or with the signal's reason. */
export async function call<T>(method: Method, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  return send<T>(method, path, {
    headers: { accept: 'application/json', ...(method === 'GET' ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** Sends a file as it is. */
export function upload<T>(path: string, file: File): Promise<T> {
  return send<T>('POST', path, { headers: { 'content-type': file.type || 'application/octet-stream' }, body: file });
}

async function send<T>(method: Method, path: string, init: RequestInit): Promise<T> {
  const response = await fetch(path, { ...init, method, credentials: 'same-origin', cache: 'no-store' }).catch((error: unknown) => {
    if (init.signal?.aborted === true) throw error;
    throw new Refused({ status: 0, code: 'unreachable', detail: 'The hub cannot be reached.' });
  });
  const said = Date.parse(response.headers.get('date') ?? '');
  if (!Number.isNaN(said)) ahead = Math.abs(said - Date.now()) < 2_000 ? 0 : said - Date.now();
  if (response.ok) return (response.status === 204 ? undefined : await response.json()) as T;
  // A wrong password is a 401, too: it ends no session.
  if (response.status === 401 && path !== '/session') onSignedOut();
  throw new Refused({ ...(await problemOf(response)), status: response.status });
}

async function problemOf(response: Response): Promise<Problem> {
  const said = (await response.json().catch(() => ({}))) as Partial<Problem> | null;
  return { status: response.status, code: 'error', detail: `The hub answered ${response.status}.`, ...said };
}

export function problemFrom(error: unknown): Problem {
  return error instanceof Refused
    ? error.problem
    : { status: 0, code: 'error', detail: error instanceof Error ? error.message : String(error) };
}
