import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balance, hookNames } from '../support/balancing.js';
import { familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
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
  });
});
