import { type Family, familyOf } from './addresses.js';
import type { Node } from './node-config.js';
import type { Backend, Spec } from './spec.js';
import type { Topology } from './types.js';

/** Which backends of a service new flows may get, and whether the quarantined ones had to stand in. */
export interface Candidates {
  readonly backends: readonly Backend[];
  readonly allOut: boolean;
}

/**
 * Active backends with weight; else terminating ones; else, when all are out, the quarantined ones as if nothing were wrong with them.
 * `narrow` is for preferences: it never applies to the terminating.
 */
function choose(backends: readonly Backend[], narrow: (candidates: readonly Backend[]) => readonly Backend[]): Candidates {
  const inState = (state: Backend['state']) => backends.filter((backend) => backend.state === state);
  const weighty = (backend: Backend) => backend.weight > 0;
  const active = inState('active').filter(weighty);
  if (active.length > 0) return { backends: narrow(active), allOut: false };
  const terminating = inState('terminating');
  if (terminating.length > 0) return { backends: terminating, allOut: false };
  const quarantined = inState('quarantined').filter(weighty);
  return { backends: narrow(quarantined), allOut: quarantined.length > 0 };
}

/** Candidates of the cluster pool in one family: hints and preferences narrow the active ones, as in kube-proxy, never the terminating. */
export function clusterCandidates(spec: Spec, family: Family, node: Node | undefined): Candidates {
  const backends = spec.backends.filter((backend) => familyOf(backend.address) === family);
  return choose(backends, (active) => byHints(active, node) ?? byPlace(active, spec.topology, node) ?? active);
}

/** Candidates among the backends of this node: of none, when it is not known which node this is. */
export function localCandidates(spec: Spec, family: Family, node: Node | undefined): Candidates {
  const backends = spec.backends.filter(
    (backend) => familyOf(backend.address) === family && node !== undefined && backend.place?.node === node.name,
  );
  return choose(backends, (active) => active);
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
