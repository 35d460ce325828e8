import { type Endpoint, type FrontendKind, LoadBalancer, type OpenOptions, type Protocol, type ServiceSpec } from 'ebpf-lb';
import { addressIn, type Family, type Machine, type PacketLab } from './packet-lab.js';

/** Where packets are balanced. */
export const hookNames = ['tc', 'XDP native', 'XDP generic'] as const;
export type HookName = (typeof hookNames)[number];

/** A balancer for what arrives at a machine of the lab from outside, on all of its links. */
export async function balance(lab: PacketLab, machine: Machine, hook: HookName, options: OpenOptions = {}): Promise<LoadBalancer> {
  const lb = await LoadBalancer.open({ netns: lab.lab.netns(machine), node: lab.node(machine), ...options });
  try {
    for (const device of lab.devices(machine)) {
      if (hook === 'tc') await lb.attachTc(device, { role: 'external' });
      else await lb.attachXdp(device, { mode: hook === 'XDP native' ? 'native' : 'generic' });
    }
    return lb;
  } catch (error) {
    await lb.close();
    throw error;
  }
}

/** The kinds of frontend that packets come to from outside. */
export const externalKinds = ['nodePort', 'hostPort', 'external', 'loadBalancer'] as const satisfies FrontendKind[];
export type ExternalKind = (typeof externalKinds)[number];

/** Frontends of every kind, family and protocol, by default without SCTP. No two numbers (below 100) share an address and port. */
export function frontendsOf(
  lab: PacketLab,
  number: number,
  port = 80,
  protocols: Protocol[] = ['tcp', 'udp'],
): NonNullable<ServiceSpec['frontends']> {
  return protocols.flatMap((protocol) => [
    { kind: 'nodePort' as const, port: frontend(lab, 'nodePort', 4, number).port, protocol },
    { kind: 'hostPort' as const, port: frontend(lab, 'hostPort', 4, number).port, protocol },
    ...(['external', 'loadBalancer'] as const).flatMap((kind) =>
      ([4, 6] as const).map((family) => ({ kind, protocol, ...frontend(lab, kind, family, number, port) })),
    ),
  ]);
}

/** What a client asks for: a frontend of frontendsOf() on lb1. */
export function frontend(lab: PacketLab, kind: ExternalKind, family: Family, number: number, port = 80): Endpoint {
  switch (kind) {
    case 'nodePort':
      return { address: lab.nodeAddress('lb1', family), port: 30000 + number };
    case 'hostPort':
      return { address: lab.nodeAddress('lb1', family), port: 20000 + number };
    default:
      return { address: addressIn(kind, family, number), port };
  }
}

/** Both families' ends of workloads. */
export const backendsOf = (lab: PacketLab, workloads: string[], port?: number) =>
  workloads.flatMap((name) => ([4, 6] as const).map((family) => lab.backend(name, family, port)));
