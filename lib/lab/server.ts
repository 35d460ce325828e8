import type { Endpoint } from '../types.js';

/** A server in a lab. Its own properties are those of an endpoint, so that it can be given as a backend. */
export class LabServer implements Endpoint {
  readonly address: string;
  readonly port: number;
  readonly #namespace: string;
  readonly #close: () => Promise<void>;
  #stopping: Promise<void> | undefined;

  /** @internal */
  constructor(namespace: string, address: string, port: number, close: () => Promise<void>) {
    this.address = address;
    this.port = port;
    this.#namespace = namespace;
    this.#close = close;
  }

  get namespace(): string {
    return this.#namespace;
  }

  /** Closes the port and every open connection; resolves when they are closed. */
  stop(): Promise<void> {
    this.#stopping ??= this.#close();
    return this.#stopping;
  }
}
