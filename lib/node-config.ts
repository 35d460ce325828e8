import { type Family, familyOf, isInCidr, isLoopback } from './addresses.js';
import type { NodeConfig } from './types.js';
import { checkAddress, checkArray, checkCidrs, checkInteger, checkName, checkObject, type Place } from './validate.js';

const KEYS = ['name', 'addresses', 'zone', 'podCIDRs', 'nodePortAddresses', 'nodePortRange'];
const FAMILIES: readonly Family[] = [4, 6];
const NODE_PORT_RANGE: readonly [number, number] = [30000, 32767];

/** A checked NodeConfig, with what follows from it. */
export interface Node {
  readonly config: NodeConfig;
  readonly name: string;
  readonly zone: string | undefined;
  /** Addresses of node ports, of both families. */
  readonly nodePortAddresses: readonly string[];
  /** Addresses of host ports without one: all of the node but loopback. */
  readonly hostAddresses: readonly string[];
  readonly nodePortRange: readonly [number, number];
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
  if (given['nodePortAddresses'] !== undefined) {
    config.nodePortAddresses = checkCidrs(place, at('nodePortAddresses'), given['nodePortAddresses']);
  }
  if (given['nodePortRange'] !== undefined) config.nodePortRange = normalizeRange(place, at('nodePortRange'), given['nodePortRange']);
  const hostAddresses = config.addresses.filter((address) => !isLoopback(address));
  return {
    config,
    name: config.name,
    zone: config.zone,
    nodePortAddresses: FAMILIES.flatMap((family) => selectNodePortAddresses(config, hostAddresses, family)),
    hostAddresses,
    nodePortRange: config.nodePortRange ?? NODE_PORT_RANGE,
  };
}

/** Those in nodePortAddresses; where that says nothing about the family, its primary address. */
function selectNodePortAddresses(config: NodeConfig, hostAddresses: readonly string[], family: Family): string[] {
  const addresses = hostAddresses.filter((address) => familyOf(address) === family);
  const cidrs = (config.nodePortAddresses ?? []).filter((cidr) => familyOf(cidr) === family);
  if (cidrs.length === 0) return addresses.slice(0, 1);
  return addresses.filter((address) => cidrs.some((cidr) => isInCidr(address, cidr)));
}
