/** The ground that the packet fixtures stand on, held against the kernel: what it builds is understood, what is built it takes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build } from './build.js';
import { crc32c } from './checksum.js';
import {
  data,
  type Ethernet,
  ethernet,
  extension,
  filler,
  fragment,
  hex,
  icmp,
  icmp6,
  ipv4,
  ipv6,
  type Layer,
  type Packet,
  part,
  tcp,
  udp,
} from './layers.js';
import { LineProgram } from './lines.js';
import { parse } from './parse.js';
import { program } from './program.js';

const peerMac = '02:00:00:00:00:02';
let tap: LineProgram;
let link: Ethernet;

const families = [
  { name: 'IPv4', ip: () => ipv4('10.9.0.2', '10.9.0.1'), kernel: '10.9.0.1' },
  { name: 'IPv6', ip: () => ipv6('fd09::2', 'fd09::1'), kernel: 'fd09::1' },
];

/** Frames that the kernel sends to us (not its own chatter: neighbour discovery, multicast reports). */
async function answers(...packets: Packet[]): Promise<Uint8Array[]> {
  for (const packet of packets) tap.write(Buffer.from(build([link, ...packet])).toString('hex'));
  const frames: Uint8Array[] = [];
  for (let wait = 2000; ; wait = 50) {
    const line = await tap.read(wait);
    if (line === undefined) return frames;
    const frame = hex(line);
    if (parse(frame).layers[0]?.layer === 'ethernet' && frame[0] === 2) frames.push(frame);
    else wait = 2000;
  }
}

/** Well-formed, every checksum right, and build() makes the same bytes of what parse() found. */
function understood(frame: Uint8Array): Layer[] {
  const { layers, problems } = parse(frame);
  expect(problems).toEqual([]);
  expect(Buffer.from(build(layers)).toString('hex')).toBe(Buffer.from(frame).toString('hex'));
  return layers;
}

function find<L extends Layer['layer']>(layers: readonly Layer[] | undefined, layer: L): Extract<Layer, { layer: L }> {
  const found = layers?.find((one) => one.layer === layer);
  expect(found, `${layer} among ${layers?.map((one) => one.layer)}`).toBeDefined();
  return found as Extract<Layer, { layer: L }>;
}

beforeAll(async () => {
  tap = new LineProgram(program('tap'), ['10.9.0.1/24', 'fd09::1/64', '10.9.0.2', 'fd09::2', peerMac]);
  link = ethernet(peerMac, await tap.read());
});

afterAll(async () => await tap?.close());

describe.each(families)('packets and the kernel, $name', ({ name, ip, kernel }) => {
  it('has its datagrams answered', async () => {
    for (const size of [0, 1, 2, 3, 99, 1400]) {
      const [answer] = await answers([ip(), udp(4000 + size, 7), data(filler(size))]);
      const layers = understood(answer!);
      expect(find(layers, 'udp')).toMatchObject({ source: 7, destination: 4000 + size, length: 8 + size });
      expect(layers[1]).toMatchObject({ source: kernel, [name === 'IPv4' ? 'ttl' : 'hopLimit']: 64 });
    }
  });

  it('opens a connection, with options, and has its bytes echoed', async () => {
    const options = hex('020405b4 0402 080a00000001 00000000 01 030307');
    const [synAck] = await answers([ip(), tcp(5000, 7, { sequence: 1000, flags: 'S', options })]);
    const opened = find(understood(synAck!), 'tcp');
    expect(opened).toMatchObject({ flags: 'SA', acknowledgement: 1001 });
    expect(opened.options!.length).toBeGreaterThan(0);
    const next = { sequence: 1001, acknowledgement: opened.sequence! + 1, flags: 'PA', options: hex('0101 080a 00000002 00000000') };
    const echoed = await answers([ip(), tcp(5000, 7, next), data('some bytes')]);
    const payloads = echoed.map((frame) => understood(frame).find((layer) => layer.layer === 'data')?.bytes);
    expect(payloads.some((bytes) => bytes && new TextDecoder().decode(bytes) === 'some bytes')).toBe(true);
    await answers([ip(), tcp(5000, 7, { sequence: 1011, flags: 'R' })]); // or it sends them again
  });

  it('has a connection to a closed port refused', async () => {
    const [reset] = await answers([ip(), tcp(5001, 81, { sequence: 77, flags: 'S' })]);
    expect(find(understood(reset!), 'tcp')).toMatchObject({ flags: 'RA', acknowledgement: 78, sequence: 0 });
  });

  it('has a datagram to a closed port answered with an error that quotes it', async () => {
    const datagram: Packet = [ip(), udp(6000, 81), data(filler(100))];
    const [error] = await answers(datagram);
    const { quoted } = parse(error!);
    understood(error!);
    expect(find(quoted, 'udp')).toMatchObject({ source: 6000, destination: 81, length: 108 });
  });

  it('has echo requests answered', async () => {
    const request = name === 'IPv4' ? icmp(8, 0, 0x12340001) : icmp6(128, 0, 0x12340001);
    const [reply] = await answers([ip(), request, data(filler(57))]);
    expect(find(understood(reply!), request.layer as 'icmp')).toMatchObject({ type: name === 'IPv4' ? 0 : 129, rest: 0x12340001 });
  });

  it('sends a datagram in fragments and gets it back in fragments', async () => {
    const whole: Packet = [udp(7000, 7), data(filler(2000))];
    const pieces: Packet[] =
      name === 'IPv4'
        ? [
            [ipv4('10.9.0.2', kernel, { id: 9, moreFragments: true }), part(whole, 0, 1200)],
            [ipv4('10.9.0.2', kernel, { id: 9, offset: 1200 }), part(whole, 1200)],
          ]
        : [
            [ipv6('fd09::2', kernel), fragment(0, true, 9), part(whole, 0, 1200)],
            [ipv6('fd09::2', kernel), fragment(1200, false, 9), part(whole, 1200)],
          ];
    const back = await answers(...pieces);
    expect(back).toHaveLength(2);
    for (const frame of back) understood(frame);
  });

  it('has a packet with a wrong checksum ignored', async () => {
    expect(await answers([ip(), udp(4000, 7, { checksum: 0x1234 }), data('x')])).toEqual([]);
    expect(await answers([ip(), tcp(5002, 7, { flags: 'S', checksum: 0x1234 })])).toEqual([]);
  });

  it('finds every bit that was turned over in what the kernel sent', async () => {
    const [answer] = await answers([ip(), udp(4001, 7), data(filler(21))]);
    const frame = answer!;
    // Not covered by any checksum: MAC addresses; in IPv6 traffic class, flow label and hop limit.
    const uncovered = (at: number) => at < 12 || (name === 'IPv6' && ((at >= 14 && at < 18) || at === 21));
    for (let bit = 12 * 8; bit < frame.length * 8; bit++) {
      if (uncovered(bit >> 3)) continue;
      const turned = frame.slice();
      turned[bit >> 3]! ^= 0x80 >> (bit & 7);
      const { problems, layers } = parse(turned);
      const found = problems.length > 0 || !layers.some((layer) => layer.layer === 'udp');
      expect(found, `bit ${bit & 7} of byte ${bit >> 3}`).toBe(true);
    }
  });
});

describe('packets and the kernel', () => {
  it('takes IPv4 options', async () => {
    const [answer] = await answers([ipv4('10.9.0.2', '10.9.0.1', { options: hex('070b04 00000000 00000000') }), icmp(8, 0, 1), data('x')]);
    expect(find(understood(answer!), 'ipv4').options!.length).toBe(12); // record route, answered
  });

  it('takes IPv6 extension headers', async () => {
    const packet = [extension('hop-by-hop', hex('0104 00000000')), extension('destination', hex('1e0a 00112233445566778899 0100'))];
    const [answer] = await answers([ipv6('fd09::2', 'fd09::1'), ...packet, udp(4002, 7), data('behind')]);
    expect(find(understood(answer!), 'udp')).toMatchObject({ destination: 4002 });
  });

  it('takes a routing header with nothing left', async () => {
    const [answer] = await answers([ipv6('fd09::2', 'fd09::1'), extension('routing', hex('0000 00000000')), udp(4003, 7), data('x')]);
    expect(find(understood(answer!), 'udp')).toMatchObject({ destination: 4003 });
  });

  it('computes CRC32c as RFC 3720, B.4 says', () => {
    const of = (bytes: Uint8Array) => crc32c(bytes).toString(16);
    expect(of(new Uint8Array(32))).toBe('8a9136aa');
    expect(of(new Uint8Array(32).fill(0xff))).toBe('62a8ab43');
    expect(of(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe('46dd794e');
  });
});
