/** What a packet fixture says: packets in order, and what must become of each. */
import { bytes, type Layer, type Packet, type Unknown } from './layers.js';
import { type Device, snatPorts } from './world.js';

/**
 * | outcome   | tc                                   | XDP                                                |
 * | unchanged | TC_ACT_UNSPEC, not a byte differs    | XDP_PASS, not a byte differs; then as tc           |
 * | forward   | redirected, as `out`                 | XDP_TX or XDP_REDIRECT, as `out`                   |
 * | stack     | TC_ACT_UNSPEC, as `out`              | XDP_PASS, not a byte differs; then as tc           |
 * | unwrap    | TC_ACT_UNSPEC, as `out`              | XDP_PASS, as `out`, which tc leaves as it is       |
 * | answer    | redirected back, as `answer`         | XDP_TX, as `answer`; or XDP_PASS, then as tc       |
 * | drop      | TC_ACT_SHOT                          | XDP_DROP; or XDP_PASS, then as tc                  |
 */
export type Outcome = 'unchanged' | 'forward' | 'stack' | 'unwrap' | 'answer' | 'drop';

export type TcHook = 'ingress' | 'egress' | 'workload-ingress' | 'workload-egress';

export interface Step {
  send: Packet;
  outcome: Outcome;
  /** Default 'ingress', of a device that is external. XDP runs before it only. */
  hook?: TcHook;
  /** Default 'ext'. */
  device?: Device;
  /** Every byte. */
  out?: Packet;
  /** The fields that are promised, of the layers of the answer; and of the first layers that it quotes. */
  answer?: Partial<Layer>[];
  quoted?: Partial<Layer>[];
  /** `forward` that XDP may leave to tc. */
  mayHandOver?: boolean;
  /** Why: counted once at tc (or by XDP, if that decides). */
  reason?: string;
}

/** Of services with DSR: numbers of enum lb_dispatch. */
export const dispatches = { ipip: 0, geneve: 1, option: 2, l2: 3 };

export interface Fixture {
  name: string;
  /** Default 'ipip'. */
  dispatch?: keyof typeof dispatches;
  steps: Step[];
}

/** The port that the node has given a flow; `name` tells the flows of a fixture apart. */
export const snat = (name = 'first'): Unknown => ({ unknown: `SNAT port ${name}`, ...snatPorts });

/** The same transport header and payload, with other ports. */
export function withPorts(transport: Packet, source: number | Unknown, destination: number | Unknown): Packet {
  const [head, ...rest] = transport;
  if (head?.layer !== 'tcp' && head?.layer !== 'udp' && head?.layer !== 'sctp') throw new Error('withPorts: no ports');
  return [{ ...head, source, destination }, ...rest];
}

/** Bytes that differ from place to place. */
export const text = (of: string): Layer => ({ layer: 'data', bytes: bytes(of) });
