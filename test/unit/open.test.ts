import { describe, expect, it, vi } from 'vitest';
import { LoadBalancer, type LoadBalancerError } from '../../lib/index.js';
import { openStub, rejectionOf, thrownBy, untyped, WEB } from './open-stub.js';
import { useAddon } from './stub-loader.js';
import { StubModule } from './stub-native.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

const pinPath = '/sys/fs/bpf/t';

describe('open', () => {
  it('has defaults', async () => {
    const { native } = await openStub();
    expect(native.options).toStrictEqual({
      readonly: false,
      capacity: { frontends: 65536, backends: 65536, cells: 524288, connections: 65536, affinities: 65536 },
      lockTimeoutMs: 0,
    });
  });

  it('passes on what is said', async () => {
    const { native } = await openStub({ pinPath, netns: '/run/netns/a', capacity: { cells: 134217728, backends: 1 }, lockTimeoutMs: 7 });
    expect(native.options).toMatchObject({
      pinPath,
      netns: '/run/netns/a',
      lockTimeoutMs: 7,
      capacity: { frontends: 65536, backends: 1, cells: 134217728 },
    });
  });

  it.each([
    [{ pinpath: '/x' }, 'pinpath', 'is not a known key'],
    [{ flowIdleSeconds: { sctp: 5 } }, 'flowIdleSeconds.sctp', 'is not a known key'],
    [{ flowIdleSeconds: { udp: 0 } }, 'flowIdleSeconds.udp', 'must be 1 to 2592000, got 0'],
    [{ flowIdleSeconds: {}, readonly: true, pinPath: '/x' }, 'flowIdleSeconds', 'is for the one writer'],
    [{ pinPath: 'bpf' }, 'pinPath', 'must be an absolute path, got "bpf"'],
    [{ netns: 4 }, 'netns', 'must be an absolute path, got 4'],
    [{ readonly: 'yes' }, 'readonly', 'must be true or false'],
    [{ readonly: true }, 'readonly', 'needs pinPath'],
    [{ readonly: true, pinPath, node: { name: 'n', addresses: [] } }, 'node', 'is for the one writer'],
    [{ capacity: { frontends: 1048576 } }, 'capacity.frontends', 'must be 1 to 1048575, got 1048576'],
    [{ capacity: { cells: 134217729 } }, 'capacity.cells', 'must be 1 to 134217728'],
    [{ capacity: { cell: 1 } }, 'capacity.cell', 'is not a known key'],
    [{ lockTimeoutMs: -1 }, 'lockTimeoutMs', 'must be 0 to 2147483647'],
    [{ signal: true }, 'signal', 'must be an AbortSignal'],
    ['/sys/fs/bpf/t', undefined, 'open: options must be an object'],
  ])('refuses %j', async (options, path, text) => {
    const module = new StubModule();
    useAddon(module);
    const error = await rejectionOf(LoadBalancer.open(untyped(options)));
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', operation: 'open' });
    expect(error.path ?? undefined).toBe(path ?? error.path);
    expect(error.message).toContain(text);
    expect(module.opens).toBe(0);
  });

  it('says why it cannot where there is no addon; the rest of the package can be used', async () => {
    useAddon(undefined);
    const error = await rejectionOf(LoadBalancer.open());
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', operation: 'open', details: { feature: 'addon' } });
    expect(error.message).toBe('open: there is no addon; build it');
    expect(LoadBalancer.probe()).toMatchObject({ usable: false, missing: ['there is no addon; build it'], features: {} });
  });

  it('names what is locked, and by whom', async () => {
    const { module } = await openStub({ pinPath });
    const error = await rejectionOf(openStub({ pinPath }, module));
    expect(error).toMatchObject({ code: 'ERR_LOCKED', details: { pid: 42 } });
    expect(error.message).toBe('open /sys/fs/bpf/t: process 42 has it open; close that one');
  });

  it('waits for another writer', async () => {
    const { lb, module } = await openStub({ pinPath });
    const second = openStub({ pinPath, lockTimeoutMs: 10_000, signal: new AbortController().signal }, module);
    await lb.close();
    expect((await second).lb.services()).toEqual([]);
  });

  it('gives up waiting when its signal says so, and leaves nothing open', async () => {
    const { lb, module } = await openStub({ pinPath });
    const stop = new AbortController();
    const second = LoadBalancer.open({ pinPath, lockTimeoutMs: 60_000, signal: stop.signal });
    const reason = new Error('stop');
    stop.abort(reason);
    await expect(second).rejects.toBe(reason);
    await expect(LoadBalancer.open({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await lb.close();
    await openStub({ pinPath }, module);
  });

  it('is ERR_LOCKED when the time is over, with a signal too', async () => {
    const { module } = await openStub({ pinPath });
    const options = { pinPath, lockTimeoutMs: 250, signal: new AbortController().signal };
    expect((await rejectionOf(openStub(options, module))).code).toBe('ERR_LOCKED');
  });
});

describe('opening again', () => {
  it('finds the services as they were, owners and all', async () => {
    const first = await openStub({ pinPath });
    first.lb.addService({ ...WEB, affinity: { clientIP: true }, labels: { a: 'b' } });
    await first.lb.apply([{ name: 'k', address: 'fd00::1', port: 1, backends: [{ address: 'fd00::2', port: 2, forZones: ['z'] }] }], {
      owner: 'kubernetes',
    });
    const before = JSON.stringify(first.lb.services());
    await first.lb.close();
    const { lb, native } = await openStub({ pinPath }, first.module);
    expect(JSON.stringify(lb.services())).toBe(before);
    expect(await lb.apply([{ ...WEB, affinity: { clientIP: true }, labels: { a: 'b' } }])).toMatchObject({ unchanged: 1 });
    expect(thrownBy(() => lb.addService({ name: 'x', address: 'fd00::1', port: 1 })).code).toBe('ERR_FRONTEND_IN_USE');
    expect(native.commits).toEqual([]);
  });

  it.each([
    '{"name":"default/web"',
    '{"name":"default/web","frontends":[{"kind":"new","port":1}]}',
    '{"name":"other","address":"10.0.0.1","port":1}',
  ])('fails rather than lose a record that it cannot read: %s', async (record) => {
    const first = await openStub({ pinPath });
    first.lb.addService(WEB);
    await first.lb.close();
    first.native.pins.services.get('default/web')!.record = record;
    const error = await rejectionOf(LoadBalancer.open({ pinPath }));
    expect(error.code).toBe('ERR_LAYOUT');
    expect(error.message).toContain("open: the stored record of service 'default/web' cannot be read (");
    expect(first.module.last.closed).toEqual({ detach: false });
  });

  it('fails for settings that it cannot read, keeps what it does not know', async () => {
    const first = await openStub({ pinPath });
    await first.lb.close();
    first.native.pins.settings = '[]';
    expect((await rejectionOf(LoadBalancer.open({ pinPath }))).message).toContain('open: the stored settings cannot be read');
    first.native.pins.settings = '{"dsr":{"dispatch":"ipip"}}';
    await openStub({ pinPath, node: { name: 'n', addresses: [] } }, first.module);
    expect(JSON.parse(first.native.pins.settings)).toEqual({ dsr: { dispatch: 'ipip' }, node: { name: 'n', addresses: [] } });
  });
});

describe('an observer', () => {
  it('sees what the writer does, and changes nothing', async () => {
    const writer = await openStub({ pinPath });
    const service = writer.lb.addService(WEB);
    const { lb, native } = await openStub({ pinPath, readonly: true }, writer.module);
    const seen = lb.service('default/web')!;
    expect(seen.spec).toEqual(service.spec);
    service.setBackends([{ address: '10.0.0.9', port: 9 }]);
    expect(seen.spec.backends).toMatchObject([{ address: '10.0.0.9' }]);
    expect(lb.service('default/web')).toBe(seen);
    writer.lb.addService({ name: 'b', address: '10.96.0.2', port: 1 });
    expect(lb.services().map(({ name }) => name)).toEqual(['default/web', 'b']);
    service.remove();
    expect(lb.service('default/web')).toBeUndefined();
    expect(thrownBy(() => seen.stats()).code).toBe('ERR_SERVICE_NOT_FOUND');
    expect(native.commits).toEqual([]);
  });

  it('reads the maps only when there was a commit', async () => {
    const writer = await openStub({ pinPath });
    const { lb, native } = await openStub({ pinPath, readonly: true }, writer.module);
    lb.services();
    lb.services();
    expect(native.calls.filter((call) => call === 'snapshot')).toHaveLength(1);
    writer.lb.addService(WEB);
    lb.services();
    lb.services();
    expect(native.calls.filter((call) => call === 'snapshot')).toHaveLength(2);
  });

  it('follows a service that was replaced by one of another owner', async () => {
    const writer = await openStub({ pinPath });
    writer.lb.addService(WEB);
    const { lb } = await openStub({ pinPath, readonly: true }, writer.module);
    const seen = lb.service('default/web')!;
    writer.lb.removeService('default/web');
    await writer.lb.apply([WEB], { owner: 'other' });
    expect(lb.service('default/web')!.owner).toBe('other');
    expect(lb.service('default/web')).not.toBe(seen);
  });

  it('keeps the last good state when a newer writer is not understood, and reports it once', async () => {
    const writer = await openStub({ pinPath });
    writer.lb.addService(WEB);
    const { lb } = await openStub({ pinPath, readonly: true }, writer.module);
    const errors: LoadBalancerError[] = [];
    lb.on('error', (error) => errors.push(error));
    writer.native.pins.services.get('default/web')!.record = '{"new":true}';
    writer.native.pins.number++;
    expect(lb.services()).toHaveLength(1);
    expect(lb.services()).toHaveLength(1);
    expect(errors.map(({ code }) => code)).toEqual(['ERR_LAYOUT']);
  });

  it.each<[string, (lb: LoadBalancer) => unknown]>([
    ['addService', (lb) => lb.addService({ ...WEB, name: 'x' })],
    ['updateService', (lb) => lb.updateService('default/web', {})],
    ['setBackends', (lb) => lb.setBackends('default/web', WEB.backends!)],
    ['removeService', (lb) => lb.removeService('default/web')],
    ['setNode', (lb) => lb.setNode({ name: 'n', addresses: [] })],
    ['apply', (lb) => lb.apply([])],
    ['attachCgroup', (lb) => lb.attachCgroup('/sys/fs/cgroup/a')],
    ['close', (lb) => lb.close({ detach: true })],
  ])('may not %s', async (operation, change) => {
    const writer = await openStub({ pinPath });
    writer.lb.addService(WEB);
    const { lb } = await openStub({ pinPath, readonly: true }, writer.module);
    const error = await rejectionOf((async () => change(lb))());
    expect(error).toMatchObject({ code: 'ERR_READONLY', operation });
    expect(error.message).toContain('open without readonly');
  });
});

describe('close', () => {
  it('ends everything, once', async () => {
    const { lb, native } = await openStub();
    const service = lb.addService(WEB);
    const first = lb.close({ detach: true });
    await Promise.all([first, lb.close(), lb[Symbol.asyncDispose]()]);
    expect(native.closed).toEqual({ detach: true });
    const uses: [string, () => unknown][] = [
      ['addService', () => lb.addService(WEB)],
      ['setBackends', () => service.setBackends([])],
      ['services', () => lb.services()],
      ['service', () => lb.service('a')],
      ['apply', () => lb.apply([])],
      ['plan', () => lb.plan([])],
      ['settled', () => lb.settled()],
      ['attachCgroup', () => lb.attachCgroup()],
      ['attachments', () => lb.attachments()],
      ['explain', () => lb.explain(untyped({}))],
      ['stats', () => lb.stats()],
      ['affinities', () => lb.affinities()],
      ['verify', () => lb.verify()],
    ];
    for (const [operation, use] of uses) {
      const error = await rejectionOf((async () => use())());
      expect(error, operation).toMatchObject({ code: 'ERR_CLOSED', operation });
    }
    expect(() => lb.status()).toThrow('closed');
    expect(service.spec.name).toBe('default/web');
  });

  it('leaves what is pinned unless told otherwise', async () => {
    const { lb, native } = await openStub({ pinPath });
    await lb.close({});
    expect(native.closed).toEqual({ detach: false });
  });

  it('checks its options', async () => {
    const { lb, native } = await openStub();
    expect((await rejectionOf(lb.close(untyped({ detatch: true })))).path).toBe('detatch');
    expect((await rejectionOf(lb.close(untyped({ detach: 1 })))).path).toBe('detach');
    expect(native.closed).toBeUndefined();
  });

  it('is what `await using` does', async () => {
    const { lb, native } = await openStub();
    await lb[Symbol.asyncDispose]();
    expect(native.closed).toEqual({ detach: false });
  });
});

describe('probe', () => {
  it('passes on what the addon says', () => {
    useAddon(new StubModule());
    expect(LoadBalancer.probe()).toEqual({ kernel: '6.18.0', usable: true, missing: [], features: {} });
  });

  it('does not throw when the addon does', () => {
    const module = new StubModule();
    module.probe = () => {
      throw new Error('broken');
    };
    useAddon(module);
    expect(LoadBalancer.probe()).toMatchObject({ usable: false, missing: ['broken'] });
  });
});
