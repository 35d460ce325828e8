import type Long from 'long';
import type { LoadBalancerError } from './errors.js';
import type { Reason } from './reasons.js';

/** SCTP is balanced on its packets alone: no socket hook sees it connect. */
export type Protocol = 'tcp' | 'udp' | 'sctp';
export type Hook = 'socket' | 'tc' | 'xdp';
export type Verdict = 'forward' | 'pass' | 'reject' | 'drop';
export type Algorithm = 'random' | 'round-robin' | 'maglev' | 'source-hash';
export type FrontendKind = 'cluster' | 'nodePort' | 'external' | 'loadBalancer' | 'hostPort';
/**
 * Who gets new flows: active backends with a weight above 0; if none, terminating ones; if none, quarantined ones, as if they were active.
 * Backends in maintenance never do. Active and terminating ones keep their flows; so do established TCP flows of the others, whose connected UDP
 * sockets are moved off.
 */
export type BackendState = 'active' | 'terminating' | 'quarantined' | 'maintenance';
export type TrafficPolicy = 'Cluster' | 'Local';
/**
 * Topology hints of backends come first, by kube-proxy's rule: they count when every candidate has some and one is for this node, or this zone.
 * Without them 'prefer-same-zone' takes backends of the node's zone, 'prefer-same-node' those of the node, then of the zone; where there are none, all.
 */
export type Topology = 'any' | 'prefer-same-zone' | 'prefer-same-node';

/** A transport address: IPv4 dotted or IPv6 text, port 1..65535. */
export interface Endpoint {
  address: string;
  port: number;
}

/** An address, port and protocol that a service answers at. */
export interface FrontendSpec {
  kind: FrontendKind;
  /** Omitted for nodePort: the addresses that `nodePortAddresses` selects; for hostPort: every address of the node. */
  address?: string;
  port: number;
  /** Default 'tcp'. */
  protocol?: Protocol;
  /** CIDRs that may use this frontend from outside; others are dropped. Packet hooks. Default, and where the list is empty: everyone. */
  sourceRanges?: string[];
}

/** Where the traffic of a service may go. */
export interface BackendSpec extends Endpoint {
  /** 0..65535, default 1. 0: no new flows, existing ones go on. */
  weight?: number;
  /** Default 'active'. */
  state?: BackendState;
  /** Name of the node that it runs on. */
  node?: string;
  zone?: string;
  /** Topology hints, as an EndpointSlice carries them; the library applies kube-proxy's rule. */
  forZones?: string[];
  forNodes?: string[];
  /**
   * Where DSR by 'ipip' and 'geneve' sends packets for it, of either family; default: the backend itself. An address of the backend's node: by 'ipip' it is
   * the node that chooses then when several of the service's backends run there.
   */
  via?: string;
}

export type OnBackendRemoved = 'keep' | 'reset' | { resetAfterSeconds: number };

/** A service: its frontends, its backends, and how one is chosen. */
export interface ServiceSpec {
  /** Unique, at most 253 bytes, e.g. `default/web:http`. */
  name: string;
  /** Shorthand for one frontend of kind 'cluster', which comes before `frontends`. */
  address?: string;
  port?: number;
  protocol?: Protocol;
  frontends?: FrontendSpec[];
  backends?: BackendSpec[];
  /** Default 'random'. */
  algorithm?: Algorithm;
  /** timeoutSeconds 1..86400, default 10800; sliding; one affinity for all frontends of the service. */
  affinity?: { clientIP: true; timeoutSeconds?: number };
  /** Which backends clients of this node get at cluster addresses. Default 'Cluster'. */
  internalTrafficPolicy?: TrafficPolicy;
  /** Concerns traffic from outside only, which sockets of this node never are. Default 'Cluster'. */
  externalTrafficPolicy?: TrafficPolicy;
  /** CIDRs that may use frontends of kind 'loadBalancer' from outside, where these have no `sourceRanges` of their own. */
  sourceRanges?: string[];
  /** Default 'any', which still obeys topology hints. */
  topology?: Topology;
  /** How packets get to backends on other nodes. Default 'snat'. */
  forwarding?: 'snat' | 'dsr';
  /** Default 'reject'. */
  onNoBackends?: 'reject' | 'drop';
  /**
   * Established TCP flows of a backend that is removed. 'reset' and `resetAfterSeconds` (1..86400) end those that were made while it was set: sockets of this
   * kernel at once, each side of a connection of the packet path with its next packet. Connected UDP sockets are always destroyed once their backend takes no
   * flows. Default 'keep'.
   */
  onBackendRemoved?: OnBackendRemoved;
  /** Kept with the service, for people and programs. */
  labels?: Record<string, string>;
}

/** A change of a service: null restores the default. `frontends` replaces all of them; the shorthand alone changes the one frontend of kind 'cluster'. */
export type ServiceChange = { [K in Exclude<keyof ServiceSpec, 'name'>]?: ServiceSpec[K] | null };

/** A service as it is kept: addresses in canonical text, the shorthand as a frontend, defaults filled in, frozen. */
export type NormalizedServiceSpec = Readonly<Required<Pick<ServiceSpec, 'name' | 'frontends' | 'backends' | 'algorithm'>> & ServiceSpec>;

/** A service of an open balancer. Once the service is removed, its methods fail with ERR_SERVICE_NOT_FOUND. */
export interface Service {
  readonly name: string;
  readonly owner: string;
  /** Normal form, defaults filled in; of a removed service the last one. */
  readonly spec: NormalizedServiceSpec;
  /** As LoadBalancer.setBackends. */
  setBackends(backends: readonly BackendSpec[]): void;
  /** As LoadBalancer.updateService. */
  update(change: ServiceChange): void;
  /** As LoadBalancer.removeService. */
  remove(): boolean;
  /** As LoadBalancer.stats of this service. */
  stats(): ServiceStats;
}

/** Options of apply() and plan(). */
export interface ApplyOptions {
  /** Whose services these are. Default 'default', which addService uses too. */
  owner?: string;
  /** Remove this owner's other services. Default true. */
  prune?: boolean;
  /** More removals than this: ERR_TOO_MANY_REMOVALS, nothing written. Default: any number. */
  maxRemovals?: number;
  /** Aborted before the call: nothing is written and its reason is thrown. A commit that has begun is not given up. */
  signal?: AbortSignal;
}

export interface ApplyResult {
  added: number;
  updated: number;
  removed: number;
  unchanged: number;
}

export interface PlannedChange {
  action: 'add' | 'update' | 'remove';
  service: string;
  /** Fields of the normal form that differ; of a new service all that it has. */
  fields: string[];
  /** 0..1 of the service's flow space that would go to another backend. */
  movedShare: number;
}

/** What apply() would do. */
export interface ApplyPlan {
  changes: PlannedChange[];
  /** What everything needs afterwards; connections and affinities come with traffic and count as 0. */
  needs: Capacity;
  fits: boolean;
}

/** Sizes of the maps: keys of frontends, backends, cells of the table, tracked connections, affinities. */
export interface Capacity {
  frontends: number;
  backends: number;
  cells: number;
  connections: number;
  affinities: number;
}

/** What the balancer has to know of the machine that it runs on. */
export interface NodeConfig {
  name: string;
  /** All addresses of the node, both families; the first of a family is its primary one. */
  addresses: string[];
  zone?: string;
  /** Sources in these are workloads of this node, and so are backends that do not say where they are. Omitted: it cannot be told. */
  podCIDRs?: string[];
  /**
   * Given: after the first complete apply (one that prunes), an address in them that no service holds is dropped, a held one with an unknown port or protocol is
   * rejected, for sockets, workloads and from outside.
   */
  serviceCIDRs?: string[];
  /** CIDRs; omitted, or none of a family: the primary address of that family. Never loopback. */
  nodePortAddresses?: string[];
  /** Ports that frontends of kind nodePort may have. Default [30000, 32767]. */
  nodePortRange?: [number, number];
  /**
   * Ports that packets to backends on other nodes get as their source. No node port may be among them; programs of the node should not use them.
   * Default [10000, 29999], without nodePortRange.
   */
  snatPortRange?: [number, number];
  /**
   * What workloads send to services at devices attached with role 'workload' reaches every backend with the node's address. Answers must come in by an attached
   * device: the workloads', and the external ones where backends are elsewhere. Default false.
   */
  masqueradeAll?: boolean;
}

/** Options of LoadBalancer.open(). */
export interface OpenOptions {
  /** bpffs directory that keeps everything. Omitted: nothing outlives the process. */
  pinPath?: string;
  /** Observer: takes no lock; changes throw ERR_READONLY. Default false. */
  readonly?: boolean;
  /** Path of a network namespace: devices, node addresses and bind protection are there. Default: the caller's. */
  netns?: string;
  /** Starting sizes. Default: 65536 each, 524288 cells. */
  capacity?: Partial<Capacity>;
  /** Seconds for which a silent flow keeps its backend on the packet path: 8000 for TCP, 60 for UDP. Default: those stored in the pins. */
  flowIdleSeconds?: { tcp?: number; udp?: number };
  /** As setNode; default: the one stored in the pins. */
  node?: NodeConfig;
  /** How long to wait for another writer; default 0. */
  lockTimeoutMs?: number;
  /** Gives up waiting for another writer. */
  signal?: AbortSignal;
}

/** A place in the kernel where the programs of a balancer run. */
export interface Attachment {
  readonly id: number;
  readonly kind: 'cgroup' | 'tc' | 'xdp';
  /** cgroup path, or device (pattern). */
  readonly target: string;
  /** Of devices: 'tcx' or 'clsact', 'native' or 'generic'. */
  readonly mode: string;
  /** 'waiting': the target is not there yet, or went away; 'lost': it will not come back, or was detached. */
  readonly state: 'attached' | 'waiting' | 'lost';
  /**
   * Takes the programs out; resolves at once when they are out already.
   * @throws ERR_CLOSED, ERR_READONLY, ERR_KERNEL
   */
  detach(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Options of attachCgroup(). */
export interface CgroupOptions {
  /** Default: the root of the cgroup v2 hierarchy, from the mount table. */
  path?: string;
  /** Whose sockets: all, only those of the library's own network namespace, or of the namespaces at these paths. Default 'all'. */
  namespaces?: 'all' | 'host' | string[];
}

/** Options of attachTc(). */
export interface TcOptions {
  /** 'external': a NIC, packets from outside. 'workload': the host's side of a workload's device. */
  role: 'external' | 'workload';
  /** Path of the network namespace that the device is in. Default: the balancer's own. */
  netns?: string;
}

/** Options of attachXdp(). */
export interface XdpOptions {
  /** Default 'auto': native where the driver takes it, else generic; attachment.mode says which. */
  mode?: 'native' | 'generic' | 'auto';
  /** Path of the network namespace that the device is in. Default: the balancer's own. */
  netns?: string;
}

/** Options of enableDSR(). */
export interface DsrOptions {
  /**
   * How a packet gets to the backend's node. 'ipip' (default): in an outer IP header (RFC 2003, RFC 2473). 'geneve': translated, in UDP and Geneve, with the
   * service address in an option (RFC 8926). 'option': translated, with the service address in an IPv4 option or IPv6 destination option of the packets that
   * need it. 'l2': as it is, in a frame to the backend, which must answer at the service address and port.
   */
  dispatch?: 'ipip' | 'geneve' | 'option' | 'l2';
  /** 'marked': only services whose `forwarding` is 'dsr'. Default 'all'; a service's own `forwarding` wins. */
  services?: 'all' | 'marked';
  /** Default all; ['tcp'] is hybrid mode. */
  protocols?: Protocol[];
  /** CIDRs whose encapsulated packets this node accepts; without it nothing is decapsulated. */
  peers?: string[];
}

/** Sources in podCIDRs whose destination is neither in podCIDRs nor in exclude leave with the node's address, on every external attachment, present or future. */
export interface MasqueradeOptions {
  podCIDRs: string[];
  exclude?: string[];
}

/** Monotone 64-bit counters are unsigned Long (decimal strings in JSON); everything else is number. Sockets have no packets and bytes: 0. */
export interface Totals {
  connections: Long;
  packets: Long;
  bytes: Long;
  failures: Long;
}

export interface ServiceStats extends Totals {
  service: string;
  backends: (Endpoint & Totals & { state: BackendState })[];
}

export interface DatapathStats {
  byHook: Record<Hook, Totals>;
  byReason: Record<Reason, Long>;
}

export interface AffinityEntry {
  /** `netns:` and the cookie of the client's network namespace. */
  client: string;
  service: string;
  backend: Endpoint;
  expiresInMs: number;
}

/** A connection of the packet path, as both hooks know it. */
export interface TrackedConnection {
  protocol: Protocol;
  /** TCP and SCTP: 'opening', 'established', 'closing', 'closed' or 'reset'; UDP: 'opening' until there was an answer, then 'established'. */
  state: string;
  client: Endpoint;
  service: string;
  frontend: Endpoint;
  backend: Endpoint;
  mode: 'local' | 'snat' | 'dsr';
  ageMs: number;
  /** Since the last packet of either direction. */
  idleMs: number;
  packets: Long;
  bytes: Long;
}

/** What is given must match: service name, client as listed, backend `address` or `address:port`, protocol of a frontend. */
export interface ConnectionFilter {
  service?: string;
  client?: string;
  backend?: string;
  protocol?: Protocol;
}

/** A flow to ask explain() about. */
export interface PacketDescription {
  protocol: Protocol;
  /** netns: path of the client's namespace, its identity on socket hooks; default: the balancer's own. */
  source: { address: string; port?: number; netns?: string };
  destination: Endpoint;
  /** Arrives from outside | from a workload of this node | from a process in the node's own namespace. */
  from: 'external' | 'pod' | 'host';
  /** Default: socket for pod and host, tc for external. A packet of a pod is seen at tc, by a device attached with role 'workload'. */
  hook?: Hook;
}

/** The answer of explain(). */
export interface Decision {
  verdict: Verdict;
  reason: Reason;
  service?: string;
  /** With the address that matched. */
  frontend?: FrontendSpec;
  /** Every backend that a new flow of this description could get. */
  candidates: Endpoint[];
  /** The one chosen; for a random choice, one draw. */
  backend?: Endpoint;
  /** The choice is the same every time: no backend, affinity, source-hash, one candidate, maglev with affinity. */
  determined: boolean;
  /** Would the source be rewritten. */
  masquerade: boolean;
  /** Chosen by an affinity entry. */
  affinity: boolean;
  /** A sentence for people. */
  text: string;
}

export interface Problem {
  code: string;
  object: string;
  message: string;
  remedy: string;
}

export interface Status {
  /** Attached, and no canary failed. */
  ready: boolean;
  version: string;
  kernel: string;
  pinPath?: string;
  owner?: { pid: number };
  maps: { name: string; entries: number; capacity: number; bytes: number }[];
  attachments: Attachment[];
  /** Of the last verify(). */
  canary?: { ok: boolean; ageMs: number };
  problems: Problem[];
}

export interface VerifyReport {
  ok: boolean;
  problems: Problem[];
  /** Two of each attachment; target: its cgroup. */
  canaries: { hook: string; target: string; ok: boolean; tookMs: number }[];
}

export interface Feature {
  support: 'supported' | 'unsupported' | 'unknown';
  minimumKernel: string;
  neededFor: string;
  fallback?: string;
}

export interface KernelFeatures {
  kernel: string;
  usable: boolean;
  missing: string[];
  features: Record<string, Feature>;
}

export interface BackendChange {
  service: string;
  backend: Endpoint;
  from: BackendState;
  to: BackendState;
  /** The operation that changed it. */
  why: string;
}

export interface LoadBalancerEvents {
  /** The state of a backend changed. */
  backend: (change: BackendChange) => void;
  /** Attached, detached, or its state changed. */
  attachment: (attachment: Attachment) => void;
  /** Background failures. With no listener: status().problems and one process warning, never a crash. */
  error: (error: LoadBalancerError) => void;
}
