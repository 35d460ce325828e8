import type { LoadBalancer as Balancer } from 'ebpf-lb';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { hookNames } from '../support/balancing.js';
import { serveTraffic, startProgram, TrafficClient } from '../support/traffic.js';

/*
 * client --- VLAN 100 --- lb --- VLAN 200 --- server. A kernel without VLAN devices, as that of the bench, has nothing to test.
 */
let lab: Lab | undefined;
let client: TrafficClient;
let hasVlans = false;
const families = [
  { name: 'IPv4', vip: '203.0.113.10', backend: '10.2.0.2' },
  { name: 'IPv6', vip: '2001:db8:5::10', backend: 'fd02::2' },
];

beforeAll(async () => {
  lab = await Lab.create({ links: [{ between: ['client', 'lb'] }, { between: ['lb', 'server'] }] });
  const tagged = async (name: string, other: string, id: number, addresses: string[]) => {
    const device = lab?.device(name, other) as string;
    await lab?.run(name, [
      'sh',
      '-ec',
      [
        `ip link add link ${device} name vlan${id} type vlan id ${id}`,
        `ip link set vlan${id} up`,
        ...addresses.map((address) => `ip addr add ${address} dev vlan${id}${address.includes(':') ? ' nodad' : ''}`),
      ].join('\n'),
    ]);
  };
  try {
    await tagged('client', 'lb', 100, ['10.1.0.2/24', 'fd01::2/64']);
    hasVlans = true;
  } catch {
    console.warn('packets-vlan: this kernel has no VLAN devices (CONFIG_VLAN_8021Q); npm run test:kernels has some that do');
    return;
  }
  await tagged('lb', 'client', 100, ['10.1.0.1/24', 'fd01::1/64']);
  await tagged('lb', 'server', 200, ['10.2.0.1/24', 'fd02::1/64']);
  await tagged('server', 'lb', 200, ['10.2.0.2/24', 'fd02::2/64']);
  await lab.run('client', ['sh', '-ec', 'ip route add 203.0.113.0/24 via 10.1.0.1; ip route add 2001:db8:5::/64 via fd01::1']);
  await lab.run('server', ['sh', '-ec', 'ip route add default via 10.2.0.1; ip route add default via fd02::1']);
  await lab.run('lb', ['sh', '-ec', 'for f in 4 6; do echo 1 > /proc/sys/net/ipv$f/conf/all/forwarding; done']);
  // veth takes frames of XDP from a device whose peer has a program, too.
  await startProgram(lab, 'client', 'xdp_pass', [lab.device('client', 'lb')]);
  await startProgram(lab, 'server', 'xdp_pass', [lab.device('server', 'lb')]);
  await serveTraffic(lab, 'server', [8080]);
  client = new TrafficClient(lab, 'client');
});
afterAll(() => lab?.close());

let lb: Balancer | undefined;
afterEach(() => lb?.close());

describe.each(hookNames)('%s', (hook) => {
  // A program sees the frames of a VLAN at the VLAN's device without tag, and at the one below with it.
  describe.each(['the VLAN devices', 'the devices below'] as const)('at %s', (where) => {
    test.for(families)('[2.1] $name: tagged packets are balanced in both directions', async ({ vip, backend }, { skip }) => {
      skip(!hasVlans, 'needs VLAN devices (CONFIG_VLAN_8021Q)');
      if (!lab) throw new Error('no lab');
      skip(hook === 'XDP native' && where === 'the VLAN devices', 'VLAN devices have no native XDP');
      lb = await LoadBalancer.open({
        netns: lab.netns('lb'),
        node: { name: 'lb', addresses: ['10.2.0.1', 'fd02::1'] },
      });
      const below = [lab.device('lb', 'client'), lab.device('lb', 'server')];
      for (const device of where === 'the VLAN devices' ? ['vlan100', 'vlan200'] : below) {
        if (hook === 'tc') await lb.attachTc(device, { role: 'external' });
        else await lb.attachXdp(device, { mode: hook === 'XDP native' ? 'native' : 'generic' });
      }
      lb.addService({
        name: 'web',
        frontends: (['tcp', 'udp'] as const).map((protocol) => ({ kind: 'external', address: vip, port: 80, protocol })),
        backends: [{ address: backend, port: 8080 }],
      });
      const to = { address: vip, port: 80 };
      for (const protocol of ['tcp', 'udp'] as const) {
        expect(await client.who(protocol, to)).toMatchObject({ server: 'server', client: { address: backend.replace(/2$/, '1') } });
      }
      const socket = await client.open('tcp', to);
      const size = 1_000_000;
      expect(await socket.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
      await socket.close();
    });
  });
});
