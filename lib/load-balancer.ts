import { EventEmitter } from 'eventemitter3';
import { checkApplyOptions, checkRemovals, DEFAULT_OWNER, describePlan, prepareApply } from './apply.js';
import { Attachments, checkCgroupArguments, checkTcArguments, checkXdpArguments } from './attachments.js';
import { Changes } from './changes.js';
import { failure, fromNative, LoadBalancerError } from './errors.js';
import { explain } from './explain.js';
import { Health } from './health.js';
import type { Entry } from './model.js';
import type { NativeBalancer } from './native/binding.js';
import { normalizeNode } from './node-config.js';
import { normalizeBackends, normalizeChange, normalizeSpec } from './normalize.js';
import { openNative, probeKernel, requireAddon } from './opening.js';
import { type CheckedOpenOptions, checkOpenOptions } from './options.js';
import { checkDsr, checkMasquerade } from './packets.js';
import { changedFields, isSameBackends } from './same.js';
import { ServiceHandle, serviceNotFound } from './service.js';
import { datapathStats, listAffinities, listConnections, serviceStats } from './statistics.js';
import { Store } from './store.js';
import type {
  AffinityEntry,
  ApplyOptions,
  ApplyPlan,
  ApplyResult,
  Attachment,
  BackendSpec,
  CgroupOptions,
  ConnectionFilter,
  DatapathStats,
  Decision,
  DsrOptions,
  KernelFeatures,
  LoadBalancerEvents,
  MasqueradeOptions,
  NodeConfig,
  OpenOptions,
  PacketDescription,
  Service,
  ServiceChange,
  ServiceSpec,
  ServiceStats,
  Status,
  TcOptions,
  TrackedConnection,
  VerifyReport,
  XdpOptions,
} from './types.js';
import { checkBoolean, checkOptions, Place } from './validate.js';

/** An apply of fewer services is committed at once: cheaper than waking a worker thread. */
const FEW_CHANGES = 64;

/**
 * A load balancer in this machine's kernel: its services, and where it is attached.
 *
 * Calls about data are synchronous and take effect in call order; an error means that nothing was written. Calls that load programs or wait
 * return promises. An open balancer does not keep the process alive.
 */
export class LoadBalancer extends EventEmitter<LoadBalancerEvents> {
  readonly #native: NativeBalancer;
  readonly #store: Store;
  readonly #attachments: Attachments;
  readonly #health: Health;
  readonly #beforeRead = () => this.#store.catchUp();
  #closing: Promise<void> | undefined;

  private constructor(native: NativeBalancer, options: CheckedOpenOptions) {
    super();
    this.#native = native;
    this.#store = new Store(native, options.native.readonly, {
      isWatched: () => this.listenerCount('backend') > 0,
      backend: (change) => this.#tell(() => this.emit('backend', change)),
      failure: (error) => this.#report(error),
    });
    this.#attachments = new Attachments(native, {
      beforeChange: (operation) => this.#store.beforeChange(operation),
      isClosed: () => this.#store.isClosed,
      changed: (attachment) => this.#tell(() => this.emit('attachment', attachment)),
    });
    this.#health = new Health(this.#store.model, options.native.pinPath);
    native.onFailure((thrown) => {
      const error = fromNative(thrown, thrown.operation);
      if (error instanceof LoadBalancerError) this.#report(error);
    });
  }

  /**
   * Opens the maps at `pinPath`, or makes new ones, and takes over what is in them.
   * @throws ERR_LOCKED when another writer has them open for longer than `lockTimeoutMs`
   * @throws ERR_LAYOUT when another version wrote them
   * @throws ERR_UNSUPPORTED when this system has no addon or this kernel is too old
   * @throws ERR_INVALID_ARGUMENT, ERR_NOT_FOUND, ERR_NOT_BPFFS, ERR_PERMISSION, ERR_KERNEL, or the reason of `signal`
   * @kernel 5.10
   */
  static async open(options?: OpenOptions): Promise<LoadBalancer> {
    const checked = checkOpenOptions(options);
    const native = await openNative(checked);
    try {
      const balancer = new LoadBalancer(native, checked);
      if (checked.flowIdleSeconds !== undefined) balancer.#store.setFlowIdle('open', checked.flowIdleSeconds);
      if (checked.node !== undefined) balancer.#store.setNode('open', checked.node);
      return balancer;
    } catch (error) {
      await native.close(false);
      throw fromNative(error, 'open', checked.native.pinPath);
    }
  }

  /** What this kernel and this system can do, what is missing, and which kernel brings it. Needs no privileges, never throws. */
  static probe(): KernelFeatures {
    return probeKernel();
  }

  /**
   * Adds a service of owner 'default'.
   * @throws ERR_SERVICE_EXISTS when there is one of that name
   * @throws ERR_FRONTEND_IN_USE when another service has one of its frontends
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  addService(spec: ServiceSpec): Service {
    this.#store.beforeChange('addService');
    const { model } = this.#store;
    const checked = normalizeSpec(new Place('addService'), spec, model.node?.nodePortRange);
    if (model.services.has(checked.name)) {
      throw failure(
        'ERR_SERVICE_EXISTS',
        'addService',
        checked.name,
        'there is a service of this name; change it with updateService or apply',
      );
    }
    const changes = new Changes(model, 'addService');
    changes.put(DEFAULT_OWNER, checked, undefined);
    this.#store.commit(changes, checked.name);
    return this.#handle(model.services.get(checked.name)!);
  }

  /**
   * Changes fields of a service of any owner; null restores a default, fields not given stay.
   * @throws ERR_SERVICE_NOT_FOUND
   * @throws ERR_FRONTEND_IN_USE when another service has one of its frontends
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  updateService(service: Service | string, change: ServiceChange): Service {
    this.#store.beforeChange('updateService');
    const { model } = this.#store;
    const entry = this.#find('updateService', service);
    const spec = normalizeChange(new Place('updateService', entry.name), entry.spec, change, model.node?.nodePortRange);
    if (changedFields(entry.spec, spec).length > 0) {
      const changes = new Changes(model, 'updateService');
      changes.put(entry.owner, spec, entry);
      this.#store.commit(changes, entry.name);
    }
    return this.#handle(entry);
  }

  /**
   * Replaces all backends of a service of any owner.
   * @throws ERR_SERVICE_NOT_FOUND
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  setBackends(service: Service | string, backends: readonly BackendSpec[]): void {
    this.#store.beforeChange('setBackends');
    const entry = this.#find('setBackends', service);
    if (isSameBackends(entry.spec.backends, backends)) return;
    this.#store.commitBackends('setBackends', entry, normalizeBackends(new Place('setBackends', entry.name), backends));
  }

  /**
   * Removes a service of any owner; returns false when there is none, or no longer.
   * @throws ERR_INVALID_ARGUMENT, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  removeService(service: Service | string): boolean {
    this.#store.beforeChange('removeService');
    const entry = this.#lookup('removeService', service);
    if (entry === undefined) return false;
    const changes = new Changes(this.#store.model, 'removeService');
    changes.remove(entry);
    this.#store.commit(changes, entry.name);
    return true;
  }

  /**
   * The service of that name, undefined when there is none.
   * @throws ERR_INVALID_ARGUMENT, ERR_CLOSED
   */
  service(name: string): Service | undefined {
    this.#store.beforeUse('service');
    const entry = this.#lookup('service', name);
    return entry === undefined ? undefined : this.#handle(entry);
  }

  /**
   * All services, of all owners.
   * @throws ERR_CLOSED
   */
  services(): Service[] {
    this.#store.beforeUse('services');
    return Array.from(this.#store.model.services.values(), (entry) => this.#handle(entry));
  }

  /**
   * Makes the services of an owner what is desired, at one instant; compares by value. `desired` is read during the call, not afterwards.
   * @throws ERR_NOT_OWNER when a name belongs to another owner
   * @throws ERR_FRONTEND_IN_USE when two services would have one frontend in the end
   * @throws ERR_TOO_MANY_REMOVALS when more than `maxRemovals` would go
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL, or the reason of `signal`
   */
  async apply(desired: readonly ServiceSpec[], options?: ApplyOptions): Promise<ApplyResult> {
    this.#store.beforeChange('apply');
    const checked = checkApplyOptions('apply', options);
    checked.signal?.throwIfAborted();
    const [changes, result] = prepareApply(this.#store.model, 'apply', desired, checked);
    checkRemovals('apply', result.removed, checked.maxRemovals);
    const isFirst = checked.prune && this.#store.markComplete(changes);
    if (changes.size === 0) return result;
    if (changes.size < FEW_CHANGES) this.#store.commit(changes, undefined);
    else await this.#store.commitAside(changes);
    if (isFirst && !this.#store.isClosed) this.#store.becomeComplete('apply');
    return result;
  }

  /**
   * What apply() would do. Nothing is changed, and `maxRemovals` does not matter.
   * @throws ERR_NOT_OWNER, ERR_FRONTEND_IN_USE, ERR_INVALID_ARGUMENT, ERR_CLOSED
   */
  async plan(desired: readonly ServiceSpec[], options?: ApplyOptions): Promise<ApplyPlan> {
    this.#store.beforeUse('plan');
    const checked = checkApplyOptions('plan', options);
    checked.signal?.throwIfAborted();
    const [changes] = prepareApply(this.#store.model, 'plan', desired, checked);
    changes.checkFrontends();
    return this.#store.ask('plan', undefined, (native) => describePlan(changes, native));
  }

  /**
   * Says which node this is. Stored with the services; those that depend on it follow at the same instant.
   * @throws ERR_FRONTEND_IN_USE when two services would have one address, port and protocol
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  setNode(node: NodeConfig): void {
    this.#store.beforeChange('setNode');
    this.#store.setNode('setNode', normalizeNode(new Place('setNode'), node));
  }

  /**
   * Resolves when what follows asynchronously from earlier calls has happened: sockets destroyed, regions freed.
   * @throws ERR_CLOSED, ERR_KERNEL
   */
  async settled(): Promise<void> {
    await this.#wait('settled', () => this.#native.settled());
  }

  /**
   * Routes the connections of the processes in a cgroup and below. Where this is attached already: the same Attachment, options updated.
   * @param path - absolute path of a cgroup v2 directory; default: the root of the hierarchy
   * @throws ERR_NOT_FOUND when there is no such cgroup or namespace, or no cgroup v2
   * @throws ERR_INVALID_ARGUMENT, ERR_HOOK_BUSY, ERR_PERMISSION, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   * @kernel 5.10
   */
  attachCgroup(path?: string, options?: Omit<CgroupOptions, 'path'>): Promise<Attachment>;
  attachCgroup(options: CgroupOptions): Promise<Attachment>;
  async attachCgroup(first?: string | CgroupOptions, second?: Omit<CgroupOptions, 'path'>): Promise<Attachment> {
    this.#store.beforeChange('attachCgroup');
    const checked = checkCgroupArguments(first, second, () =>
      this.#store.ask('attachCgroup', undefined, () => requireAddon('attachCgroup').cgroupRoot()),
    );
    return this.#attachments.attach('attachCgroup', checked);
  }

  /**
   * Balances the packets of a device, or of all devices that a pattern names, as they come and go. Programs of others on the hook stay and keep their
   * order. Where this is attached already: the same Attachment, options updated.
   * @param device - name, or pattern with `*` and `?`; a pattern never means the loopback device
   * @throws ERR_NOT_FOUND when there is no such device or namespace; a pattern waits instead
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_PERMISSION, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   * @kernel 5.10; up to 6.5 filters on the clsact qdisc, from 6.6 on tcx links
   */
  async attachTc(device: string, options: TcOptions): Promise<Attachment> {
    this.#store.beforeChange('attachTc');
    return this.#attachments.attach('attachTc', checkTcArguments(device, options));
  }

  /**
   * As attachTc with role 'external', and what is forwarded to other nodes is dealt with in the driver already.
   * @throws ERR_HOOK_BUSY when another XDP program is on the device
   * @throws ERR_UNSUPPORTED when mode is 'native' and the driver has none, or refuses it with the device's settings
   * @throws ERR_NOT_FOUND, ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_PERMISSION, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   * @kernel 5.10
   */
  async attachXdp(device: string, options?: XdpOptions): Promise<Attachment> {
    this.#store.beforeChange('attachXdp');
    return this.#attachments.attach('attachXdp', checkXdpArguments(device, options));
  }

  /**
   * Packets to backends of other nodes keep their source, and answers go to the client directly. With `peers` this node also takes such packets of others for
   * its own backends, whose answers then bear the service address. Kept in the pins.
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   * @kernel 5.10; packets of one family in the other at tc: 6.3
   */
  async enableDSR(options?: DsrOptions): Promise<void> {
    this.#store.beforeChange('enableDSR');
    this.#store.setDsr('enableDSR', checkDsr(new Place('enableDSR'), options));
  }

  /**
   * Packets to backends of other nodes bear this node's address again. Connections that are under way go on as they are.
   * @throws ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  async disableDSR(): Promise<void> {
    this.#store.beforeChange('disableDSR');
    this.#store.setDsr('disableDSR', undefined);
  }

  /**
   * What workloads send to outside leaves with this node's address, at every device attached with role 'external', for TCP, UDP, SCTP and ICMP echo. Kept in the pins.
   * @throws ERR_INVALID_ARGUMENT, ERR_CAPACITY, ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  async enableMasquerade(options: MasqueradeOptions): Promise<void> {
    this.#store.beforeChange('enableMasquerade');
    this.#store.setMasquerade('enableMasquerade', checkMasquerade(new Place('enableMasquerade'), options));
  }

  /**
   * What workloads send keeps its source. Connections that are under way end.
   * @throws ERR_READONLY, ERR_CLOSED, ERR_KERNEL
   */
  async disableMasquerade(): Promise<void> {
    this.#store.beforeChange('disableMasquerade');
    this.#store.setMasquerade('disableMasquerade', undefined);
  }

  /**
   * Where this is attached, as of now.
   * @throws ERR_CLOSED
   */
  attachments(): Attachment[] {
    return this.#store.ask('attachments', undefined, () => this.#attachments.list());
  }

  /**
   * What a flow would meet, found by the datapath's own selection code; nothing is changed.
   * @throws ERR_NOT_FOUND when there is no such namespace
   * @throws ERR_INVALID_ARGUMENT, ERR_CLOSED, ERR_KERNEL
   */
  explain(packet: PacketDescription): Decision {
    return this.#store.ask('explain', undefined, (native) => explain(native, this.#store.model, this.#store.dsr, packet));
  }

  /**
   * Counts: of everything, or of one service. Read from mapped memory.
   * @throws ERR_SERVICE_NOT_FOUND, ERR_CLOSED
   */
  stats(): DatapathStats;
  stats(service: Service | string): ServiceStats;
  stats(service?: Service | string): DatapathStats | ServiceStats {
    if (service === undefined) return this.#store.ask('stats', undefined, datapathStats);
    this.#store.beforeUse('stats');
    const entry = this.#find('stats', service);
    return this.#store.ask('stats', entry.name, (native) => serviceStats(native, entry));
  }

  /**
   * Which client has which backend, as of the call.
   * @throws ERR_INVALID_ARGUMENT, ERR_CLOSED, ERR_KERNEL
   */
  affinities(filter?: ConnectionFilter): IterableIterator<AffinityEntry> {
    return this.#store.ask('affinities', undefined, (native) => listAffinities(native, this.#store.model, filter)).values();
  }

  /**
   * The connections of the packet path, as of the call; what is listed may have gone on meanwhile. Read from mapped memory.
   * @param filter - client: `address` or `address:port`
   * @throws ERR_INVALID_ARGUMENT, ERR_CLOSED
   */
  connections(filter?: ConnectionFilter): IterableIterator<TrackedConnection> {
    return this.#store.ask('connections', undefined, (native) => listConnections(native, filter)).values();
  }

  /**
   * How things stand, as far as it is known without looking closer.
   * @throws ERR_CLOSED
   */
  status(): Status {
    const attachments = this.attachments();
    return this.#store.ask('status', undefined, (native) => this.#health.status(native, attachments));
  }

  /**
   * Compares services, maps and hooks with each other, and lets canaries connect.
   * @throws ERR_CLOSED, ERR_KERNEL
   */
  async verify(): Promise<VerifyReport> {
    return this.#wait('verify', () => this.#health.verify(this.#native));
  }

  /**
   * Lets go of the maps; what is pinned goes on routing. A second call waits for the first.
   * @param options - detach: also detaches everything and removes the pins
   * @throws ERR_INVALID_ARGUMENT, ERR_READONLY when an observer is to detach, ERR_KERNEL
   */
  async close(options?: { detach?: boolean }): Promise<void> {
    const place = new Place('close');
    const given = checkOptions(place, options, ['detach']);
    const detach = given['detach'] === undefined ? false : checkBoolean(place, 'detach', given['detach']);
    if (this.#closing === undefined) {
      if (detach) this.#store.beforeChange('close');
      this.#closing = this.#close(detach);
    }
    return this.#closing;
  }

  async #close(detach: boolean): Promise<void> {
    this.#store.close();
    try {
      await this.#native.close(detach);
    } catch (thrown) {
      throw fromNative(thrown, 'close');
    } finally {
      this.#attachments.markAllGone();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #handle(entry: Entry): Service {
    entry.handle ??= new ServiceHandle(this, entry, this.#beforeRead);
    return entry.handle;
  }

  /** By name, or by handle: one of a removed service finds nothing, even when another one has the name now. */
  #lookup(operation: string, service: unknown): Entry | undefined {
    if (typeof service === 'string') return this.#store.model.services.get(service);
    const entry = ServiceHandle.entryOf(service, this);
    if (entry === undefined) throw new Place(operation).invalid('service', 'be a name, or a Service of this balancer', service);
    return entry.alive ? entry : undefined;
  }

  #find(operation: string, service: unknown): Entry {
    const entry = this.#lookup(operation, service);
    if (entry !== undefined) return entry;
    throw serviceNotFound(operation, typeof service === 'string' ? service : (service as Service).name);
  }

  async #wait<T>(operation: string, call: () => Promise<T>): Promise<T> {
    this.#store.beforeUse(operation);
    try {
      return await call();
    } catch (thrown) {
      throw fromNative(thrown, operation);
    }
  }

  /** A failure in the background, which no caller waits for. */
  #report(error: LoadBalancerError): void {
    if (this.listenerCount('error') === 0) this.#health.keep(error);
    else this.#tell(() => this.emit('error', error));
  }

  /** What a listener throws is its own affair: the call that told it has done its work. */
  #tell(emit: () => void): void {
    try {
      emit();
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
