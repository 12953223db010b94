/** What every adapter that listens on a port must mind: who can reach it, and what to say when it cannot listen. */
import { isIP } from 'node:net';
import type { Access } from './access.js';

/** True for addresses and names that never leave this machine. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (isIP(name) === 4) return name.startsWith('127.');
  return name === '::1' || name === 'localhost' || name.endsWith('.localhost');
}

/** Without keys everybody who reaches an address is somebody. Throws what to do, unless the address is this machine's alone or `open` says that it is meant. */
export function refusePublicWithoutKeys(
  adapter: string,
  { host, open }: { readonly host: string; readonly open: boolean },
  access: Access,
): void {
  if (access.required || open || isLoopback(host)) return;
  const variable = `HUB_${adapter.toUpperCase()}`;
  throw new Error(
    `${adapter}: without principals everybody who reaches ${host} could use this hub. Add principals to hub.yaml (\`answerback key\` makes one), ` +
      `or listen on this machine only with ${variable}_HOST=127.0.0.1, or, where something else guards it, set ${variable}_OPEN=true`,
  );
}

/** Why a server cannot listen, and what mends it. */
export function cannotListen(
  adapter: string,
  { port, host }: { readonly port: number; readonly host: string },
  error: NodeJS.ErrnoException,
): Error {
  const variable = `HUB_${adapter.toUpperCase()}`;
  const why: Readonly<Record<string, string>> = {
    EADDRINUSE: `port ${port} on ${host} is taken: stop what listens there, or choose another one with ${variable}_PORT=${port + 1} (0: any free one)`,
    EACCES: `port ${port} needs rights that this user does not have: choose one above 1023 with ${variable}_PORT=8080`,
    EADDRNOTAVAIL: `this machine has no address ${host}: choose one that it has with ${variable}_HOST=127.0.0.1`,
    ENOTFOUND: `there is no host ${host}: choose an address of this machine with ${variable}_HOST=127.0.0.1`,
  };
  return new Error(`${adapter}: ${why[error.code ?? ''] ?? error.message}`, { cause: error });
}
