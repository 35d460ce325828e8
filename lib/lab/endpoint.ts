import { isIP } from 'node:net';

/** `10.10.0.1:80`, `[fd00::1]:80`; an IPv4 address in IPv6 form is written as what it is. */
export function formatEndpoint(address: string, port: number): string {
  const plain = address.toLowerCase().startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address;
  return isIP(plain) === 6 ? `[${plain}]:${port}` : `${plain}:${port}`;
}
