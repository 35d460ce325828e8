import { type Family, familyOf } from './addresses.js';
import type { Node } from './node-config.js';
import type { Backend, Spec } from './spec.js';
import type { Topology } from './types.js';

/** Which backends of a service new flows may get, and whether the quarantined ones had to stand in. */
export interface Candidates {
  readonly backends: readonly Backend[];
  readonly allOut: boolean;
}

/** Backends that take new flows of their own accord; when all are out, the quarantined ones as if nothing were wrong with them. */
function chooseActive(backends: readonly Backend[]): Candidates {
  const active = backends.filter((backend) => backend.state === 'active' && backend.weight > 0);
  if (active.length > 0) return { backends: active, allOut: false };
  const quarantined = backends.filter((backend) => backend.state === 'quarantined' && backend.weight > 0);
  return { backends: quarantined, allOut: quarantined.length > 0 };
}

function orTerminating(active: Candidates, backends: readonly Backend[]): Candidates {
  if (active.backends.length > 0) return active;
  return { backends: backends.filter((backend) => backend.state === 'terminating'), allOut: active.allOut };
}

/** Candidates of the cluster pool in one family: hints and preferences narrow the active ones, as in kube-proxy, never the terminating. */
export function clusterCandidates(spec: Spec, family: Family, node: Node | undefined): Candidates {
  const backends = spec.backends.filter((backend) => familyOf(backend.address) === family);
  const active = chooseActive(backends);
  const near = byHints(active.backends, node) ?? byPlace(active.backends, spec.topology, node) ?? active.backends;
  return orTerminating({ backends: near, allOut: active.allOut }, backends);
}

/** Candidates among the backends of this node: of none, when it is not known which node this is. */
export function localCandidates(spec: Spec, family: Family, node: Node | undefined): Candidates {
  const backends = spec.backends.filter(
    (backend) => familyOf(backend.address) === family && node !== undefined && backend.place?.node === node.name,
  );
  return orTerminating(chooseActive(backends), backends);
}

/**
 * The backends hinted for this node, else for this zone. Hints count only when every candidate has one and one of them is for us.
 * @source kubernetes pkg/proxy/topology.go, topologyModeFromHints
 */
function byHints(candidates: readonly Backend[], node: Node | undefined): readonly Backend[] | undefined {
  if (node === undefined || candidates.length === 0) return undefined;
  if (candidates.every((backend) => backend.place?.forNodes !== undefined)) {
    const mine = candidates.filter((backend) => backend.place!.forNodes!.includes(node.name));
    if (mine.length > 0) return mine;
  }
  const { zone } = node;
  if (zone === undefined || !candidates.every((backend) => backend.place?.forZones !== undefined)) return undefined;
  return nonEmpty(candidates.filter((backend) => backend.place!.forZones!.includes(zone)));
}

/** What the service prefers, where nobody gave hints: this node, else this zone, else anywhere. */
function byPlace(candidates: readonly Backend[], topology: Topology, node: Node | undefined): readonly Backend[] | undefined {
  if (topology === 'any' || node === undefined) return undefined;
  if (topology === 'prefer-same-node') {
    const here = nonEmpty(candidates.filter((backend) => backend.place?.node === node.name));
    if (here !== undefined) return here;
  }
  const { zone } = node;
  return zone === undefined ? undefined : nonEmpty(candidates.filter((backend) => backend.place?.zone === zone));
}

function nonEmpty<T>(list: readonly T[]): readonly T[] | undefined {
  return list.length > 0 ? list : undefined;
}
