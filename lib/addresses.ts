import ipaddr from 'ipaddr.js';

export type Family = 4 | 6;

/** Family of an address in canonical text. */
export function familyOf(address: string): Family {
  return address.indexOf(':') >= 0 ? 6 : 4;
}

/** The bits of strict dotted text (four decimal octets, no leading zeros) as a number of 32 bits, or -1. */
export function parseIPv4(text: string): number {
  const length = text.length;
  if (length < 7 || length > 15) return -1;
  let value = 0;
  let octet = 0;
  let digits = 0;
  let dots = 0;
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i);
    if (code === 46) {
      if (digits === 0 || ++dots > 3) return -1;
      value = value * 256 + octet;
      octet = 0;
      digits = 0;
    } else {
      if (code < 48 || code > 57 || (digits > 0 && octet === 0)) return -1;
      octet = octet * 10 + code - 48;
      if (octet > 255) return -1;
      digits++;
    }
  }
  return dots === 3 && digits > 0 ? value * 256 + octet : -1;
}

const words = new Uint16Array(8);

function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  const lower = code | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

/** Reads IPv6 text (RFC 4291, no zone id) into `words`. */
function parseIPv6(text: string): boolean {
  const length = text.length;
  if (length < 2 || length > 45) return false;
  let count = 0;
  let gap = -1;
  let i = 0;
  if (text.charCodeAt(0) === 58) {
    if (text.charCodeAt(1) !== 58) return false;
    gap = 0;
    i = 2;
  }
  while (i < length) {
    const start = i;
    let value = 0;
    for (; i < length && i - start < 5; i++) {
      const digit = hexDigit(text.charCodeAt(i));
      if (digit < 0) break;
      value = value * 16 + digit;
    }
    const code = i < length ? text.charCodeAt(i) : -1;
    if (code === 46) {
      const low = parseIPv4(text.slice(start));
      if (low < 0 || count > 6) return false;
      words[count++] = low >>> 16;
      words[count++] = low & 0xffff;
      break;
    }
    if (i === start || i - start > 4 || count === 8) return false;
    words[count++] = value;
    if (code === -1) break;
    if (code !== 58 || ++i === length) return false;
    if (text.charCodeAt(i) === 58) {
      if (gap >= 0) return false;
      gap = count;
      i++;
    }
  }
  return gap < 0 ? count === 8 : spread(count, gap);
}

/** Moves the words behind `::` to the end. */
function spread(count: number, gap: number): boolean {
  if (count > 7) return false;
  words.copyWithin(8 - (count - gap), gap, count);
  words.fill(0, gap, 8 - (count - gap));
  return true;
}

/** `words` as RFC 5952 has it. */
function formatIPv6(): string {
  let best = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; ) {
    let end = i;
    while (end < 8 && words[end] === 0) end++;
    if (end - i > bestLength) {
      best = i;
      bestLength = end - i;
    }
    i = end + 1;
  }
  let text = '';
  for (let i = 0; i < 8; i++) {
    if (i === best) {
      text += i === 0 ? '::' : ':';
      i += bestLength - 1;
      continue;
    }
    text += words[i]!.toString(16);
    if (i < 7) text += ':';
  }
  return text;
}

/** Why text is no address that traffic can be sent to; undefined when it is one. */
export interface AddressFault {
  must: string;
}

function fault(must: string): AddressFault {
  return { must };
}

const NOT_AN_ADDRESS = fault('be an IPv4 or IPv6 address');
const UNSPECIFIED = fault('be a specific address, not the unspecified one');
const MULTICAST = fault('be a unicast address, not a multicast or broadcast one');

/** Canonical text of a unicast address, or what is wrong with it. */
export function canonicalAddress(text: string): string | AddressFault {
  const value = parseIPv4(text);
  if (value >= 0) {
    if (value === 0) return UNSPECIFIED;
    return (value >= 0xe0000000 && value < 0xf0000000) || value === 0xffffffff ? MULTICAST : text;
  }
  if (text.indexOf(':') < 0 || !parseIPv6(text)) return whyNot(text);
  const first = words[0]!;
  if (first >= 0xff00) return MULTICAST;
  if (first === 0) {
    const zeros = words.findIndex((word) => word !== 0);
    if (zeros === -1) return UNSPECIFIED;
    if (zeros === 5 && words[5] === 0xffff) {
      const dotted = [words[6]! >>> 8, words[6]! & 255, words[7]! >>> 8, words[7]! & 255].join('.');
      return fault(`not be IPv4-mapped; write it as IPv4, '${dotted}'`);
    }
  }
  return formatIPv6();
}

function whyNot(text: string): AddressFault {
  if (text.includes('%')) return fault('be an address without a zone id');
  if (text.includes('/')) return fault('be a single address, not a range');
  if (/^\d+(\.\d+){3}$/.test(text) && /(^|\.)0\d/.test(text)) return fault('be an IPv4 address without leading zeros');
  return NOT_AN_ADDRESS;
}

/** Whether text is the unspecified address of either family, which canonicalAddress refuses. */
export function isUnspecified(text: string): boolean {
  return canonicalAddress(text) === UNSPECIFIED;
}

/** Canonical text of an address that came from the kernel: inet_ntop writes some IPv6 ones with a dotted end. */
export function fromKernel(address: string): string {
  if (address.indexOf(':') < 0 || address.indexOf('.') < 0 || !parseIPv6(address)) return address;
  return formatIPv6();
}

/** Of canonical text. */
export function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

/** Canonical text of a range (`10.0.0.0/8`; host bits are cleared), or what is wrong with it. */
export function canonicalCidr(text: string): string | AddressFault {
  const slash = text.indexOf('/');
  const address = slash < 0 ? '' : text.slice(0, slash);
  const prefix = text.slice(slash + 1);
  const isIPv4 = parseIPv4(address) >= 0;
  if (!isIPv4 && (address.indexOf(':') < 0 || !parseIPv6(address))) return fault("be a range like '10.0.0.0/8' or 'fd00::/8'");
  if (!/^(0|[1-9]\d{0,2})$/.test(prefix) || Number(prefix) > (isIPv4 ? 32 : 128))
    return fault(`have a prefix length of 0 to ${isIPv4 ? 32 : 128}`);
  if (isIPv4) return `${ipaddr.IPv4.networkAddressFromCIDR(text).toString()}/${prefix}`;
  return `${ipaddr.IPv6.networkAddressFromCIDR(text).toRFC5952String()}/${prefix}`;
}

/** Whether an address lies in a range, both in canonical text. */
export function isInCidr(address: string, cidr: string): boolean {
  const parsed = ipaddr.parse(address);
  const [range, bits] = ipaddr.parseCIDR(cidr);
  return parsed.kind() === range.kind() && parsed.match(range, bits);
}

/** Ranges in canonical text, for many questions. */
export class Ranges {
  readonly #v4: { base: number; mask: number }[] = [];
  readonly #v6: { words: Uint16Array; bits: number }[] = [];

  constructor(cidrs: readonly string[]) {
    for (const cidr of cidrs) {
      const slash = cidr.indexOf('/');
      const bits = Number(cidr.slice(slash + 1));
      const base = parseIPv4(cidr.slice(0, slash));
      if (base >= 0) this.#v4.push({ base: base | 0, mask: bits === 0 ? 0 : -1 << (32 - bits) });
      else if (parseIPv6(cidr.slice(0, slash))) this.#v6.push({ words: words.slice(), bits });
    }
  }

  /** Whether an address in canonical text lies in one of them. */
  has(address: string): boolean {
    const value = parseIPv4(address);
    if (value >= 0) return this.#v4.some(({ base, mask }) => ((value | 0) & mask) === base);
    return this.#v6.length > 0 && parseIPv6(address) && this.#v6.some(({ words: range, bits }) => startsAlike(range, bits));
  }
}

/** Whether `words` begins with the first bits of a range. */
function startsAlike(range: Uint16Array, bits: number): boolean {
  const whole = bits >> 4;
  for (let i = 0; i < whole; i++) if (words[i] !== range[i]) return false;
  const rest = bits & 15;
  return rest === 0 || (words[whole]! ^ range[whole]!) >> (16 - rest) === 0;
}
