/**
 * Packets as data: a packet is a list of layers, outermost first, and build.ts makes bytes of it. What is left out is computed (lengths,
 * checksums, the next protocol); what is given is taken as it is, right or wrong.
 */

/** A value that is known only from a packet that came out; the first packet expected to have it says what it is. */
export interface Unknown {
  unknown: string;
  /** Where it must lie, both included. */
  low: number;
  high: number;
}
export type Port = number | Unknown;

export interface Ethernet {
  layer: 'ethernet';
  destination: string;
  source: string;
  type?: number;
}
/** 802.1Q, or 802.1ad with `outer`. */
export interface Tag {
  layer: 'tag';
  outer?: boolean;
  id: number;
  priority?: number;
  dropEligible?: boolean;
  type?: number;
}
export interface Ipv4 {
  layer: 'ipv4';
  source: string;
  destination: string;
  /** Default 64. */
  ttl?: number;
  /** DSCP and ECN. */
  tos?: number;
  id?: number;
  reservedFlag?: boolean;
  dontFragment?: boolean;
  moreFragments?: boolean;
  /** In bytes. */
  offset?: number;
  /** Padded to a multiple of 4 with end-of-options. */
  options?: Uint8Array;
  protocol?: number;
  version?: number;
  headerWords?: number;
  totalLength?: number;
  checksum?: number;
}
export interface Ipv6 {
  layer: 'ipv6';
  source: string;
  destination: string;
  /** Default 64. */
  hopLimit?: number;
  trafficClass?: number;
  flowLabel?: number;
  next?: number;
  version?: number;
  payloadLength?: number;
  /** Default: the destination, or the last address of a routing header before its end. */
  finalDestination?: string;
}
export interface Extension {
  layer: 'extension';
  kind: 'hop-by-hop' | 'routing' | 'destination';
  /** What follows the first two bytes; padded to 8 n + 6 with zeros (Pad1). */
  data?: Uint8Array;
  next?: number;
  lengthUnits?: number;
}
export interface Fragment {
  layer: 'fragment';
  /** In bytes. */
  offset: number;
  more: boolean;
  id: number;
  next?: number;
}
export interface Tcp {
  layer: 'tcp';
  source: Port;
  destination: Port;
  sequence?: number;
  acknowledgement?: number;
  /** Letters of F S R P A U E C N (N: the first of the reserved bits, NS). */
  flags?: string;
  window?: number;
  urgent?: number;
  options?: Uint8Array;
  headerWords?: number;
  checksum?: number;
}
export interface Udp {
  layer: 'udp';
  source: Port;
  destination: Port;
  length?: number;
  checksum?: number;
}
export interface Sctp {
  layer: 'sctp';
  source: Port;
  destination: Port;
  tag?: number;
  /** Chunks, as bytes. */
  chunks?: Uint8Array;
  checksum?: number;
}
/** ICMP in IPv4, ICMPv6 in IPv6. */
export interface Icmp {
  layer: 'icmp' | 'icmp6';
  type: number;
  code?: number;
  /** The second word: identifier and sequence number, MTU, pointer. */
  rest?: number;
  checksum?: number;
}
export interface Geneve {
  layer: 'geneve';
  network: number;
  options?: Uint8Array;
  type?: number;
}
export interface Arp {
  layer: 'arp';
  operation: number;
  senderMac: string;
  sender: string;
  targetMac: string;
  target: string;
}
export interface Data {
  layer: 'data';
  bytes: Uint8Array;
}
/** A part of what other layers are: fragments of a datagram, a packet that an error quotes. `protocol` of the first of `of` when it begins one. */
export interface Part {
  layer: 'part';
  of: Packet;
  from?: number;
  to?: number;
}

export type Layer = Ethernet | Tag | Ipv4 | Ipv6 | Extension | Fragment | Tcp | Udp | Sctp | Icmp | Geneve | Arp | Data | Part;
export type Packet = readonly Layer[];

type Rest<L extends Layer, Named extends string> = Omit<L, 'layer' | Named>;
type Bytes = Uint8Array | string | readonly number[];

export const bytes = (from: Bytes): Uint8Array => (typeof from === 'string' ? new TextEncoder().encode(from) : Uint8Array.from(from));
/** `n` bytes that are not all the same. */
export const filler = (n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => (i * 7 + (i >> 8) + 1) & 0xff);
export const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));

export const ethernet = (source: string, destination: string, type?: number): Ethernet => ({
  layer: 'ethernet',
  source,
  destination,
  ...(type === undefined ? {} : { type }),
});
export const tag = (id: number, more: Rest<Tag, 'id'> = {}): Tag => ({ layer: 'tag', id, ...more });
export const ipv4 = (source: string, destination: string, more: Rest<Ipv4, 'source' | 'destination'> = {}): Ipv4 => ({
  layer: 'ipv4',
  source,
  destination,
  ...more,
});
export const ipv6 = (source: string, destination: string, more: Rest<Ipv6, 'source' | 'destination'> = {}): Ipv6 => ({
  layer: 'ipv6',
  source,
  destination,
  ...more,
});
export const extension = (kind: Extension['kind'], data?: Bytes, more: Rest<Extension, 'kind' | 'data'> = {}): Extension => ({
  layer: 'extension',
  kind,
  ...(data === undefined ? {} : { data: bytes(data) }),
  ...more,
});
export const fragment = (offset: number, more: boolean, id: number): Fragment => ({ layer: 'fragment', offset, more, id });
export const tcp = (source: Port, destination: Port, more: Rest<Tcp, 'source' | 'destination'> = {}): Tcp => ({
  layer: 'tcp',
  source,
  destination,
  ...more,
});
export const udp = (source: Port, destination: Port, more: Rest<Udp, 'source' | 'destination'> = {}): Udp => ({
  layer: 'udp',
  source,
  destination,
  ...more,
});
export const sctp = (source: Port, destination: Port, more: Rest<Sctp, 'source' | 'destination'> = {}): Sctp => ({
  layer: 'sctp',
  source,
  destination,
  ...more,
});
export const icmp = (type: number, code: number, rest = 0, more: Pick<Icmp, 'checksum'> = {}): Icmp => ({
  layer: 'icmp',
  type,
  code,
  rest,
  ...more,
});
export const icmp6 = (type: number, code: number, rest = 0, more: Pick<Icmp, 'checksum'> = {}): Icmp => ({
  ...icmp(type, code, rest, more),
  layer: 'icmp6',
});
export const geneve = (network: number, options?: Uint8Array): Geneve => ({
  layer: 'geneve',
  network,
  ...(options === undefined ? {} : { options }),
});
export const data = (from: Bytes): Data => ({ layer: 'data', bytes: bytes(from) });
export const part = (of: Packet, from?: number, to?: number): Part => ({
  layer: 'part',
  of,
  ...(from === undefined ? {} : { from }),
  ...(to === undefined ? {} : { to }),
});
