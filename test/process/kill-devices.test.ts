import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LoadBalancer } from 'ebpf-lb';
import { Lab } from 'ebpf-lb/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile } from '../support/compile.js';
import { full, slow, until } from '../support/fixture.js';
import { pinDirectory, removePins } from '../support/pins.js';

const script = fileURLToPath(new URL('../support/device-script.mjs', import.meta.url));
const stopAddon = fileURLToPath(new URL('../../build/Release/ebpf_lb_stop.node', import.meta.url));
const program = compile('hooks');
const hasTcx = LoadBalancer.probe().features['tcx']?.support === 'supported';
const devices = ['d0', 'd1', 'cni0'];
const everything = ['tc cni* attached', 'tc d0 attached', 'xdp d1 attached'];

let lab: Lab;
let before: string;
let neighbour: ChildProcess | undefined;
beforeAll(async () => {
  lab = await Lab.create({ namespaces: ['lb'] });
  const batch = [
    ...devices.flatMap((name) => [`ip link add ${name} type veth peer name ${name}p`, `ip link set ${name} up`, `ip link set ${name}p up`]),
    'for f in /proc/sys/net/ipv[46]/conf/*/forwarding; do echo 1 > $f; done',
    // Those of others, which stay.
    'tc qdisc add dev d0 clsact',
    'tc filter add dev d0 ingress prio 7 protocol ip u32 match ip protocol 17 0xff flowid 1:1',
    'tc filter add dev d0 egress bpf da bytecode "1,6 0 0 4294967295"',
    'tc qdisc add dev cni0 clsact',
  ];
  await lab.run('lb', ['sh', '-ec', batch.join('\n')]);
  if (hasTcx) {
    neighbour = lab.spawn('lb', [program, 'hold', 'tcx', 'd0']);
    await once(neighbour.stdout!, 'data');
  }
  before = await state();
  expect(before).toMatch(/u32/);
});
afterAll(async () => {
  neighbour?.stdin?.end();
  await lab?.close();
});

/** Everything that hangs on the devices, and is reserved. */
async function state(): Promise<string> {
  const each = (device: string) =>
    [
      `echo == ${device}`,
      `tc qdisc show dev ${device}`,
      `tc filter show dev ${device} ingress`,
      `tc filter show dev ${device} egress`,
      `ip -d link show ${device} | grep -o "xdp.*" || true`,
      ...(hasTcx ? [`${program} list ${device}`] : []),
    ].join('\n');
  return lab.run('lb', ['sh', '-ec', devices.map(each).join('\n')]);
}
/**
 * Between the clsact qdisc and its first filter, and between the last filter and the qdisc, a process without pins leaves no word that an empty qdisc is its own:
 * one that dies there leaves it, which does nothing (README, limits). Only at d1, where nobody else has one.
 */
async function removeEmptyQdisc(): Promise<void> {
  const part = (await state()).split('== ').find((text) => text.startsWith('d1\n')) ?? '';
  if (part.includes('clsact') && !part.includes('filter')) await lab.run('lb', ['tc', 'qdisc', 'del', 'dev', 'd1', 'clsact']);
}
/** Our programs at tc of a device, as tc or hooks.c lists them. */
const ours = async (device: string): Promise<string[]> => {
  const part = (await state()).split('== ').find((text) => text.startsWith(`${device}\n`)) ?? '';
  return [...part.matchAll(/"(lb_tc_\w+)"|(lb_tc_(?:in|e)gress)\w*:\[/g)].map(([, listed, filter]) => listed ?? filter ?? '').sort();
};
/** Filters and programs of others. */
const others = (text: string): string[] => text.match(/.*(u32|bytecode|match 00).*|"other"/g) ?? [];

async function words(child: ChildProcess): Promise<string> {
  let text = '';
  child.stdout?.on('data', (chunk) => (text += chunk));
  await once(child, 'close');
  return text;
}

const ways = [...(hasTcx ? [{ way: 'tcx', env: {} }] : []), { way: 'clsact', env: hasTcx ? { EBPF_LB_NO_TCX: '1' } : {} }];

describe.each(ways)('$way', ({ env }) => {
  const start = (mode: 'run' | 'check', pinPath: string, more: Record<string, string> = {}) =>
    spawn(process.execPath, [script, mode, pinPath, lab.netns('lb')], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...env, EBPF_LB_ADDON: stopAddon, ...more },
    });

  /** What the next process finds, and that it can do everything. */
  async function goesOn(pinPath: string, when: string): Promise<void> {
    const child = start('check', pinPath);
    let said = '';
    child.stdout.on('data', (chunk) => (said += chunk));
    const closed = once(child, 'close');
    await Promise.race([closed, until(`the next process says what it found, ${when}`, () => said.endsWith('\n'), 60_000)]);
    try {
      expect(said, `${when}, the next process`).not.toBe('');
      await check(JSON.parse(said) as Record<string, unknown>, when);
    } finally {
      child.stdin.end('go\n');
      await closed;
    }
    expect(child.exitCode, when).toBe(0);
  }
  async function check(found: Record<string, unknown>, when: string): Promise<void> {
    expect(found['problems'], when).toEqual([]);
    for (const one of found['attachments'] as string[]) expect(one, when).toMatch(/ attached$/);
    expect(found['problemsAfter'], when).toEqual([]);
    expect([...(found['attachmentsAfter'] as string[])].sort(), when).toEqual(everything);
    for (const device of ['d0', 'cni0']) {
      expect(await ours(device), when).toEqual(['lb_tc_egress', 'lb_tc_ingress']);
    }
  }

  const kill = async (
    pinPath: string,
    stop: (child: ChildProcess) => Promise<unknown> | undefined,
    more: Record<string, string>,
    when: string,
  ) => {
    const child = start('run', pinPath, more);
    const all = words(child);
    await stop(child);
    const text = await all;
    const ended = text.includes('end');
    if (!ended) expect(child.signalCode, when).toBe('SIGKILL');
    expect(others(await state()), when).toEqual(others(before));
    return ended;
  };

  test.each(['pinned', 'unpinned'])(
    '[2.7] a death after each single write, %s: what others have there stays, the next process goes on, and nothing is left in the end',
    { timeout: 7_200_000 },
    async (kind) => {
      const stride = full ? 1 : 61;
      for (let write = 1, ended = false; !ended; write += stride) {
        const pinPath = kind === 'pinned' ? pinDirectory() : '-';
        try {
          ended = await kill(pinPath, () => undefined, { EBPF_LB_STOP_AFTER: String(write) }, `write ${write}`);
          if (pinPath === '-' && env.EBPF_LB_NO_TCX === undefined && hasTcx)
            await until('links go with the process', async () => (await state()) === before);
          await goesOn(pinPath, `after write ${write}`);
          if (pinPath === '-') await removeEmptyQdisc();
          expect(await state(), `after write ${write}`).toBe(before);
          expect(existsSync(pinPath), `after write ${write}`).toBe(false);
        } finally {
          removePins(pinPath);
        }
      }
    },
  );

  test.each(['pinned', 'unpinned'])('[2.7] SIGKILL at any moment, %s', { timeout: 7_200_000 }, async (kind) => {
    for (let i = 0; i < (full ? 100 : 4); i++) {
      const pinPath = kind === 'pinned' ? pinDirectory() : '-';
      const afterMs = Math.random() * 1500 * slow; // the moment is what is drawn
      try {
        const stop = async (child: ChildProcess) => {
          await once(child.stdout!, 'data');
          await new Promise((resolve) => setTimeout(resolve, afterMs));
          child.kill('SIGKILL');
        };
        await kill(pinPath, stop, {}, `after ${afterMs} ms`);
        await goesOn(pinPath, `after ${afterMs} ms`);
        if (pinPath === '-') await removeEmptyQdisc();
        expect(await state(), `after ${afterMs} ms`).toBe(before);
      } finally {
        removePins(pinPath);
      }
    }
  });
});
