import type { LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balance, frontend, hookNames } from '../support/balancing.js';
import { places, servicesOf, testPlace } from '../support/packet-cases.js';
import { familyNames, PacketLab, serverPort } from '../support/packet-lab.js';
import type { TrafficClient } from '../support/traffic.js';

let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

describe.each(hookNames)('%s', (hook) => {
  let lb: LoadBalancer;
  beforeAll(async () => {
    lb = await balance(lab, 'lb1', hook);
    await lb.apply(servicesOf(lab, 'snat'));
  });
  afterAll(() => lb?.close());

  describe.each(Object.values(places))('$place', (place) => {
    describe.each(familyNames)('$name', ({ family }) => {
      testPlace(() => ({ lab, client }), { ...place, family, translated: place !== places.local });
    });
  });

  test('[2.1] forwarded packets are counted where they were balanced', async () => {
    const packets = () => lb.stats().byHook[hook === 'tc' ? 'tc' : 'xdp'].packets.toNumber();
    const before = packets();
    await client.who('tcp', frontend(lab, 'external', 4, places.sameDevice.number, serverPort));
    expect(packets() - before).toBeGreaterThan(5);
  });
});
