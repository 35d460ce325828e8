import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balance, hookNames } from '../support/balancing.js';
import { familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
import { compile } from '../support/compile.js';
import { slow } from '../support/fixture.js';
import type { TrafficClient } from '../support/traffic.js';

// What a workload of lb1 sends to other machines, with and without masquerade.
let lab: PacketLab;
let workload: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  workload = lab.client('lb1-a');
});
afterAll(() => lab?.close());

describe.each(hookNames)('%s', (hook) => {
  let lb: LoadBalancer;
  beforeAll(async () => {
    lb = await balance(lab, 'lb1', hook);
  });
  afterAll(() => lb?.close());

  describe.each(familyNames)('$name', ({ family }) => {
    const own = () => lab.lab.address('lb1-a', family);
    const inside = () => lab.lab.address('node1-a', family);
    const width = family === 4 ? 32 : 128;

    test.each(['tcp', 'udp'] as const)(
      '[2.1] what a workload sends by %s leaves with the address of the node, unless it stays inside',
      async (protocol) => {
        const outside = { address: lab.lab.address('node3-a', family), port: serverPort };
        const near = { address: inside(), port: serverPort };
        expect((await workload.who(protocol, outside)).client.address).toBe(own());
        await lb.enableMasquerade({ podCIDRs: [`${own()}/${width}`], exclude: [`${inside()}/${width}`] });
        const answer = await workload.who(protocol, outside);
        expect(answer).toMatchObject({ server: 'node3-a', client: { address: lab.nodeAddress('lb1', family) } });
        expect((await workload.who(protocol, near)).client.address).toBe(own());
        if (protocol === 'tcp') {
          const socket = await workload.open('tcp', outside);
          const size = 4 << 20;
          expect(await socket.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
          await socket.close();
        }
        await lb.disableMasquerade();
        expect((await workload.who(protocol, outside)).client.address).toBe(own());
      },
    );

    test('[2.1] pings of workloads leave with the address of the node, and the replies find back', async () => {
      const target = lab.lab.address('node3-a', family);
      const names = ['lb1-a', 'lb1-b'];
      const ping = (from: string) =>
        lab.lab.run(from, [compile('probe'), 'icmp', target, '0', '64', '56', String(500 * slow)]).then(JSON.parse);
      // Whoever answers cannot reach the workloads.
      const lost = `${family === 4 ? '10.244.1.0/24' : 'fd00:244:1::/64'}`;
      await lab.lab.run('node3-a', ['ip', 'route', 'add', 'blackhole', lost]);
      for (const name of names) await lab.lab.run(name, ['sh', '-ec', 'echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range']);
      expect(await ping('lb1-a')).toHaveProperty('error');
      await lb.enableMasquerade({ podCIDRs: names.map((name) => `${lab.lab.address(name, family)}/${width}`) });
      for (let i = 0; i < 3; i++) for (const answer of await Promise.all(names.map(ping))) expect(answer).toMatchObject({ from: target });
      // The node's own are not taken for theirs.
      expect(await lab.lab.run('lb1', ['sh', '-ec', 'echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range'])).toBe('');
      expect(await ping('lb1')).toMatchObject({ from: target });
      await lb.disableMasquerade();
      await lab.lab.run('node3-a', ['ip', 'route', 'del', 'blackhole', lost]);
    });
  });
});
