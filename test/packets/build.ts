/** Bytes of a packet that is described as layers (layers.ts), from the RFCs; knows nothing of the programs that it tests. */
import { crc32c, internetChecksum } from './checksum.js';
import type { Arp, Ethernet, Extension, Geneve, Icmp, Ipv4, Ipv6, Layer, Packet, Port, Sctp, Tag, Tcp, Udp } from './layers.js';
import { addressBytes, etherTypes, extensionKinds, macBytes, protocols, tcpFlags } from './numbers.js';

/** What the unknowns turned out to be. */
export type Known = ReadonlyMap<string, number>;

/** What a layer sees of its surroundings. */
interface Around {
  known: Known;
  /** The layer that follows, through parts. */
  inner: Layer | undefined;
  /** Address pair of the IP header around, for pseudo headers. */
  pseudo: { source: Uint8Array; destination: Uint8Array } | undefined;
}

function write(length: number, fill: (view: DataView, bytes: Uint8Array) => void): Uint8Array {
  const bytes = new Uint8Array(length);
  fill(new DataView(bytes.buffer), bytes);
  return bytes;
}

function join(...pieces: Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(pieces));
}

function padded(bytes: Uint8Array | undefined, multiple: number, more = 0): Uint8Array {
  const length = bytes?.length ?? 0;
  return join(bytes ?? new Uint8Array(), new Uint8Array((multiple - ((length + more) % multiple)) % multiple));
}

export function portOf(port: Port, known: Known): number {
  if (typeof port === 'number') return port;
  const value = known.get(port.unknown);
  if (value === undefined) throw new Error(`packet: what is ${port.unknown}? No packet has told yet`);
  return value;
}

function etherType(inner: Layer | undefined): number {
  switch (inner?.layer) {
    case 'ipv4':
      return etherTypes.ipv4;
    case 'ipv6':
      return etherTypes.ipv6;
    case 'arp':
      return etherTypes.arp;
    case 'tag':
      return inner.outer ? etherTypes.outerTag : etherTypes.tag;
    case 'ethernet':
      return etherTypes.bridged;
    default:
      return 0x88b5; // for local experiments
  }
}

function protocolNumber(inner: Layer | undefined): number {
  switch (inner?.layer) {
    case 'extension':
      return extensionKinds[inner.kind];
    case 'part':
      return protocolNumber(inner.of[0]);
    case 'ipv4':
    case 'ipv6':
    case 'tcp':
    case 'udp':
    case 'sctp':
    case 'icmp':
    case 'icmp6':
    case 'fragment':
      return protocols[inner.layer];
    default:
      return inner === undefined ? protocols.none : 253; // for experiments
  }
}

function pseudoHeader(around: Around, protocol: number, length: number): Uint8Array {
  if (!around.pseudo) throw new Error('packet: a checksum needs an IP header around it');
  const { source, destination } = around.pseudo;
  const four = source.length === 4;
  const rest = write(four ? 4 : 8, (view) => {
    view.setUint16(2, four ? length : length & 0xffff);
    if (four) view.setUint8(1, protocol);
    else {
      view.setUint32(0, length);
      view.setUint8(7, protocol);
    }
  });
  return join(source, destination, rest);
}

function ethernetBytes(layer: Ethernet, { inner }: Around): Uint8Array {
  return write(14, (view, bytes) => {
    bytes.set(macBytes(layer.destination), 0);
    bytes.set(macBytes(layer.source), 6);
    view.setUint16(12, layer.type ?? etherType(inner));
  });
}

function tagBytes(layer: Tag, { inner }: Around): Uint8Array {
  return write(4, (view) => {
    view.setUint16(0, ((layer.priority ?? 0) << 13) | (layer.dropEligible ? 1 << 12 : 0) | layer.id);
    view.setUint16(2, layer.type ?? etherType(inner));
  });
}

function arpBytes(layer: Arp): Uint8Array {
  return write(28, (view, bytes) => {
    view.setUint16(0, 1);
    view.setUint16(2, etherTypes.ipv4);
    view.setUint16(4, (6 << 8) | 4);
    view.setUint16(6, layer.operation);
    bytes.set(macBytes(layer.senderMac), 8);
    bytes.set(addressBytes(layer.sender), 14);
    bytes.set(macBytes(layer.targetMac), 18);
    bytes.set(addressBytes(layer.target), 24);
  });
}

function ipv4Bytes(layer: Ipv4, { inner }: Around, payload: Uint8Array): Uint8Array {
  const options = padded(layer.options, 4);
  const header = write(20 + options.length, (view, bytes) => {
    view.setUint8(0, ((layer.version ?? 4) << 4) | (layer.headerWords ?? bytes.length / 4));
    view.setUint8(1, layer.tos ?? 0);
    view.setUint16(2, layer.totalLength ?? bytes.length + payload.length);
    view.setUint16(4, layer.id ?? 0);
    const flags = (layer.reservedFlag ? 1 << 15 : 0) | (layer.dontFragment ? 1 << 14 : 0) | (layer.moreFragments ? 1 << 13 : 0);
    view.setUint16(6, flags | ((layer.offset ?? 0) >> 3));
    view.setUint8(8, layer.ttl ?? 64);
    view.setUint8(9, layer.protocol ?? protocolNumber(inner));
    bytes.set(addressBytes(layer.source), 12);
    bytes.set(addressBytes(layer.destination), 16);
    bytes.set(options, 20);
    view.setUint16(10, layer.checksum ?? internetChecksum(bytes));
  });
  return join(header, payload);
}

function ipv6Bytes(layer: Ipv6, { inner }: Around, payload: Uint8Array): Uint8Array {
  const header = write(40, (view, bytes) => {
    view.setUint32(0, (((layer.version ?? 6) << 28) | ((layer.trafficClass ?? 0) << 20) | (layer.flowLabel ?? 0)) >>> 0);
    view.setUint16(4, layer.payloadLength ?? payload.length);
    view.setUint8(6, layer.next ?? protocolNumber(inner));
    view.setUint8(7, layer.hopLimit ?? 64);
    bytes.set(addressBytes(layer.source), 8);
    bytes.set(addressBytes(layer.destination), 24);
  });
  return join(header, payload);
}

function extensionBytes(layer: Extension, { inner }: Around): Uint8Array {
  const rest = padded(layer.data ?? new Uint8Array(6), 8, 2);
  return write(2 + rest.length, (view, bytes) => {
    view.setUint8(0, layer.next ?? protocolNumber(inner));
    view.setUint8(1, layer.lengthUnits ?? (2 + rest.length) / 8 - 1);
    bytes.set(rest, 2);
  });
}

function tcpBytes(layer: Tcp, around: Around, payload: Uint8Array): Uint8Array {
  const options = padded(layer.options, 4);
  const segment = write(20 + options.length + payload.length, (view, bytes) => {
    view.setUint16(0, portOf(layer.source, around.known));
    view.setUint16(2, portOf(layer.destination, around.known));
    view.setUint32(4, layer.sequence ?? 0);
    view.setUint32(8, layer.acknowledgement ?? 0);
    const flags = Array.from(layer.flags ?? 'A', (letter) => 1 << tcpFlags.indexOf(letter)).reduce((a, b) => a | b, 0);
    view.setUint16(12, ((layer.headerWords ?? 5 + options.length / 4) << 12) | flags);
    view.setUint16(14, layer.window ?? 0xfaf0);
    view.setUint16(18, layer.urgent ?? 0);
    bytes.set(options, 20);
    bytes.set(payload, 20 + options.length);
    view.setUint16(16, layer.checksum ?? internetChecksum(pseudoHeader(around, protocols.tcp, bytes.length), bytes));
  });
  return segment;
}

function udpBytes(layer: Udp, around: Around, payload: Uint8Array): Uint8Array {
  return write(8 + payload.length, (view, bytes) => {
    view.setUint16(0, portOf(layer.source, around.known));
    view.setUint16(2, portOf(layer.destination, around.known));
    view.setUint16(4, layer.length ?? bytes.length);
    bytes.set(payload, 8);
    // 0 means none; a sum that comes to 0 is sent as its other form.
    view.setUint16(6, layer.checksum ?? (internetChecksum(pseudoHeader(around, protocols.udp, bytes.length), bytes) || 0xffff));
  });
}

function sctpBytes(layer: Sctp, { known }: Around, payload: Uint8Array): Uint8Array {
  const chunks = join(layer.chunks ?? new Uint8Array(), payload);
  return write(12 + chunks.length, (view, bytes) => {
    view.setUint16(0, portOf(layer.source, known));
    view.setUint16(2, portOf(layer.destination, known));
    view.setUint32(4, layer.tag ?? 0);
    bytes.set(chunks, 12);
    view.setUint32(8, layer.checksum ?? crc32c(bytes), true);
  });
}

function icmpBytes(layer: Icmp, around: Around, payload: Uint8Array): Uint8Array {
  return write(8 + payload.length, (view, bytes) => {
    view.setUint8(0, layer.type);
    view.setUint8(1, layer.code ?? 0);
    view.setUint32(4, layer.rest ?? 0);
    bytes.set(payload, 8);
    const pseudo = layer.layer === 'icmp6' ? [pseudoHeader(around, protocols.icmp6, bytes.length)] : [];
    view.setUint16(2, layer.checksum ?? internetChecksum(...pseudo, bytes));
  });
}

function geneveBytes(layer: Geneve, { inner }: Around): Uint8Array {
  const options = padded(layer.options, 4);
  return write(8 + options.length, (view, bytes) => {
    view.setUint8(0, options.length / 4);
    view.setUint16(2, layer.type ?? etherType(inner));
    view.setUint32(4, layer.network << 8);
    bytes.set(options, 8);
  });
}

function layerBytes(layer: Layer, around: Around, payload: Uint8Array): Uint8Array {
  switch (layer.layer) {
    case 'ethernet':
      return join(ethernetBytes(layer, around), payload);
    case 'tag':
      return join(tagBytes(layer, around), payload);
    case 'arp':
      return join(arpBytes(layer), payload);
    case 'ipv4':
      return ipv4Bytes(layer, around, payload);
    case 'ipv6':
      return ipv6Bytes(layer, around, payload);
    case 'extension':
      return join(extensionBytes(layer, around), payload);
    case 'fragment': {
      const { offset, more, id } = layer;
      const header = write(8, (view) => {
        view.setUint8(0, layer.next ?? protocolNumber(around.inner));
        view.setUint16(2, offset | (more ? 1 : 0));
        view.setUint32(4, id);
      });
      return join(header, payload);
    }
    case 'tcp':
      return tcpBytes(layer, around, payload);
    case 'udp':
      return udpBytes(layer, around, payload);
    case 'sctp':
      return sctpBytes(layer, around, payload);
    case 'icmp':
    case 'icmp6':
      return icmpBytes(layer, around, payload);
    case 'geneve':
      return join(geneveBytes(layer, around), payload);
    case 'data':
      return join(layer.bytes, payload);
    case 'part':
      return join(encode(layer.of, 0, around).slice(layer.from ?? 0, layer.to), payload);
  }
}

function encode(packet: Packet, at: number, around: Pick<Around, 'known' | 'pseudo'>): Uint8Array {
  const layer = packet[at];
  if (!layer) return new Uint8Array();
  const pseudo =
    layer.layer === 'ipv4'
      ? { source: addressBytes(layer.source), destination: addressBytes(layer.destination) }
      : layer.layer === 'ipv6'
        ? { source: addressBytes(layer.source), destination: addressBytes(layer.finalDestination ?? layer.destination) }
        : around.pseudo;
  const payload = encode(packet, at + 1, { known: around.known, pseudo });
  return layerBytes(layer, { ...around, pseudo, inner: packet[at + 1] }, payload);
}

/** The bytes of a packet; `known`: what the unknowns in it are. */
export function build(packet: Packet, known: Known = new Map()): Uint8Array {
  return encode(packet, 0, { known, pseudo: undefined });
}
