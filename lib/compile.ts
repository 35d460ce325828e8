import { AlgorithmCode, BackendFlag, type FlatBackends, type FlatFrontends, FrontendKindCode, type PutService } from './native/binding.js';
import type { Node } from './node-config.js';
import { backendsJson } from './record.js';
import type { Backend, Frontend, Spec } from './spec.js';
import { type Candidates, clusterCandidates, localCandidates } from './topology.js';
import type { Protocol } from './types.js';

export const PROTOCOL_NUMBER: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17 };

const SCOPE_INTERNAL = 0;
const CLUSTER = 0;
const INTERNAL = 1;

/** A frontend at one address: what the datapath looks up. */
export interface FrontendKeys {
  /** `address port protocol` of each. */
  readonly names: readonly string[];
  readonly flat: FlatFrontends;
  /** Bit p: a frontend uses pool p. */
  readonly pools: number;
}

/** How people and the index of frontends name a key. */
export function keyName(address: string, port: number, protocol: Protocol): string {
  return `${address} ${port} ${protocol}`;
}

/** Whether changes of the node can change what the service compiles to. */
export function dependsOnNode(spec: Spec): boolean {
  if (spec.internalTrafficPolicy === 'Local' || spec.topology !== 'any') return true;
  for (const frontend of spec.frontends) if (frontend.address === undefined) return true;
  for (const backend of spec.backends) if (backend.forZones !== undefined || backend.forNodes !== undefined) return true;
  return false;
}

function addressesOf(frontend: Frontend, node: Node | undefined): readonly string[] {
  if (frontend.address !== undefined) return [frontend.address];
  if (node === undefined) return [];
  return frontend.kind === 'nodePort' ? node.nodePortAddresses : node.hostAddresses;
}

/**
 * The keys of a service. Sockets are inside, and what is inside reaches all backends at node ports and external addresses whatever the
 * external policy, so only cluster addresses have a pool of their own.
 */
export function compileFrontends(spec: Spec, node: Node | undefined): FrontendKeys {
  const names: string[] = [];
  const flat: FlatFrontends = [];
  let pools = 0;
  const clusterPool = spec.internalTrafficPolicy === 'Local' ? INTERNAL : CLUSTER;
  const add = (frontend: Frontend, address: string) => {
    const name = keyName(address, frontend.port, frontend.protocol);
    // A node port without an address and one with an address may meet; it is the same service, and the explicit one was first.
    if (names.length > 0 && names.includes(name)) return;
    const pool = frontend.kind === 'cluster' ? clusterPool : CLUSTER;
    names.push(name);
    flat.push(address, frontend.port, PROTOCOL_NUMBER[frontend.protocol], SCOPE_INTERNAL, pool, FrontendKindCode[frontend.kind]);
    pools |= 1 << pool;
  };
  let implicit = 0;
  for (const frontend of spec.frontends) {
    if (frontend.address === undefined) implicit++;
    else add(frontend, frontend.address);
  }
  if (implicit > 0) {
    for (const frontend of spec.frontends) {
      if (frontend.address === undefined) for (const address of addressesOf(frontend, node)) add(frontend, address);
    }
  }
  return { names, flat, pools };
}

/** The backends as the addon takes them. */
export function compileBackends(spec: Spec, keys: FrontendKeys, node: Node | undefined): FlatBackends {
  const simple = spec.topology === 'any' && keys.pools === 1 << CLUSTER;
  const flat: FlatBackends = [];
  if (simple) {
    const flags = BackendFlag.existing | BackendFlag.pool0;
    for (const backend of spec.backends) {
      if (!isPlain(backend)) return compileFlags(spec, keys, node);
      flat.push(backend.address, backend.port, backend.weight, flags);
    }
    return flat;
  }
  return compileFlags(spec, keys, node);
}

function isPlain(backend: Backend): boolean {
  return backend.state === 'active' && backend.weight > 0 && backend.forZones === undefined && backend.forNodes === undefined;
}

function compileFlags(spec: Spec, keys: FrontendKeys, node: Node | undefined): FlatBackends {
  const flags = new Map<Backend, number>();
  for (const family of [4, 6] as const) {
    const cluster = usesPool(keys, CLUSTER) ? clusterCandidates(spec, family, node) : NOBODY;
    const local = usesPool(keys, INTERNAL) ? localCandidates(spec, family, node) : NOBODY;
    for (const backend of spec.backends) {
      if (backend.family !== family) continue;
      const standsIn = cluster.allOut || (local.allOut && backend.node === node?.name);
      if (keepsFlows(backend, standsIn)) flags.set(backend, BackendFlag.existing);
    }
    for (const backend of cluster.backends) flags.set(backend, (flags.get(backend) ?? 0) | BackendFlag.pool0);
    for (const backend of local.backends) flags.set(backend, (flags.get(backend) ?? 0) | BackendFlag.pool1);
  }
  const flat: FlatBackends = [];
  for (const backend of spec.backends) {
    const bits = flags.get(backend) ?? 0;
    const isCandidate = (bits & ~BackendFlag.existing) !== 0;
    // A terminating backend of weight 0 is better than none, and a cell needs a weight.
    flat.push(backend.address, backend.port, isCandidate ? Math.max(1, backend.weight) : backend.weight, bits);
  }
  return flat;
}

const NOBODY: Candidates = { backends: [], allOut: false };

function usesPool(keys: FrontendKeys, pool: number): boolean {
  return (keys.pools & (1 << pool)) !== 0;
}

function keepsFlows(backend: Backend, standsIn: boolean): boolean {
  return backend.state === 'active' || backend.state === 'terminating' || (backend.state === 'quarantined' && standsIn);
}

/** The service as the addon takes it. `head`: the record up to the backends. */
export function compile(spec: Spec, owner: string, head: string, keys: FrontendKeys, node: Node | undefined): PutService {
  return {
    name: spec.name,
    owner,
    record: head + backendsJson(spec.backends),
    algorithm: AlgorithmCode[spec.algorithm],
    affinity: spec.affinity,
    drop: spec.onNoBackends === 'drop',
    localPools: keys.pools & (1 << INTERNAL),
    frontends: keys.flat,
    backends: compileBackends(spec, keys, node),
  };
}
