import { addStateChanges, Changes } from './changes.js';
import { compile, dependsOnNode, expandFrontends } from './compile.js';
import { failure, fromNative, LoadBalancerError } from './errors.js';
import { type Entry, Model } from './model.js';
import type { CommitInput, NativeBalancer, NativeSnapshot } from './native/binding.js';
import type { Node } from './node-config.js';
import { type Dsr, type FlowIdle, type Masquerade, nativePackets } from './packets.js';
import { Pending } from './pending.js';
import { isSameData } from './same.js';
import { loadSnapshot, packetSettings, type Settings } from './snapshot.js';
import { type Backend, withBackends } from './spec.js';
import type { BackendChange } from './types.js';

/** What a store tells. */
export interface StoreEvents {
  /** Whether anybody wants to know of backends. */
  isWatched(): boolean;
  backend(change: BackendChange): void;
  failure(error: LoadBalancerError): void;
}

/** The model and the maps, which it follows: every change is committed first and believed then. */
export class Store {
  readonly model = new Model();
  readonly #native: NativeBalancer;
  readonly #readonly: boolean;
  readonly #events: StoreEvents;
  #settings: Settings;
  /** Of an observer: the commit that the model is of. */
  #number: bigint;
  #pending: Pending | undefined;
  #closed = false;
  /** Of an observer: its writer has gone with the pins. Handles go on telling what was. */
  #isOrphan = false;

  constructor(native: NativeBalancer, readonly: boolean, events: StoreEvents) {
    this.#native = native;
    this.#readonly = readonly;
    this.#events = events;
    const snapshot = native.snapshot();
    this.#settings = loadSnapshot(this.model, snapshot);
    this.#number = snapshot.number;
    if (!readonly) this.#tellPackets('open');
  }

  /** The packet programs know the node and how to forward from the maps, which do not say who wrote them: what counts is in the settings. */
  #tellPackets(operation: string): void {
    const settings = packetSettings(this.#settings);
    this.#ask(operation, undefined, (native) => native.setPackets(nativePackets(this.model.node, settings)));
  }

  /** Stores idle times of flows; those not given stay. */
  setFlowIdle(operation: string, given: FlowIdle): void {
    const flowIdleSeconds = { ...packetSettings(this.#settings).flowIdleSeconds, ...given };
    this.#keep(operation, { ...this.#settings, flowIdleSeconds });
  }

  /** How direct server return is done; undefined: it is not. */
  get dsr(): Dsr | undefined {
    return packetSettings(this.#settings).dsr;
  }

  /** Stores how direct server return is done; undefined: it is not. */
  setDsr(operation: string, dsr: Dsr | undefined): void {
    this.#keep(operation, { ...this.#settings, dsr });
  }

  /** Stores whose packets leave with the node's address; undefined: nobody's. */
  setMasquerade(operation: string, masquerade: Masquerade | undefined): void {
    this.#keep(operation, { ...this.#settings, masquerade });
  }

  #keep(operation: string, settings: Settings): void {
    if (isSameData(settings, this.#settings)) return;
    const changes = new Changes(this.model, operation);
    changes.setSettings(JSON.stringify(settings));
    this.commit(changes, undefined);
    this.#settings = settings;
    this.#tellPackets(operation);
  }

  /** The changes make the state complete: with them, and from then on, this is kept. Returns whether it is news. */
  markComplete(changes: Changes): boolean {
    if (this.#settings.complete === true) return false;
    changes.setSettings(JSON.stringify({ ...this.#settings, complete: true }));
    return true;
  }

  /** The changes of markComplete() are committed. */
  becomeComplete(operation: string): void {
    this.#settings = { ...this.#settings, complete: true };
    this.#tellPackets(operation);
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** From here on everything throws ERR_CLOSED; an apply under way is waited for. */
  close(): void {
    this.#closed = true;
    this.#finishPending();
  }

  /** @throws ERR_CLOSED */
  beforeUse(operation: string): void {
    if (this.#closed) throw failure('ERR_CLOSED', operation, undefined, 'the balancer is closed; open another one');
    this.catchUp();
    if (this.#isOrphan) {
      throw failure('ERR_CLOSED', operation, undefined, 'the writer closed the balancer with detach, and its pins are gone; open again');
    }
  }

  /** @throws ERR_CLOSED, ERR_READONLY */
  beforeChange(operation: string): void {
    this.beforeUse(operation);
    if (this.#readonly) {
      throw failure(
        'ERR_READONLY',
        operation,
        undefined,
        'this balancer was opened as an observer; open without readonly to change things',
      );
    }
  }

  /** Makes the model as of now: takes over an apply under way, or what another process wrote. */
  catchUp(): void {
    if (this.#pending !== undefined) this.#finishPending();
    if (!this.#readonly || this.#closed || this.#isOrphan || this.#native.number() === this.#number) return;
    const snapshot = this.#read();
    if (snapshot === undefined) return;
    this.#number = snapshot.number;
    try {
      this.#settings = loadSnapshot(this.model, snapshot);
    } catch (error) {
      // A newer writer: the last state that could be read is better than none.
      if (!(error instanceof LoadBalancerError)) throw error;
      this.#events.failure(error);
    }
  }

  /** Of an observer: what the maps say, undefined when the writer has taken them away. */
  #read(): NativeSnapshot | undefined {
    try {
      return this.#native.snapshot();
    } catch (thrown) {
      const error = fromNative(thrown, 'read');
      if (!(error instanceof LoadBalancerError) || error.code !== 'ERR_CLOSED') throw error;
      this.#isOrphan = true;
      return undefined;
    }
  }

  #finishPending(): void {
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.finish();
  }

  /** A call of the addon, with its failures as errors of `operation`. */
  #ask<T>(operation: string, object: string | undefined, call: (native: NativeBalancer) => T): T {
    try {
      return call(this.#native);
    } catch (thrown) {
      throw fromNative(thrown, operation, object);
    }
  }

  /** As #ask, for what only reads. @throws ERR_CLOSED */
  ask<T>(operation: string, object: string | undefined, call: (native: NativeBalancer) => T): T {
    this.beforeUse(operation);
    return this.#ask(operation, object, call);
  }

  /** Commits on this thread. */
  commit(changes: Changes, object: string | undefined): void {
    changes.checkFrontends();
    this.#ask(changes.operation, object, (native) => native.commit(changes.input()));
    this.#announce(changes.adopt());
  }

  /** Commits on a worker thread. The model follows when the promise settles, or earlier when somebody needs it. */
  async commitAside(changes: Changes): Promise<void> {
    changes.checkFrontends();
    const commit = this.#ask(changes.operation, undefined, (native) => native.commitAsync(changes.input()));
    const pending = new Pending(commit, () => this.#announce(changes.adopt()));
    this.#pending = pending;
    try {
      await pending.settle();
    } catch (thrown) {
      throw fromNative(thrown, changes.operation);
    } finally {
      if (this.#pending === pending) this.#pending = undefined;
    }
  }

  /** The most frequent change: other backends. Frontends stay, so there is nothing to compare with other services. */
  commitBackends(operation: string, entry: Entry, backends: readonly Backend[]): void {
    const spec = withBackends(entry.spec, backends);
    const input: CommitInput = {
      put: [compile(spec, entry.owner, entry.head, expandFrontends(spec, this.model.node), this.model.node)],
      remove: [],
    };
    try {
      this.#native.commit(input);
    } catch (thrown) {
      throw fromNative(thrown, operation, entry.name);
    }
    const events: BackendChange[] = [];
    if (this.#events.isWatched()) addStateChanges(events, entry, backends, operation);
    entry.setBackendsOf(spec);
    this.#announce(events);
  }

  /** Stores the node and recompiles what depends on it. */
  setNode(operation: string, node: Node): void {
    if (isSameData(node.config, this.model.node?.config)) return;
    const settings: Settings = { ...this.#settings, node: node.config };
    const changes = new Changes(this.model, operation, node);
    for (const entry of this.model.services.values()) {
      checkNodePorts(operation, node, entry);
      if (dependsOnNode(entry.spec, this.model.node, node)) changes.put(entry.owner, entry.spec, entry);
    }
    changes.setSettings(JSON.stringify(settings));
    this.commit(changes, node.name);
    this.#settings = settings;
    this.#tellPackets(operation);
  }

  #announce(changes: readonly BackendChange[]): void {
    for (const change of changes) this.#events.backend(change);
  }
}

function checkNodePorts(operation: string, node: Node, { name, spec }: Entry): void {
  const [first, last] = node.nodePortRange;
  const outside = spec.frontends.find(({ kind, port }) => kind === 'nodePort' && (port < first || port > last));
  if (outside === undefined) return;
  throw new LoadBalancerError({
    code: 'ERR_INVALID_ARGUMENT',
    operation,
    object: node.name,
    path: operation === 'open' ? 'node.nodePortRange' : 'nodePortRange',
    text: `nodePortRange must hold node port ${outside.port} of service '${name}', and is ${first} to ${last}; widen it, or change the service first`,
  });
}
