/**
 * What the addon exports (native/*.cc), as types. Everything that crosses is plain data: text for addresses, numbers, flat arrays where the
 * count of elements is large. 64-bit values cross as BigInt. A failed call throws a `NativeFailure`-shaped object, which errors.ts turns into a
 * LoadBalancerError.
 */

/** Flat: address, port, weight, flags, for each backend in turn. `flags`: BackendFlag bits. */
export type FlatBackends = (string | number)[];
/**
 * Flat: address, port, protocol (IPPROTO number), scope (0 internal, 1 external), pool index, kind (FrontendKindCode), range set (1 + index in
 * `ranges`, 0: everyone), for each key in turn.
 */
export type FlatFrontends = (string | number)[];

export const BackendFlag = {
  /** Connected and pinned UDP sockets may stay. */
  existing: 1,
  /** Has cells in the regions of pool 0 (cluster), 1 (internal), 2 (external): the candidates, fallbacks already applied. */
  pool0: 2,
  pool1: 4,
  pool2: 8,
  /** On this node. */
  local: 16,
} as const;

/** Numbers of one key in FlatFrontends. */
export const FRONTEND_FIELDS = 7;
export const ForwardingCode = { snat: 1, dsr: 2 } as const;

export const FrontendKindCode = { cluster: 0, nodePort: 1, external: 2, loadBalancer: 3, hostPort: 4 } as const;
export const AlgorithmCode = { random: 0, 'round-robin': 1, maglev: 2, 'source-hash': 3 } as const;

/** The whole new state of one service, or its removal. Compiled from a spec by compile.ts. */
export interface PutService {
  name: string;
  owner: string;
  /** JSON of the spec, as given back by `services()` after a restart. Kept in the log of a pinned balancer. */
  record: string;
  algorithm: number;
  /** Seconds; 0: none. */
  affinity: number;
  /** No backends: drop (true) or reject. */
  drop: boolean;
  /** Bit p: the pool p is limited to this node, so that "no cells" means no local backend. */
  localPools: number;
  /** Seconds from a backend's removal to the end of its TCP connections; -1: they go on. */
  resetAfter: number;
  /** ForwardingCode, or 0 for the balancer's default. */
  forwarding: number;
  /** Lists of CIDRs that frontends name. */
  ranges: (readonly string[])[];
  frontends: FlatFrontends;
  /** All backends, candidates or not. Weights count in pools only; a candidate's weight is at least 1. */
  backends: FlatBackends;
  /** Flat: number of the backend, outer destination, for each backend that has one. */
  vias: (string | number)[];
}

export interface CommitInput {
  put: PutService[];
  /** Names. */
  remove: string[];
  /** Stored with the commit: JSON of balancer-wide settings (node ...), or undefined to leave them. */
  settings?: string;
}

/** What packet hooks know of the node and of forwarding. */
export interface NativePackets {
  address4: string | undefined; address6: string | undefined;
  /** 0, 0: none. */
  snatLow: number; snatHigh: number;
  /** Seconds. */
  idleTcp: number; idleUdp: number;
  /** Bits of enum lb_dsr_flag, value of enum lb_dispatch (bpf/include/abi.h). */
  dsr: number; dispatch: number;
  masqueradeAll: boolean;
  /** CIDRs. */
  peers: readonly string[]; pods: readonly string[]; masquerade: readonly string[]; masqueradeExclude: readonly string[];
  /** Whose addresses are services' alone, for socket hooks, too. */
  services: readonly string[];
}

export interface NativeConnection {
  protocol: number; state: string; mode: 'local' | 'snat' | 'dsr'; service: string;
  clientAddress: string; clientPort: number; frontendAddress: string; frontendPort: number; backendAddress: string; backendPort: number;
  ageMs: number; idleMs: number; packets: bigint; bytes: bigint;
}

export interface NativeFailure {
  /** LoadBalancerErrorCode */
  code: string;
  operation: string;
  object?: string;
  message: string;
  errno?: number;
  details?: Record<string, unknown>;
}

/** An apply under way on a worker thread. */
export interface PendingCommit {
  /** Settles on the JavaScript thread when the worker is done; rejects with a NativeFailure. */
  readonly promise: Promise<void>;
  /** Blocks until the worker is done; throws the NativeFailure when it failed. May be called any number of times, before or after the promise settled. */
  wait(): void;
}

export interface NativeSnapshot { number: bigint; services: NativeService[]; settings?: string }
export interface NativeService { id: number; name: string; owner: string; record: string }
export interface NativeBackendStats { address: string; port: number; connections: bigint; failures: bigint }
export type AttachmentKind = 'cgroup' | 'tc' | 'xdp';
/** What to attach. `netns`: of sockets, [] for all; of devices, [] or [''] for the balancer's own. `role`, `mode`: of devices. `options`: JSON kept with it. */
export interface NativeAttach { kind: AttachmentKind; target: string; netns: string[]; options: string; role?: 'external' | 'workload'; mode?: 'native' | 'generic' | 'auto' }
export interface NativeAttachment { id: number; kind: AttachmentKind; target: string; mode: string; state: 'attached' | 'waiting' | 'lost'; options: string }
export interface NativeMap { name: string; entries: number; capacity: number; bytes: number }
export interface NativeProblem { code: string; object: string; message: string; remedy: string }

export interface NativeQuery {
  address: string; port: number; protocol: number; scope: number;
  /** Path of the client's network namespace; omitted: the balancer's own. */
  netns?: string;
  /** Of a packet; omitted: a socket hook is asked about. */
  source?: string; sourcePort?: number;
}
export interface NativeDecision {
  verdict: number; reason: number;
  service?: string;
  /** Key that matched: its address and port. */
  frontend?: { address: string; port: number; kind: number };
  candidates: { address: string; port: number }[];
  backend?: { address: string; port: number } | undefined;
  affinity: boolean;
}

export interface NativeOpenOptions {
  pinPath?: string;
  readonly: boolean;
  netns?: string;
  capacity: { frontends: number; backends: number; cells: number; connections: number; affinities: number };
  lockTimeoutMs: number;
}

export interface NativeBalancer {
  /** Synchronous commit on this thread; waits for a pending one first. */
  commit(input: CommitInput): void;
  commitAsync(input: CommitInput): PendingCommit;
  /** What everything needs after `input`, and whether a commit would find room for it beside what it replaces. Nothing is written. */
  capacity(input: CommitInput): { needs: { frontends: number; backends: number; cells: number }; fits: boolean };
  /** Of cells (0..1) of a service's pool-0 regions that would name another backend. */
  movedShare(input: PutService): number;
  /** Everything in the maps, rebuilt from them (recovery, observers). `number` is the commit it is of. */
  snapshot(): NativeSnapshot;
  /** The last commit's number; reading it costs no system call. */
  number(): bigint;
  settled(): Promise<void>;

  /** Not kept: the caller has them in its settings, and says so after every open(). */
  setPackets(settings: NativePackets): void;
  /** Where this is attached already: options updated. */
  attach(what: NativeAttach): Promise<NativeAttachment>;
  detach(id: number): Promise<void>;
  attachments(): NativeAttachment[];

  explain(query: NativeQuery): NativeDecision;
  /** [hook][reason] counts and the totals of forwarded connections. */
  counters(): { hooks: bigint[][]; connections: bigint };
  /** retired: connections of backends that the service no longer has. */
  serviceStats(name: string): { failures: bigint; retired: bigint; backends: NativeBackendStats[] };
  connections(): NativeConnection[];
  affinities(): { clientNetns: bigint; service: string; address: string; port: number; expiresInMs: number; family: number }[];
  maps(): NativeMap[];
  /** Compares what this object believes, the maps and the attached links; runs the canaries. */
  verify(): Promise<{ problems: NativeProblem[]; canaries: { hook: string; target: string; ok: boolean; tookMs: number }[] }>;
  /** Calls back when something fails that no call waits for, until close(). */
  onFailure(tell: (failure: NativeFailure) => void): void;
  /** Ports of ip_local_reserved_ports etc.: problems known without looking. */
  problems(): NativeProblem[];
  owner(): number;
  close(detach: boolean): Promise<void>;
}

export interface NativeFeature { support: 'supported' | 'unsupported' | 'unknown'; minimumKernel: string; neededFor: string; fallback?: string }
export interface NativeModule {
  /** Rejects with a NativeFailure. Runs on a worker thread. */
  open(options: NativeOpenOptions): Promise<NativeBalancer>;
  probe(): { kernel: string; usable: boolean; missing: string[]; features: Record<string, NativeFeature> };
  /** Default cgroup v2 root, from the mount table; throws a NativeFailure when there is none. */
  cgroupRoot(): string;
}
