import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../support/client.js';
import { endpoint } from '../support/fixture.js';

/** Here the balancer's own namespace is the client's: the node whose ports are protected. */
let lab: Lab;
let lb: LoadBalancer;
let node: Client;
let other: Client;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client', 'server'] });
  lb = await LoadBalancer.open({ netns: lab.netns('client') });
  await lb.attachCgroup(lab.cgroup);
  node = new Client(lab, 'client');
  other = new Client(lab, 'server');
  lb.setNode({ name: 'n1', addresses: [lab.address('client', 4), lab.address('client', 6)] });
});
afterEach(() => lb.apply([]));
afterAll(async () => {
  node?.end();
  other?.end();
  await lb?.close();
  await lab?.close();
});

describe.each([4, 6] as const)('IPv%i', (family) => {
  test('[1.2] a node port answers on the addresses of the node, never on loopback', async () => {
    const server = await lab.serveHttp('server', 8080, { address: lab.address('server', family), body: 'port' });
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30080 }], backends: [endpoint(server)] });
    expect((await node.tcp(lab.address('client', family), 30080)).body).toBe('port');
    expect((await other.tcp(lab.address('client', family), 30080)).body).toBe('port');
    expect((await node.tcp(family === 4 ? '127.0.0.1' : '::1', 30080)).error).toBe('ECONNREFUSED');
    await server.stop();
  });

  test('[1.2] a host port answers on every address of the node, with a host address only there', async () => {
    const server = await lab.serveHttp('server', 8080, { address: lab.address('server', family), body: 'host' });
    lb.addService({ name: 'hp', frontends: [{ kind: 'hostPort', port: 8888 }], backends: [endpoint(server)] });
    expect((await node.tcp(lab.address('client', family), 8888)).body).toBe('host');
    lb.addService({
      name: 'hp2',
      frontends: [{ kind: 'hostPort', port: 8889, address: lab.address('client', family) }],
      backends: [endpoint(server)],
    });
    expect((await node.tcp(lab.address('client', family), 8889)).body).toBe('host');
    await server.stop();
  });

  test('[1.2] binding to a node port in use is refused in the node namespace only, and allowed again when it is gone', async () => {
    lb.addService({
      name: 'np',
      frontends: [
        { kind: 'nodePort', port: 30081 },
        { kind: 'nodePort', port: 30082, protocol: 'udp' },
      ],
    });
    const any = family === 4 ? '0.0.0.0' : '::';
    const mine = lab.address('client', family);
    const bind = (client: Client, address: string, port: number, protocol: string) => client.ask('bind', { address, port, protocol });
    for (const address of [any, mine]) {
      expect((await bind(node, address, 30081, 'tcp')).error, `${address} tcp`).toMatch(/EADDRINUSE|EPERM/);
      expect((await bind(node, address, 30082, 'udp')).error, `${address} udp`).toMatch(/EADDRINUSE|EPERM/);
      expect((await bind(node, address, 30081, 'udp')).port, 'the other protocol').toBe(30081);
      expect((await bind(node, address, 30082, 'tcp')).port, 'the other protocol').toBe(30082);
    }
    expect((await bind(node, family === 4 ? '127.0.0.1' : '::1', 30081, 'tcp')).port, 'loopback is not protected').toBe(30081);
    expect((await bind(other, any, 30081, 'tcp')).port, 'another namespace').toBe(30081);
    lb.removeService('np');
    expect((await bind(node, any, 30081, 'tcp')).port).toBe(30081);
  });
});

test('[1.2] binding [::] looks at both families', async () => {
  lb.addService({ name: 'np4', frontends: [{ kind: 'nodePort', port: 30083, address: lab.address('client', 4) }] });
  expect((await node.ask('bind', { address: '::', port: 30083, protocol: 'tcp' })).error).toMatch(/EADDRINUSE|EPERM/);
});

test('[1.2] setNode moves node ports to the new addresses at one instant', async () => {
  lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30084 }] });
  const ask = (address: string) =>
    lb.explain({ protocol: 'tcp', from: 'host', source: { address }, destination: { address, port: 30084 } }).service;
  expect(ask(lab.address('client', 4))).toBe('np');
  lb.setNode({ name: 'n1', addresses: ['192.0.2.7'] });
  expect(ask(lab.address('client', 4))).toBeUndefined();
  expect(ask('192.0.2.7')).toBe('np');
  lb.setNode({ name: 'n1', addresses: [lab.address('client', 4), lab.address('client', 6)] });
});
