import { describe, expect, it, vi } from 'vitest';
import type { BackendSpec, NodeConfig, ServiceSpec } from '../../lib/index.js';
import { BackendFlag, FRONTEND_FIELDS, type PutService } from '../../lib/native/binding.js';
import { openStub } from './open-stub.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

const NODE: NodeConfig = { name: 'n1', zone: 'z1', addresses: ['192.0.2.1', '192.0.2.2', '127.0.0.1', 'fd00::1', '::1'] };

async function compiled(spec: Partial<ServiceSpec>, node?: NodeConfig): Promise<PutService> {
  const { lb, native } = await openStub(node === undefined ? {} : { node });
  lb.addService({ name: 'web', address: '10.96.0.1', port: 80, ...spec });
  return native.commits.at(-1)!.put[0]!;
}

/** Ports of the backends whose flags have `flag`. */
function ports(put: PutService, flag: number): number[] {
  const found: number[] = [];
  for (let i = 0; i < put.backends.length; i += 4) if ((put.backends[i + 3] as number) & flag) found.push(put.backends[i + 1] as number);
  return found;
}

/** The keys, as objects. */
function keys({ frontends }: PutService) {
  const found = [];
  for (let i = 0; i < frontends.length; i += FRONTEND_FIELDS) {
    const [address, port, , scope, pool, , ranges] = frontends.slice(i);
    found.push({ address, port, scope, pool, ranges });
  }
  return found;
}

const b = (port: number, rest: Partial<BackendSpec> = {}): BackendSpec => ({ address: '10.0.0.1', port, ...rest });

describe('what goes to the addon', () => {
  it('is flat, with numbers for names', async () => {
    const put = await compiled({
      protocol: 'udp',
      backends: [b(1), b(2, { weight: 5 })],
      algorithm: 'maglev',
      affinity: { clientIP: true, timeoutSeconds: 60 },
      onNoBackends: 'drop',
    });
    const flags = BackendFlag.existing | BackendFlag.pool0;
    expect(put).toStrictEqual({
      name: 'web',
      owner: 'default',
      record: expect.any(String),
      algorithm: 2,
      affinity: 60,
      drop: true,
      localPools: 0,
      forwarding: 0,
      resetAfter: -1,
      ranges: [],
      frontends: ['10.96.0.1', 80, 17, 0, 0, 0, 0],
      backends: ['10.0.0.1', 1, 1, flags, '10.0.0.1', 2, 5, flags],
      vias: [],
    });
  });

  it('has a record that says what differs from the defaults', async () => {
    const put = await compiled({
      backends: [b(1), b(2, { weight: 0, state: 'maintenance', node: 'é"', forZones: ['z'] })],
      labels: { a: 'b' },
    });
    expect(JSON.parse(put.record)).toStrictEqual({
      name: 'web',
      frontends: [{ kind: 'cluster', address: '10.96.0.1', port: 80 }],
      labels: { a: 'b' },
      backends: [
        { address: '10.0.0.1', port: 1 },
        { address: '10.0.0.1', port: 2, weight: 0, state: 'maintenance', node: 'é"', forZones: ['z'] },
      ],
    });
  });
});

const all = [b(1), b(2, { state: 'terminating' }), b(3, { state: 'quarantined' }), b(4, { state: 'maintenance' }), b(5, { weight: 0 })];

/** Backends given, ports of candidates, ports of those that keep their flows. */
const states: [string, BackendSpec[], number[], number[]][] = [
  ['active ones go first', all, [1], [1, 2, 5]],
  ['without an active one terminating ones serve, before quarantined ones', all.slice(1), [2], [2, 5]],
  ['without active and terminating ones quarantined ones stand in', [all[2]!, all[3]!, all[4]!], [3], [3, 5]],
  ['maintenance never serves', [all[3]!], [], []],
  ['weight 0 keeps what it has', [all[4]!], [], [5]],
  ['a quarantined one of weight 0 gets no flows either', [b(3, { state: 'quarantined', weight: 0 })], [], []],
  [
    'all quarantined are as active',
    [b(1, { state: 'quarantined' }), b(2, { state: 'quarantined' }), b(3, { state: 'maintenance' })],
    [1, 2],
    [1, 2],
  ],
];

describe('candidates by state', () => {
  it.each(states)('%s', async (_, backends, candidates, existing) => {
    const put = await compiled({ backends });
    expect(ports(put, BackendFlag.pool0)).toEqual(candidates);
    expect(ports(put, BackendFlag.existing)).toEqual(existing);
  });

  it('a candidate has a weight of at least 1', async () => {
    const put = await compiled({ backends: [b(1, { state: 'terminating', weight: 0 })] });
    expect(put.backends).toEqual(['10.0.0.1', 1, 1, BackendFlag.existing | BackendFlag.pool0]);
  });

  it('each family falls back for itself', async () => {
    const put = await compiled({ backends: [b(1), b(2, { state: 'terminating' }), { address: 'fd00::1', port: 3, state: 'terminating' }] });
    expect(ports(put, BackendFlag.pool0)).toEqual([1, 3]);
  });
});

describe('internalTrafficPolicy Local', () => {
  const backends = [b(1, { node: 'n1' }), b(2, { node: 'n2' }), b(3)];

  it('gives cluster addresses the backends of this node alone', async () => {
    const put = await compiled({ backends, internalTrafficPolicy: 'Local' }, NODE);
    expect(put.frontends.slice(4, 6)).toEqual([1, 0]);
    expect(put.localPools).toBe(2);
    expect([ports(put, BackendFlag.pool0), ports(put, BackendFlag.pool1)]).toEqual([[], [1]]);
    expect(ports(put, BackendFlag.existing)).toEqual([1, 2, 3]);
  });

  it('gives other frontends all of them, and emits both pools', async () => {
    const put = await compiled(
      { backends, internalTrafficPolicy: 'Local', frontends: [{ kind: 'external', address: '192.0.2.9', port: 80 }] },
      NODE,
    );
    expect([put.frontends[4], put.frontends[11]]).toEqual([1, 0]);
    expect([ports(put, BackendFlag.pool0), ports(put, BackendFlag.pool1)]).toEqual([[1, 2, 3], [1]]);
  });

  it('falls back to terminating ones of this node', async () => {
    const put = await compiled(
      { backends: [b(1, { node: 'n1', state: 'terminating' }), b(2, { node: 'n2' })], internalTrafficPolicy: 'Local' },
      NODE,
    );
    expect(ports(put, BackendFlag.pool1)).toEqual([1]);
  });

  it('lets a quarantined one stand in on this node only', async () => {
    const quarantined = [b(1, { node: 'n1', state: 'quarantined' }), b(2, { node: 'n2', state: 'quarantined' }), b(3, { node: 'n2' })];
    const put = await compiled({ backends: quarantined, internalTrafficPolicy: 'Local' }, NODE);
    expect(ports(put, BackendFlag.pool1)).toEqual([1]);
    expect(ports(put, BackendFlag.existing)).toEqual([1, 3]);
  });

  it('has no backend while the node is not known', async () => {
    const put = await compiled({ backends, internalTrafficPolicy: 'Local' });
    expect(ports(put, BackendFlag.pool1)).toEqual([]);
    expect(put.localPools).toBe(2);
  });
});

it('externalTrafficPolicy Local leaves traffic from inside alone', async () => {
  const frontends: ServiceSpec['frontends'] = [{ kind: 'nodePort', port: 30000 }];
  const put = await compiled({ backends: [b(1, { node: 'n2' })], externalTrafficPolicy: 'Local', frontends }, NODE);
  expect(keys(put).map(({ scope, pool }) => [scope, pool])).toEqual([
    [0, 0],
    [0, 0],
    [1, 2],
    [0, 0],
    [1, 2],
  ]);
  expect(put.localPools).toBe(4);
  expect(ports(put, BackendFlag.pool0)).toEqual([1]);
  expect(ports(put, BackendFlag.pool2)).toEqual([]);
});

describe('what comes from outside', () => {
  const outside: ServiceSpec['frontends'] = [
    { kind: 'external', address: '192.0.2.9', port: 80 },
    { kind: 'loadBalancer', address: 'fd00::9', port: 443 },
  ];

  it('has a key of its own at every address but cluster ones', async () => {
    const put = await compiled({ frontends: outside, backends: [b(1)] });
    expect(keys(put).map(({ address, port, scope }) => `${address} ${port} ${scope}`)).toEqual([
      '10.96.0.1 80 0',
      '192.0.2.9 80 0',
      '192.0.2.9 80 1',
      'fd00::9 443 0',
      'fd00::9 443 1',
    ]);
  });

  it('gets backends of this node alone where the policy is Local', async () => {
    const backends = [b(1, { node: 'n1' }), b(2, { node: 'n2' })];
    const put = await compiled({ frontends: outside, backends, externalTrafficPolicy: 'Local' }, NODE);
    expect([ports(put, BackendFlag.pool0), ports(put, BackendFlag.pool2)]).toEqual([[1, 2], [1]]);
  });

  it('is let in by the ranges of the frontend, else for load balancers by those of the service', async () => {
    const own = { kind: 'loadBalancer' as const, address: '192.0.2.8', port: 80, sourceRanges: ['10.1.2.3/8', '10.0.0.0/8', 'fd00::/8'] };
    const put = await compiled({ frontends: [...outside, own], sourceRanges: ['192.0.2.0/24'] });
    expect(put.ranges).toEqual([['192.0.2.0/24'], ['10.0.0.0/8', 'fd00::/8']]);
    expect(keys(put).map(({ address, scope, ranges }) => `${address} ${scope} ${ranges}`)).toEqual([
      '10.96.0.1 0 0',
      '192.0.2.9 0 0',
      '192.0.2.9 1 0',
      'fd00::9 0 0',
      'fd00::9 1 1',
      '192.0.2.8 0 0',
      '192.0.2.8 1 2',
    ]);
  });

  it('is for everybody where the list is empty', async () => {
    const put = await compiled({ frontends: [{ ...outside[1]!, sourceRanges: [] }], sourceRanges: [] });
    expect(put.ranges).toEqual([]);
  });

  it('goes the way that the service says', async () => {
    expect([
      (await compiled({})).forwarding,
      (await compiled({ forwarding: 'snat' })).forwarding,
      (await compiled({ forwarding: 'dsr' })).forwarding,
    ]).toEqual([0, 1, 2]);
  });
});

describe('a backend is on this node', () => {
  const node = { ...NODE, podCIDRs: ['10.244.1.0/24', 'fd01:1::/64', '10.250.0.0/15'] };
  it.each<[string, BackendSpec, boolean]>([
    ['by its node', b(1, { node: 'n1' }), true],
    ['not on another, whatever its address', { address: '192.0.2.1', port: 1, node: 'n2' }, false],
    ['by an address of the node', { address: 'fd00::1', port: 1 }, true],
    ['by the range of its workloads', { address: '10.244.1.77', port: 1 }, true],
    ['by one that ends within an octet', { address: '10.251.255.1', port: 1 }, true],
    ['by the range of IPv6 workloads', { address: 'fd01:1::5', port: 1 }, true],
    ['not beside the ranges', { address: '10.244.2.1', port: 1 }, false],
    ['not beside the IPv6 ranges', { address: 'fd01:1:0:1::5', port: 1 }, false],
  ])('%s', async (_, backend, local) => {
    expect(ports(await compiled({ backends: [backend] }, node), BackendFlag.local)).toEqual(local ? [1] : []);
    expect(ports(await compiled({ backends: [backend] }), BackendFlag.local)).toEqual([]);
  });
});

const zoned = (port: number, forZones?: string[], forNodes?: string[], rest: Partial<BackendSpec> = {}): BackendSpec =>
  b(port, { ...(forZones === undefined ? {} : { forZones }), ...(forNodes === undefined ? {} : { forNodes }), ...rest });

/** kube-proxy's rule for hints. */
const hints: [string, BackendSpec[], number[]][] = [
  ['those for this zone', [zoned(1, ['z1']), zoned(2, ['z2']), zoned(3, ['z2', 'z1'])], [1, 3]],
  ['all when one has no hint', [zoned(1, ['z1']), zoned(2)], [1, 2]],
  ['all when none is for this zone', [zoned(1, ['z2']), zoned(2, ['z3'])], [1, 2]],
  ['those for this node before those for this zone', [zoned(1, ['z1'], ['n1']), zoned(2, ['z1'], ['n2'])], [1]],
  ['those for this zone when none is for this node', [zoned(1, ['z1'], ['n3']), zoned(2, ['z2'], ['n2'])], [1]],
  ['those for this zone when one has no hint for nodes', [zoned(1, ['z1'], ['n1']), zoned(2, ['z1'])], [1, 2]],
  [
    'a backend that serves nobody new needs no hint',
    [zoned(1, ['z1']), zoned(2, ['z2']), zoned(3, undefined, undefined, { state: 'terminating' })],
    [1],
  ],
  [
    'terminating ones whatever their hints',
    [zoned(1, ['z2'], undefined, { state: 'terminating' }), zoned(2, ['z1'], undefined, { state: 'terminating' })],
    [1, 2],
  ],
  ['empty hints are none', [zoned(1, ['z1']), zoned(2, [])], [1, 2]],
];

describe('topology hints choose', () => {
  it.each(hints)('%s', async (_, backends, candidates) => {
    expect(ports(await compiled({ backends }, NODE), BackendFlag.pool0)).toEqual(candidates);
  });

  it('nothing where the node is not known', async () => {
    expect(ports(await compiled({ backends: [zoned(1, ['z1']), zoned(2, ['z2'])] }), BackendFlag.pool0)).toEqual([1, 2]);
  });

  it('nothing where the zone is not known', async () => {
    const node = { name: 'n1', addresses: ['192.0.2.1'] };
    expect(ports(await compiled({ backends: [zoned(1, ['z1']), zoned(2, ['z2'])] }, node), BackendFlag.pool0)).toEqual([1, 2]);
  });
});

const at = (port: number, node: string, zone: string) => b(port, { node, zone });
const preferences: [string, NonNullable<ServiceSpec['topology']>, BackendSpec[], number[]][] = [
  ['the zone', 'prefer-same-zone', [at(1, 'n1', 'z1'), at(2, 'n2', 'z1'), at(3, 'n3', 'z2')], [1, 2]],
  ['anything when the zone has none', 'prefer-same-zone', [at(2, 'n2', 'z2'), at(3, 'n3', 'z2')], [2, 3]],
  ['the node', 'prefer-same-node', [at(1, 'n1', 'z1'), at(2, 'n2', 'z1')], [1]],
  ['the zone when the node has none', 'prefer-same-node', [at(2, 'n2', 'z1'), at(3, 'n3', 'z2')], [2]],
  [
    'by hints where they decide',
    'prefer-same-zone',
    [
      { ...at(1, 'n1', 'z1'), forZones: ['z2'] },
      { ...at(2, 'n2', 'z2'), forZones: ['z1'] },
    ],
    [2],
  ],
];

describe('a topology preference takes', () => {
  it.each(preferences)('%s', async (_, topology, backends, candidates) => {
    expect(ports(await compiled({ topology, backends }, NODE), BackendFlag.pool0)).toEqual(candidates);
  });
});

/** Addresses of the keys. */
async function addresses(frontends: ServiceSpec['frontends'], node?: NodeConfig): Promise<string[]> {
  const { lb, native } = await openStub(node === undefined ? {} : { node });
  lb.addService({ name: 'web', frontends: frontends! });
  const found = keys(native.commits.at(-1)!.put[0]!).filter(({ scope }) => scope === 0);
  return found.map(({ address }) => address as string);
}

describe('frontends on addresses of the node', () => {
  it('of node ports: the primary ones of both families', async () => {
    expect(await addresses([{ kind: 'nodePort', port: 30000 }], NODE)).toEqual(['192.0.2.1', 'fd00::1']);
  });

  it('of node ports: those in nodePortAddresses, where it speaks of the family', async () => {
    const node = { ...NODE, nodePortAddresses: ['192.0.2.2/31', '127.0.0.0/8'] };
    expect(await addresses([{ kind: 'nodePort', port: 30000 }], node)).toEqual(['192.0.2.2', 'fd00::1']);
    expect(await addresses([{ kind: 'nodePort', port: 30000 }], { ...NODE, nodePortAddresses: ['0.0.0.0/0', '2001::/16'] })).toEqual([
      '192.0.2.1',
      '192.0.2.2',
    ]);
  });

  it('of host ports: all but loopback', async () => {
    expect(await addresses([{ kind: 'hostPort', port: 8080 }], NODE)).toEqual(['192.0.2.1', '192.0.2.2', 'fd00::1']);
  });

  it('with an address: that one', async () => {
    expect(
      await addresses(
        [
          { kind: 'hostPort', port: 8080, address: '192.0.2.7' },
          { kind: 'nodePort', port: 30000, address: '192.0.2.8' },
        ],
        NODE,
      ),
    ).toEqual(['192.0.2.7', '192.0.2.8']);
  });

  it('are one key where an address is named besides', async () => {
    expect(
      await addresses(
        [
          { kind: 'hostPort', port: 8080 },
          { kind: 'external', port: 8080, address: '192.0.2.2' },
        ],
        NODE,
      ),
    ).toEqual(['192.0.2.2', '192.0.2.1', 'fd00::1']);
  });

  it('are none while the node is not known', async () => {
    expect(
      await addresses([
        { kind: 'nodePort', port: 30000 },
        { kind: 'hostPort', port: 1 },
      ]),
    ).toEqual([]);
  });
});

it('outer destinations are beside the backends, and in the record', async () => {
  const put = await compiled({ backends: [b(1), b(2, { via: '2001:DB8::1' }), b(3, { node: 'n1', via: '192.0.2.9' })] }, NODE);
  expect(put.vias).toEqual([1, '2001:db8::1', 2, '192.0.2.9']);
  expect(JSON.parse(put.record).backends[1]).toEqual({ address: '10.0.0.1', port: 2, via: '2001:db8::1' });
});

it('SCTP has the number of its protocol, at DSR too', async () => {
  const put = await compiled({ protocol: 'sctp', frontends: [{ kind: 'nodePort', port: 30001, protocol: 'sctp' }] }, NODE);
  expect(put.frontends.filter((_, i) => i % FRONTEND_FIELDS === 2)).toEqual([132, 132, 132, 132, 132]);
  const { lb, native } = await openStub({ node: NODE });
  await lb.enableDSR();
  expect(native.packets.at(-1)!.dsr).toBe(16 + 1 + 2 + 4 + 8);
  await lb.enableDSR({ protocols: ['sctp'], services: 'marked' });
  expect(native.packets.at(-1)!.dsr).toBe(16 + 8);
});

it.each([
  ['keep', -1],
  ['reset', 0],
  [{ resetAfterSeconds: 30 }, 30],
] as const)('onBackendRemoved %j', async (onBackendRemoved, seconds) => {
  const put = await compiled({ onBackendRemoved });
  expect(put.resetAfter).toBe(seconds);
  expect(JSON.parse(put.record).onBackendRemoved).toEqual(onBackendRemoved === 'keep' ? undefined : onBackendRemoved);
  const { lb, native } = await openStub();
  const service = lb.addService({ name: 'web', address: '10.96.0.1', port: 80, onBackendRemoved });
  expect(service.spec.onBackendRemoved).toEqual(onBackendRemoved);
  const spec = { name: 'web', address: '10.96.0.1', port: 80 };
  await lb.apply([{ ...spec, onBackendRemoved }]);
  const commits = native.commits.length;
  await lb.apply([{ ...spec, onBackendRemoved }]);
  expect(native.commits).toHaveLength(commits);
  const plan = await lb.plan([spec]);
  expect(plan.changes.map(({ fields }) => fields)).toEqual(onBackendRemoved === 'keep' ? [] : [['onBackendRemoved']]);
});
