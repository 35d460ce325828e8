import { familyOf } from './addresses.js';
import type { NativePackets } from './native/binding.js';
import type { Node } from './node-config.js';
import type { Protocol } from './types.js';
import { checkArray, checkChoice, checkCidrs, checkInteger, checkObject, checkOptions, type Place, PROTOCOLS } from './validate.js';

/** Idle times of flows, in seconds. */
export interface FlowIdle {
  tcp?: number;
  udp?: number;
}

const IDLE: Required<FlowIdle> = { tcp: 8000, udp: 60 };
const IDLE_MAX = 30 * 86400;

export function checkFlowIdle(place: Place, path: string, value: unknown): FlowIdle {
  const given = checkObject(place, path, value, ['tcp', 'udp']);
  const idle: FlowIdle = {};
  for (const key of ['tcp', 'udp'] as const) {
    if (given[key] !== undefined) idle[key] = checkInteger(place, `${path}.${key}`, given[key], 1, IDLE_MAX);
  }
  return idle;
}

const DISPATCHES = ['ipip', 'geneve', 'option', 'l2'] as const;
const SERVICES = ['all', 'marked'] as const;
/** enum lb_dsr_flag of bpf/include/abi.h. */
const DSR_FLAG = { all: 1, tcp: 2, udp: 4, sctp: 8, on: 16 } as const;

/** Direct server return, as it is kept. */
export interface Dsr {
  dispatch: (typeof DISPATCHES)[number];
  services: (typeof SERVICES)[number];
  protocols: readonly Protocol[];
  peers: readonly string[];
}

export function checkDsr(place: Place, value: unknown): Dsr {
  const given = checkOptions(place, value, ['dispatch', 'services', 'protocols', 'peers']);
  const protocols = given['protocols'] === undefined ? PROTOCOLS : checkArray(place, 'protocols', given['protocols']);
  return {
    dispatch: given['dispatch'] === undefined ? 'ipip' : checkChoice(place, 'dispatch', given['dispatch'], DISPATCHES),
    services: given['services'] === undefined ? 'all' : checkChoice(place, 'services', given['services'], SERVICES),
    protocols: protocols.map((protocol, i) => checkChoice(place, `protocols[${i}]`, protocol, PROTOCOLS)),
    peers: given['peers'] === undefined ? [] : checkCidrs(place, 'peers', given['peers']),
  };
}

/** Masquerade, as it is kept. */
export interface Masquerade {
  podCIDRs: readonly string[];
  exclude: readonly string[];
}

export function checkMasquerade(place: Place, value: unknown): Masquerade {
  const given = checkObject(place, '', value, ['podCIDRs', 'exclude']);
  const podCIDRs = checkCidrs(place, 'podCIDRs', given['podCIDRs']);
  if (podCIDRs.length === 0) throw place.wrong('podCIDRs', 'is empty; name the ranges of the workloads, or call disableMasquerade');
  return { podCIDRs, exclude: given['exclude'] === undefined ? [] : checkCidrs(place, 'exclude', given['exclude']) };
}

/** What is kept of the packet path beside the node. */
export interface PacketSettings {
  flowIdleSeconds: FlowIdle;
  /** undefined: off. */
  dsr: Dsr | undefined;
  masquerade: Masquerade | undefined;
  /** All services have been there once: what is in serviceCIDRs and none of them is nobody's. */
  complete: boolean;
}

/** What the packet programs are told. */
export function nativePackets(node: Node | undefined, { flowIdleSeconds, dsr, masquerade, complete }: PacketSettings): NativePackets {
  const primary = (family: 4 | 6) => node?.hostAddresses.find((address) => familyOf(address) === family);
  const [snatLow, snatHigh] = node?.snatPortRange ?? [0, 0];
  let flags = 0;
  if (dsr !== undefined) {
    flags = DSR_FLAG.on | (dsr.services === 'all' ? DSR_FLAG.all : 0);
    for (const protocol of dsr.protocols) flags |= DSR_FLAG[protocol];
  }
  return {
    address4: primary(4),
    address6: primary(6),
    snatLow,
    snatHigh,
    idleTcp: flowIdleSeconds.tcp ?? IDLE.tcp,
    idleUdp: flowIdleSeconds.udp ?? IDLE.udp,
    dsr: flags,
    dispatch: dsr === undefined ? 0 : DISPATCHES.indexOf(dsr.dispatch),
    masqueradeAll: node?.config.masqueradeAll ?? false,
    peers: dsr?.peers ?? [],
    pods: node?.config.podCIDRs ?? [],
    masquerade: masquerade?.podCIDRs ?? [],
    services: complete ? (node?.config.serviceCIDRs ?? []) : [],
    // What stays among the workloads keeps its source.
    masqueradeExclude: masquerade === undefined ? [] : [...new Set([...masquerade.podCIDRs, ...masquerade.exclude])],
  };
}
