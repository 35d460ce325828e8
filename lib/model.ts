import type { FrontendKeys } from './compile.js';
import type { Node } from './node-config.js';
import { type Spec, toNormalForm } from './spec.js';
import type { NormalizedServiceSpec, Service } from './types.js';

/** A service of a balancer, from its addition to its removal. */
export class Entry {
  alive = true;
  /** The object that users hold. */
  handle: Service | undefined;
  /** The last apply that named it. */
  mark = 0;
  #normalForm: NormalizedServiceSpec | undefined;

  constructor(
    readonly name: string,
    readonly owner: string,
    public spec: Spec,
    public keys: FrontendKeys,
    /** See record.ts. */
    public head: string,
  ) {}

  get normalForm(): NormalizedServiceSpec {
    this.#normalForm ??= toNormalForm(this.spec);
    return this.#normalForm;
  }

  replace(spec: Spec, keys: FrontendKeys, head: string): void {
    this.spec = spec;
    this.keys = keys;
    this.head = head;
    this.#normalForm = undefined;
  }
}

/** What the balancer believes to be committed. */
export class Model {
  readonly services = new Map<string, Entry>();
  /** By keyName. */
  readonly frontends = new Map<string, Entry>();
  node: Node | undefined;

  add(entry: Entry): void {
    this.services.set(entry.name, entry);
    this.hold(entry);
  }

  delete(entry: Entry): void {
    entry.alive = false;
    this.services.delete(entry.name);
    this.release(entry);
  }

  hold(entry: Entry): void {
    for (const name of entry.keys.names) this.frontends.set(name, entry);
  }

  release(entry: Entry): void {
    for (const name of entry.keys.names) if (this.frontends.get(name) === entry) this.frontends.delete(name);
  }
}
