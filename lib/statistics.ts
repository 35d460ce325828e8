import { fromKernel } from './addresses.js';
import { toCounter } from './counter.js';
import type { Entry, Model } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { type Reason, reasonByNumber, reasons } from './reasons.js';
import type { AffinityEntry, ConnectionFilter, DatapathStats, Protocol, ServiceStats, Totals } from './types.js';
import { checkChoice, checkName, checkOptions, Place } from './validate.js';

const SOCKET = 0;

function totals(connections: bigint, failures: bigint): Totals {
  return { connections: toCounter(connections), packets: toCounter(0n), bytes: toCounter(0n), failures: toCounter(failures) };
}

/** Counts of everything since the maps were made. */
export function datapathStats(native: NativeBalancer): DatapathStats {
  const { hooks, connections } = native.counters();
  const byReason = {} as DatapathStats['byReason'];
  let failures = 0n;
  for (const reason of Object.keys(reasons) as Reason[]) {
    const { number, verdict } = reasons[reason];
    // The programs count forwarded connections by backend only.
    let sum = reason === 'forwarded' ? connections : 0n;
    for (const counts of hooks) sum += counts[number] ?? 0n;
    byReason[reason] = toCounter(sum);
    if (verdict === 'reject' || verdict === 'drop') failures += hooks[SOCKET]?.[number] ?? 0n;
  }
  return { byHook: { socket: totals(connections, failures) }, byReason };
}

/** Counts of one service since it was added. */
export function serviceStats(native: NativeBalancer, entry: Entry): ServiceStats {
  const { failures, retired, backends: counted } = native.serviceStats(entry.name);
  let connections = retired;
  const byEndpoint = new Map<string, { connections: bigint; failures: bigint }>();
  for (const backend of counted) {
    connections += backend.connections;
    byEndpoint.set(`${fromKernel(backend.address)} ${backend.port}`, backend);
  }
  const backends = entry.spec.backends.map(({ address, port, state }) => {
    const counts = byEndpoint.get(`${address} ${port}`);
    return { address, port, state, ...totals(counts?.connections ?? 0n, counts?.failures ?? 0n) };
  });
  return { service: entry.name, ...totals(connections, failures), backends };
}

interface CheckedFilter {
  service: string | undefined;
  client: string | undefined;
  backend: string | undefined;
  protocol: Protocol | undefined;
}

function checkFilter(operation: string, value: unknown): CheckedFilter {
  const place = new Place(operation);
  const { service, client, backend, protocol } = checkOptions(place, value, ['service', 'client', 'backend', 'protocol']);
  const text = (key: string, given: unknown) => (given === undefined ? undefined : checkName(place, key, given));
  return {
    service: text('service', service),
    client: text('client', client),
    backend: text('backend', backend),
    protocol: protocol === undefined ? undefined : checkChoice<Protocol>(place, 'protocol', protocol, ['tcp', 'udp']),
  };
}

/** Which client gets which backend of which service, as of now. */
export function listAffinities(native: NativeBalancer, model: Model, given: ConnectionFilter | undefined): AffinityEntry[] {
  const filter = checkFilter('affinities', given);
  const entries: AffinityEntry[] = [];
  for (const found of native.affinities()) {
    const address = fromKernel(found.address);
    const entry = {
      client: `netns:${found.clientNetns}`,
      service: found.service,
      backend: { address, port: found.port },
      expiresInMs: found.expiresInMs,
    };
    if (matches(filter, entry, model.services.get(found.service))) entries.push(entry);
  }
  return entries;
}

function matches(filter: CheckedFilter, { client, service, backend }: AffinityEntry, entry: Entry | undefined): boolean {
  if (filter.service !== undefined && filter.service !== service) return false;
  if (filter.client !== undefined && filter.client !== client) return false;
  if (filter.backend !== undefined && filter.backend !== backend.address && filter.backend !== endpointText(backend)) return false;
  return filter.protocol === undefined || (entry?.spec.frontends.some(({ protocol }) => protocol === filter.protocol) ?? false);
}

/** `10.0.0.1:80`, `[fd00::1]:80`. */
export function endpointText({ address, port }: { address: string; port: number }): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Name of a reason's number; a number from a newer program keeps itself. */
export function reasonName(number: number): Reason {
  return reasonByNumber.get(number) ?? (`reason-${number}` as Reason);
}
