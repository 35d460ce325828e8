import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoadBalancer, LoadBalancerError, type ServiceSpec } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { until } from '../support/fixture.js';
import { frontendLines, writeFrontendLine } from '../support/frontend-lines.js';
import { KernelObjects, pinDirectory, removePins } from '../support/pins.js';

let lab: Lab;
let client: Client;
let pinPath: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client', 'server'] });
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

const file = (name: string) => fileURLToPath(new URL(`../support/${name}`, import.meta.url));

async function refused(what: Promise<unknown>): Promise<LoadBalancerError> {
  const error = await what.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof LoadBalancerError)) throw new Error(`expected a LoadBalancerError, got ${String(error)}`);
  return error;
}

const rich: ServiceSpec = {
  name: 'shop/web:http',
  frontends: [
    { kind: 'cluster', address: '10.96.0.10', port: 80 },
    { kind: 'cluster', address: 'fd00:96::10', port: 80, protocol: 'udp' },
    { kind: 'nodePort', port: 30080 },
  ],
  backends: [
    { address: '10.1.0.1', port: 8080, weight: 3, zone: 'a', node: 'n1' },
    { address: '10.1.0.2', port: 8080, state: 'terminating' },
    { address: 'fd01::1', port: 8080 },
  ],
  algorithm: 'maglev',
  affinity: { clientIP: true, timeoutSeconds: 77 },
  internalTrafficPolicy: 'Local',
  onNoBackends: 'drop',
  labels: { team: 'päyments', 'with space': '"quoted"' },
};

test('[1.4] the next open of the pins finds every name, label, policy and setting', async () => {
  const lb = await LoadBalancer.open({ pinPath, node: { name: 'n1', addresses: ['192.0.2.1', '2001:db8::1'] } });
  lb.addService(rich);
  await lb.apply([{ name: 'other', address: '10.96.0.11', port: 81 }], { owner: 'else' });
  await lb.attachCgroup(lab.cgroup);
  const before = lb.services().map((s) => ({ owner: s.owner, spec: s.spec }));
  await lb.close();
  const next = await LoadBalancer.open({ pinPath });
  expect(next.services().map((s) => ({ owner: s.owner, spec: s.spec }))).toEqual(before);
  expect(next.service('other')?.owner).toBe('else');
  expect(next.attachments()).toMatchObject([{ kind: 'cgroup', target: lab.cgroup, state: 'attached' }]);
  // The node came back too: its node port answers.
  const decision = next.explain({
    protocol: 'tcp',
    from: 'host',
    source: { address: '192.0.2.1' },
    destination: { address: '192.0.2.1', port: 30080 },
  });
  expect(decision.service).toBe('shop/web:http');
  expect((await next.verify()).problems).toEqual([]);
  await next.close({ detach: true });
  expect(existsSync(pinPath)).toBe(false);
});

test('[1.4] routing goes on between close and the next open', async () => {
  const server = await lab.serveHttp('server', 8080, { body: 'on' });
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 'on', address: '10.96.0.1', port: 80, backends: [{ address: server.address, port: server.port }] });
  await lb.attachCgroup(lab.cgroup);
  await lb.close();
  expect((await client.tcp('10.96.0.1', 80)).body).toBe('on');
  const next = await LoadBalancer.open({ pinPath });
  expect((await client.tcp('10.96.0.1', 80)).body).toBe('on');
  await next.close({ detach: true });
  expect((await client.tcp('10.96.0.1', 80)).error).toMatch(/ENETUNREACH/);
  await server.stop();
});

test('a second writer is told who holds the lock, and gets it when the first lets go', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  const error = await refused(LoadBalancer.open({ pinPath }));
  expect(error).toMatchObject({ code: 'ERR_LOCKED', operation: 'open', details: { pid: process.pid } });
  expect(error.message).toContain(pinPath);
  const waiting = LoadBalancer.open({ pinPath, lockTimeoutMs: 10_000 });
  await lb.close();
  const next = await waiting;
  await next.close({ detach: true });
});

test('a read-only observer sees what the writer does and may change nothing', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  expect(observer.services()).toEqual([]);
  lb.addService(rich);
  expect(observer.services().map((s) => s.spec)).toEqual(lb.services().map((s) => s.spec));
  lb.setBackends(rich.name, []);
  expect(observer.service(rich.name)?.spec.backends).toEqual([]);
  for (let i = 0; i < 3000; i++) lb.updateService(rich.name, { labels: { big: 'x'.repeat(400), i: String(i) } }); // compacts the log more than once
  expect(observer.service(rich.name)?.spec.labels?.['i']).toBe('2999');
  expect(() => observer.addService({ name: 'x', address: '10.96.0.1', port: 80 })).toThrow(
    expect.objectContaining({ code: 'ERR_READONLY' }),
  );
  expect((await refused(observer.apply([]))).code).toBe('ERR_READONLY');
  expect((await refused(observer.attachCgroup(lab.cgroup))).code).toBe('ERR_READONLY');
  expect(observer.status().owner).toEqual({ pid: process.pid });
  await observer.close();
  expect(lb.services()).toHaveLength(1);
  await lb.close({ detach: true });
});

test('[1.2] counts of connections are whole while their backends go, for the writer and for observers', async () => {
  const ports = [8081, 8082];
  const servers = await Promise.all(ports.map((port) => lab.serveUdp('server', port, { address: lab.address('server', 4) })));
  const lb = await LoadBalancer.open({ pinPath });
  const observer = await LoadBalancer.open({ pinPath, readonly: true });
  const backends = servers.map(({ address, port }) => [{ address, port }]);
  lb.addService({ name: 's', frontends: [{ kind: 'cluster', address: '10.96.0.1', port: 53, protocol: 'udp' }], backends: backends[0]! });
  await lb.attachCgroup(lab.cgroup);
  for (let n = 1; n <= 100; n++) {
    const socket = await client.udp();
    expect(await client.ask('connect', { socket, address: '10.96.0.1', port: 53 })).not.toHaveProperty('error');
    lb.setBackends('s', backends[n % 2]!);
    for (let i = 0; i < 20; i++) {
      for (const reader of [lb, observer]) {
        expect(reader.stats().byReason['forwarded']?.toNumber(), `round ${n}, read ${i}`).toBe(n);
        expect(reader.stats('s').connections.toNumber(), `round ${n}, read ${i}`).toBe(n);
      }
      if (i === 10) await new Promise((resolve) => setImmediate(resolve));
    }
    await client.ask('close', { socket });
  }
  await observer.close();
  await lb.close({ detach: true });
  await Promise.all(servers.map((server) => server.stop()));
});

test('an observer of nothing, a directory that is no bpffs and a foreign layout are told apart', async () => {
  expect((await refused(LoadBalancer.open({ pinPath, readonly: true }))).code).toBe('ERR_NOT_FOUND');
  const plain = mkdtempSync(path.join(tmpdir(), 'ebpf-lb-'));
  const error = await refused(LoadBalancer.open({ pinPath: path.join(plain, 'a/b') }));
  expect(error.code).toBe('ERR_NOT_BPFFS');
  expect(error.message).toContain('mount -t bpf');
  expect(readdirSync(plain)).toEqual([]);
  rmSync(plain, { recursive: true });
});

test('an unpinned balancer leaves nothing, whatever way its process ends', async () => {
  const server = await lab.serveHttp('server', 8080, { body: 'gone' });
  const script = `
    import { LoadBalancer } from 'ebpf-lb';
    const lb = await LoadBalancer.open();
    lb.addService({ name: 's', address: '10.96.0.3', port: 80, backends: [{ address: '${server.address}', port: 8080 }] });
    await lb.attachCgroup('${lab.cgroup}');
    process.stdout.write('ready');
    setInterval(() => {}, 1000);`;
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
      cwd: path.dirname(file('.')),
    });
    await once(child.stdout, 'data');
    expect((await client.tcp('10.96.0.3', 80)).body).toBe('gone');
    child.kill(signal);
    await once(child, 'exit');
    await until('the programs are gone', async () => /ENETUNREACH/.test((await client.tcp('10.96.0.3', 80)).error ?? ''));
  }
  await server.stop();
});

test('an open balancer does not keep its process alive', async () => {
  const script = `import { LoadBalancer } from 'ebpf-lb'; const lb = await LoadBalancer.open(); lb.addService({ name: 's', address: '10.96.0.3', port: 80 });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit', cwd: path.dirname(file('.')) });
  expect(await once(child, 'exit')).toEqual([0, null]);
});

test('leftovers of a creation that died are repaired', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 's', address: '10.96.0.3', port: 80 });
  await lb.close();
  // Without the control map, which is pinned last, the set never was complete.
  rmSync(`${pinPath}/control`);
  const next = await LoadBalancer.open({ pinPath });
  expect(next.services()).toEqual([]);
  await next.close({ detach: true });
});

test('a map that is missing from a complete set is ERR_LAYOUT with the remedy', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  await lb.close();
  rmSync(`${pinPath}/slots`);
  const error = await refused(LoadBalancer.open({ pinPath }));
  expect(error.code).toBe('ERR_LAYOUT');
  expect(error.message).toMatch(/remove the directory/);
});

test('close with detach frees every object of the kernel', async () => {
  const objects = new KernelObjects();
  const lb = await LoadBalancer.open({ pinPath });
  await lb.attachCgroup(lab.cgroup);
  objects.note(pinPath);
  expect(objects.count).toBeGreaterThan(20);
  await lb.close({ detach: true });
  await until('all are gone', () => objects.left().length === 0);
});

test('opening and closing over and over leaks no descriptor', async () => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const cycle = async () => {
    const lb = await LoadBalancer.open();
    await lb.attachCgroup(lab.cgroup);
    lb.addService({ name: 's', address: '10.96.0.3', port: 80 });
    lb.explain({ protocol: 'tcp', from: 'pod', source: { address: '10.0.0.1' }, destination: { address: '10.96.0.3', port: 80 } });
    await lb.verify();
    await lb.close();
  };
  await cycle();
  const before = descriptors();
  for (let i = 0; i < 5; i++) await cycle();
  expect(descriptors()).toBe(before);
});

test('verify() notices a map that was changed behind its back, a lost link and a removed cgroup', async () => {
  const lb = await LoadBalancer.open({ pinPath });
  lb.addService({ name: 's', address: '10.96.0.3', port: 80, backends: [{ address: '10.1.0.1', port: 80 }] });
  const cgroup = `${lab.cgroup}/short`;
  mkdirSync(cgroup);
  await lb.attachCgroup(cgroup);
  expect((await lb.verify()).ok).toBe(true);
  const run = (...args: string[]) => lab.run('client', ['sh', '-c', `PATH=$PATH:/usr/sbin; ${args.join(' ')}`]);
  for (const { line } of await frontendLines(run, pinPath)) await writeFrontendLine(run, pinPath, line, []);
  const report = await lb.verify();
  expect(report.ok).toBe(false);
  expect(report.problems.map((p) => p.message).join()).toMatch(/missing from the kernel/);
  lb.removeService('s');
  expect((await lb.verify()).ok).toBe(true);
  expect(await frontendLines(run, pinPath)).toEqual([]);
  rmdirSync(cgroup);
  await until('the attachment is known to be lost', () => lb.attachments()[0]?.state === 'lost');
  expect(lb.status().problems.map((p) => p.code)).toContain('ERR_NOT_FOUND');
  expect(lb.status().ready).toBe(false);
  await lb.close({ detach: true });
});
