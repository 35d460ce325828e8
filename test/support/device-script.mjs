// What a controller does with devices, for tests that end it at any point:  device-script.mjs run|check PIN|- NETNS
// `run` is a fixed sequence of changes; each is announced once it is done. `check` is the process that comes after: it says as JSON what it
// finds, attaches everything again, and takes it all away.
import { LoadBalancer } from 'ebpf-lb';

const [mode, pinPath, netns] = process.argv.slice(2);
const node = { name: 'n1', addresses: ['192.0.2.1', '2001:db8:1::1'], podCIDRs: ['10.244.0.0/24', 'fd44::/64'] };
const local = { address: '10.244.0.2', port: 8080 };
const remote = (n) => ({ address: `10.1.0.${n}`, port: 8080 });
const six = { address: 'fd01::11', port: 8080 };
const service = {
  name: 'web',
  frontends: [
    { kind: 'external', address: '203.0.113.10', port: 80 },
    { kind: 'loadBalancer', address: '2001:db8:5::10', port: 80, protocol: 'udp' },
    { kind: 'nodePort', port: 30080 },
  ],
  sourceRanges: ['198.51.100.0/24', '2001:db8:99::/64'],
  backends: [local, remote(11), six],
};

const steps = [
  (lb) => lb.addService(service),
  (lb) => lb.attachTc('d0', { role: 'external' }),
  (lb) => lb.attachTc('cni*', { role: 'workload' }),
  (lb) => lb.attachXdp('d1', { mode: 'generic' }),
  (lb) => lb.enableDSR({ dispatch: 'geneve', peers: ['192.0.2.0/24', '2001:db8:1::/64'] }),
  (lb) => lb.attachTc('d0', { role: 'workload' }),
  (lb) => lb.attachXdp('d1', { mode: 'native' }),
  (lb) => lb.enableMasquerade({ podCIDRs: ['10.244.0.0/24'], exclude: ['10.0.0.0/8'] }),
  (lb) => lb.setBackends('web', [remote(12), six]),
  (lb) => lb.attachTc('d0', { role: 'external' }),
  (lb) =>
    lb
      .attachments()
      .find(({ target }) => target === 'd1')
      ?.detach(),
  (lb) => lb.attachXdp('d1'),
];

const options = { netns, node, lockTimeoutMs: 10_000, ...(pinPath === '-' ? {} : { pinPath }) };
const lb = await LoadBalancer.open(options);
if (mode === 'run') {
  for (const [i, step] of steps.entries()) {
    await step(lb);
    process.stdout.write(`${i + 1}\n`);
  }
  await lb.close({ detach: pinPath !== '-' });
  process.stdout.write('end\n');
} else {
  const found = {
    problems: (await lb.verify()).problems,
    attachments: lb.attachments().map(({ kind, target, state }) => `${kind} ${target} ${state}`),
    services: lb.services().map(({ name }) => name),
  };
  await lb.attachTc('d0', { role: 'external' });
  await lb.attachTc('cni*', { role: 'workload' });
  await lb.attachXdp('d1', { mode: 'native' });
  found.problemsAfter = (await lb.verify()).problems;
  found.attachmentsAfter = lb.attachments().map(({ kind, target, state }) => `${kind} ${target} ${state}`);
  process.stdout.write(`${JSON.stringify(found)}\n`);
  // The test looks at the hooks meanwhile.
  await new Promise((resolve) => process.stdin.once('data', resolve));
  await lb.close({ detach: pinPath !== '-' });
  process.stdin.destroy();
}
