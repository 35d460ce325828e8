import type { LoadBalancer, ServiceSpec } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { balance } from '../support/balancing.js';
import { full } from '../support/fixture.js';
import { addressIn, type Balancer, type Family, familyNames, type Machine, PacketLab } from '../support/packet-lab.js';
import type { Moved, TrafficClient, TrafficSocket } from '../support/traffic.js';

const megabytes = full ? 100 : 25;
const downloads = 6;
const balancers: Balancer[] = ['lb1', 'lb2'];
const machines: Machine[] = ['node1', 'node3'];
const workloads = ['node1-a', 'node1-b', 'node3-a'];
const firstPort = 8080;
/** Backends are pairs of a workload and a port: more than ten have a longer table than ten or less. */
const ports = Array.from({ length: 5 }, (_, i) => firstPort + i);

let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve(workloads, ports);
  client = lab.client();
});
afterAll(() => lab?.close());

const all = ports.flatMap((port) => workloads.map((workload) => ({ workload, port })));
const service = (family: Family) => ({ address: addressIn('loadBalancer', family, 7), port: 80 });
const specOf = (forwarding: 'dsr' | 'snat', chosen: typeof all): ServiceSpec => ({
  name: 'download',
  algorithm: 'maglev',
  forwarding,
  frontends: ([4, 6] as const).map((family) => ({ kind: 'loadBalancer' as const, ...service(family) })),
  backends: chosen.flatMap(({ workload, port }) => ([4, 6] as const).map((family) => lab.backend(workload, family, port))),
});

/** What happens to the backends, again and again: some go, others come back, and the table gets longer and shorter. */
const generations = [all.slice(0, 9), all.slice(6), all.slice(0, 12), all.slice(4, 13), all, all.slice(0, 6), all.slice(9, 15)];

describe.each(full ? (['tc', 'XDP native', 'XDP generic'] as const) : (['tc', 'XDP native'] as const))('[2.6] %s', (hook) => {
  const running = new Map<Machine, LoadBalancer>();
  const setBackends = (chosen: typeof all, forwarding: 'dsr' | 'snat') => {
    for (const lb of running.values()) lb.setBackends('download', specOf(forwarding, chosen).backends ?? []);
  };

  async function start(forwarding: 'dsr' | 'snat'): Promise<void> {
    const peers = [...balancers, ...machines].flatMap((name) =>
      lab.node(name).addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`),
    );
    for (const name of [...balancers, ...machines]) {
      const lb = await balance(lab, name, hook);
      running.set(name, lb);
      await lb.enableDSR({ services: 'marked', peers: name.startsWith('node') ? peers : [] });
      await lb.apply([specOf(forwarding, all.slice(0, 9))]);
    }
  }

  beforeEach(() => lab.routeServices(balancers));
  afterEach(async () => {
    for (const lb of running.values()) await lb.close();
    running.clear();
  });

  async function connect(family: Family, count: number): Promise<TrafficSocket[]> {
    const sockets: TrafficSocket[] = [];
    for (let i = 0; i < count; i++) sockets.push(await client.open('tcp', service(family)));
    return sockets;
  }

  /** Downloads on all of them, while `disturb` is called again and again, at least `least` times; returns how often in the middle of downloads. */
  async function download(sockets: TrafficSocket[], least: number, disturb: (turn: number) => Promise<void> | void): Promise<number> {
    const bytes = megabytes * 1_000_000;
    let open = sockets.length;
    const moves = sockets.map((socket) => socket.move(bytes, 0).finally(() => open--));
    let inTheMiddle = 0;
    for (let turn = 0; open > 0 || turn < least; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      await disturb(turn);
      if (open > 0) inTheMiddle++;
    }
    for (const moved of await Promise.all<Moved>(moves)) expect(moved).toMatchObject({ received: bytes, intact: true });
    return inTheMiddle;
  }

  const packetsOf = (name: Balancer) => running.get(name)?.stats().byHook[hook === 'tc' ? 'tc' : 'xdp'].packets.toNumber() ?? 0;

  describe.each(familyNames)('$name', ({ family }) => {
    test('DSR needs no entries where the table has not changed', async () => {
      await start('dsr');
      await Promise.all([...running.values()].map((lb) => lb.settled()));
      const sockets = await connect(family, 40);
      for (const socket of sockets) expect(workloads).toContain((await socket.who()).server);
      for (const name of balancers) {
        expect(packetsOf(name), `packets of ${name}`).toBeGreaterThan(20);
        expect([...(running.get(name)?.connections() ?? [])], `entries of ${name}`).toEqual([]);
      }
      for (const name of machines) expect([...(running.get(name)?.connections() ?? [])].length, `entries of ${name}`).toBeGreaterThan(0);
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    test(`DSR: balancers leave and join in the middle of downloads of ${megabytes} MB`, async () => {
      await start('dsr');
      const sockets = await connect(family, downloads);
      const groups: Balancer[][] = [['lb2'], ['lb1'], ['lb1', 'lb2']];
      const before = balancers.map(packetsOf);
      const turns = await download(sockets, 3, (turn) => lab.routeServices(groups[turn % groups.length] ?? balancers));
      expect(turns).toBeGreaterThan(2);
      for (const [i, name] of balancers.entries()) expect(packetsOf(name) - (before[i] ?? 0), `packets of ${name}`).toBeGreaterThan(100);
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    test(`DSR: backends come and go and tables change their length in the middle of downloads of ${megabytes} MB`, async () => {
      await start('dsr');
      const sockets = await connect(family, downloads);
      const later: TrafficSocket[] = [];
      const turns = await download(sockets, 2 * generations.length, async (turn) => {
        setBackends(generations[turn % generations.length] ?? all, 'dsr');
        // Those that begin in between stay where they began, too.
        if (turn > 0 && later.length < 20) later.push(...(await connect(family, 1)));
        for (const socket of later) expect(await socket.move(100_000, 0)).toMatchObject({ received: 100_000, intact: true });
        for (const lb of running.values()) if (turn % 5 === 4) expect((await lb.verify()).problems).toEqual([]);
      });
      expect(turns).toBeGreaterThan(0);
      expect(balancers.some((name) => [...(running.get(name)?.connections() ?? [])].length > 0)).toBe(true);
      await Promise.all([...sockets, ...later].map((socket) => socket.close()));
    });

    test(`DSR: both at once, for connections that were there before`, async () => {
      await start('dsr');
      const sockets = await connect(family, downloads);
      const groups: Balancer[][] = [['lb2'], ['lb1'], ['lb1', 'lb2']];
      await download(sockets, generations.length, async (turn) => {
        setBackends(generations[turn % generations.length] ?? all, 'dsr');
        await lab.routeServices(groups[turn % groups.length] ?? balancers);
      });
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    test('DSR: connections of cells that have just changed go on when their balancer leaves, which alone remembers them', async () => {
      await start('dsr');
      await lab.routeServices(['lb1']);
      const before = await connect(family, 30);
      setBackends(all.slice(3, 12), 'dsr');
      const sockets = [...before, ...(await connect(family, 60))];
      const servers: string[] = [];
      const told = async (socket: TrafficSocket) => {
        const { error, server, backend } = await socket.who();
        return error ?? `${server} ${backend.port}`;
      };
      for (const socket of sockets) servers.push(await told(socket));
      expect([...(running.get('lb1')?.connections() ?? [])].length, 'flows that lb1 remembers').toBeGreaterThan(3);
      await lab.routeServices(['lb2']);
      for (const [i, socket] of sockets.entries()) expect(await told(socket), `connection ${i}`).toBe(servers[i]);
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    // A translated source is one balancer's own: its flows end when it leaves, as no other knows whose they are.
    test(`SNAT: backends come and go and tables change their length in the middle of downloads of ${megabytes} MB`, async () => {
      await start('snat');
      await lab.routeServices(['lb1']);
      const sockets = await connect(family, downloads);
      const turns = await download(sockets, generations.length, (turn) => {
        setBackends(generations[turn % generations.length] ?? all, 'snat');
      });
      expect(turns).toBeGreaterThan(0);
      await Promise.all(sockets.map((socket) => socket.close()));
    });
  });
});
