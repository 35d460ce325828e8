import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { pinDirectory, removePins } from '../support/pins.js';

let lab: Lab;
let pinPath: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['client'] });
});
afterAll(() => lab?.close());
beforeEach(async () => {
  pinPath = pinDirectory();
  await lab.run('client', [
    'sh',
    '-ec',
    'cd /proc/sys/net/ipv4; echo 30000 60999 > ip_local_port_range; echo 40000 > ip_local_reserved_ports',
  ]);
});
afterEach(() => removePins(pinPath));

const reserved = async () => (await lab.run('client', ['cat', '/proc/sys/net/ipv4/ip_local_reserved_ports'])).trim();
const open = (more = {}) =>
  LoadBalancer.open({ netns: lab.netns('client'), node: { name: 'n', addresses: [lab.address('client')] }, ...more });
const nodePort = (name: string, port: number) => ({ name, frontends: [{ kind: 'nodePort' as const, port }] });

test('[1.2] a pinned balancer keeps automatic binds from its node ports, and takes back only what it put there', async () => {
  const lb = await open({ pinPath });
  lb.addService(nodePort('a', 30080));
  expect(await reserved(), 'not attached yet').toBe('40000');
  await lb.attachCgroup(lab.cgroup);
  expect(await reserved()).toBe('30080,40000');
  lb.addService(nodePort('b', 30081));
  expect(await reserved()).toBe('30080-30081,40000');
  expect(lb.status().problems).toEqual([]);
  await lb.close();
  const next = await open({ pinPath });
  next.removeService('a');
  expect(await reserved()).toBe('30081,40000');
  await next.close({ detach: true });
  expect(await reserved()).toBe('40000');
});

test('[2.1] of packets it keeps them from the ports of translated sources, too', async () => {
  const node = (low: number, high: number) => ({
    name: 'n',
    addresses: [lab.address('client')],
    snatPortRange: [low, high] as [number, number],
  });
  const lb = await open({ pinPath, node: node(45000, 45999) });
  const attachment = await lb.attachTc(lab.device('client'), { role: 'external' });
  expect(await reserved()).toBe('40000,45000-45999');
  lb.setNode(node(39998, 40001));
  expect(await reserved()).toBe('39998-40001');
  expect(lb.status().problems.map(({ code }) => code)).not.toContain('PORTS_OVERLAP');
  await lb.close();
  const next = await LoadBalancer.open({ netns: lab.netns('client'), pinPath });
  expect(await reserved()).toBe('39998-40001');
  await next.attachments()[0]?.detach();
  expect(await reserved()).toBe('40000');
  await next.close({ detach: true });
  expect(attachment.kind).toBe('tc');
});

test('[2.1] an unpinned balancer of packets reports that overlap', async () => {
  const node = { name: 'n', addresses: [lab.address('client')], snatPortRange: [60990, 61009] as [number, number] };
  const lb = await open({ node });
  await lb.attachTc(lab.device('client'), { role: 'external' });
  expect(await reserved()).toBe('40000');
  expect(lb.status().problems).toContainEqual(expect.objectContaining({ code: 'PORTS_OVERLAP', object: 'ports 60990-60999' }));
  await lb.close();
});

test('[1.2] an unpinned balancer reports the overlap and changes nothing', async () => {
  const lb = await open();
  await lb.attachCgroup(lab.cgroup);
  lb.addService(nodePort('a', 30080));
  expect(await reserved()).toBe('40000');
  expect(lb.status().problems).toMatchObject([{ code: 'PORTS_OVERLAP', object: 'ports 30080' }]);
  await lb.close();
});

test('[1.2] a port that was bound before it became a node port is reported', async () => {
  const server = await lab.serveHttp('client', 30090);
  const lb = await open();
  await lb.attachCgroup(lab.cgroup);
  lb.addService(nodePort('late', 30090));
  const report = await lb.verify();
  expect(report.problems.map((p) => `${p.code} ${p.object}`)).toContain('PORT_BOUND port 30090/tcp');
  await server.stop();
  expect((await lb.verify()).problems.map((p) => p.code)).not.toContain('PORT_BOUND');
  await lb.close();
});
