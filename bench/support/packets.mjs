// What a packet costs one of the packet programs: nanoseconds above a program that does nothing, in the same harness (probe/packets.bpf.c).
import { LoadBalancer } from 'ebpf-lb';
import { buildObject, startProbe } from './probe.mjs';
import { run as runCommand } from './process.mjs';
import { median } from './statistics.mjs';

const rounds = 15;
const [ack, syn] = [0x10, 0x02];
const first = 0x0a600000;
/** Nobody's. */
const none = 0x0a700000;
const many = 1_000;
const ipv4 = (base, i) => `${base}.${i >> 8}.${i & 255}`;

// Bridges stand for NICs that can send back by the way that a packet came (veth cannot), with a neighbour that is known; packets leave by one or the other.
const [device, other] = ['p0', 'p1'];
const commands = [device, other].flatMap((name, i) => [
  ['ip', 'link', 'add', name, 'type', 'bridge'],
  ['ip', 'address', 'add', `192.0.${2 + i}.1/24`, 'dev', name],
  ['ip', 'link', 'set', name, 'up'],
  ['ip', 'neigh', 'add', `192.0.${2 + i}.254`, 'lladdr', '02:00:00:00:00:fe', 'dev', name, 'nud', 'permanent'],
  ['ip', 'route', 'add', `${i === 0 ? '198.18' : '198.19'}.0.0/16`, 'via', `192.0.${2 + i}.254`],
]);

/** @param backends first two numbers of their addresses: which way they are */
const services = (count, backends = '198.18') =>
  Array.from({ length: count }, (_, i) => ({
    name: `bench/s${i}:http`,
    frontends: [{ kind: 'external', address: ipv4('10.96', i), port: 80, protocol: 'tcp' }],
    backends: [0, 1, 2].map((b) => ({ address: ipv4(backends, (i * 3 + b) % 60_000), port: 80 })),
    algorithm: 'maglev',
  }));

/** Rows of the figures: which flows, of which service. */
const flows = { one: 0, '1k': 0x3ff, '64k': 0xffff };
function rowsFor(count, kind) {
  const known = Object.entries(flows)
    .filter(([name]) => count === 1 || name !== 'one')
    .map(([name, mask]) => ({ name: `${name}.${count}`, count, mask, address: first, flags: ack, repeat: 200_000, warm: mask ? 4 : 1 }));
  if (count === 1)
    return [
      ...known,
      { name: 'syn', count, mask: 0, address: first, flags: syn, repeat: 200_000, warm: 1 },
      { name: 'none', count, mask: 0, address: none, flags: ack, repeat: 200_000, warm: 1, plain: true },
    ];
  // Each a flow that nobody has seen. There are ports for so many.
  const fresh = { name: 'new', count, mask: 0xffffff, address: first, flags: syn, repeat: 5_000, warm: 1 };
  return kind === 'l2' ? known : [...known, fresh];
}

async function measureRow(probe, floor, { name, count, mask, address, flags, repeat, warm, plain }, figures, kind) {
  const ask = (what) => probe.ask(`run ${what} ${count} ${mask} ${address} ${flags} ${repeat}`);
  const above = [];
  // All flows are there, and the way is known, before what they cost is measured.
  for (let i = 0; i < warm; i++) await ask('program');
  for (let round = 0; round < rounds; round++) {
    const nothing = await ask(plain ? 'nothing' : floor);
    const { ns, verdict } = await ask('program');
    if (verdict === 0 || verdict === 1 || (plain && verdict !== passes[probe.hook])) throw new Error(`${kind} ${name}: verdict ${verdict}`);
    above.push(ns - nothing.ns);
  }
  figures[`${kind}.${name}.ns`] = median(above);
  figures[`${kind}.${name}.least.ns`] = Math.min(...above);
}

/** XDP_PASS, TC_ACT_UNSPEC. */
const passes = { xdp: 2, tc: 0xffffffff };

async function withPrograms(hook, desired, setUp, use) {
  const cells = desired.length * 4_096 + 65_536;
  const lb = await LoadBalancer.open({ node: { name: 'bench', addresses: ['192.0.2.1'] }, capacity: { connections: 524_288, cells } });
  try {
    await setUp(lb);
    await lb.apply(desired);
    const words = [];
    if (hook === 'xdp') await lb.attachXdp(device, { mode: 'generic' });
    else await lb.attachTc(device, { role: 'external' });
    const [link] = JSON.parse(runCommand('ip', ['-j', '-d', 'link', 'show', device]));
    if (hook === 'xdp') words.push(String(link.xdp.prog.id));
    const probe = startProbe('packets', { args: [buildObject('packets'), hook, String(link.ifindex), ...words] });
    probe.hook = hook;
    await use(probe);
    await probe.end();
  } finally {
    await lb.close({ detach: true });
  }
}

/**
 * All rows of a hook.
 * @param kinds [name, how to set up the balancer, floor]
 */
export async function measurePackets(hook, kinds, log) {
  const figures = {};
  for (const [command, ...args] of commands) runCommand(command, args);
  runCommand('sysctl', ['-qw', 'net.ipv4.conf.all.forwarding=1']);
  for (const [kind, setUp, floor] of kinds) {
    for (const count of [1, many]) {
      log(`${kind}, ${count} service${count > 1 ? 's' : ''}`);
      await withPrograms(hook, services(count), setUp, async (probe) => {
        for (const row of rowsFor(count, kind)) await measureRow(probe, floor, row, figures, kind);
      });
    }
    log(`${kind}, by another device`);
    await withPrograms(hook, services(1, '198.19'), setUp, async (probe) => {
      const [row] = rowsFor(1, kind);
      await measureRow(probe, floor, { ...row, name: 'other.1' }, figures, kind);
    });
  }
  return figures;
}
