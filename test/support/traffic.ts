import { type ChildProcess, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Endpoint, Protocol } from 'ebpf-lb';
import type { Lab } from 'ebpf-lb/lab';
import { compile } from './compile.js';
import { slow } from './fixture.js';

/** What both ends say of a connection or datagram (traffic_server.c). */
export interface Introduction {
  error?: string;
  /** The name of the server that answered. */
  server: string;
  /** Whom the server sees. */
  client: Endpoint;
  /** The server's own end. */
  backend: Endpoint;
  /** Datagrams: where the answer came from. */
  from?: Endpoint;
}
export interface Moved {
  error?: string;
  received: number;
  sent: number;
  intact: boolean;
  ms: number;
}
export interface Burst {
  error?: string;
  sent: number;
  answered: number;
  intact: boolean;
}
export interface SocketOptions {
  own?: Partial<Endpoint>;
  /** Of a datagram socket: it takes answers from there only. */
  connected?: boolean;
  /** How long any one step may take. */
  patienceMs?: number;
}

/** Starts a program of test/support, which ends with the lab; resolves when it says that it is ready. */
export async function startProgram(lab: Lab, namespace: string, name: string, words: string[]): Promise<void> {
  const child = lab.spawn(namespace, [compile(name), ...words]);
  const { stdout, stderr } = child;
  if (!stdout || !stderr) throw new Error('the program has no outputs');
  let errors = '';
  stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  await new Promise<void>((resolve, reject) => {
    stdout.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`${name} in ${namespace} ended (${code}): ${errors.trim()}`)));
  });
}

/** A server of TCP and UDP on these ports of all addresses of a namespace. */
export function serveTraffic(lab: Lab, namespace: string, ports: number[]): Promise<void> {
  return startProgram(lab, namespace, 'traffic_server', [namespace, ...ports.map(String)]);
}

/** SCTP on these ports. */
export function serveSctp(lab: Lab, namespace: string, ports: number[]): Promise<void> {
  return startProgram(lab, namespace, 'traffic_server', [namespace, '--sctp', ...ports.map(String)]);
}

/** Whether this kernel has SCTP sockets. */
export const hasSctp = (): boolean => spawnSync(compile('traffic_client'), ['--sctp']).status === 0;

/** A process in a namespace whose sockets the test drives (traffic_client.c). */
export class TrafficClient {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: object) => void>();
  #next = 1;

  constructor(lab: Lab, namespace: string) {
    this.#child = lab.spawn(namespace, [compile('traffic_client')]);
    if (!this.#child.stdout) throw new Error('the client has no output');
    this.#child.stderr?.pipe(process.stderr);
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const space = line.indexOf(' ');
      const id = Number(line.slice(0, space));
      this.#waiting.get(id)?.(JSON.parse(line.slice(space)) as object);
      this.#waiting.delete(id);
    });
    this.#child.once('exit', (code, signal) => {
      for (const settle of this.#waiting.values()) settle({ error: `client ended (${signal ?? code})` });
      this.#waiting.clear();
    });
  }

  /** One command of traffic_client.c. */
  ask<T extends object>(...command: (string | number)[]): Promise<T & { error?: string }> {
    const id = this.#next++;
    return new Promise((resolve) => {
      this.#waiting.set(id, (answer) => resolve(answer as T & { error?: string }));
      this.#child.stdin?.write(`${id} ${command.join(' ')}\n`);
    });
  }

  /**
   * A TCP or SCTP connection, or a UDP socket whose datagrams go to this endpoint.
   * @throws with the errno's name as message
   */
  async open(protocol: Protocol, to: Endpoint, options: SocketOptions = {}): Promise<TrafficSocket> {
    const { own: { address = '-', port = 0 } = {}, connected = false, patienceMs = 3000 } = options;
    const kind = connected && protocol === 'udp' ? 'connected-udp' : protocol;
    const opened = await this.ask<{ socket: number; own: Endpoint }>(kind, to.address, to.port, patienceMs * slow, address, port);
    if (opened.error !== undefined) throw new Error(opened.error);
    return new TrafficSocket(this, opened.socket, opened.own);
  }

  /** Opens, asks the server who it is and whom it sees, and closes. An error on the way is told as `error`. */
  async who(protocol: Protocol, to: Endpoint, options: SocketOptions = {}): Promise<Introduction & { own: Endpoint }> {
    let socket: TrafficSocket;
    try {
      socket = await this.open(protocol, to, options);
    } catch (error) {
      return { error: (error as Error).message } as Introduction & { own: Endpoint };
    }
    const answer = await socket.who();
    await socket.close();
    return { ...answer, own: socket.own };
  }

  end(): void {
    this.#child.stdin?.end();
  }
}

export class TrafficSocket {
  constructor(
    readonly client: TrafficClient,
    readonly number: number,
    readonly own: Endpoint,
  ) {}

  /** @param to of a datagram, instead of where the socket was opened to */
  who(to?: Endpoint): Promise<Introduction> {
    return this.client.ask('who', this.number, ...(to ? [to.address, to.port] : []));
  }

  move(down: number, up: number): Promise<Moved> {
    return this.client.ask('move', this.number, down, up);
  }

  burst(count: number, size: number): Promise<Burst> {
    return this.client.ask('burst', this.number, count, size);
  }

  async close(): Promise<void> {
    await this.client.ask('close', this.number);
  }
}
