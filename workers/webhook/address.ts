/**
 * Which addresses a callback may go to. Requestors name the host, and whoever owns its DNS decides what it resolves to: without this,
 * they could make the hub talk to what only the hub can reach (server-side request forgery).
 */
import ipaddr from 'ipaddr.js';

/** Global unicast is 2000::/3 (RFC 4291); all else is somebody's own network, or none. */
const globalV6 = ipaddr.IPv6.parseCIDR('2000::/3');
/** Global by the registries, and yet the virtual machine's own host: Azure's metadata. */
const hostsV4 = ipaddr.IPv4.parseCIDR('168.63.129.16/32');

/** Why nothing may be sent there; undefined: it may. `networks` (CIDR) are allowed whatever they are. */
export function refusedAddress(address: string, networks: readonly string[]): string | undefined {
  if (!ipaddr.isValid(address)) return `${address} is not an address`;
  // An IPv4 address in an IPv6 one (::ffff:10.0.0.1) is that IPv4 address.
  const parsed = ipaddr.process(address);
  if (
    networks.map((network) => ipaddr.parseCIDR(network)).some(([base, bits]) => base.kind() === parsed.kind() && parsed.match(base, bits))
  )
    return undefined;
  const range = parsed.range();
  if (range !== 'unicast') return `${address} is not a public address (${range})`;
  const isPublic = parsed instanceof ipaddr.IPv6 ? parsed.match(globalV6) : !parsed.match(hostsV4);
  return isPublic ? undefined : `${address} is not a public address`;
}
