import { describe, expect, it, vi } from 'vitest';
import type { BackendSpec, FrontendSpec, ServiceSpec } from '../../lib/index.js';
import { openStub, thrownBy, untyped, WEB } from './open-stub.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

describe('a service spec', () => {
  it('gets its defaults filled in and is frozen', async () => {
    const { lb } = await openStub();
    const service = lb.addService(WEB);
    expect(service.spec).toStrictEqual({
      name: 'default/web',
      frontends: [{ kind: 'cluster', address: '10.96.0.1', port: 80, protocol: 'tcp' }],
      backends: [1, 2, 3].map((n) => ({ address: `10.0.0.${n}`, port: 8080, weight: 1, state: 'active' })),
      algorithm: 'random',
      internalTrafficPolicy: 'Cluster',
      externalTrafficPolicy: 'Cluster',
      topology: 'any',
      onNoBackends: 'reject',
      onBackendRemoved: 'keep',
    });
    expect(Object.isFrozen(service.spec)).toBe(true);
    expect(Object.isFrozen(service.spec.backends[0])).toBe(true);
    expect(service.spec).toBe(service.spec);
  });

  it('keeps everything that is said', async () => {
    const { lb } = await openStub();
    const spec: ServiceSpec = {
      name: 'default/full',
      frontends: [
        { kind: 'external', address: 'FD00::A', port: 53, protocol: 'udp' },
        { kind: 'hostPort', port: 8053, protocol: 'udp' },
      ],
      backends: [
        { address: 'fd00::1', port: 53, weight: 7, state: 'quarantined', node: 'n1', zone: 'z1', forZones: ['z1', 'z2'], forNodes: ['n1'] },
      ],
      algorithm: 'maglev',
      affinity: { clientIP: true },
      internalTrafficPolicy: 'Local',
      externalTrafficPolicy: 'Local',
      topology: 'prefer-same-node',
      onNoBackends: 'drop',
      onBackendRemoved: 'keep',
      labels: { team: 'a' },
    };
    expect(lb.addService(spec).spec).toStrictEqual({
      ...spec,
      frontends: [{ ...spec.frontends![0], address: 'fd00::a' }, spec.frontends![1]],
      affinity: { clientIP: true, timeoutSeconds: 10800 },
    });
  });

  it('puts the shorthand before the frontends', async () => {
    const { lb } = await openStub();
    const service = lb.addService({ ...WEB, frontends: [{ kind: 'external', address: '192.0.2.1', port: 80 }] });
    expect(service.spec.frontends.map(({ kind }) => kind)).toEqual(['cluster', 'external']);
  });

  it('is copied: what the caller does to it later changes nothing', async () => {
    const { lb } = await openStub();
    const mine = structuredClone(WEB);
    const service = lb.addService(mine);
    mine.backends![0]!.port = 1;
    mine.backends!.pop();
    expect(service.spec.backends).toHaveLength(3);
    expect(service.spec.backends[0]!.port).toBe(8080);
  });

  it('may say undefined for what it does not say', async () => {
    const { lb } = await openStub();
    const spec = { ...WEB, algorithm: undefined, frontends: undefined, labels: undefined, nonsense: undefined };
    expect(lb.addService(untyped(spec)).spec.algorithm).toBe('random');
  });

  it('may be of both families', async () => {
    const { lb } = await openStub();
    const backends = [...WEB.backends!, { address: 'fd00::1', port: 8080 }];
    expect(lb.addService({ ...WEB, backends }).spec.backends).toHaveLength(4);
  });

  it('may have a name of 253 bytes and not one of 254', async () => {
    const { lb } = await openStub();
    expect(lb.addService({ ...WEB, name: `${'é'.repeat(126)}x` }).name).toHaveLength(127);
    const error = thrownBy(() => lb.addService({ ...WEB, name: 'é'.repeat(127) }));
    expect(error.message).toBe('addService: name must be at most 253 bytes of UTF-8, has 254');
  });
});

const wrongServices: [string, object, string, string][] = [
  ['no name', { name: undefined }, 'name', 'addService: name must be a string, got undefined'],
  ['an empty name', { name: '' }, 'name', 'addService: name must not be empty, got ""'],
  [
    'a control character',
    { name: 'a\nb' },
    'name',
    'addService: name must have no control characters and no halves of surrogate pairs, got "a\\nb"',
  ],
  ['half a surrogate pair', { name: 'a\ud800' }, 'name', 'no halves of surrogate pairs'],
  [
    'an unknown key',
    { algoritm: 'random' },
    'algoritm',
    'addService default/web: algoritm is not a known key; leave it out, or use one of name,',
  ],
  ['a key of a later version', { healthCheckNodePort: 1 }, 'healthCheckNodePort', 'is not a known key'],
  ['an unknown way of forwarding', { forwarding: 'nat' }, 'forwarding', "must be 'snat' or 'dsr', got \"nat\""],
  ['ranges that are none', { sourceRanges: ['10.0.0.1'] }, 'sourceRanges[0]', "be a range like '10.0.0.0/8'"],
  ['null', { backends: null }, 'backends', 'backends must be an array, got null'],
  ['a bad algorithm', { algorithm: 'fastest' }, 'algorithm', "must be 'random', 'round-robin', 'maglev' or 'source-hash', got \"fastest\""],
  ['a bad shorthand port', { port: 0 }, 'port', 'port must be 1 to 65535, got 0'],
  ['a shorthand without its port', { port: undefined }, 'port', 'port must be 1 to 65535, got undefined'],
  [
    'a shorthand without its address',
    { address: undefined },
    'address',
    "address is missing; 'address' and 'port' together are one frontend of kind 'cluster'",
  ],
  ['a bad protocol', { protocol: 'icmp' }, 'protocol', "protocol must be 'tcp', 'udp' or 'sctp', got \"icmp\""],
  ['affinity to nothing', { affinity: { clientIP: false } }, 'affinity.clientIP', 'must be true (leave affinity out for none)'],
  ['no affinity time', { affinity: { clientIP: true, timeoutSeconds: 0 } }, 'affinity.timeoutSeconds', 'must be 1 to 86400, got 0'],
  ['half a second', { affinity: { clientIP: true, timeoutSeconds: 1.5 } }, 'affinity.timeoutSeconds', 'a whole number, 1 to 86400'],
  ['a bad policy', { internalTrafficPolicy: 'local' }, 'internalTrafficPolicy', "must be 'Cluster' or 'Local', got \"local\""],
  ['a bad topology', { topology: 'near' }, 'topology', "must be 'any', 'prefer-same-zone' or 'prefer-same-node'"],
  ['a bad onNoBackends', { onNoBackends: 'wait' }, 'onNoBackends', "must be 'reject' or 'drop'"],
  ['a bad onBackendRemoved', { onBackendRemoved: 'end' }, 'onBackendRemoved', "must be 'keep' or 'reset', got \"end\""],
  [
    'a bad time to a reset',
    { onBackendRemoved: { resetAfterSeconds: 0 } },
    'onBackendRemoved.resetAfterSeconds',
    'must be 1 to 86400, got 0',
  ],
  ['labels that are no strings', { labels: { a: 1 } }, 'labels["a"]', 'must be a string, got 1'],
  ['labels that are a list', { labels: [] }, 'labels', 'must be an object of strings, got an array'],
];

const frontend: FrontendSpec = { kind: 'cluster', address: '10.96.0.9', port: 80 };
const wrongFrontends: [string, unknown[], string, string][] = [
  ['no object', ['10.96.0.1:80'], 'frontends[0]', 'must be an object'],
  [
    'no kind',
    [{ ...frontend, kind: undefined }],
    'frontends[0].kind',
    "must be 'cluster', 'nodePort', 'external', 'loadBalancer' or 'hostPort'",
  ],
  [
    'an unknown key',
    [{ ...frontend, ranges: [] }],
    'frontends[0].ranges',
    'is not a known key; leave it out, or use one of kind, address, port, protocol, sourceRanges',
  ],
  [
    'a cluster address missing',
    [{ kind: 'cluster', port: 1 }],
    'frontends[0].address',
    "is missing; a frontend of kind 'cluster' needs its address",
  ],
  ['an external address missing', [{ kind: 'external', port: 1 }], 'frontends[0].address', 'is missing'],
  ['a node port on loopback', [{ kind: 'nodePort', address: '127.0.0.1', port: 30000 }], 'frontends[0].address', 'not loopback'],
  ['a mapped address', [{ ...frontend, address: '::ffff:10.0.0.1' }], 'frontends[0].address', "write it as IPv4, '10.0.0.1'"],
  ['a port of text', [{ ...frontend, port: '80' }], 'frontends[0].port', 'must be 1 to 65535, got "80"'],
  [
    'the shorthand again',
    [{ ...frontend, address: '10.96.0.1' }],
    'frontends[0]',
    "has the address, port and protocol of the shorthand 'address'",
  ],
  [
    'one twice',
    [frontend, { ...frontend, kind: 'external' }],
    'frontends[1]',
    'has the address, port and protocol of frontends[0]; give each frontend once',
  ],
];

const backend: BackendSpec = { address: '10.0.0.1', port: 80 };
const wrongBackends: [string, unknown, string, string][] = [
  ['no list', {}, 'backends', 'backends must be an array, got an object'],
  ['a hole', [backend, undefined], 'backends[1]', 'must be an object, got undefined'],
  ['no address', [{ port: 80 }], 'backends[0].address', 'must be an IPv4 or IPv6 address, got undefined'],
  ['an address with a zone', [{ ...backend, address: 'fe80::1%lo' }], 'backends[0].address', 'must be an address without a zone id'],
  ['a high port', [backend, { ...backend, port: 70000 }], 'backends[1].port', 'must be 1 to 65535, got 70000'],
  ['no whole port', [{ ...backend, port: 80.5 }], 'backends[0].port', 'must be 1 to 65535, got 80.5'],
  ['not a number', [{ ...backend, port: Number.NaN }], 'backends[0].port', 'must be 1 to 65535, got NaN'],
  ['an outer destination that is none', [{ ...backend, via: '10.0.0.0/8' }], 'backends[0].via', 'must be a single address, not a range'],
  ['an outer destination here', [{ ...backend, via: '::1' }], 'backends[0].via', 'must be an address that other machines reach'],
  ['a negative weight', [{ ...backend, weight: -1 }], 'backends[0].weight', 'must be 0 to 65535, got -1'],
  ['a huge weight', [{ ...backend, weight: 65536 }], 'backends[0].weight', 'must be 0 to 65535, got 65536'],
  [
    'a bad state',
    [{ ...backend, state: 'dead' }],
    'backends[0].state',
    "must be 'active', 'terminating', 'quarantined' or 'maintenance', got \"dead\"",
  ],
  ['an empty node', [{ ...backend, node: '' }], 'backends[0].node', 'must not be empty'],
  ['hints of no strings', [{ ...backend, forZones: ['a', 1] }], 'backends[0].forZones[1]', 'must be a string, got 1'],
  [
    'an unknown key',
    [{ ...backend, wieght: 1 }],
    'backends[0].wieght',
    'is not a known key; leave it out, or use one of address, port, weight',
  ],
  [
    'one twice',
    [backend, { address: '10.0.0.2', port: 80 }, { ...backend, weight: 3 }],
    'backends[2]',
    'is the same as backends[0] (10.0.0.1 port 80)',
  ],
];

describe('a wrong spec names place and remedy, and writes nothing:', () => {
  it.each(wrongServices)('%s', async (_, change, path, text) => {
    const { lb, native } = await openStub();
    const error = thrownBy(() => lb.addService(untyped({ ...WEB, ...change })));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', operation: 'addService', path });
    expect(error.message).toContain(text);
    expect(native.commits).toEqual([]);
    expect(lb.services()).toEqual([]);
  });

  it.each(wrongFrontends)('frontends: %s', async (_, frontends, path, text) => {
    const { lb, native } = await openStub();
    const error = thrownBy(() => lb.addService(untyped({ ...WEB, frontends })));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path });
    expect(error.message).toContain(text);
    expect(native.commits).toEqual([]);
  });

  it('frontends: none at all', async () => {
    const { lb } = await openStub();
    const error = thrownBy(() => lb.addService({ name: 'a', frontends: [] }));
    expect(error.message).toBe("addService a: frontends is missing or empty; give 'address' and 'port', or at least one frontend");
  });

  it.each(wrongBackends)('backends: %s', async (_, backends, path, text) => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    const error = thrownBy(() => lb.setBackends('default/web', untyped(backends)));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', operation: 'setBackends', path });
    expect(error.message).toContain(text);
    expect(error.message).toMatch(/^setBackends default\/web: backends/);
    expect(native.commits).toHaveLength(1);
    expect(lb.service('default/web')!.spec.backends).toHaveLength(3);
  });

  it('backends: one of hundreds twice', async () => {
    const { lb } = await openStub();
    const backends = Array.from({ length: 300 }, (_, i) => ({ address: `10.1.${i >> 8}.${i & 255}`, port: 80 }));
    lb.addService({ ...WEB, backends });
    const error = thrownBy(() => lb.setBackends('default/web', [...backends, backends[7]!]));
    expect(error.path).toBe('backends[300]');
  });

  it('no object', async () => {
    const { lb } = await openStub();
    for (const wrong of [undefined, null, 'web', []])
      expect(thrownBy(() => lb.addService(untyped(wrong))).code).toBe('ERR_INVALID_ARGUMENT');
  });
});

describe('the message of the contract', () => {
  it('is kept to the letter', async () => {
    const { lb } = await openStub();
    lb.addService(WEB);
    const backends = [...WEB.backends!, { address: '10.0.0.4', port: 70000 }];
    const error = thrownBy(() => lb.setBackends('default/web', backends));
    expect(error.message).toBe('setBackends default/web: backends[3].port must be 1 to 65535, got 70000');
    expect(error.path).toBe('backends[3].port');
  });
});
