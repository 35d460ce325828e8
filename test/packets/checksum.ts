/** The Internet checksum (RFC 1071) and CRC32c (RFC 9260, appendix A), written from the RFCs for tests alone. */

/** Sum of 16-bit words in one's complement, of pieces that each begin at an even offset; not yet complemented. */
export function onesSum(...pieces: Uint8Array[]): number {
  let sum = 0;
  for (const piece of pieces) for (let i = 0; i < piece.length; i += 2) sum += (piece[i]! << 8) | (piece[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** Of data whose checksum field is 0: what belongs into the field. */
export const internetChecksum = (...pieces: Uint8Array[]): number => ~onesSum(...pieces) & 0xffff;

/** The polynomial 0x1EDC6F41, bits reversed. */
const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

/** As a number whose least significant byte is sent first. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
