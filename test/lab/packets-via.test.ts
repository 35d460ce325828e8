import type { BackendSpec, LoadBalancer } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { balance, hookNames } from '../support/balancing.js';
import { addressIn, clientAddress, type Family, familyNames, type Machine, PacketLab, serverPort } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

// DSR to the backend's node instead of to the backend: `via`, of the packet's family or of the other one.
let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

const machines: Machine[] = ['lb1', 'node1', 'node3'];
const outer = [
  { outerName: 'IPv4', via: 4 as const },
  { outerName: 'IPv6', via: 6 as const },
];

/** Workloads of lb1's link to the nodes cannot be reached but by their nodes: the addresses of the backends lead nowhere. */
async function hideWorkloads(hidden: boolean): Promise<void> {
  const verb = hidden ? 'replace unreachable' : 'delete unreachable';
  const ranges = ['10.244.3.0/25', '10.244.3.128/25', '10.244.5.0/25', '10.244.5.128/25', 'fd00:244:3::/65', 'fd00:244:5::/65'];
  await lab.lab.run('lb1', ['ip', '-batch', '-'], { input: ranges.map((range) => `route ${verb} ${range}\n`).join('') });
}

describe.each(hookNames)('%s', (hook) => {
  describe.each(['ipip', 'geneve'] as const)('%s', (dispatch) => {
    const balancers: LoadBalancer[] = [];
    beforeAll(async () => {
      await hideWorkloads(true);
      for (const machine of machines) balancers.push(await balance(lab, machine, hook));
      const peers = lab.node('lb1').addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
      for (const [i, lb] of balancers.entries()) await lb.enableDSR(i === 0 ? { dispatch } : { dispatch, peers });
    });
    afterEach(async () => {
      for (const lb of balancers) await lb.apply([]);
    });
    afterAll(async () => {
      for (const lb of balancers.splice(0)) await lb.close();
      await hideWorkloads(false);
    });

    const serve = async (family: Family, backends: BackendSpec[], algorithm: 'random' | 'maglev' = 'random') => {
      const vip = { address: addressIn('external', family, 1), port: 80 };
      const frontends = (['tcp', 'udp'] as const).map((protocol) => ({ kind: 'external' as const, protocol, ...vip }));
      for (const lb of balancers) await lb.apply([{ name: 'web', frontends, backends, algorithm }]);
      return vip;
    };
    const backend = (workload: string, family: Family, via: Family): BackendSpec => ({
      ...lab.backend(workload, family),
      via: lab.nodeAddress(lab.machineOf(workload), via),
    });

    describe.each(familyNames)('$name', ({ family }) => {
      describe.each(outer)('in $outerName', ({ via }) => {
        test.each(['node1-a', 'node3-a'])('[2.1] TCP and UDP reach %s, which no other way leads to', async (workload) => {
          const vip = await serve(family, [backend(workload, family, via)]);
          for (const protocol of ['tcp', 'udp'] as const) {
            expect(await client.who(protocol, vip)).toMatchObject({
              server: workload,
              client: { address: clientAddress(family) },
              backend: { address: lab.lab.address(workload, family), port: serverPort },
            });
          }
          const socket = await client.open('tcp', vip);
          const size = 1 << 20;
          expect(await socket.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
          await socket.close();
        });

        test('a connection goes on when its backend is removed, and when it is given another way', async () => {
          const vip = await serve(family, [backend('node1-a', family, via)]);
          const socket = await client.open('tcp', vip);
          expect(await socket.who()).toMatchObject({ server: 'node1-a' });
          balancers[0]!.setBackends('web', [backend('node1-a', family, via === 4 ? 6 : 4)]);
          expect(await socket.who()).toMatchObject({ server: 'node1-a' });
          for (const lb of balancers) lb.setBackends('web', [backend('node3-a', family, via)]);
          expect(await socket.who()).toMatchObject({ server: 'node1-a' });
          expect(await client.who('tcp', vip)).toMatchObject({ server: 'node3-a' });
          await socket.close();
        });
      });

      test('[2.1] two backends of one node get flows both, and a flow stays where it is', async () => {
        const vip = await serve(family, [backend('node1-a', family, 4), backend('node1-b', family, 4)]);
        const answers = await Promise.all(Array.from({ length: 40 }, () => client.who('tcp', vip)));
        expect(new Set(answers.map(({ server, error }) => server ?? error))).toEqual(new Set(['node1-a', 'node1-b']));
        const socket = await client.open('tcp', vip);
        const { server } = await socket.who();
        expect(await socket.move(1 << 20, 1 << 20)).toMatchObject({ intact: true });
        expect(await socket.who()).toMatchObject({ server });
        await socket.close();
      });

      test('[2.1] with maglev the node agrees with the balancer on the backend', async () => {
        const vip = await serve(
          family,
          [backend('node1-a', family, 4), backend('node1-b', family, 4), backend('node3-a', family, 4)],
          'maglev',
        );
        for (let i = 0; i < 20; i++) {
          const own = { address: clientAddress(family), port: 21000 + nextPort++ };
          const { backend: chosen } = balancers[0]!.explain({ protocol: 'tcp', from: 'external', source: own, destination: vip });
          expect((await client.who('tcp', vip, { own })).backend).toEqual(chosen);
        }
      });
    });
  });
});
let nextPort = 0;
