import { spawnSync } from 'node:child_process';
import { mkdirSync, rmdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LoadBalancer, LoadBalancerError, type LoadBalancerErrorCode } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { slow } from '../support/fixture.js';
import { pinDirectory, removePins } from '../support/pins.js';

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
});
afterAll(() => lab?.close());

/** What was thrown, which must be a LoadBalancerError of this code. */
async function thrown(code: LoadBalancerErrorCode, what: () => unknown): Promise<LoadBalancerError> {
  let error: unknown;
  try {
    await what();
  } catch (reason) {
    error = reason;
  }
  if (!(error instanceof LoadBalancerError)) throw new Error(`expected ${code}, got ${String(error)}`);
  expect(error.code).toBe(code);
  return error;
}

const backends = (n: number, first = 0) => Array.from({ length: n }, (_, i) => ({ address: `10.1.${(first + i) >> 8}.${(first + i) & 255}`, port: 80 }));

test('[1.2] ERR_CAPACITY tells need, have and the option, and nothing was written', async () => {
  const lb = await LoadBalancer.open({ capacity: { frontends: 4, backends: 4, cells: 64 } });
  lb.addService({ name: 'a', address: '10.96.0.1', port: 80, backends: backends(3) });
  const many = await thrown('ERR_CAPACITY', () => lb.addService({ name: 'b', address: '10.96.0.2', port: 80, backends: backends(3) }));
  expect(many.details).toEqual({ need: 6, have: 4, option: 'capacity.backends' });
  expect(many.message).toMatch(/open with a larger capacity\.backends/);
  const frontends = [1, 2, 3, 4, 5].map((i) => ({ kind: 'cluster' as const, address: `10.96.1.${i}`, port: 80 }));
  expect((await thrown('ERR_CAPACITY', () => lb.addService({ name: 'c', frontends }))).details).toEqual({ need: 6, have: 4, option: 'capacity.frontends' });
  const cells = await thrown('ERR_CAPACITY', () => lb.apply([{ name: 'a', address: '10.96.0.1', port: 80, algorithm: 'maglev', backends: backends(3) }]));
  expect(cells.details).toMatchObject({ have: 64, option: 'capacity.cells' });
  expect(lb.services().map((s) => s.name)).toEqual(['a']);
  expect((await lb.verify()).problems).toEqual([]);
  // What was given back is there again after a grace period, which a commit waits for when nothing else is free.
  for (let i = 0; i < 50; i++) lb.setBackends('a', backends(i % 2 ? 1 : 2, i * 4));
  await lb.settled();
  expect((await lb.verify()).problems).toEqual([]);
  await lb.close();
});

test('[1.2] a full map takes whatever fits into it in place of what is there, at one instant', async () => {
  const lb = await LoadBalancer.open({ capacity: { frontends: 8, backends: 64, cells: 1024 } });
  const specs = (round: number) =>
    Array.from({ length: 8 }, (_, i) => ({ name: `r${round}-${i}`, address: `10.96.${round}.${i}`, port: 80, backends: backends(8, round * 64 + i * 8) }));
  for (let round = 0; round < 20; round++) {
    const plan = await lb.plan(specs(round));
    expect(plan).toMatchObject({ fits: true, needs: { frontends: 8, backends: 64 } });
    expect(await lb.apply(specs(round))).toMatchObject({ added: 8, removed: round === 0 ? 0 : 8 });
  }
  // Full it is, for what comes in addition.
  const more = await thrown('ERR_CAPACITY', () => lb.addService({ name: 'more', address: '10.97.0.1', port: 80 }));
  expect(more.details).toEqual({ need: 9, have: 8, option: 'capacity.frontends' });
  const wide = [...specs(1).slice(0, 7), { name: 'wide', address: '10.97.0.1', port: 80, backends: backends(9, 10_000) }];
  expect(await lb.plan(wide)).toMatchObject({ fits: false, needs: { frontends: 8, backends: 65 } });
  expect((await thrown('ERR_CAPACITY', () => lb.apply(wide))).details).toEqual({ need: 65, have: 64, option: 'capacity.backends' });
  expect((await lb.verify()).problems).toEqual([]);
  await lb.close();
});

test('[1.2] plan() says that a large change does not fit where apply() would say so', { timeout: 120_000 * slow }, async () => {
  const lb = await LoadBalancer.open({ capacity: { frontends: 5000, backends: 5000 } });
  const specs = (round: number, count: number) =>
    Array.from({ length: count }, (_, i) => ({ name: `r${round}-${i}`, address: `10.${96 + round}.${i >> 8}.${i & 255}`, port: 80, backends: backends(1, round * 5000 + i) }));
  await lb.apply(specs(0, 5000));
  const all = await lb.plan(specs(1, 5000));
  expect(all).toMatchObject({ fits: false, needs: { frontends: 5000, backends: 5000 } });
  expect((await thrown('ERR_CAPACITY', () => lb.apply(specs(1, 5000)))).message).toMatch(/old ones are in use until the change is made/);
  const some = [...specs(0, 4800), ...specs(1, 200)];
  expect(await lb.plan(some)).toMatchObject({ fits: true });
  expect(await lb.apply(some)).toMatchObject({ added: 200, removed: 200 });
  expect((await lb.verify()).problems).toEqual([]);
  await lb.close();
});

test('[1.2] ERR_NOT_FOUND and ERR_INVALID_ARGUMENT for a cgroup that is none', async () => {
  const lb = await LoadBalancer.open();
  const missing = await thrown('ERR_NOT_FOUND', () => lb.attachCgroup(`${lab.cgroup}/no-such`));
  expect(missing).toMatchObject({ operation: 'attachCgroup', errno: -2, errnoName: 'ENOENT' });
  expect(missing.message).toContain('no-such');
  const plain = await thrown('ERR_INVALID_ARGUMENT', () => lb.attachCgroup('/tmp'));
  expect(plain.message).toMatch(/not a cgroup v2 directory/);
  expect(lb.attachments()).toEqual([]);
  await lb.close();
});

test('[1.2] ERR_NOT_FOUND for a network namespace that is not there', async () => {
  const lb = await LoadBalancer.open();
  await thrown('ERR_NOT_FOUND', () => lb.attachCgroup(lab.cgroup, { namespaces: ['/run/netns/no-such'] }));
  await thrown('ERR_NOT_FOUND', () =>
    lb.explain({ protocol: 'tcp', from: 'pod', source: { address: '10.0.0.1', netns: '/run/netns/no-such' }, destination: { address: '10.96.0.1', port: 80 } }),
  );
  await thrown('ERR_NOT_FOUND', () => LoadBalancer.open({ netns: '/run/netns/no-such' }));
  expect(lb.attachments()).toEqual([]);
  await lb.close();
});

test('[1.2] ERR_HOOK_BUSY where another program holds a hook alone, and nothing stays attached', async () => {
  const lb = await LoadBalancer.open();
  const cgroup = `${lab.cgroup}/busy`;
  mkdirSync(cgroup);
  const pinPath = pinDirectory();
  const shell = (script: string) => lab.run('client', ['sh', '-ec', `PATH=$PATH:/usr/sbin; ${script}`]);
  // Any program will do: one of another balancer, attached alone.
  const other = await LoadBalancer.open({ pinPath });
  await other.attachCgroup(lab.cgroup);
  const { prog_id: program } = JSON.parse(await shell(`bpftool -j link show pinned ${pinPath}/link_1_connect4`)) as { prog_id: number };
  await shell(`bpftool cgroup attach ${cgroup} connect4 id ${program}`);
  try {
    const error = await thrown('ERR_HOOK_BUSY', () => lb.attachCgroup(cgroup));
    expect(error.message).toMatch(/lb_connect4.*bpftool cgroup/);
    expect(lb.attachments()).toEqual([]);
    // Not `cgroup show`: on 5.10 it fails at the first kind of hook that the kernel does not know.
    const links = JSON.parse(await shell('bpftool -j link list')) as { cgroup_id?: number }[];
    expect(links.some((link) => link.cgroup_id === statSync(lab.cgroup).ino)).toBe(true);
    expect(links.filter((link) => link.cgroup_id === statSync(cgroup).ino)).toEqual([]);
  } finally {
    await shell(`bpftool cgroup detach ${cgroup} connect4 id ${program}`);
    await other.close({ detach: true });
    removePins(pinPath);
    rmdirSync(cgroup);
    await lb.close();
  }
});

test('[1.2] ERR_CLOSED after close, for every call, and close again is no error', async () => {
  const lb = await LoadBalancer.open();
  const service = lb.addService({ name: 'a', address: '10.96.0.1', port: 80 });
  await lb.close();
  await lb.close();
  const description = { protocol: 'tcp', from: 'pod', source: { address: '10.0.0.1' }, destination: { address: '10.96.0.1', port: 80 } } as const;
  const calls: (() => unknown)[] = [
    () => lb.addService({ name: 'b', address: '10.96.0.2', port: 80 }),
    () => lb.setBackends('a', []),
    () => lb.updateService('a', { labels: null }),
    () => lb.removeService('a'),
    () => service.setBackends([]),
    () => lb.apply([]),
    () => lb.plan([]),
    () => lb.attachCgroup(lab.cgroup),
    () => lb.explain(description),
    () => lb.stats(),
    () => lb.verify(),
  ];
  for (const call of calls) await thrown('ERR_CLOSED', call);
});

test('[1.2] ERR_PERMISSION without privileges names them, and probe() never throws', () => {
  const script = `
    import { LoadBalancer } from 'ebpf-lb';
    const probe = LoadBalancer.probe();
    const code = await LoadBalancer.open().then(() => 'opened', (error) => error.code + ' ' + error.message);
    console.log(JSON.stringify({ usable: probe.usable, missing: probe.missing, code }));`;
  const { stdout, stderr } = spawnSync('setpriv', ['--reuid=65534', '--clear-groups', '--bounding-set=-all', '--inh-caps=-all', process.execPath, '--input-type=module', '-e', script], {
    encoding: 'utf8',
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  });
  expect(stderr).toBe('');
  const seen = JSON.parse(stdout) as { usable: boolean; missing: string[]; code: string };
  expect(seen.usable).toBe(false);
  expect(seen.missing.join()).toMatch(/run as root/);
  expect(seen.code).toMatch(/^ERR_PERMISSION .*run as root/);
});

test('probe() says what this kernel can do, each feature in three values', () => {
  const probe = LoadBalancer.probe();
  expect(probe.usable).toBe(true);
  for (const [name, feature] of Object.entries(probe.features)) {
    expect(['supported', 'unsupported', 'unknown'], name).toContain(feature.support);
    expect(feature.minimumKernel, name).toMatch(/^\d+\.\d+$/);
    expect(feature.neededFor, name).not.toBe('');
    // A feature that this kernel should have by its number and has not is a defect of the probe or of the table.
    const [major = 0, minor = 0] = probe.kernel.split('.').map(Number);
    const [needMajor = 0, needMinor = 0] = feature.minimumKernel.split('.').map(Number);
    if (major > needMajor || (major === needMajor && minor >= needMinor)) expect(feature.support, name).toBe('supported');
  }
});
