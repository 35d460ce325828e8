import { describe, expect, it, vi } from 'vitest';
import type { Attachment } from '../../lib/index.js';
import { openStub, rejectionOf, untyped } from './open-stub.js';

vi.mock('../../lib/native/loader.js', () => import('./stub-loader.js'));

describe('attachCgroup', () => {
  it('goes to the root of the hierarchy, for all namespaces, unless told otherwise', async () => {
    const { lb, native } = await openStub();
    const attachment = await lb.attachCgroup();
    expect(JSON.parse(JSON.stringify(attachment))).toEqual({
      id: 1,
      kind: 'cgroup',
      target: '/sys/fs/cgroup',
      mode: 'multi',
      state: 'attached',
    });
    expect(native.pins.attachments.get(1)).toMatchObject({ netns: [], options: '{"namespaces":"all"}' });
  });

  it.each<[string, Parameters<typeof openStub>[0] extends never ? never : unknown[], string, string[]]>([
    ['a path', ['/sys/fs/cgroup/a'], '/sys/fs/cgroup/a', []],
    ['a path and options', ['/sys/fs/cgroup/a', { namespaces: 'host' }], '/sys/fs/cgroup/a', ['']],
    ['options', [{ path: '/sys/fs/cgroup/a', namespaces: ['/run/netns/b'] }], '/sys/fs/cgroup/a', ['/run/netns/b']],
    ['options without a path', [{ namespaces: 'all' }], '/sys/fs/cgroup', []],
    ['undefined and options', [undefined, { namespaces: 'host' }], '/sys/fs/cgroup', ['']],
  ])('takes %s', async (_, args, target, netns) => {
    const { lb, native } = await openStub();
    const attachment = await lb.attachCgroup(...untyped<[string]>(args));
    expect(attachment.target).toBe(target);
    expect(native.pins.attachments.get(attachment.id)!.netns).toEqual(netns);
  });

  it.each<[unknown[], string]>([
    [['a'], 'attachCgroup a: path must be an absolute path, got "a"'],
    [['/a', null], 'attachCgroup /a: the argument must be an object, got null'],
    [[5], 'attachCgroup: path must be an absolute path, got 5'],
    [[{ cgroup: '/a' }], 'attachCgroup: cgroup is not a known key; leave it out, or use one of path, namespaces'],
    [['/a', { path: '/b' }], 'attachCgroup /a: path is not a known key'],
    [[{ path: '/a' }, {}], 'attachCgroup: options are given twice'],
    [['/a', { namespaces: 'pods' }], "namespaces must be 'all', 'host' or an array of paths, got \"pods\""],
    [['/a', { namespaces: [] }], "namespaces is empty; leave it out for 'all', or name at least one namespace"],
    [['/a', { namespaces: ['b'] }], 'namespaces[0] must be an absolute path, got "b"'],
  ])('refuses %j', async (args, text) => {
    const { lb, native } = await openStub();
    const error = await rejectionOf(lb.attachCgroup(...untyped<[string]>(args)));
    expect(error.code).toBe('ERR_INVALID_ARGUMENT');
    expect(error.message).toContain(text);
    expect(native.pins.attachments.size).toBe(0);
  });

  it('names the path when it fails', async () => {
    const { lb } = await openStub();
    const error = await rejectionOf(lb.attachCgroup('/sys/fs/cgroup/missing'));
    expect(error).toMatchObject({ code: 'ERR_NOT_FOUND', errno: -2, errnoName: 'ENOENT' });
    expect(error.message).toBe('attachCgroup /sys/fs/cgroup/missing: ENOENT, there is no such cgroup; make it first');
  });

  it('gives the attachment that is there, options updated', async () => {
    const { lb, native } = await openStub();
    const told: Attachment[] = [];
    lb.on('attachment', (attachment) => told.push(attachment));
    const first = await lb.attachCgroup('/sys/fs/cgroup/a');
    expect(await lb.attachCgroup('/sys/fs/cgroup/a', { namespaces: 'host' })).toBe(first);
    expect(native.pins.attachments.get(first.id)!.netns).toEqual(['']);
    expect(lb.attachments()).toEqual([first]);
    expect(told).toEqual([first]);
  });

  it('finds what an earlier process attached', async () => {
    const pinPath = '/sys/fs/bpf/t';
    const before = await openStub({ pinPath });
    await before.lb.attachCgroup('/sys/fs/cgroup/a');
    await before.lb.close();
    const { lb } = await openStub({ pinPath }, before.module);
    const [found] = lb.attachments();
    expect(found!.target).toBe('/sys/fs/cgroup/a');
    expect(await lb.attachCgroup('/sys/fs/cgroup/a')).toBe(found);
  });
});

describe('an attachment', () => {
  it('is detached once', async () => {
    const { lb, native } = await openStub();
    const attachment = await lb.attachCgroup();
    const told: string[] = [];
    lb.on('attachment', ({ state }) => told.push(state));
    await Promise.all([attachment.detach(), attachment.detach()]);
    await attachment[Symbol.asyncDispose]();
    expect(native.calls.filter((call) => call === 'detach 1')).toHaveLength(1);
    expect(attachment.state).toBe('lost');
    expect(lb.attachments()).toEqual([]);
    expect(told).toEqual(['lost']);
  });

  it('can be detached again after it failed', async () => {
    const { lb, native } = await openStub();
    const attachment = await lb.attachCgroup();
    const { detach } = native;
    native.detach = async () => {
      throw { code: 'ERR_KERNEL', operation: 'detach', message: 'busy; try again', errno: 16 };
    };
    const error = await rejectionOf(attachment.detach());
    expect(error.message).toBe('detach /sys/fs/cgroup: EBUSY, busy; try again');
    native.detach = detach;
    await attachment.detach();
    expect(lb.attachments()).toEqual([]);
  });

  it('shows its state of now, and tells when that has changed', async () => {
    const { lb, native } = await openStub();
    const attachment = await lb.attachCgroup();
    const told: string[] = [];
    lb.on('attachment', ({ state }) => told.push(state));
    native.pins.attachments.set(1, { ...native.pins.attachments.get(1)!, state: 'lost' });
    expect(lb.attachments()[0]).toBe(attachment);
    lb.attachments();
    expect(attachment.state).toBe('lost');
    expect(told).toEqual(['lost']);
  });

  it('is gone when the balancer is closed, and disposing of it then is no failure', async () => {
    const { lb } = await openStub();
    const attachment = await lb.attachCgroup();
    await lb.close();
    expect(attachment.state).toBe('lost');
    await attachment[Symbol.asyncDispose]();
  });
});
