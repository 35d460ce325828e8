import { compile, expandFrontends, keyName } from './compile.js';
import { failure } from './errors.js';
import { Entry, type Model } from './model.js';
import type { CommitInput, PutService } from './native/binding.js';
import type { Node } from './node-config.js';
import { recordHead } from './record.js';
import type { Backend, Spec } from './spec.js';
import type { BackendChange } from './types.js';

/** The new state of one service. */
export interface Put {
  /** undefined: it is new. */
  readonly entry: Entry | undefined;
  readonly spec: Spec;
  /** Of its keys. */
  readonly keyNames: readonly string[];
  readonly compiled: PutService;
}

/** One commit in the making: nothing is changed before adopt(). */
export class Changes {
  readonly puts: Put[] = [];
  readonly removals: Entry[] = [];
  /** Services whose frontends are no longer what the model says. */
  readonly #touched = new Set<Entry>();
  #settings: string | undefined;

  constructor(
    readonly model: Model,
    readonly operation: string,
    readonly node: Node | undefined = model.node,
  ) {}

  get size(): number {
    return this.puts.length + this.removals.length + (this.#settings === undefined ? 0 : 1);
  }

  put(owner: string, spec: Spec, entry: Entry | undefined): void {
    const keys = expandFrontends(spec, this.node);
    this.puts.push({ entry, spec, keyNames: keys.map(keyName), compiled: compile(spec, owner, recordHead(spec), keys, this.node) });
    if (entry !== undefined) this.#touched.add(entry);
  }

  remove(entry: Entry): void {
    this.removals.push(entry);
    this.#touched.add(entry);
  }

  setSettings(settings: string): void {
    this.#settings = settings;
  }

  /**
   * Checks that no two services have one frontend once everything is done; a frontend may move.
   * @throws ERR_FRONTEND_IN_USE
   */
  checkFrontends(): void {
    const claims = this.puts.length > 1 ? new Map<string, Spec>() : undefined;
    for (const { entry, spec, keyNames } of this.puts) {
      for (const name of keyNames) {
        const claimant = claims?.get(name);
        if (claimant !== undefined) throw this.#inUse(spec.name, name, claimant.name);
        claims?.set(name, spec);
        const holder = this.model.frontends.get(name);
        if (holder !== undefined && holder !== entry && !this.#touched.has(holder)) throw this.#inUse(spec.name, name, holder.name);
      }
    }
  }

  #inUse(service: string, key: string, holder: string): Error {
    const [address, port, protocol] = key.split(' ');
    const text = `the frontend ${address} port ${port} ${protocol} belongs to service '${holder}'; remove it there first, or move it within one apply`;
    return failure('ERR_FRONTEND_IN_USE', this.operation, service, text);
  }

  input(): CommitInput {
    const input: CommitInput = { put: this.puts.map((put) => put.compiled), remove: this.removals.map((entry) => entry.name) };
    if (this.#settings !== undefined) input.settings = this.#settings;
    return input;
  }

  /** The commit has happened: the model follows. Says which backends changed their state. */
  adopt(): BackendChange[] {
    const { model } = this;
    const changes: BackendChange[] = [];
    for (const entry of this.removals) model.delete(entry);
    for (const { entry } of this.puts) if (entry !== undefined) model.release(entry);
    model.node = this.node;
    for (const { entry, spec, keyNames, compiled } of this.puts) {
      if (entry === undefined) {
        model.add(new Entry(spec, compiled.owner), keyNames);
      } else {
        addStateChanges(changes, entry, spec.backends, this.operation);
        entry.spec = spec;
        model.hold(entry, keyNames);
      }
    }
    return changes;
  }
}

/** Lists the backends of a service whose state is about to change. */
export function addStateChanges(changes: BackendChange[], entry: Entry, backends: readonly Backend[], why: string): void {
  const before = entry.spec.backends;
  if (before === backends) return;
  let byEndpoint: Map<string, Backend> | undefined;
  for (let i = 0; i < backends.length; i++) {
    const now = backends[i]!;
    let old = before[i];
    if (old === undefined || old.port !== now.port || old.address !== now.address) {
      byEndpoint ??= new Map(before.map((backend) => [`${backend.address} ${backend.port}`, backend]));
      old = byEndpoint.get(`${now.address} ${now.port}`);
    }
    if (old === undefined || old.state === now.state) continue;
    changes.push({ service: entry.name, backend: { address: now.address, port: now.port }, from: old.state, to: now.state, why });
  }
}
