import type { BackendSpec, Endpoint, LoadBalancer } from 'ebpf-lb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { backendsOf, balance, frontend, hookNames } from '../support/balancing.js';
import { until } from '../support/fixture.js';
import { addressIn, clientAddress, familyNames, PacketLab, ranges, serverPort } from '../support/packet-lab.js';
import type { Introduction, TrafficClient, TrafficSocket } from '../support/traffic.js';

// What a service promises, on packets from outside. One service at a time, unless it is about several.
let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  await lab.serve();
  client = lab.client();
});
afterAll(() => lab?.close());

const briefly = { patienceMs: 400 };
const protocols = ['tcp', 'udp'] as const;
let nextPort = 7000; // the last one is still in TIME_WAIT

describe.each(hookNames)('%s', (hook) => {
  let lb: LoadBalancer;
  const open: TrafficSocket[] = [];
  beforeAll(async () => {
    lb = await balance(lab, 'lb1', hook, { node: { ...lab.node('lb1'), snatPortRange: [40000, 49999] } });
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((socket) => socket.close()));
    await lb.apply([]);
  });
  afterAll(() => lb?.close());

  const keep = async (socket: Promise<TrafficSocket>) => {
    open.push(await socket);
    return open.at(-1) as TrafficSocket;
  };

  describe.each(familyNames)('$name', ({ family }) => {
    const vip = { address: addressIn('external', family, 1), port: 80 };
    const other = { address: addressIn('external', family, 2), port: 80 };
    const balanced = { address: addressIn('loadBalancer', family, 1), port: 80 };
    const both = (kind: 'external' | 'loadBalancer', endpoint: Endpoint) => protocols.map((protocol) => ({ kind, protocol, ...endpoint }));
    const serve = (backends: BackendSpec[], endpoint = vip) =>
      lb.addService({ name: `web ${endpoint.address}`, frontends: both('external', endpoint), backends });
    const backends = (...workloads: string[]) =>
      backendsOf(lab, workloads).filter(({ address }) => address.includes(':') === (family === 6));
    const servers = (answers: Introduction[]) => new Set(answers.map(({ server, error }) => server ?? error));
    const ask = (count: number, protocol: 'tcp' | 'udp', to: Endpoint, address?: string) =>
      Promise.all(Array.from({ length: count }, () => client.who(protocol, to, address === undefined ? {} : { own: { address } })));

    test.each(['node1-a', 'node3-a', 'lb1-a'])(
      '[2.1] two services share the backend %s: one client port at both at once, without cross-talk',
      async (workload) => {
        serve(backends(workload), vip);
        serve(backends(workload), other);
        const own = { address: clientAddress(family), port: nextPort++ };
        const [first, second] = [await keep(client.open('tcp', vip, { own })), await keep(client.open('tcp', other, { own }))];
        const answers = [await first.who(), await second.who()];
        expect(answers[0]?.client).not.toEqual(answers[1]?.client);
        const size = 1 << 20;
        const moved = await Promise.all([first.move(size, size), second.move(size, size)]);
        for (const one of moved) expect(one).toMatchObject({ received: size, sent: size, intact: true });
        const udp = await keep(client.open('udp', vip, { own }));
        for (let i = 0; i < 5; i++) {
          expect(await udp.who(vip)).toMatchObject({ server: workload, from: vip });
          expect(await udp.who(other)).toMatchObject({ server: workload, from: other });
        }
      },
    );

    test.each(['maglev', 'source-hash', 'random'] as const)(
      '[2.1] explain says where packets go, and what their source becomes: %s',
      async (algorithm) => {
        const spec = {
          name: 'web',
          frontends: both('loadBalancer', balanced),
          algorithm,
          sourceRanges: [family === 4 ? '0.0.0.0/0' : '::/0'],
        };
        const service = lb.addService({ ...spec, backends: backends('lb1-a', 'node1-a', 'node2-a', 'node3-a') });
        const address = clientAddress(family);
        const ask = (port: number, from = address) =>
          lb.explain({
            protocol: 'tcp',
            from: 'external',
            hook: hook === 'tc' ? 'tc' : 'xdp',
            source: { address: from, port },
            destination: balanced,
          });
        for (let i = 0; i < 12; i++) {
          const own = { address, port: nextPort++ };
          const decision = ask(own.port);
          expect(decision).toMatchObject({
            verdict: 'forward',
            reason: 'forwarded',
            service: 'web',
            determined: algorithm !== 'random',
            affinity: false,
          });
          expect(decision.candidates).toHaveLength(4);
          const { backend, client: seen } = await client.who('tcp', balanced, { own });
          expect(decision.candidates).toContainEqual(backend);
          if (decision.determined) {
            expect(decision.backend).toEqual(backend);
            expect(decision.masquerade).toBe(seen.address !== address);
          }
        }
        service.update({ sourceRanges: [family === 4 ? '100.64.0.0/10' : '2001:db8:ffff::/48'] });
        expect(ask(1)).toMatchObject({ verdict: 'drop', reason: 'source-not-allowed', candidates: [], masquerade: false });
        service.update({ sourceRanges: null, externalTrafficPolicy: 'Local' });
        expect(ask(1)).toMatchObject({ verdict: 'forward', masquerade: false, determined: true });
        expect(ask(1, balanced.address)).toMatchObject({ verdict: 'drop', reason: 'source-is-ours' });
        service.setBackends(backends('node1-a'));
        expect(ask(1)).toMatchObject({ verdict: 'drop', reason: 'no-local-backend' });
        await lb.apply([]);
        expect(ask(1)).toMatchObject({ verdict: 'pass', reason: 'not-a-service' });
      },
    );

    test('[2.1] a service reaches all of its backends', async () => {
      serve(backends('lb1-a', 'node1-a', 'node2-a', 'node3-a'));
      for (const protocol of protocols) {
        expect(servers(await ask(60, protocol, vip))).toEqual(new Set(['lb1-a', 'node1-a', 'node2-a', 'node3-a']));
      }
    });

    test('[2.1] source ranges of a load-balancer address: who is in them gets through, others get no answer', async () => {
      const [allowed, denied] = [clientAddress(family, 1), clientAddress(family)];
      lb.addService({
        name: 'ranges',
        frontends: [...both('loadBalancer', balanced), ...both('external', vip)],
        backends: backends('node1-a', 'lb1-a'),
        sourceRanges: [`${allowed}/${family === 4 ? 32 : 128}`, ranges.cluster[family]],
      });
      for (const protocol of protocols) {
        expect(await client.who(protocol, balanced, { own: { address: allowed } })).not.toHaveProperty('error');
        expect(await client.who(protocol, balanced, { own: { address: denied }, ...briefly })).toHaveProperty('error', 'ETIMEDOUT');
        // Other kinds of frontend have no such ranges.
        expect(await client.who(protocol, vip, { own: { address: denied } })).not.toHaveProperty('error');
      }
      lb.updateService('ranges', { sourceRanges: [ranges.client[family]] });
      expect(await client.who('tcp', balanced, { own: { address: denied } })).not.toHaveProperty('error');
    });

    test('[2.1] externalTrafficPolicy Local uses local backends only, and drops where there is none', async () => {
      const service = serve(backends('lb1-a', 'lb1-b', 'node1-a', 'node3-a'));
      service.update({ externalTrafficPolicy: 'Local' });
      for (const protocol of protocols) {
        const answers = await ask(30, protocol, vip);
        expect(servers(answers)).toEqual(new Set(['lb1-a', 'lb1-b']));
        expect(new Set(answers.map(({ client: { address } }) => address))).toEqual(new Set([clientAddress(family)]));
      }
      service.setBackends(backends('node1-a', 'node3-a'));
      for (const protocol of protocols) expect(await client.who(protocol, vip, briefly)).toHaveProperty('error', 'ETIMEDOUT');
      service.update({ externalTrafficPolicy: 'Cluster' });
      expect(servers(await ask(30, 'tcp', vip))).toEqual(new Set(['node1-a', 'node3-a']));
    });

    test('[2.1] affinity keeps a client at one backend, whichever frontend and protocol it uses', async () => {
      lb.addService({
        name: 'affine',
        frontends: [...both('external', vip), ...both('external', other)],
        backends: backends('node1-a', 'node1-b', 'node2-a', 'node3-a', 'lb1-a', 'lb1-b'),
        affinity: { clientIP: true },
      });
      for (const address of [clientAddress(family), clientAddress(family, 1)]) {
        const answers: Introduction[] = [];
        for (const protocol of protocols) for (const to of [vip, other]) answers.push(...(await ask(8, protocol, to, address)));
        expect(servers(answers).size).toBe(1);
        expect(answers[0]).not.toHaveProperty('error');
      }
    });

    test('[2.1] a service without backends refuses, or with onNoBackends drop is silent', async () => {
      const service = serve([]);
      for (const protocol of protocols) expect(await client.who(protocol, vip)).toHaveProperty('error', 'ECONNREFUSED');
      service.update({ onNoBackends: 'drop' });
      for (const protocol of protocols) expect(await client.who(protocol, vip, briefly)).toHaveProperty('error', 'ETIMEDOUT');
    });

    test.each(['node1-a', 'lb1-a'])(
      '[2.6] an established connection stays at %s when that is removed, new ones go elsewhere',
      async (first) => {
        const service = serve(backends(first));
        const [held, udp] = [await keep(client.open('tcp', vip)), await keep(client.open('udp', vip))];
        for (const socket of [held, udp]) expect(await socket.who()).toMatchObject({ server: first });
        const moving = await keep(client.open('tcp', vip));
        expect(await moving.who()).toMatchObject({ server: first });
        const size = 8 << 20;
        const transfer = moving.move(size, size);
        service.setBackends(backends('node2-a', 'node3-a'));
        const answers = await ask(20, 'tcp', vip);
        expect(servers(answers)).toEqual(new Set(['node2-a', 'node3-a']));
        expect(await held.who()).toMatchObject({ server: first, client: { port: expect.any(Number) } });
        expect(await transfer).toMatchObject({ received: size, sent: size, intact: true });
        // A datagram's backend takes no flows any more.
        expect(['node2-a', 'node3-a']).toContain((await udp.who()).server);
      },
    );

    test('[2.6] a terminating backend keeps its connections and gets no new ones', async () => {
      const service = serve(backends('node1-a'));
      const held = await keep(client.open('tcp', vip));
      await held.who();
      service.setBackends([
        ...backends('node1-a').map((backend) => ({ ...backend, state: 'terminating' as const })),
        ...backends('node2-a'),
      ]);
      expect(servers(await ask(20, 'tcp', vip))).toEqual(new Set(['node2-a']));
      expect(await held.who()).toMatchObject({ server: 'node1-a' });
    });

    test('[2.6] backends are changed in the middle of many downloads: all arrive intact', async () => {
      const sets = [backends('node1-a', 'node2-a'), backends('node3-a', 'lb1-a'), backends('lb1-b', 'node1-b', 'node2-a')];
      const service = serve(sets[0] ?? []);
      const sockets = await Promise.all(Array.from({ length: 6 }, () => keep(client.open('tcp', vip))));
      const size = 4 << 20;
      const transfers = sockets.map((socket) => socket.move(size, size));
      let done = false;
      const all = Promise.all(transfers).finally(() => (done = true));
      for (let i = 0; !done; i++) {
        service.setBackends(sets[i % 3] ?? []);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      for (const moved of await all) expect(moved).toMatchObject({ received: size, sent: size, intact: true });
    });
  });

  test('[2.1] a backend that asks the service by a port of the SNAT range is answered, and so are translated clients', async () => {
    // P26: what comes to a port of the range is not taken for an answer, and no translated source has the port of the service.
    const nodePort = frontend(lab, 'nodePort', 4, 1);
    const backends = backendsOf(lab, ['node1-a']);
    lb.addService({
      name: 'ports',
      frontends: [
        { kind: 'hostPort', port: 45000 },
        { kind: 'nodePort', port: nodePort.port },
      ],
      backends,
    });
    const inside = lab.client('node1-b');
    for (const port of [40000, 45000, 49999]) {
      const to = { address: nodePort.address, port: port === 45000 ? 45000 : nodePort.port };
      expect(await inside.who('tcp', to, { own: { port } })).toMatchObject({ server: 'node1-a' });
    }
    const answers = await Promise.all(Array.from({ length: 100 }, () => client.who('tcp', { address: nodePort.address, port: 45000 })));
    for (const answer of answers) {
      expect(answer.server).toBe('node1-a');
      expect(answer.client.port).not.toBe(45000);
      expect(answer.client.port).toBeGreaterThanOrEqual(40000);
      expect(answer.client.port).toBeLessThan(50000);
    }
    inside.end();
  });

  test('[2.1] a socket of the node at a port of the SNAT range is left alone', async () => {
    const own = lab.client('lb1');
    const to = lab.backend('node1-a', 4, serverPort);
    lb.addService({ name: 'web', frontends: [{ kind: 'nodePort', port: 30001 }], backends: [to] });
    const address = lab.nodeAddress('lb1', 4);
    const held = await own.open('tcp', to, { own: { address, port: 44444 } });
    await Promise.all(Array.from({ length: 50 }, () => client.who('tcp', { address, port: 30001 })));
    expect(await held.who()).toMatchObject({ server: 'node1-a', client: { address, port: 44444 } });
    own.end();
  });
});

describe.each(hookNames)('%s, 16 ports for translated sources', (hook) => {
  let lb: LoadBalancer;
  beforeAll(async () => {
    lb = await balance(lab, 'lb1', hook, { node: { ...lab.node('lb1'), snatPortRange: [44992, 45007] } });
  });
  afterEach(() => lb.apply([]));
  afterAll(() => lb?.close());

  test.each(familyNames)(
    '[2.1] $name: each is used but the one that is a service, then clients get nothing, and that is counted',
    async ({ family }) => {
      // P26: a translated source with the port of a service would get the service's answers.
      const to = { address: lab.nodeAddress('lb1', family), port: 45000 };
      const backends = backendsOf(lab, ['node1-a']);
      lb.addService({
        name: 'ports',
        frontends: [{ kind: 'hostPort', port: to.port }],
        backends: backends.filter((_, i) => i === (family === 4 ? 0 : 1)),
      });
      const exhausted = () => lb.stats().byReason['snat-ports-exhausted']?.toNumber() ?? 0;
      const before = exhausted();
      const ports = new Set<number>();
      for (let i = 0; i < 15; i++) ports.add((await client.who('tcp', to)).client.port);
      expect([...ports].sort()).toEqual([
        44992, 44993, 44994, 44995, 44996, 44997, 44998, 44999, 45001, 45002, 45003, 45004, 45005, 45006, 45007,
      ]);
      expect(exhausted()).toBe(before);
      expect(await client.who('tcp', to, briefly)).toHaveProperty('error');
      expect(exhausted()).toBeGreaterThan(before);
    },
  );

  test.each(familyNames)(
    '[2.1] $name: a socket of the node at a port that a connection had before gets its own answers',
    async ({ family }) => {
      const address = lab.nodeAddress('lb1', family);
      // Another for each hook: sockets of the hook before may still wait for the end of their connections.
      const workload = ['node2-a', 'node1-b', 'node3-a'][hookNames.indexOf(hook)] as string;
      const to = lab.backend(workload, family);
      lb.addService({ name: 'web', frontends: protocols.map((protocol) => ({ kind: 'hostPort', port: 20001, protocol })), backends: [to] });
      const inside = lab.client('lb1');
      for (const protocol of protocols) {
        const ports = new Set<number>();
        for (let i = 0; i < 16; i++) ports.add((await client.who(protocol, { address, port: 20001 })).client.port);
        expect(ports.size, 'all are taken').toBe(16);
        // Of TCP they are over; a datagram may be the last or not.
        await until('they are silent', () => [...lb.connections()].every((c) => c.protocol === 'tcp' || c.idleMs >= 2000));
        for (const port of ports) {
          expect(await inside.who(protocol, to, { own: { address, port }, connected: true })).toMatchObject({
            server: workload,
            client: { address, port },
          });
        }
      }
      inside.end();
    },
  );
});
