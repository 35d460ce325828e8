import { canonicalAddress, isLoopback } from './addresses.js';
import { type Backend, type BackendPlace, DEFAULTS, type Frontend, type Spec, toPublic } from './spec.js';
import type { Algorithm, BackendState, FrontendKind, OnBackendRemoved, Topology, TrafficPolicy } from './types.js';
import {
  checkAddress,
  checkArray,
  checkChoice,
  checkCidrs,
  checkInteger,
  checkName,
  checkObject,
  checkPort,
  isObject,
  isPort,
  notAnAddress,
  notAPort,
  PROTOCOLS,
  type Place,
} from './validate.js';

const KINDS: readonly FrontendKind[] = ['cluster', 'nodePort', 'external', 'loadBalancer', 'hostPort'];
const STATES: readonly BackendState[] = ['active', 'terminating', 'quarantined', 'maintenance'];
const ALGORITHMS: readonly Algorithm[] = ['random', 'round-robin', 'maglev', 'source-hash'];
const POLICIES: readonly TrafficPolicy[] = ['Cluster', 'Local'];
const TOPOLOGIES: readonly Topology[] = ['any', 'prefer-same-zone', 'prefer-same-node'];
const FORWARDINGS = ['snat', 'dsr'] as const;
const ON_NO_BACKENDS = ['reject', 'drop'] as const;
const ON_BACKEND_REMOVED = ['keep', 'reset'] as const;

const FRONTEND_KEYS = ['kind', 'address', 'port', 'protocol', 'sourceRanges'];
const BACKEND_KEYS = ['address', 'port', 'weight', 'state', 'node', 'zone', 'forZones', 'forNodes', 'via'];
const SERVICE_KEYS = [
  'name',
  'address',
  'port',
  'protocol',
  'frontends',
  'backends',
  'algorithm',
  'affinity',
  'internalTrafficPolicy',
  'externalTrafficPolicy',
  'sourceRanges',
  'topology',
  'forwarding',
  'onNoBackends',
  'onBackendRemoved',
  'labels',
];
const AFFINITY_MAX_SECONDS = 86400;
const RESET_AFTER_MAX_SECONDS = 86400;

type Writable<T> = { -readonly [K in keyof T]: T[K] };

function normalizeNames(place: Place, path: string, value: unknown): readonly string[] | undefined {
  const names = checkArray(place, path, value).map((item, i) => checkName(place, `${path}[${i}]`, item));
  return names.length === 0 ? undefined : names;
}

function normalizePlace(place: Place, i: number, value: Record<string, unknown>): BackendPlace | undefined {
  const { node, zone, forZones, forNodes, via } = value;
  const at = {
    node: node === undefined ? undefined : checkName(place, `backends[${i}].node`, node),
    zone: zone === undefined ? undefined : checkName(place, `backends[${i}].zone`, zone),
    forZones: forZones === undefined ? undefined : normalizeNames(place, `backends[${i}].forZones`, forZones),
    forNodes: forNodes === undefined ? undefined : normalizeNames(place, `backends[${i}].forNodes`, forNodes),
    via: via === undefined ? undefined : normalizeVia(place, `backends[${i}].via`, via),
  };
  return Object.values(at).some((field) => field !== undefined) ? at : undefined;
}

function normalizeVia(place: Place, path: string, value: unknown): string {
  const via = checkAddress(place, path, value);
  if (isLoopback(via)) throw place.invalid(path, "be an address that other machines reach, as the backend's node's is, not loopback", via);
  return via;
}

function normalizeBackend(place: Place, value: unknown, i: number): Backend {
  if (!isObject(value)) throw place.invalid(`backends[${i}]`, 'be an object', value);
  // The usual case builds no path text; the checks that may throw look again.
  let address: unknown = value['address'];
  if (typeof address === 'string') address = canonicalAddress(address);
  if (typeof address !== 'string') throw notAnAddress(place, `backends[${i}].address`, value['address']);
  const port = value['port'];
  if (!isPort(port)) throw notAPort(place, `backends[${i}].port`, port);
  let weight: number = DEFAULTS.weight;
  let state: BackendState = DEFAULTS.state;
  let isPlaced = false;
  for (const key in value) {
    const field = value[key];
    if (field === undefined) continue;
    switch (key) {
      case 'address':
      case 'port':
        break;
      case 'weight':
        weight = checkInteger(place, `backends[${i}].weight`, field, 0, 65535);
        break;
      case 'state':
        state = checkChoice(place, `backends[${i}].state`, field, STATES);
        break;
      case 'node':
      case 'zone':
      case 'forZones':
      case 'forNodes':
      case 'via':
        isPlaced = true;
        break;
      default:
        throw place.unknownKey(`backends[${i}].${key}`, BACKEND_KEYS);
    }
  }
  return { address, port, weight, state, place: isPlaced ? normalizePlace(place, i, value) : undefined };
}

/** Checks the backends of a service, also those given to setBackends. */
export function normalizeBackends(place: Place, value: unknown): Backend[] {
  const list = checkArray(place, 'backends', value);
  const backends: Backend[] = new Array(list.length);
  for (let i = 0; i < list.length; i++) backends[i] = normalizeBackend(place, list[i], i);
  const twice = firstDuplicate(backends);
  if (twice !== undefined) {
    const { address, port } = backends[twice[1]]!;
    throw place.wrong(`backends[${twice[1]}]`, `is the same as backends[${twice[0]}] (${address} port ${port}); give each backend once`);
  }
  return backends;
}

const FEW = 16;

function firstDuplicate(backends: readonly Backend[]): [number, number] | undefined {
  if (backends.length <= FEW) {
    for (let i = 1; i < backends.length; i++) {
      const { address, port } = backends[i]!;
      for (let j = 0; j < i; j++) if (backends[j]!.port === port && backends[j]!.address === address) return [j, i];
    }
    return undefined;
  }
  const seen = new Map<string, number>();
  for (let i = 0; i < backends.length; i++) {
    const key = `${backends[i]!.address} ${backends[i]!.port}`;
    const first = seen.get(key);
    if (first !== undefined) return [first, i];
    seen.set(key, i);
  }
  return undefined;
}

const NEEDS_ADDRESS: Readonly<Record<FrontendKind, boolean>> = {
  cluster: true,
  external: true,
  loadBalancer: true,
  nodePort: false,
  hostPort: false,
};

/** Ports that a node port may have; undefined: any, as nothing is known of the node. */
export type PortRange = readonly [number, number] | undefined;

function normalizeFrontend(place: Place, value: unknown, i: number, nodePorts: PortRange): Frontend {
  const path = `frontends[${i}]`;
  const given = checkObject(place, path, value, FRONTEND_KEYS);
  const kind = checkChoice(place, `${path}.kind`, given['kind'], KINDS);
  const port = checkPort(place, `${path}.port`, given['port']);
  const protocol =
    given['protocol'] === undefined ? DEFAULTS.protocol : checkChoice(place, `${path}.protocol`, given['protocol'], PROTOCOLS);
  if (given['address'] === undefined && NEEDS_ADDRESS[kind]) {
    throw place.wrong(`${path}.address`, `is missing; a frontend of kind '${kind}' needs its address`);
  }
  const address = given['address'] === undefined ? undefined : checkAddress(place, `${path}.address`, given['address']);
  if (kind === 'nodePort' && address !== undefined && isLoopback(address)) {
    throw place.invalid(`${path}.address`, 'be an address of the node that is not loopback', address);
  }
  if (kind === 'nodePort' && nodePorts !== undefined && (port < nodePorts[0] || port > nodePorts[1])) {
    throw place.invalid(`${path}.port`, `be ${nodePorts[0]} to ${nodePorts[1]}, the node's nodePortRange`, port);
  }
  const sourceRanges =
    given['sourceRanges'] === undefined ? undefined : normalizeRanges(place, `${path}.sourceRanges`, given['sourceRanges']);
  return { kind, address, port, protocol, sourceRanges };
}

/** Different lists that a service may have: they are told apart by 8 bits. */
const RANGE_LISTS_MAX = 255;

/** No ranges are no restriction. */
function normalizeRanges(place: Place, path: string, value: unknown): readonly string[] | undefined {
  const ranges = [...new Set(checkCidrs(place, path, value))];
  return ranges.length === 0 ? undefined : ranges;
}

/** The shorthand as a frontend; undefined when none of its keys is given. */
function normalizeShorthand(place: Place, given: Record<string, unknown>): Frontend | undefined {
  const { address, port, protocol } = given;
  if (address === undefined && port === undefined && protocol === undefined) return undefined;
  if (address === undefined) throw place.wrong('address', "is missing; 'address' and 'port' together are one frontend of kind 'cluster'");
  return {
    kind: 'cluster',
    address: checkAddress(place, 'address', address),
    port: checkPort(place, 'port', port),
    protocol: protocol === undefined ? DEFAULTS.protocol : checkChoice(place, 'protocol', protocol, PROTOCOLS),
    sourceRanges: undefined,
  };
}

function normalizeFrontends(place: Place, given: Record<string, unknown>, nodePorts: PortRange): Frontend[] {
  const shorthand = normalizeShorthand(place, given);
  const list = given['frontends'] === undefined ? [] : checkArray(place, 'frontends', given['frontends']);
  const listed = list.map((item, i) => normalizeFrontend(place, item, i, nodePorts));
  const frontends: Frontend[] = shorthand === undefined ? listed : [shorthand, ...listed];
  if (frontends.length === 0) {
    throw place.wrong('frontends', "is missing or empty; give 'address' and 'port', or at least one frontend");
  }
  if (new Set(frontends.map(({ sourceRanges }) => sourceRanges?.join())).size > RANGE_LISTS_MAX) {
    throw place.wrong('frontends', `have more than ${RANGE_LISTS_MAX} different sourceRanges; use fewer, or several services`);
  }
  const first = new Map<string, number>();
  for (let i = 0; i < frontends.length && frontends.length > 1; i++) {
    // Of any kind: the datapath tells frontends apart by these three alone.
    const { address, port, protocol } = frontends[i]!;
    const name = `${address} ${port} ${protocol}`;
    const twice = first.get(name);
    first.set(name, i);
    if (twice === undefined) continue;
    const nth = (n: number) => (shorthand === undefined ? `frontends[${n}]` : n === 0 ? "the shorthand 'address'" : `frontends[${n - 1}]`);
    throw place.wrong(nth(i), `has the address, port and protocol of ${nth(twice)}; give each frontend once`);
  }
  return frontends;
}

function normalizeAffinity(place: Place, value: unknown): number {
  const given = checkObject(place, 'affinity', value, ['clientIP', 'timeoutSeconds']);
  if (given['clientIP'] !== true) throw place.invalid('affinity.clientIP', 'be true (leave affinity out for none)', given['clientIP']);
  const seconds = given['timeoutSeconds'];
  return seconds === undefined
    ? DEFAULTS.affinitySeconds
    : checkInteger(place, 'affinity.timeoutSeconds', seconds, 1, AFFINITY_MAX_SECONDS);
}

function normalizeOnBackendRemoved(place: Place, value: unknown): OnBackendRemoved {
  if (!isObject(value)) return checkChoice(place, 'onBackendRemoved', value, ON_BACKEND_REMOVED);
  const { resetAfterSeconds } = checkObject(place, 'onBackendRemoved', value, ['resetAfterSeconds']);
  return { resetAfterSeconds: checkInteger(place, 'onBackendRemoved.resetAfterSeconds', resetAfterSeconds, 1, RESET_AFTER_MAX_SECONDS) };
}

function normalizeLabels(place: Place, value: unknown): Record<string, string> {
  if (!isObject(value)) throw place.invalid('labels', 'be an object of strings', value);
  const labels: [string, string][] = [];
  for (const key in value) {
    const text = value[key];
    if (text === undefined) continue;
    if (typeof text !== 'string') throw place.invalid(`labels[${JSON.stringify(key)}]`, 'be a string', text);
    labels.push([key, text]);
  }
  return Object.fromEntries(labels);
}

function setServiceField(place: Place, spec: Writable<Spec>, key: string, value: unknown): void {
  switch (key) {
    case 'name':
    case 'address':
    case 'port':
    case 'protocol':
    case 'frontends':
      break;
    case 'backends':
      spec.backends = normalizeBackends(place, value);
      break;
    case 'algorithm':
      spec.algorithm = checkChoice(place, key, value, ALGORITHMS);
      break;
    case 'affinity':
      spec.affinity = normalizeAffinity(place, value);
      break;
    case 'internalTrafficPolicy':
      spec.internalTrafficPolicy = checkChoice(place, key, value, POLICIES);
      break;
    case 'externalTrafficPolicy':
      spec.externalTrafficPolicy = checkChoice(place, key, value, POLICIES);
      break;
    case 'sourceRanges':
      spec.sourceRanges = normalizeRanges(place, key, value);
      break;
    case 'forwarding':
      spec.forwarding = checkChoice(place, key, value, FORWARDINGS);
      break;
    case 'topology':
      spec.topology = checkChoice(place, key, value, TOPOLOGIES);
      break;
    case 'onNoBackends':
      spec.onNoBackends = checkChoice(place, key, value, ON_NO_BACKENDS);
      break;
    case 'onBackendRemoved':
      spec.onBackendRemoved = normalizeOnBackendRemoved(place, value);
      break;
    case 'labels':
      spec.labels = normalizeLabels(place, value);
      break;
    default:
      throw place.unknownKey(key, SERVICE_KEYS);
  }
}

/** Checks a whole spec and returns a copy of it with defaults filled in. Names the service in `place` as soon as it is known. */
export function normalizeSpec(place: Place, value: unknown, nodePorts: PortRange): Spec {
  if (!isObject(value)) throw place.notAnObject('the service', value);
  const name = checkName(place, 'name', value['name']);
  place.object = name;
  const spec: Writable<Spec> = {
    name,
    frontends: [],
    backends: [],
    algorithm: DEFAULTS.algorithm,
    affinity: DEFAULTS.affinity,
    internalTrafficPolicy: DEFAULTS.internalTrafficPolicy,
    externalTrafficPolicy: DEFAULTS.externalTrafficPolicy,
    sourceRanges: undefined,
    topology: DEFAULTS.topology,
    forwarding: undefined,
    onNoBackends: DEFAULTS.onNoBackends,
    onBackendRemoved: DEFAULTS.onBackendRemoved,
    labels: undefined,
  };
  for (const key in value) {
    const field = value[key];
    if (field !== undefined) setServiceField(place, spec, key, field);
  }
  spec.frontends = normalizeFrontends(place, value, nodePorts);
  return spec;
}

/** Checks a change and returns the spec that it makes of `current`. */
export function normalizeChange(place: Place, current: Spec, value: unknown, nodePorts: PortRange): Spec {
  if (!isObject(value)) throw place.notAnObject('the change', value);
  if (value['name'] !== undefined) throw place.wrong('name', 'cannot be changed; remove the service and add it under the other name');
  const merged: Record<string, unknown> = { ...toPublic(current) };
  for (const key in value) {
    const field = value[key];
    if (!SERVICE_KEYS.includes(key)) throw place.unknownKey(key, SERVICE_KEYS.slice(1));
    if (field !== undefined) merged[key] = field === null ? undefined : field;
  }
  if (value['frontends'] === undefined) mergeShorthand(place, current, merged, value);
  return normalizeSpec(place, merged, nodePorts);
}

/** The shorthand in a change without `frontends` is about the one frontend that a shorthand would have made. */
function mergeShorthand(place: Place, current: Spec, merged: Record<string, unknown>, change: Record<string, unknown>): void {
  const key = ['address', 'port', 'protocol'].find((name) => change[name] !== undefined);
  if (key === undefined) return;
  const clusters = current.frontends.filter((frontend) => frontend.kind === 'cluster');
  if (clusters.length !== 1) {
    throw place.wrong(
      key,
      `is short for the one frontend of kind 'cluster', and the service has ${clusters.length}; change 'frontends' instead`,
    );
  }
  const [old] = clusters;
  const keep = (name: 'address' | 'port' | 'protocol') => (change[name] === undefined ? old![name] : (change[name] ?? undefined));
  for (const name of ['address', 'port', 'protocol'] as const) merged[name] = keep(name);
  const rest = current.frontends.filter((frontend) => frontend !== old);
  merged['frontends'] = rest.map(({ kind, address, port, protocol, sourceRanges }) => ({ kind, address, port, protocol, sourceRanges }));
}
