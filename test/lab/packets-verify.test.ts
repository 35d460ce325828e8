import { execFileSync } from 'node:child_process';
import { LoadBalancer, type ServiceSpec } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { backendsOf } from '../support/balancing.js';
import { addressIn, PacketLab, ranges } from '../support/packet-lab.js';
import { pinDirectory, removePins } from '../support/pins.js';

// What verify() sees of the maps that packets are looked up in, and how the next open() mends it.
let lab: PacketLab;
let lb: LoadBalancer;
const pinPath = pinDirectory();

type Bytes = string[];
function bpftool(...words: string[]): string {
  return execFileSync('bpftool', words, { env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` } }).toString();
}
const pin = (map: string) => ['pinned', `${pinPath}/${map}`];
const elements = (map: string): { key: Bytes; value: Bytes }[] => JSON.parse(bpftool('-j', 'map', 'dump', ...pin(map)));
const remove = (map: string, key: Bytes) => bpftool('map', 'delete', ...pin(map), 'key', 'hex', ...key.map((byte) => byte.slice(2)));
const write = (map: string, key: Bytes, value: Bytes) =>
  bpftool(
    'map',
    'update',
    ...pin(map),
    'key',
    'hex',
    ...key.map((byte) => byte.slice(2)),
    'value',
    'hex',
    ...value.map((byte) => byte.slice(2)),
  );

const services = (): ServiceSpec[] => [
  {
    name: 'web',
    frontends: ([4, 6] as const).flatMap((family) => [
      { kind: 'loadBalancer' as const, address: addressIn('loadBalancer', family, 1), port: 80 },
      { kind: 'cluster' as const, address: addressIn('cluster', family, 1), port: 80 },
    ]),
    backends: backendsOf(lab, ['lb1-a', 'node1-a']).map((backend) => ({ ...backend, via: lab.nodeAddress('node1', 6) })),
    sourceRanges: ['198.51.100.0/24', '2001:db8:100::/64'],
  },
];

beforeAll(async () => {
  lab = await PacketLab.create();
  const node = { ...lab.node('lb1'), serviceCIDRs: Object.values(ranges.cluster) };
  lb = await LoadBalancer.open({ pinPath, netns: lab.lab.netns('lb1'), node });
  await lb.attachTc(lab.devices('lb1')[0] ?? '', { role: 'external' });
  await lb.enableDSR({ peers: ['10.10.0.0/16'] });
  await lb.enableMasquerade({ podCIDRs: ['10.244.1.0/24'], exclude: ['10.10.0.0/16'] });
  await lb.apply(services());
});
afterAll(async () => {
  await lb?.close({ detach: true });
  await lab?.close();
  removePins(pinPath);
});

const objects = async () => (await lb.verify()).problems.map(({ code, object }) => `${code} ${object}`);

/** Each map, and what verify() calls what it is about. */
const maps: [string, RegExp][] = [
  ['held', /^ERR_KERNEL service addresses$/],
  ['addresses', /^ERR_KERNEL external addresses$/],
  ['locals', /^ERR_KERNEL local backends$/],
  ['vias', /^ERR_KERNEL outer destinations$/],
  ['ranges4', /^ERR_KERNEL (web|serviceCIDRs|peers|podCIDRs|masquerade|masquerade exclude)$/],
  ['ranges6', /^ERR_KERNEL (web|serviceCIDRs|podCIDRs)$/],
];

test('is content with what the balancer has written', async () => {
  expect(await objects()).toEqual([]);
  for (const [map] of maps) expect(elements(map).length, map).toBeGreaterThan(0);
});

describe.each(maps)('%s', (map, told) => {
  const mend = async () => {
    await lb.close();
    lb = await LoadBalancer.open({ pinPath, netns: lab.lab.netns('lb1') });
    expect(await objects()).toEqual([]);
  };

  test('[2.6] an element that is gone is noticed, and there again after the next open', async () => {
    const before = elements(map);
    for (const { key } of before) {
      remove(map, key);
      const found = await objects();
      expect(found).toHaveLength(1);
      expect(found[0]).toMatch(told);
      write(map, key, before.find((one) => one.key === key)!.value);
    }
    remove(map, before[0]!.key);
    await mend();
    expect(elements(map)).toHaveLength(before.length);
  });

  test('[2.6] one too many is noticed, and gone after the next open', async () => {
    const before = elements(map);
    const stray = before[0]!.key.map((byte, i) => (i >= before[0]!.key.length - 2 ? '0x5a' : byte));
    if (map.startsWith('ranges')) stray.splice(4, 4, '0x77', '0x77', '0x00', '0x00');
    if (map === 'vias') stray.splice(0, 4, '0x77', '0x01', '0x00', '0x00');
    write(map, stray, before[0]!.value);
    expect(await objects()).toEqual([map.startsWith('ranges') ? 'ERR_KERNEL ranges' : expect.stringMatching(told)]);
    await mend();
    expect(elements(map)).toHaveLength(before.length);
  });
});

test('[2.6] another value is noticed, and mended by the next open', async () => {
  for (const map of ['locals', 'vias']) {
    const { key, value } = elements(map)[0]!;
    write(
      map,
      key,
      value.map((byte, i) => (i === 0 ? '0x7f' : byte)),
    );
    expect(await objects()).toHaveLength(1);
    await lb.close();
    lb = await LoadBalancer.open({ pinPath, netns: lab.lab.netns('lb1') });
    expect(await objects()).toEqual([]);
    expect(elements(map).find((one) => one.key.join() === key.join())?.value).toEqual(value);
  }
});
