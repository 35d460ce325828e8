import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { type Attachment, LoadBalancer, LoadBalancerError, type LoadBalancerErrorCode } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { compile } from '../support/compile.js';
import { until } from '../support/fixture.js';
import { pinDirectory, removePins } from '../support/pins.js';

const hasTcx = LoadBalancer.probe().features['tcx']?.support === 'supported';
const program = compile('hooks');
const OURS = { ingress: ['lb_tc_ingress'], egress: ['lb_tc_egress'] };
const NONE = { ingress: [], egress: [] };

let lab: Lab;
let netns: string;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['lb', 'peer'] });
  netns = lab.netns('lb');
});
afterAll(() => lab?.close());

const opened: LoadBalancer[] = [];
async function open(options: Parameters<typeof LoadBalancer.open>[0] = {}): Promise<LoadBalancer> {
  const lb = await LoadBalancer.open({ netns, ...options });
  opened.push(lb);
  return lb;
}
const held: ChildProcess[] = [];
afterEach(async () => {
  for (const lb of opened.splice(0)) await lb.close();
  for (const child of held.splice(0)) await release(child);
  await lab.run('lb', ['sh', '-c', 'for d in d0 d1 cni0 cni1 cni2; do ip link del $d 2>/dev/null; done; true']);
});

const ip = (...words: string[]) => lab.run('lb', ['ip', ...words]);
const addDevice = (name: string) => ip('link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`);

/** Names of the programs at a device's hooks. */
async function hooks(device: string): Promise<{ ingress: string[]; egress: string[] }> {
  if (hasTcx) return JSON.parse(await lab.run('lb', [program, 'list', device])) as { ingress: string[]; egress: string[] };
  const found = { ingress: [] as string[], egress: [] as string[] };
  for (const way of ['ingress', 'egress'] as const) {
    for (const [, name] of (await lab.run('lb', ['tc', 'filter', 'show', 'dev', device, way])).matchAll(/ (lb_tc_(?:in|e)gress)\w*:\[/g))
      found[way].push(name!);
  }
  return found;
}

async function hold(...words: string[]): Promise<ChildProcess> {
  const child = lab.spawn('lb', [program, 'hold', ...words]);
  held.push(child);
  child.stderr?.pipe(process.stderr);
  const [said] = (await once(child.stdout!, 'data')) as [Buffer];
  expect(String(said)).toBe('held\n');
  return child;
}
async function release(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.stdin?.end();
  await once(child, 'exit');
}

async function thrown(code: LoadBalancerErrorCode, what: () => unknown): Promise<LoadBalancerError> {
  let error: unknown;
  try {
    await what();
  } catch (reason) {
    error = reason;
  }
  if (!(error instanceof LoadBalancerError)) throw new Error(`expected ${code}, got ${String(error)}`);
  expect(error.code).toBe(code);
  return error;
}

const shape = ({ kind, target, mode, state }: Attachment) => ({ kind, target, mode, state });

describe('attachTc', () => {
  test('puts both programs on the device, and detach takes them away', async () => {
    const lb = await open();
    await addDevice('d0');
    const attachment = await lb.attachTc('d0', { role: 'external' });
    expect(shape(attachment)).toEqual({ kind: 'tc', target: 'd0', mode: hasTcx ? 'tcx' : 'clsact', state: 'attached' });
    expect(await hooks('d0')).toEqual(OURS);
    expect(lb.status().maps.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['connections', 'owners', 'replies', 'ranges4', 'node']),
    );
    expect((await lb.verify()).problems).toEqual([]);
    await attachment.detach();
    expect(await hooks('d0')).toEqual(NONE);
    expect(lb.attachments()).toEqual([]);
  });

  test('again is the same attachment, with other options', async () => {
    const lb = await open();
    await addDevice('d0');
    const first = await lb.attachTc('d0', { role: 'external' });
    expect(await lb.attachTc('d0', { role: 'workload' })).toBe(first);
    expect(await lb.attachTc('d0', { role: 'workload', netns })).toBe(first);
    expect(await hooks('d0')).toEqual(OURS);
  });

  test.skipIf(!hasTcx)(
    'goes behind the programs that are there (needs tcx, kernel 6.6), and leaves those that come later where they are',
    async () => {
      const lb = await open();
      await addDevice('d0');
      await hold('tcx', 'd0');
      const attachment = await lb.attachTc('d0', { role: 'external' });
      await hold('tcx', 'd0');
      expect(await hooks('d0')).toEqual({ ingress: ['other', 'lb_tc_ingress', 'other'], egress: ['other', 'lb_tc_egress', 'other'] });
      await attachment.detach();
      expect(await hooks('d0')).toEqual({ ingress: ['other', 'other'], egress: ['other', 'other'] });
    },
  );

  test('leaves the tc filters of others as they are', async () => {
    const lb = await open();
    await addDevice('d0');
    const filters = () =>
      lab.run('lb', ['sh', '-c', 'tc -s filter show dev d0 ingress; tc filter show dev d0 egress; tc qdisc show dev d0']);
    await lab.run('lb', [
      'sh',
      '-ec',
      'tc qdisc add dev d0 clsact; tc filter add dev d0 ingress prio 7 protocol ip u32 match ip protocol 17 0xff flowid 1:1; tc filter add dev d0 egress bpf da bytecode "1,6 0 0 4294967295"',
    ]);
    const before = await filters();
    const attachment = await lb.attachTc('d0', { role: 'external' });
    await attachment.detach();
    expect(await filters()).toBe(before);
    await lb.attachTc('d0', { role: 'workload' });
    await lb.close();
    expect(await filters()).toBe(before);
  });

  test('ERR_NOT_FOUND for a device or a namespace that is not there, and nothing is left', async () => {
    const lb = await open();
    const missing = await thrown('ERR_NOT_FOUND', () => lb.attachTc('nowhere0', { role: 'external' }));
    expect(missing.message).toMatch(/^attachTc nowhere0: there is no such device .*ip link/);
    await thrown('ERR_NOT_FOUND', () => lb.attachTc('d0', { role: 'external', netns: '/run/netns/no-such' }));
    expect(lb.attachments()).toEqual([]);
  });
});

describe('a device that comes and goes', () => {
  test('is waited for, and attached again when it returns', async () => {
    const lb = await open();
    await addDevice('d0');
    const attachment = await lb.attachTc('d0', { role: 'external' });
    await ip('link', 'del', 'd0');
    await until('it waits', () => lb.attachments()[0]?.state === 'waiting');
    await addDevice('d0');
    await until('it is attached', () => lb.attachments()[0]?.state === 'attached');
    expect(lb.attachments()).toEqual([attachment]);
    expect(await hooks('d0')).toEqual(OURS);
    expect(lb.status().problems).toEqual([]);
  });

  test('is attached when its name matches a pattern, and let go when it is renamed', async () => {
    const lb = await open();
    const attachment = await lb.attachTc('cni*', { role: 'workload' });
    expect(attachment.state).toBe('waiting');
    await addDevice('cni0');
    await ip('link', 'add', 'd1', 'type', 'veth', 'peer', 'name', 'cni1');
    await until('both are attached', async () => (await hooks('cni0')).ingress.length > 0 && (await hooks('cni1')).egress.length > 0);
    expect(await hooks('d1')).toEqual(NONE);
    expect(lb.attachments().map(shape)).toEqual([{ kind: 'tc', target: 'cni*', mode: hasTcx ? 'tcx' : 'clsact', state: 'attached' }]);
    await ip('link', 'set', 'cni1', 'name', 'd0');
    await until('the renamed one is let go', async () => (await hooks('d0')).ingress.length === 0);
    expect(await hooks('cni0')).toEqual(OURS);
    await attachment.detach();
    expect(await hooks('cni0')).toEqual(NONE);
    await addDevice('cni2');
    expect(await hooks('cni2')).toEqual(NONE);
  });
});

describe('attachXdp', () => {
  test.each(['native', 'generic'] as const)('mode %s brings the tc programs along', async (mode) => {
    const lb = await open();
    await addDevice('d0');
    const attachment = await lb.attachXdp('d0', { mode });
    expect(shape(attachment)).toEqual({ kind: 'xdp', target: 'd0', mode, state: 'attached' });
    expect(await hooks('d0')).toEqual(OURS);
    const shown = await ip('-d', 'link', 'show', 'd0');
    expect(shown).toMatch(mode === 'native' ? /prog\/xdp id/ : /xdpgeneric/);
    expect((await lb.verify()).problems).toEqual([]);
    await attachment.detach();
    expect(await ip('-d', 'link', 'show', 'd0')).not.toMatch(/xdp/);
    expect(await hooks('d0')).toEqual(NONE);
  });

  test("mode 'auto' says which it took, and a mode can be changed", async () => {
    const lb = await open();
    await addDevice('d0');
    const attachment = await lb.attachXdp('d0');
    expect(attachment.mode).toBe('native');
    expect(await lb.attachXdp('d0', { mode: 'generic' })).toBe(attachment);
    expect(attachment.mode).toBe('generic');
    expect(await ip('-d', 'link', 'show', 'd0')).toMatch(/xdpgeneric/);
    await ip('link', 'add', 'd1', 'type', 'bridge');
    expect((await lb.attachXdp('d1')).mode).toBe('generic');
  });

  test('ERR_UNSUPPORTED where the driver has no native XDP, with the remedy, and nothing is left', async () => {
    const lb = await open();
    await ip('link', 'add', 'd1', 'type', 'bridge');
    const error = await thrown('ERR_UNSUPPORTED', () => lb.attachXdp('d1', { mode: 'native' }));
    expect(error).toMatchObject({ operation: 'attachXdp', errno: -95, errnoName: 'EOPNOTSUPP' });
    expect(error.message).toBe("attachXdp d1: EOPNOTSUPP, Operation not supported; the driver has no native XDP; use mode 'generic'");
    expect(await hooks('d1')).toEqual(NONE);
    expect(lb.attachments()).toEqual([]);
  });

  test('ERR_HOOK_BUSY where another XDP program is, which stays', async () => {
    const lb = await open();
    await addDevice('d0');
    await hold('xdp', 'd0');
    const before = await ip('-d', 'link', 'show', 'd0');
    for (const mode of ['native', 'generic', 'auto'] as const) {
      const error = await thrown('ERR_HOOK_BUSY', () => lb.attachXdp('d0', { mode }));
      expect(error.message).toMatch(/another XDP program/);
    }
    expect(await ip('-d', 'link', 'show', 'd0')).toBe(before);
    expect(await hooks('d0')).toEqual(NONE);
  });
});

describe('pinned', () => {
  test('hooks go on without a process, and the next one takes them over', async () => {
    const pinPath = pinDirectory();
    try {
      const first = await open({ pinPath });
      await addDevice('d0');
      await addDevice('cni0');
      await first.attachXdp('d0', { mode: 'generic' });
      await first.attachTc('cni*', { role: 'workload' });
      await first.close();
      expect(await hooks('d0')).toEqual(OURS);
      expect(await hooks('cni0')).toEqual(OURS);
      const observer = await open({ pinPath, readonly: true });
      const all = [
        { kind: 'xdp', target: 'd0', mode: 'generic', state: 'attached' },
        { kind: 'tc', target: 'cni*', mode: hasTcx ? 'tcx' : 'clsact', state: 'attached' },
      ];
      expect(observer.attachments().map(shape)).toEqual(all);
      // What came and went while nobody was there.
      await ip('link', 'del', 'cni0');
      await addDevice('cni1');
      const second = await open({ pinPath });
      expect(second.attachments().map(shape)).toEqual(all);
      expect(await hooks('d0')).toEqual(OURS);
      expect(await hooks('cni1')).toEqual(OURS);
      expect((await second.verify()).problems).toEqual([]);
      await second.close({ detach: true });
      expect(await hooks('d0')).toEqual(NONE);
      expect(await hooks('cni1')).toEqual(NONE);
      expect(await ip('-d', 'link', 'show', 'd0')).not.toMatch(/xdp/);
    } finally {
      removePins(pinPath);
    }
  });
});
