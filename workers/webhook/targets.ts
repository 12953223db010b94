/** Who may be called back where: the targets of hub.yaml, each an address with a name or all addresses that begin alike. */
import type { Principal } from '../../broker/access.js';
import type { Callbacks } from '../../broker/callback.js';
import { Fault } from '../../broker/fault.js';

export interface Target {
  readonly name: string;
  /** Its address; or the beginning, with `/` at the end, of those that requestors name. */
  readonly url?: string;
  readonly prefix?: string;
  /** Who may use it; absent: everybody. */
  readonly principals?: readonly string[];
  /** Networks (CIDR) that it may be in beside public ones. */
  readonly networks: readonly string[];
  /** Signing keys, as they are now: the first signs first. Throws when one cannot be had. */
  keys(): readonly Buffer[];
  /** Further headers, as they are now. */
  headers(): Readonly<Record<string, string>>;
}

export interface Targets extends Callbacks {
  /** Where a callback that was checked goes; undefined when hub.yaml does not say so any more. */
  find(callback: string, principal: string | undefined): { readonly target: Target; readonly url: URL } | undefined;
}

/** Longer addresses are nobody's. */
const longest = 2_000;

export function targetsOf(targets: readonly Target[]): Targets {
  const find: Targets['find'] = (callback, principal) => {
    const isFor = ({ principals }: Target) => principals === undefined || (principal !== undefined && principals.includes(principal));
    if (!callback.includes('://')) {
      const target = targets.find(({ name, url }) => name === callback && url !== undefined);
      return target?.url === undefined || !isFor(target) ? undefined : { target, url: new URL(target.url) };
    }
    const url = addressIn(callback);
    const target = url && targets.find((one) => isFor(one) && covers(one, url));
    return url === undefined || target === undefined ? undefined : { target, url };
  };
  return {
    find,
    check(callback: string, { name }: Principal) {
      const found = find(callback, name);
      if (found === undefined)
        throw new Fault(
          'forbidden',
          `${name} may not be called back at ${JSON.stringify(callback.slice(0, 200))}: callbacks are those of hub.yaml`,
          {
            reason: 'callback',
          },
        );
      return callback.includes('://') ? found.url.href : callback;
    },
  };
}

/** An address as the URL parser sees it, so that what is compared is what is called. */
function addressIn(text: string): URL | undefined {
  if (text.length > longest || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  return url.username === '' && url.password === '' && url.hash === '' && /^https?:$/.test(url.protocol) ? url : undefined;
}

function covers({ url: exact, prefix }: Target, url: URL): boolean {
  if (exact !== undefined) return new URL(exact).href === url.href;
  if (prefix === undefined) return false;
  const { origin, pathname } = new URL(prefix);
  // Some servers take these for a way up, too.
  return url.origin === origin && url.pathname.startsWith(pathname) && !/%2e|%2f|%5c/i.test(url.pathname);
}
