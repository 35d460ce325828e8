import type {
  Algorithm,
  BackendSpec,
  BackendState,
  FrontendKind,
  FrontendSpec,
  NormalizedServiceSpec,
  OnBackendRemoved,
  Protocol,
  ServiceSpec,
  Topology,
  TrafficPolicy,
} from './types.js';

/**
 * Specs as this library works with them: every field always there, so that the objects of thousands of services are of one shape. Never
 * changed once made, never handed out.
 */
export interface Frontend {
  readonly kind: FrontendKind;
  /** undefined: addresses of the node. */
  readonly address: string | undefined;
  readonly port: number;
  readonly protocol: Protocol;
  /** undefined: everyone. */
  readonly sourceRanges: readonly string[] | undefined;
}

export interface Backend {
  readonly address: string;
  readonly port: number;
  readonly weight: number;
  readonly state: BackendState;
  /** Apart, as most have none and there are hundreds of thousands of backends. */
  readonly place: BackendPlace | undefined;
}

export interface BackendPlace {
  readonly node: string | undefined;
  readonly zone: string | undefined;
  readonly forZones: readonly string[] | undefined;
  readonly forNodes: readonly string[] | undefined;
  readonly via: string | undefined;
}

export interface Spec {
  readonly name: string;
  readonly frontends: readonly Frontend[];
  readonly backends: readonly Backend[];
  readonly algorithm: Algorithm;
  /** Seconds; 0: none. */
  readonly affinity: number;
  readonly internalTrafficPolicy: TrafficPolicy;
  readonly externalTrafficPolicy: TrafficPolicy;
  readonly sourceRanges: readonly string[] | undefined;
  readonly topology: Topology;
  readonly forwarding: 'snat' | 'dsr' | undefined;
  readonly onNoBackends: 'reject' | 'drop';
  readonly onBackendRemoved: Readonly<OnBackendRemoved>;
  readonly labels: Readonly<Record<string, string>> | undefined;
}

export const DEFAULTS = {
  protocol: 'tcp',
  weight: 1,
  state: 'active',
  algorithm: 'random',
  affinity: 0,
  /** Of an affinity that does not say. */
  affinitySeconds: 10800,
  internalTrafficPolicy: 'Cluster',
  externalTrafficPolicy: 'Cluster',
  topology: 'any',
  onNoBackends: 'reject',
  onBackendRemoved: 'keep',
} as const;

/** The same service with other backends. */
export function withBackends(spec: Spec, backends: readonly Backend[]): Spec {
  return {
    name: spec.name,
    frontends: spec.frontends,
    backends,
    algorithm: spec.algorithm,
    affinity: spec.affinity,
    internalTrafficPolicy: spec.internalTrafficPolicy,
    externalTrafficPolicy: spec.externalTrafficPolicy,
    sourceRanges: spec.sourceRanges,
    topology: spec.topology,
    forwarding: spec.forwarding,
    onNoBackends: spec.onNoBackends,
    onBackendRemoved: spec.onBackendRemoved,
    labels: spec.labels,
  };
}

function publicFrontend(frontend: Frontend): FrontendSpec {
  const { kind, address, port, protocol, sourceRanges } = frontend;
  const result: FrontendSpec = address === undefined ? { kind, port, protocol } : { kind, address, port, protocol };
  if (sourceRanges !== undefined) result.sourceRanges = [...sourceRanges];
  return result;
}

function publicBackend(backend: Backend): BackendSpec {
  const result: BackendSpec = { address: backend.address, port: backend.port, weight: backend.weight, state: backend.state };
  if (backend.place === undefined) return result;
  const { node, zone, forZones, forNodes, via } = backend.place;
  if (node !== undefined) result.node = node;
  if (zone !== undefined) result.zone = zone;
  if (forZones !== undefined) result.forZones = [...forZones];
  if (forNodes !== undefined) result.forNodes = [...forNodes];
  if (via !== undefined) result.via = via;
  return result;
}

/** A fresh copy in the form that users write and read. */
export function toPublic(spec: Spec): ServiceSpec & Pick<Required<ServiceSpec>, 'frontends' | 'backends' | 'algorithm'> {
  return {
    name: spec.name,
    frontends: spec.frontends.map(publicFrontend),
    backends: spec.backends.map(publicBackend),
    algorithm: spec.algorithm,
    ...(spec.affinity === 0 ? {} : { affinity: { clientIP: true, timeoutSeconds: spec.affinity } }),
    internalTrafficPolicy: spec.internalTrafficPolicy,
    externalTrafficPolicy: spec.externalTrafficPolicy,
    ...(spec.sourceRanges === undefined ? {} : { sourceRanges: [...spec.sourceRanges] }),
    topology: spec.topology,
    ...(spec.forwarding === undefined ? {} : { forwarding: spec.forwarding }),
    onNoBackends: spec.onNoBackends,
    onBackendRemoved: typeof spec.onBackendRemoved === 'string' ? spec.onBackendRemoved : { ...spec.onBackendRemoved },
    ...(spec.labels === undefined ? {} : { labels: { ...spec.labels } }),
  };
}

/** The normal form, for Service.spec. */
export function toNormalForm(spec: Spec): NormalizedServiceSpec {
  return deepFreeze(toPublic(spec));
}

function deepFreeze<T extends object>(value: T): Readonly<T> {
  for (const item of Object.values(value)) if (typeof item === 'object' && item !== null) deepFreeze(item);
  return Object.freeze(value);
}
