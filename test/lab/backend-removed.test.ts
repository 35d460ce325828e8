import type { BackendSpec, LoadBalancer, ServiceSpec } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { balance, hookNames } from '../support/balancing.js';
import { Fixture, families, until } from '../support/fixture.js';
import { addressIn, type Family, familyNames, type Machine, PacketLab } from '../support/packet-lab.js';
import { serveTraffic, TrafficClient, type TrafficSocket } from '../support/traffic.js';

// onBackendRemoved: what becomes of established TCP connections.
const ended = /^(ECONNRESET|ECONNABORTED|EPIPE)$/;

describe('sockets', () => {
  let fixture: Fixture;
  let client: TrafficClient;
  const ports = [8101, 8102];
  beforeAll(async () => {
    fixture = await Fixture.create();
    await serveTraffic(fixture.lab, 'server', ports);
    client = new TrafficClient(fixture.lab, 'client');
  });
  afterEach(() => fixture.lb.apply([]));
  afterAll(() => fixture?.close());

  const backend = (family: Family, which: 0 | 1): BackendSpec => ({ address: fixture.lab.address('server', family), port: ports[which]! });
  const established = async () => {
    const table = await fixture.lab.run('server', ['cat', '/proc/net/tcp6']);
    return table.split('\n').filter((line) => / \S+:(1FA5|1FA6) \S+ 01 /.test(line)).length;
  };

  describe.each(families)('$name', ({ family, vip }) => {
    const web = (onBackendRemoved: ServiceSpec['onBackendRemoved'], which: 0 | 1 = 0): ServiceSpec => ({
      name: 'web',
      address: vip,
      port: 80,
      backends: [backend(family, which)],
      ...(onBackendRemoved === undefined ? {} : { onBackendRemoved }),
    });

    test('[1.2] keep: a connection goes on', async () => {
      const { lb } = fixture;
      await lb.apply([web('keep')]);
      const held = await client.open('tcp', { address: vip, port: 80 });
      lb.setBackends('web', [backend(family, 1)]);
      await lb.settled();
      expect(await held.who()).toMatchObject({ backend: { port: ports[0] } });
      await held.close();
    });

    test('[1.2] reset: both ends are told at once, and only those of the backend that went', async () => {
      const { lb } = fixture;
      await lb.apply([{ ...web('reset'), backends: [backend(family, 0), backend(family, 1)] }]);
      const sockets: TrafficSocket[] = [];
      for (let i = 0; i < 12; i++) sockets.push(await client.open('tcp', { address: vip, port: 80 }));
      const direct = await client.open('tcp', backend(family, 0));
      const before = await Promise.all(sockets.map(async (socket) => (await socket.who()).backend.port));
      const staying = before.filter((port) => port === ports[1]).length;
      lb.setBackends('web', [backend(family, 1)]);
      await lb.settled();
      for (const [i, socket] of sockets.entries()) {
        const answer = await socket.who();
        if (before[i] === ports[0]) expect(answer.error).toMatch(ended);
        else expect(answer).toMatchObject({ backend: { port: ports[1] } });
      }
      expect(await direct.who()).toMatchObject({ backend: { port: ports[0] } });
      await until('the server has seen the resets', async () => (await established()) === staying + 1);
      for (const socket of [...sockets, direct]) await socket.close();
    });

    test('[1.2] only connections made while it was set end, also with the service', async () => {
      const { lb } = fixture;
      await lb.apply([web('keep')]);
      const early = await client.open('tcp', { address: vip, port: 80 });
      lb.updateService('web', { onBackendRemoved: 'reset' });
      const late = await client.open('tcp', { address: vip, port: 80 });
      for (const socket of [early, late]) expect(await socket.who()).toMatchObject({ backend: { port: ports[0] } });
      lb.removeService('web');
      await lb.settled();
      expect(await early.who()).toMatchObject({ backend: { port: ports[0] } });
      expect((await late.who()).error).toMatch(ended);
      for (const socket of [early, late]) await socket.close();
    });

    test('[1.2] resetAfterSeconds leaves time', async () => {
      const { lb } = fixture;
      await lb.apply([web({ resetAfterSeconds: 2 })]);
      expect(lb.service('web')?.spec.onBackendRemoved).toEqual({ resetAfterSeconds: 2 });
      const held = await client.open('tcp', { address: vip, port: 80 });
      lb.setBackends('web', [backend(family, 1)]);
      await lb.settled();
      expect(await held.who()).toMatchObject({ backend: { port: ports[0] } });
      await until('its time has come', async () => ended.test((await held.who()).error ?? ''));
      await held.close();
    });
  });
});

describe('packets', () => {
  let lab: PacketLab;
  let client: TrafficClient;
  beforeAll(async () => {
    lab = await PacketLab.create();
    await lab.serve();
    client = lab.client();
  });
  afterAll(() => lab?.close());
  /** Connections that a workload's server has. */
  const established = async (workload: string) => {
    const table = await lab.lab.run(workload, ['cat', '/proc/net/tcp6']);
    return table.split('\n').filter((line) => / \S+:1F90 \S+ 01 /.test(line)).length;
  };

  describe.each(hookNames)('%s', (hook) => {
    const balancers: LoadBalancer[] = [];
    beforeAll(async () => {
      for (const machine of ['lb1', 'node1'] as Machine[]) balancers.push(await balance(lab, machine, hook));
      const peers = lab.node('lb1').addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
      for (const [i, lb] of balancers.entries()) await lb.enableDSR(i === 0 ? { services: 'marked' } : { services: 'marked', peers });
    });
    afterEach(async () => {
      for (const lb of balancers) await lb.apply([]);
    });
    afterAll(async () => {
      for (const lb of balancers.splice(0)) await lb.close();
    });

    describe.each(familyNames)('$name', ({ family }) => {
      const vip = { address: addressIn('external', family, 1), port: 80 };
      const serve = async (onBackendRemoved: ServiceSpec['onBackendRemoved'], workload: string, forwarding: 'snat' | 'dsr') => {
        const spec: ServiceSpec = {
          name: 'web',
          frontends: [{ kind: 'external', ...vip }],
          backends: [lab.backend(workload, family)],
          forwarding,
        };
        for (const lb of balancers) await lb.apply([onBackendRemoved === undefined ? spec : { ...spec, onBackendRemoved }]);
      };
      const remove = (to: string) => {
        for (const lb of balancers) lb.setBackends('web', [lab.backend(to, family)]);
      };

      test.each([
        ['node1-a', 'snat'],
        ['node3-a', 'snat'],
        ['lb1-a', 'snat'],
        ['node1-a', 'dsr'],
      ] as const)(
        '[2.6] reset: the client of a connection with %s (%s) is told at its next packet, and so is the server',
        async (workload, forwarding) => {
          await serve('reset', workload, forwarding);
          const held = await client.open('tcp', vip);
          expect(await held.who()).toMatchObject({ server: workload });
          const moving = await client.open('tcp', vip);
          expect(await moving.who()).toMatchObject({ server: workload });
          const before = await established(workload);
          expect(before).toBeGreaterThanOrEqual(2);
          const transfer = moving.move(1 << 30, 0);
          const isUnderWay = () =>
            [...balancers[0]!.connections()].some((one) => one.client.port === moving.own.port && one.packets.gt(40));
          await until('the server sends', isUnderWay);
          remove('node1-b');
          expect((await held.who()).error).toMatch(ended);
          await until('the server that sends has been told', async () => (await established(workload)) < before);
          // Its client has nothing to send, and waits as long as it has patience.
          expect(await transfer).toHaveProperty('error');
          expect(await client.who('tcp', vip)).toMatchObject({ server: 'node1-b' });
          expect(balancers[0]!.stats().byReason['backend-removed'].toNumber()).toBeGreaterThan(0);
          await held.close();
          await moving.close();
        },
      );

      test('[2.6] resetAfterSeconds leaves time, and keep keeps', async () => {
        await serve('keep', 'node1-a', 'snat');
        const early = await client.open('tcp', vip);
        await early.who();
        await serve({ resetAfterSeconds: 2 }, 'node1-a', 'snat');
        const late = await client.open('tcp', vip);
        await late.who();
        remove('node2-a');
        for (const socket of [early, late]) expect(await socket.who()).toMatchObject({ server: 'node1-a' });
        await until('its time has come', async () => ended.test((await late.who()).error ?? ''));
        expect(await early.who()).toMatchObject({ server: 'node1-a' });
        for (const socket of [early, late]) await socket.close();
      });
    });
  });
});
