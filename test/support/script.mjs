// A fixed sequence of changes, for the test build that ends itself after a given write. Each step is announced once it is committed.
import { LoadBalancer } from 'ebpf-lb';

const [pinPath, cgroup] = process.argv.slice(2);
const backend = (n) => ({ address: `10.1.0.${n}`, port: 8080 });
const six = (n) => ({ address: `fd01::${n}`, port: 8080 });

/** What the services must be after each step: steps[i] brings state i + 1; state 0 is empty. */
export const steps = [
  (lb) => lb.addService({ name: 'one', address: '10.96.0.1', port: 80, backends: [backend(1), backend(2)] }),
  (lb) => lb.setBackends('one', [backend(2), backend(3), backend(4)]),
  (lb) =>
    lb.addService({
      name: 'dual',
      algorithm: 'maglev',
      frontends: [
        { kind: 'cluster', address: '10.96.0.2', port: 80 },
        { kind: 'cluster', address: 'fd00:96::2', port: 80, protocol: 'udp' },
        { kind: 'nodePort', address: '192.0.2.1', port: 30080 },
      ],
      backends: [backend(5), six(5)],
    }),
  (lb) => lb.setNode({ name: 'n1', addresses: ['192.0.2.1'] }),
  (lb) =>
    lb.apply([
      { name: 'one', address: '10.96.0.2', port: 80, backends: [backend(2)] },
      { name: 'dual', address: '10.96.0.1', port: 80, backends: [backend(6), { ...backend(7), state: 'terminating' }] },
      ...Array.from({ length: 20 }, (_, i) => ({ name: `many-${i}`, address: `10.98.0.${i}`, port: 80, backends: [backend(i + 1)] })),
    ]),
  (lb) => lb.setBackends('dual', [{ ...backend(6), state: 'maintenance' }, backend(7)]),
  (lb) => lb.apply([{ name: 'dual', address: '10.96.0.1', port: 80, affinity: { clientIP: true }, backends: [backend(6)] }]),
  (lb) => lb.removeService('dual'),
];

export const stateOf = (lb) =>
  JSON.stringify(
    lb
      .services()
      .map((s) => s.spec)
      .sort((x, y) => (x.name < y.name ? -1 : 1)),
  );

if (cgroup !== undefined) {
  const lb = await LoadBalancer.open({ pinPath, lockTimeoutMs: 10_000 });
  await lb.attachCgroup(cgroup);
  for (const [i, step] of steps.entries()) {
    await step(lb);
    process.stdout.write(`${i + 1}\n`);
  }
  await lb.close();
  process.stdout.write('end\n');
}
