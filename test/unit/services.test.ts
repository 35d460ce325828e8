import { describe, expect, it, vi } from 'vitest';
import type { BackendChange, BackendSpec, Service, ServiceChange } from '../../lib/index.js';
import { openStub, thrownBy, untyped, WEB } from './open-stub.js';
import { nativeFailure } from './stub-native.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

const backends = (...ports: number[]): BackendSpec[] => ports.map((port) => ({ address: '10.0.0.1', port }));

describe('addService', () => {
  it('commits once and gives the one object of the service', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService(WEB);
    expect(native.commits).toHaveLength(1);
    expect([service.name, service.owner]).toEqual(['default/web', 'default']);
    expect(lb.service('default/web')).toBe(service);
    expect(lb.services()).toEqual([service]);
    expect(lb.service('other')).toBeUndefined();
  });

  it('refuses a name that is taken', async () => {
    const { lb } = await openStub();
    lb.addService(WEB);
    const error = thrownBy(() => lb.addService({ ...WEB, address: '10.96.0.2' }));
    expect(error.code).toBe('ERR_SERVICE_EXISTS');
    expect(error.message).toBe('addService default/web: there is a service of this name; change it with updateService or apply');
  });

  it('refuses a frontend that is taken, of whatever kind', async () => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    const error = thrownBy(() => lb.addService({ name: 'b', frontends: [{ kind: 'external', address: '10.96.0.1', port: 80 }] }));
    expect(error.code).toBe('ERR_FRONTEND_IN_USE');
    expect(error.message).toContain("addService b: the frontend 10.96.0.1 port 80 tcp belongs to service 'default/web'; ");
    expect(native.commits).toHaveLength(1);
    lb.addService({ name: 'udp', address: '10.96.0.1', port: 80, protocol: 'udp' });
    lb.addService({ name: 'port', address: '10.96.0.1', port: 81 });
  });

  it('changes nothing when the commit fails', async () => {
    const { lb, native } = await openStub();
    native.failNext = nativeFailure('ERR_CAPACITY', 'it needs 9 cells and there are 8; open with a larger capacity.cells', {
      details: { need: 9, have: 8, option: 'capacity.cells' },
    });
    const error = thrownBy(() => lb.addService(WEB));
    expect(error).toMatchObject({ code: 'ERR_CAPACITY', operation: 'addService', details: { need: 9, have: 8, option: 'capacity.cells' } });
    expect(error.message).toBe('addService default/web: it needs 9 cells and there are 8; open with a larger capacity.cells');
    expect(lb.services()).toEqual([]);
    lb.addService(WEB);
  });
});

describe('setBackends', () => {
  it('replaces them, by name or by handle', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService(WEB);
    const before = service.spec;
    lb.setBackends('default/web', backends(1));
    lb.setBackends(service, backends(1, 2));
    service.setBackends(backends(3));
    expect(native.commits.slice(1).map(({ put }) => put[0]!.backends.filter((_, i) => i % 4 === 1))).toEqual([[1], [1, 2], [3]]);
    expect(service.spec).toStrictEqual({ ...before, backends: [{ address: '10.0.0.1', port: 3, weight: 1, state: 'active' }] });
    expect(JSON.parse(native.commits.at(-1)!.put[0]!.record).backends).toEqual(backends(3));
  });

  it('writes nothing when they are the same, however they are spelled', async () => {
    const { lb, native } = await openStub();
    lb.addService({ ...WEB, backends: [{ address: 'fd00::a', port: 1, weight: 2, zone: 'z', forZones: ['z'] }] });
    lb.setBackends('default/web', [{ zone: 'z', forZones: ['z'], address: 'fd00::a', port: 1, weight: 2, state: 'active' }]);
    expect(native.commits).toHaveLength(1);
  });

  it.each<[string, Partial<BackendSpec>]>([
    ['weight', { weight: 2 }],
    ['state', { state: 'maintenance' }],
    ['node', { node: 'n' }],
    ['zone', { zone: 'z' }],
    ['forZones', { forZones: ['z'] }],
    ['forNodes', { forNodes: ['n'] }],
  ])('notices a change of %s, to and fro', async (_, change) => {
    const { lb, native } = await openStub();
    lb.addService({ ...WEB, backends: backends(1) });
    lb.setBackends('default/web', [{ ...backends(1)[0]!, ...change }]);
    expect(native.commits).toHaveLength(2);
    expect(lb.service('default/web')!.spec.backends[0]).toMatchObject(change);
    lb.setBackends('default/web', backends(1));
    expect(native.commits).toHaveLength(3);
    expect(lb.service('default/web')!.spec.backends).toEqual([{ ...backends(1)[0], weight: 1, state: 'active' }]);
  });

  it('notices a spec that was changed in place', async () => {
    const { lb } = await openStub();
    const mine = backends(1, 2);
    const service = lb.addService({ ...WEB, backends: mine });
    mine[1]!.weight = 9;
    lb.setBackends(service, mine);
    expect(service.spec.backends[1]!.weight).toBe(9);
  });

  it('fails when there is no such service', async () => {
    const { lb } = await openStub();
    const error = thrownBy(() => lb.setBackends('nope', []));
    expect(error.code).toBe('ERR_SERVICE_NOT_FOUND');
    expect(error.message).toBe('setBackends nope: there is no such service, or no longer; add it with addService or apply');
    expect(thrownBy(() => lb.setBackends(untyped({ name: 'web' }), [])).code).toBe('ERR_INVALID_ARGUMENT');
  });

  it('changes nothing when the commit fails', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService(WEB);
    native.failNext = nativeFailure('ERR_KERNEL', 'Cannot allocate memory', { errno: 12 });
    const error = thrownBy(() => service.setBackends(backends(1)));
    expect(error).toMatchObject({ code: 'ERR_KERNEL', errno: -12, errnoName: 'ENOMEM' });
    expect(error.message).toBe('setBackends default/web: ENOMEM, Cannot allocate memory');
    expect(service.spec.backends).toHaveLength(3);
  });
});

describe('updateService', () => {
  it('changes what is said and keeps the rest', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService({ ...WEB, labels: { a: '1' }, topology: 'prefer-same-zone' });
    expect(lb.updateService(service, { algorithm: 'round-robin', labels: { b: '2' } })).toBe(service);
    expect(service.spec).toMatchObject({ algorithm: 'round-robin', labels: { b: '2' }, topology: 'prefer-same-zone' });
    expect(service.spec.backends).toHaveLength(3);
    expect(native.commits[1]!.put[0]!.algorithm).toBe(1);
  });

  it('restores defaults for null, ignores undefined', async () => {
    const { lb } = await openStub();
    const service = lb.addService({ ...WEB, algorithm: 'maglev', affinity: { clientIP: true }, labels: { a: '1' }, onNoBackends: 'drop' });
    service.update(untyped<ServiceChange>({ algorithm: null, affinity: null, labels: null, backends: null, onNoBackends: undefined }));
    expect(service.spec).toMatchObject({ algorithm: 'random', backends: [], onNoBackends: 'drop' });
    expect(service.spec).not.toHaveProperty('affinity');
    expect(service.spec).not.toHaveProperty('labels');
  });

  it('changes the one cluster frontend by the shorthand', async () => {
    const { lb } = await openStub();
    const service = lb.addService({ ...WEB, protocol: 'udp', frontends: [{ kind: 'external', address: '192.0.2.1', port: 80 }] });
    service.update({ port: 81 });
    expect(service.spec.frontends.map(({ address, port, protocol }) => [address, port, protocol])).toEqual([
      ['10.96.0.1', 81, 'udp'],
      ['192.0.2.1', 80, 'tcp'],
    ]);
    service.update({ address: '10.96.0.7', protocol: null });
    expect(service.spec.frontends[0]).toEqual({ kind: 'cluster', address: '10.96.0.7', port: 81, protocol: 'tcp' });
    expect(thrownBy(() => service.update({ address: null })).path).toBe('address');
  });

  it('refuses the shorthand where it is not clear what it means', async () => {
    const { lb } = await openStub();
    const service = lb.addService({ name: 'a', frontends: [{ kind: 'external', address: '192.0.2.1', port: 80 }] });
    const error = thrownBy(() => service.update({ port: 81 }));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path: 'port' });
    expect(error.message).toContain("the service has 0; change 'frontends' instead");
  });

  it('replaces all frontends by frontends', async () => {
    const { lb } = await openStub();
    const service = lb.addService(WEB);
    service.update({ frontends: [{ kind: 'external', address: '192.0.2.1', port: 80 }], address: '10.96.0.8', port: 8 });
    expect(service.spec.frontends.map(({ address }) => address)).toEqual(['10.96.0.8', '192.0.2.1']);
    lb.addService({ ...WEB, name: 'other' });
    expect(thrownBy(() => service.update({ frontends: null })).path).toBe('frontends');
  });

  it.each([
    [{ name: 'x' }, 'name'],
    [{ nonsense: 1 }, 'nonsense'],
    [{ nonsense: undefined }, 'nonsense'],
    [{ backends: [{ address: '10.0.0.1', port: 0 }] }, 'backends[0].port'],
  ])('refuses %j', async (change, path) => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    expect(thrownBy(() => lb.updateService('default/web', untyped(change)))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', path });
    expect(native.commits).toHaveLength(1);
  });

  it('writes nothing when nothing changes', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService(WEB);
    service.update({});
    service.update({ algorithm: 'random', backends: WEB.backends! });
    expect(native.commits).toHaveLength(1);
  });

  it('takes frontends of no other service, and frees its own', async () => {
    const { lb } = await openStub();
    const a = lb.addService(WEB);
    const b = lb.addService({ ...WEB, name: 'b', address: '10.96.0.2' });
    expect(thrownBy(() => b.update({ address: '10.96.0.1' })).code).toBe('ERR_FRONTEND_IN_USE');
    a.update({ address: '10.96.0.3' });
    b.update({ address: '10.96.0.1' });
    expect(b.spec.frontends[0]!.address).toBe('10.96.0.1');
  });
});

describe('removeService', () => {
  it('removes once', async () => {
    const { lb, native } = await openStub();
    lb.addService(WEB);
    expect(lb.removeService('default/web')).toBe(true);
    expect(native.commits.at(-1)).toEqual({ put: [], remove: ['default/web'] });
    expect(lb.removeService('default/web')).toBe(false);
    expect(native.commits).toHaveLength(2);
    expect(lb.services()).toEqual([]);
  });

  it('leaves a handle that finds nothing, even when the name is back', async () => {
    const { lb } = await openStub();
    const old = lb.addService(WEB);
    const spec = old.spec;
    expect(old.remove()).toBe(true);
    const service = lb.addService(WEB);
    expect(service).not.toBe(old);
    expect(old.remove()).toBe(false);
    expect(lb.removeService(old)).toBe(false);
    for (const use of [() => old.setBackends([]), () => old.update({}), () => old.stats(), () => lb.updateService(old, {})]) {
      expect(thrownBy(use).code).toBe('ERR_SERVICE_NOT_FOUND');
    }
    expect([old.name, old.owner, old.spec]).toEqual(['default/web', 'default', spec]);
    expect(lb.services()).toEqual([service]);
  });

  it('frees its frontends', async () => {
    const { lb } = await openStub();
    lb.addService(WEB).remove();
    lb.addService({ ...WEB, name: 'other' });
  });

  it('refuses a service of another balancer', async () => {
    const { lb } = await openStub();
    const other = await openStub();
    const service: Service = other.lb.addService(WEB);
    lb.addService(WEB);
    expect(thrownBy(() => lb.removeService(service)).code).toBe('ERR_INVALID_ARGUMENT');
  });
});

describe("the event 'backend'", () => {
  it('tells changes of state, whoever made them', async () => {
    const { lb } = await openStub();
    const told: BackendChange[] = [];
    const service = lb.addService({ ...WEB, backends: backends(1, 2) });
    lb.on('backend', (change) => told.push(change));
    service.setBackends([
      { address: '10.0.0.1', port: 2 },
      { address: '10.0.0.1', port: 1, state: 'quarantined' },
    ]);
    service.update({ backends: [{ address: '10.0.0.1', port: 1, state: 'maintenance' }] });
    await lb.apply([{ ...WEB, backends: backends(1, 2) }]);
    const backend = { address: '10.0.0.1', port: 1 };
    expect(told).toEqual([
      { service: 'default/web', backend, from: 'active', to: 'quarantined', why: 'setBackends' },
      { service: 'default/web', backend, from: 'quarantined', to: 'maintenance', why: 'updateService' },
      { service: 'default/web', backend, from: 'maintenance', to: 'active', why: 'apply' },
    ]);
  });

  it('comes after the change, and may make another', async () => {
    const { lb } = await openStub();
    const service = lb.addService({ ...WEB, backends: backends(1) });
    lb.once('backend', () => {
      expect(service.spec.backends[0]!.state).toBe('quarantined');
      service.setBackends(backends(1));
    });
    service.setBackends([{ address: '10.0.0.1', port: 1, state: 'quarantined' }]);
    expect(service.spec.backends[0]!.state).toBe('active');
  });

  it('does not come when the change failed', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService({ ...WEB, backends: backends(1) });
    let count = 0;
    lb.on('backend', () => count++);
    native.failNext = nativeFailure('ERR_KERNEL', 'no');
    expect(thrownBy(() => service.setBackends([{ address: '10.0.0.1', port: 1, state: 'quarantined' }])).code).toBe('ERR_KERNEL');
    expect(count).toBe(0);
  });
});
