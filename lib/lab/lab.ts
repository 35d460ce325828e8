import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { basename } from 'node:path';
import { failure, LoadBalancerError, unsupported } from '../errors.js';
import { removeAtExit } from './at-exit.js';
import { removeCgroup } from './cgroup.js';
import { Channel } from './channel.js';
import { exited, launch, type Place } from './launch.js';
import { type LabOptions, type LabPlan, planLab, switchNamespace } from './plan.js';
import type { HelperRequests, ServerRequests } from './protocol.js';
import { collectOutput, type RunOptions } from './run.js';
import { LabServer } from './server.js';

export interface HttpOptions {
  /** Default: the address and port that was asked, `10.10.0.2:8081\n` or `[fd00:10:10::2]:8081\n`. */
  body?: string;
  /** How long every answer takes. Default 0. */
  delayMs?: number;
  /** Default: all addresses of the namespace, of both families. */
  address?: string;
}
export interface UdpOptions {
  /** Default: all addresses that the namespace has by then, of both families. */
  address?: string;
}

/**
 * Network namespaces and a cgroup of their own, for scripts and tests. Nothing in the host's own namespace is touched, nothing has a way out.
 *
 * A lab is removed by `close()`, and by a helper process when the owner ends, in whatever way. An open lab alone does not keep the owner
 * running; what it was asked for and has not done yet does, and so do processes started with `spawn()`.
 */
export class Lab {
  /** cgroup v2 directory that everything started by the lab lives in. */
  readonly cgroup: string;
  readonly #plan: LabPlan;
  readonly #paths: Readonly<Record<string, string>>;
  readonly #helper: Channel<HelperRequests>;
  readonly #hosts = new Map<string, Channel<ServerRequests>>();
  readonly #children = new Set<ChildProcess>();
  readonly #keepAtExit: () => void;
  #closing: Promise<void> | undefined;

  private constructor(plan: LabPlan, helper: Channel<HelperRequests>, created: HelperRequests['create']['reply'], keepAtExit: () => void) {
    this.#plan = plan;
    this.#helper = helper;
    this.cgroup = created.cgroup;
    this.#paths = created.paths;
    this.#keepAtExit = keepAtExit;
    helper.exited.then(() => this.#removeWithoutHelper());
  }

  /**
   * Creates namespaces, devices, addresses and the cgroup. Devices are eth0, eth1 ... in every namespace: on the switch first, then of links in
   * their order.
   * @throws ERR_INVALID_ARGUMENT when the options describe no lab
   * @throws ERR_PERMISSION when the process may not create namespaces or cgroups: it needs root
   * @throws ERR_KERNEL when the kernel refuses, ERR_UNSUPPORTED when this is not Linux
   * @kernel 5.10
   */
  static async create(options: LabOptions = {}): Promise<Lab> {
    const operation = 'Lab.create';
    if (process.platform !== 'linux')
      throw unsupported(operation, undefined, 'linux', `labs are made of Linux namespaces, this is ${process.platform}`);
    const plan = planLab(options);
    const cgroup = `ebpf-lb-lab-${process.pid}-${randomBytes(4).toString('hex')}`;
    const helper = new Channel<HelperRequests>('helper', cgroup);
    const keepAtExit = removeAtExit(helper.child);
    try {
      const created = await helper.request('create', { cgroup, plan }, operation);
      for (const warning of created.warnings) process.emitWarning(warning, { type: 'LabWarning' });
      return new Lab(plan, helper, created, keepAtExit);
    } catch (error) {
      await helper.finish();
      keepAtExit();
      throw error;
    }
  }

  /** Path of a namespace, for `netns` options, setns and nsenter, in any process. Valid until the lab is closed. */
  netns(namespace: string): string {
    return this.#path('netns', namespace);
  }

  /** The first address of the namespace that is of this family. */
  address(namespace: string, family: 4 | 6 = 4): string {
    const address = this.#addresses('address', namespace).find((text) => isIP(text) === family);
    if (address === undefined) throw failure('ERR_NOT_FOUND', 'address', namespace, `the namespace has no IPv${family} address`);
    return address;
  }

  /** Name of the namespace's device on the link to another namespace; without one, of the first (on a switch: the only one). */
  device(namespace: string, towards?: string): string {
    this.#path('device', namespace);
    for (const { ends } of this.#plan.cables) {
      const [near, far] = ends[0].namespace === namespace ? ends : [ends[1], ends[0]];
      if (near.namespace === namespace && (towards === undefined || far.namespace === towards)) return near.name;
    }
    const to = towards === undefined ? '' : ` to '${towards}'`;
    throw failure('ERR_NOT_FOUND', 'device', namespace, `the namespace has no link${to}`);
  }

  /**
   * An HTTP server that answers every request with `body`.
   * @returns its `address` is the namespace's IPv4 address (if it has none, its IPv6 address) unless `options.address` says otherwise
   * @throws ERR_KERNEL when the port is in use
   */
  serveHttp(namespace: string, port: number, options: HttpOptions = {}): Promise<LabServer> {
    return this.#serve('http', namespace, port, options);
  }

  /**
   * A UDP server that answers every datagram with `ADDRESS:PORT PAYLOAD`. The address is the one that was asked, and so is the answer's source.
   * @returns as serveHttp
   * @throws ERR_KERNEL when the port is in use
   */
  serveUdp(namespace: string, port: number, options: UdpOptions = {}): Promise<LabServer> {
    return this.#serve('udp', namespace, port, options);
  }

  /**
   * Runs a command in a namespace until it has ended and closed its outputs (what it leaves in the background must not hold them). It sees the
   * host's /sys.
   * @returns what it wrote to standard output
   * @throws CommandError, with its exit code and standard error, when it fails or is killed
   */
  async run(namespace: string, command: string[], options: RunOptions = {}): Promise<string> {
    const stdin = options.input === undefined ? 'ignore' : 'pipe';
    const child = this.#launch('run', namespace, command, stdin);
    return collectOutput(child, `run ${namespace}: ${command.join(' ')}`, options);
  }

  /** Starts a command in a namespace, with pipes for input and outputs and a process group of its own. It ends with the lab, if not before. */
  spawn(namespace: string, command: string[]): ChildProcess {
    return this.#launch('spawn', namespace, command, 'pipe');
  }

  /** Kills everything in the lab's cgroup and removes cgroup and namespaces. Resolves when all is gone; may be called again. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    if (this.#helper.isOpen) await this.#helper.request('close', {}, 'Lab.close').finally(() => this.#helper.finish());
    await this.#helper.exited;
    await removeCgroup(this.cgroup); // already gone, unless the helper was killed
    await Promise.all([...[...this.#children].map(exited), ...[...this.#hosts.values()].map((host) => host.finish())]);
    this.#keepAtExit();
  }

  /** The namespaces end with the helper; what lives in the cgroup does not. */
  #removeWithoutHelper(): void {
    this.#closing ??= this.#close();
    this.#closing.catch(() => {}); // close() tells
  }

  async #serve(kind: 'http' | 'udp', namespace: string, port: number, options: HttpOptions): Promise<LabServer> {
    const operation = kind === 'http' ? 'serveHttp' : 'serveUdp';
    const addresses = this.#addresses(operation, namespace);
    if (!Number.isInteger(port) || port < 1 || port > 65535) throw invalid(operation, 'port', `must be 1 to 65535, got ${String(port)}`);
    const address = options.address ?? addresses.find((text) => isIP(text) === 4) ?? addresses[0];
    if (address === undefined) throw failure('ERR_NOT_FOUND', operation, namespace, 'the namespace has no address');
    if (isIP(address) === 0) throw invalid(operation, 'options.address', `must be an IP address, got '${address}'`);
    const host = this.#host(operation, namespace);
    const { id } = await host.request(kind, { port, ...options }, operation, `${namespace} port ${port}`);
    return new LabServer(namespace, address, port, async () => {
      await host.request('stop', { id }, 'stop', `${namespace} port ${port}`).catch((error: unknown) => {
        if (host.isOpen) throw error; // otherwise the server has ended with its process
      });
    });
  }

  #host(operation: string, namespace: string): Channel<ServerRequests> {
    const known = this.#hosts.get(namespace);
    if (known?.isOpen) return known;
    const host = new Channel<ServerRequests>('server', basename(this.cgroup), this.#place(operation, namespace));
    this.#hosts.set(namespace, host);
    return host;
  }

  #launch(operation: string, namespace: string, command: string[], stdin: 'pipe' | 'ignore'): ChildProcess {
    const place = this.#place(operation, namespace);
    if (!Array.isArray(command) || command.length === 0 || command.some((word) => typeof word !== 'string')) {
      throw invalid(operation, 'command', 'must be a list of strings, the program first');
    }
    const child = launch(place, command, { stdio: [stdin, 'pipe', 'pipe'] });
    this.#children.add(child);
    const forget = () => this.#children.delete(child);
    child.once('exit', forget).once('error', forget);
    return child;
  }

  #place(operation: string, namespace: string): Place {
    const netns = this.#path(operation, namespace);
    if (this.#closing) throw failure('ERR_CLOSED', operation, namespace, 'the lab is closed');
    return { cgroup: this.cgroup, netns };
  }

  #addresses(operation: string, namespace: string): string[] {
    this.#path(operation, namespace);
    const devices = this.#plan.cables.flatMap((cable) => cable.ends).filter((device) => device.namespace === namespace);
    return devices.flatMap((device) => device.addresses).map((address) => address.slice(0, address.indexOf('/')));
  }

  #path(operation: string, namespace: string): string {
    const path = namespace === switchNamespace ? undefined : this.#paths[namespace];
    if (path !== undefined) return path;
    const names = this.#plan.namespaces.filter((name) => name !== switchNamespace).join(', ') || 'none';
    throw failure('ERR_NOT_FOUND', operation, namespace, `the lab has no such namespace; it has ${names}`);
  }
}

function invalid(operation: string, path: string, text: string): LoadBalancerError {
  return new LoadBalancerError({ code: 'ERR_INVALID_ARGUMENT', operation, text: `${path} ${text}`, path });
}
