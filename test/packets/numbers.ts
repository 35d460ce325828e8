/** Protocol numbers (IANA) and addresses as bytes. */
import ipaddr from 'ipaddr.js';

export const etherTypes = { ipv4: 0x0800, arp: 0x0806, tag: 0x8100, ipv6: 0x86dd, outerTag: 0x88a8, bridged: 0x6558 } as const;

export const protocols = {
  hopByHop: 0,
  icmp: 1,
  ipv4: 4,
  tcp: 6,
  udp: 17,
  ipv6: 41,
  routing: 43,
  fragment: 44,
  icmp6: 58,
  none: 59,
  destination: 60,
  sctp: 132,
} as const;

export const extensionKinds = {
  'hop-by-hop': protocols.hopByHop,
  routing: protocols.routing,
  destination: protocols.destination,
} as const;

export const genevePort = 6081;
export const tcpFlags = 'FSRPAUECN';

export const addressBytes = (address: string): Uint8Array => Uint8Array.from(ipaddr.parse(address).toByteArray());
export const addressText = (of: Uint8Array): string => ipaddr.fromByteArray([...of]).toString();

export const macBytes = (mac: string): Uint8Array => Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16));
export const macText = (of: Uint8Array): string => Array.from(of, (byte) => byte.toString(16).padStart(2, '0')).join(':');
