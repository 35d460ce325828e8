import { once } from 'node:events';
import { LoadBalancer, type ServiceSpec } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile } from '../support/compile.js';
import { full } from '../support/fixture.js';

let lab: Lab;
let lb: LoadBalancer;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
  lb = await LoadBalancer.open({ capacity: { backends: 200_000 } });
  await lb.attachCgroup(lab.cgroup);
});
afterAll(async () => {
  await lb?.close();
  await lab?.close();
});

/** An address that says where it is from, as torn.c reads it; of a single service with more room for the commit. */
const backend = (family: 4 | 6, commit: number, service: number, i: number, single = false) => {
  const bits = single ? (commit << 2) | i : ((commit & 4095) << 12) | (service << 2) | i;
  const address = family === 4 ? `10.${(bits >> 16) & 255}.${(bits >> 8) & 255}.${bits & 255}` : `fd01::${((bits >> 16) & 255).toString(16)}:${(bits & 0xffff).toString(16)}`;
  return { address, port: 1000 };
};
const vip = (family: 4 | 6, service: number) => (family === 4 ? `172.20.${(service + 1) >> 8}.${(service + 1) & 255}` : `fd00:96::${(service + 1).toString(16)}`);

describe.each([4, 6] as const)('IPv%i', (family) => {
  const desired = (commit: number, services: number): ServiceSpec[] =>
    Array.from({ length: services }, (_, s) => ({
      name: `s${s}`,
      frontends: [{ kind: 'cluster', address: vip(family, s), port: 80, protocol: 'udp' }],
      backends: [1, 2, 3].map((i) => backend(family, commit, s, i, services === 1)),
    }));
  const filler = (n: number): ServiceSpec[] =>
    Array.from({ length: 500 }, (_, i) => ({ name: `f${n}-${i}`, address: family === 4 ? `172.3${n % 2}.${i >> 8}.${i & 255}` : `fd00:97:${n % 10}::${i + 1}`, port: 81 + n }));

  async function connecting(services: number, change: (commit: number) => Promise<void>, commits: number) {
    await lb.apply(desired(0, services), { owner: 'torn' });
    const child = lab.spawn('client', [compile('torn'), String(family), String(services), '2']);
    let text = '';
    child.stdout?.on('data', (chunk) => {
      text += chunk;
    });
    for (let commit = 1; commit <= commits; commit++) {
      await change(commit);
      // The connecting threads must get to see many of the commits, whatever the number of CPUs.
      if (commit % 16 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    child.stdin?.end();
    await once(child, 'close');
    await lb.apply([], { owner: 'torn' });
    await lb.apply([], { owner: 'filler' });
    const seen = JSON.parse(text) as Record<string, number | string>;
    expect(seen).toMatchObject({ failed: 0, foreign: 0, backwards: 0, error: '' });
    expect(seen['connects']).toBeGreaterThan(commits);
    return seen;
  }

  test('[1.3] backends flip between disjoint sets: every connection belongs wholly to one, and none sees an older one', { timeout: 1_800_000 }, async () => {
    await connecting(1, async (commit) => lb.setBackends('s0', [1, 2, 3].map((i) => backend(family, commit, 0, i, true))), full ? 10_000 : 2_000);
  });

  test('[1.3] apply of 1,000 services back to back beside others that come and go: no pair of connects sees a newer and then an older commit', { timeout: 1_800_000 }, async () => {
    let fillers = 0;
    await connecting(
      1000,
      async (commit) => {
        await lb.apply(desired(commit, 1000), { owner: 'torn' });
        if (commit % 4 === 0) await lb.apply(filler(fillers++), { owner: 'filler' });
      },
      full ? 2_000 : 60,
    );
  });
});
