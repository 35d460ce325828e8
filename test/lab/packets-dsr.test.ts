import type { DsrOptions, LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe } from 'vitest';
import { balance, externalKinds, hookNames } from '../support/balancing.js';
import { places, servicesOf, testPlace } from '../support/packet-cases.js';
import { familyNames, type Machine, PacketLab } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

const dispatches = ['ipip', 'geneve', 'option', 'l2'] as const satisfies DsrOptions['dispatch'][];
const backendMachines: Machine[] = ['node1', 'node3'];

/** lb1 sends, the backends' machines accept what it sends. */
async function directReturn(lb1: LoadBalancer, nodes: LoadBalancer[], options: DsrOptions): Promise<void> {
  const peers = lab.node('lb1').addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
  for (const node of nodes) await node.enableDSR({ ...options, peers });
  await lb1.enableDSR(options);
}

describe.each(hookNames)('%s', (hook) => {
  describe.each(dispatches)('DSR by %s', (dispatch) => {
    const balancers: LoadBalancer[] = [];
    beforeAll(async () => {
      const lb1 = await balance(lab, 'lb1', hook);
      balancers.push(lb1);
      for (const machine of backendMachines) balancers.push(await balance(lab, machine, hook));
      await directReturn(lb1, balancers.slice(1), { dispatch });
      for (const lb of balancers) await lb.apply(servicesOf(lab, 'dsr'));
    });
    afterAll(async () => {
      for (const lb of balancers) await lb.close();
    });

    // By l2 a backend has to be on a link of lb1 and have the frontend's port.
    const [reachable, kinds] =
      dispatch === 'l2'
        ? [[places.otherDevice], ['external', 'loadBalancer'] as const]
        : [[places.otherDevice, places.sameDevice], externalKinds];
    describe.each(reachable)('$place', (place) => {
      describe.each(familyNames)('$name', ({ family }) => {
        testPlace(() => ({ lab, client }), { ...place, family, translated: false, kinds });
      });
    });
  });
});
