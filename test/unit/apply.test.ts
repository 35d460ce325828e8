import { describe, expect, it, vi } from 'vitest';
import type { ServiceSpec } from '../../lib/index.js';
import { openStub, rejectionOf, thrownBy, untyped, WEB } from './open-stub.js';
import { nativeFailure } from './stub-native.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

function many(count: number, port = 80): ServiceSpec[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `s${i}`,
    address: `10.96.${i >> 8}.${i & 255}`,
    port: 80,
    backends: [{ address: '10.0.0.1', port }],
  }));
}
const named = (name: string, rest: Partial<ServiceSpec> = {}): ServiceSpec => ({ name, address: '10.96.0.1', port: 80, ...rest });

describe('apply', () => {
  it('adds, updates, removes and leaves alone, in one commit', async () => {
    const { lb, native } = await openStub();
    const desired = many(4);
    expect(await lb.apply(desired)).toEqual({ added: 4, updated: 0, removed: 0, unchanged: 0 });
    const handle = lb.service('s1')!;
    desired[1] = { ...desired[1]!, algorithm: 'maglev' };
    desired[4] = named('s4', { address: '10.97.0.1' });
    expect(await lb.apply(desired.slice(1))).toEqual({ added: 1, updated: 1, removed: 1, unchanged: 2 });
    expect(native.commits).toHaveLength(2);
    expect(native.commits[1]).toMatchObject({ put: [{ name: 's1' }, { name: 's4' }], remove: ['s0'] });
    expect(handle.spec.algorithm).toBe('maglev');
    expect(lb.services().map(({ name }) => name)).toEqual(['s1', 's2', 's3', 's4']);
  });

  it('compares by value: a spec changed in place is noticed, an equal one is not written', async () => {
    const { lb, native } = await openStub();
    const desired = many(3);
    await lb.apply(desired);
    expect(await lb.apply(structuredClone(desired))).toEqual({ added: 0, updated: 0, removed: 0, unchanged: 3 });
    desired[2]!.backends![0]!.port = 81;
    expect(await lb.apply(desired)).toMatchObject({ updated: 1, unchanged: 2 });
    expect(native.commits).toHaveLength(2);
  });

  const full: ServiceSpec = {
    name: 'full',
    frontends: [
      { kind: 'cluster', address: '10.96.0.1', port: 80 },
      { kind: 'nodePort', port: 30000, protocol: 'udp' },
    ],
    backends: [{ address: '10.0.0.1', port: 80, weight: 2, state: 'terminating', node: 'n', zone: 'z', forZones: ['z'], forNodes: ['n'] }],
    algorithm: 'maglev',
    affinity: { clientIP: true },
    internalTrafficPolicy: 'Local',
    externalTrafficPolicy: 'Local',
    topology: 'prefer-same-zone',
    onNoBackends: 'drop',
    onBackendRemoved: { resetAfterSeconds: 5 },
    labels: { a: 'b' },
  };

  it.each<[string, unknown]>([
    ['the same', full],
    ['defaults written out', { ...full, affinity: { clientIP: true, timeoutSeconds: 10800 } }],
    ['what is undefined', { ...full, address: undefined, nonsense: undefined }],
    ['the shorthand for the first frontend', { ...full, address: '10.96.0.1', port: 80, frontends: [full.frontends![1]] }],
    [
      'the normal form of another spelling',
      { ...full, labels: { a: 'b' }, frontends: [{ ...full.frontends![0], protocol: 'tcp' }, full.frontends![1]] },
    ],
  ])('takes for unchanged %s', async (_, again) => {
    const { lb } = await openStub();
    await lb.apply([full]);
    expect(await lb.apply([untyped(again)])).toMatchObject({ unchanged: 1, updated: 0 });
    expect(await lb.apply([lb.service('full')!.spec])).toMatchObject({ unchanged: 1, updated: 0 });
  });

  it.each(Object.keys(full).filter((key) => key !== 'name'))('notices when %s is left out, and when it comes back', async (key) => {
    const { lb } = await openStub();
    await lb.apply([full]);
    const { [key as 'labels']: _, ...without } = full;
    const less = key === 'frontends' ? { ...without, address: '10.96.0.1', port: 80 } : without;
    expect(await lb.apply([less as ServiceSpec])).toMatchObject({ updated: 1 });
    expect(await lb.apply([full])).toMatchObject({ updated: 1 });
  });

  it('takes upper-case addresses for what they are', async () => {
    const { lb, native } = await openStub();
    const desired = [named('a', { address: 'FD00::1', backends: [{ address: 'FD00::2', port: 1 }] })];
    await lb.apply(desired);
    expect(await lb.apply(desired)).toMatchObject({ unchanged: 1 });
    expect(native.commits).toHaveLength(1);
  });

  it('lets a frontend move, and two services change places', async () => {
    const { lb } = await openStub();
    await lb.apply([named('a'), named('b', { port: 81 })]);
    expect(await lb.apply([named('a', { port: 81 }), named('b')])).toMatchObject({ updated: 2 });
    expect(await lb.apply([named('c')])).toMatchObject({ added: 1, removed: 2 });
    expect(thrownBy(() => lb.addService(named('d'))).message).toContain("belongs to service 'c'");
  });

  it('refuses one frontend for two services, in the final state alone', async () => {
    const { lb, native } = await openStub();
    const error = await rejectionOf(lb.apply([named('a'), named('b')]));
    expect(error.code).toBe('ERR_FRONTEND_IN_USE');
    expect(error.message).toContain("apply b: the frontend 10.96.0.1 port 80 tcp belongs to service 'a'; ");
    await lb.apply([named('a')], { owner: 'one' });
    expect((await rejectionOf(lb.apply([named('b')], { owner: 'two' }))).code).toBe('ERR_FRONTEND_IN_USE');
    expect((await rejectionOf(lb.apply([named('b')], { owner: 'one', prune: false }))).code).toBe('ERR_FRONTEND_IN_USE');
    expect(native.commits).toHaveLength(1);
  });

  it('refuses a name twice, whether it is new or not', async () => {
    const { lb } = await openStub();
    const twice = [named('a'), named('a')];
    const error = await rejectionOf(lb.apply(twice));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path: '[1].name' });
    expect(error.message).toBe('apply a: name is there a second time in the list; give each service once');
    await lb.apply([named('a')]);
    expect((await rejectionOf(lb.apply(twice))).path).toBe('[1].name');
  });

  it('names the service and the place in the list of what is wrong', async () => {
    const { lb, native } = await openStub();
    const desired = many(3);
    desired[2]!.backends![0]!.port = 70000;
    const error = await rejectionOf(lb.apply(desired));
    expect(error.message).toBe('apply s2: backends[0].port must be 1 to 65535, got 70000');
    expect(error.path).toBe('[2].backends[0].port');
    expect((await rejectionOf(lb.apply([untyped(null)]))).message).toBe('apply: [0] must be an object, got null');
    expect((await rejectionOf(lb.apply([untyped({ name: 7 })]))).message).toBe('apply: [0].name must be a string, got 7');
    expect((await rejectionOf(lb.apply(untyped('all')))).message).toBe('apply: desired must be an array, got "all"');
    expect(native.commits).toEqual([]);
  });

  it('writes nothing when one of many is wrong', async () => {
    const { lb, native } = await openStub();
    await lb.apply(many(2));
    const error = await rejectionOf(lb.apply([...many(200, 81), untyped({ name: 'x' })]));
    expect(error.path).toBe('[200].frontends');
    expect(native.commits).toHaveLength(1);
    expect(lb.service('s0')!.spec.backends[0]!.port).toBe(80);
  });
});

describe('owners', () => {
  it('prune their own services alone', async () => {
    const { lb } = await openStub();
    lb.addService(WEB);
    await lb.apply(
      many(2).map((spec) => ({ ...spec, port: 81 })),
      { owner: 'kubernetes' },
    );
    expect(lb.service('s0')!.owner).toBe('kubernetes');
    expect(await lb.apply([], { owner: 'kubernetes' })).toMatchObject({ removed: 2 });
    expect(lb.services().map(({ name }) => name)).toEqual(['default/web']);
    expect(await lb.apply([])).toMatchObject({ removed: 1 });
  });

  it('do not touch what belongs to others', async () => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    const error = await rejectionOf(lb.apply([WEB], { owner: 'kubernetes' }));
    expect(error.code).toBe('ERR_NOT_OWNER');
    expect(error.message).toBe(
      "apply default/web: it belongs to owner 'default', not 'kubernetes'; give the service another name, or apply with that owner",
    );
    expect(native.commits).toHaveLength(1);
  });

  it('keep what is not in the list with prune: false', async () => {
    const { lb } = await openStub();
    await lb.apply(many(3));
    expect(await lb.apply([named('x', { port: 99 })], { prune: false })).toEqual({ added: 1, updated: 0, removed: 0, unchanged: 0 });
    expect(lb.services()).toHaveLength(4);
  });
});

describe('options of apply', () => {
  it('maxRemovals stops a mistake', async () => {
    const { lb, native } = await openStub();
    await lb.apply(many(5));
    const error = await rejectionOf(lb.apply([], { maxRemovals: 4 }));
    expect(error).toMatchObject({ code: 'ERR_TOO_MANY_REMOVALS', details: { removals: 5, maxRemovals: 4 } });
    expect(error.message).toContain('5 services would be removed, and maxRemovals is 4; ');
    expect(native.commits).toHaveLength(1);
    expect(await lb.apply([], { maxRemovals: 5 })).toMatchObject({ removed: 5 });
  });

  it('a signal that is aborted rejects with its reason, and nothing is written', async () => {
    const { lb, native } = await openStub();
    const reason = new Error('stop');
    await expect(lb.apply([WEB], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(native.commits).toEqual([]);
  });

  it.each([
    [{ owner: '' }, 'owner'],
    [{ prune: 1 }, 'prune'],
    [{ maxRemovals: -1 }, 'maxRemovals'],
    [{ signal: {} }, 'signal'],
    [{ dryRun: true }, 'dryRun'],
    ['kubernetes', 'options'],
  ])('%j is refused', async (options, path) => {
    const { lb } = await openStub();
    expect(await rejectionOf(lb.apply([], untyped(options)))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path });
  });
});

describe('an apply on the worker thread', () => {
  const large = many(100);

  it('is what large ones are', async () => {
    const { lb, native } = await openStub();
    await lb.apply(large);
    await lb.apply([...large.slice(1), named('x', { port: 99 })]);
    expect(native.calls.filter((call) => call.startsWith('commit'))).toEqual(['commitAsync', 'commit']);
  });

  it('is waited for by a change that comes meanwhile', async () => {
    const { lb, native } = await openStub();
    native.holdsWorker = true;
    const applying = lb.apply(large);
    lb.setBackends('s5', [{ address: '10.0.0.9', port: 9 }]);
    expect(native.calls.slice(-3)).toEqual(['commitAsync', 'wait', 'commit']);
    native.release();
    expect(await applying).toMatchObject({ added: 100 });
    expect(lb.service('s5')!.spec.backends).toMatchObject([{ port: 9 }]);
    expect(native.pins.services.get('s5')!.backends[1]).toBe(9);
  });

  it('is waited for by a read, and by another apply', async () => {
    const { lb, native } = await openStub();
    native.holdsWorker = true;
    const first = lb.apply(large);
    expect(lb.services()).toHaveLength(100);
    const handle = lb.service('s1')!;
    const second = lb.apply(many(100, 81));
    expect(handle.spec.backends[0]!.port).toBe(81);
    const third = lb.apply([]);
    native.release();
    expect(await Promise.all([first, second, third])).toMatchObject([{ added: 100 }, { updated: 100 }, { removed: 100 }]);
    expect(lb.services()).toEqual([]);
    expect(native.commits).toHaveLength(3);
  });

  it('that fails leaves everything as it was, for those who wait too', async () => {
    const { lb, native } = await openStub();
    await lb.apply(many(3));
    native.holdsWorker = true;
    native.failNext = nativeFailure('ERR_CAPACITY', 'too many; open with more');
    const applying = lb.apply(large.map((spec) => ({ ...spec, port: 99 })));
    const error = rejectionOf(applying);
    lb.addService(named('late', { port: 98 }));
    expect(lb.services().map(({ name }) => name)).toEqual(['s0', 's1', 's2', 'late']);
    expect(lb.service('s0')!.spec.frontends[0]!.port).toBe(80);
    native.release();
    expect(await error).toMatchObject({ code: 'ERR_CAPACITY', message: 'apply: too many; open with more' });
    expect(lb.services()).toHaveLength(4);
  });

  it('tells each change of a backend once', async () => {
    const { lb, native } = await openStub();
    await lb.apply(large);
    let told = 0;
    lb.on('backend', () => told++);
    native.holdsWorker = true;
    const applying = lb.apply(large.map((spec) => ({ ...spec, backends: [{ ...spec.backends![0]!, state: 'terminating' as const }] })));
    lb.services();
    expect(told).toBe(100);
    native.release();
    await applying;
    lb.services();
    expect(told).toBe(100);
  });

  it('reads the desired state during the call', async () => {
    const { lb, native } = await openStub();
    native.holdsWorker = true;
    const desired = many(100);
    const applying = lb.apply(desired);
    desired[0]!.backends![0]!.port = 99;
    native.release();
    await applying;
    expect(lb.service('s0')!.spec.backends[0]!.port).toBe(80);
  });

  it('is waited for by close', async () => {
    const { lb, native } = await openStub();
    native.holdsWorker = true;
    const applying = lb.apply(large);
    const closing = lb.close();
    expect(native.calls.at(-1)).toBe('wait');
    native.release();
    expect(await applying).toMatchObject({ added: 100 });
    await closing;
  });
});

describe('plan', () => {
  it('says what apply would do, and changes nothing', async () => {
    const { lb, native } = await openStub();
    await lb.apply(many(3));
    const desired = [many(3)[0]!, { ...many(3)[1]!, algorithm: 'maglev' as const, labels: { a: 'b' } }, named('new', { port: 99 })];
    const plan = await lb.plan(desired, { maxRemovals: 0 });
    expect(plan.changes).toEqual([
      { action: 'update', service: 's1', fields: ['algorithm', 'labels'], movedShare: 0.25 },
      { action: 'add', service: 'new', fields: expect.arrayContaining(['frontends', 'backends', 'algorithm']), movedShare: 0 },
      { action: 'remove', service: 's2', fields: [], movedShare: 1 },
    ]);
    expect(plan.needs).toEqual({ frontends: 3, backends: 2, cells: 24, connections: 0, affinities: 0 });
    expect(plan.fits).toBe(true);
    expect(native.commits).toHaveLength(1);
    expect(lb.services()).toHaveLength(3);
    expect(await lb.apply(desired)).toEqual({ added: 1, updated: 1, removed: 1, unchanged: 1 });
  });

  it('says when it does not fit', async () => {
    const { lb, native } = await openStub();
    native.have.cells = 23;
    expect((await lb.plan(many(3))).fits).toBe(false);
    expect((await lb.plan(many(2))).fits).toBe(true);
  });

  it('fails as apply would', async () => {
    const { lb } = await openStub();
    expect((await rejectionOf(lb.plan([named('a'), named('b')]))).message).toMatch(/^plan b: the frontend/);
    lb.addService(WEB);
    expect((await rejectionOf(lb.plan([WEB], { owner: 'x' }))).code).toBe('ERR_NOT_OWNER');
    expect((await rejectionOf(lb.plan(untyped({})))).operation).toBe('plan');
  });
});
