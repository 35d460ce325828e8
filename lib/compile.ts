import { familyOf } from './addresses.js';
import {
  AlgorithmCode,
  BackendFlag,
  type FlatBackends,
  type FlatFrontends,
  ForwardingCode,
  FRONTEND_FIELDS,
  FrontendKindCode,
  type PutService,
} from './native/binding.js';
import type { Node } from './node-config.js';
import { makeRecord } from './record.js';
import type { Backend, Frontend, Spec } from './spec.js';
import { type Candidates, clusterCandidates, localCandidates } from './topology.js';
import type { Protocol } from './types.js';

export const PROTOCOL_NUMBER: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17, sctp: 132 };

const SCOPE_INTERNAL = 0;
const SCOPE_EXTERNAL = 1;
const CLUSTER = 0;
const INTERNAL = 1;
const EXTERNAL = 2;

/** Whether another node can change what the service compiles to. */
export function dependsOnNode(spec: Spec, before: Node | undefined, after: Node | undefined): boolean {
  if (spec.internalTrafficPolicy === 'Local' || spec.externalTrafficPolicy === 'Local' || spec.topology !== 'any') return true;
  for (const backend of spec.backends) if (isLocal(backend, before) !== isLocal(backend, after)) return true;
  for (const { address } of spec.frontends) if (address === undefined) return true;
  for (const { place } of spec.backends) if (place?.forZones !== undefined || place?.forNodes !== undefined) return true;
  return false;
}

/** Whether the backend is on this node: packets go to it with the client's address, and its answers pass here. */
export function isLocal({ address, place }: Backend, node: Node | undefined): boolean {
  if (node === undefined) return false;
  return place?.node === undefined ? node.isOwn(address) : place.node === node.name;
}

/** One frontend at one address: what the datapath looks up. */
export interface Key extends Frontend {
  readonly address: string;
}

function hasAddress(frontend: Frontend): frontend is Key {
  return frontend.address !== undefined;
}

/**
 * The keys of a service, without those on addresses of a node that is not known. Where a frontend with an address and one without meet, it is
 * the one with the address.
 */
export function expandFrontends({ frontends }: Spec, node: Node | undefined): readonly Key[] {
  if (frontends.every(hasAddress)) return frontends;
  const keys = frontends.filter(hasAddress);
  if (node === undefined) return keys;
  for (const frontend of frontends) {
    if (hasAddress(frontend)) continue;
    for (const address of frontend.kind === 'nodePort' ? node.nodePortAddresses : node.hostAddresses) {
      const { kind, port, protocol, sourceRanges } = frontend;
      const isThere = keys.some((key) => key.address === address && key.port === port && key.protocol === protocol);
      if (!isThere) keys.push({ kind, address, port, protocol, sourceRanges });
    }
  }
  return keys;
}

/** How the index of frontends and people name a key. */
export function keyName({ address, port, protocol }: Key): string {
  return `${address} ${port} ${protocol}`;
}

/**
 * Sockets are inside, and what is inside reaches all backends at node ports and external addresses whatever the external policy: only cluster
 * addresses have a pool of their own.
 */
function poolOf(frontend: Frontend, spec: Spec): number {
  return frontend.kind === 'cluster' && spec.internalTrafficPolicy === 'Local' ? INTERNAL : CLUSTER;
}

/** Pool of those who come from outside. Cluster addresses are not for them. */
function outerPoolOf(spec: Spec): number {
  return spec.externalTrafficPolicy === 'Local' ? EXTERNAL : CLUSTER;
}

/** Who may use a frontend from outside. */
export function rangesOf(frontend: Frontend, spec: Spec): readonly string[] | undefined {
  return frontend.sourceRanges ?? (frontend.kind === 'loadBalancer' ? spec.sourceRanges : undefined);
}

/** Every frontend is a key for what is inside, and those that are not of kind 'cluster' are another one for what comes from outside. */
function compileFrontends(spec: Spec, keys: readonly Key[], ranges: (readonly string[])[]): FlatFrontends {
  const flat: FlatFrontends = new Array(keys.length * FRONTEND_FIELDS);
  const numbers = new Map<string, number>();
  const numberOf = (list: readonly string[] | undefined) => {
    if (list === undefined) return 0;
    const text = list.join();
    const known = numbers.get(text);
    if (known !== undefined) return known;
    numbers.set(text, ranges.push(list));
    return ranges.length;
  };
  let n = 0;
  const put = (key: Key, scope: number, pool: number, set: number) => {
    flat[n++] = key.address;
    flat[n++] = key.port;
    flat[n++] = PROTOCOL_NUMBER[key.protocol];
    flat[n++] = scope;
    flat[n++] = pool;
    flat[n++] = FrontendKindCode[key.kind];
    flat[n++] = set;
  };
  for (const key of keys) {
    put(key, SCOPE_INTERNAL, poolOf(key, spec), 0);
    if (key.kind !== 'cluster') put(key, SCOPE_EXTERNAL, outerPoolOf(spec), numberOf(rangesOf(key, spec)));
  }
  return flat;
}

/** Bit p: a frontend uses pool p. */
function usedPools(spec: Spec, keys: readonly Key[]): number {
  let pools = 0;
  for (const key of keys) {
    pools |= 1 << poolOf(key, spec);
    if (key.kind !== 'cluster') pools |= 1 << outerPoolOf(spec);
  }
  return pools;
}

/** The backends as the addon takes them. */
function compileBackends(spec: Spec, pools: number, node: Node | undefined): FlatBackends {
  if (spec.topology !== 'any' || pools !== 1 << CLUSTER) return compileFlags(spec, pools, node);
  const flags = BackendFlag.existing | BackendFlag.pool0;
  const flat: FlatBackends = new Array(spec.backends.length * 4);
  let n = 0;
  for (const backend of spec.backends) {
    if (!isPlain(backend)) return compileFlags(spec, pools, node);
    flat[n++] = backend.address;
    flat[n++] = backend.port;
    flat[n++] = backend.weight;
    flat[n++] = isLocal(backend, node) ? flags | BackendFlag.local : flags;
  }
  return flat;
}

/** Neither state nor hints make its use depend on others. */
function isPlain({ state, weight, place }: Backend): boolean {
  return state === 'active' && weight > 0 && (place === undefined || (place.forZones === undefined && place.forNodes === undefined));
}

/** Pools that are limited to this node. */
const LOCAL_POOLS = (1 << INTERNAL) | (1 << EXTERNAL);
const NOBODY: Candidates = { backends: [], allOut: false };

function compileFlags(spec: Spec, pools: number, node: Node | undefined): FlatBackends {
  const flags = new Map<Backend, number>();
  const localFlags = (pools & (1 << INTERNAL) ? BackendFlag.pool1 : 0) | (pools & (1 << EXTERNAL) ? BackendFlag.pool2 : 0);
  for (const family of [4, 6] as const) {
    const cluster = (pools & (1 << CLUSTER)) === 0 ? NOBODY : clusterCandidates(spec, family, node);
    const local = (pools & LOCAL_POOLS) === 0 ? NOBODY : localCandidates(spec, family, node);
    for (const backend of spec.backends) {
      if (familyOf(backend.address) !== family) continue;
      const standsIn = cluster.allOut || (local.allOut && backend.place?.node === node?.name);
      if (keepsFlows(backend, standsIn)) flags.set(backend, BackendFlag.existing);
    }
    for (const backend of cluster.backends) flags.set(backend, (flags.get(backend) ?? 0) | BackendFlag.pool0);
    for (const backend of local.backends) flags.set(backend, (flags.get(backend) ?? 0) | localFlags);
  }
  const flat: FlatBackends = [];
  for (const backend of spec.backends) {
    const bits = flags.get(backend) ?? 0;
    const isCandidate = (bits & ~BackendFlag.existing) !== 0;
    // A terminating backend of weight 0 is better than none, and a cell needs a weight.
    const weight = isCandidate ? Math.max(1, backend.weight) : backend.weight;
    flat.push(backend.address, backend.port, weight, isLocal(backend, node) ? bits | BackendFlag.local : bits);
  }
  return flat;
}

function keepsFlows({ state }: Backend, standsIn: boolean): boolean {
  return state === 'active' || state === 'terminating' || (state === 'quarantined' && standsIn);
}

function resetAfter({ onBackendRemoved }: Spec): number {
  if (onBackendRemoved === 'keep') return -1;
  return onBackendRemoved === 'reset' ? 0 : onBackendRemoved.resetAfterSeconds;
}

/** Outer destinations of direct server return. */
function compileVias({ backends }: Spec): (string | number)[] {
  const flat: (string | number)[] = [];
  for (let i = 0; i < backends.length; i++) {
    const via = backends[i]!.place?.via;
    if (via !== undefined) flat.push(i, via);
  }
  return flat;
}

/** The service as the addon takes it. `head`: its record up to the backends. */
export function compile(spec: Spec, owner: string, head: string, keys: readonly Key[], node: Node | undefined): PutService {
  const pools = usedPools(spec, keys);
  const ranges: (readonly string[])[] = [];
  const frontends = compileFrontends(spec, keys, ranges);
  return {
    name: spec.name,
    owner,
    record: makeRecord(head, spec.backends),
    algorithm: AlgorithmCode[spec.algorithm],
    affinity: spec.affinity,
    drop: spec.onNoBackends === 'drop',
    localPools: pools & LOCAL_POOLS,
    forwarding: spec.forwarding === undefined ? 0 : ForwardingCode[spec.forwarding],
    resetAfter: resetAfter(spec),
    ranges,
    frontends,
    backends: compileBackends(spec, pools, node),
    vias: compileVias(spec),
  };
}
