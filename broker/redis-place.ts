/** How messages name a Redis: by host and port, never with the password of its URL. */

/** `host:port`. Throws, without repeating the text, when that is no URL of a Redis. */
export function placeOf(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined) throw new Error('the Redis URL is not a URL: write it as in redis://user:password@host:6379/0');
  if (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:')
    throw new Error(`the Redis URL begins with ${parsed.protocol} instead of redis:// (or rediss:// for TLS)`);
  return `${parsed.hostname}:${parsed.port || '6379'}`;
}

/** What an error says; a refused connection to several addresses says it only by its code. */
export const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message || String((error as NodeJS.ErrnoException).code ?? error.name) : String(error);
