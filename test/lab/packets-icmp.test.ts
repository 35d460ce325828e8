import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balance, frontend, hookNames } from '../support/balancing.js';
import { places, servicesOf } from '../support/packet-cases.js';
import { addressIn, clientAddress, familyNames, PacketLab, type Probed, serverPort } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

// Echo, and errors about balanced flows: each reaches who has to know, about a packet that it has sent.
let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

/** The last hop to an address takes 1400 bytes: a route says so, as a veth device drops what is too big for its other end without a word. */
const narrow = (action: 'add' | 'del', namespace: string, device: string, address: string) =>
  lab.lab.run(namespace, ['ip', 'route', action, `${address}/${address.includes(':') ? 128 : 32}`, 'dev', device, 'mtu', '1400']);
/** Forgets the path MTUs that were learnt. */
const forget = async () => {
  for (const namespace of ['client', 'lb1', 'lb1-a', 'node1-a', 'node3-a']) {
    for (const family of ['-4', '-6']) await lab.lab.run(namespace, ['ip', family, 'route', 'flush', 'cache']);
  }
};

describe.each(hookNames)('%s', (hook) => {
  let lb: LoadBalancer;
  beforeAll(async () => {
    lb = await balance(lab, 'lb1', hook);
    await lb.apply(servicesOf(lab, 'snat'));
  });
  afterAll(() => lb?.close());

  describe.each(familyNames)('$name', ({ family }) => {
    describe.each(Object.values(places))('$place', ({ workload, number }) => {
      const service = () => frontend(lab, 'external', family, number, serverPort);

      test('[2.1] ping: the service address answers', async () => {
        for (const bytes of [0, 56, 1400]) expect(await lab.probe('icmp', service(), { bytes })).toEqual({ from: service().address });
      });

      test('[2.1] traceroute: every hop answers, the last one as the service', async () => {
        const hops: Probed[] = [];
        do hops.push(await lab.probe('udp', service(), { hops: hops.length + 1 }));
        while (hops.at(-1)?.type !== undefined && hops.length < 8);
        expect(hops.at(-1)).toEqual({ from: service().address });
        const exceeded = family === 4 ? { type: 11, code: 0 } : { type: 3, code: 0 };
        for (const hop of hops.slice(0, -1)) expect(hop).toMatchObject({ ...exceeded, from: expect.any(String) });
        expect(hops[0]?.from).toBe(addressIn('client', family, 1));
        expect(hops.length).toBeGreaterThan(2);
      });

      test.each(['client', 'backend'] as const)(
        '[2.1] path MTU: a hop of 1400 bytes in front of the %s is found, a transfer arrives intact',
        async (end) => {
          const at = end === 'client' ? 'router' : lab.machineOf(workload);
          const hop = [at, lab.lab.device(at, end === 'client' ? 'client' : workload)] as const;
          const address = end === 'client' ? clientAddress(family) : lab.lab.address(workload, family);
          await narrow('add', ...hop, address);
          try {
            const socket = await client.open('tcp', service());
            const bytes = 1 << 20;
            expect(await socket.move(bytes, bytes)).toMatchObject({ received: bytes, sent: bytes, intact: true });
            await socket.close();
          } finally {
            await narrow('del', ...hop, address);
            await forget();
          }
        },
      );
    });
  });
});
