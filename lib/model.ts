import { expandFrontends, keyName } from './compile.js';
import type { Node } from './node-config.js';
import { makeRecord, recordHead } from './record.js';
import { type Spec, toNormalForm } from './spec.js';
import type { NormalizedServiceSpec, Service } from './types.js';

/** A service of a balancer, from its addition to its removal. */
export class Entry {
  alive = true;
  /** The object that users hold. */
  handle: Service | undefined = undefined;
  /** The last apply that named it. */
  mark = 0;
  #spec: Spec;
  #head: string | undefined = undefined;
  #normalForm: NormalizedServiceSpec | undefined = undefined;

  constructor(
    spec: Spec,
    readonly owner: string,
  ) {
    this.#spec = spec;
  }

  get name(): string {
    return this.#spec.name;
  }

  get spec(): Spec {
    return this.#spec;
  }

  set spec(spec: Spec) {
    this.#spec = spec;
    this.#head = undefined;
    this.#normalForm = undefined;
  }

  /** See record.ts. */
  get head(): string {
    this.#head ??= recordHead(this.#spec);
    return this.#head;
  }

  get record(): string {
    return makeRecord(this.head, this.#spec.backends);
  }

  get normalForm(): NormalizedServiceSpec {
    this.#normalForm ??= toNormalForm(this.#spec);
    return this.#normalForm;
  }

  /** A new spec that differs in backends alone: the head stays. */
  setBackendsOf(spec: Spec): void {
    this.#spec = spec;
    this.#normalForm = undefined;
  }
}

/** What the balancer believes to be committed. */
export class Model {
  readonly services = new Map<string, Entry>();
  /** By keyName. */
  readonly frontends = new Map<string, Entry>();
  node: Node | undefined = undefined;

  add(entry: Entry, keyNames: readonly string[]): void {
    this.services.set(entry.name, entry);
    this.hold(entry, keyNames);
  }

  delete(entry: Entry): void {
    entry.alive = false;
    this.services.delete(entry.name);
    this.release(entry);
  }

  /** Enters its frontends, by default those that follow from the spec and the node of now. */
  hold(entry: Entry, keyNames: readonly string[] = expandFrontends(entry.spec, this.node).map(keyName)): void {
    for (const name of keyNames) this.frontends.set(name, entry);
  }

  /** To be called before spec or node are changed. */
  release(entry: Entry): void {
    for (const key of expandFrontends(entry.spec, this.node)) {
      const name = keyName(key);
      if (this.frontends.get(name) === entry) this.frontends.delete(name);
    }
  }
}
