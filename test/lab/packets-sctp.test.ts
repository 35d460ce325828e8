import { type DsrOptions, type Endpoint, LoadBalancer } from 'ebpf-lb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { backendsOf, balance, externalKinds, frontend, frontendsOf, hookNames } from '../support/balancing.js';
import { compile } from '../support/compile.js';
import { slow } from '../support/fixture.js';
import { type Place, places } from '../support/packet-cases.js';
import { clientAddress, type Family, familyNames, type Machine, PacketLab, serverPort } from '../support/packet-lab.js';
import { hasSctp, type Introduction, serveSctp, startProgram, type TrafficClient } from '../support/traffic.js';

/*
 * SCTP services: backends have another port than the frontend, translated sources another than the client, so each packet's checksum changes.
 * Everywhere by packets from raw sockets, whose checksums are computed apart; where the kernel has SCTP by its sockets, too.
 */
const sockets = hasSctp();
const withSockets = `SCTP sockets${sockets ? '' : ' (skipped: this kernel has none; npm run test:kernels -- -f amd64 6.1 -- test/lab/packets-sctp)'}`;
const workloads = Object.values(places).map(({ workload }) => workload);
const frontendPort = 80;

let lab: PacketLab;
let client: TrafficClient;
beforeAll(async () => {
  lab = await PacketLab.create();
  if (sockets) await Promise.all([...workloads, 'node2-a'].map((name) => serveSctp(lab.lab, name, [serverPort, frontendPort])));
  else await Promise.all([...workloads, 'node2-a'].map((name) => startProgram(lab.lab, name, 'raw_sctp', ['serve', name])));
  client = lab.client();
});
afterAll(() => lab?.close());

let nextPort = 5000;
interface Asked extends Introduction {
  answers: number;
}
/** An INIT, and what follows it, by raw sockets. */
async function ask(
  family: Family,
  to: Endpoint,
  kinds: string[] = [],
  own = nextPort++,
  patienceMs = 2000,
  from = 'client',
): Promise<Asked> {
  const address = from === 'client' ? clientAddress(family) : lab.lab.address(from, family);
  const command = [compile('raw_sctp'), 'ask', address, own, to.address, to.port, patienceMs * slow, ...kinds];
  return JSON.parse(await lab.lab.run(from, command.map(String))) as Asked;
}

const servicesOf = (forwarding: 'snat' | 'dsr', port = serverPort) =>
  Object.values(places).map(({ workload, number }) => ({
    name: workload,
    frontends: frontendsOf(lab, number, frontendPort, ['sctp']),
    backends: backendsOf(lab, [workload], port),
    forwarding,
  }));

function testPlace(
  { workload, number }: Place,
  family: Family,
  translated: boolean,
  port = serverPort,
  kinds = externalKinds.slice(),
): void {
  const seenBy = () => ({
    server: workload,
    client: { address: translated ? lab.nodeAddress('lb1', family) : clientAddress(family) },
    backend: { address: lab.lab.address(workload, family), port },
  });
  test.skipIf(sockets).each(kinds)('[2.1] %s: from INIT to SHUTDOWN COMPLETE', async (kind) => {
    const own = nextPort++;
    const answer = await ask(family, frontend(lab, kind, family, number, frontendPort), ['data', 'data', 'shutdown', 'complete'], own);
    expect(answer).toMatchObject({ ...seenBy(), answers: 4 });
    if (!translated) expect(answer.client.port).toBe(own);
  });
  describe(withSockets, () => {
    test.runIf(sockets).each(kinds)('[2.1] %s: a connection, and a transfer in each direction', async (kind) => {
      const own = { address: clientAddress(family) };
      const socket = await client.open('sctp', frontend(lab, kind, family, number, frontendPort), { own });
      expect(await socket.who()).toMatchObject(seenBy());
      const size = 1_000_000;
      expect(await socket.move(size, size)).toMatchObject({ received: size, sent: size, intact: true });
      await socket.close();
    });
  });
}

describe.each(hookNames)('%s', (hook) => {
  describe('SNAT', () => {
    let lb: LoadBalancer;
    beforeAll(async () => {
      lb = await balance(lab, 'lb1', hook);
      await lb.apply(servicesOf('snat'));
    });
    afterAll(() => lb?.close());
    describe.each(Object.values(places))('$place', (place) => {
      describe.each(familyNames)('$name', ({ family }) => testPlace(place, family, place !== places.local));
    });

    describe.each(familyNames)('$name', ({ family }) => {
      const vip = () => frontend(lab, 'external', family, places.otherDevice.number, frontendPort);

      test.skipIf(sockets)('connections() tells how far each has come', async () => {
        const stateAfter = async (kinds: string[]) => {
          const port = nextPort++;
          await ask(family, vip(), kinds, port);
          const own = { address: clientAddress(family), port };
          const found = [...lb.connections({ protocol: 'sctp' })].filter((one) => one.client.port === port);
          expect(found).toHaveLength(1);
          expect(found[0]).toMatchObject({ protocol: 'sctp', client: own, frontend: vip(), service: 'node1-a', mode: 'snat' });
          return found[0]?.state;
        };
        expect(await stateAfter(['data'])).toBe('established');
        expect(await stateAfter(['data', 'shutdown'])).toBe('closed');
        expect(await stateAfter(['data', 'shutdown', 'complete'])).toBe('closed');
        expect(await stateAfter(['data', 'abort'])).toBe('reset');
        expect([...lb.connections({ protocol: 'tcp' })]).toEqual([]);
      });

      test.skipIf(sockets)('one client port at two services with one backend: each gets its own answers', async () => {
        const other = frontend(lab, 'loadBalancer', family, places.otherDevice.number, frontendPort);
        const port = nextPort++;
        const [first, second] = [await ask(family, vip(), ['data'], port), await ask(family, other, ['data'], port)];
        expect(first).toMatchObject({ server: 'node1-a', answers: 2 });
        expect(second).toMatchObject({ server: 'node1-a', answers: 2 });
        expect(first.client).not.toEqual(second.client);
      });

      test('without backends the client is told: port unreachable', async () => {
        await lb.apply(servicesOf('snat').map((spec) => ({ ...spec, backends: [] })));
        const rejected = () => lb.stats().byReason['no-backends']?.toNumber() ?? 0;
        const before = rejected();
        if (sockets) await client.who('sctp', vip(), { patienceMs: 300, own: { address: clientAddress(family) } });
        else expect(await ask(family, vip(), [], nextPort++, 300)).toHaveProperty('error');
        expect(rejected()).toBeGreaterThan(before);
        await lb.apply(servicesOf('snat'));
      });

      test('explain says what packets meet, and that sockets are not balanced', async () => {
        const packet = { protocol: 'sctp', source: { address: clientAddress(family), port: 7 }, destination: vip() } as const;
        expect(lb.explain({ ...packet, from: 'external' })).toMatchObject({
          verdict: 'forward',
          service: 'node1-a',
          masquerade: true,
          backend: { port: serverPort },
        });
        expect(lb.explain({ ...packet, from: 'pod' })).toMatchObject({ verdict: 'pass', reason: 'not-balanced', determined: true });
        expect(lb.explain({ ...packet, from: 'external', protocol: 'tcp' })).toMatchObject({ reason: 'not-a-service' });
      });
    });
  });

  const dispatches = ['ipip', 'geneve', 'option', 'l2'] as const satisfies DsrOptions['dispatch'][];
  describe.each(dispatches)('DSR by %s', (dispatch) => {
    const balancers: LoadBalancer[] = [];
    // By l2 a backend has to be on a link of lb1 and have the frontend's port.
    const port = dispatch === 'l2' ? frontendPort : serverPort;
    beforeAll(async () => {
      for (const machine of ['lb1', 'node1', 'node3'] as Machine[]) balancers.push(await balance(lab, machine, hook));
      const peers = lab.node('lb1').addresses.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
      for (const [i, lb] of balancers.entries()) {
        await lb.enableDSR(i === 0 ? { dispatch } : { dispatch, peers });
        await lb.apply(servicesOf('dsr', port));
      }
    });
    afterAll(async () => {
      for (const lb of balancers.splice(0)) await lb.close();
    });
    const kinds = dispatch === 'l2' ? (['external', 'loadBalancer'] as const).slice() : externalKinds.slice();
    describe.each(dispatch === 'l2' ? [places.otherDevice] : [places.otherDevice, places.sameDevice])('$place', (place) => {
      describe.each(familyNames)('$name', ({ family }) => testPlace(place, family, false, port, kinds));
    });
  });

  test('a service that answers at one port by TCP and SCTP has two frontends there, which do not meet', async () => {
    const lb = await balance(lab, 'lb1', hook);
    const port = 30009;
    lb.addService({ name: 'tcp', frontends: [{ kind: 'nodePort', port }], backends: backendsOf(lab, ['lb1-a']) });
    lb.addService({ name: 'sctp', frontends: [{ kind: 'nodePort', port, protocol: 'sctp' }], backends: backendsOf(lab, ['node1-a']) });
    if (!sockets) expect(await ask(4, { address: lab.nodeAddress('lb1', 4), port })).toMatchObject({ server: 'node1-a' });
    const { ok, problems } = await lb.verify();
    expect({ ok, problems }).toEqual({ ok: true, problems: [] });
    await lb.close();
  });
});

describe('socket hooks', () => {
  let lb: LoadBalancer;
  beforeAll(async () => {
    lb = await LoadBalancer.open({ node: lab.node('lb1') });
    await lb.attachCgroup(lab.lab.cgroup);
  });
  afterAll(() => lb?.close());

  describe(withSockets, () => {
    test.runIf(sockets).each(familyNames)(
      '$name: a connect of SCTP is left alone, also where a service of SCTP, TCP or UDP has its address',
      async ({ family }) => {
        const direct = { address: lab.lab.address('node1-a', family), port: serverPort };
        for (const protocol of ['sctp', 'tcp', 'udp'] as const) {
          lb.addService({
            name: protocol,
            frontends: [{ kind: 'cluster', protocol, ...direct }],
            backends: [lab.backend('node2-a', family)],
          });
        }
        const own = { address: clientAddress(family) };
        expect(await client.who('sctp', direct, { own })).toMatchObject({ server: 'node1-a' });
        await lb.apply([]);
      },
    );
  });
});
