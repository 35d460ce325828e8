import { type Endpoint, LoadBalancer } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { backendsOf } from '../support/balancing.js';
import { addressIn, familyNames, PacketLab } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

// Workloads of lb1 that no socket hook sees: their packets to cluster addresses are translated on the host's side of their devices.
let lab: PacketLab;
let lb: LoadBalancer;
let workload: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  lb = await LoadBalancer.open({ netns: lab.lab.netns('lb1'), node: lab.node('lb1') });
  for (const name of ['lb1-a', 'lb1-b']) await lb.attachTc(lab.workloadDevice(name), { role: 'workload' });
  workload = lab.client('lb1-a');
});
afterEach(() => lb.apply([]));
afterAll(async () => {
  await lb?.close();
  await lab?.close();
});

describe.each(familyNames)('$name', ({ family }) => {
  const vip: Endpoint = { address: addressIn('cluster', family, 1), port: 80 };
  const serve = (...workloads: string[]) =>
    lb.addService({
      name: 'cluster',
      frontends: (['tcp', 'udp'] as const).map((protocol) => ({ kind: 'cluster' as const, protocol, ...vip })),
      backends: backendsOf(lab, workloads).filter(({ address }) => address.includes(':') === (family === 6)),
    });

  describe.each(['tcp', 'udp'] as const)('%s', (protocol) => {
    test.each(['lb1-b', 'node1-a', 'node3-a'])(
      '[2.1] a workload reaches %s by a cluster address, which sees the workload',
      async (server) => {
        serve(server);
        const answer = await workload.who(protocol, vip);
        expect(answer).toMatchObject({
          server,
          client: { address: lab.lab.address('lb1-a', family), port: answer.own.port },
          ...(protocol === 'udp' ? { from: vip } : {}),
        });
      },
    );

    test('[2.1] a workload reaches itself by a cluster address, and sees a source that it can answer', async () => {
      serve('lb1-a');
      const answer = await workload.who(protocol, vip);
      expect(answer).toMatchObject({ server: 'lb1-a', ...(protocol === 'udp' ? { from: vip } : {}) });
      expect(answer.client.address).not.toBe(lab.lab.address('lb1-a', family));
    });
  });

  test.each(['lb1-a', 'lb1-b', 'node1-a'])('[2.1] a transfer with %s arrives intact', async (server) => {
    serve(server);
    const socket = await workload.open('tcp', vip);
    const size = 4 << 20;
    expect(await socket.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
    await socket.close();
  });

  test('[2.1] a cluster address without backends refuses', async () => {
    serve();
    expect(await workload.who('tcp', vip)).toHaveProperty('error', 'ECONNREFUSED');
    expect(await workload.who('udp', vip)).toHaveProperty('error', 'ECONNREFUSED');
  });

  test('[2.1] an established connection stays with its backend when that is removed', async () => {
    const service = serve('node1-a');
    const held = await workload.open('tcp', vip);
    expect(await held.who()).toMatchObject({ server: 'node1-a' });
    service.setBackends(backendsOf(lab, ['node2-a']));
    expect(await workload.who('tcp', vip)).toMatchObject({ server: 'node2-a' });
    expect(await held.who()).toMatchObject({ server: 'node1-a' });
    await held.close();
  });

  test('[2.1] what is no service is left alone', async () => {
    serve('node1-a');
    const direct = lab.backend('node2-a', family);
    expect(await workload.who('tcp', direct)).toMatchObject({ server: 'node2-a', backend: { address: direct.address } });
    expect(await workload.who('udp', direct)).toMatchObject({ server: 'node2-a', from: { address: direct.address } });
  });
});

test.each(familyNames)('[2.1] $name: with masqueradeAll every backend sees the node, and explain says so', async ({ family }) => {
  const vip: Endpoint = { address: addressIn('cluster', family, 1), port: 80 };
  const width = family === 4 ? 0 : 1;
  const external = await Promise.all(lab.devices('lb1').map((device) => lb.attachTc(device, { role: 'external' })));
  lb.setNode({ ...lab.node('lb1'), masqueradeAll: true });
  for (const server of ['lb1-a', 'lb1-b', 'node1-a', 'node3-a']) {
    const backends = backendsOf(lab, [server]).slice(width, width + 1);
    const frontends = (['tcp', 'udp'] as const).map((protocol) => ({ kind: 'cluster' as const, protocol, ...vip }));
    await lb.apply([{ name: 'cluster', frontends, backends }]);
    for (const protocol of ['tcp', 'udp'] as const) {
      const answer = await workload.who(protocol, vip);
      expect(answer).toMatchObject({ server, client: { address: lab.nodeAddress('lb1', family) } });
    }
    const socket = await workload.open('tcp', vip);
    expect(await socket.move(1 << 20, 1 << 20)).toMatchObject({ intact: true });
    await socket.close();
    const source = { address: lab.lab.address('lb1-a', family), port: 1 };
    expect(lb.explain({ protocol: 'tcp', from: 'pod', hook: 'tc', source, destination: vip })).toMatchObject({ masquerade: true });
  }
  lb.setNode(lab.node('lb1'));
  for (const attachment of external) await attachment.detach();
});
