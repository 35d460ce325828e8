import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { chiSquared, endpoint, Fixture, families, full, REJECTED, slow } from '../support/fixture.js';

let f: Fixture;
beforeAll(async () => {
  f = await Fixture.create();
});
afterEach(() => f.reset());
afterAll(() => f?.close());

const count = full ? 12_000 : Math.max(300, Math.ceil(1_200 / slow));

describe.each(families)('$name', ({ family, vip }) => {
  const serve = async (n: number) => Promise.all(Array.from({ length: n }, (_, i) => f.serveHttp(8081 + i, `b${i}`, family)));
  const shares = async (n = count) => {
    const { answers, errors } = await f.client.ask('http', { address: vip, port: 80, count: n });
    expect(errors).toEqual({});
    return (i: number) => answers?.[`b${i}`] ?? 0;
  };

  test('[1.2] random choice follows the weights', async () => {
    const servers = await serve(3);
    const weights = [1, 2, 5];
    f.lb.addService({ name: 'w', address: vip, port: 80, backends: servers.map((s, i) => ({ ...endpoint(s), weight: weights[i] ?? 1 })) });
    const got = await shares();
    // 13.8: two degrees of freedom, one failure in a thousand runs of a fair choice.
    expect(chiSquared([got(0), got(1), got(2)], weights)).toBeLessThan(13.8);
  });

  test('[1.2] round robin deals every weight exactly', async () => {
    const servers = await serve(3);
    const weights = [3, 2, 1];
    f.lb.addService({
      name: 'rr',
      address: vip,
      port: 80,
      algorithm: 'round-robin',
      backends: servers.map((s, i) => ({ ...endpoint(s), weight: weights[i] ?? 1 })),
    });
    const got = await shares(600);
    expect([got(0), got(1), got(2)]).toEqual([300, 200, 100]);
  });

  test('[1.2] maglev spreads sockets evenly', async () => {
    const servers = await serve(3);
    f.lb.addService({ name: 'm', address: vip, port: 80, algorithm: 'maglev', backends: servers.map(endpoint) });
    const got = await shares();
    expect(chiSquared([got(0), got(1), got(2)], [1, 1, 1])).toBeLessThan(13.8);
  });

  test('[1.2] source hash gives one namespace one backend, also by explain', async () => {
    const servers = await serve(3);
    f.lb.addService({ name: 's', address: vip, port: 80, algorithm: 'source-hash', backends: servers.map(endpoint) });
    const got = await shares(60);
    const used = [0, 1, 2].filter((i) => got(i) > 0);
    expect(used).toHaveLength(1);
    const decision = f.lb.explain({
      protocol: 'tcp',
      from: 'pod',
      source: { address: f.lab.address('client', family), netns: f.lab.netns('client') },
      destination: { address: vip, port: 80 },
    });
    expect(decision.determined).toBe(true);
    expect(decision.backend).toEqual(endpoint(servers[used[0] ?? 0] ?? { address: '', port: 0 }));
  });

  test('[1.2] affinity keeps a client with its backend, until the backend takes no new flows', async () => {
    const servers = await serve(3);
    const backends = servers.map(endpoint);
    f.lb.addService({ name: 'a', address: vip, port: 80, affinity: { clientIP: true, timeoutSeconds: 60 }, backends });
    const got = await shares(60);
    const mine = [0, 1, 2].filter((i) => got(i) > 0);
    expect(mine).toHaveLength(1);
    expect([...f.lb.affinities({ service: 'a' })]).toMatchObject([{ service: 'a', backend: backends[mine[0] ?? 0] }]);
    f.lb.setBackends(
      'a',
      backends.map((b, i) => (i === mine[0] ? { ...b, state: 'terminating' as const } : b)),
    );
    const moved = await shares(60);
    expect(moved(mine[0] ?? 0)).toBe(0);
    expect([0, 1, 2].filter((i) => moved(i) > 0)).toHaveLength(1);
  });

  test('[1.2] affinity ends after its timeout', async () => {
    const servers = await serve(8);
    f.lb.addService({
      name: 'a',
      address: vip,
      port: 80,
      affinity: { clientIP: true, timeoutSeconds: 1 },
      backends: servers.map(endpoint),
    });
    const seen = new Set<string | undefined>();
    // Of 8 backends, 40 draws that all agree happen once in 8^39 runs.
    for (let i = 0; i < 40 && seen.size < 2; i++) {
      seen.add((await f.client.tcp(vip, 80)).body);
      await new Promise((resolve) => setTimeout(resolve, 2_100)); // the timeout itself is under test
    }
    expect(seen.size).toBe(2);
  });

  test('[1.2] states: active first, then terminating, quarantined only when all are out, maintenance never', async () => {
    const servers = await serve(3);
    const [a, b, c] = servers.map(endpoint);
    if (!a || !b || !c) throw new Error('no servers');
    f.lb.addService({ name: 'st', address: vip, port: 80 });
    const used = async (backends: Parameters<typeof f.lb.setBackends>[1]) => {
      f.lb.setBackends('st', backends);
      const got = await shares(60);
      return [0, 1, 2].filter((i) => got(i) > 0);
    };
    expect(await used([a, { ...b, state: 'terminating' }, { ...c, state: 'quarantined' }])).toEqual([0]);
    expect(
      await used([
        { ...a, weight: 0 },
        { ...b, state: 'terminating' },
        { ...c, state: 'maintenance' },
      ]),
    ).toEqual([1]);
    expect(
      await used([
        { ...a, state: 'quarantined' },
        { ...b, state: 'quarantined' },
        { ...c, state: 'maintenance' },
      ]),
    ).toEqual([0, 1]);
    f.lb.setBackends('st', [{ ...a, state: 'maintenance' }]);
    expect((await f.client.tcp(vip, 80)).error).toBe(REJECTED);
  });
});
