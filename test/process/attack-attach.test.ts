import { mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { full, until } from '../support/fixture.js';

let lab: Lab;
let client: Client;
let lb: LoadBalancer;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client', 'server'] });
  client = new Client(lab, 'client');
});
afterAll(() => {
  client?.end();
  return lab?.close();
});
beforeEach(async () => {
  lb = await LoadBalancer.open();
});
afterEach(() => lb.close());

const netns = (name: string) => lab.netns(name);

test('namespaces that stay covered are served while the options change', { timeout: 60_000 }, async () => {
  const server = await lab.serveHttp('server', 8080, { body: 'yes' });
  lb.addService({ name: 's', address: '10.96.0.1', port: 80, backends: [{ address: server.address, port: server.port }] });
  await lb.attachCgroup(lab.cgroup, { namespaces: [netns('client')] });
  let busy = true;
  const errors: Record<string, number> = {};
  const traffic = (async () => {
    while (busy) {
      const seen = await client.ask('http', { address: '10.96.0.1', port: 80, count: 50, parallel: 4 });
      for (const [code, n] of Object.entries(seen.errors ?? {})) errors[code] = (errors[code] ?? 0) + n;
    }
  })();
  for (let i = 0; i < 6; i++) {
    await lb.attachCgroup(lab.cgroup, { namespaces: 'all' });
    await lb.attachCgroup(lab.cgroup, { namespaces: [netns('server'), netns('client')] });
  }
  busy = false;
  await traffic;
  expect(errors).toEqual({});
  await server.stop();
});

test("'host' is the balancer's own namespace, whichever that is", async () => {
  await lb.close();
  lb = await LoadBalancer.open({ netns: netns('client') });
  const server = await lab.serveHttp('server', 8080, { body: 'yes' });
  lb.addService({ name: 's', address: '10.96.0.1', port: 80, backends: [{ address: server.address, port: server.port }] });
  await lb.attachCgroup(lab.cgroup, { namespaces: 'host' });
  expect((await client.tcp('10.96.0.1', 80)).body).toBe('yes');
  expect(await lb.verify()).toMatchObject({ ok: true });
  await server.stop();
});

test('a frontend that moves takes its unconnected UDP senders along', async () => {
  const servers = await Promise.all([8081, 8082].map((port) => lab.serveUdp('server', port, { address: lab.address('server', 4) })));
  await lb.attachCgroup(lab.cgroup);
  const spec = (name: string, vip: number, server: number) => ({
    name,
    frontends: [{ kind: 'cluster' as const, address: `10.96.0.${vip}`, port: 53, protocol: 'udp' as const }],
    backends: [{ address: servers[server]!.address, port: servers[server]!.port }],
  });
  await lb.apply([spec('a', 1, 0), spec('b', 2, 1)]);
  const socket = await client.udp();
  expect(await client.sendTo(socket, '10.96.0.1', 53)).toMatchObject({ from: { address: '10.96.0.1', port: 53 } });
  expect(lb.stats('b').connections.toString()).toBe('0');
  await lb.apply([spec('a', 2, 0), spec('b', 1, 1)]);
  expect(await client.sendTo(socket, '10.96.0.1', 53)).toMatchObject({ from: { address: '10.96.0.1', port: 53 } });
  expect(lb.stats('b').connections.toString()).toBe('1');
  await client.ask('close', { socket });
  await Promise.all(servers.map((server) => server.stop()));
});

test.runIf(full)('[1.2] 63 cgroups can be attached, the 64th is told so, and one detached makes room', { timeout: 120_000 }, async () => {
  const cgroups = Array.from({ length: 64 }, (_, i) => `${lab.cgroup}/many-${i}`);
  for (const cgroup of cgroups) mkdirSync(cgroup);
  try {
    for (const cgroup of cgroups.slice(0, 63)) await lb.attachCgroup(cgroup);
    await expect(lb.attachCgroup(cgroups[63]!)).rejects.toMatchObject({
      code: 'ERR_CAPACITY',
      details: { need: 64, have: 63, option: 'attachments' },
    });
    await lb.attachments()[10]!.detach();
    await lb.attachCgroup(cgroups[63]!);
    expect(lb.attachments()).toHaveLength(63);
    expect((await lb.verify()).problems).toEqual([]);
  } finally {
    await lb.close();
    for (const cgroup of cgroups) rmdirSync(cgroup);
  }
});

test('a cgroup that is made anew can be attached again, and a lost one can be detached', async () => {
  const cgroup = `${lab.cgroup}/again`;
  for (let i = 0; i < 3; i++) {
    mkdirSync(cgroup);
    await lb.attachCgroup(cgroup);
    expect(await lb.verify()).toMatchObject({ ok: true });
    rmdirSync(cgroup);
    await until('it is lost', () => lb.attachments()[0]?.state === 'lost');
  }
  await lb.attachments()[0]!.detach();
  expect(lb.attachments()).toEqual([]);
});

test('an attach that fails leaves nothing behind', async () => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  for (let i = 0; i < 5; i++) await expect(lb.attachCgroup(lab.cgroup, { namespaces: ['/run/netns/none'] })).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
  await expect(lb.attachCgroup('/proc/self')).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  expect(descriptors()).toBe(before);
  expect(lb.attachments()).toEqual([]);
  await lb.attachCgroup(lab.cgroup);
  expect(await lb.verify()).toMatchObject({ ok: true });
});

test('closing during an attach, a verify and an apply settles all of them', { timeout: 60_000 }, async () => {
  for (let i = 0; i < 10; i++) {
    const own = await LoadBalancer.open();
    const specs = Array.from({ length: 200 }, (_, n) => ({ name: `s${n}`, address: `10.97.0.${n}`, port: 80, backends: [{ address: '10.1.0.1', port: n + 1 }] }));
    const all = [own.attachCgroup(lab.cgroup), own.apply(specs), own.verify(), own.settled()];
    const closed = own.close();
    for (const outcome of await Promise.allSettled(all)) if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'ERR_CLOSED' });
    await closed;
    expect(() => own.services()).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }));
  }
});
