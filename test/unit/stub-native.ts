import type {
  CommitInput,
  NativeAttach,
  NativeAttachment,
  NativeBalancer,
  NativeConnection,
  NativeDecision,
  NativeFailure,
  NativeModule,
  NativeOpenOptions,
  NativePackets,
  NativeProblem,
  NativeQuery,
  PendingCommit,
  PutService,
} from '../../lib/native/binding.js';
import { FRONTEND_FIELDS } from '../../lib/native/binding.js';

/** What the pins of one path would hold. */
interface Pins {
  services: Map<string, PutService>;
  settings: string | undefined;
  number: bigint;
  attachments: Map<number, NativeAttachment & { netns: string[]; role: NativeAttach['role'] }>;
  isLocked: boolean;
}

function emptyPins(): Pins {
  return { services: new Map(), settings: undefined, number: 0n, attachments: new Map(), isLocked: false };
}

export function nativeFailure(code: string, message: string, rest: Partial<NativeFailure> = {}): NativeFailure {
  return { code, operation: 'commit', message, ...rest };
}

/**
 * Stands in for a balancer of the addon: does what binding.ts says with maps in memory, no datapath. Commits are kept for tests to look at;
 * those on the worker wait for `release()` or for wait().
 */
export class StubBalancer implements NativeBalancer {
  readonly commits: CommitInput[] = [];
  readonly calls: string[] = [];
  /** Thrown by the next commit. */
  failNext: NativeFailure | undefined;
  /** Commits on the worker end only when told to. */
  holdsWorker = false;
  decision: NativeDecision = { verdict: 1, reason: 2, candidates: [], affinity: false };
  lastQuery: NativeQuery | undefined;
  foundProblems: NativeProblem[] = [];
  /** What packet hooks were told, in turn. */
  readonly packets: NativePackets[] = [];
  foundConnections: NativeConnection[] = [];
  foundAffinities: ReturnType<NativeBalancer['affinities']> = [];
  canaryOk = true;
  have = { frontends: 65536, backends: 65536, cells: 524288 };
  closed: { detach: boolean } | undefined;
  #releases: (() => void)[] = [];
  #nextId = 1;

  constructor(
    readonly options: NativeOpenOptions,
    readonly pins: Pins,
  ) {}

  commit(input: CommitInput): void {
    this.calls.push('commit');
    this.#write(input);
  }

  #write(input: CommitInput): void {
    const failure = this.failNext;
    this.failNext = undefined;
    if (failure !== undefined) throw failure;
    this.commits.push(input);
    for (const name of input.remove) this.pins.services.delete(name);
    for (const put of input.put) this.pins.services.set(put.name, put);
    if (input.settings !== undefined) this.pins.settings = input.settings;
    this.pins.number++;
  }

  commitAsync(input: CommitInput): PendingCommit {
    this.calls.push('commitAsync');
    let outcome: { thrown?: unknown } | undefined;
    const run = () => {
      if (outcome !== undefined) return;
      outcome = {};
      try {
        this.#write(input);
      } catch (thrown) {
        outcome = { thrown };
      }
    };
    const wait = () => {
      this.calls.push('wait');
      run();
      if (outcome?.thrown !== undefined) throw outcome.thrown;
    };
    const promise = new Promise<void>((resolve, reject) => {
      const end = () => {
        run();
        if (outcome?.thrown !== undefined) reject(outcome.thrown);
        else resolve();
      };
      if (this.holdsWorker) this.#releases.push(end);
      else setImmediate(end);
    });
    return { promise, wait };
  }

  /** Lets commits on the worker end. */
  release(): void {
    for (const end of this.#releases.splice(0)) end();
  }

  capacity(input: CommitInput) {
    const after = new Map(this.pins.services);
    for (const name of input.remove) after.delete(name);
    for (const put of input.put) after.set(put.name, put);
    const needs = { frontends: 0, backends: 0, cells: 0 };
    for (const { frontends, backends } of after.values()) {
      needs.frontends += frontends.length / FRONTEND_FIELDS;
      needs.backends += backends.length / 4;
      needs.cells += 8;
    }
    const { frontends, backends, cells } = this.have;
    return { needs, fits: needs.frontends <= frontends && needs.backends <= backends && needs.cells <= cells };
  }

  movedShare(): number {
    return 0.25;
  }

  snapshot() {
    this.calls.push('snapshot');
    const services = [...this.pins.services.values()].map(({ name, owner, record }, i) => ({ id: i + 1, name, owner, record }));
    const { number, settings } = this.pins;
    return settings === undefined ? { number, services } : { number, services, settings };
  }

  number(): bigint {
    return this.pins.number;
  }

  async settled(): Promise<void> {
    this.calls.push('settled');
  }

  setPackets(settings: NativePackets): void {
    this.packets.push(settings);
  }

  async attach({ kind, target, netns, options, role, mode }: NativeAttach): Promise<NativeAttachment> {
    if (target.includes('missing')) {
      throw nativeFailure('ERR_NOT_FOUND', 'there is no such cgroup; make it first', { object: target, errno: 2 });
    }
    const known = [...this.pins.attachments.values()].find((attachment) => attachment.kind === kind && attachment.target === target);
    const id = known?.id ?? this.#nextId++;
    const how = kind === 'cgroup' ? 'multi' : kind === 'tc' ? 'tcx' : mode === 'auto' ? 'native' : mode!;
    const attachment = { id, kind, target, mode: how, state: 'attached' as const, options, netns, role };
    this.pins.attachments.set(id, attachment);
    return attachment;
  }

  async detach(id: number): Promise<void> {
    this.calls.push(`detach ${id}`);
    this.pins.attachments.delete(id);
  }

  attachments(): NativeAttachment[] {
    return [...this.pins.attachments.values()];
  }

  explain(query: NativeQuery): NativeDecision {
    this.lastQuery = query;
    return this.decision;
  }

  counters() {
    const hook = (at: number) => Array.from({ length: 64 }, (_, reason) => BigInt(reason * at));
    return { hooks: [hook(1), hook(10), hook(100)], connections: 2n ** 63n + 7n };
  }

  serviceStats(name: string) {
    const { backends } = this.pins.services.get(name)!;
    const counted = [];
    for (let i = 0; i < backends.length; i += 4) {
      counted.push({ address: backends[i] as string, port: backends[i + 1] as number, connections: BigInt(i + 1), failures: 0n });
    }
    return { failures: 3n, retired: 100n, backends: counted };
  }

  connections() {
    return this.foundConnections;
  }

  affinities() {
    return this.foundAffinities;
  }

  maps() {
    return [{ name: 'frontends', entries: 1, capacity: 65536, bytes: 4096 }];
  }

  /** As the addon does when something fails in the background. */
  fail: (failure: NativeFailure) => void = () => {};

  onFailure(tell: (failure: NativeFailure) => void) {
    this.fail = tell;
  }

  async verify() {
    return { problems: this.foundProblems, canaries: [{ hook: 'socket', target: '/sys/fs/cgroup', ok: this.canaryOk, tookMs: 0.5 }] };
  }

  problems(): NativeProblem[] {
    return this.foundProblems;
  }

  owner(): number {
    return process.pid;
  }

  async close(detach: boolean): Promise<void> {
    this.closed = { detach };
    if (!this.options.readonly) this.pins.isLocked = false;
  }
}

/** Stands in for the addon; `pins` outlive the balancers, as a bpffs directory would. */
export class StubModule implements NativeModule {
  readonly pins = new Map<string, Pins>();
  readonly opened: StubBalancer[] = [];
  opens = 0;

  /** The balancer that was opened last. */
  get last(): StubBalancer {
    return this.opened.at(-1)!;
  }

  async open(options: NativeOpenOptions): Promise<StubBalancer> {
    this.opens++;
    const pins = (options.pinPath === undefined ? undefined : this.pins.get(options.pinPath)) ?? emptyPins();
    if (options.pinPath !== undefined) this.pins.set(options.pinPath, pins);
    if (!options.readonly) {
      const deadline = Date.now() + options.lockTimeoutMs;
      while (pins.isLocked && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 1));
      if (pins.isLocked) throw nativeFailure('ERR_LOCKED', 'process 42 has it open; close that one', { details: { pid: 42 } });
      pins.isLocked = true;
    }
    const balancer = new StubBalancer(options, pins);
    this.opened.push(balancer);
    return balancer;
  }

  probe() {
    return { kernel: '6.18.0', usable: true, missing: [], features: {} };
  }

  cgroupRoot(): string {
    return '/sys/fs/cgroup';
  }
}
