import { type Endpoint, LoadBalancer, type Protocol, type Reason } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { balance, hookNames } from '../support/balancing.js';
import { DROPPED, Fixture, REJECTED } from '../support/fixture.js';
import { addressIn, clientAddress, familyNames, PacketLab, ranges } from '../support/packet-lab.js';
import { pinDirectory, removePins } from '../support/pins.js';
import type { TrafficClient } from '../support/traffic.js';

// serviceCIDRs: an address in them is a service's or nobody's.
const protocols = ['tcp', 'udp'] as const;
const briefly = { patienceMs: 400 };
const frontendsAt = (kind: 'cluster' | 'external', at: Endpoint) => protocols.map((protocol) => ({ kind, protocol, ...at }));

describe('packets', () => {
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
      lb = await balance(lab, 'lb1', hook, { node: { ...lab.node('lb1'), serviceCIDRs: Object.values(ranges.external) } });
    });
    afterEach(() => lb.apply([]));
    afterAll(() => lb?.close());
    const counted = (reason: Reason) => lb.stats().byReason[reason]?.toNumber() ?? 0;

    describe.each(familyNames)('$name', ({ family }) => {
      const held = { address: addressIn('external', family, 1), port: 80 };
      const otherPort = { ...held, port: 81 };
      const nobodys = { address: addressIn('external', family, 77), port: 80 };
      const outside = { address: addressIn('loadBalancer', family, 9), port: 80 };
      const ask = (protocol: Protocol, destination: Endpoint) =>
        lb.explain({
          protocol,
          from: 'external',
          hook: hook === 'tc' ? 'tc' : 'xdp',
          source: { address: clientAddress(family) },
          destination,
        });

      test.each(protocols)(
        '[2.1] %s to another port of a service is refused, to an address that no service has is dropped',
        async (protocol) => {
          await lb.apply([{ name: 'web', frontends: frontendsAt('external', held), backends: [lab.backend('node1-a', family)] }]);
          expect(await client.who(protocol, held)).toMatchObject({ server: 'node1-a' });
          const before = { port: counted('no-such-port'), service: counted('no-such-service') };
          expect(await client.who(protocol, otherPort)).toHaveProperty('error', 'ECONNREFUSED');
          expect(await client.who(protocol, nobodys, briefly)).toHaveProperty('error', 'ETIMEDOUT');
          expect(counted('no-such-port')).toBeGreaterThan(before.port);
          expect(counted('no-such-service')).toBeGreaterThan(before.service);
          expect(ask(protocol, otherPort)).toMatchObject({ verdict: 'reject', reason: 'no-such-port', candidates: [], determined: true });
          expect(ask(protocol, nobodys)).toMatchObject({ verdict: 'drop', reason: 'no-such-service', candidates: [] });
          expect(ask('sctp', held)).toMatchObject({ verdict: 'reject', reason: 'no-such-port' });
          // What is in none of the ranges is as ever.
          expect(ask(protocol, outside)).toMatchObject({ verdict: 'pass', reason: 'not-a-service' });
        },
      );

      test('a cluster address is passed on from outside at its port, and refused at others', async () => {
        await lb.apply([{ name: 'web', frontends: frontendsAt('cluster', held), backends: [lab.backend('node1-a', family)] }]);
        expect(ask('tcp', held)).toMatchObject({ verdict: 'pass', reason: 'not-a-service' });
        const before = counted('no-such-port');
        await client.who('tcp', held, briefly);
        expect(counted('no-such-port')).toBe(before);
        expect(await client.who('tcp', otherPort)).toHaveProperty('error', 'ECONNREFUSED');
        expect(ask('tcp', otherPort)).toMatchObject({ verdict: 'reject', reason: 'no-such-port' });
      });

      test('an echo request to nobody is dropped', async () => {
        await lb.apply([{ name: 'web', frontends: frontendsAt('external', held), backends: [] }]);
        expect(await lab.probe('icmp', held)).toMatchObject({ from: held.address });
        const before = counted('no-such-service');
        expect(await lab.probe('icmp', nobodys, { patienceMs: 300 })).toHaveProperty('error');
        expect(counted('no-such-service')).toBe(before + 1);
      });
    });
  });

  test.each(familyNames)('[2.1] $name: workloads meet the same at the devices of theirs', async ({ family }) => {
    const node = { ...lab.node('lb1'), serviceCIDRs: Object.values(ranges.cluster) };
    const lb = await LoadBalancer.open({ netns: lab.lab.netns('lb1'), node });
    await lb.attachTc(lab.workloadDevice('lb1-a'), { role: 'workload' });
    const held = { address: addressIn('cluster', family, 1), port: 80 };
    const workload = lab.client('lb1-a');
    await lb.apply([{ name: 'web', frontends: frontendsAt('cluster', held), backends: [lab.backend('node1-a', family)] }]);
    for (const protocol of protocols) {
      expect(await workload.who(protocol, held)).toMatchObject({ server: 'node1-a' });
      expect(await workload.who(protocol, { ...held, port: 81 })).toHaveProperty('error', 'ECONNREFUSED');
      const nobodys = { ...held, address: addressIn('cluster', family, 2) };
      expect(await workload.who(protocol, nobodys, briefly)).toHaveProperty('error', 'ETIMEDOUT');
    }
    workload.end();
    await lb.close();
  });
});

describe('sockets', () => {
  let fixture: Fixture;
  const pinPath = pinDirectory();
  beforeAll(async () => {
    fixture = await Fixture.create({ pinPath });
  });
  afterEach(() => fixture.reset());
  afterAll(async () => {
    await fixture?.lb.close({ detach: true });
    await fixture?.close();
    removePins(pinPath);
  });

  test('[2.1] nothing is dropped before all services were there once; then connect and send are refused by name', async () => {
    const { lb, client } = fixture;
    const held = { address: '10.96.0.1', port: 80 };
    const [otherPort, nobodys] = [
      { ...held, port: 81 },
      { address: '10.96.0.2', port: 80 },
    ];
    const server = await fixture.serveHttp(8080);
    const reasonOf = (destination: Endpoint, protocol: Protocol = 'tcp') =>
      lb.explain({ protocol, from: 'pod', source: { address: '10.0.0.1' }, destination }).reason;
    lb.setNode({ name: 'n', addresses: ['192.0.2.1'], serviceCIDRs: ['10.96.0.0/16', 'fd00:96::/112'] });
    lb.addService({ name: 'web', ...held, backends: [{ address: server.address, port: server.port }] });
    await lb.apply([], { owner: 'other', prune: false });
    expect(reasonOf(nobodys)).toBe('not-a-service');
    await lb.apply([{ name: 'web', ...held, backends: [{ address: server.address, port: server.port }] }]);
    expect([reasonOf(held), reasonOf(otherPort), reasonOf(nobodys), reasonOf(held, 'udp')]).toEqual([
      'forwarded',
      'no-such-port',
      'no-such-service',
      'no-such-port',
    ]);
    expect(await client.tcp(held.address, held.port)).not.toHaveProperty('error');
    expect(await client.tcp(otherPort.address, otherPort.port)).toMatchObject({ error: REJECTED });
    expect(await client.tcp(nobodys.address, nobodys.port)).toMatchObject({ error: DROPPED });
    const udp = await client.udp();
    expect(await client.sendTo(udp, held.address, held.port)).toMatchObject({ error: REJECTED });
    expect(await client.sendTo(udp, nobodys.address, nobodys.port)).toMatchObject({ error: DROPPED });
    const six = { address: 'fd00:96::5', port: 80 };
    expect(await client.tcp(six.address, six.port)).toMatchObject({ error: DROPPED });
    // A service that comes is reached at once, one that goes leaves nobody behind.
    lb.addService({ name: 'late', ...nobodys, backends: [{ address: server.address, port: server.port }] });
    expect(await client.tcp(nobodys.address, nobodys.port)).not.toHaveProperty('error');
    lb.removeService('late');
    expect(await client.tcp(nobodys.address, nobodys.port)).toMatchObject({ error: DROPPED });
    expect((await lb.verify()).problems).toEqual([]);
    lb.setNode({ name: 'n', addresses: ['192.0.2.1'], serviceCIDRs: ['10.97.0.0/16'] });
    expect(reasonOf(nobodys)).toBe('not-a-service');
    expect(reasonOf({ address: '10.97.1.1', port: 1 })).toBe('no-such-service');
    lb.setNode({ name: 'n', addresses: ['192.0.2.1'], serviceCIDRs: ['10.96.0.0/16'] });
  });

  test('[2.1] what holds in the pins holds after a restart, from the first moment', async () => {
    const { lb } = fixture;
    lb.addService({ name: 'web', address: '10.96.0.1', port: 80, backends: [] });
    const destination = { address: '10.96.0.1', port: 81 };
    const packet = { protocol: 'tcp', from: 'pod', source: { address: '10.0.0.1' }, destination } as const;
    expect(lb.explain(packet).reason).toBe('no-such-port');
    await lb.close();
    const again = await LoadBalancer.open({ pinPath });
    expect(again.explain(packet).reason).toBe('no-such-port');
    expect(again.explain({ ...packet, destination: { ...destination, address: '10.96.7.7' } }).reason).toBe('no-such-service');
    expect((await again.verify()).problems).toEqual([]);
    again.removeService('web');
    expect(again.explain(packet).reason).toBe('no-such-service');
    Object.assign(fixture, { lb: again });
  });
});
