import type { Decision, Endpoint, PacketDescription, ServiceSpec } from 'ebpf-lb';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { DROPPED, Fixture, full, REJECTED, slow } from '../support/fixture.js';

let f: Fixture;
let clients: { client: Client; namespace: string }[];
beforeAll(async () => {
  f = await Fixture.create();
  clients = [
    { client: f.client, namespace: 'client' },
    { client: new Client(f.lab, 'server'), namespace: 'server' },
  ];
});
afterAll(() => {
  clients?.[1]?.client.end();
  return f?.close();
});

/** mulberry32: the same draws in every run. */
function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const algorithms = ['random', 'round-robin', 'maglev', 'source-hash'] as const;
const states = ['active', 'active', 'active', 'terminating', 'quarantined', 'maintenance'] as const;
const ports = 24;

test('[1.5] explain says what the socket then does, for random descriptions over every algorithm, state and policy', {
  timeout: 1_800_000,
}, async () => {
  const random = seeded(1);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  for (const family of [4, 6] as const) for (let i = 0; i < ports; i++) await f.serveUdp(6000 + i, family);
  const backendAt = (family: 4 | 6, i: number) => ({ address: f.lab.address('server', family), port: 6000 + i });
  const vip = (family: 4 | 6, i: number) => (family === 4 ? `10.96.2.${i + 1}` : `fd00:96::2:${(i + 1).toString(16)}`);

  const services = 40;
  const draw = (i: number): ServiceSpec => ({
    name: `s${i}`,
    frontends: ([4, 6] as const).map((family) => ({
      kind: random() < 0.2 ? 'external' : 'cluster',
      address: vip(family, i),
      port: 53,
      protocol: 'udp',
    })),
    backends: ([4, 6] as const).flatMap((family) => {
      const first = Math.floor(random() * (ports - 4));
      return Array.from({ length: Math.floor(random() * 5) }, (_, k) => ({
        ...backendAt(family, first + k),
        weight: pick([0, 1, 1, 2, 5]),
        state: pick(states),
        node: pick(['n1', 'n2']),
        zone: pick(['a', 'b']),
      }));
    }),
    algorithm: pick(algorithms),
    ...(random() < 0.3 ? { affinity: { clientIP: true as const, timeoutSeconds: 600 } } : {}),
    internalTrafficPolicy: random() < 0.2 ? 'Local' : 'Cluster',
    topology: pick(['any', 'any', 'prefer-same-zone', 'prefer-same-node'] as const),
    onNoBackends: pick(['reject', 'drop'] as const),
  });
  f.lb.setNode({ name: 'n1', addresses: [f.lab.address('client', 4)], zone: 'a' });

  const key = (e: Endpoint) => `${e.address} ${e.port}`;
  const counts = () => Object.fromEntries(Object.entries(f.lb.stats().byReason).map(([reason, n]) => [reason, n.toNumber()]));
  const met = new Map<string, { candidates: Set<string>; seen: Set<string> }>();
  const rounds = full ? 10_000 : Math.ceil(1_000 / slow);
  const reasons = new Set<string>();

  for (let n = 0; n < rounds; n++) {
    if (n % 250 === 0) {
      await f.lb.apply(Array.from({ length: services }, (_, i) => draw(i)));
      met.clear();
    }
    const family = pick([4, 6] as const);
    const { client, namespace } = pick(clients);
    const known = random() < 0.9;
    const description: PacketDescription = {
      protocol: 'udp',
      from: 'pod',
      source: { address: f.lab.address(namespace, family), netns: f.lab.netns(namespace) },
      destination: { address: vip(family, known ? Math.floor(random() * services) : services + 1), port: random() < 0.95 ? 53 : 54 },
    };
    const before = counts();
    const decision: Decision = f.lb.explain(description);
    expect(counts(), 'asking counts nothing').toEqual(before);
    reasons.add(decision.reason);

    const socket = await client.udp(family);
    const { address, port } = description.destination;
    const connected = await client.ask('connect', { socket, address, port });
    const after = counts();
    const where = `${n}: ${decision.text}`;
    if (decision.verdict === 'forward') {
      expect(connected.error, where).toBeUndefined();
      await client.ask('send', { socket, text: 'who' });
      const answer = await client.ask('recv', { socket });
      expect(answer.from, where).toEqual({ address, port });
      const candidates = decision.candidates.map(key);
      const got = candidates.find((candidate) => answer.text?.includes(`:${candidate.split(' ')[1]}`));
      expect(got, `${where}: ${answer.text}`).toBeDefined();
      if (decision.determined && decision.backend) expect(got, where).toBe(key(decision.backend));
      if (decision.backend) expect(candidates, where).toContain(key(decision.backend));
      if (!decision.determined) {
        const all = met.get(decision.service ?? '') ?? { candidates: new Set(candidates), seen: new Set<string>() };
        if (decision.backend) all.seen.add(key(decision.backend));
        met.set(`${decision.service} ${family}`, all);
      }
      expect(after['forwarded'], where).toBe((before['forwarded'] ?? 0) + 1);
    } else if (decision.verdict === 'pass') {
      expect(connected.error, where).toMatch(/ENETUNREACH|EHOSTUNREACH/);
      expect(after['forwarded'], where).toBe(before['forwarded']);
    } else {
      expect(connected.error, where).toBe(decision.verdict === 'reject' ? REJECTED : DROPPED);
      expect(after[decision.reason], where).toBe((before[decision.reason] ?? 0) + 1);
    }
    await client.ask('close', { socket });
  }
  for (const reason of ['forwarded', 'not-a-service', 'no-backends', 'no-backends-drop']) expect(reasons).toContain(reason);
});

test('[1.5] each candidate of a random choice occurs, and nothing changes by asking', async () => {
  await f.reset();
  const backends = [1, 2, 3, 4].map((i) => ({ address: `10.1.0.${i}`, port: 80, weight: i }));
  f.lb.addService({ name: 'r', address: '10.96.3.1', port: 80, backends });
  f.lb.addService({ name: 'rr', address: '10.96.3.2', port: 80, algorithm: 'round-robin', backends, affinity: { clientIP: true } });
  const ask = (address: string) =>
    f.lb.explain({ protocol: 'tcp', from: 'pod', source: { address: f.lab.address('client') }, destination: { address, port: 80 } });
  const seen = new Set(Array.from({ length: 400 }, () => ask('10.96.3.1').backend?.address));
  expect([...seen].sort()).toEqual(backends.map((b) => b.address));
  for (let i = 0; i < 5; i++) expect(ask('10.96.3.2').backend).toEqual(ask('10.96.3.2').backend);
  expect([...f.lb.affinities()]).toEqual([]);
});
