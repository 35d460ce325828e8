import ipaddr from 'ipaddr.js';
import { describe, expect, it } from 'vitest';
import { canonicalAddress, canonicalCidr, fromKernel, isInCidr, isLoopback, isUnspecified, parseIPv4 } from '../../lib/addresses.js';

describe('addresses', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1'],
    ['0.0.0.1', '0.0.0.1'],
    ['255.255.255.254', '255.255.255.254'],
    ['::1', '::1'],
    ['FD00:0:0:1::0', 'fd00:0:0:1::'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0db8::0001', '2001:db8::1'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
    ['::2:3:4:5:6:7:8', '0:2:3:4:5:6:7:8'],
    ['64:ff9b::10.0.0.1', '64:ff9b::a00:1'],
  ])('writes %s as %s', (given, canonical) => {
    expect(canonicalAddress(given)).toBe(canonical);
  });

  it.each([
    ['', 'be an IPv4 or IPv6 address'],
    ['web.example', 'be an IPv4 or IPv6 address'],
    ['10.0.0', 'be an IPv4 or IPv6 address'],
    ['10.0.0.1.2', 'be an IPv4 or IPv6 address'],
    ['10.0.0.256', 'be an IPv4 or IPv6 address'],
    ['1.2.3.4 ', 'be an IPv4 or IPv6 address'],
    ['10.0.0.01', 'without leading zeros'],
    ['fe80::1%eth0', 'without a zone id'],
    ['10.0.0.0/8', 'a single address'],
    ['::ffff:10.0.0.1', "write it as IPv4, '10.0.0.1'"],
    ['0.0.0.0', 'a specific address'],
    ['::', 'a specific address'],
    ['224.0.0.1', 'unicast'],
    ['255.255.255.255', 'unicast'],
    ['ff02::1', 'unicast'],
    ['1::2::3', 'be an IPv4 or IPv6 address'],
    ['12345::', 'be an IPv4 or IPv6 address'],
    [':1', 'be an IPv4 or IPv6 address'],
    ['1:2:3:4:5:6:7', 'be an IPv4 or IPv6 address'],
    ['1:2:3:4:5:6:7:8:9', 'be an IPv4 or IPv6 address'],
    ['1:2:3:4:5:6:7:1.2.3.4', 'be an IPv4 or IPv6 address'],
    ['1:2:3:4:5:6:7::8', 'be an IPv4 or IPv6 address'],
  ])('refuses %j', (given, must) => {
    expect(canonicalAddress(given)).toMatchObject({ must: expect.stringContaining(must) });
  });

  it('agrees with another library on random IPv6 text', () => {
    let seed = 1;
    const random = (n: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % n;
    };
    for (let round = 0; round < 20_000; round++) {
      const parts = Array.from({ length: 1 + random(9) }, () => (random(2) === 0 ? '0' : random(0x10000).toString(16)));
      parts[0] = (0x2000 + random(0x1000)).toString(16);
      if (random(2) === 0) parts.splice(1 + random(parts.length), 0, '');
      const text = parts.join(':') + (random(8) === 0 ? '::' : '');
      const expected = ipaddr.IPv6.isValid(text) ? ipaddr.IPv6.parse(text).toRFC5952String() : undefined;
      const got = canonicalAddress(text);
      expect([text, typeof got === 'string' ? got : undefined]).toEqual([text, expected]);
    }
  });

  it('reads IPv4 as a number of 32 bits', () => {
    expect(parseIPv4('255.0.0.1')).toBe(0xff000001);
    expect(parseIPv4('1..2.3')).toBe(-1);
  });

  it('knows the unspecified addresses and loopback', () => {
    expect([isUnspecified('0.0.0.0'), isUnspecified('::'), isUnspecified('10.0.0.1')]).toEqual([true, true, false]);
    expect([isLoopback('127.3.2.1'), isLoopback('::1'), isLoopback('12.7.0.1')]).toEqual([true, true, false]);
  });

  it('writes addresses of the kernel canonically', () => {
    expect(fromKernel('::1.2.3.4')).toBe('::102:304');
    expect(fromKernel('fd00::1')).toBe('fd00::1');
    expect(fromKernel('10.0.0.1')).toBe('10.0.0.1');
  });

  it('reads ranges, and what lies in them', () => {
    expect(canonicalCidr('10.1.2.3/8')).toBe('10.0.0.0/8');
    expect(canonicalCidr('FD00:1::/16')).toBe('fd00::/16');
    expect(canonicalCidr('0.0.0.0/0')).toBe('0.0.0.0/0');
    for (const wrong of ['10.0.0.0', '10.0.0.0/33', '10.0.0.0/08', '10.0/8', 'fd00::/129', '/8', '10.0.0.0/']) {
      expect(canonicalCidr(wrong), wrong).toHaveProperty('must');
    }
    expect(isInCidr('10.255.0.1', '10.0.0.0/8')).toBe(true);
    expect(isInCidr('11.0.0.1', '10.0.0.0/8')).toBe(false);
    expect(isInCidr('fd00::1', '0.0.0.0/0')).toBe(false);
  });
});
