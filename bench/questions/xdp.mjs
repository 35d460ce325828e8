// What does a packet cost in the driver? Nanoseconds above a program that does nothing, in the same harness (probe/packets.bpf.c).
import { LoadBalancer } from 'ebpf-lb';
import { run as runCommand } from '../support/process.mjs';
import { buildObject, startProbe } from '../support/probe.mjs';
import { median } from '../support/statistics.mjs';

export const title = 'XDP: nanoseconds for each packet above an empty program';

const rounds = 15;
const repeat = 200_000;
const first = 0x0a600000;
const [ack, syn] = [0x10, 0x02];
const device = 'p0';
const backendAddress = (i) => `198.18.${i >> 8}.${i & 255}`;
const serviceAddress = (i) => `10.96.${i >> 8}.${i & 255}`;

/** A device whose neighbour is known, and a way to the backends by it. */
const commands = [
  ['ip', 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'p1'],
  ['ip', 'address', 'add', '192.0.2.1/24', 'dev', device],
  ['ip', 'link', 'set', device, 'up'],
  ['ip', 'link', 'set', 'p1', 'up'],
  ['ip', 'neigh', 'add', '192.0.2.254', 'lladdr', '02:00:00:00:00:fe', 'dev', device, 'nud', 'permanent'],
  ['ip', 'route', 'add', '198.18.0.0/15', 'via', '192.0.2.254'],
  ['sysctl', '-qw', 'net.ipv4.conf.all.forwarding=1'],
];

const services = (count, options) =>
  Array.from({ length: count }, (_, i) => ({
    name: `bench/s${i}:http`,
    frontends: [{ kind: 'external', address: serviceAddress(i), port: 80, protocol: 'tcp' }],
    backends: [0, 1, 2].map((b) => ({ address: backendAddress((i * 3 + b) % 60_000), port: 80 })),
    algorithm: 'maglev',
    ...options,
  }));

/** Figures of one balancer: rows of [name, services, flow mask, first address, flags]. */
async function measure(figures, kind, count, rows, setUp) {
  const lb = await LoadBalancer.open({
    node: { name: 'bench', addresses: ['192.0.2.1'] },
    capacity: { connections: 262_144, cells: count * 4096 + 65_536 },
  });
  try {
    await setUp(lb);
    await lb.apply(services(count));
    await lb.attachXdp(device, { mode: 'generic' });
    const [link] = JSON.parse(runCommand('ip', ['-j', '-d', 'link', 'show', device]));
    const probe = startProbe('packets', { args: [buildObject('packets'), String(link.xdp.prog.id), String(link.ifindex)] });
    const floor = kind === 'dsr' ? 'grows' : 'nothing';
    for (const [name, services, mask, address, flags, plain] of rows) {
      const ask = (what) => probe.ask(`run ${what} ${services} ${mask} ${address} ${flags} ${repeat}`);
      const above = [];
      // All flows are there before what they cost is measured.
      for (let i = 0; i < (mask ? 4 : 1); i++) await ask('program');
      for (let round = 0; round < rounds; round++) {
        const nothing = await ask(plain ? 'nothing' : floor);
        const { ns, verdict } = await ask('program');
        if (verdict === 0) throw new Error(`${kind} ${name}: the program aborted`);
        figures[`${kind}.${name}.verdict`] = verdict;
        above.push(ns - nothing.ns);
      }
      figures[`${kind}.${name}.ns`] = median(above);
    }
    await probe.end();
  } finally {
    await lb.close({ detach: true });
  }
}

export async function run({ log }) {
  const figures = {};
  for (const [command, ...args] of commands) runCommand(command, args);
  const rows = (count) => [
    ['one', 1, 0, first, ack],
    ...(count > 1
      ? [
          ['1k', count, 0x3ff, first, ack],
          ['64k', count, 0xffff, first, ack],
        ]
      : []),
    ['none', 1, 0, 0x0a700000, ack, true],
    ['syn', 1, 0, first, syn],
  ];
  for (const [kind, setUp] of [
    ['snat', async () => {}],
    ['dsr', (lb) => lb.enableDSR()],
  ]) {
    log(`${kind}, 1 service`);
    await measure(figures, kind, 1, rows(1), setUp);
    log(`${kind}, 1,000 services`);
    await measure(figures, `${kind}`, 1_000, rows(1_000).slice(1, 3), setUp);
  }
  return { figures, notes: [] };
}
