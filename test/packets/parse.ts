/**
 * Takes packets apart and finds what is wrong with them: every length, every checksum, computed here from the RFCs.
 * What parse() returns of a good packet makes the same bytes again with build().
 */
import { crc32c, internetChecksum, onesSum } from './checksum.js';
import type { Extension, Ipv4, Ipv6, Layer } from './layers.js';
import { addressText, etherTypes, genevePort, macText, protocols, tcpFlags } from './numbers.js';

export interface Parsed {
  layers: Layer[];
  /** Sentences; none: the packet is well-formed and every checksum in it is right. */
  problems: string[];
  /** What an ICMP error quotes, as far as it goes; its own problems are in `problems`, too. */
  quoted?: Layer[];
}

/** A packet on its way through the parser. */
class Reader {
  readonly layers: Layer[] = [];
  readonly problems: string[] = [];
  quoted: Layer[] | undefined;
  /** For pseudo headers; undefined in a fragment, whose checksum cannot be told. */
  pair: { source: Uint8Array; destination: Uint8Array } | undefined;
  /** Of a packet with a routing header that is not at its end. */
  finalDestination: Uint8Array | undefined;

  constructor(readonly isQuotation = false) {}

  problem(text: string): void {
    this.problems.push(text);
  }

  rest(bytes: Uint8Array): void {
    if (bytes.length > 0) this.layers.push({ layer: 'data', bytes });
  }

  /** False, and the rest is data, if a header is cut short. */
  has(bytes: Uint8Array, length: number, what: string): boolean {
    if (bytes.length >= length) return true;
    if (!this.isQuotation) this.problem(`${what}: ${bytes.length} bytes of at least ${length}`);
    this.rest(bytes);
    return false;
  }
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The sum over pseudo header and data; 0xffff when the checksum in the data is right. */
function pseudoSum(pair: NonNullable<Reader['pair']>, protocol: number, bytes: Uint8Array): number {
  const length = bytes.length;
  return onesSum(pair.source, pair.destination, Uint8Array.of(0, protocol, length >> 24, length >> 16, length >> 8, length), bytes);
}

function readEtherType(reader: Reader, type: number, bytes: Uint8Array): void {
  if (type === etherTypes.tag || type === etherTypes.outerTag) {
    if (!reader.has(bytes, 4, 'tag')) return;
    const view = viewOf(bytes);
    const word = view.getUint16(0);
    const outer = type === etherTypes.outerTag;
    const next = view.getUint16(2);
    reader.layers.push({ layer: 'tag', outer, priority: word >> 13, dropEligible: (word & 0x1000) !== 0, id: word & 0xfff, type: next });
    readEtherType(reader, next, bytes.subarray(4));
  } else if (type === etherTypes.ipv4) readIpv4(reader, bytes);
  else if (type === etherTypes.ipv6) readIpv6(reader, bytes);
  else if (type === etherTypes.bridged) readEthernet(reader, bytes);
  else if (type === etherTypes.arp) readArp(reader, bytes);
  else reader.rest(bytes);
}

function readEthernet(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 14, 'ethernet')) return;
  const type = viewOf(bytes).getUint16(12);
  reader.layers.push({ layer: 'ethernet', destination: macText(bytes.subarray(0, 6)), source: macText(bytes.subarray(6, 12)), type });
  readEtherType(reader, type, bytes.subarray(14));
}

function readArp(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 28, 'arp')) return;
  reader.layers.push({
    layer: 'arp',
    operation: viewOf(bytes).getUint16(6),
    senderMac: macText(bytes.subarray(8, 14)),
    sender: addressText(bytes.subarray(14, 18)),
    targetMac: macText(bytes.subarray(18, 24)),
    target: addressText(bytes.subarray(24, 28)),
  });
  reader.rest(bytes.subarray(28));
}

function readIpv4(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 20, 'ipv4')) return;
  const view = viewOf(bytes);
  const headerLength = (bytes[0]! & 15) * 4;
  const totalLength = view.getUint16(2);
  const flags = view.getUint16(6);
  const offset = (flags & 0x1fff) * 8;
  if (bytes[0]! >> 4 !== 4) reader.problem(`ipv4: version ${bytes[0]! >> 4}`);
  if (headerLength < 20) reader.problem(`ipv4: header of ${headerLength} bytes`);
  if (totalLength < headerLength) reader.problem(`ipv4: ${totalLength} bytes in all, ${headerLength} of them header`);
  if (!reader.isQuotation && totalLength > bytes.length) reader.problem(`ipv4: ${totalLength} bytes announced, ${bytes.length} there`);
  if (reader.problems.length > 0 || bytes.length < headerLength) {
    reader.rest(bytes);
    return;
  }
  const header = bytes.subarray(0, headerLength);
  if (onesSum(header) !== 0xffff) reader.problem('ipv4: wrong header checksum');
  const layer: Ipv4 = {
    layer: 'ipv4',
    source: addressText(bytes.subarray(12, 16)),
    destination: addressText(bytes.subarray(16, 20)),
    ttl: bytes[8]!,
    tos: bytes[1]!,
    id: view.getUint16(4),
    reservedFlag: (flags & 0x8000) !== 0,
    dontFragment: (flags & 0x4000) !== 0,
    moreFragments: (flags & 0x2000) !== 0,
    offset,
    options: header.slice(20),
    protocol: bytes[9]!,
    totalLength,
  };
  reader.layers.push(layer);
  reader.pair = { source: bytes.subarray(12, 16), destination: bytes.subarray(16, 20) };
  reader.finalDestination = undefined;
  const payload = bytes.subarray(headerLength, totalLength);
  readProtocol(reader, bytes[9]!, payload, (flags & 0x3fff) > 0, offset > 0);
  if (totalLength < bytes.length) reader.rest(bytes.subarray(totalLength)); // padding of a short frame
}

function readIpv6(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 40, 'ipv6')) return;
  const view = viewOf(bytes);
  const payloadLength = view.getUint16(4);
  const first = view.getUint32(0);
  if (first >>> 28 !== 6) reader.problem(`ipv6: version ${first >>> 28}`);
  if (!reader.isQuotation && 40 + payloadLength > bytes.length)
    reader.problem(`ipv6: ${payloadLength} bytes announced, ${bytes.length - 40} there`);
  if (reader.problems.length > 0) {
    reader.rest(bytes);
    return;
  }
  const layer: Ipv6 = {
    layer: 'ipv6',
    source: addressText(bytes.subarray(8, 24)),
    destination: addressText(bytes.subarray(24, 40)),
    hopLimit: bytes[7]!,
    trafficClass: (first >>> 20) & 0xff,
    flowLabel: first & 0xfffff,
    next: bytes[6]!,
    payloadLength,
  };
  reader.layers.push(layer);
  reader.pair = { source: bytes.subarray(8, 24), destination: bytes.subarray(24, 40) };
  reader.finalDestination = undefined;
  readProtocol(reader, bytes[6]!, bytes.subarray(40, 40 + payloadLength), false, false);
  if (reader.finalDestination) layer.finalDestination = addressText(reader.finalDestination);
  if (40 + payloadLength < bytes.length) reader.rest(bytes.subarray(40 + payloadLength));
}

function readExtension(reader: Reader, kind: Extension['kind'], bytes: Uint8Array, isPart: boolean): void {
  if (!reader.has(bytes, 8, kind)) return;
  const length = (bytes[1]! + 1) * 8;
  if (!reader.has(bytes, length, kind)) return;
  reader.layers.push({ layer: 'extension', kind, data: bytes.slice(2, length), next: bytes[0]!, lengthUnits: bytes[1]! });
  // The address that the pseudo header has is the one where the packet ends (RFC 8200, 8.1): types 0 and 4 list addresses.
  if (kind === 'routing' && bytes[3]! > 0 && length >= 24 && reader.pair) {
    const last = bytes[2] === 4 ? bytes.subarray(8, 24) : bytes.subarray(length - 16, length);
    reader.pair = { source: reader.pair.source, destination: last };
    reader.finalDestination = last;
  }
  readProtocol(reader, bytes[0]!, bytes.subarray(length), isPart, false);
}

function readFragment(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 8, 'fragment')) return;
  const view = viewOf(bytes);
  const word = view.getUint16(2);
  const [offset, more] = [word & 0xfff8, (word & 1) !== 0];
  reader.layers.push({ layer: 'fragment', offset, more, id: view.getUint32(4), next: bytes[0]! });
  readProtocol(reader, bytes[0]!, bytes.subarray(8), offset > 0 || more, offset > 0);
}

type Read = (reader: Reader, bytes: Uint8Array, isPart: boolean) => void;

const readers: Record<number, Read> = {
  [protocols.hopByHop]: (reader, bytes, isPart) => readExtension(reader, 'hop-by-hop', bytes, isPart),
  [protocols.routing]: (reader, bytes, isPart) => readExtension(reader, 'routing', bytes, isPart),
  [protocols.destination]: (reader, bytes, isPart) => readExtension(reader, 'destination', bytes, isPart),
  [protocols.fragment]: readFragment,
  [protocols.tcp]: readTcp,
  [protocols.udp]: readUdp,
  [protocols.sctp]: readSctp,
  [protocols.icmp]: (reader, bytes, isPart) => readIcmp(reader, protocols.icmp, bytes, isPart),
  [protocols.icmp6]: (reader, bytes, isPart) => readIcmp(reader, protocols.icmp6, bytes, isPart),
  [protocols.ipv4]: (reader, bytes, isPart) => (isPart ? reader.rest(bytes) : readIpv4(reader, bytes)),
  [protocols.ipv6]: (reader, bytes, isPart) => (isPart ? reader.rest(bytes) : readIpv6(reader, bytes)),
};

/** `isPart`: a fragment, of whose datagram not all is here; `isLater`: nor is its header. */
function readProtocol(reader: Reader, protocol: number, bytes: Uint8Array, isPart: boolean, isLater: boolean): void {
  const read = readers[protocol];
  if (isLater || !read) reader.rest(bytes);
  else read(reader, bytes, isPart);
}

function checkPseudo(reader: Reader, protocol: number, bytes: Uint8Array, what: string): void {
  if (reader.pair && !reader.isQuotation && pseudoSum(reader.pair, protocol, bytes) !== 0xffff) reader.problem(`${what}: wrong checksum`);
}

function readTcp(reader: Reader, bytes: Uint8Array, isPart: boolean): void {
  if (!reader.has(bytes, 20, 'tcp')) return;
  const view = viewOf(bytes);
  const length = (bytes[12]! >> 4) * 4;
  if (length < 20) reader.problem(`tcp: header of ${length} bytes`);
  if (length < 20 || !reader.has(bytes, length, 'tcp')) return;
  if (!isPart) checkPseudo(reader, protocols.tcp, bytes, 'tcp');
  const flags = view.getUint16(12) & 0x1ff;
  reader.layers.push({
    layer: 'tcp',
    source: view.getUint16(0),
    destination: view.getUint16(2),
    sequence: view.getUint32(4),
    acknowledgement: view.getUint32(8),
    flags: Array.from(tcpFlags)
      .filter((_, bit) => flags & (1 << bit))
      .join(''),
    window: view.getUint16(14),
    urgent: view.getUint16(18),
    options: bytes.slice(20, length),
    ...(isPart || reader.isQuotation ? { checksum: view.getUint16(16) } : {}),
  });
  reader.rest(bytes.subarray(length));
}

function readUdp(reader: Reader, bytes: Uint8Array, isPart: boolean): void {
  if (!reader.has(bytes, 8, 'udp')) return;
  const view = viewOf(bytes);
  const [length, checksum, destination] = [view.getUint16(4), view.getUint16(6), view.getUint16(2)];
  const overV6 = reader.pair?.source.length === 16;
  if (length < 8 || (!isPart && !reader.isQuotation && length !== bytes.length)) reader.problem(`udp: length ${length} of ${bytes.length}`);
  else if (checksum === 0) {
    if (overV6) reader.problem('udp: no checksum over IPv6');
  } else if (!isPart) checkPseudo(reader, protocols.udp, bytes.subarray(0, length), 'udp');
  const given = isPart || reader.isQuotation || checksum === 0;
  reader.layers.push({ layer: 'udp', source: view.getUint16(0), destination, length, ...(given ? { checksum } : {}) });
  if (destination === genevePort && !isPart && !reader.isQuotation) readGeneve(reader, bytes.subarray(8));
  else reader.rest(bytes.subarray(8));
}

function readSctp(reader: Reader, bytes: Uint8Array, isPart: boolean): void {
  if (!reader.has(bytes, 12, 'sctp')) return;
  const view = viewOf(bytes);
  const checksum = view.getUint32(8, true);
  if (!isPart && !reader.isQuotation) {
    const without = bytes.slice();
    without.fill(0, 8, 12);
    if (crc32c(without) !== checksum) reader.problem('sctp: wrong checksum');
  }
  const [source, destination, tag] = [view.getUint16(0), view.getUint16(2), view.getUint32(4)];
  reader.layers.push({ layer: 'sctp', source, destination, tag, chunks: bytes.slice(12), ...(isPart ? { checksum } : {}) });
}

/** RFC 792 and RFC 4443: types that quote what they are about. */
const quotes = (protocol: number, type: number) => (protocol === protocols.icmp6 ? type < 128 : [3, 4, 5, 11, 12].includes(type));

function readIcmp(reader: Reader, protocol: number, bytes: Uint8Array, isPart: boolean): void {
  if (!reader.has(bytes, 8, 'icmp')) return;
  const view = viewOf(bytes);
  const six = protocol === protocols.icmp6;
  const [type, code, rest] = [bytes[0]!, bytes[1]!, view.getUint32(4)];
  const given = isPart || reader.isQuotation ? { checksum: view.getUint16(2) } : {};
  reader.layers.push({ layer: six ? 'icmp6' : 'icmp', type, code, rest, ...given });
  if (!isPart && six) checkPseudo(reader, protocol, bytes, 'icmp6');
  else if (!isPart && !reader.isQuotation && internetChecksum(bytes) !== 0) reader.problem('icmp: wrong checksum');
  if (!isPart && !reader.isQuotation && quotes(protocol, type)) {
    const quotation = new Reader(true);
    if (six) readIpv6(quotation, bytes.subarray(8));
    else readIpv4(quotation, bytes.subarray(8));
    reader.quoted = quotation.layers;
    for (const problem of quotation.problems) reader.problem(`quoted ${problem}`);
  }
  reader.rest(bytes.subarray(8));
}

function readGeneve(reader: Reader, bytes: Uint8Array): void {
  if (!reader.has(bytes, 8, 'geneve')) return;
  const view = viewOf(bytes);
  const length = 8 + (bytes[0]! & 0x3f) * 4;
  if (!reader.has(bytes, length, 'geneve')) return;
  const type = view.getUint16(2);
  reader.layers.push({ layer: 'geneve', network: view.getUint32(4) >>> 8, options: bytes.slice(8, length), type });
  readEtherType(reader, type, bytes.subarray(length));
}

/** A frame, from its Ethernet header on. */
export function parse(frame: Uint8Array): Parsed {
  const reader = new Reader();
  readEthernet(reader, frame);
  const { layers, problems, quoted } = reader;
  return { layers, problems, ...(quoted ? { quoted } : {}) };
}
