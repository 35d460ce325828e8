import { failure } from './errors.js';
import type { LoadBalancer } from './load-balancer.js';
import type { Entry } from './model.js';
import type { BackendSpec, NormalizedServiceSpec, Service, ServiceChange, ServiceStats } from './types.js';

/** A Service as users hold it: everything goes through the balancer. */
export class ServiceHandle implements Service {
  readonly #balancer: LoadBalancer;
  readonly #entry: Entry;
  readonly #beforeRead: () => void;

  constructor(balancer: LoadBalancer, entry: Entry, beforeRead: () => void) {
    this.#balancer = balancer;
    this.#entry = entry;
    this.#beforeRead = beforeRead;
  }

  /** The entry that a handle of this balancer stands for, alive or not. */
  static entryOf(handle: unknown, balancer: LoadBalancer): Entry | undefined {
    return handle instanceof ServiceHandle && handle.#balancer === balancer ? handle.#entry : undefined;
  }

  get name(): string {
    return this.#entry.name;
  }

  get owner(): string {
    return this.#entry.owner;
  }

  get spec(): NormalizedServiceSpec {
    this.#beforeRead();
    return this.#entry.normalForm;
  }

  setBackends(backends: readonly BackendSpec[]): void {
    this.#balancer.setBackends(this, backends);
  }

  update(change: ServiceChange): void {
    this.#balancer.updateService(this, change);
  }

  remove(): boolean {
    return this.#balancer.removeService(this);
  }

  stats(): ServiceStats {
    return this.#balancer.stats(this);
  }

  toJSON(): object {
    return { name: this.name, owner: this.owner, spec: this.spec };
  }
}

export function serviceNotFound(operation: string, name: string): Error {
  return failure('ERR_SERVICE_NOT_FOUND', operation, name, 'there is no such service, or no longer; add it with addService or apply');
}
