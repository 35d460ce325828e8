import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoadBalancer, LoadBalancerError } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { full } from '../support/fixture.js';
import { frontendLines, writeFrontendLine } from '../support/frontend-lines.js';
import { pinDirectory, removePins } from '../support/pins.js';

const support = fileURLToPath(new URL('../support', import.meta.url));
const stopAddon = fileURLToPath(new URL('../../build/Release/ebpf_lb_stop.node', import.meta.url));

let lab: Lab;
let client: Client;
let pinPath: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
  client = new Client(lab, 'client');
});
afterAll(() => {
  client?.end();
  return lab?.close();
});
beforeEach(() => {
  pinPath = pinDirectory();
});
afterEach(() => removePins(pinPath));

const backend = (n: number) => ({ address: `10.1.${n >> 8}.${n & 255}`, port: 80 });
const run = (...args: string[]) => lab.run('client', ['sh', '-c', `PATH=$PATH:/usr/sbin; ${args.join(' ')}`]);

/** Runs a program with `lb` opened at pinPath; kills it at its N-th write. Says whether it came to its end. */
async function runUntil(write: number, program: string): Promise<boolean> {
  const script = `import { LoadBalancer } from 'ebpf-lb'; const lb = await LoadBalancer.open({ pinPath: '${pinPath}', lockTimeoutMs: 10000 }); ${program}; process.stdout.write('end');`;
  const env = { ...process.env, EBPF_LB_ADDON: stopAddon, EBPF_LB_STOP_AFTER: String(write) };
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], cwd: support, env });
  let text = '';
  child.stdout.on('data', (chunk) => {
    text += chunk;
  });
  await once(child, 'close');
  return text === 'end';
}

test('a directory with pins of other programs keeps them, whatever happens to ours', async () => {
  mkdirSync(pinPath);
  await run('bpftool', 'map', 'create', `${pinPath}/theirs`, 'type', 'array', 'key', '4', 'value', '4', 'entries', '1', 'name', 'theirs');
  const lb = await LoadBalancer.open({ pinPath });
  expect(existsSync(`${pinPath}/theirs`)).toBe(true);
  lb.addService({ name: 's', address: '10.96.0.3', port: 80 });
  await lb.close({ detach: true });
  expect(existsSync(`${pinPath}/theirs`)).toBe(true);
  expect(existsSync(`${pinPath}/control`)).toBe(false);
});

test('who waits for the lock while the directory is removed gets a directory of its own', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  const waiting = LoadBalancer.open({ pinPath, lockTimeoutMs: 10_000 });
  await new Promise((resolve) => setImmediate(resolve));
  await lb.close({ detach: true });
  const next = await waiting;
  expect(existsSync(`${pinPath}/control`)).toBe(true);
  await expect(LoadBalancer.open({ pinPath })).rejects.toMatchObject({ code: 'ERR_LOCKED' });
  await next.close({ detach: true });
});

test('an observer reads a state however fast the writer commits', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 's', address: '10.96.0.3', port: 80, backends: [backend(1)] });
  await lb.close();
  const script = `import { LoadBalancer } from 'ebpf-lb'; const lb = await LoadBalancer.open({ pinPath: '${pinPath}', lockTimeoutMs: 10000 }); process.stdout.write('ready');
    for (let n = 0; ; n++) lb.setBackends('s', [{ address: '10.1.0.' + (n % 250 + 1), port: 80 }]);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], cwd: support });
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  try {
    await once(child.stdout, 'data');
    for (let i = 0; i < 100; i++) expect(observer.service('s')?.spec.backends).toHaveLength(1);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
    await observer.close();
  }
});

test('an observer asks for explanations while regions of all sizes come and go', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 's', address: '10.96.0.3', port: 80, backends: [backend(1)] });
  await lb.close();
  const script = `import { LoadBalancer } from 'ebpf-lb'; const lb = await LoadBalancer.open({ pinPath: '${pinPath}', lockTimeoutMs: 10000 }); process.stdout.write('ready');
    const list = (n, base) => Array.from({ length: n }, (_, i) => ({ address: '10.' + base + '.' + (i >> 8) + '.' + (i & 255), port: 80 }));
    for (let n = 0; ; n++) lb.setBackends('s', list(1 + (n * 37) % 300, n % 200 + 1));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], cwd: support });
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  const packet = {
    protocol: 'tcp',
    from: 'host',
    source: { address: '192.0.2.1' },
    destination: { address: '10.96.0.3', port: 80 },
  } as const;
  try {
    await once(child.stdout, 'data');
    for (let i = 0; i < 300; i++) {
      const decision = observer.explain(packet);
      expect(decision).toMatchObject({ verdict: 'forward', service: 's' });
      expect(decision.candidates.length).toBeGreaterThan(0);
      expect(decision.candidates).toContainEqual(decision.backend);
    }
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
    await observer.close();
  }
});

test('verify() of an observer says what the writer would hear, and nothing that is not so', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  await lb.attachCgroup(lab.cgroup);
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  expect(await observer.verify()).toMatchObject({ ok: true, problems: [] });
  await observer.close();
  await lb.close({ detach: true });
});

test('verifications at the same time do not disturb each other', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  await lb.attachCgroup(lab.cgroup);
  const reports = await Promise.all([lb.verify(), lb.verify(), lb.verify()]);
  for (const report of reports) expect(report).toMatchObject({ ok: true, problems: [] });
  await lb.close({ detach: true });
});

test('a service at the address of the canary is no problem for verify()', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  await lb.attachCgroup(lab.cgroup);
  lb.addService({
    name: 'theirs',
    frontends: [{ kind: 'cluster', address: '192.0.0.8', port: 9, protocol: 'udp' }],
    backends: [backend(1)],
  });
  expect(await lb.verify()).toMatchObject({ ok: true, problems: [] });
  await lb.close({ detach: true });
});

test('a verify() that is killed anywhere leaves nothing that a service could run into', { timeout: 300_000 }, async () => {
  const program = `await lb.attachCgroup('${lab.cgroup}'); await lb.verify(); await lb.verify()`;
  for (let write = 1, ended = false; !ended; write += full ? 1 : 5) {
    ended = await runUntil(write, program);
    const lb = await LoadBalancer.open({ pinPath });
    expect(lb.services()).toEqual([]);
    lb.addService({
      name: 'theirs',
      frontends: [{ kind: 'cluster', address: '192.0.0.8', port: 9, protocol: 'udp' }],
      backends: [backend(1)],
    });
    expect((await lb.plan([])).needs.frontends).toBe(0);
    await lb.close({ detach: true });
    removePins(pinPath);
  }
});

test('a first commit with a node port that dies anywhere leaves no port protected', { timeout: 300_000 }, async () => {
  const program = `lb.addService({ name: 's', frontends: [{ kind: 'nodePort', address: '192.0.2.1', port: 30080 }], backends: [{ address: '10.1.0.1', port: 80 }] })`;
  for (let write = 1, ended = false; !ended; write++) {
    ended = await runUntil(write, program);
    const lb = await LoadBalancer.open({ pinPath });
    expect((await lb.verify()).problems, `after write ${write}`).toEqual([]);
    await lb.close({ detach: true });
    removePins(pinPath);
  }
});

test('a compaction of the log that dies anywhere loses nothing', { timeout: 300_000 }, async () => {
  const size = 60_000;
  const program = `lb.addService({ name: 's', address: '10.96.0.1', port: 80 }); for (let i = 0; i < 20; i++) lb.updateService('s', { labels: { i: String(i), big: 'x'.repeat(${size}) } });`;
  // The service is 8 writes, an update 3, and the log is full at the 17th.
  let seen = 0;
  for (let write = 50, ended = false; !ended; write++) {
    ended = await runUntil(write, program);
    const lb = await LoadBalancer.open({ pinPath });
    const i = Number(lb.service('s')?.spec.labels?.['i']);
    expect(i).toBeGreaterThanOrEqual(seen);
    seen = i;
    expect((await lb.verify()).problems).toEqual([]);
    lb.updateService('s', { labels: null });
    await lb.close({ detach: true });
    removePins(pinPath);
  }
  expect(seen).toBe(19);
});

test('a recovery that dies anywhere is itself recovered from', { timeout: 600_000 }, async () => {
  const program = `lb.addService({ name: 'a', address: '10.96.0.1', port: 80, backends: [{ address: '10.1.0.1', port: 80 }] });
    await lb.apply([{ name: 'a', address: '10.96.0.2', port: 80, backends: [{ address: '10.1.0.2', port: 80 }] }, { name: 'b', address: '10.96.0.1', port: 80, backends: [{ address: '10.1.0.3', port: 80 }] }]);
    lb.removeService('a')`;
  for (let write = 1, ended = false; !ended; write += 2) {
    ended = await runUntil(write, program);
    let recovered = false;
    for (let again = 1; !recovered; again++) recovered = await runUntil(again, '');
    const lb = await LoadBalancer.open({ pinPath });
    expect((await lb.verify()).problems, `after write ${write}`).toEqual([]);
    lb.addService({ name: 'after', address: '10.99.0.1', port: 80, backends: [backend(9)] });
    expect((await lb.verify()).problems).toEqual([]);
    await lb.close({ detach: true });
    removePins(pinPath);
  }
});

test('a service that gets the id of one that is gone begins to count at zero, also when the process was killed in between', async () => {
  const script = `import { LoadBalancer } from 'ebpf-lb'; const lb = await LoadBalancer.open({ pinPath: '${pinPath}' }); await lb.attachCgroup('${lab.cgroup}');
    lb.addService({ name: 'old', address: '10.96.0.3', port: 80 }); process.stdout.write('ready');
    process.stdin.once('data', () => { lb.removeService('old'); process.kill(process.pid, 'SIGKILL'); });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'], cwd: support });
  await once(child.stdout, 'data');
  expect((await client.tcp('10.96.0.3', 80)).error).toBe('ECONNREFUSED');
  child.stdin.write('go');
  await once(child, 'exit');
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 'new', address: '10.96.0.4', port: 80 });
  expect(lb.stats('new').failures.toString()).toBe('0');
  await lb.close({ detach: true });
});

test('a table of frontends that is full takes back the whole change, and the next one works', async () => {
  const lb = await LoadBalancer.open({ pinPath, capacity: { frontends: 4 } });
  lb.addService({ name: 'first', address: '10.96.0.1', port: 80, backends: [backend(1)] });
  // Ways that are not ours, behind its back: the table, one line for so few keys, is full before the slots are.
  const lines = await frontendLines(run, pinPath);
  expect(lines).toHaveLength(1);
  const { line, bytes } = lines[0]!;
  await writeFrontendLine(
    run,
    pinPath,
    line,
    bytes.map((byte, i) => (i >= 16 && i % 4 === 3 && !byte ? 0x80 : byte)),
  );
  const change = () =>
    lb.addService({
      name: 'second',
      frontends: [1, 2, 3].map((n) => ({ kind: 'cluster', address: `10.96.1.${n}`, port: 80 }) as const),
      backends: [backend(2), backend(3)],
    });
  let error: unknown;
  try {
    change();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(LoadBalancerError);
  expect((error as LoadBalancerError).message).toMatch(/^addService second: .*full.*capacity\.frontends/);
  expect((error as LoadBalancerError).details).toMatchObject({ option: 'capacity.frontends' });
  await writeFrontendLine(run, pinPath, line, bytes);
  expect((await lb.verify()).problems).toEqual([]);
  change();
  expect((await lb.verify()).problems).toEqual([]);
  await lb.close();
  const next = await LoadBalancer.open({ pinPath });
  expect(
    next
      .services()
      .map((s) => s.name)
      .sort(),
  ).toEqual(['first', 'second']);
  expect((await next.verify()).problems).toEqual([]);
  await next.close({ detach: true });
});

test('verify() tells of a backend whose generation is not that of the cells which have it', async () => {
  let lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 'a', address: '10.96.0.1', port: 80, backends: [backend(1)] });
  lb.setBackends('a', [backend(2)]);
  await lb.close();
  lb = await LoadBalancer.open({ pinPath });
  expect((await lb.verify()).problems).toEqual([]);
  const rows = JSON.parse(await run(`bpftool -j map dump pinned ${pinPath}/backends`)) as { value: string[] }[];
  const index = rows.findIndex(({ value }) => Number(value[6]) & 1);
  const bytes = rows[index]!.value.map((byte, i) => (i === 2 ? Number(byte) ^ 1 : Number(byte)));
  await run(`bpftool map update pinned ${pinPath}/backends key ${index} 0 0 0 value ${bytes.join(' ')}`);
  expect((await lb.verify()).problems).toMatchObject([
    { message: expect.stringMatching(/^backend 10\..* is not what the kernel's map says/) },
  ]);
  await lb.close({ detach: true });
});

test.each([
  ['second byte', (n: number) => `10.${n}.0.1`],
  ['fifth group of IPv6', (n: number) => `fd00:0:0:0:${n.toString(16)}::1`],
])('addresses that differ in the %s times ports: as many frontends as the capacity says', { timeout: 60_000 }, async (_, address) => {
  const lb = await LoadBalancer.open({ pinPath, capacity: { frontends: 8192 } });
  const frontends = Array.from({ length: 8192 }, (_, i) => ({ kind: 'cluster' as const, address: address(i >> 8), port: 1 + (i & 255) }));
  lb.addService({ name: 'wide', frontends, backends: address(0).includes(':') ? [] : [backend(1)] });
  expect((await lb.verify()).problems).toEqual([]);
  await lb.close({ detach: true });
});

test('65,536 frontends of one service are added, changed and removed in seconds', { timeout: 300_000 }, async () => {
  const lb = await LoadBalancer.open({ pinPath, capacity: { frontends: 140_000 } });
  const frontends = (from: number) =>
    Array.from({ length: 65_536 }, (_, i) => ({
      kind: 'cluster' as const,
      address: `10.96.${((i + from) >> 8) & 255}.${i & 255}`,
      port: 80 + ((i + from) >> 16),
    }));
  const took: number[] = [];
  const timed = (work: () => void) => {
    const begin = performance.now();
    work();
    took.push(Math.round(performance.now() - begin));
  };
  timed(() => lb.addService({ name: 'wide', frontends: frontends(0), backends: [backend(1)] }));
  timed(() => lb.setBackends('wide', [backend(2)]));
  timed(() => lb.updateService('wide', { frontends: frontends(256) }));
  expect((await lb.verify()).problems).toEqual([]);
  timed(() => lb.removeService('wide'));
  console.log('65,536 frontends: add, backends, change, remove', took);
  for (const ms of took) expect(ms).toBeLessThan(5000);
  await lb.close({ detach: true });
});

test('paths are what they say: a file, a slash at the end, a dot', async () => {
  const lb = await LoadBalancer.open({ pinPath: `${pinPath}/` });
  await lb.attachCgroup(lab.cgroup);
  await lb.attachCgroup(`${lab.cgroup}/`);
  expect(lb.attachments()).toHaveLength(1);
  await expect(lb.attachCgroup(path.join(lab.cgroup, 'none'))).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
  await lb.close({ detach: true });
  expect(existsSync(pinPath)).toBe(false);
});
