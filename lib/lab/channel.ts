import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { failure, LoadBalancerError } from '../errors.js';
import { packageRoot } from '../native/loader.js';
import { exited, launch, type Place, scriptEnvironment } from './launch.js';
import type { Failure, ReplyMessage, RequestMessage, Requests } from './protocol.js';

interface Pending {
  operation: string;
  object: string | undefined;
  resolve(reply: object): void;
  reject(error: LoadBalancerError): void;
}

/** A child process that runs a script of the package and answers requests. It keeps the owner alive only while a request is pending. */
export class Channel<R extends Requests> {
  readonly child: ChildProcess;
  readonly exited: Promise<void>;
  readonly #pending = new Map<number, Pending>();
  readonly #name: string;
  #nextId = 0;
  #ended = false;

  /**
   * @param lab its name, for people who look at the list of processes
   * @param place in the lab; omitted: outside of it. Either way a Ctrl-C in the owner's terminal does not reach it
   */
  constructor(script: string, lab: string, place?: Place) {
    this.#name = script;
    const command = [process.execPath, findScript(script), lab] as const;
    const options = { stdio: ['ignore', 'ignore', 'ignore', 'ipc'], env: scriptEnvironment(), detached: true } satisfies Parameters<
      typeof spawn
    >[2];
    this.child = place ? launch(place, command, options) : spawn(command[0], command.slice(1), options);
    this.exited = exited(this.child);
    this.child.on('message', (message: ReplyMessage) => this.#receive(message));
    this.child.once('error', (error) => this.#end(error.message));
    // After 'disconnect', so that replies sent before the end have been read.
    this.child.once('disconnect', () => this.#end('it ended'));
    this.child.once('exit', (code, signal) => {
      if (!this.child.connected) this.#end(`it ended (${signal ?? `status ${String(code)}`})`);
    });
    this.child.unref();
    this.child.channel?.unref();
  }

  get isOpen(): boolean {
    return !this.#ended;
  }

  /** @throws (rejects) with the code that the process gave, as an error of `operation`. */
  request<K extends keyof R & string>(name: K, request: R[K]['request'], operation: string, object?: string): Promise<R[K]['reply']> {
    return new Promise((resolve, reject) => {
      if (this.#ended) {
        reject(failure('ERR_CLOSED', operation, object, `the lab's ${this.#name} process has ended`));
        return;
      }
      const id = this.#nextId++;
      this.#pending.set(id, { operation, object, resolve, reject });
      this.child.channel?.ref();
      // Without a connection, 'disconnect' follows.
      this.child.send({ id, name, request } satisfies RequestMessage, () => {});
    });
  }

  /** Lets the process end and waits until it has. */
  async finish(): Promise<void> {
    this.child.ref();
    if (this.child.connected) this.child.disconnect();
    await this.exited;
  }

  #receive(message: ReplyMessage): void {
    const pending = this.#pending.get(message.id);
    if (!pending) return;
    this.#forget(message.id);
    if ('reply' in message) pending.resolve(message.reply);
    else pending.reject(toError(pending, message.failure));
  }

  #end(why: string): void {
    this.#ended = true;
    for (const [id, pending] of this.#pending) {
      this.#forget(id);
      pending.reject(failure('ERR_CLOSED', pending.operation, pending.object, `the lab's ${this.#name} process did not answer: ${why}`));
    }
  }

  #forget(id: number): void {
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.child.channel?.unref();
  }
}

function toError({ operation, object }: Pending, failure: Failure): LoadBalancerError {
  return new LoadBalancerError({ operation, object, ...failure });
}

function findScript(name: string): string {
  const root = packageRoot();
  const file = root === undefined ? undefined : path.join(root, 'dist/lab', `${name}.main.cjs`);
  if (file !== undefined && existsSync(file)) return file;
  const text = `${file ?? `${name}.main.cjs`} is not there; a checkout is built with 'npm run build', a bundler has to leave ebpf-lb out`;
  throw new LoadBalancerError({ code: 'ERR_UNSUPPORTED', operation: 'Lab', text, details: { feature: 'lab' } });
}
