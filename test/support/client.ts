import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Endpoint } from 'ebpf-lb';
import type { Lab } from 'ebpf-lb/lab';

const script = fileURLToPath(new URL('./client.mjs', import.meta.url));

export interface Outcome {
  error?: string;
  peer?: Endpoint;
  body?: string;
  text?: string;
  from?: Endpoint;
  socket?: number;
  port?: number;
  answers?: Record<string, number>;
  errors?: Record<string, number>;
}

/** A process in a lab's namespace and cgroup whose sockets the test drives (client.mjs). */
export class Client {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (outcome: Outcome) => void>();
  #next = 1;

  constructor(lab: Lab, namespace: string) {
    this.#child = lab.spawn(namespace, [process.execPath, script]);
    if (!this.#child.stdout) throw new Error('the client has no output');
    this.#child.stderr?.pipe(process.stderr);
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const { id, ...outcome } = JSON.parse(line) as Outcome & { id: number };
      this.#waiting.get(id)?.(outcome);
      this.#waiting.delete(id);
    });
    this.#child.once('exit', (code, signal) => {
      for (const settle of this.#waiting.values()) settle({ error: `client ended (${signal ?? code})` });
      this.#waiting.clear();
    });
  }

  ask(op: string, rest: Record<string, unknown> = {}): Promise<Outcome> {
    const id = this.#next++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.stdin?.write(`${JSON.stringify({ id, op, ...rest })}\n`);
    });
  }

  tcp(address: string, port: number): Promise<Outcome> {
    return this.ask('tcp', { address, port });
  }

  /** A UDP socket's number. */
  async udp(family: 4 | 6 = 4): Promise<number> {
    const { socket, error } = await this.ask('udp', { family });
    if (socket === undefined) throw new Error(`udp: ${error}`);
    return socket;
  }

  async sendTo(socket: number, address: string, port: number, text = 'hello'): Promise<Outcome> {
    const sent = await this.ask('send', { socket, address, port, text });
    return sent.error ? sent : this.ask('recv', { socket });
  }

  end(): void {
    this.#child.stdin?.end();
  }
}
