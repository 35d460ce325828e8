import { fromKernel } from './addresses.js';
import { PROTOCOL_NUMBER } from './compile.js';
import { toCounter } from './counter.js';
import type { Entry, Model } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { type Reason, reasonByNumber, reasons } from './reasons.js';
import type {
  AffinityEntry,
  ConnectionFilter,
  DatapathStats,
  Endpoint,
  Protocol,
  ServiceStats,
  Totals,
  TrackedConnection,
} from './types.js';
import { checkChoice, checkName, checkOptions, Place, PROTOCOLS } from './validate.js';

/** enum lb_hook of bpf/include/abi.h. */
const HOOKS = { socket: 0, tc: 1, xdp: 2 } as const;
const protocolOfNumber = new Map(PROTOCOLS.map((protocol) => [PROTOCOL_NUMBER[protocol], protocol]));

/** LB_COUNT_PACKETS and LB_COUNT_BYTES: no reasons have these numbers. */
const PACKETS = 0;
const BYTES = 63;

function totals(connections: bigint, failures: bigint, packets = 0n, bytes = 0n): Totals {
  return { connections: toCounter(connections), packets: toCounter(packets), bytes: toCounter(bytes), failures: toCounter(failures) };
}

/** Counts of everything since the maps were made. */
export function datapathStats(native: NativeBalancer): DatapathStats {
  const { hooks, connections } = native.counters();
  const byReason = {} as DatapathStats['byReason'];
  const failures = { socket: 0n, tc: 0n, xdp: 0n };
  for (const reason of Object.keys(reasons) as Reason[]) {
    const { number, verdict } = reasons[reason];
    let sum = 0n;
    for (const counts of hooks) sum += counts[number] ?? 0n;
    // Forwarded connections are counted by backend, whatever the hook.
    byReason[reason] = toCounter(reason === 'forwarded' ? connections : sum);
    if (verdict !== 'reject' && verdict !== 'drop') continue;
    for (const hook of ['socket', 'tc', 'xdp'] as const) failures[hook] += hooks[HOOKS[hook]]?.[number] ?? 0n;
  }
  // Packet programs count theirs besides.
  const forwarded = reasons['forwarded'].number;
  const ofHook = (hook: 'tc' | 'xdp') => {
    const counts = hooks[HOOKS[hook]];
    return totals(counts?.[forwarded] ?? 0n, failures[hook], counts?.[PACKETS], counts?.[BYTES]);
  };
  const byPackets = (hooks[HOOKS.tc]?.[forwarded] ?? 0n) + (hooks[HOOKS.xdp]?.[forwarded] ?? 0n);
  return { byHook: { socket: totals(connections - byPackets, failures.socket), tc: ofHook('tc'), xdp: ofHook('xdp') }, byReason };
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
    protocol: protocol === undefined ? undefined : checkChoice(place, 'protocol', protocol, PROTOCOLS),
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
  if (!isEndpoint(filter.backend, backend)) return false;
  return filter.protocol === undefined || (entry?.spec.frontends.some(({ protocol }) => protocol === filter.protocol) ?? false);
}

/** Connections of the packet path, as of now. */
export function listConnections(native: NativeBalancer, given: ConnectionFilter | undefined): TrackedConnection[] {
  const filter = checkFilter('connections', given);
  const list: TrackedConnection[] = [];
  for (const found of native.connections()) {
    const protocol = protocolOfNumber.get(found.protocol);
    if (protocol === undefined) continue;
    const client = { address: fromKernel(found.clientAddress), port: found.clientPort };
    const backend = { address: fromKernel(found.backendAddress), port: found.backendPort };
    if (filter.protocol !== undefined && filter.protocol !== protocol) continue;
    if (filter.service !== undefined && filter.service !== found.service) continue;
    if (!isEndpoint(filter.client, client) || !isEndpoint(filter.backend, backend)) continue;
    const { state, service, mode, ageMs, idleMs } = found;
    const frontend = { address: fromKernel(found.frontendAddress), port: found.frontendPort };
    const [packets, bytes] = [toCounter(found.packets), toCounter(found.bytes)];
    list.push({ protocol, state, client, service, frontend, backend, mode, ageMs, idleMs, packets, bytes });
  }
  return list;
}

/** Whether text, if any, names the endpoint: `address`, or `address:port`. */
function isEndpoint(text: string | undefined, endpoint: Endpoint): boolean {
  return text === undefined || text === endpoint.address || text === endpointText(endpoint);
}

/** `10.0.0.1:80`, `[fd00::1]:80`. */
export function endpointText({ address, port }: { address: string; port: number }): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Name of a reason's number; a number from a newer program keeps itself. */
export function reasonName(number: number): Reason {
  return reasonByNumber.get(number) ?? (`reason-${number}` as Reason);
}
