import { type Family, familyOf, isInCidr, isLoopback, Ranges } from './addresses.js';
import type { NodeConfig } from './types.js';
import { checkAddress, checkArray, checkBoolean, checkCidrs, checkInteger, checkName, checkObject, type Place } from './validate.js';

const KEYS = [
  'name',
  'addresses',
  'zone',
  'podCIDRs',
  'serviceCIDRs',
  'nodePortAddresses',
  'nodePortRange',
  'snatPortRange',
  'masqueradeAll',
];
const FAMILIES: readonly Family[] = [4, 6];
type PortRange = readonly [number, number];
const NODE_PORT_RANGE: PortRange = [30000, 32767];
const SNAT_PORT_RANGE: PortRange = [10000, 29999];

/** A checked NodeConfig, with what follows from it. */
export interface Node {
  readonly config: NodeConfig;
  readonly name: string;
  readonly zone: string | undefined;
  /** Addresses of node ports, of both families. */
  readonly nodePortAddresses: readonly string[];
  /** Addresses of host ports without one: all of the node but loopback. */
  readonly hostAddresses: readonly string[];
  readonly nodePortRange: PortRange;
  /** undefined: node ports leave no room. */
  readonly snatPortRange: PortRange | undefined;
  /** Its own addresses, and where its workloads are. */
  isOwn(address: string): boolean;
}

function normalizeAddresses(place: Place, path: string, value: unknown): string[] {
  const addresses = checkArray(place, path, value).map((item, i) => checkAddress(place, `${path}[${i}]`, item));
  const twice = addresses.findIndex((address, i) => addresses.indexOf(address) !== i);
  if (twice >= 0) throw place.wrong(`${path}[${twice}]`, `is ${addresses[twice]} a second time; give each address once`);
  return addresses;
}

function normalizeRange(place: Place, path: string, value: unknown): [number, number] {
  const range = checkArray(place, path, value);
  if (range.length !== 2) throw place.wrong(path, `must be [first, last], has ${range.length} elements`);
  const first = checkInteger(place, `${path}[0]`, range[0], 1, 65535);
  return [first, checkInteger(place, `${path}[1]`, range[1], first, 65535)];
}

/** Checks a NodeConfig and works out the addresses. `path` goes before those of its fields. */
export function normalizeNode(place: Place, value: unknown, path = ''): Node {
  const given = checkObject(place, path, value, KEYS);
  const at = (key: string) => (path ? `${path}.${key}` : key);
  const config: NodeConfig = {
    name: checkName(place, at('name'), given['name']),
    addresses: normalizeAddresses(place, at('addresses'), given['addresses']),
  };
  if (given['zone'] !== undefined) config.zone = checkName(place, at('zone'), given['zone']);
  if (given['podCIDRs'] !== undefined) config.podCIDRs = checkCidrs(place, at('podCIDRs'), given['podCIDRs']);
  if (given['serviceCIDRs'] !== undefined) {
    config.serviceCIDRs = checkCidrs(place, at('serviceCIDRs'), given['serviceCIDRs']);
    checkServiceCidrs(place, at('serviceCIDRs'), config);
  }
  if (given['nodePortAddresses'] !== undefined) {
    config.nodePortAddresses = checkCidrs(place, at('nodePortAddresses'), given['nodePortAddresses']);
  }
  if (given['nodePortRange'] !== undefined) config.nodePortRange = normalizeRange(place, at('nodePortRange'), given['nodePortRange']);
  if (given['snatPortRange'] !== undefined) config.snatPortRange = normalizeRange(place, at('snatPortRange'), given['snatPortRange']);
  if (given['masqueradeAll'] !== undefined) config.masqueradeAll = checkBoolean(place, at('masqueradeAll'), given['masqueradeAll']);
  const nodePortRange = config.nodePortRange ?? NODE_PORT_RANGE;
  const { snatPortRange } = config;
  if (snatPortRange !== undefined && overlap(snatPortRange, nodePortRange)) {
    const text = `must have no port of nodePortRange, ${nodePortRange.join(' to ')}, and is ${snatPortRange.join(' to ')}; move one of them`;
    throw place.wrong(at('snatPortRange'), text);
  }
  const own = new Set(config.addresses);
  const pods = new Ranges(config.podCIDRs ?? []);
  const hostAddresses = config.addresses.filter((address) => !isLoopback(address));
  return {
    config,
    name: config.name,
    zone: config.zone,
    nodePortAddresses: FAMILIES.flatMap((family) => selectNodePortAddresses(config, hostAddresses, family)),
    hostAddresses,
    nodePortRange,
    snatPortRange: snatPortRange ?? without(SNAT_PORT_RANGE, nodePortRange),
    isOwn: (address) => own.has(address) || pods.has(address),
  };
}

/** Nothing but services may have addresses there: all else would be dropped. */
function checkServiceCidrs(place: Place, path: string, { serviceCIDRs = [], addresses, podCIDRs = [] }: NodeConfig): void {
  for (const [i, cidr] of serviceCIDRs.entries()) {
    const address = addresses.find((one) => isInCidr(one, cidr));
    if (address !== undefined)
      throw place.wrong(`${path}[${i}]`, `is ${cidr}, which has the node's address ${address}; give the services' ranges only`);
    const pods = podCIDRs.find((other) => isInCidr(firstOf(other), cidr) || isInCidr(firstOf(cidr), other));
    if (pods !== undefined)
      throw place.wrong(`${path}[${i}]`, `is ${cidr}, which overlaps podCIDRs, ${pods}; give the services' ranges only`);
  }
}

function firstOf(cidr: string): string {
  return cidr.slice(0, cidr.indexOf('/'));
}

function overlap(a: PortRange, b: PortRange): boolean {
  return a[0] <= b[1] && b[0] <= a[1];
}

/** The larger part of `range` that has no port of `other`. */
function without(range: PortRange, other: PortRange): PortRange | undefined {
  if (!overlap(range, other)) return range;
  const parts: PortRange[] = [
    [range[0], other[0] - 1],
    [other[1] + 1, range[1]],
  ];
  const [best] = parts.sort((a, b) => b[1] - b[0] - (a[1] - a[0]));
  return best![0] <= best![1] ? best : undefined;
}

/** Those in nodePortAddresses; where that says nothing about the family, its primary address. */
function selectNodePortAddresses(config: NodeConfig, hostAddresses: readonly string[], family: Family): string[] {
  const addresses = hostAddresses.filter((address) => familyOf(address) === family);
  const cidrs = (config.nodePortAddresses ?? []).filter((cidr) => familyOf(cidr) === family);
  if (cidrs.length === 0) return addresses.slice(0, 1);
  return addresses.filter((address) => cidrs.some((cidr) => isInCidr(address, cidr)));
}
