import type { ServiceSpec } from 'ebpf-lb';
import { expect, test } from 'vitest';
import { backendsOf, type ExternalKind, externalKinds, frontend, frontendsOf } from './balancing.js';
import { full } from './fixture.js';
import { clientAddress, type Family, type PacketLab, serverPort } from './packet-lab.js';
import type { TrafficClient } from './traffic.js';

const megabytes = full ? 100 : 4;

/** Where a backend is, seen from lb1: here; behind its other device; behind the device that the packet came by. */
export const places = {
  local: { place: 'a local backend', workload: 'lb1-a', number: 1 },
  otherDevice: { place: 'a remote backend by another device', workload: 'node1-a', number: 2 },
  sameDevice: { place: 'a remote backend by the same device', workload: 'node3-a', number: 3 },
};
export type Place = (typeof places)['local'];

/** A service for each place, with frontends of all kinds and backends of both families. */
export const servicesOf = (lab: PacketLab, forwarding: 'snat' | 'dsr'): ServiceSpec[] =>
  Object.values(places).map(({ workload, number }) => ({
    name: workload,
    frontends: frontendsOf(lab, number, serverPort),
    backends: backendsOf(lab, [workload]),
    forwarding,
  }));

export interface Case extends Place {
  family: Family;
  /** What the backend sees as its client: the client itself, or lb1 by a port of its range. */
  translated: boolean;
  kinds?: readonly ExternalKind[];
}

/** Tests: a connection and datagrams by each kind of frontend; a transfer. */
export function testPlace(hold: () => { lab: PacketLab; client: TrafficClient }, described: Case): void {
  const { workload, number, family, translated, kinds = externalKinds } = described;

  test.each(kinds)('[2.1] %s: the backend sees the promised source, the client the service, by TCP and UDP', async (kind) => {
    const { lab, client } = hold();
    const service = frontend(lab, kind, family, number, serverPort);
    for (const protocol of ['tcp', 'udp'] as const) {
      const answer = await client.who(protocol, service);
      expect(answer, protocol).toMatchObject({
        server: workload,
        client: { address: translated ? lab.nodeAddress('lb1', family) : clientAddress(family) },
        backend: { address: lab.lab.address(workload, family), port: serverPort },
        ...(protocol === 'udp' ? { from: service } : {}),
      });
      if (translated) expect(answer.client.port).toBeGreaterThanOrEqual(1024);
      else expect(answer.client.port).toBe(answer.own.port);
    }
  });

  test(`[2.1] ${megabytes} MB in each direction arrive intact, and datagrams of all sizes`, async () => {
    const { lab, client } = hold();
    const service = frontend(lab, 'loadBalancer', family, number, serverPort);
    const tcp = await client.open('tcp', service);
    const bytes = megabytes * 1_000_000;
    expect(await tcp.move(bytes, bytes)).toMatchObject({ received: bytes, sent: bytes, intact: true });
    await tcp.close();
    const udp = await client.open('udp', service);
    for (const size of [4, 5, 100, 1201]) expect(await udp.burst(40, size)).toEqual({ sent: 40, answered: 40, intact: true });
    await udp.close();
  });
}
