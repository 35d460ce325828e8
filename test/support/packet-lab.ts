import type { BackendSpec, Endpoint, NodeConfig } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { compile } from './compile.js';
import { slow } from './fixture.js';
import { serveTraffic, startProgram, TrafficClient } from './traffic.js';

/*
 *   client --- router --- front links --- lb1, lb2 --- back (a switch) --- node1, node2
 *                |  \-------------------------------- back
 *                |--- node3
 * A packet to a backend of node1 enters a balancer by one device and leaves by the other; to one of node3 it leaves as it came. Nodes answer
 * clients by the router, translated sources by their balancer. Each machine has workloads behind devices of its own.
 */
export type Family = 4 | 6;
export const familyNames = [
  { family: 4 as const, name: 'IPv4' },
  { family: 6 as const, name: 'IPv6' },
];
export type Balancer = 'lb1' | 'lb2';
export type Machine = Balancer | 'node1' | 'node2' | 'node3';

/** Namespaces of the workloads of each machine. */
const workloads: Record<Machine, string[]> = {
  lb1: ['lb1-a', 'lb1-b'],
  lb2: ['lb2-a'],
  node1: ['node1-a', 'node1-b'],
  node2: ['node2-a'],
  node3: ['node3-a'],
};
const machines = Object.keys(workloads) as Machine[];
const number = (machine: Machine): number => machines.indexOf(machine) + 1;
const isBalancer = (machine: Machine): machine is Balancer => machine.startsWith('lb');

type Pair<T> = { 4: T; 6: T };
const isOnSwitch = (name: Machine | 'router'): boolean => name !== 'node3';
const onSwitch = [...machines.filter(isOnSwitch), 'router'] as const;

/** Of the link to the switch. */
const back = (name: Machine | 'router', family: Family): string => {
  const index = onSwitch.indexOf(name) + 1;
  return family === 4 ? `10.10.0.${index}` : `fd00:10:10::${index}`;
};
/** Of the links to the router. */
const front = (machine: Machine): Pair<string> => ({ 4: `10.1.${number(machine)}.`, 6: `fd01:${number(machine)}::` });
const podCIDR = (machine: Machine): Pair<string> => ({ 4: `10.244.${number(machine)}.0/24`, 6: `fd00:244:${number(machine)}::/64` });
/** The host's and the workload's end of a workload's link, with prefixes. */
function workloadLink(machine: Machine, index: number): [string, string][] {
  const subnet = 16 * index;
  return [
    [`10.244.${number(machine)}.${subnet + 1}/28`, `10.244.${number(machine)}.${subnet + 2}/28`],
    [`fd00:244:${number(machine)}:0:${index + 1}::1/80`, `fd00:244:${number(machine)}:0:${index + 1}::2/80`],
  ];
}

export const ranges = {
  client: { 4: '198.51.100.0/24', 6: '2001:db8:100::/64' },
  /** Routed to the balancers. */
  external: { 4: '192.0.2.0/24', 6: '2001:db8:e::/64' },
  loadBalancer: { 4: '203.0.113.0/24', 6: '2001:db8:f::/64' },
  /** Not routed: known to balancers only. */
  cluster: { 4: '10.96.0.0/16', 6: 'fd00:96::/112' },
} satisfies Record<string, Pair<string>>;
export type Range = keyof typeof ranges;

/** The n-th address of a range. */
export const addressIn = (range: Range, family: Family, n: number): string =>
  ranges[range][family].replace(family === 4 ? /0\/\d+$/ : /\/\d+$/, family === 4 ? String(n) : n.toString(16));

/** The client's own addresses: the second and third of its range. */
export const clientAddress = (family: Family, which: 0 | 1 = 0): string => addressIn('client', family, 2 + which);

export const serverPort = 8080;

/** Sources of floods; answers to them end at the client. */
const floodSources: Pair<string> = { 4: '198.18.0.0/15', 6: '2001:db8:200::/64' };

export interface Probed {
  error?: string;
  from?: string;
  /** Of an ICMP error. */
  type?: number;
  code?: number;
  mtu?: number;
}

export interface PacketLabOptions {
  /** MTU of the link between client and router. */
  clientMtu?: number;
  /** Balancers that service addresses are routed to. Default: lb1. */
  balancers?: Balancer[];
}

export class PacketLab {
  private constructor(readonly lab: Lab) {}

  static async create({ clientMtu = 1500, balancers = ['lb1'] }: PacketLabOptions = {}): Promise<PacketLab> {
    const routerLinks = machines.filter((machine) => isBalancer(machine) || machine === 'node3');
    const lab = await Lab.create({
      links: [
        ...onSwitch.map((name) => ({ between: ['switch', name] as [string, string], addresses: [] })),
        {
          between: ['client', 'router'],
          addresses: ([4, 6] as const).map((family): [string, string] => {
            const length = ranges.client[family].replace(/.*\//, '/');
            return [clientAddress(family) + length, addressIn('client', family, 1) + length];
          }),
          mtu: clientMtu,
        },
        ...routerLinks.map((machine) => ({
          between: ['router', machine] as [string, string],
          addresses: [
            [`${front(machine)[4]}1/24`, `${front(machine)[4]}2/24`],
            [`${front(machine)[6]}1/64`, `${front(machine)[6]}2/64`],
          ] as [string, string][],
        })),
        ...machines.flatMap((machine) =>
          workloads[machine].map((name, i) => ({ between: [machine, name] as [string, string], addresses: workloadLink(machine, i) })),
        ),
      ],
    });
    const built = new PacketLab(lab);
    try {
      await built.#setSwitch();
      await built.#setRoutes();
      await built.routeServices(balancers);
      return built;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  /** Service addresses lead to these balancers, to each its share of flows. */
  async routeServices(balancers: Balancer[]): Promise<void> {
    const hops = (family: Family) => balancers.map((name) => `nexthop via ${front(name)[family]}2`).join(' ');
    const lines = (['external', 'loadBalancer'] as const).flatMap((range) =>
      ([4, 6] as const).map((family) => `route replace ${ranges[range][family]} ${hops(family)}`),
    );
    await this.#ip('router', lines);
  }

  /** The node's settings of a machine; the address of a balancer's front link comes first. */
  node(machine: Machine): NodeConfig {
    const hasFront = isBalancer(machine) || machine === 'node3';
    const addresses = ([4, 6] as const).flatMap((family) => [
      ...(hasFront ? [`${front(machine)[family]}2`] : []),
      ...(isOnSwitch(machine) ? [back(machine, family)] : []),
    ]);
    return { name: machine, addresses, podCIDRs: Object.values(podCIDR(machine)) };
  }

  /** The address of a machine that clients use. */
  nodeAddress(machine: Machine, family: Family): string {
    return isBalancer(machine) || machine === 'node3' ? `${front(machine)[family]}2` : back(machine, family);
  }

  /** The device of a machine that leads to clients, and a balancer's other one, too. */
  devices(machine: Machine): string[] {
    if (machine === 'node3') return [this.lab.device('node3', 'router')];
    return isBalancer(machine)
      ? [this.lab.device(machine, 'router'), this.lab.device(machine, 'switch')]
      : [this.lab.device(machine, 'switch')];
  }

  /** Host's side of a workload's device. */
  workloadDevice(workload: string): string {
    return this.lab.device(this.machineOf(workload), workload);
  }

  machineOf(workload: string): Machine {
    const machine = machines.find((name) => workloads[name].includes(workload));
    if (!machine) throw new Error(`${workload} is no workload`);
    return machine;
  }

  /** A workload as the backend of a service. */
  backend(workload: string, family: Family, port = serverPort): BackendSpec & Endpoint {
    return { address: this.lab.address(workload, family), port, node: this.machineOf(workload) };
  }

  /** One packet from the client, and what comes of it (probe.c). */
  async probe(kind: 'icmp' | 'udp', to: Endpoint, { hops = 64, bytes = 56, patienceMs = 1000 } = {}): Promise<Probed> {
    const command = [compile('probe'), kind, to.address, to.port, hops, bytes, patienceMs * slow];
    return JSON.parse(await this.lab.run('client', command.map(String))) as Probed;
  }

  /** SYNs from addresses that nobody has (flood.c); resolves when all are sent. */
  async flood(to: Endpoint, perSecond: number, count: number): Promise<{ sent: number; ms: number }> {
    const command = [compile('flood'), to.address, to.port, perSecond, count];
    return JSON.parse(await this.lab.run('client', command.map(String))) as { sent: number; ms: number };
  }

  client(namespace = 'client'): TrafficClient {
    return new TrafficClient(this.lab, namespace);
  }

  /** In these workloads, or in all: traffic servers at `ports`. */
  async serve(names: string[] = Object.values(workloads).flat(), ports = [serverPort]): Promise<void> {
    await Promise.all(names.map((name) => serveTraffic(this.lab, name, ports)));
  }

  close(): Promise<void> {
    return this.lab.close();
  }

  async #setSwitch(): Promise<void> {
    const ports = onSwitch.map((name) => this.lab.device('switch', name));
    await this.#ip('switch', [
      'link add switch type bridge forward_delay 0 mcast_snooping 0',
      'link set switch up',
      ...ports.map((port) => `link set ${port} master switch`),
    ]);
    const unfiltered = 'for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$f" ] || echo 0 > "$f"; done';
    await this.lab.run('switch', ['sh', '-ec', unfiltered]);
    for (const name of onSwitch) {
      const device = this.lab.device(name, 'switch');
      await this.#ip(name, [`addr add ${back(name, 4)}/16 dev ${device}`, `addr add ${back(name, 6)}/64 dev ${device} nodad`]);
    }
    // The other ends of the balancers' devices.
    const towards = machines.filter(isBalancer).map((machine) => this.lab.device('router', machine));
    await Promise.all([startProgram(this.lab, 'switch', 'xdp_pass', ports), startProgram(this.lab, 'router', 'xdp_pass', towards)]);
  }

  async #setRoutes(): Promise<void> {
    const both = (line: (family: Family) => string) => [line(4), line(6)];
    const others = (self: Machine) => machines.filter((machine) => machine !== self);
    await this.#ip('client', [
      ...both((family) => `route add default via ${addressIn('client', family, 1)}`),
      ...both((family) => `route add blackhole ${floodSources[family]}`),
      ...both(
        (family) =>
          `addr add ${clientAddress(family, 1)}/${family === 4 ? '24' : '64 nodad preferred_lft 0'} dev ${this.lab.device('client')}`,
      ),
    ]);
    await this.lab.run('client', ['sh', '-ec', 'echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range']);
    await this.#ip(
      'router',
      both((family) => `route add ${floodSources[family]} via ${clientAddress(family)}`),
    );
    const viaOf = (machine: Machine, family: Family) => (isOnSwitch(machine) ? back(machine, family) : `${front(machine)[family]}2`);
    await this.#ip(
      'router',
      machines.flatMap((machine) => both((family) => `route add ${podCIDR(machine)[family]} via ${viaOf(machine, family)}`)),
    );
    await this.lab.run('router', ['sh', '-ec', 'for f in 4 6; do echo 1 > /proc/sys/net/ipv$f/fib_multipath_hash_policy; done']);
    // What the router says about packets from lb1 to node3 comes by again on its way to the client, with an address of its own as source.
    await this.lab.run('router', ['sh', '-ec', 'echo 1 > /proc/sys/net/ipv4/conf/all/accept_local']);
    for (const machine of machines) {
      const router = (family: Family) =>
        isBalancer(machine) || machine === 'node3' ? `${front(machine)[family]}1` : back('router', family);
      const neighbours = isOnSwitch(machine) ? others(machine).filter(isOnSwitch) : [];
      await this.#ip(machine, [
        ...both((family) => `route add default via ${router(family)}`),
        ...neighbours.flatMap((other) => both((family) => `route add ${podCIDR(other)[family]} via ${back(other, family)}`)),
        // Translated sources are answered by the switch.
        ...(isBalancer(machine) ? [] : neighbours.filter(isBalancer)).flatMap((other) =>
          both((family) => `route add ${front(other)[family]}2 via ${back(other, family)}`),
        ),
        // Or what no service holds would go back and forth between balancer and router.
        ...(isBalancer(machine) ? (['external', 'loadBalancer'] as const) : []).flatMap((range) =>
          both((family) => `route add unreachable ${ranges[range][family]}`),
        ),
      ]);
      for (const [i, workload] of workloads[machine].entries()) {
        const [pair4, pair6] = workloadLink(machine, i);
        await this.#ip(
          workload,
          [pair4, pair6].map((pair) => `route add default via ${pair?.[0].replace(/\/.*/, '')}`),
        );
      }
    }
  }

  async #ip(namespace: string, lines: string[]): Promise<void> {
    await this.lab.run(namespace, ['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` });
  }
}
