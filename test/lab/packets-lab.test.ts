import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { addressIn, clientAddress, familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

// The ground of the other packets-* tests: what they expect of the topology and of the traffic programs, without a balancer.
let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

const workloads = ['lb1-a', 'lb1-b', 'lb2-a', 'node1-a', 'node1-b', 'node2-a', 'node3-a'];

describe.each(familyNames)('$name', ({ family }) => {
  test.each(['tcp', 'udp'] as const)(
    '[2.1] the client and every workload reach every workload by %s and are seen as who they are',
    async (protocol) => {
      for (const [from, source] of [['client', clientAddress(family)], ...workloads.map((name) => [name, lab.lab.address(name, family)])]) {
        const asker = lab.client(from);
        for (const to of workloads) {
          const backend = lab.backend(to, family);
          const answer = await asker.who(protocol, backend);
          expect(answer, `${from} to ${to}`).toMatchObject({
            server: to,
            client: { address: source, port: answer.own.port },
            backend: { address: backend.address, port: serverPort },
            ...(protocol === 'udp' ? { from: { address: backend.address, port: serverPort } } : {}),
          });
        }
        asker.end();
      }
    },
  );

  test('[2.1] transfers and bursts arrive intact', async () => {
    const tcp = await client.open('tcp', lab.backend('node3-a', family));
    const size = 4 << 20;
    expect(await tcp.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
    expect(await tcp.who()).toMatchObject({ server: 'node3-a', client: tcp.own });
    await tcp.close();
    const udp = await client.open('udp', lab.backend('node1-a', family));
    expect(await udp.burst(200, 1200)).toEqual({ sent: 200, answered: 200, intact: true });
    await udp.close();
  });

  test('[2.1] the client has a second address, and a port of its own choice', async () => {
    const own = { address: clientAddress(family, 1), port: 4321 };
    for (const protocol of ['tcp', 'udp'] as const) {
      expect(await client.who(protocol, lab.backend('node2-a', family), { own })).toMatchObject({ client: own });
    }
  });

  test('[2.1] a service address without a service is unreachable, a closed port refused', async () => {
    const errors = await Promise.all([
      client.who('tcp', { address: addressIn('external', family, 1), port: 80 }),
      client.who('tcp', { address: lab.nodeAddress('lb1', family), port: 80 }),
      client.who('udp', { address: lab.nodeAddress('lb1', family), port: 80 }),
    ]);
    expect(errors.map(({ error }) => error)).toEqual([family === 4 ? 'EHOSTUNREACH' : 'ENETUNREACH', 'ECONNREFUSED', 'ECONNREFUSED']);
  });

  test('[2.1] a probe tells replies, and who said what is wrong', async () => {
    const to = lab.backend('lb1-a', family);
    const [exceeded, router] = [family === 4 ? { type: 11, code: 0 } : { type: 3, code: 0 }, addressIn('client', family, 1)];
    expect(await lab.probe('icmp', to)).toEqual({ from: to.address });
    expect(await lab.probe('udp', to)).toEqual({ from: to.address });
    expect(await lab.probe('icmp', to, { hops: 1 })).toMatchObject({ from: router, ...exceeded });
    expect(await lab.probe('udp', to, { hops: 1 })).toMatchObject({ from: router, ...exceeded });
    const refused = family === 4 ? { type: 3, code: 3 } : { type: 1, code: 4 };
    expect(await lab.probe('udp', { ...to, port: 9 })).toMatchObject({ from: to.address, ...refused });
  });

  test('[2.1] a flood leaves at its rate', async () => {
    const { sent, ms } = await lab.flood({ address: addressIn('external', family, 1), port: 80 }, 8000, 4000);
    expect(sent).toBe(4000);
    expect(ms).toBeGreaterThan(400);
  });
});
