import { execFileSync } from 'node:child_process';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../support/fixture.js';
import { pinDirectory, removePins } from '../support/pins.js';

// What the controller tells the packet programs of routes: lb_node.routes and routes_until.
let lab: Lab;
const pins = pinDirectory();
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['lb', 'peer'] });
});
afterAll(() => lab?.close());

let lb: LoadBalancer | undefined;
async function attached(): Promise<LoadBalancer> {
  lb = await LoadBalancer.open({ pinPath: pins, netns: lab.netns('lb'), node: { name: 'lb', addresses: [lab.address('lb')] } });
  await lb.attachTc(lab.device('lb'), { role: 'external' });
  return lb;
}
afterEach(async () => {
  await lb?.close({ detach: true });
  removePins(pins);
});

const ip = (...words: string[]) => lab.run('lb', ['ip', ...words]);

/** The last words of struct lb_node. */
function told(): { routes: number; until: number } {
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };
  const [{ value }] = JSON.parse(execFileSync('bpftool', ['-j', 'map', 'dump', 'pinned', `${pins}/node`], { env }).toString()) as [
    { value: string[] },
  ];
  const bytes = Buffer.from(value.map(Number));
  return { routes: bytes.readUInt32LE(bytes.length - 8), until: bytes.readUInt32LE(bytes.length - 4) };
}
const vouches = () => told().until !== 0;

describe('[2.8] what programs remember of ways', () => {
  test.each([
    ['a neighbour', ['neigh', 'replace', '10.231.0.77', 'lladdr', '02:00:00:00:00:77', 'dev']],
    ['an address', ['address', 'replace', '10.231.0.99/32', 'dev']],
    ['a route', ['route', 'replace', '10.232.0.0/24', 'dev']],
    ['an IPv6 route', ['-6', 'route', 'replace', 'fd00:232::/64', 'dev']],
    ['a link', ['link', 'set', 'mtu', '1400', 'dev']],
  ])('ends when %s changes', async (_, command) => {
    await attached();
    await until('vouched for', vouches);
    const before = told().routes;
    await ip(...command, lab.device('lb'));
    // Long before an entry ends by itself.
    await until('told', () => told().routes !== before, 200);
    await until('vouched for', vouches);
  });

  test.each([
    ['a rule by source', ['rule', 'add', 'from', '10.0.0.0/8', 'lookup', '100'], ['rule', 'del', 'from', '10.0.0.0/8', 'lookup', '100']],
    ['a rule by port', ['rule', 'add', 'dport', '80', 'lookup', '100'], ['rule', 'del', 'dport', '80', 'lookup', '100']],
    [
      'an IPv6 rule by source',
      ['-6', 'rule', 'add', 'from', 'fd00::/8', 'lookup', '100'],
      ['-6', 'rule', 'del', 'from', 'fd00::/8', 'lookup', '100'],
    ],
    ['several next hops', ['MULTIPATH'], ['route', 'del', '10.233.0.0/24']],
    [
      'an IPv6 route by source',
      ['-6', 'route', 'add', 'fd00:233::/64', 'from', 'fd00:9::/64', 'dev', 'DEVICE'],
      ['-6', 'route', 'flush', 'fd00:233::/64'],
    ],
  ])('is no longer by destination alone with %s, found at once and at the start', async (_, add, remove) => {
    const device = lab.device('lb');
    const peer = lab.address('peer');
    const words =
      add[0] === 'MULTIPATH'
        ? `route add 10.233.0.0/24 nexthop via ${peer} dev ${device} weight 1 nexthop via ${peer} dev ${device} weight 2`.split(' ')
        : add;
    await attached();
    await until('vouched for', vouches);
    const before = told().routes;
    await ip(...words.map((word) => (word === 'DEVICE' ? device : word)));
    try {
      await until('not vouched for', () => told().until === 0, 2000);
      expect(told().routes).not.toBe(before);
      await lb?.close();
      expect(told().until, 'nobody vouches').toBe(0);
      await attached();
      for (let i = 0; i < 10; i++) {
        expect(told().until).toBe(0);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    } finally {
      await ip(...remove);
    }
    await lb?.close({ detach: true });
    await attached();
    await until('vouched for', vouches);
  });

  test('is by destination with rules that look at nothing else', async () => {
    await ip('rule', 'add', 'to', '10.234.0.0/24', 'lookup', '100');
    try {
      await attached();
      await until('vouched for', vouches);
    } finally {
      await ip('rule', 'del', 'to', '10.234.0.0/24', 'lookup', '100');
    }
  });

  test('nobody vouches for ways after close()', async () => {
    await attached();
    await until('vouched for', vouches);
    await lb?.close();
    expect(told().until).toBe(0);
  });
});
