import { describe, expect, it, vi } from 'vitest';
import { LoadBalancer, type NodeConfig } from '../../lib/index.js';
import { openStub, rejectionOf, thrownBy, untyped, WEB } from './open-stub.js';
import { useAddon } from './stub-loader.js';
import { StubModule } from './stub-native.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

const NODE: NodeConfig = { name: 'n1', addresses: ['192.0.2.1'] };

const wrong: [string, object, string, string][] = [
  ['no name', { name: undefined }, 'name', 'setNode: name must be a string'],
  ['no addresses', { addresses: undefined }, 'addresses', 'must be an array'],
  ['a bad address', { addresses: ['192.0.2.1', '192.0.2.300'] }, 'addresses[1]', 'must be an IPv4 or IPv6 address'],
  ['an address twice', { addresses: ['fd00::1', 'FD00::1'] }, 'addresses[1]', 'is fd00::1 a second time'],
  ['a bad range', { podCIDRs: ['10.0.0.0'] }, 'podCIDRs[0]', "must be a range like '10.0.0.0/8'"],
  ['service ranges with the node', { serviceCIDRs: ['10.0.0.0/8', '192.0.2.0/24'] }, 'serviceCIDRs[1]', "has the node's address 192.0.2.1"],
  [
    'service ranges with workloads',
    { serviceCIDRs: ['10.0.0.0/8'], podCIDRs: ['10.244.0.0/16'] },
    'serviceCIDRs[0]',
    'is 10.0.0.0/8, which overlaps podCIDRs, 10.244.0.0/16',
  ],
  ['ports the wrong way round', { nodePortRange: [2000, 1000] }, 'nodePortRange[1]', 'must be 2000 to 65535, got 1000'],
  [
    'SNAT ports among node ports',
    { snatPortRange: [20000, 30000] },
    'snatPortRange',
    'must have no port of nodePortRange, 30000 to 32767, and is 20000 to 30000; move one of them',
  ],
  ['half a range', { nodePortRange: [2000] }, 'nodePortRange', 'must be [first, last], has 1 elements'],
  ['an unknown key', { masquerade: true }, 'masquerade', 'is not a known key'],
];

describe('setNode', () => {
  it.each(wrong)('refuses %s', async (_, change, path, text) => {
    const { lb, native } = await openStub();
    const error = thrownBy(() => lb.setNode(untyped({ ...NODE, ...change })));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', operation: 'setNode', path });
    expect(error.message).toContain(text);
    expect(native.commits).toEqual([]);
  });

  it('stores the node and changes what depends on it, in one commit', async () => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30000 }] });
    lb.addService({ ...WEB, name: 'local', address: '10.96.0.2', internalTrafficPolicy: 'Local' });
    lb.setNode(NODE);
    const { put, settings } = native.commits.at(-1)!;
    expect(put.map(({ name }) => name)).toEqual(['np', 'local']);
    expect(put[0]!.frontends[0]).toBe('192.0.2.1');
    expect(JSON.parse(settings!)).toEqual({ node: NODE });
  });

  it('with the same node writes nothing', async () => {
    const { lb, native } = await openStub({ node: NODE });
    lb.setNode(structuredClone(NODE));
    expect(native.commits).toHaveLength(1);
  });

  it('that brings two services to one address and port changes nothing', async () => {
    const { lb, native } = await openStub();
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30000 }] });
    lb.addService({ name: 'ext', frontends: [{ kind: 'external', address: '192.0.2.1', port: 30000 }] });
    const error = thrownBy(() => lb.setNode(NODE));
    expect(error.code).toBe('ERR_FRONTEND_IN_USE');
    expect(error.message).toBe(
      "setNode np: the frontend 192.0.2.1 port 30000 tcp belongs to service 'ext'; remove it there first, or move it within one apply",
    );
    expect(native.commits).toHaveLength(2);
    lb.removeService('ext');
    lb.setNode(NODE);
  });

  it('frees the addresses of the node before', async () => {
    const { lb } = await openStub({ node: NODE });
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30000 }] });
    const other = { name: 'ext', frontends: [{ kind: 'external' as const, address: '192.0.2.1', port: 30000 }] };
    expect(thrownBy(() => lb.addService(other)).code).toBe('ERR_FRONTEND_IN_USE');
    lb.setNode({ ...NODE, addresses: ['192.0.2.9'] });
    lb.addService(other);
  });

  it('refuses a range that does not hold the node ports there are', async () => {
    const { lb } = await openStub();
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 8080 }] });
    const error = thrownBy(() => lb.setNode(NODE));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path: 'nodePortRange' });
    expect(error.message).toContain("node port 8080 of service 'np', and is 30000 to 32767");
    lb.setNode({ ...NODE, nodePortRange: [8000, 9000] });
  });
});

describe('a node port', () => {
  it('must lie in the range of a known node', async () => {
    const { lb } = await openStub({ node: NODE });
    const error = thrownBy(() => lb.addService({ ...WEB, frontends: [{ kind: 'nodePort', port: 8080 }] }));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path: 'frontends[0].port' });
    expect(error.message).toContain("must be 30000 to 32767, the node's nodePortRange, got 8080");
  });

  it('that waits for setNode is a problem of status()', async () => {
    const { lb } = await openStub();
    lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30000 }] });
    expect(lb.status().problems).toEqual([
      {
        code: 'NODE_UNKNOWN',
        object: 'np',
        message: "service 'np' has frontends on the addresses of the node, and it is not known which node this is",
        remedy: 'call setNode, or give node to open',
      },
    ]);
    lb.setNode(NODE);
    expect(lb.status().problems).toEqual([]);
  });
});

describe('the node given to open', () => {
  it('is checked with its place', async () => {
    useAddon(new StubModule());
    const error = await rejectionOf(LoadBalancer.open({ node: { name: 'n', addresses: ['x'] } }));
    expect(error.message).toBe('open: node.addresses[0] must be an IPv4 or IPv6 address, got "x"');
    expect(error.path).toBe('node.addresses[0]');
  });

  it('replaces the stored one; without it the stored one is used', async () => {
    const module = new StubModule();
    const pinPath = '/sys/fs/bpf/t';
    const first = await openStub({ pinPath, node: NODE }, module);
    first.lb.addService({ name: 'np', frontends: [{ kind: 'nodePort', port: 30000 }] });
    await first.lb.close();
    const second = await openStub({ pinPath }, module);
    expect(second.native.commits).toEqual([]);
    second.lb.addService({ name: 'np2', frontends: [{ kind: 'nodePort', port: 30001 }] });
    expect(second.native.commits[0]!.put[0]!.frontends[0]).toBe('192.0.2.1');
    await second.lb.close();
    const third = await openStub({ pinPath, node: { ...NODE, addresses: ['192.0.2.5'] } }, module);
    expect(third.native.commits[0]!.put.map(({ frontends }) => frontends[0])).toEqual(['192.0.2.5', '192.0.2.5']);
  });
});

describe('packet hooks are told', () => {
  const told = async (node: Partial<NodeConfig>, options: object = {}) => {
    const { native } = await openStub({ node: { ...NODE, ...node }, ...options });
    return native.packets.at(-1)!;
  };

  it('the primary addresses, ports and idle times', async () => {
    const addresses = ['127.0.0.1', '192.0.2.1', '192.0.2.2', 'fd00::1'];
    expect(await told({ addresses, podCIDRs: ['10.1.0.0/16'] }, { flowIdleSeconds: { udp: 30 } })).toMatchObject({
      address4: '192.0.2.1',
      address6: 'fd00::1',
      snatLow: 10000,
      snatHigh: 29999,
      idleTcp: 8000,
      idleUdp: 30,
      dsr: 0,
      pods: ['10.1.0.0/16'],
    });
  });

  it.each<[string, Partial<NodeConfig>, [number, number]]>([
    ['the ports that are given', { snatPortRange: [40000, 50000] }, [40000, 50000]],
    ['the larger rest of the usual ports, below node ports', { nodePortRange: [25000, 26000] }, [10000, 24999]],
    ['the larger rest of the usual ports, above node ports', { nodePortRange: [9000, 12000] }, [12001, 29999]],
    ['none when node ports take all', { nodePortRange: [1, 65535] }, [0, 0]],
  ])('%s', async (_, node, ports) => {
    const { snatLow, snatHigh } = await told(node);
    expect([snatLow, snatHigh]).toEqual(ports);
  });

  it('what is stored, after every open', async () => {
    const addon = new StubModule();
    useAddon(addon);
    const first = await LoadBalancer.open({ pinPath: '/sys/fs/bpf/told', node: NODE, flowIdleSeconds: { tcp: 60 } });
    const before = addon.last.packets.at(-1);
    await first.close();
    await LoadBalancer.open({ pinPath: '/sys/fs/bpf/told' });
    expect(addon.last.packets).toEqual([before]);
    expect(before).toMatchObject({ idleTcp: 60, idleUdp: 60 });
  });
});

describe('serviceCIDRs', () => {
  const node = { ...NODE, serviceCIDRs: ['10.96.0.0/16'] };
  const last = (native: { packets: { services: readonly string[] }[] }) => native.packets.at(-1)!.services;

  it('count once a whole state has been applied, and from then on', async () => {
    const { lb, native } = await openStub({ node });
    expect(last(native)).toEqual([]);
    await lb.apply([], { prune: false });
    expect(last(native)).toEqual([]);
    await lb.apply([]);
    expect(last(native)).toEqual(['10.96.0.0/16']);
    expect(JSON.parse(native.commits.at(-1)!.settings!)).toMatchObject({ complete: true });
    const commits = native.commits.length;
    await lb.apply([]);
    expect(native.commits).toHaveLength(commits);
    lb.setNode(NODE);
    expect(last(native)).toEqual([]);
    lb.setNode(node);
    expect(last(native)).toEqual(['10.96.0.0/16']);
  });
});
