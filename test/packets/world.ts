/** The node that the fixtures are about: its devices, routes and neighbours, and the services it balances. */
import type { Ethernet, Layer } from './layers.js';
import { ethernet, ipv4, ipv6 } from './layers.js';

export type Device = 'ext' | 'inn' | 'small' | 'pod';
export const macs = {
  /** The NIC that clients come in by, and their gateway. */
  ext: '02:00:00:00:01:01',
  gateway: '02:00:00:00:01:fe',
  remote: '02:00:00:00:01:11',
  remote2: '02:00:00:00:01:12',
  /** A second NIC with a backend. */
  inn: '02:00:00:00:02:01',
  inner: '02:00:00:00:02:11',
  /** A NIC with an MTU of 1,280 bytes. */
  small: '02:00:00:00:04:01',
  narrow: '02:00:00:00:04:11',
  /** The host's side of a workload's device. */
  pod: '02:00:00:00:03:01',
  local: '02:00:00:00:03:02',
} as const;

export interface Family {
  name: 'IPv4' | 'IPv6';
  six: boolean;
  node: string;
  client: string;
  client2: string;
  /** Not in the allowed source ranges. */
  stranger: string;
  /** Nobody's. */
  elsewhere: string;
  vip: string;
  vip2: string;
  remote: string;
  remote2: string;
  inner: string;
  narrow: string;
  local: string;
  unreachable: string;
  /** Another load balancer, whose wrapped packets are taken. */
  peer: string;
  ip(source: string, destination: string, hops?: number): Extract<Layer, { layer: 'ipv4' | 'ipv6' }>;
}

export const v4: Family = {
  name: 'IPv4',
  six: false,
  node: '192.0.2.1',
  client: '198.51.100.7',
  client2: '198.51.100.8',
  stranger: '100.64.0.9',
  elsewhere: '198.18.7.7',
  vip: '203.0.113.10',
  vip2: '203.0.113.11',
  remote: '192.0.2.11',
  remote2: '192.0.2.12',
  inner: '10.1.0.11',
  narrow: '10.3.0.11',
  local: '10.244.0.2',
  unreachable: '198.19.0.1',
  peer: '192.0.2.50',
  ip: (source, destination, ttl = 64) => ipv4(source, destination, { ttl, id: 0x4321 }),
};
export const v6: Family = {
  name: 'IPv6',
  six: true,
  node: '2001:db8:1::1',
  client: '2001:db8:99::7',
  client2: '2001:db8:99::8',
  stranger: '2001:db8:bad::9',
  elsewhere: '2001:db8:77::7',
  vip: '2001:db8:5::10',
  vip2: '2001:db8:5::11',
  remote: '2001:db8:1::11',
  remote2: '2001:db8:1::12',
  inner: 'fd01::11',
  narrow: 'fd03::11',
  local: 'fd44::2',
  unreachable: '2001:db8:dead::1',
  peer: '2001:db8:1::50',
  ip: (source, destination, hopLimit = 64) => ipv6(source, destination, { hopLimit }),
};
export const families = [v4, v6];

/** From a client, through its gateway, to the node. */
export const arrives: Ethernet = ethernet(macs.gateway, macs.ext);
/** From the node to clients. */
export const leaves: Ethernet = ethernet(macs.ext, macs.gateway);
export const toRemote: Ethernet = ethernet(macs.ext, macs.remote);
export const fromRemote: Ethernet = ethernet(macs.remote, macs.ext);
export const toInner: Ethernet = ethernet(macs.inn, macs.inner);
export const fromInner: Ethernet = ethernet(macs.inner, macs.inn);

export const snatPorts = { low: 40_000, high: 40_999 };

/** Ports of the services, the same for each family and protocol, at `vip`. */
export const ports = {
  remote: 80,
  inner: 81,
  local: 82,
  rejecting: 83,
  dropping: 84,
  localOnly: 85,
  restricted: 86,
  maglev: 87,
  narrow: 88,
  unreachable: 89,
  /** To the same backend as `remote`. */
  twin: 90,
  restrictedLocal: 91,
  /** Direct server return; `dsrSame`: to the same port of the backend. */
  dsr: 92,
  dsrInner: 93,
  dsrNarrow: 94,
  dsrSame: 95,
  /** Its outer destination is of the other family. */
  dsrVia: 96,
} as const;
export const nodePort = 30_080;
/** Of each backend but that of `dsrSame`. */
export const backendPort = 8080;

const algorithms = { random: 0, roundRobin: 1, maglev: 2 };
const flags = { drop: 1, localOnly: 2, dsr: 16 };
const allowed = 1;
const peers = 2;

interface ServiceLine {
  address: string;
  port: number;
  algorithm?: number;
  flags?: number;
  policy?: number;
  backends: string[];
}

function services(f: Family): ServiceLine[] {
  const at = (port: number, backends: string[], more: Partial<ServiceLine> = {}) => ({ address: f.vip, port, backends, ...more });
  return [
    at(ports.remote, [f.remote]),
    at(ports.inner, [f.inner]),
    at(ports.local, [`${f.local}/local`]),
    at(ports.rejecting, []),
    at(ports.dropping, [], { flags: flags.drop }),
    at(ports.localOnly, [], { flags: flags.localOnly }),
    at(ports.restricted, [f.remote], { policy: allowed }),
    at(ports.restrictedLocal, [`${f.local}/local`], { policy: allowed }),
    at(ports.maglev, [f.remote, f.remote2, f.inner], { algorithm: algorithms.maglev }),
    at(ports.narrow, [f.narrow]),
    at(ports.unreachable, [f.unreachable]),
    at(ports.twin, [f.remote]),
    at(ports.dsr, [f.remote], { flags: flags.dsr }),
    at(ports.dsrInner, [f.inner], { flags: flags.dsr }),
    at(ports.dsrNarrow, [f.narrow], { flags: flags.dsr }),
    at(ports.dsrSame, [f.remote], { flags: flags.dsr }),
    at(ports.dsrVia, [`${f.unreachable}/via=${f.six ? v4.remote : v6.remote}`], { flags: flags.dsr }),
    at(ports.remote, [f.remote], { address: f.vip2 }),
    at(nodePort, [f.remote], { address: f.node }),
  ];
}

const link = (name: Device, n: number, mtu = 1500) => [
  `ip link add ${name} mtu ${mtu} address ${macs[name]} type veth peer name ${name}-peer mtu ${mtu} address 02:00:00:00:ff:0${n}`,
  `ip link set ${name} up`,
  `ip link set ${name}-peer up`,
];
export const neighbour = (device: Device, mac: string, ...addresses: string[]) =>
  addresses.map((address) => `ip neigh add ${address} lladdr ${mac} dev ${device} nud permanent`);

/** Devices, routes and neighbours. */
export function networkLines(): string[] {
  return [
    ...link('ext', 1),
    ...link('inn', 2),
    ...link('pod', 3),
    ...link('small', 4, 1280),
    'ip link set lo up',
    'sysctl net/ipv4/ip_forward 1',
    'sysctl net/ipv6/conf/all/forwarding 1',
    `ip addr add ${v4.node}/24 dev ext`,
    `ip addr add ${v6.node}/64 dev ext nodad`,
    'ip addr add 10.1.0.1/24 dev inn',
    'ip addr add fd01::1/64 dev inn nodad',
    'ip addr add 10.3.0.1/24 dev small',
    'ip addr add fd03::1/64 dev small nodad',
    'ip route add 10.244.0.0/24 dev pod',
    'ip route add fd44::/64 dev pod',
    'ip route add default via 192.0.2.254 dev ext',
    'ip route add default via 2001:db8:1::fe dev ext',
    `ip route add unreachable ${v4.unreachable}/32`,
    `ip route add unreachable ${v6.unreachable}/128`,
    ...neighbour('ext', macs.gateway, '192.0.2.254', '2001:db8:1::fe'),
    ...neighbour('ext', macs.remote, v4.remote, v6.remote),
    ...neighbour('ext', macs.remote2, v4.remote2, v6.remote2),
    ...neighbour('inn', macs.inner, v4.inner, v6.inner),
    ...neighbour('small', macs.narrow, v4.narrow, v6.narrow),
    ...neighbour('pod', macs.local, v4.local, v6.local),
  ];
}

/** What the runner is told before the first packet. */
export function worldLines(): string[] {
  return [
    ...networkLines(),
    `node ${v4.node} ${v6.node} ${snatPorts.low} ${snatPorts.high}`,
    `range ${allowed} 198.51.100.0/24`,
    `range ${allowed} 2001:db8:99::/48`,
    `range ${peers} 192.0.2.0/24`,
    `range ${peers} 2001:db8:1::/64`,
    ...families.map((f) => `peers ${peers} ${f.peer} ${f.stranger}`),
    ...families.flatMap((f) =>
      ['tcp', 'udp', 'sctp'].flatMap((protocol) =>
        services(f).map(({ address, port, algorithm = 0, flags: bits = 0, policy = 0, backends }) => {
          const to = port === ports.dsrSame ? port : backendPort;
          const list = backends.map((backend) => {
            const [host, more] = backend.split('/');
            return `${host}@${to}${more === undefined ? '' : `/${more}`}`;
          });
          return `service ${protocol} ${address}@${port} ${algorithm} ${bits} ${policy} 0 ${list.join(' ')}`;
        }),
      ),
    ),
  ];
}
